package script

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"levee/stack/stacktest"
)

// defaultTolerance is how far "after" may be off: levee looks after its time-outs four times a second, and a busy machine adds
// to that. It still tells the steps of a back-off apart.
const defaultTolerance = 700 * time.Millisecond

// defaultMTU is Ethernet's.
const defaultMTU = 1500

// maxDuration bounds waits: a script takes no longer than its author meant.
const maxDuration = time.Minute

// maxConn is how many connections a script may have.
const maxConn = 4

// parser reads one script with what it includes.
type parser struct {
	files  fs.FS
	script *Script
	// bound are the names that have a number at the line in work.
	bound map[string]bool
	// depth of includes.
	depth int
	// fault is that of the next step, over the families faulty.
	fault  *Fault
	faulty []Family
}

// Load reads all scripts of a folder, files that end in ".txt", in the order of their names.
func Load(files fs.FS) ([]*Script, error) {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return nil, fmt.Errorf("list scripts: %w", err)
	}
	var list []*Script
	var all error
	for _, e := range entries {
		if e.IsDir() || path.Ext(e.Name()) != ".txt" {
			continue
		}
		s, err := Parse(files, e.Name())
		all = errors.Join(all, err)
		list = append(list, s)
	}
	return list, all
}

// Parse reads one script and what it includes. The error names the file and line.
func Parse(files fs.FS, file string) (*Script, error) {
	p := &parser{
		files: files, bound: map[string]bool{},
		script: &Script{
			Name: strings.TrimSuffix(file, ".txt"), Families: Families, Known: map[Family]Fault{},
			MTU: defaultMTU, tolerance: defaultTolerance,
		},
	}
	if err := p.file(file); err != nil {
		return nil, err
	}
	if p.fault != nil {
		return nil, fmt.Errorf("%s: known stands before the step that fails", file)
	}
	if p.script.Summary == "" || len(p.script.steps) == 0 {
		return nil, fmt.Errorf("%s: a script has a comment that says what it shows, and steps", file)
	}
	return p.script, nil
}

func (p *parser) file(file string) error {
	text, err := fs.ReadFile(p.files, file)
	if err != nil {
		return fmt.Errorf("read script: %w", err)
	}
	inSummary := p.script.Summary == "" && p.depth == 0
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if comment, ok := strings.CutPrefix(line, "#"); ok && inSummary {
			p.script.Summary = strings.TrimSpace(p.script.Summary + " " + strings.TrimSpace(comment))
			continue
		}
		// Comments may follow a step, too.
		text, _, _ := strings.Cut(line, "#")
		if text = strings.TrimSpace(text); text == "" {
			inSummary = inSummary && p.script.Summary == ""
			continue
		}
		inSummary = false
		if err := p.line(file, i+1, text); err != nil {
			var inner *lineError
			if errors.As(err, &inner) {
				return err // of an included file
			}
			return &lineError{fmt.Errorf("%s:%d: %w: %s", file, i+1, err, text)}
		}
	}
	return nil
}

// lineError already says where.
type lineError struct{ error }

func (e *lineError) Unwrap() error { return e.error }

func (p *parser) line(file string, number int, text string) error {
	words := strings.Fields(text)
	if words[0] == "known:" || words[0] == "known" {
		return p.known(text)
	}
	if strings.HasSuffix(words[0], ":") {
		return p.head(text)
	}
	s := step{file: file, line: number, text: strings.Join(words, " ")}
	switch words[0] {
	case "include":
		return p.include(words[1:])
	case "wait":
		s.kind = stepWait
		if len(words) != 2 {
			return errors.New("wait takes a duration")
		}
		d, err := duration(words[1])
		if err != nil {
			return err
		}
		s.duration = d
	case "nothing":
		s.kind = stepNothing
		if len(words) != 3 {
			return errors.New("nothing takes a side and a duration")
		}
		sides, err := parseSides(words[1], true)
		if err != nil {
			return err
		}
		d, err := duration(words[2])
		if err != nil {
			return err
		}
		s.sides, s.duration = sides, d
	case "let":
		s.kind = stepLet
		if len(words) != 4 || words[2] != "=" || !isName(words[1]) || p.bound[words[1]] {
			return errors.New("let takes a new name, = and a number")
		}
		value, err := p.parseSum(words[3])
		if err != nil {
			return err
		}
		s.name, s.value = words[1], value
		p.bound[s.name] = true
	default:
		sides, err := parseSides(words[0], false)
		if err != nil {
			return err
		}
		if len(words) < 3 || words[1] != "<" && words[1] != ">" {
			return errors.New("after the side comes > or <, and what")
		}
		s.sides = sides
		if words[1] == "<" {
			s.kind = stepExpect
		}
		if s.packet, err = p.packet(words[2:], s.kind == stepExpect); err != nil {
			return err
		}
	}
	if p.fault != nil {
		if s.kind != stepExpect && s.kind != stepNothing {
			return errors.New("known stands before a step that can fail")
		}
		p.fault.Where = s.where()
		for _, f := range p.faulty {
			p.script.Known[f] = *p.fault
		}
		p.fault = nil
	}
	p.script.steps = append(p.script.steps, s)
	return nil
}

// known reads that the next step must fail, and over which family.
func (p *parser) known(text string) error {
	key, reason, _ := strings.Cut(text, ":")
	reason = strings.TrimSpace(reason)
	p.faulty = p.script.Families
	if name := strings.TrimSpace(strings.TrimPrefix(key, "known")); name != "" {
		f, err := parseFamily(name)
		if err != nil {
			return err
		}
		p.faulty = []Family{f}
	}
	switch {
	case reason == "":
		return errors.New("why?")
	case p.fault != nil:
		return errors.New("known stands before the step that fails")
	}
	for _, f := range p.faulty {
		if _, twice := p.script.Known[f]; twice {
			return errors.New("a script ends where it fails first")
		}
	}
	p.fault = &Fault{Reason: reason}
	return nil
}

func (p *parser) include(names []string) error {
	if len(names) != 1 || !isName(strings.ReplaceAll(names[0], "-", "")) {
		return errors.New("include takes the name of a file")
	}
	if p.depth == 4 {
		return errors.New("includes too deep")
	}
	p.depth++
	defer func() { p.depth-- }()
	return p.file("include/" + names[0] + ".txt")
}

func (p *parser) head(text string) error {
	if len(p.script.steps) > 0 {
		return errors.New("the head ends where the steps begin")
	}
	key, value, _ := strings.Cut(text, ":")
	if value = strings.TrimSpace(value); value == "" {
		return errors.New("what is it?")
	}
	switch key {
	case "config":
		for _, word := range strings.Fields(value) {
			k, v, ok := strings.Cut(word, "=")
			if !ok || k == "" || v == "" {
				return fmt.Errorf("%q is not key=value", word)
			}
			p.script.Config = append(p.script.Config, Setting{k, v})
		}
	case "only":
		f, err := parseFamily(value)
		if err != nil {
			return err
		}
		p.script.Families = []Family{f}
	case "tolerance":
		d, err := duration(value)
		if err != nil {
			return err
		}
		p.script.tolerance = d
	case "mtu":
		n, err := strconv.Atoi(value)
		if err != nil || n < 1280 || n > 9000 {
			return errors.New("it takes 1280 to 9000 bytes")
		}
		p.script.MTU = n
	default:
		return fmt.Errorf("%q means nothing here", key+":")
	}
	return nil
}

func parseFamily(s string) (Family, error) {
	for _, f := range Families {
		if s == f.String() {
			return f, nil
		}
	}
	return 0, fmt.Errorf("%q is neither IPv4 nor IPv6", s)
}

func parseSides(s string, both bool) ([]Side, error) {
	switch {
	case s == "client":
		return []Side{Client}, nil
	case s == "server":
		return []Side{Server}, nil
	case s == "both" && both:
		return []Side{Client, Server}, nil
	}
	return nil, fmt.Errorf("%q means nothing here", s)
}

func duration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 || d > maxDuration {
		return 0, fmt.Errorf("%q is not a duration of up to %s", s, maxDuration)
	}
	return d, nil
}

// packet reads what follows "client >".
func (p *parser) packet(words []string, comes bool) (*pattern, error) {
	out := &pattern{fields: map[string]number{}, conn: 1, after: -1}
	switch words[0] {
	case "icmp":
		out.form, out.flags = formICMP, stacktest.ACK
		if len(words) < 2 || !isICMPKind(words[1]) {
			return nil, errors.New("icmp takes the kind of error")
		}
		out.icmp, words = words[1], words[1:]
	case "rest":
		out.form = formRest
	default:
		flags, ae, err := parseFlags(words[0])
		if err != nil {
			return nil, err
		}
		out.flags, out.ae = flags, ae
	}
	seen := map[string]bool{}
	for _, word := range words[1:] {
		key, value, ok := strings.Cut(word, "=")
		if ok == (key == "land") || ok && value == "" {
			return nil, fmt.Errorf("%q is not key=value", word)
		}
		if seen[key] {
			return nil, fmt.Errorf("%s is there twice", key)
		}
		seen[key] = true
		if err := p.word(out, key, value, comes); err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	return out, out.check(seen, comes)
}

// word reads one word of a packet.
func (p *parser) word(out *pattern, key, value string, comes bool) (err error) {
	if limit, ok := limits[key]; ok {
		if out.fields[key], err = p.parseNumber(value, comes); err != nil {
			return err
		}
		if n := out.fields[key].low; len(n) == 1 && n[0].name == "" && n[0].n > limit {
			return fmt.Errorf("the most is %d", limit)
		}
		return nil
	}
	switch key {
	case "opts", "exact":
		out.exact = key == "exact"
		out.options, err = p.parseOptions(value, comes)
	case "ip":
		out.headers = strings.Split(value, ",")
		for _, h := range out.headers {
			for _, f := range p.script.Families {
				if _, ok := ipHeaders[ipHeader{f, h}]; !ok {
					return fmt.Errorf("there is no %q over %s", h, f)
				}
			}
		}
	case "frag":
		out.fragment, out.more = true, strings.HasSuffix(value, "+")
		var n uint64
		n, err = strconv.ParseUint(strings.TrimSuffix(value, "+"), 10, 16)
		if err == nil && n%8 != 0 {
			err = errors.New("offsets are multiples of 8")
		}
		out.offset = uint16(n)
	case "bad":
		if out.badChecksum = value == "checksum"; !out.badChecksum {
			err = fmt.Errorf("%q can't be", value)
		}
	case "land":
		out.land = true
	case "conn":
		out.conn, err = strconv.Atoi(value)
		if err == nil && (out.conn < 1 || out.conn > maxConn) {
			err = fmt.Errorf("the most is %d", maxConn)
		}
	case "flags":
		if out.form != formICMP {
			return errors.New("they come first")
		}
		out.flags, out.ae, err = parseFlags(value)
	case "after":
		out.after, err = duration(value)
	default:
		return errors.New("there is no such word")
	}
	return err
}

// check says what is missing or too much.
func (p *pattern) check(seen map[string]bool, comes bool) error {
	refuse := func(why string, keys ...string) error {
		for _, k := range keys {
			if seen[k] {
				return fmt.Errorf("%s: %s", k, why)
			}
		}
		return nil
	}
	err := refuse("only one of opts and exact", map[bool][]string{true: {"opts", "exact"}}[seen["opts"] && seen["exact"]]...)
	if comes {
		err = errors.Join(err, refuse("only in what is sent", "land"))
	} else {
		err = errors.Join(err, refuse("only in what is to come", "after"))
	}
	if p.form != formICMP {
		err = errors.Join(err, refuse("only of ICMP errors", "mtu", "quote", "flags"))
	}
	switch {
	case p.form == formICMP:
		err = errors.Join(err, refuse("not of what an error quotes", "ip", "frag", "bad", "land", "dscp", "ecn", "label", "ttl", "exact"))
		if !seen["seq"] {
			err = errors.Join(err, errors.New("seq of the segment that it quotes is missing"))
		}
		for _, n := range p.fields {
			if n.any || n.binds || n.high != nil {
				err = errors.Join(err, errors.New("an error is compared as a whole: numbers only"))
			}
		}
	case p.form == formRest:
		if !p.fragment || p.offset == 0 {
			err = errors.Join(err, errors.New("frag with an offset is missing"))
		}
		for k := range seen {
			if !slices.Contains([]string{"frag", "len", "dscp", "ecn", "ttl", "label", "after"}, k) {
				err = errors.Join(err, fmt.Errorf("%s: a later fragment has none", k))
			}
		}
	case p.fragment && p.offset != 0:
		err = errors.Join(err, errors.New("a later fragment is written: rest"))
	case comes:
		if !seen["seq"] || p.flags&stacktest.ACK != 0 && !seen["ack"] {
			err = errors.Join(err, errors.New("seq and, with A, ack are to be said; * is any"))
		}
	case !seen["seq"]:
		err = errors.Join(err, errors.New("seq is missing"))
	}
	return err
}

// flagLetters are in the order in which flags are written.
var flagLetters = []struct {
	letter byte
	flag   uint8
}{
	{'F', stacktest.FIN}, {'S', stacktest.SYN}, {'R', stacktest.RST}, {'P', stacktest.PSH}, {'A', stacktest.ACK},
	{'U', stacktest.URG}, {'E', stacktest.ECE}, {'C', stacktest.CWR},
}

func parseFlags(s string) (flags uint8, ae bool, err error) {
	if s == "-" {
		return 0, false, nil
	}
letters:
	for i := range len(s) {
		if s[i] == 'N' && !ae {
			ae = true
			continue
		}
		for _, f := range flagLetters {
			if s[i] == f.letter && flags&f.flag == 0 {
				flags |= f.flag
				continue letters
			}
		}
		return 0, false, fmt.Errorf("%q are not flags", s)
	}
	return flags, ae, nil
}

func describeFlags(flags uint8, ae bool) string {
	var s []byte
	for _, f := range flagLetters {
		if flags&f.flag != 0 {
			s = append(s, f.letter)
		}
	}
	if ae {
		s = append(s, 'N')
	}
	if s == nil {
		return "-"
	}
	return string(s)
}
