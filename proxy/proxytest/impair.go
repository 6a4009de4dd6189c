package proxytest

import (
	"math/rand/v2"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/stack"
)

// Impairment is what a wire does to packets in one direction. The probabilities are of 1; each is drawn for itself.
type Impairment struct {
	Loss, Duplication, Late, Corruption float64
	// Jitter is the most that every packet is held up, LateBy the most that a late packet or a copy is: those behind overtake.
	Jitter, LateBy time.Duration
}

// Impair puts impairments on the four wires, behind the hooks that are there already.
//
// What happens to a packet depends on the seed and on what it is to its connection on that wire: its numbers from
// the initial ones, and how often it was sent before. Not on what other packets there were: so two networks with
// the same seed, one with levee and one without, treat what is the same in both alike.
func (n *Network) Impair(seed uint64, wires [NumHops]Impairment) {
	// The two directions of one wire share what is known of its connections.
	outer, inner := newIdentifier(), newIdentifier()
	for hop, w := range wires {
		id := outer
		if Hop(hop) == ToServer || Hop(hop) == FromServer {
			id = inner
		}
		n.Hooks[hop] = append(n.Hooks[hop], func(p *Packet) Fate { return w.fate(seed, id.of(p), p) })
	}
}

func (w *Impairment) fate(seed uint64, id identity, p *Packet) Fate {
	r := rand.New(rand.NewPCG(seed, id.hash()))
	// Always the same draws in the same order.
	lost, doubled, late, corrupted := r.Float64(), r.Float64(), r.Float64(), r.Float64()
	jitter, lateBy, copyLate, bit := r.Float64(), r.Float64(), r.Float64(), r.Uint64()
	if lost < w.Loss || corrupted < w.Corruption && !corrupt(p, bit) {
		return Drop
	}
	f := Fate{Delay: time.Duration(jitter * float64(w.Jitter))}
	if late < w.Late {
		f.Delay += time.Duration(lateBy * float64(w.LateBy))
	}
	if doubled < w.Duplication {
		f.Copies, f.CopyDelay = 1, time.Duration(copyLate*float64(w.LateBy))
	}
	return f
}

// corrupt changes one bit of a TCP segment, which no checksum can miss; of two, one can undo in the sum what the other did, so a packet that
// is wrong already is left alone, as is one whose checksum isn't complete. It says false if the bit is one for which the next
// router would drop the packet: whatever is in an IPv4 header, and what decides the way of an IPv6 packet.
func corrupt(p *Packet, bit uint64) bool {
	if p.Kind != stack.KindTCP || p.TCP.Partial || !p.TCP.ChecksumOK() {
		return true
	}
	ip := p.TCP.IP
	at := int(bit/8) % len(ip)
	if at < p.TCP.L4 && !(p.TCP.V6 && (at == 2 || at == 3 || at == 4 || at == 5 || at == 7)) {
		return false
	}
	ip[at] ^= 1 << (bit % 8)
	return true
}

// identity is what a packet is to its connection on one wire, and how often it was sent before.
type identity struct {
	hop     Hop
	port    uint16
	life    uint32 // counts connections of the port
	flags   header.TCPFlags
	seq     uint32
	ack     uint32
	attempt uint32
}

func (id identity) hash() uint64 {
	h := uint64(14695981039346656037)
	for _, v := range [...]uint64{
		uint64(id.hop), uint64(id.port), uint64(id.life), uint64(id.flags), uint64(id.seq), uint64(id.ack), uint64(id.attempt),
	} {
		h = (h ^ v) * 0x9e3779b97f4a7c15
		h ^= h >> 29
	}
	return h
}

// identifier gives packets of one wire their identities.
type identifier struct {
	lives map[uint16]*life
	sent  map[identity]uint32
}

// life is the connection that a port of the client has on a wire.
type life struct {
	number           uint32
	client, server   seqnum.Value
	clientOK, answer bool
}

func newIdentifier() *identifier {
	return &identifier{lives: map[uint16]*life{}, sent: map[identity]uint32{}}
}

func (w *identifier) of(p *Packet) identity {
	id := identity{hop: p.Hop}
	if t := &p.TCP; p.Kind == stack.KindTCP {
		up := p.Hop == FromClient || p.Hop == ToServer
		id.port = t.DstPort
		if up {
			id.port = t.SrcPort
		}
		l := w.lives[id.port]
		if l == nil {
			l = &life{}
			w.lives[id.port] = l
		}
		id.flags = t.Flags & (header.TCPFlagSyn | header.TCPFlagFin | header.TCPFlagRst)
		switch syn := id.flags == header.TCPFlagSyn; {
		case syn && up && (!l.clientOK || l.client != t.Seq):
			*l = life{number: l.number + 1, client: t.Seq, clientOK: true}
		case syn && !up && !l.answer:
			l.server, l.answer = t.Seq, true
		}
		id.life = l.number
		from, to := l.client, l.server
		if !up {
			from, to = to, from
		}
		if id.flags&header.TCPFlagSyn == 0 {
			id.seq = uint32(t.Seq - from)
			if t.PayloadLen == 0 {
				id.ack = uint32(t.Ack - to)
			}
		}
	}
	w.sent[id]++
	id.attempt = w.sent[id]
	return id
}
