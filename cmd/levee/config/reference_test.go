package config

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite docs/configuration.md")

const referenceFile = "../../../docs/configuration.md"

// exampleLine is a key of the example with its value and comment; a section has no value.
var exampleLine = regexp.MustCompile(`^( *)(- )?([a-z_]+):(?: +(.*?))?(?: *# (.*))?$`)

// TestReference: docs/configuration.md is made from the example, whose keys and defaults the tests above prove, and from what a reload refuses.
func TestReference(t *testing.T) {
	data, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	got := reference(t, string(data))
	if *update {
		if err := os.WriteFile(referenceFile, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("docs/configuration.md is not what the example says, run this with -update (-is +should be):\n%s", diff)
	}
}

func reference(t *testing.T, example string) string {
	fixed := map[string]bool{}
	for _, f := range (&Config{}).fixed() {
		fixed[f.key] = true
	}
	var b strings.Builder
	b.WriteString("# Configuration reference\n\n" +
		"Made from [levee.example.yaml](levee.example.yaml) by a test; the file is usually `/etc/levee/levee.yaml`. Every key can be left out but `services`, and then has the\n" +
		"default shown; for keys of a service that is the value it has without them. `reload` says that a key can change while levee runs (`levee reload`, SIGHUP,\n" +
		"`systemctl reload levee`), `restart` that a reload which changes it is refused. The environment overrides keys outside of `services`: `LEVEE_LOG_LEVEL` is\n" +
		"`log.level`. Unknown keys are errors. `levee check` reads the file, looks at the machine, and names what is wrong.\n")
	type row struct{ key, value, comment string }
	var rows []row
	var head []string // comment above the next section
	var path []string // keys that lead to the present indentation
	var indents []int
	flush := func() {
		if len(rows) == 0 {
			return
		}
		b.WriteString("\n| key | default | changes by | |\n|---|---|---|---|\n")
		for _, r := range rows {
			by := "reload"
			if fixed[r.key] {
				by = "restart"
			}
			fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s |\n", r.key, r.value, by, strings.ReplaceAll(r.comment, "|", "\\|"))
		}
		rows = nil
	}
	for _, line := range strings.Split(example, "\n")[1:] {
		text := strings.TrimSpace(line)
		if comment, ok := strings.CutPrefix(text, "#"); ok {
			if strings.HasPrefix(line, "#") {
				head = append(head, strings.TrimSpace(comment))
			} else if len(rows) > 0 { // of the key above
				rows[len(rows)-1].comment += " " + strings.TrimSpace(comment)
			}
			continue
		}
		if text == "" {
			head = nil
			continue
		}
		m := exampleLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("not understood: %s", line)
		}
		indent := len(m[1]) + len(m[2])
		for len(indents) > 0 && indents[len(indents)-1] >= indent {
			indents, path = indents[:len(indents)-1], path[:len(path)-1]
		}
		if indent == 0 && (len(rows) == 0 || m[4] == "" || strings.Contains(rows[len(rows)-1].key, ".")) {
			flush()
			title := m[3]
			if m[4] != "" {
				title = "Files"
			}
			fmt.Fprintf(&b, "\n## %s\n", title)
			if m[4] == "" && len(head) > 0 {
				fmt.Fprintf(&b, "\n%s\n", strings.Join(head, " "))
			}
		}
		head = nil
		key := strings.Join(append(append([]string(nil), path...), m[3]), ".")
		if m[4] == "" {
			name := m[3]
			if indent == 0 && name == "services" {
				name += "[]"
			}
			indents, path = append(indents, indent), append(path, name)
			if m[5] != "" && indent > 0 { // a section of a service
				rows = append(rows, row{key, "", m[5]})
			}
			continue
		}
		rows = append(rows, row{key, m[4], m[5]})
	}
	flush()
	return b.String()
}
