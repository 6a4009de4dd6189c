package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"levee/cmd/levee/control"
)

// answer is what a verb writes with -o json: an object of the type of value, or one on each line.
type answer struct {
	lines bool
	value any
}

// The two lists are written as they arrive; these are their shapes.
type (
	flowList struct {
		Flows []control.Flow `json:"flows"`
	}
	serverList struct {
		Servers []control.Learned `json:"servers"`
	}
)

// answers are by verb: every one with -o.
var answers = map[string]answer{
	"apply":       {value: applied{}},
	"check":       {value: checked{}},
	"drain":       {lines: true, value: control.Drain{}},
	"explain":     {value: control.Explanation{}},
	"flows":       {value: flowList{}},
	"flows kill":  {value: control.Killed{}},
	"flows list":  {value: flowList{}},
	"flows watch": {lines: true, value: flowEvent{}},
	"observe":     {lines: true, value: control.Observation{}},
	"plan":        {value: planned{}},
	"reload":      {value: control.Reloaded{}},
	"servers":     {value: serverList{}},
	"status":      {value: control.Status{}},
	"upgrade":     {value: upgraded{}},
	"version":     {value: build{}},
}

// sectionNames are those of types that have others in docs/json.md.
var sectionNames = map[reflect.Type]string{
	reflect.TypeFor[applied]():         "Applied",
	reflect.TypeFor[checked]():         "Check",
	reflect.TypeFor[difference]():      "Difference",
	reflect.TypeFor[flowEvent]():       "Event",
	reflect.TypeFor[flowList]():        "FlowList",
	reflect.TypeFor[planned]():         "Plan",
	reflect.TypeFor[plannedTUN]():      "PlannedTUN",
	reflect.TypeFor[serverList]():      "ServerList",
	reflect.TypeFor[control.Learned](): "Server",
	reflect.TypeFor[upgraded]():        "Upgraded",
	reflect.TypeFor[build]():           "Version",
}

func sectionName(t reflect.Type) string {
	if name, ok := sectionNames[t]; ok {
		return name
	}
	return t.Name()
}

// jsonField is one field of an object.
type jsonField struct {
	name     string
	typ      reflect.Type
	optional bool // it may be absent
}

// jsonFields are an object's, those of embedded ones among them, in the order that they are written in.
func jsonFields(t *testing.T, object reflect.Type) (fields []jsonField) {
	t.Helper()
	for i := range object.NumField() {
		f := object.Field(i)
		tag, tagged := f.Tag.Lookup("json")
		switch name, options, _ := strings.Cut(tag, ","); {
		case f.Anonymous && !tagged:
			fields = append(fields, jsonFields(t, f.Type)...)
		case !f.IsExported() || tag == "-":
		case name == "":
			t.Errorf("%v.%s is written under its name in Go", object, f.Name)
		default:
			fields = append(fields, jsonField{name, f.Type, options == "omitempty"})
		}
	}
	return fields
}

// typeText is a type's name in docs/json.md. It calls object for each object in it.
func typeText(t *testing.T, typ reflect.Type, object func(reflect.Type)) string {
	t.Helper()
	switch typ {
	case reflect.TypeFor[time.Time]():
		return "time"
	case reflect.TypeFor[netip.AddrPort]():
		return "address:port"
	case reflect.TypeFor[[]byte](): // in base64
		return "string"
	}
	switch typ.Kind() {
	case reflect.Bool:
		return "boolean"
	case reflect.String:
		return "string"
	case reflect.Float64:
		return "number"
	case reflect.Int, reflect.Int64, reflect.Uint8, reflect.Uint32, reflect.Uint64:
		return "integer"
	case reflect.Pointer:
		return typeText(t, typ.Elem(), object) + " or null"
	case reflect.Slice:
		if typ.Elem().Kind() == reflect.Struct {
			return "list of " + typeText(t, typ.Elem(), object)
		}
		return "list of " + typeText(t, typ.Elem(), object) + "s"
	case reflect.Map:
		return "object of " + typeText(t, typ.Elem(), object) + "s"
	case reflect.Struct:
		object(typ)
		name := sectionName(typ)
		return fmt.Sprintf("[%s](#%s)", name, strings.ToLower(name))
	}
	t.Errorf("no word for %v", typ)
	return ""
}

// documentedField is one row of a table in docs/json.md.
type documentedField struct{ name, typ, unit, meaning string }

// readJSONPage reads docs/json.md: the verbs, and the tables by their headings.
func readJSONPage(t *testing.T) (verbs map[string]string, sections map[string][]documentedField) {
	t.Helper()
	page, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	verbs, sections = map[string]string{}, map[string][]documentedField{}
	heading := ""
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "## "); ok {
			if _, twice := sections[name]; twice {
				t.Errorf("two sections %q", name)
			}
			heading, sections[name] = name, nil
			continue
		}
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case cells[0] == "field" || cells[0] == "verb":
		case heading == "" && len(cells) == 3:
			verbs[strings.Trim(cells[0], "`")] = cells[1] + ", " + cells[2]
		case heading != "" && len(cells) == 4:
			sections[heading] = append(sections[heading], documentedField{cells[0], cells[1], cells[2], cells[3]})
		default:
			t.Errorf("not a row of its table: %s", line)
		}
	}
	return verbs, sections
}

// Every field that is written is documented, with its type, unit and meaning, and nothing else is.
func TestJSONDocumented(t *testing.T) {
	verbs, sections := readJSONPage(t)
	wantVerbs, want := map[string]string{}, map[string][]string{}
	var add func(reflect.Type)
	add = func(object reflect.Type) {
		name := sectionName(object)
		if _, there := want[name]; there {
			return
		}
		want[name] = []string{} // it may hold itself
		for _, f := range jsonFields(t, object) {
			typ := f.typ
			if f.optional && typ.Kind() == reflect.Pointer {
				typ = typ.Elem() // it is absent, never null
			}
			text := typeText(t, typ, add)
			if f.optional {
				text += " or absent"
			}
			want[name] = append(want[name], f.name+": "+text)
		}
	}
	for verb, a := range answers {
		how := "one object"
		if a.lines {
			how = "an object on each line"
		}
		wantVerbs["levee "+verb] = how + ", " + typeText(t, reflect.TypeOf(a.value), add)
	}
	if diff := cmp.Diff(wantVerbs, verbs); diff != "" {
		t.Errorf("the verbs in docs/json.md (-program +page):\n%s", diff)
	}
	got := map[string][]string{}
	for name, rows := range sections {
		got[name] = []string{}
		for _, row := range rows {
			got[name] = append(got[name], row.name+": "+row.typ)
			number := strings.Contains(row.typ, "integer") || strings.Contains(row.typ, "number")
			switch {
			case row.meaning == "":
				t.Errorf("%s.%s has no meaning", name, row.name)
			case number != (row.unit != ""):
				t.Errorf("%s.%s: the unit of a %s is %q", name, row.name, row.typ, row.unit)
			case strings.HasSuffix(row.name, "seconds") && row.unit != "s", strings.HasSuffix(row.name, "bytes") && row.unit != "bytes":
				t.Errorf("%s.%s is in %s", name, row.name, row.unit)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the fields in docs/json.md (-program +page):\n%s", diff)
	}
}

// Every verb with -o has its answer among those that are documented.
func TestJSONVerbs(t *testing.T) {
	var with []string
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Flags().Lookup("output") != nil {
			with = append(with, strings.TrimPrefix(cmd.CommandPath(), "levee "))
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(newRoot())
	slices.Sort(with)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(answers)), with); diff != "" {
		t.Errorf("verbs with -o (-documented +there):\n%s", diff)
	}
}

// conform fails the test unless a value has every field of its type and no others.
func conform(t *testing.T, where string, typ reflect.Type, raw json.RawMessage) {
	t.Helper()
	plain := typ == reflect.TypeFor[time.Time]() || typ == reflect.TypeFor[netip.AddrPort]() || typ == reflect.TypeFor[[]byte]()
	null := string(raw) == "null"
	switch kind := typ.Kind(); {
	case kind == reflect.Pointer:
		if !null {
			conform(t, where, typ.Elem(), raw)
		}
	case null:
		t.Errorf("%s is null", where)
	case plain || kind != reflect.Struct && kind != reflect.Slice && kind != reflect.Map:
		if err := json.Unmarshal(raw, reflect.New(typ).Interface()); err != nil {
			t.Errorf("%s: %v", where, err)
		}
	case kind == reflect.Slice:
		var elements []json.RawMessage
		if err := json.Unmarshal(raw, &elements); err != nil {
			t.Errorf("%s: %v", where, err)
		}
		for i, e := range elements {
			conform(t, fmt.Sprintf("%s[%d]", where, i), typ.Elem(), e)
		}
	default:
		var members map[string]json.RawMessage
		if err := json.Unmarshal(raw, &members); err != nil {
			t.Errorf("%s: %v", where, err)
			return
		}
		if kind == reflect.Map {
			for name, m := range members {
				conform(t, where+"."+name, typ.Elem(), m)
			}
			return
		}
		for _, f := range jsonFields(t, typ) {
			m, there := members[f.name]
			switch delete(members, f.name); {
			case there:
				conform(t, where+"."+f.name, f.typ, m)
			case !f.optional:
				t.Errorf("%s lacks %s", where, f.name)
			}
		}
		for name := range members {
			t.Errorf("%s has %s, which nobody knows", where, name)
		}
	}
}

// conforms checks all that a verb has written.
func conforms(t *testing.T, verb, stdout string) {
	t.Helper()
	a, objects := answers[verb], 0
	for dec := json.NewDecoder(strings.NewReader(stdout)); dec.More(); objects++ {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			t.Fatalf("%s: %v:\n%s", verb, err, stdout)
		}
		head := regexp.MustCompile(`^\{\s*"schema":\s*1,?`)
		if !head.Match(raw) {
			t.Errorf("%s has no schema in front: %s", verb, raw)
			continue
		}
		conform(t, verb, reflect.TypeOf(a.value), head.ReplaceAll(raw, []byte("{")))
	}
	if lines := strings.Count(stdout, "\n"); objects == 0 || !a.lines && objects != 1 || a.lines && objects != lines {
		t.Errorf("%s writes %d objects on %d lines:\n%s", verb, objects, lines, stdout)
	}
}

// Every verb answers in words and in JSON about a daemon that has something to tell, and the JSON is what docs/json.md says.
func TestVerbs(t *testing.T) {
	g := newGateway(t, services)
	g.onTmpfs(services)
	daemon := g.start()
	open := g.connect(false, 80)
	client, server := open.ends()
	g.until("the server is known, and the connection is open", func() bool {
		_, known, _ := g.levee("servers")
		_, flows, _ := g.levee("flows")
		return strings.Contains(known, server) && strings.Contains(flows, "  open ")
	})

	g.answers("version", nil, "levee "+versionNow().Version+" (go")
	g.answers("check", nil, g.config+": ok\n")
	g.answers("plan", nil, g.config+": what levee run does, as commands.\n")
	g.answers("plan", []string{"--diff"}, g.config+": nothing differs from the plan.\n")
	g.answers("apply", nil, g.config+": nothing differs from the plan.\n")
	g.answers("status", nil, ", ready, up ", "\nflows  1 open, 0 opening, ", "web                  always ")
	g.answers("flows", nil, client+"  "+server+"  web ")
	g.answers("flows list", []string{"tcp", client, server}, client+"  "+server+"  web ")
	g.answers("servers", nil, server+"  alive  ")
	g.answers("explain", []string{"tcp", client, server}, "\nflow       open for ", "\nserver     alive, ")
	g.answers("reload", nil, "nothing has changed\n")
	g.answers("upgrade", nil, "upgraded from "+versionNow().Version, ": 1 connections went on, 0 are lost\n")
	for _, output := range []format{formatText, formatJSON} {
		from, to := g.connect(false, 443).ends()
		if stdout := g.answer("flows kill", output, "tcp", from, to); output == formatText && stdout != "1 connection killed\n" {
			t.Errorf("kill: %q", stdout)
		}
	}
	g.follow("flows watch", formatText, " new ", "--every", "100ms")
	g.follow("flows watch", formatJSON, `"event":"new"`, "--every", "100ms")
	g.follow("observe", formatText, " answer web ", "-f")
	g.follow("observe", formatJSON, `"verdict":"answer"`, "-f")
	// The connection keeps a drain from its end, until it is gone.
	for _, output := range []format{formatText, formatJSON} {
		waiting, lines := g.background("drain")
		if s := bufio.NewScanner(lines); !s.Scan() || !strings.HasPrefix(s.Text(), "draining for ") || !strings.HasSuffix(s.Text(), ": 1 connection open") {
			t.Errorf("drain: %q", s.Text())
		}
		if stdout := g.answer("drain", output, "--cancel"); output == formatText && stdout != "cancelled: levee protects again\n" {
			t.Errorf("cancel: %q", stdout)
		}
		if code := g.end(waiting); code != 1 {
			t.Errorf("a drain that was cancelled: %d", code)
		}
	}
	g.answer("flows kill", formatText, "tcp", client, server)
	g.answer("drain", formatJSON)
	if code := g.end(daemon); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// answers runs a verb both ways. wants are in what it says in words.
func (g *gateway) answers(verb string, args []string, wants ...string) {
	g.t.Helper()
	text := g.answer(verb, formatText, args...)
	for _, want := range wants {
		if !strings.Contains(text, want) {
			g.t.Errorf("%s lacks %q:\n%s", verb, want, text)
		}
	}
	g.answer(verb, formatJSON, args...)
}

// answer runs a verb, which is to succeed, and checks its JSON.
func (g *gateway) answer(verb string, output format, args ...string) string {
	g.t.Helper()
	words := strings.Fields(verb)
	code, stdout, stderr := g.levee(words[0], slices.Concat(words[1:], args, []string{"-o", string(output)})...)
	if code != 0 || stderr != "" {
		g.t.Errorf("%s -o %s: %d %s", verb, output, code, stderr)
	}
	if output == formatJSON {
		conforms(g.t, verb, stdout)
	}
	return stdout
}

// follow runs a verb that goes on until it is interrupted, under traffic, until it has written a line with want.
func (g *gateway) follow(verb string, output format, want string, args ...string) {
	g.t.Helper()
	l, err := g.lab.Servers[0].Listen(g.lab.Servers[0].AddrPort(false, 80), 100) // nobody accepts; the kernel does
	if err != nil {
		g.t.Fatal(err)
	}
	defer l.Close()
	words := strings.Fields(verb)
	c, out := g.background(words[0], slices.Concat(words[1:], args, []string{"-o", string(output)})...)
	var text strings.Builder
	found := make(chan struct{})
	go func() {
		defer close(found)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			text.WriteString(lines.Text() + "\n")
			if strings.Contains(lines.Text(), want) {
				break
			}
		}
	}()
	g.until(verb+" has written "+want, func() bool {
		g.knock()
		select {
		case <-found:
			return true
		default:
			return false
		}
	})
	if err := c.Signal(syscall.SIGINT); err != nil {
		g.t.Fatal(err)
	}
	if code := g.end(c); code != 0 || c.Output() != "" {
		g.t.Errorf("%s: %d %s", verb, code, c.Output())
	}
	if output == formatJSON {
		conforms(g.t, verb, text.String())
	}
}
