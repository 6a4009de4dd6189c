package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"
	"time"

	"levee/integration/lab"
)

// planSteps is what plan --diff and apply answer, as far as it matters here.
type planSteps struct {
	Same  bool
	Steps []struct{ Change, Command string }
}

// verb runs one to its end, and reads its answer.
func (p *protected) verb(t *testing.T, answer any, verb string, args ...string) (code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := p.levee.Command(ctx, verb, append(args, "-o", "json")...)
	var out bytes.Buffer
	c.Stdout = &out
	err := c.Run()
	if out.Len() == 0 {
		t.Fatalf("%s: %v\n%s", verb, err, c.Output())
	}
	if err := json.Unmarshal(out.Bytes(), answer); err != nil {
		t.Fatalf("%s: %v\n%s", verb, err, out.Bytes())
	}
	if err != nil {
		return 1
	}
	return 0
}

// differs wants plan --diff to find so many differences.
func (p *protected) differs(t *testing.T, when string, want int) {
	t.Helper()
	var answer struct{ Difference planSteps }
	code := p.verb(t, &answer, "plan", "--diff")
	d := answer.Difference
	if len(d.Steps) != want || d.Same != (want == 0) || code != min(want, 1) {
		t.Errorf("%s: %d differences, same %t, exit code %d; want %d\n%v", when, len(d.Steps), d.Same, code, want, d.Steps)
	}
}

// TestPlanAndApply: levee is killed under an open connection, and somebody changes a rule. plan --diff says so, apply puts it back and leaves the rest, and the
// connection goes on with the next daemon.
func TestPlanAndApply(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		p := protectYAML(t, lab.Config{}, config(nil))
		to := p.server.AddrPort(v6, 7)
		startEcho(t, p.server, to)
		r := &traffic{t: t, from: p.client, to: to, ctx: t.Context()}
		conn := r.dial()
		talk := func(when string) {
			t.Helper()
			answer := make([]byte, 5)
			if _, err := exchange(conn, []byte("hello"), answer); err != nil || string(answer) != "hello" {
				t.Fatalf("%s: %q %v", when, answer, err)
			}
		}
		talk("at first")
		p.spliced(t, 1)
		p.differs(t, "running", 0)
		if err := p.levee.Kill(); err != nil {
			t.Fatal(err)
		}
		p.differs(t, "killed", 0)
		flag := "-4"
		if v6 {
			flag = "-6"
		}
		for _, args := range [][]string{
			{flag, "rule", "del", "priority", "7300"},
			{flag, "rule", "add", "priority", "7301", "to", "all", "lookup", "main", "protocol", "108"},
		} {
			if err := p.Gateway.Command(t.Context(), "ip", args...).Run(); err != nil {
				t.Fatal(err)
			}
		}
		p.differs(t, "changed", 2)
		var done planSteps
		if code := p.verb(t, &done, "apply"); code != 0 || len(done.Steps) != 2 || done.Steps[0].Change != "delete" || done.Steps[1].Change != "add" {
			t.Errorf("apply: %d %v", code, done.Steps)
		}
		p.differs(t, "applied", 0)
		if err := p.levee.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		talk("with the next daemon")
		p.differs(t, "running again", 0)
	})
}
