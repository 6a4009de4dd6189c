package proxy

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy/cookie"
	"levee/stack"
)

// TestInFlowAttack lets somebody who knows the addresses and ports of connections, but none of their numbers, send random segments
// into them, as either end: any flags, sequence numbers, options, checksums, in every state from the SYN to after the end. Honest hosts
// open, use, close and reset these connections all the while. Every byte must arrive, no host may see a reset that the other didn't send, and
// what levee knows of a flow (state, windows, times, everything) must be the same after a forged segment as before.
//
// The hosts are models that judge a segment as RFC 9293, RFC 5961 and RFC 7323 say. A forged segment that the receiving host itself would
// take for its peer's, because chance made its numbers right, is not levee's to stop; such segments are counted and not sent.
//
// LEVEE_INFLOW_SEGMENTS sets the number of forged segments, 100,000 otherwise; 10,000,000 take ten seconds:
//
//	LEVEE_INFLOW_SEGMENTS=10000000 go test -count=1 -v -run InFlowAttack ./proxy
func TestInFlowAttack(t *testing.T) {
	n := newInflowNet(t, 1)
	n.run(inflowSegments(t))
	for s, count := range n.states {
		if count == 0 {
			t.Errorf("no segment was forged into a flow in state %v", State(s))
		}
	}
}

// TestInFlowAttackNear is TestInFlowAttack by somebody who knows the numbers about, or nearly: within 1 MB or 16 bytes. Many segments
// are then such as levee can't tell from a host's own, though the host can: they move the windows of its record, and have it take a RST for
// real, or even a FIN and its acknowledgement if they are that close, which shortens the time-out of a flow that falls idle. What the hosts say
// to each other must not suffer.
func TestInFlowAttackNear(t *testing.T) {
	for _, reach := range []seqnum.Value{1 << 20, 16} {
		t.Run(fmt.Sprint(reach), func(t *testing.T) {
			n := newInflowNet(t, 2)
			n.reach = reach
			n.run(inflowSegments(t))
			if n.near == 0 {
				t.Error("no segment came near")
			}
		})
	}
}

func inflowSegments(t *testing.T) int {
	s := os.Getenv("LEVEE_INFLOW_SEGMENTS")
	if s == "" {
		return 100_000
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("LEVEE_INFLOW_SEGMENTS: %v", err)
	}
	return n
}

// run forges so many segments, while the hosts go on, and then lets what is open end well.
func (n *inflowNet) run(segments int) {
	began := time.Now()
	for n.forged < segments && !n.t.Failed() {
		n.attack()
		n.conns[n.r.IntN(len(n.conns))].step()
		n.now = n.now.Add(time.Millisecond)
	}
	for _, c := range n.conns {
		for c.done = false; !c.done && !n.t.Failed(); {
			c.step()
		}
	}
	n.t.Logf("%d segments in %s into %d connections, %d of them at a time; by state of the flow %v; %d more would have been believed by their receiver and were not sent; %d came near enough for levee",
		n.forged, time.Since(began).Round(time.Millisecond), n.lives, len(n.conns), n.states, n.believed, n.near)
}

// inflowNet is levee and the honest hosts.
type inflowNet struct {
	t      *testing.T
	r      *rand.Rand
	proxy  *Proxy
	worker *Worker
	now    time.Time
	conns  []*inflowConn
	// in are the frames to levee, sent what it sent for them, spare their memory.
	in, sent, spare [][]byte

	// reach bounds how far forged numbers are from the right ones; 0 is any.
	reach seqnum.Value

	forged, believed, near, lives int
	states                        [NumStates]int
}

// Recv and Send make the net a Link.
func (n *inflowNet) Recv(frames [][]byte, _ time.Duration) (int, error) {
	for i, f := range n.in {
		frames[i] = frames[i][:copy(frames[i], f)]
	}
	return len(n.in), nil
}

func (n *inflowNet) Send(frames [][]byte) error {
	for _, f := range frames {
		n.sent = append(n.sent, append(n.buffer(), f...))
	}
	return nil
}

func (n *inflowNet) buffer() []byte {
	if len(n.spare) == 0 {
		return make([]byte, 0, 2048)
	}
	b := n.spare[len(n.spare)-1]
	n.spare = n.spare[:len(n.spare)-1]
	return b[:0]
}

func newInflowNet(t *testing.T, seed uint64) *inflowNet {
	n := &inflowNet{t: t, r: rand.New(rand.NewPCG(seed, 0)), now: time.Unix(1_700_000_000, 0)}
	options := DefaultOptions()
	options.Timestamps = true
	var err error
	n.proxy, err = New(Config{
		Services: []Service{{
			Name: "web", Mode: ModeAlways, Options: options,
			Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:1::/64")},
		}},
		Capacity: 1000, MTU: 1500, IdleTimeout: DefaultIdleTimeout, TransitoryTimeout: DefaultTransitoryTimeout,
		Secret: cookie.Secret{1},
	}, n.now)
	if err != nil {
		t.Fatal(err)
	}
	n.worker = n.proxy.NewWorker(n)
	for i := range batchSize {
		v6, ts, outbound := i&1 != 0, i&2 != 0, i%8 >= 6
		c := &inflowConn{net: n, ts: ts, outbound: outbound}
		outside, protected := "198.51.100.7", "192.0.2.1"
		if v6 {
			outside, protected = "2001:db8:2::7", "2001:db8:1::1"
		}
		c.addr = [2]stack.Addr{stack.AddrFrom(netip.MustParseAddr(outside)), stack.AddrFrom(netip.MustParseAddr(protected))}
		if outbound { // the protected one opens the connection
			c.addr[0], c.addr[1] = c.addr[1], c.addr[0]
		}
		c.port = [2]uint16{uint16(40000 + i), 80}
		c.host[client].nxt = seqnum.Value(n.r.Uint32())
		n.conns = append(n.conns, c)
	}
	return n
}

// attack sends a forged segment to every connection, in one batch, and checks that levee is as it was.
func (n *inflowNet) attack() {
	var targets [batchSize]*inflowConn
	var before [batchSize]flow
	var p stack.Packet
	n.in = n.in[:0]
	for _, c := range n.conns {
		from := side(n.r.IntN(2))
		frame := n.forge(c, from)
		kind := p.Parse(frame[stack.VirtioLen:], frame[0]&stack.VirtioNeedsCsum != 0)
		record := c.record()
		switch {
		case kind == stack.KindTCP && c.believes(from, &record, &p):
			n.believed++
		case c.outbound == (from == client) && isSYN(&p) && !isACK(&p) && (record.has(direct) || !live(record.state)):
			// A protected host that opens a connection of its own: any such SYN makes the record of one.
		default:
			n.forged++
			n.states[record.state]++
			targets[len(n.in)], before[len(n.in)] = c, record
			n.in = append(n.in, frame)
			continue
		}
		n.spare = append(n.spare, frame)
	}
	forged := n.in
	n.levee()
	for i, c := range targets[:len(forged)] {
		if after := c.record(); after != before[i] {
			n.drifted(c, before[i], after, forged[i])
		}
	}
	n.deliver(forged)
}

// drifted judges a change of levee's record by a forged segment.
func (n *inflowNet) drifted(c *inflowConn, before, after flow, frame []byte) {
	var p stack.Packet
	p.Parse(frame[stack.VirtioLen:], true)
	from := c.from(&p)
	same := before
	if before.state == StateOpening && from == server {
		// A SYN-SENT host resets what acknowledges something else (RFC 9293 §3.10.7.3); levee also sends its SYN again, once for
		// each that its timer sends.
		same.set(challenged, after.has(challenged))
	}
	if before.has(opened) {
		ack := p.Ack
		if from == client {
			ack -= seqnum.Value(before.delta)
		}
		if before.plausible(from, &p, ack) {
			// levee's bounds are wider than a host's, who knows its own numbers: such a segment may widen them, but decides nothing, and
			// shortens no time-out.
			n.near++
			same.half, same.lastSeen, same.clientTSVal = after.half, after.lastSeen, after.clientTSVal
			if n.reach != 0 || !after.closing() {
				same.fins = after.fins
			}
		}
	}
	if n.reach != 0 {
		same.half, same.lastSeen, same.clientTSVal = after.half, after.lastSeen, after.clientTSVal
		if isRST(&p) || n.reach <= 16 {
			same.state = after.state
		}
	}
	if same != after {
		n.t.Errorf("a forged segment (%v, seq %d, ack %d, %d bytes, from %v) changes the flow\nfrom %+v\nto   %+v",
			p.Flags, p.Seq, p.Ack, p.PayloadLen, from, before, after)
	}
}

// forge makes a random segment.
func (n *inflowNet) forge(c *inflowConn, from side) []byte {
	r := n.r.Uint64()
	take := func(bits int) uint64 { v := r & (1<<bits - 1); r >>= bits; return v }
	flags := header.TCPFlags(take(8))
	if take(1) == 0 { // half of them sane
		flags = [...]header.TCPFlags{
			flagRST, flagRST | flagACK, flagFIN | flagACK, flagSYN, flagSYN | flagACK, flagACK, flagACK | header.TCPFlagPsh, flagFIN | flagACK | header.TCPFlagPsh,
		}[take(3)]
	}
	var space [104]byte
	for at := 0; at < len(space); at += 8 {
		binary.LittleEndian.PutUint64(space[at:], n.r.Uint64())
	}
	options := space[:0]
	switch take(2) {
	case 0, 1:
		options = space[:12]
		copy(options, []byte{1, 1, header.TCPOptionTS, header.TCPOptionTSLength})
	case 2:
		options = space[:4*take(3)] // noise, mostly malformed
		if take(1) == 0 && len(options) >= 12 {
			options = options[:12]
			copy(options, []byte{1, 1, header.TCPOptionSACK, 10})
		}
	}
	payload := space[40:40]
	if take(2) == 0 {
		payload = space[40 : 40+take(6)]
	}
	seq, ack, window := n.numbers(c, from)
	frame := c.frame(n.buffer(), from, seq, ack, flags, window, options, payload)
	switch take(4) {
	case 0: // the checksum is wrong
		frame[len(frame)-len(payload)-len(options)-4] ^= 0x55
	case 1: // or the kernel's business
		c.partial(frame)
	}
	return frame
}

// numbers are the forged sequence number, acknowledgement and window.
func (n *inflowNet) numbers(c *inflowConn, from side) (seq, ack seqnum.Value, window uint16) {
	x, window := n.r.Uint64(), uint16(n.r.Uint32())
	seq, ack = seqnum.Value(x), seqnum.Value(x>>32)
	if n.reach == 0 {
		return seq, ack, window
	}
	// Near what the hosts of this connection would send.
	record, peer := c.record(), &c.host[from.peer()]
	seq, ack = seq%n.reach-n.reach/2+peer.expects, ack%n.reach-n.reach/2+peer.nxt
	if from == client {
		ack += seqnum.Value(record.delta)
	} else {
		seq -= seqnum.Value(record.delta)
	}
	return seq, ack, window
}

// levee gives it the frames in n.in.
func (n *inflowNet) levee() {
	if _, err := n.worker.Step(func() time.Time { return n.now }, 0); err != nil {
		n.t.Fatal(err)
	}
}

// deliver hands what levee has sent to the hosts, and their answers to levee, until all is quiet. It frees the frames given.
func (n *inflowNet) deliver(done [][]byte) {
	var p stack.Packet
	for round := 0; ; round++ {
		n.spare = append(n.spare, done...)
		n.in = nil
		sent := n.sent
		n.sent = nil
		for _, frame := range sent {
			if kind := p.Parse(frame[stack.VirtioLen:], frame[0]&stack.VirtioNeedsCsum != 0); kind != stack.KindTCP {
				n.t.Fatalf("levee sends a packet of kind %d", kind)
			}
			c := n.conns[max(p.SrcPort, p.DstPort)-40000]
			if answer := c.host[c.from(&p).peer()].receive(c, &p); answer != nil {
				n.in = append(n.in, answer)
			}
		}
		n.spare = append(n.spare, sent...)
		if len(n.in) == 0 {
			return
		}
		if round > 100 {
			n.t.Fatal("no end of answers")
		}
		done = nil
		for answers := n.in; len(answers) > 0; {
			n.in = answers[:min(batchSize, len(answers))]
			answers = answers[len(n.in):]
			n.levee()
			done = append(done, n.in...)
		}
	}
}

// inflowConn is one tuple and the hosts at its ends; client is the one that opens connections.
type inflowConn struct {
	net          *inflowNet
	ts, outbound bool
	addr         [2]stack.Addr
	port         [2]uint16
	host         [2]inflowHost

	// at is what the hosts do next, turns how much data they still exchange, first which of them closes first, abort that it resets.
	at    int
	turns int
	first side
	abort bool
	// done says that a life has ended.
	done bool
}

func (c *inflowConn) from(p *stack.Packet) side {
	if p.SrcPort == c.port[client] {
		return client
	}
	return server
}

// record is levee's of the connection; zero if it has none.
func (c *inflowConn) record() flow {
	key, _ := keyOfEnds(&c.addr[client], c.port[client], &c.addr[server], c.port[server])
	hash := c.net.proxy.table.hash.of(&key)
	s := c.net.proxy.table.stripe(hash)
	if slot, ok := s.find(&key, hash); ok {
		return s.flows[slot]
	}
	return flow{}
}

// believes says whether the host to which a segment goes would take it for its peer's.
func (c *inflowConn) believes(from side, record *flow, p *stack.Packet) bool {
	if isSYN(p) && !isACK(p) {
		return false // levee answers it itself
	}
	if record.state == StateOpening && from == server && p.Ack == record.clientISN+1 && p.ChecksumOK() {
		return true // levee is the host here
	}
	translated := *p
	e := record.edit(from, p)
	translated.Seq += seqnum.Value(e.Seq)
	translated.Ack += seqnum.Value(e.Ack)
	translated.Options.TSVal += e.TSVal
	v := c.host[from.peer()].judge(&translated)
	return v == accept || v == reset
}

// step does what the hosts do next.
func (c *inflowConn) step() {
	n, cl, sv := c.net, &c.host[client], &c.host[server]
	want := StateOpen
	switch c.at {
	case 0: // the SYN; numbers grow as RFC 6528 has them
		n.lives++
		c.first, c.abort, c.turns = side(n.r.IntN(2)), n.r.IntN(4) == 0, 1+n.r.IntN(12)
		for s := range c.host {
			h := &c.host[s]
			isn := h.nxt + seqnum.Value(100_000+n.r.IntN(1<<20))
			*h = inflowHost{
				side: side(s), state: hostClosed, una: isn, nxt: isn + 1, ts: c.ts, tsval: h.tsval + 5000,
				scale: uint8(n.r.IntN(10)), window: uint16(1000 + n.r.IntN(64000)), seed: byte(n.r.Uint32()),
			}
		}
		cl.state = hostSynSent
		c.send(client, flagSYN, nil)
		if c.outbound {
			c.at, want = 2, StateOpening // nobody stands between the hosts
			break
		}
		c.at, want = 1, c.record().state
		if cl.state != hostOpen {
			n.t.Errorf("no SYN-ACK for the SYN")
		}
	case 1:
		c.at, want = 2, StateOpening
		c.send(client, flagACK, nil)
	case 2:
		c.at = 3
		if sv.state != hostSynReceived {
			n.t.Errorf("no SYN for the server")
		}
		c.send(server, flagSYN|flagACK, nil)
		if cl.state != hostOpen || sv.state != hostOpen {
			n.t.Errorf("not open: %+v", c.host)
		}
	case 3:
		c.exchange()
		if c.turns--; c.turns == 0 {
			c.at, c.turns = 4, 1+n.r.IntN(4)
		}
	case 4: // the first to close
		c.at, want = 5, StateClientClosed+State(c.first)
		if c.abort {
			c.at, want = 7, StateReset
			c.send(c.first, flagRST, nil)
			c.host[c.first].state = hostClosed
			if c.host[c.first.peer()].state != hostClosed {
				n.t.Errorf("the reset did not arrive")
			}
			break
		}
		c.send(c.first, flagFIN|flagACK, nil)
	case 5: // half-closed
		want = StateClientClosed + State(c.first)
		c.data(c.first.peer())
		if c.turns--; c.turns == 0 {
			c.at = 6
		}
	case 6:
		c.at, want = 7, StateTimeWait
		c.send(c.first.peer(), flagFIN|flagACK, nil)
		for _, h := range c.host {
			if !h.finReceived || h.una != h.nxt {
				n.t.Errorf("not closed: %+v", c.host)
			}
		}
	case 7: // over, for a while
		c.at, want, c.done = 0, c.record().state, true
	}
	if got := c.record().state; got != want && n.reach == 0 {
		n.t.Errorf("after step %d the flow is %v, not %v", c.at, got, want)
	}
}

// exchange moves data both ways.
func (c *inflowConn) exchange() {
	c.data(client)
	c.data(server)
}

// data moves some from a host to its peer, which acknowledges it.
func (c *inflowConn) data(from side) {
	h, peer := &c.host[from], &c.host[from.peer()]
	payload := make([]byte, 1+c.net.r.IntN(500))
	for i := range payload {
		payload[i] = h.pattern(h.sent + uint64(i))
	}
	h.sent += uint64(len(payload))
	c.send(from, flagACK|header.TCPFlagPsh, payload)
	if peer.received != h.sent || h.una != h.nxt {
		c.net.t.Errorf("the %v has sent %d bytes, the other received %d; acknowledged up to %d of %d", from, h.sent, peer.received, h.una, h.nxt)
	}
}

// send sends a segment of a host, and moves everything that follows from it.
func (c *inflowConn) send(from side, flags header.TCPFlags, payload []byte) {
	n := c.net
	n.in = append(n.in[:0], c.segment(from, flags, payload))
	h := &c.host[from]
	h.nxt += seqnum.Value(len(payload))
	if flags&flagFIN != 0 {
		h.nxt++
	}
	in := n.in
	n.levee()
	n.deliver(in)
}

// segment is what a host sends with its present numbers.
func (c *inflowConn) segment(from side, flags header.TCPFlags, payload []byte) []byte {
	h := &c.host[from]
	h.tsval++
	seq, ack, window := h.nxt, h.expects, h.window
	var options []byte
	if flags&flagSYN != 0 {
		seq = h.una
		options = append(options, header.TCPOptionMSS, 4, 1460>>8, 1460&0xff, 1, header.TCPOptionWS, 3, h.scale)
	}
	if flags&flagACK == 0 {
		ack = 0
	}
	if h.ts {
		options = append(options, 1, 1, header.TCPOptionTS, header.TCPOptionTSLength)
		options = binary.BigEndian.AppendUint32(options, h.tsval)
		options = binary.BigEndian.AppendUint32(options, h.tsRecent)
	}
	return c.frame(c.net.buffer(), from, seq, ack, flags, window, options, payload)
}

// frame builds one, with a complete checksum.
func (c *inflowConn) frame(b []byte, from side, seq, ack seqnum.Value, flags header.TCPFlags, window uint16, options, payload []byte) []byte {
	src, dst := &c.addr[from], &c.addr[from.peer()]
	ipLen := header.IPv6MinimumSize
	if src.Is4() {
		ipLen = header.IPv4MinimumSize
	}
	tcpLen := header.TCPMinimumSize + len(options)
	b = b[:stack.VirtioLen+ipLen+tcpLen+len(payload)]
	clear(b[:stack.VirtioLen])
	ip := b[stack.VirtioLen:]
	tcp := header.TCP(ip[ipLen:])
	if src.Is4() {
		h := header.IPv4(ip)
		h.Encode(&header.IPv4Fields{
			TotalLength: uint16(len(ip)), TTL: 64, Protocol: uint8(header.TCPProtocolNumber),
			SrcAddr: tcpip.AddrFrom4([4]byte(src[12:])), DstAddr: tcpip.AddrFrom4([4]byte(dst[12:])),
		})
		h.SetChecksum(^h.CalculateChecksum())
	} else {
		header.IPv6(ip).Encode(&header.IPv6Fields{
			PayloadLength: uint16(len(tcp)), TransportProtocol: header.TCPProtocolNumber, HopLimit: 64,
			SrcAddr: tcpip.AddrFrom16(*src), DstAddr: tcpip.AddrFrom16(*dst),
		})
	}
	tcp.Encode(&header.TCPFields{
		SrcPort: c.port[from], DstPort: c.port[from.peer()], SeqNum: uint32(seq), AckNum: uint32(ack),
		DataOffset: uint8(tcpLen), Flags: flags, WindowSize: window,
	})
	copy(tcp[header.TCPMinimumSize:], options)
	copy(tcp[tcpLen:], payload)
	tcp.SetChecksum(^checksum.Checksum(tcp, c.pseudo(from, len(tcp))))
	return b
}

func (c *inflowConn) pseudo(from side, length int) uint16 {
	src, dst := c.addr[from], c.addr[from.peer()]
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, tcpip.AddrFrom16(src), tcpip.AddrFrom16(dst), uint16(length))
	if src.Is4() { // the ffff of a mapped address, twice
		sum = header.PseudoHeaderChecksum(header.TCPProtocolNumber,
			tcpip.AddrFrom4([4]byte(src[12:])), tcpip.AddrFrom4([4]byte(dst[12:])), uint16(length))
	}
	return sum
}

// partial leaves a frame's checksum to the kernel.
func (c *inflowConn) partial(frame []byte) {
	ipLen := header.IPv6MinimumSize
	if frame[stack.VirtioLen]>>4 == header.IPv4Version {
		ipLen = header.IPv4MinimumSize
	}
	tcp := header.TCP(frame[stack.VirtioLen+ipLen:])
	from := client
	if tcp.SourcePort() != c.port[client] {
		from = server
	}
	tcp.SetChecksum(c.pseudo(from, len(tcp)))
	stack.Virtio{
		Flags: stack.VirtioNeedsCsum, HdrLen: uint16(ipLen + int(tcp.DataOffset())),
		CsumStart: uint16(ipLen), CsumOffset: header.TCPChecksumOffset,
	}.Encode(frame)
}

// inflowHost is one end of a connection: a host that never loses anything and waits for nothing.
type inflowHost struct {
	side  side
	state hostState
	// una to nxt is what it has sent and not seen acknowledged, expects what it receives next.
	una, nxt, expects seqnum.Value
	window            uint16
	scale, peerScale  uint8
	// allowed is the largest window that its peer has offered, in bytes.
	allowed         uint32
	ts              bool
	tsval, tsRecent uint32
	finReceived     bool
	sent, received  uint64
	seed            byte
}

type hostState uint8

const (
	hostClosed hostState = iota
	hostSynSent
	hostSynReceived
	hostOpen
)

// hostVerdict is what a host makes of a segment.
type hostVerdict uint8

const (
	// ignore it, answer it with an ACK or a RST; or take it as the peer's.
	ignore hostVerdict = iota
	challenge
	refuse
	reset
	accept
)

// pattern is the byte at a place of the host's stream.
func (h *inflowHost) pattern(at uint64) byte { return byte(at*at>>3) + byte(at) + h.seed }

// judge says what the host makes of a segment. Only one of a SYN or the answer to one changes more than numbers.
func (h *inflowHost) judge(p *stack.Packet) hostVerdict {
	switch {
	case !p.ChecksumOK() || !saneFlags(p.Flags):
		return ignore
	case h.state == hostClosed:
		if isRST(p) {
			return ignore
		}
		if h.side == server && isSYN(p) && !isACK(p) {
			return accept
		}
		return refuse
	case h.state == hostSynSent:
		if isACK(p) && p.Ack != h.nxt {
			return ignore
		}
		if isACK(p) && isRST(p) {
			return reset
		}
		if isSYN(p) {
			return accept
		}
		return ignore
	}
	window := seqnum.Size(h.window) << h.scale
	inWindow := p.Seq.InWindow(h.expects, window) || p.SeqLen() > 0 && (p.End()-1).InWindow(h.expects, window)
	old := h.ts && p.Options.Timestamps && int32(p.Options.TSVal-h.tsRecent) < 0 // PAWS (RFC 7323 §5.3)
	switch {
	case isRST(p) && p.Seq == h.expects:
		return reset
	case isRST(p) && !inWindow:
		return ignore
	case !inWindow || isRST(p) || isSYN(p) || old: // RFC 5961 §3.2, §4.2
		return challenge
	case !(h.una - seqnum.Value(h.allowed)).LessThanEq(p.Ack) || !p.Ack.LessThanEq(h.nxt): // RFC 5961 §5.2
		return challenge
	}
	return accept
}

// receive does what a host does with a segment from levee and returns its answer. Everything here is honest or harmless: if a forged
// segment gets this far and is believed, the test fails by what it does.
func (h *inflowHost) receive(c *inflowConn, p *stack.Packet) (answer []byte) {
	switch h.judge(p) {
	case challenge:
		// Hosts send few of them (RFC 5961 §7).
		if c.net.r.IntN(8) == 0 {
			return c.segment(h.side, flagACK, nil)
		}
	case refuse:
		if c.net.r.IntN(8) == 0 && isACK(p) {
			return c.frame(c.net.buffer(), h.side, p.Ack, 0, flagRST, 0, nil, nil)
		}
	case reset:
		if peer := &c.host[h.side.peer()]; c.at != 7 || !c.abort || peer.state == hostClosed {
			c.net.t.Errorf("a reset that the peer has not sent closes the connection of the %v, next step %d: %+v", h.side, c.at, p)
		}
		h.state = hostClosed
	case accept:
		return h.take(c, p)
	}
	return nil
}

// take does what an acceptable segment says.
func (h *inflowHost) take(c *inflowConn, p *stack.Packet) (answer []byte) {
	if h.ts && p.Options.Timestamps {
		h.tsRecent = p.Options.TSVal
	}
	if isSYN(p) {
		if h.state == hostClosed && c.at != 1 && c.at != 2 && c.at != 0 {
			return nil // levee answers a forged SYN itself; this would be a new connection that nobody asked for
		}
		h.expects, h.peerScale, h.allowed = p.Seq+1, 0, uint32(p.Window)
		if p.Options.WScale != WScaleNone {
			h.peerScale = p.Options.WScale
		}
		if h.state == hostSynSent {
			h.state, h.una = hostOpen, p.Ack
			if c.outbound {
				return c.segment(h.side, flagACK, nil)
			}
			return nil // in a step of its own
		}
		h.state = hostSynReceived
		return nil
	}
	if h.state == hostSynReceived {
		h.state = hostOpen
	}
	if h.una.LessThan(p.Ack) {
		h.una = p.Ack
	}
	h.allowed = max(h.allowed, uint32(p.Window)<<h.peerScale)
	if p.SeqLen() == 0 {
		return nil
	}
	if p.Seq != h.expects || h.finReceived {
		c.net.t.Errorf("the %v receives number %d, not %d", h.side, p.Seq, h.expects)
		return nil
	}
	for i, b := range p.IP[p.L4+p.HeaderLen:] {
		if peer := &c.host[h.side.peer()]; b != peer.pattern(h.received+uint64(i)) {
			c.net.t.Errorf("the %v receives a wrong byte at %d", h.side, h.received+uint64(i))
			return nil
		}
	}
	h.received += uint64(p.PayloadLen)
	h.expects = p.End()
	h.finReceived = isFIN(p)
	return c.segment(h.side, flagACK, nil)
}

// String names a side in messages.
func (s side) String() string { return fmt.Sprint([]string{"client", "server"}[s]) }
