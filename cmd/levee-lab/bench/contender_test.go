package bench

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"levee/integration/lab"
	"levee/routes/routestest"
)

// eventually waits until ok returns true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not after 10 s: %s", what)
		}
	}
}

// gatewayState is everything in the gateway that a contender may change.
func gatewayState(t *testing.T, l *lab.Lab) (s routestest.Snapshot, other string) {
	t.Helper()
	if err := l.Gateway.Do(func() (err error) { s, err = routestest.Take(); return err }); err != nil {
		t.Fatal(err)
	}
	rules, err := exec.Command("nsenter", "--net="+l.Gateway.Path(), "nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v\n%s", err, rules)
	}
	loose, err := l.Gateway.Sysctl("net.netfilter.nf_conntrack_tcp_loose")
	if err != nil {
		t.Fatal(err)
	}
	return s, string(rules) + loose
}

// Each contender takes the connections that are made, counts them, and leaves the gateway as it was.
func TestContenders(t *testing.T) {
	b := newBench(t)
	server, err := startResponder(b.server.Namespace, b.nextPort(), clientFirst, 4)
	if err != nil {
		t.Fatal(err)
	}
	defer server.close()
	before, rulesBefore := gatewayState(t, b.lab)
	// Twice each, because what is left of the first time would show in the second.
	for _, c := range append(append([]contender(nil), b.all...), b.all...) {
		t.Run(string(c.id()), func(t *testing.T) {
			const connections = 20
			err := b.with(t.Context(), c, func() (seen, error) {
				done, err := trips(b.near.Namespace, server, connections)
				if err != nil {
					return seen{}, err
				}
				got, err := c.seen(t.Context())
				want := seen{syns: connections, connections: connections}
				if c.id() == plainID {
					want = seen{}
				}
				if err != nil || got.syns < want.syns || got.connections != want.connections {
					t.Errorf("it has seen %+v: %v", got, err)
				}
				return seen{syns: uint64(len(done.completed)), connections: uint64(len(done.completed))}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			after, rulesAfter := gatewayState(t, b.lab)
			if diff := before.Diff(after); diff != "" || rulesBefore != rulesAfter {
				t.Errorf("left behind:\n%s%s", diff, rulesAfter)
			}
		})
	}
}

// Plain forwarding is not measured while something else is on the gateway.
func TestPlainWantsItPlain(t *testing.T) {
	b := newBench(t)
	v := b.find(leveeID)
	if err := v.on(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := b.find(plainID).on(t.Context())
	if err == nil || !strings.Contains(err.Error(), "tun0") {
		t.Errorf("with levee on: %v", err)
	}
	if err := v.off(); err != nil {
		t.Fatal(err)
	}
	if err := b.find(plainID).on(t.Context()); err != nil {
		t.Error(err)
	}
}

// fake is a contender that has seen what the test says.
type fake struct {
	what  seen
	onErr error
	log   []string
}

func (f *fake) id() contenderID                    { return leveeID }
func (f *fake) on(context.Context) error           { f.log = append(f.log, "on"); return f.onErr }
func (f *fake) off() error                         { f.log = append(f.log, "off"); return nil }
func (f *fake) seen(context.Context) (seen, error) { return f.what, nil }

// What a contender hasn't seen is no result, and it is switched off whatever happens.
func TestWithProves(t *testing.T) {
	b := &bench{report: &Report{}}
	broken := errors.New("broken")
	for _, tc := range []struct {
		name       string
		c          fake
		expect     seen
		measureErr error
		want       string // part of the error
		log        string
	}{
		{name: "all seen", c: fake{what: seen{10, 5}}, expect: seen{10, 5}, log: "on off"},
		{name: "more seen", c: fake{what: seen{11, 6}}, expect: seen{10, 5}, log: "on off"},
		{name: "SYNs went past", c: fake{what: seen{9, 5}}, expect: seen{10, 5}, want: "9 SYNs that it answered, but 10", log: "on off"},
		{name: "connections went past", c: fake{what: seen{10, 4}}, expect: seen{10, 5}, want: "4 connections, but 5", log: "on off"},
		{name: "the measurement fails", c: fake{}, measureErr: broken, want: "broken", log: "on off"},
		{name: "it doesn't start", c: fake{onErr: broken}, want: "switch on: broken", log: "on"},
	} {
		err := b.with(t.Context(), &tc.c, func() (seen, error) { return tc.expect, tc.measureErr })
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
		if got := strings.Join(tc.c.log, " "); got != tc.log {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.log)
		}
	}
	if err := prove(plainID, seen{10, 5}, seen{}); err != nil {
		t.Errorf("plain forwarding was to count: %v", err)
	}
}
