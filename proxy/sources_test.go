package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/stack"
)

// These tests are about what levee does with packets because of where they claim to come from.

// host speaks for one address of the clients' side.
type host struct {
	*rig
	addr netip.Addr
	port uint16
}

func (r *rig) host(addr string) *host { return &host{r, netip.MustParseAddr(addr), 40000} }

// server is the server that a host speaks to: of its family.
func (h *host) server() stack.Addr {
	if h.addr.Is6() {
		return stack.AddrFrom(netip.MustParseAddr("2001:db8:1::1"))
	}
	return rigServer
}

// frame is a segment from the host to its server, or back.
func (h *host) frame(from side, s stack.Segment) []byte {
	s.Src, s.Dst, s.SrcPort, s.DstPort = stack.AddrFrom(h.addr), h.server(), h.port, 80
	if from == server {
		s.Src, s.Dst, s.SrcPort, s.DstPort = s.Dst, s.Src, s.DstPort, s.SrcPort
	}
	if s.Flags&flagSYN == 0 {
		s.WScale = WScaleNone
	}
	return s.Build(make([]byte, stack.MaxBuilt))
}

// sends gives levee a segment of the host's and returns what it sends.
func (h *host) sends(s stack.Segment) []stack.Packet { return h.sentFor(h.frame(client, s)) }

// hears gives levee a segment to the host from its server and returns what it sends.
func (h *host) hears(s stack.Segment) []stack.Packet { return h.sentFor(h.frame(server, s)) }

// syn sends a SYN from the next port, and returns the answer, if that is a SYN-ACK.
func (h *host) syn() (synAck stack.Packet, answered bool) {
	h.port++
	sent := h.sends(stack.Segment{Seq: 1000, Flags: flagSYN, Window: 64240, MSS: 1460, WScale: 7})
	if len(sent) != 1 || sent[0].Flags != flagSYN|flagACK || sent[0].Dst != stack.AddrFrom(h.addr) {
		return synAck, false
	}
	return sent[0], true
}

// acknowledge completes a handshake and says whether levee asks the server.
func (h *host) acknowledge(synAck stack.Packet) bool {
	sent := h.sends(stack.Segment{Seq: 1001, Ack: synAck.Seq + 1, Flags: flagACK, Window: 500})
	return len(sent) == 1 && sent[0].Flags == flagSYN && sent[0].Dst == h.server()
}

// connect shakes hands and says whether levee asks the server.
func (h *host) connect() bool {
	synAck, answered := h.syn()
	return answered && h.acknowledge(synAck)
}

// open opens a connection that is proxied, of client's and server's initial sequence numbers 1000 and 5000, and returns the cookie.
func (h *host) open() seqnum.Value {
	h.t.Helper()
	synAck, _ := h.syn()
	if !h.acknowledge(synAck) {
		h.t.Fatal("no flow")
	}
	h.hears(stack.Segment{Seq: 5000, Ack: 1001, Flags: flagSYN | flagACK, Window: 65535, MSS: 1460, WScale: 7})
	h.wantStates(StateOpen, 1)
	return synAck.Seq
}

// direct sends a SYN from the next port, and says whether it goes to the server as it is.
func (h *host) direct() bool {
	h.port++
	return slices.ContainsFunc(h.sends(stack.Segment{Seq: 1000, Flags: flagSYN, Window: 64240, MSS: 1460, WScale: 7}), func(p stack.Packet) bool {
		return p.SrcPort == h.port && p.Flags == flagSYN && p.Dst == h.server() && p.Seq == 1000 && p.Window == 64240
	})
}

// drops is how many packets were dropped for a reason.
func (r *rig) drops(reason DropReason) int { return int(r.proxy.Snapshot().Drops[reason]) }

// newSourceRig is a rig with both families.
func newSourceRig(t *testing.T, edit func(*Config)) *rig {
	r := newRig(t, DefaultOptions())
	cfg := r.proxy.cfg
	cfg.Replies = Replies{}
	cfg.Services[0].Prefixes = append(cfg.Services[0].Prefixes, netip.MustParsePrefix("2001:db8:1::/64"))
	if edit != nil {
		edit(&cfg)
	}
	if err := r.proxy.Reload(cfg, r.now); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestReplyBudget: a network is answered so often and no more, whichever of its addresses are used; answers that lead to
// connections don't count.
func TestReplyBudget(t *testing.T) {
	for _, tt := range []struct{ one, same, other string }{
		{"203.0.113.1", "203.0.113.255", "203.0.112.1"},
		{"2001:db8:5:100::1", "2001:db8:5:1ff::1", "2001:db8:5:200::1"},
	} {
		r := newSourceRig(t, func(cfg *Config) { cfg.Replies.PerNetwork = 20 })
		one, same, other := r.host(tt.one), r.host(tt.same), r.host(tt.other)
		for range 100 {
			if !one.connect() {
				t.Fatal("a client that completes its handshakes is not answered")
			}
		}
		answers := func(h *host, n int) (answered int) {
			for range n {
				if _, ok := h.syn(); ok {
					answered++
				}
			}
			return answered
		}
		if n := answers(one, 10) + answers(same, 30); n != 20 {
			t.Errorf("%d of 40 SYNs of one network were answered, not 20", n)
		}
		if n := r.drops(DropReplyBudget); n != 20 {
			t.Errorf("%d dropped for it, not 20", n)
		}
		if n := answers(other, 10); n != 10 {
			t.Errorf("%d of 10 SYNs of another network were answered", n)
		}
		r.now = r.now.Add(500 * time.Millisecond)
		if n := answers(same, 30); n != 10 {
			t.Errorf("after half a second %d SYNs were answered, not 10", n)
		}
	}
}

// TestBudgetSharing: with many networks used up, hardly any other suffers; and many sources together take a little of everybody's.
func TestBudgetSharing(t *testing.T) {
	const rate = 10
	b := newBudget()
	network := func(i int) source {
		return networkOf(&stack.Addr{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, byte(i >> 16), byte(i >> 8), byte(i), 9})
	}
	for i := range 1000 {
		for range 3 * rate {
			b.take(network(i), 0, rate)
		}
	}
	refused := 0
	for i := 100_000; i < 200_000; i++ {
		if !b.take(network(i), 0, rate) {
			refused++
		}
	}
	// A share of 1000/65536 in each row, growing by what is taken here: a few in a million for the first, and more as 100,000 fill it up.
	if refused > 200 {
		t.Errorf("%d of 100,000 networks were refused because of 1,000 others", refused)
	}
}

// TestNeighbours: of all that claim to be on a large link of the gateway's only so many are answered, whatever their address; each family has
// its own share.
func TestNeighbours(t *testing.T) {
	r := newSourceRig(t, func(cfg *Config) {
		cfg.Replies.Neighbours = 16
		cfg.Neighbours = []netip.Prefix{netip.MustParsePrefix("2001:db8:2::/64"), netip.MustParsePrefix("10.0.0.0/8")}
	})
	count := func(at string) (answered int) {
		addr := netip.MustParseAddr(at)
		for range 100 {
			if _, ok := r.host(addr.String()).syn(); ok {
				answered++
			}
			addr = addr.Next()
		}
		return answered
	}
	if n := count("2001:db8:2::77"); n != 16 {
		t.Errorf("%d neighbours of IPv6 were answered, not 16", n)
	}
	if n := count("10.1.2.200"); n != 16 {
		t.Errorf("%d neighbours of IPv4 were answered, not 16", n)
	}
	if n := r.drops(DropNeighbours); n != 168 {
		t.Errorf("%d dropped for it, not 168", n)
	}
	if n := count("2001:db8:3::1"); n != 100 {
		t.Errorf("%d others were answered", n)
	}
	r.now = r.now.Add(time.Second)
	near := r.host("2001:db8:2::1")
	for range 100 {
		if !near.connect() {
			t.Fatal("a neighbour that completes its handshakes is not answered")
		}
	}
	// It is known now, whoever forges its neighbours.
	if n := count("2001:db8:2::77:1"); n > 17 {
		t.Errorf("%d new neighbours were answered", n)
	}
	if !near.connect() {
		t.Error("a known neighbour is not answered in a flood")
	}
	// So is a protected address that calls another.
	if _, ok := r.host("192.0.2.200").syn(); !ok {
		t.Error("a server is not answered")
	}
}

// TestNoSource: nothing is answered that no host can have sent, or that would be answered to a network behind the servers' links.
func TestNoSource(t *testing.T) {
	r := newSourceRig(t, func(cfg *Config) { cfg.NoSources = []netip.Prefix{netip.MustParsePrefix("198.51.100.255/32")} })
	addrs := []string{"0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.1.1", "224.0.0.1", "239.255.255.255", "255.255.255.255", "198.51.100.255", "::", "::1", "fe80::1", "ff02::1"}
	for _, addr := range addrs {
		if sent := r.host(addr).sends(stack.Segment{Seq: 1, Flags: flagSYN, WScale: WScaleNone}); len(sent) != 0 {
			t.Errorf("a SYN from %s makes levee send %+v", addr, sent)
		}
	}
	if n := r.drops(DropNoSource); n != len(addrs) {
		t.Errorf("%d dropped for it, not %d", n, len(addrs))
	}
	if _, ok := r.host("198.51.100.254").syn(); !ok {
		t.Error("its neighbour is not answered")
	}
}

// TestAnswerIsNoLarger: whatever the options of a SYN, there is one answer, no larger than the SYN with its options padded.
func TestAnswerIsNoLarger(t *testing.T) {
	for bits := range 16 {
		o := DefaultOptions()
		o.Timestamps, o.ECN = true, true
		r := newRig(t, o)
		s := stack.Segment{Seq: 1000, Flags: flagSYN | flagECE | flagCWR, Window: 1, WScale: WScaleNone, SACKPermitted: bits&1 != 0, Timestamps: bits&2 != 0, TSVal: 5}
		if bits&4 != 0 {
			s.WScale = 7
		}
		if bits&8 != 0 {
			s.MSS = 1460
		}
		syn := r.host("203.0.113.1").frame(client, s)
		sent := r.sentFor(syn)
		if len(sent) != 1 || len(sent[0].IP) > len(syn)-stack.VirtioLen {
			t.Errorf("a SYN of %d bytes is answered by %+v", len(syn)-stack.VirtioLen, sent)
		}
	}
}

// TestLists: the longest prefix of both lists counts.
func TestLists(t *testing.T) {
	r := newSourceRig(t, func(cfg *Config) {
		s := &cfg.Services[0]
		for _, p := range []string{"203.0.113.0/24", "198.51.100.7/32", "2001:db8:a::/48"} {
			s.Allow = append(s.Allow, netip.MustParsePrefix(p))
		}
		for _, p := range []string{"203.0.113.128/25", "198.51.100.0/24", "2001:db8:a:b::/64"} {
			s.Deny = append(s.Deny, netip.MustParsePrefix(p))
		}
	})
	for _, addr := range []string{"203.0.113.1", "198.51.100.7", "2001:db8:a::1"} {
		h := r.host(addr)
		if !h.direct() {
			t.Errorf("%s is allowed, but its SYN doesn't pass", addr)
		}
		if sent := h.sends(stack.Segment{Seq: 5, Ack: 6, Flags: flagACK, Window: 1}); len(sent) != 0 {
			t.Errorf("%s: its ACK passes before the server has answered", addr)
		}
		if sent := h.hears(stack.Segment{Seq: 9, Ack: 1001, Flags: flagSYN | flagACK, Window: 1}); len(sent) != 1 || sent[0].Seq != 9 {
			t.Errorf("%s: the server's answer becomes %+v", addr, sent)
		}
		if sent := h.sends(stack.Segment{Seq: 1001, Ack: 10, Flags: flagACK, Window: 1}); len(sent) != 1 || sent[0].Ack != 10 {
			t.Errorf("%s: its ACK becomes %+v", addr, sent)
		}
		h.port++
		for _, sent := range [][]stack.Packet{
			h.sends(stack.Segment{Seq: 5, Ack: 6, Flags: flagACK, Window: 1}),
			h.hears(stack.Segment{Seq: 6, Ack: 5, Flags: flagACK, Window: 1}),
		} {
			if len(sent) != 1 || sent[0].Window != 1 {
				t.Errorf("%s is allowed, but a segment of no flow becomes %+v", addr, sent)
			}
		}
	}
	r.wantStates(StateOpen, 6) // one each by its SYN, and one by the server's segment
	denied := []string{"203.0.113.128", "198.51.100.8", "2001:db8:a:b::1"}
	for _, addr := range denied {
		h := r.host(addr)
		for _, flags := range []header.TCPFlags{flagSYN, flagACK, flagRST} {
			if sent := h.sends(stack.Segment{Seq: 5, Ack: 6, Flags: flags, Window: 1, WScale: WScaleNone}); len(sent) != 0 {
				t.Errorf("%s is denied, but levee sends %+v", addr, sent)
			}
		}
	}
	if _, ok := r.host("203.0.114.1").syn(); !ok {
		t.Error("an address on no list is not answered")
	}
	s := r.proxy.Snapshot()
	if s.Drops[DropDenied] != uint64(3*len(denied)) || s.Services[0].Denied != uint64(3*len(denied)) || s.Services[0].Allowed != 9 || s.Passed[PassAllowed] != 9 {
		t.Errorf("drops %d, denied %d, allowed %d, passed %d", s.Drops[DropDenied], s.Services[0].Denied, s.Services[0].Allowed, s.Passed[PassAllowed])
	}
}

// TestDeniedKeepsFlows: a source that is denied from now on keeps its connection, and opens no other with the cookie that it has.
func TestDeniedKeepsFlows(t *testing.T) {
	r := newSourceRig(t, nil)
	h := r.host("198.51.100.7")
	h.connect()
	k := h.hears(stack.Segment{Seq: 5000, Ack: 1001, Flags: flagSYN | flagACK, Window: 1000, WScale: WScaleNone})
	port := h.port
	waiting, _ := h.syn()
	cfg := r.proxy.cfg
	cfg.Services[0].Deny = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	if err := r.proxy.Reload(cfg, r.now); err != nil {
		t.Fatal(err)
	}
	if h.acknowledge(waiting) {
		t.Error("a denied source opens a connection")
	}
	h.port = port
	if sent := h.sends(stack.Segment{Seq: 1001, Ack: k[1].Seq, Flags: flagACK | flagPSH, Window: 1}); len(sent) != 1 || sent[0].Ack != 5001 {
		t.Errorf("a segment of its open flow becomes %+v", sent)
	}
}

// TestVerified: a source that has completed a handshake opens connections by itself, so many a second, for as long as its proof lasts.
func TestVerified(t *testing.T) {
	for _, tt := range []struct{ one, same, other string }{
		{"203.0.113.1", "203.0.113.1", "203.0.113.2"},
		{"2001:db8:5:100::1", "2001:db8:5:100:ffff::1", "2001:db8:5:101::1"},
	} {
		v := Verified{TTL: 10 * time.Second, Rate: 5}
		r := newSourceRig(t, func(cfg *Config) { cfg.Services[0].Verified = v })
		one, same, other := r.host(tt.one), r.host(tt.same), r.host(tt.other)
		if one.direct() {
			t.Error("a source opens a connection by itself before it has proved to exist")
		}
		if !one.connect() || !other.connect() {
			t.Fatal("no connection")
		}
		same.port, one.port = 50000, 60000
		if _, ok := r.host("203.0.113.3").syn(); !ok {
			t.Error("a stranger gets no cookie")
		}
		n := 0
		for range 20 {
			if same.direct() {
				n++
			}
		}
		if n != v.Rate {
			t.Errorf("%d of 20 connections were opened directly, not %d", n, v.Rate)
		}
		if _, ok := one.syn(); !ok {
			t.Error("beyond the rate there is no cookie")
		}
		if other.port = 60000; !other.direct() {
			t.Error("another source is held back with it")
		}
		r.now = r.now.Add(v.TTL)
		if !one.direct() {
			t.Error("the proof ends too early")
		}
		r.now = r.now.Add(time.Millisecond)
		if _, ok := one.syn(); !ok {
			t.Error("the proof lasts too long")
		}
		if s := r.proxy.Snapshot(); s.Passed[PassVerified] != uint64(v.Rate+2) || s.Services[0].Verified != uint64(v.Rate+2) {
			t.Errorf("%d passed, %d counted, not %d", s.Passed[PassVerified], s.Services[0].Verified, v.Rate+2)
		}
	}
}

// TestVerifiedRenewed: a handshake with the server itself is a proof as well as one with levee; half of one is none.
func TestVerifiedRenewed(t *testing.T) {
	for _, completed := range []bool{false, true} {
		v := Verified{TTL: 10 * time.Second, Rate: 5}
		r := newSourceRig(t, func(cfg *Config) { cfg.Services[0].Verified = v })
		h := r.host("203.0.113.1")
		h.connect()
		r.now = r.now.Add(v.TTL)
		h.direct()
		h.hears(stack.Segment{Seq: 9, Ack: 1001, Flags: flagSYN | flagACK, Window: 1})
		if completed {
			h.sends(stack.Segment{Seq: 1001, Ack: 10, Flags: flagACK, Window: 1})
		} else {
			h.sends(stack.Segment{Seq: 1001, Ack: 11, Flags: flagACK, Window: 1})
		}
		r.now = r.now.Add(v.TTL)
		if got := h.direct(); got != completed {
			t.Errorf("handshake completed %v, verified %v", completed, got)
		}
	}
}

// TestVerifiedIsBounded: more sources than there is room for push out those that proved themselves longest ago, and only in their set.
func TestVerifiedIsBounded(t *testing.T) {
	table := newVerifiedSources()
	v := Verified{TTL: time.Hour, Rate: 1}
	const n = 4 * verifiedSets * verifiedWays
	at := func(i int) source {
		return source{stack.Addr{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}, 0}
	}
	for i := range n {
		table.prove(at(i), time.Duration(i))
	}
	admitted := 0
	for i := range n {
		if table.admit(at(i), n, v) {
			admitted++
		}
	}
	if admitted > verifiedSets*verifiedWays || admitted < verifiedSets*verifiedWays*9/10 {
		t.Errorf("%d of %d sources are known, of %d there is room for", admitted, n, verifiedSets*verifiedWays)
	}
	if !table.admit(at(n-1), 2*time.Second, v) {
		t.Error("the last to prove itself is not known")
	}
}

// TestUnknown: what becomes of segments of no flow, from either side.
func TestUnknown(t *testing.T) {
	segments := []struct {
		name string
		s    stack.Segment
		drop DropReason
		// rst is what answers it.
		rst *stack.Segment
	}{
		{"ACK", stack.Segment{Seq: 5, Ack: 6, Flags: flagACK}, DropNoFlow, &stack.Segment{Seq: 6, Flags: flagRST}},
		{"FIN", stack.Segment{Seq: 5, Ack: 6, Flags: flagFIN | flagACK}, DropNoFlowFIN, &stack.Segment{Seq: 6, Flags: flagRST}},
		{"SYN-ACK", stack.Segment{Seq: 5, Ack: 6, Flags: flagSYN | flagACK, WScale: WScaleNone}, DropNoFlowSYNACK, &stack.Segment{Seq: 6, Flags: flagRST}},
		{"RST", stack.Segment{Seq: 5, Flags: flagRST}, DropNoFlowRST, nil},
		{"RST+ACK", stack.Segment{Seq: 5, Ack: 6, Flags: flagRST | flagACK}, DropNoFlowRST, nil},
	}
	for _, v6 := range []bool{false, true} {
		for _, from := range []side{client, server} {
			for _, tt := range segments {
				for _, choice := range []Unknown{UnknownDrop, UnknownPass, UnknownReset} {
					t.Run(fmt.Sprintf("%s,v6=%t,from=%d,%s", tt.name, v6, from, choice), func(t *testing.T) {
						r := newSourceRig(t, func(cfg *Config) { cfg.Services[0].Unknown = choice })
						r.now = r.now.Add(time.Hour) // no cookie of an earlier process is outstanding
						h := r.host("203.0.113.1")
						if v6 {
							h = r.host("2001:db8:5::1")
						}
						sent := r.sentFor(h.frame(from, tt.s))
						switch {
						case choice == UnknownDrop || choice == UnknownReset && tt.rst == nil:
							if len(sent) != 0 || r.drops(tt.drop) != 1 {
								t.Errorf("levee sends %+v, %d drops", sent, r.drops(tt.drop))
							}
						case choice == UnknownPass:
							if len(sent) != 1 || sent[0].Seq != tt.s.Seq || sent[0].Flags != tt.s.Flags || r.proxy.Snapshot().Passed[PassUnknown] != 1 {
								t.Errorf("levee sends %+v", sent)
							}
						default:
							if len(sent) != 1 || sent[0].Seq != tt.rst.Seq || sent[0].Flags != tt.rst.Flags || r.proxy.Snapshot().Services[0].UnknownReset != 1 {
								t.Fatalf("levee sends %+v", sent)
							}
							if to := sent[0].Dst == h.server(); to != (from == server) {
								t.Errorf("the reset goes to %v", sent[0].Dst.Netip())
							}
							if len(sent[0].IP) > len(h.frame(from, tt.s))-stack.VirtioLen {
								t.Error("the reset is larger than what it answers")
							}
						}
					})
				}
			}
		}
	}
}

// TestUnknownResetBudget: resets count as answers.
func TestUnknownResetBudget(t *testing.T) {
	r := newSourceRig(t, func(cfg *Config) { cfg.Services[0].Unknown, cfg.Replies.PerNetwork = UnknownReset, 10 })
	h := r.host("203.0.113.1")
	n := 0
	for range 100 {
		n += len(h.sends(stack.Segment{Seq: 5, Ack: 6, Flags: flagACK}))
	}
	if n != 10 || r.drops(DropReplyBudget) != 90 {
		t.Errorf("%d resets, %d drops", n, r.drops(DropReplyBudget))
	}
}

// TestGrace: connections from before the start pass in the grace, go on when it is over, and end by their FINs. Others don't.
func TestGrace(t *testing.T) {
	r := newSourceRig(t, func(cfg *Config) { cfg.Grace = time.Minute })
	pass := func(what string, sent []stack.Packet, want int) {
		t.Helper()
		if len(sent) != want {
			t.Errorf("%s: %d packets pass, not %d", what, len(sent), want)
		}
	}
	live := r.host("203.0.113.1")
	pass("data", live.sends(stack.Segment{Seq: 500, Ack: 900, Flags: flagACK | flagPSH, Window: 7}), 1)
	r.wantStates(StateOpen, 0)
	pass("answer", live.hears(stack.Segment{Seq: 900, Ack: 500, Flags: flagACK, Window: 7}), 1)
	r.wantStates(StateOpen, 1)
	forged := r.host("203.0.113.2")
	pass("forged ACK", forged.sends(stack.Segment{Seq: 500, Ack: 900, Flags: flagACK}), 1)
	pass("the server's reset", forged.hears(stack.Segment{Seq: 900, Flags: flagRST}), 1)
	r.wantStates(StateOpen, 1)
	if n := r.proxy.Snapshot().Services[0].Adopted; n != 1 {
		t.Errorf("%d connections adopted", n)
	}

	r.now = r.now.Add(time.Hour)
	pass("forged ACK after the grace", forged.sends(stack.Segment{Seq: 500, Ack: 900, Flags: flagACK}), 0)
	pass("forged answer after the grace", forged.hears(stack.Segment{Seq: 900, Ack: 500, Flags: flagACK}), 0)
	pass("data after the grace", live.sends(stack.Segment{Seq: 500, Ack: 900, Flags: flagACK, Window: 7}), 1)
	pass("FIN", live.sends(stack.Segment{Seq: 500, Ack: 900, Flags: flagACK | flagFIN, Window: 7}), 1)
	pass("FIN", live.hears(stack.Segment{Seq: 900, Ack: 501, Flags: flagACK | flagFIN, Window: 7}), 1)
	r.wantStates(StateClientClosed, 1)
	pass("last ACK", live.sends(stack.Segment{Seq: 501, Ack: 901, Flags: flagACK, Window: 7}), 1)
	r.wantStates(StateTimeWait, 1)
}

// TestWentAround: when packets went around levee there is the same grace again, for connections that were opened meanwhile, and no longer.
func TestWentAround(t *testing.T) {
	r := newSourceRig(t, func(cfg *Config) { cfg.Grace = time.Minute })
	r.now = r.now.Add(time.Hour)
	strays := func(ip string) int {
		return len(r.host(ip).sends(stack.Segment{Seq: 500, Ack: 900, Flags: flagACK, Window: 7}))
	}
	if strays("203.0.113.1") != 0 {
		t.Fatal("there is grace an hour after the start")
	}
	r.proxy.WentAround(r.now)
	r.now = r.now.Add(time.Minute - time.Second)
	live := r.host("203.0.113.2")
	live.sends(stack.Segment{Seq: 500, Ack: 900, Flags: flagACK | flagPSH, Window: 7})
	live.hears(stack.Segment{Seq: 900, Ack: 500, Flags: flagACK, Window: 7})
	r.wantStates(StateOpen, 1)
	r.now = r.now.Add(2 * time.Second)
	if strays("203.0.113.3") != 0 {
		t.Error("the grace is never over")
	}
	if n := len(live.sends(stack.Segment{Seq: 500, Ack: 900, Flags: flagACK, Window: 7})); n != 1 {
		t.Error("a connection from meanwhile does not go on after the grace")
	}
}

// TestWentAroundRemembered: a connection that was opened around levee goes on although levee has another of its ports in the record, which is over or was
// not seen since.
func TestWentAroundRemembered(t *testing.T) {
	for name, end := range map[string]func(h *host, k seqnum.Value){
		"closed": func(h *host, k seqnum.Value) {
			h.sends(stack.Segment{Seq: 1001, Ack: k + 1, Flags: flagFIN | flagACK})
			h.hears(stack.Segment{Seq: 5001, Ack: 1002, Flags: flagFIN | flagACK})
			h.sends(stack.Segment{Seq: 1002, Ack: k + 2, Flags: flagACK})
		},
		"half-closed": func(h *host, k seqnum.Value) {
			h.sends(stack.Segment{Seq: 1001, Ack: k + 1, Flags: flagFIN | flagACK})
			h.hears(stack.Segment{Seq: 5001, Ack: 1002, Flags: flagACK})
		},
		"open":  func(*host, seqnum.Value) {},
		"reset": func(h *host, _ seqnum.Value) { h.sends(stack.Segment{Seq: 1001, Flags: flagRST}) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newSourceRig(t, func(cfg *Config) { cfg.Grace = time.Minute })
			r.now = r.now.Add(time.Hour)
			h := r.host("203.0.113.1")
			end(h, h.open())
			request, answer := farOff()
			for _, p := range append(h.sends(request), h.hears(answer)...) {
				if p.Ack == request.Ack || p.Seq == answer.Seq {
					t.Errorf("it passes as it came although nothing went around levee: %+v", p)
				}
			}
			r.proxy.WentAround(r.now)
			r.now = r.now.Add(time.Second)
			for range 2 {
				if sent := h.sends(request); len(sent) != 1 || sent[0].Seq != request.Seq || sent[0].Ack != request.Ack {
					t.Errorf("the request: %+v", sent)
				}
				if sent := h.hears(answer); len(sent) != 1 || sent[0].Seq != answer.Seq || sent[0].Ack != answer.Ack {
					t.Errorf("the answer: %+v", sent)
				}
				r.wantStates(StateOpen, 1)
				r.now = r.now.Add(time.Hour) // the grace is over, and the connection goes on
			}
		})
	}
}

// farOff is what two hosts send each other whose numbers are far from all others in these tests.
func farOff() (fromClient, fromServer stack.Segment) {
	fromClient = stack.Segment{Seq: 3_000_000_000, Ack: 2_000_000_000, Flags: flagACK | flagPSH, Window: 7}
	return fromClient, stack.Segment{Seq: fromClient.Ack, Ack: fromClient.Seq, Flags: fromClient.Flags, Window: 7}
}

// TestWentAroundSpares: nothing that others than the server can send has levee forget an open connection, nor does anything once it was seen again.
func TestWentAroundSpares(t *testing.T) {
	request, answer := farOff()
	for _, v6 := range []bool{false, true} {
		r := newSourceRig(t, func(cfg *Config) { cfg.Grace = time.Minute })
		r.now = r.now.Add(time.Hour)
		h := r.host("203.0.113.1")
		if v6 {
			h = r.host("2001:db8:5::1")
		}
		k := h.open()
		r.proxy.WentAround(r.now)
		r.now = r.now.Add(time.Second)
		goesOn := func(what string) {
			t.Helper()
			sent := h.hears(stack.Segment{Seq: 5001, Ack: 1001, Flags: flagACK, Window: 65535})
			if len(sent) != 1 || sent[0].Seq != k+1 {
				t.Errorf("after %s the server's segment becomes %+v", what, sent)
			}
			sent = h.sends(stack.Segment{Seq: 1001, Ack: k + 1, Flags: flagACK, Window: 65535})
			if len(sent) != 1 || sent[0].Ack != 5001 {
				t.Errorf("after %s the client's segment becomes %+v", what, sent)
			}
			r.wantStates(StateOpen, 1)
		}
		for range 100 {
			h.sends(request)
			h.sends(stack.Segment{Seq: request.Seq, Flags: flagRST})
			h.sends(stack.Segment{Seq: request.Seq, Ack: request.Ack, Flags: flagFIN | flagACK})
		}
		h.hears(stack.Segment{Seq: answer.Seq, Flags: flagRST}) // to one of these: it shows no connection
		goesOn("forged segments")
		r.now = r.now.Add(time.Second)
		goesOn("a second")
		if sent := h.hears(answer); len(sent) != 1 || sent[0].Seq == answer.Seq {
			t.Errorf("the server's stray, which belongs to nothing, becomes %+v", sent)
		}
		goesOn("the server's stray")
	}
}

// TestGraceAdoptsByFIN: a server's FIN tells of its connection too, and counts when it is acknowledged.
func TestGraceAdoptsByFIN(t *testing.T) {
	r := newSourceRig(t, func(cfg *Config) { cfg.Grace = time.Minute })
	h := r.host("203.0.113.1")
	h.hears(stack.Segment{Seq: 900, Ack: 500, Flags: flagACK | flagFIN, Window: 7})
	r.wantStates(StateOpen, 1)
	h.sends(stack.Segment{Seq: 500, Ack: 901, Flags: flagACK, Window: 7})
	r.wantStates(StateServerClosed, 1)
}

// TestGraceIsBounded: a flood of segments passes no faster in the grace than graceRate.
func TestGraceIsBounded(t *testing.T) {
	r := newSourceRig(t, func(cfg *Config) { cfg.Grace = time.Minute })
	h := r.host("203.0.113.1")
	n := 0
	for i := range 2 * graceRate {
		h.port = uint16(i)
		n += len(h.sends(stack.Segment{Seq: 5, Ack: 6, Flags: flagACK}))
	}
	if n != graceRate {
		t.Errorf("%d segments pass, not %d", n, graceRate)
	}
}

// TestPerSourceFlows: a source can have so many flows, which count until they end, however they do; others aren't affected.
func TestPerSourceFlows(t *testing.T) {
	const most = 3
	for _, end := range []struct {
		name string
		do   func(h *host, k seqnum.Value)
	}{
		{"reset by the client", func(h *host, k seqnum.Value) {
			h.sends(stack.Segment{Seq: 1001, Flags: flagRST})
		}},
		{"closed", func(h *host, k seqnum.Value) {
			h.sends(stack.Segment{Seq: 1001, Ack: k + 1, Flags: flagFIN | flagACK})
			h.hears(stack.Segment{Seq: 5001, Ack: 1002, Flags: flagFIN | flagACK})
			h.sends(stack.Segment{Seq: 1002, Ack: k + 2, Flags: flagACK})
		}},
		{"idle", func(h *host, _ seqnum.Value) {
			h.now = h.now.Add(DefaultIdleTimeout + time.Minute)
			h.sentFor(make([]byte, 3))
		}},
	} {
		t.Run(end.name, func(t *testing.T) {
			r := newSourceRig(t, func(cfg *Config) { cfg.Services[0].PerSource.Flows = most })
			h := r.host("203.0.113.1")
			early, _ := h.syn()
			first := h.port
			var k seqnum.Value
			for range most {
				synAck, _ := h.syn()
				if !h.acknowledge(synAck) {
					t.Fatal("a flow below the limit is refused")
				}
				k = synAck.Seq
				h.hears(stack.Segment{Seq: 5000, Ack: 1001, Flags: flagSYN | flagACK, Window: 1000, WScale: WScaleNone})
			}
			last := h.port
			if _, ok := h.syn(); ok {
				t.Error("a SYN beyond the limit is answered")
			}
			h.port = first
			if h.acknowledge(early) {
				t.Error("a flow beyond the limit is opened")
			}
			if n := r.drops(DropSourceFlows); n != 2 {
				t.Errorf("%d dropped for it", n)
			}
			if !r.host("203.0.113.2").connect() {
				t.Error("another source is refused")
			}
			h.port = last
			end.do(h, k)
			h.port = 50000
			if !h.connect() {
				t.Error("when one has ended, no other is let in")
			}
		})
	}
}

// TestPerSourceRate: a source opens so many flows a second; SYNs that may be forged take nothing from it.
func TestPerSourceRate(t *testing.T) {
	const rate = 5
	r := newSourceRig(t, func(cfg *Config) { cfg.Services[0].PerSource.Rate = rate })
	h := r.host("203.0.113.1")
	for range 100 {
		h.syn()
	}
	opened := 0
	for range 20 {
		if h.connect() {
			opened++
		}
	}
	if opened != rate || r.drops(DropSourceRate) != 20-rate {
		t.Errorf("%d flows opened, %d dropped", opened, r.drops(DropSourceRate))
	}
	if !r.host("203.0.113.2").connect() {
		t.Error("another source is refused")
	}
	r.now = r.now.Add(time.Second)
	if !h.connect() {
		t.Error("a second later no flow is opened")
	}
}

// TestFullTableTakesNothing: a connection for which the table has no room uses up nothing of its source's rate.
func TestFullTableTakesNothing(t *testing.T) {
	r := newSourceRig(t, nil)
	cfg := r.proxy.cfg
	cfg.Capacity, cfg.Services[0].PerSource.Rate = 1, 1
	r.start(cfg)
	other, h := r.host("203.0.113.1"), r.host("203.0.113.2")
	if !other.connect() {
		t.Fatal("the first flow is refused")
	}
	synAck, _ := h.syn()
	for range 3 {
		if h.acknowledge(synAck) {
			t.Fatal("the table isn't full")
		}
	}
	if n := r.drops(DropTableFull); n != 3 {
		t.Errorf("%d dropped for a full table", n)
	}
	other.sends(stack.Segment{Seq: 1001, Flags: flagRST})
	if !h.acknowledge(synAck) {
		t.Errorf("there is room, and no flow is opened: %d dropped for the rate", r.drops(DropSourceRate))
	}
}

// TestLaterFragmentFlood: fragments without ports pass where a first one has passed, and a few elsewhere.
func TestLaterFragmentFlood(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		r := newSourceRig(t, nil)
		h := r.host("203.0.113.1")
		if v6 {
			h = r.host("2001:db8:5::1")
		}
		fragment := func(from side) []byte {
			return fragmentOf(h.frame(from, stack.Segment{Seq: 5, Ack: 6, Flags: flagACK}), v6)
		}
		passed := func(from side) (n int) {
			for range 1000 {
				n += len(r.sentFor(fragment(from)))
			}
			return n
		}
		if n := passed(client); n != earlyFragments {
			t.Errorf("v6 %t: %d of a flood pass", v6, n)
		}
		if n := r.drops(DropLaterFragment); n != 1000-earlyFragments {
			t.Errorf("v6 %t: %d dropped", v6, n)
		}
		src, dst := stack.AddrFrom(h.addr), h.server()
		r.proxy.fragments.passed.note(&src, &dst, 0)
		if n := passed(client); n != 1000 {
			t.Errorf("v6 %t: %d of 1000 pass behind a first fragment", v6, n)
		}
		if n := passed(server); n != 0 {
			t.Errorf("v6 %t: %d pass the other way", v6, n)
		}
	}
}

// fragmentOf makes a frame a later fragment.
func fragmentOf(frame []byte, v6 bool) []byte {
	ip := frame[stack.VirtioLen:]
	if !v6 {
		header.IPv4(ip).SetFlagsFragmentOffset(0, 1480)
		return frame
	}
	ip[6], ip[40], ip[41], ip[42], ip[43] = 44, 6, 0, 5, 0xc8
	return frame
}
