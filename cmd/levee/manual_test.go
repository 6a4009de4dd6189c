package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"levee/proxy"
)

// Every reason that an operator can see is explained in docs/operations.md, once in its table, and no other is.
func TestReasonsExplained(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	drops, passed := map[string]bool{}, map[string]bool{}
	for r := range proxy.NumDropReasons {
		drops[r.String()] = true
	}
	for r := range proxy.NumPassReasons {
		passed[r.String()] = true
	}
	word := regexp.MustCompile("`([a-z_]+)`")
	var left map[string]bool // of the table that a line is in
	for line := range strings.Lines(string(text)) {
		switch cells := strings.Split(line, "|"); {
		case strings.HasPrefix(line, "| reason | a packet was dropped"):
			left = drops
		case strings.HasPrefix(line, "| reason | a packet passed"):
			left = passed
		case len(cells) < 3:
			left = nil
		case left != nil:
			for _, m := range word.FindAllStringSubmatch(cells[1], -1) {
				if !left[m[1]] {
					t.Errorf("%s is no reason, or is explained twice: %s", m[1], line)
				}
				delete(left, m[1])
			}
		}
	}
	for _, rest := range []map[string]bool{drops, passed} {
		for reason := range rest {
			t.Errorf("%s is not explained", reason)
		}
	}
}
