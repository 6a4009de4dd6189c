package proxy

import (
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
)

// finRig is an open flow without data whose numbers the tests count from: each side's next is at 0.
type finRig struct {
	*rig
	base [2]seqnum.Value // what the side itself sends at 0
	told [2]seqnum.Value // and what its peer acknowledges for it
}

func newFINRig(t *testing.T) *finRig {
	r := newRig(t, DefaultOptions())
	k := r.open()
	return &finRig{r, [2]seqnum.Value{1001, 5001}, [2]seqnum.Value{1001, k + 1}}
}

// send sends a segment of a side with n bytes and these flags besides ACK, seq into its own stream and with ack of the other's.
func (r *finRig) send(s side, seq, ack seqnum.Value, fin bool, n int) {
	r.t.Helper()
	flags := flagACK
	if fin {
		flags |= flagFIN
	}
	if sent := r.sentFor(r.from(s, r.base[s]+seq, r.told[s.peer()]+ack, flags, 500, n)); len(sent) != 1 {
		r.t.Fatalf("%d packets pass, not 1", len(sent))
	}
}

// lasts checks that the flow is in a state, and forgotten when nothing happens for so long.
func (r *finRig) lasts(state State, timeout time.Duration) {
	r.t.Helper()
	r.wantStates(state, 1)
	begin := r.now
	flows := func() (n int) {
		r.sentFor([]byte{})
		for range flowsOf(r.rig) {
			n++
		}
		return n
	}
	r.now = begin.Add(timeout - time.Second)
	if flows() != 1 {
		r.t.Errorf("the flow is forgotten before %v", timeout)
	}
	r.now = begin.Add(timeout + time.Second)
	if flows() != 0 {
		r.t.Errorf("the flow is not forgotten after %v", timeout)
	}
}

// TestUnacknowledgedFIN: a FIN that nobody acknowledges closes nothing. As long as its sender repeats it, it is waited for.
func TestUnacknowledgedFIN(t *testing.T) {
	for _, s := range []side{client, server} {
		t.Run(s.String(), func(t *testing.T) {
			closed := StateClientClosed + State(s)
			for _, test := range []struct {
				name  string
				then  func(r *finRig)
				state State
				lasts time.Duration
			}{
				{"never", func(*finRig) {}, StateOpen, DefaultTransitoryTimeout},
				{"sent again", func(r *finRig) {
					for range 10 {
						r.now = r.now.Add(2 * time.Minute)
						r.send(s, 0, 0, true, 0)
					}
				}, StateOpen, DefaultTransitoryTimeout},
				{"at last", func(r *finRig) { r.send(s.peer(), 0, 1, false, 0) }, closed, DefaultIdleTimeout},
				{"with data", func(r *finRig) { r.send(s.peer(), 0, 1, false, 100) }, closed, DefaultIdleTimeout},
				{"an old acknowledgement", func(r *finRig) { r.send(s.peer(), 0, 0, false, 100) }, StateOpen, DefaultTransitoryTimeout},
				{"damaged", func(r *finRig) {
					f := r.from(s.peer(), r.base[s.peer()], r.told[s]+1, flagACK, 500, 0)
					f[0] = 0 // what was the kernel's to complete counts as it is
					r.sentFor(f)
				}, StateOpen, DefaultTransitoryTimeout},
				{"it was none: its sender has more", func(r *finRig) {
					r.send(s, 0, 0, false, 100)
					r.send(s.peer(), 0, 1, false, 0) // nobody's, or the end of a segment
				}, StateOpen, DefaultIdleTimeout},
				{"it was none: its receiver has more", func(r *finRig) {
					r.send(s.peer(), 0, 2, false, 0)
					r.send(s.peer(), 0, 1, false, 0)
				}, StateOpen, DefaultIdleTimeout},
				{"acknowledged, and sent again", func(r *finRig) {
					r.send(s.peer(), 0, 1, false, 0)
					r.send(s, 0, 0, true, 0)
				}, closed, DefaultIdleTimeout},
				{"both, and only one is acknowledged", func(r *finRig) {
					r.send(s.peer(), 0, 1, true, 0)
				}, closed, DefaultTransitoryTimeout},
				{"both, crossed", func(r *finRig) {
					r.send(s.peer(), 0, 0, true, 0)
					r.send(s, 1, 1, false, 0)
					r.send(s.peer(), 1, 1, false, 0)
				}, StateTimeWait, DefaultTransitoryTimeout},
			} {
				t.Run(test.name, func(t *testing.T) {
					r := newFINRig(t)
					r.send(s, 0, 0, true, 0)
					r.wantStates(StateOpen, 1)
					test.then(r)
					r.lasts(test.state, test.lasts)
				})
			}
		})
	}
}

// TestFINAhead: a FIN before which something is missing may be one that has overtaken the last data, or anybody's who doesn't know the
// numbers. It shortens no time-out, but counts when all has come.
func TestFINAhead(t *testing.T) {
	for _, s := range []side{client, server} {
		t.Run(s.String(), func(t *testing.T) {
			r := newFINRig(t)
			r.send(s, 100, 0, true, 0)
			r.lasts(StateOpen, DefaultIdleTimeout)

			r = newFINRig(t)
			r.send(s, 100, 0, true, 0)
			r.send(s, 0, 0, false, 100)
			r.send(s.peer(), 0, 100, false, 0)
			r.wantStates(StateOpen, 1)
			r.send(s.peer(), 0, 101, false, 0)
			r.lasts(StateClientClosed+State(s), DefaultIdleTimeout)

			r = newFINRig(t)
			r.send(s, 100, 0, true, 0)
			r.send(s, 0, 0, false, 200)
			r.send(s.peer(), 0, 101, false, 0)
			r.lasts(StateOpen, DefaultIdleTimeout)

			r = newFINRig(t) // sent again when what was missing has come
			r.send(s, 100, 0, true, 0)
			r.send(s, 0, 0, false, 100)
			r.send(s, 100, 0, true, 0)
			r.lasts(StateOpen, DefaultTransitoryTimeout)
		})
	}
}

// TestFINBehind: what was followed by data is no FIN.
func TestFINBehind(t *testing.T) {
	for _, s := range []side{client, server} {
		r := newFINRig(t)
		r.send(s, 0, 0, false, 100)
		r.send(s, 50, 0, true, 0)
		r.send(s.peer(), 0, 100, false, 0)
		r.lasts(StateOpen, DefaultIdleTimeout)
	}
}

// TestFINAndShortIdleTimeout: a FIN makes no flow last longer.
func TestFINAndShortIdleTimeout(t *testing.T) {
	r := newFINRig(t)
	cfg := r.proxy.cfg
	cfg.Services = []Service{r.proxy.policy.Load().services[0].Service}
	cfg.IdleTimeout = time.Minute
	if err := r.proxy.Reload(cfg, r.now); err != nil {
		t.Fatal(err)
	}
	r.send(client, 0, 0, true, 0)
	r.lasts(StateOpen, time.Minute)
}

// TestDamagedFIN: a FIN with a wrong checksum is none.
func TestDamagedFIN(t *testing.T) {
	r := newFINRig(t)
	f := r.from(client, r.base[client], r.told[server], flagFIN|flagACK, 500, 0)
	f[0] = 0
	r.sentFor(f)
	r.send(server, 0, 1, false, 0)
	r.lasts(StateOpen, DefaultIdleTimeout)
}

// TestFINOfFormerConnection: in the record of a direct flow that begins anew, nothing is left of the FIN of the one before.
func TestFINOfFormerConnection(t *testing.T) {
	r := newRig(t, DefaultOptions())
	connect := func(isn, answer seqnum.Value) {
		r.sentFor(r.from(server, isn, 0, flagSYN, 500, 0))
		r.sentFor(r.from(client, answer, isn+1, flagSYN|flagACK, 500, 0))
		r.sentFor(r.from(server, isn+1, answer+1, flagACK, 500, 0))
	}
	connect(9000, 100)
	r.sentFor(r.from(server, 9001, 101, flagFIN|flagACK, 500, 0))
	connect(1<<20, 1<<21)
	r.sentFor(r.from(client, 1<<21+1, 1<<20+1, flagACK, 500, 0))
	r.wantStates(StateOpen, 1)
}
