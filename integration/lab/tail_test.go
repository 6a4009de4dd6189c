package lab

import (
	"fmt"
	"strings"
	"testing"
)

func TestTail(t *testing.T) {
	var tail Tail
	fmt.Fprint(&tail, "short")
	if got := tail.String(); got != "short" {
		t.Errorf("kept %q", got)
	}
	line := strings.Repeat("x", 99) + "\n"
	for range 10_000 {
		fmt.Fprint(&tail, line)
	}
	fmt.Fprint(&tail, "end")
	got := tail.String()
	if len(got) < tailSize || len(got) > 2*tailSize+100 || !strings.HasSuffix(got, "x\nend") {
		t.Errorf("kept %d bytes of a million, ending %q", len(got), got[len(got)-10:])
	}
	if !strings.HasPrefix(got, "(") || !strings.Contains(got, "left out") {
		t.Errorf("doesn't say that something is missing: %q", got[:50])
	}
}
