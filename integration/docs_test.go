package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocumentedTests checks docs/tcp.md: every test that it names is there, and every row of a table of clauses names one or says that there is a gap.
func TestDocumentedTests(t *testing.T) {
	text, err := os.ReadFile("../docs/tcp.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z/-]+)\\.(Test\\w+)`")
	sources := map[string]string{} // by folder, all its tests
	inTable := false
	for i, line := range strings.Split(string(text), "\n") {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		switch {
		case !strings.HasPrefix(line, "|"):
			inTable = false
			continue
		case strings.HasSuffix(line, "| proof |"):
			inTable = true
			continue
		case !inTable || strings.HasPrefix(line, "|---"):
			continue
		}
		proof := strings.TrimSpace(cells[len(cells)-1])
		tests := named.FindAllStringSubmatch(proof, -1)
		if rest := strings.TrimSpace(named.ReplaceAllString(proof, "")); len(cells) != 3 ||
			(rest != "") == (len(tests) > 0) || rest != "" && rest != "**gap**" && rest != "not applicable" {
			t.Errorf("line %d: a row is a clause, what levee does, and tests, **gap** or not applicable: %s", i+1, line)
		}
		for _, m := range tests {
			folder, name := m[1], m[2]
			if _, read := sources[folder]; !read {
				sources[folder] = readTests(t, filepath.Join("..", folder))
			}
			if !strings.Contains(sources[folder], "\nfunc "+name+"(") {
				t.Errorf("line %d: there is no %s in %s", i+1, name, folder)
			}
		}
	}
	if len(sources) < 3 {
		t.Errorf("tests of %d folders are named", len(sources))
	}
}

// readTests is all test files of a folder.
func readTests(t *testing.T, folder string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}
