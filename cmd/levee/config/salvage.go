package config

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// salvage finds what a file that is not valid YAML says of state_dir, so that a slip in it doesn't hide the daemon, which goes on with what it has read
// before, and of secret_file, whose contents are to be kept out of a bundle. stateDir says that it is known of the former.
func salvage(data []byte) (tree map[string]any, stateDir bool) {
	tree = make(map[string]any)
	for _, key := range []string{"secret_file", "state_dir"} {
		var value string
		if value, stateDir = salvageKey(data, key); value != "" {
			tree[key] = value
		}
	}
	return tree, stateDir || os.Getenv(envName("state_dir")) != ""
}

// salvageKey finds a key where it is commonly written: in a line of its own, in no section. known is false if it is in the file in another way, or twice.
func salvageKey(data []byte, key string) (value string, known bool) {
	switch found := regexp.MustCompile(`(?m)^`+key+`[ \t]*:.*$`).FindAll(data, 2); len(found) {
	case 0:
		return "", !regexp.MustCompile(`(?m)^[^#\n]*` + key).Match(data) // but for comments
	case 1:
		tree, err := parseTree(found[0])
		value, known = tree[key].(string)
		return value, known && err == nil
	}
	return "", false
}

// maxFaultBytes is how long a file may be to have its fault looked for: that parses it once for each of its lines.
const maxFaultBytes = 16 << 10

// parserLine is what the parser says of the place. Often it is where a section began that ended well, far above the fault.
var parserLine = regexp.MustCompile(`^line \d+: `)

// faultText says where the data stops being YAML, shows that line, and says what to do about it.
func faultText(data []byte, err error) string {
	words := strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "yaml: ")), " ")
	lines := strings.SplitAfter(string(data), "\n")
	if len(data) > maxFaultBytes {
		return "not valid YAML: " + words
	}
	good := goodLines(lines)
	if good == len(lines) { // it is valid, and refused for something else
		return "not valid YAML: " + words
	}
	return fmt.Sprintf("not valid YAML: line %d, %s: %s: %s", good+1, shown(text(strings.TrimSpace(lines[good]))), parserLine.ReplaceAllString(words, ""), faultRemedy(lines, good))
}

// goodLines is how many lines from the first on are YAML by themselves, at most.
func goodLines(lines []string) int {
	for n := len(lines); n > 0; n-- {
		var document yaml.Node
		if yaml.Unmarshal([]byte(strings.Join(lines[:n], "")), &document) == nil {
			return n
		}
	}
	return 0
}

// faultRemedy says how to write lines[at], which doesn't go with those above.
func faultRemedy(lines []string, at int) string {
	if indent, _, _ := strings.Cut(strings.TrimLeft(lines[at], " "), "\t"); indent == "" {
		return "indent with spaces, not with tabs"
	}
	for i := at - 1; i >= 0; i-- {
		line, _, _ := strings.Cut(lines[i], "#")
		line = strings.TrimSpace(line)
		if strings.HasSuffix(line, "[]") && strings.HasPrefix(strings.TrimSpace(lines[at]), "- ") {
			return fmt.Sprintf("take the [] out of line %d, whose elements follow", i+1)
		}
		if line != "" {
			break
		}
	}
	return "levee.example.yaml shows how it is written"
}
