package proxy_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"levee/proxy"
	"levee/proxy/proxytest"
)

// dialogue is a conversation under way.
type dialogue struct {
	*talkPlan
	run            *impairedRun
	number         int
	client, server *proxytest.Conn
	// up and down are what the server and the client must receive; next is the next message to send.
	up, down []byte
	next     int

	dialed, opened, ended time.Duration
	done                  bool
	aborted               bool
	// broken says how the conversation ended if not as planned: who found what.
	broken string
}

// impairedRun is one network at work on a scenario.
type impairedRun struct {
	*proxytest.Network
	sc      *scenario
	tb      testing.TB
	tracker *proxytest.Tracker
	talks   []*dialogue
	servers []*proxytest.Conn
	faults  []string
	// lingering counts flows that only their time-out has ended.
	lingering int
}

// newImpairedRun starts a run, with levee or without. In two runs with one salt a segment meets the same fate.
func newImpairedRun(tb testing.TB, sc *scenario, direct bool, salt uint64) *impairedRun {
	cfg := sc.cfg
	cfg.Direct = direct
	r := &impairedRun{Network: proxytest.New(tb, cfg), sc: sc, tb: tb}
	var overtaken [proxytest.NumHops]time.Duration
	for hop := range sc.wires {
		overtaken[hop] = latest(&sc.wires[hop]) + 2*time.Millisecond
	}
	r.tracker = r.Track(overtaken)
	if sc.narrowMTU > 0 {
		r.Narrow(sc.narrow, sc.narrowAt, sc.narrowMTU)
		r.Narrow(sc.narrowBack, sc.narrowAt, sc.narrowMTU)
	}
	r.Impair(sc.seed^salt<<32, sc.wires)
	r.Server.Listen(sc.v.serverAddr(), r.accept)
	for i := range sc.talks {
		t := &dialogue{talkPlan: &sc.talks[i], run: r, number: i}
		for j, m := range t.messages {
			if m.fromServer {
				t.down = append(t.down, t.content(j)...)
			} else {
				t.up = append(t.up, t.content(j)...)
			}
		}
		r.talks = append(r.talks, t)
	}
	return r
}

// content is the bytes of a message: unlike those of any other.
func (t *dialogue) content(i int) []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], t.run.sc.seed)
	seed[8], seed[9] = byte(t.number), byte(i)
	b := make([]byte, t.messages[i].size)
	_, _ = rand.NewChaCha8(seed).Read(b)
	return b
}

func (r *impairedRun) fault(format string, args ...any) {
	r.faults = append(r.faults, fmt.Sprintf("%v: ", r.Clock.Elapsed())+fmt.Sprintf(format, args...))
}

func (r *impairedRun) accept(c *proxytest.Conn) {
	r.servers = append(r.servers, c)
	c.KeepAlive(7 * time.Second)
	port := c.Remote().Port()
	for i := len(r.talks) - 1; i >= 0; i-- {
		t := r.talks[i]
		if t.port != port || t.client == nil {
			continue
		}
		if t.server != nil {
			r.fault("conversation %d: the server has accepted it twice", i)
			return
		}
		t.server, t.opened = c, r.Clock.Elapsed()
		c.StopReading(t.stallServer > 0)
		return
	}
	r.fault("the server has accepted a connection from port %d, which nobody has opened", port)
}

// poll does what is to be done, and says whether all is.
func (r *impairedRun) poll() bool {
	all := true
	for _, t := range r.talks {
		if !t.done {
			t.poll()
			all = all && t.done
		}
	}
	return all
}

func (t *dialogue) poll() {
	r, now := t.run, t.run.Clock.Elapsed()
	if t.client == nil {
		start := t.start
		if t.again {
			before := r.talks[t.number-1]
			if !before.done || !before.client.Gone() {
				return
			}
			start += before.ended
		}
		if now < start {
			// Something must happen then.
			r.Clock.AfterFunc(start-now, func() {})
			return
		}
		t.dialed = now
		t.client = r.Client.Dial(t.port, r.sc.v.serverAddr())
		t.client.KeepAlive(5 * time.Second)
		if t.stallClient > 0 {
			t.client.StopReading(true)
			r.Clock.AfterFunc(t.stallClient, func() { t.client.StopReading(false) })
		}
		if t.stallServer > 0 {
			r.Clock.AfterFunc(t.stallServer, func() {
				t.stallServer = 0
				if t.server != nil {
					t.server.StopReading(false)
				}
			})
		}
	}
	t.check()
	t.speak()
	t.close()
	t.finish()
}

// check compares what has arrived with what was sent.
func (t *dialogue) check() {
	if got := t.client.Received(); !bytes.HasPrefix(t.down, got) {
		t.run.tb.Fatalf("conversation %d: the client has received %d bytes, wrong ones", t.number, len(got))
	}
	if t.server != nil && !bytes.HasPrefix(t.up, t.server.Received()) {
		t.run.tb.Fatalf("conversation %d: the server has received %d bytes, wrong ones", t.number, len(t.server.Received()))
	}
}

// speak sends the messages whose turn has come.
func (t *dialogue) speak() {
	for ; t.next < len(t.messages); t.next++ {
		m := t.messages[t.next]
		from := t.client
		if m.fromServer {
			from = t.server
		}
		if from == nil {
			return
		}
		before := 0
		for _, other := range t.messages[:t.next] {
			if other.fromServer != m.fromServer {
				before += other.size
			}
		}
		if !t.eager && len(from.Received()) < before {
			return
		}
		if t.waits(t.next) && !from.EOF() {
			return
		}
		from.Send(t.content(t.next))
		if t.lastOf(t.next) && (t.end == clientEarly && !m.fromServer || t.end == serverEarly && m.fromServer) {
			from.CloseWrite()
		}
	}
}

// waits says whether message i waits for the other side's FIN.
func (t *dialogue) waits(i int) bool {
	m := t.messages[i]
	return i == len(t.messages)-1 && !t.eager && (t.end == clientEarly && m.fromServer || t.end == serverEarly && !m.fromServer) && t.speaks(!m.fromServer)
}

// speaks says whether the side has a message.
func (t *dialogue) speaks(server bool) bool {
	for _, m := range t.messages {
		if m.fromServer == server {
			return true
		}
	}
	return false
}

// lastOf says whether message i is its sender's last.
func (t *dialogue) lastOf(i int) bool {
	for _, m := range t.messages[i+1:] {
		if m.fromServer == t.messages[i].fromServer {
			return false
		}
	}
	return true
}

// close ends the conversation when all is said.
func (t *dialogue) close() {
	if t.server == nil || t.aborted {
		return
	}
	if t.end.aborts() {
		now := t.run.Clock.Elapsed()
		if at := t.opened + t.abortAt; now < at {
			t.run.Clock.AfterFunc(at-now, func() {})
			return
		}
		t.aborted = true
		if t.end == clientAborts {
			t.client.Abort()
		} else {
			t.server.Abort()
		}
		return
	}
	if t.next < len(t.messages) || len(t.client.Received()) < len(t.down) || len(t.server.Received()) < len(t.up) {
		return
	}
	if t.end != serverFirst && t.end != serverEarly || t.client.EOF() {
		t.client.CloseWrite()
	}
	if t.end != clientFirst && t.end != clientEarly || t.server.EOF() {
		t.server.CloseWrite()
	}
}

// finish notes when both ends know that the conversation is over.
func (t *dialogue) finish() {
	c, s := t.client, t.server
	over := func(c *proxytest.Conn) bool { return c.Err() != nil || c.EOF() }
	switch {
	case t.aborted:
		if t.end == clientAborts && !over(s) || t.end == serverAborts && !over(c) {
			return
		}
	case s != nil && c.EOF() && s.EOF() && len(c.Received()) == len(t.down) && len(s.Received()) == len(t.up):
	case c.Err() != nil && (s == nil || over(s)):
		t.broken = fmt.Sprintf("client: %v", c.Err())
		if s != nil {
			t.broken += fmt.Sprintf(", server: %v", s.Err())
		}
	case s != nil && s.Err() != nil && over(c):
		t.broken = fmt.Sprintf("server: %v", s.Err())
	default:
		return
	}
	t.done, t.ended = true, t.run.Clock.Elapsed()
	c.Close()
	if s != nil {
		s.Close()
	}
}

// took is how long the conversation lasted.
func (t *dialogue) took() time.Duration { return t.ended - t.dialed }

// goOn runs the scenario to its end and judges it.
func (r *impairedRun) goOn(direct bool) {
	r.tb.Helper()
	r.Until("all conversations over", 10*patience, r.poll)
	r.Until("all connections gone", 2*patience, func() bool {
		for _, c := range r.servers {
			if !c.Gone() {
				return false
			}
		}
		for _, t := range r.talks {
			if !t.client.Gone() {
				return false
			}
		}
		return true
	})
	for _, f := range r.tracker.Faults {
		r.fault("%v", f)
	}
	if direct {
		return
	}
	r.Advance(patience + 2*time.Second) // the transitory time-out of every scenario
	if r.lingering = len(r.Flows()); r.lingering > 0 {
		// A RST that was lost, say: nobody could tell levee.
		if r.sc.clean {
			r.fault("flows are left, though nothing was lost: %+v", r.Flows())
		}
		r.Advance(2 * patience)
	}
	r.checkCounters()
}

// checkCounters: nothing is left in the table, and the counters fit what was seen from outside and each other.
func (r *impairedRun) checkCounters() {
	s := r.Proxy.Snapshot()
	svc := s.Services[0]
	if s.Flows[proxy.StateFree] != s.Capacity || svc.Flows != 0 {
		r.fault("flows are left: %+v", r.Flows())
	}
	var received, sent, opened uint64
	for _, w := range s.Workers {
		received += w.Received
		sent += w.Sent
	}
	for _, n := range s.Handshake.Buckets {
		opened += n
	}
	if received != r.ToLevee || sent != r.FromLevee {
		r.fault("%d packets received and %d sent are counted, not %d and %d", received, sent, r.ToLevee, r.FromLevee)
	}
	if svc.Opened != opened || svc.Opened < uint64(len(r.servers)) || svc.Mismatched != 0 ||
		svc.CookieValid < svc.Opened+svc.Refused+svc.TimedOut || svc.CookieValid > svc.SynReceived {
		r.fault("counters don't fit each other: %+v, %d handshakes, %d accepted", svc, opened, len(r.servers))
	}
	if !r.sc.cfg.Hostile {
		for _, reason := range []proxy.DropReason{
			proxy.DropTruncated, proxy.DropBadIP, proxy.DropBadTCP, proxy.DropBadOptions, proxy.DropBadFlags,
			proxy.DropBadChecksum, proxy.DropLand, proxy.DropFragment, proxy.DropTableFull,
		} {
			if s.Drops[reason] > 0 {
				r.fault("%d packets dropped as %v, though none was corrupted", s.Drops[reason], reason)
			}
		}
	}
	if svc.TimedOut == 0 {
		r.checkResets()
	}
}

// checkResets: whoever was not accepted, and has got a RST, has got it from the server.
func (r *impairedRun) checkResets() {
	for _, t := range r.talks {
		if t.broken != "" && t.server == nil && t.client.Err() == proxytest.ErrReset {
			if len(r.Trace.At(proxytest.FromServer, func(p *proxytest.Record) bool { return isRst(p) && p.TCP.DstPort == t.port })) == 0 {
				r.fault("conversation %d: a reset without a reason", t.number)
			}
		}
	}
}

// handshakes says of each conversation whether an ACK of its handshake was lost, or corrupted, on its way to levee.
func (r *impairedRun) handshakes() []bool {
	lost := make([]bool, len(r.talks))
	for i := range r.Trace {
		p := &r.Trace[i]
		for j, t := range r.talks {
			if p.Hop == proxytest.FromClient && p.Fate.Drop && p.TCP.SrcPort == t.port && p.Is(ack) &&
				p.At >= t.dialed && (t.server == nil || p.At <= t.opened) {
				lost[j] = true
			}
		}
	}
	return lost
}
