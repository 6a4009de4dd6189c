package integration

import (
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"levee/integration/lab"
)

// drained is a lab with a connection through levee to a server that returns what it gets.
type drained struct {
	*traffic
	*protected
	conn net.Conn
}

func newDrained(t *testing.T) *drained {
	t.Helper()
	// Connections that begin during a drain that is cancelled are taken as they are for a while.
	p := protectYAML(t, lab.Config{}, strings.Replace(config(nil), "grace: 0s", "grace: 1m", 1))
	addr := p.server.AddrPort(false, 80)
	startEcho(t, p.server, addr)
	listening(t, p.server.Namespace, addr)
	d := &drained{traffic: &traffic{t: t, from: p.client, to: addr}, protected: p}
	d.conn = d.dial()
	d.answers(d.conn, "the spliced connection")
	p.spliced(t, 1)
	return d
}

// answers checks that a connection works.
func (d *drained) answers(c net.Conn, what string) {
	d.t.Helper()
	if _, err := exchange(c, []byte("are you there"), make([]byte, 13)); err != nil {
		d.t.Errorf("%s: %v", what, err)
	}
}

func (d *drained) status() *lab.Status {
	d.t.Helper()
	s, err := d.levee.Status(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

// drain starts the verb and waits until the daemon drains.
func (d *drained) drain(args ...string) (*lab.Command, *strings.Builder) {
	d.t.Helper()
	var out strings.Builder
	c := d.levee.Command(d.t.Context(), "drain", args...)
	c.Stdout = &out
	if err := c.Start(); err != nil {
		d.t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); d.status().Drain == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			d.t.Fatal("it doesn't drain")
		}
	}
	return c, &out
}

// goesDirect opens a connection and checks that levee has nothing to do with it.
func (d *drained) goesDirect() net.Conn {
	d.t.Helper()
	before := d.status()
	c := d.dial()
	d.answers(c, "a new connection while levee drains")
	after := d.status()
	if was, is := before.Services[0], after.Services[0]; was.SynReceived != is.SynReceived || was.CookieValid != is.CookieValid {
		d.t.Errorf("levee has answered it: %+v, then %+v", was, is)
	}
	if after.Passed["mode_off"] == before.Passed["mode_off"] {
		d.t.Error("it was not seen to pass")
	}
	if after.Ready || after.Drain == nil || after.Drain.Connections < 1 {
		d.t.Errorf("ready %t, drain %+v", after.Ready, after.Drain)
	}
	return c
}

// within waits for the end of a command.
func (d *drained) within(c *lab.Command, most time.Duration, what string) error {
	d.t.Helper()
	select {
	case <-c.Done():
	case <-time.After(most):
		d.t.Fatalf("%s doesn't end in %v", what, most)
	}
	return c.Wait()
}

// TestDrain: while levee drains, new connections go to the server itself; the spliced one goes on until it ends, and then levee does.
func TestDrain(t *testing.T) {
	d := newDrained(t)
	verb, out := d.drain()
	direct := d.goesDirect()
	// What levee follows of the interfaces doesn't have it protect again.
	run(t, d.Gateway, patience, "ip", "link", "set", "client0", "mtu", "1400")
	time.Sleep(4 * time.Second) // longer than a drain takes at least
	defer d.goesDirect().Close()
	d.answers(d.conn, "the spliced connection")
	if s := d.status(); s.Drain == nil || s.Drain.State != "draining" {
		t.Errorf("drain %+v", s.Drain)
	}
	for _, verb := range []string{"reload", "upgrade"} { // which would protect again
		if err := d.levee.Command(t.Context(), verb).Run(); err == nil {
			t.Errorf("%s is not refused", verb)
		}
	}
	_ = d.conn.Close()
	if err := d.within(verb, 30*time.Second, "levee drain"); err != nil {
		t.Errorf("levee drain: %v", err)
	}
	if text := out.String(); !strings.HasPrefix(text, "draining for 0s: 1 connection open\n") || !strings.Contains(text, "\ndrained after ") {
		t.Errorf("it says %q", text)
	}
	if err := d.within(d.levee.Process(), 10*time.Second, "the daemon"); err != nil {
		t.Errorf("the daemon: %v", err)
	}
	d.answers(direct, "the other, without levee")
}

// TestDrainTimeout: after the time-out levee stops whatever is open, and says so.
func TestDrainTimeout(t *testing.T) {
	d := newDrained(t)
	verb, _ := d.drain("--timeout", "4s")
	direct := d.goesDirect()
	if err := d.within(verb, 30*time.Second, "levee drain"); err == nil {
		t.Error("levee drain ends as if nothing had broken")
	}
	if text := verb.Output(); !strings.Contains(text, "stopped after 4s with 1 connection open, which broke") {
		t.Errorf("it says %q", text)
	}
	if err := d.within(d.levee.Process(), 10*time.Second, "the daemon"); err != nil {
		t.Errorf("the daemon: %v", err)
	}
	d.answers(direct, "the other, without levee")
}

// TestDrainCancelled: a drain that is interrupted is undone, and so is one whose verb has gone; the connections that began meanwhile
// go on.
func TestDrainCancelled(t *testing.T) {
	d := newDrained(t)
	for _, how := range []string{"interrupt", "cancel", "after SIGKILL"} {
		verb, out := d.drain()
		direct := d.goesDirect()
		switch how {
		case "interrupt":
			if err := verb.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		case "after SIGKILL":
			if err := verb.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			_ = d.within(verb, 20*time.Second, "levee drain")
			if d.status().Drain == nil {
				t.Error("a drain ends with its verb")
			}
			// Another joins it.
			verb, out = d.drain("--timeout", "1h")
			time.Sleep(1500 * time.Millisecond)
			if text := out.String(); !strings.HasPrefix(text, "draining for ") || !strings.Contains(text, " left") {
				t.Errorf("who joins reads %q", text)
			}
			fallthrough
		default:
			if err := d.levee.Command(t.Context(), "drain", "--cancel").Run(); err != nil {
				t.Errorf("cancel: %v", err)
			}
		}
		if err := d.within(verb, 20*time.Second, "levee drain"); err == nil {
			t.Errorf("%s: levee drain ends as if it had drained", how)
		}
		if text := out.String(); !strings.HasSuffix(text, "cancelled: levee protects again\n") {
			t.Errorf("%s: it says %q", how, text)
		}
		if s := d.status(); !s.Ready || s.Drain != nil {
			t.Errorf("%s: ready %t, drain %+v", how, s.Ready, s.Drain)
		}
		valid := d.status().Services[0].CookieValid
		d.answers(d.dial(), "a new connection after "+how)
		if now := d.status().Services[0].CookieValid; now != valid+1 {
			t.Errorf("%s: it was not spliced: %d cookies, then %d", how, valid, now)
		}
		d.answers(d.conn, "the first one, after "+how)
		d.answers(direct, "the one that began meanwhile, after "+how)
		_ = direct.Close()
	}
}
