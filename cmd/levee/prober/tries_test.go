package prober

import (
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/seqnum"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
	"levee/proxy/servers"
)

// A server that doesn't answer gets two SYNs with one number, 1.5 s apart, and is silent 1.5 s later. What can't be sent says nothing of it.
func TestTries(t *testing.T) {
	k := keyOf(netip.MustParseAddrPort("192.0.2.1:80"))
	for _, test := range []struct {
		name   string
		broken int // the number of the SYN that can't be sent
		sent   int
		want   servers.State
		count  Outcome
	}{
		{"both are sent", 3, 2, servers.Silent, Silent},
		{"the first can't be sent", 1, 1, servers.Unknown, Unsent},
		{"the second can't be sent", 2, 2, servers.Unknown, Unsent},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := &results{answered: map[servers.Key]servers.Answer{}, failed: map[servers.Key]servers.State{}}
			var numbers []seqnum.Value
			p := unsent(1)
			p.transmit = func(_ *servers.Key, isn seqnum.Value) error {
				if numbers = append(numbers, isn); len(numbers) == test.broken {
					return errors.New("no way")
				}
				return nil
			}
			now := time.Unix(1_800_000_000, 0)
			if begun := p.begin(got, &k, now); begun != (test.broken != 1) {
				t.Errorf("begun: %v", begun)
			}
			if test.broken != 1 && p.begin(got, &k, now) {
				t.Error("begun twice")
			}
			for _, step := range []struct {
				after time.Duration
				sent  int
			}{{1499 * time.Millisecond, 1}, {1500 * time.Millisecond, 2}, {2999 * time.Millisecond, 2}} {
				p.expire(got, now.Add(step.after))
				if want := min(step.sent, test.sent); len(numbers) != want {
					t.Errorf("after %v %d SYNs, not %d", step.after, len(numbers), want)
				}
			}
			if over := got.count() != 0; over != (test.want == servers.Unknown) {
				t.Errorf("over before its time: %v", over)
			}
			p.expire(got, now.Add(3000*time.Millisecond))
			if how, ok := got.failed[k]; !ok || how != test.want {
				t.Errorf("it is %v, %v", how, ok)
			}
			if len(numbers) != test.sent || numbers[0] != numbers[len(numbers)-1] {
				t.Errorf("sent: %v", numbers)
			}
			if n := p.Count(test.count); n != 1 || len(p.pending) != 0 {
				t.Errorf("%d counted, %d pending", n, len(p.pending))
			}
		})
	}
}

// TestDeaf: while the kernel gives errors instead of answers nobody is taken for silent, and afterwards the prober hears again.
func TestDeaf(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	nobody := keyOf(netip.AddrPortFrom(l.Servers[0].AddrPort(false, 80).Addr().Next(), 80))
	closed := keyOf(l.Servers[0].AddrPort(false, 81))
	got := &results{answered: map[servers.Key]servers.Answer{}, failed: map[servers.Key]servers.State{}}
	var p *Prober
	hears := sync.OnceFunc(func() {
		if err := p.sockets.v4.SetReadDeadline(time.Time{}); err != nil {
			t.Error(err)
		}
		p.Ask(closed, servers.WhatItDoes)
	})
	runInGateway(t, l, 100, &p, got, func() bool {
		if got.count() == 1 {
			hears()
		}
		return got.count() == 2
	}, func() {
		if err := p.sockets.v4.SetReadDeadline(time.Unix(1, 0)); err != nil {
			t.Error(err)
		}
		p.Ask(nobody, servers.WhatItDoes)
	})
	if how := got.failed[nobody]; how != servers.Unknown {
		t.Errorf("who may have answered is %v", how)
	}
	if how := got.failed[closed]; how != servers.Closed {
		t.Errorf("the closed port is %v", how)
	}
	if n := p.deaf.Load(); n != 0 {
		t.Errorf("still deaf at %d sockets", n)
	}
}
