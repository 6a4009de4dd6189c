package script

import (
	"encoding/binary"
	"net/netip"

	"levee/stack/stacktest"
)

// Addresses are those of one run of a script, of one family. They are nobody else's while it runs.
type Addresses struct {
	// Host is each side's own address, Router that of a router on the side, which ICMP errors come from.
	Host, Router [2]netip.Addr
}

// The ports of a script's first connection; the client's of the others follow.
const (
	clientPort = 40000
	serverPort = 80
)

// end is the address and port of a side in one of the script's connections.
func (a *Addresses) end(s Side, conn int) netip.AddrPort {
	if s == Client {
		return netip.AddrPortFrom(a.Host[s], uint16(clientPort+conn-1))
	}
	return netip.AddrPortFrom(a.Host[s], serverPort)
}

func (a *Addresses) v4() bool { return a.Host[Client].Is4() }

// wrongBy is what bad=checksum adds to the checksum.
const wrongBy = 0x1234

// fragmentID tells the fragments of a script's only fragmented packet from others (IPv4; stacktest chooses IPv6's).
const fragmentID = 0x1d1d

const (
	protoICMP  = 1
	protoTCP   = 6
	protoICMP6 = 58
)

// payload is what a segment of n bytes carries.
func payload(n uint32) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i%251) + 1
	}
	return b
}

// ipHeader names a header in a family.
type ipHeader struct {
	family Family
	name   string
}

// ipHeaders are the IPv4 options and IPv6 extension headers.
var ipHeaders = map[ipHeader]stacktest.Extension{
	{IPv4, "options"}:      {Bytes: []byte{1, 1, 1, 1}},
	{IPv4, "router-alert"}: {Bytes: []byte{148, 4, 0, 0}},
	{IPv6, "options"}:      padded(stacktest.DestinationOptions),
	{IPv6, "hop"}:          padded(stacktest.HopByHop),
	{IPv6, "dst"}:          padded(stacktest.DestinationOptions),
	{IPv6, "route"}:        stacktest.ExtensionHeader(stacktest.Routing, 24),
	{IPv6, "ah"}:           stacktest.ExtensionHeader(stacktest.Authentication, 24),
}

// padded is an options header with nothing but padding (RFC 8200 §4.2).
func padded(kind uint8) stacktest.Extension {
	e := stacktest.ExtensionHeader(kind, 8)
	e.Bytes[2], e.Bytes[3] = 1, 4
	return e
}

// segment is the segment that the side sends.
func (p *pattern) segment(env names, a *Addresses, from Side) stacktest.Segment {
	s := stacktest.Segment{
		Src: a.end(from, p.conn), Dst: a.end(from.peer(), p.conn),
		TrafficClass: uint8(p.get("dscp", env)<<2 | p.get("ecn", env)), TTL: uint8(p.get("ttl", env)),
		Fragment: stacktest.DontFragment, FlowLabel: p.get("label", env),
		Seq: p.get("seq", env), Ack: p.get("ack", env), Flags: p.flags,
		Reserved: uint8(p.get("res", env) << 1), Window: uint16(p.get("win", env)), Urgent: uint16(p.get("urg", env)),
		Options: encodeOptions(p.options, env), Payload: payload(p.get("len", env)),
	}
	if p.ae {
		s.Reserved |= 1
	}
	if p.land {
		s.Src, s.Dst = a.end(Server, 1), a.end(Server, 1)
	}
	if p.badChecksum {
		s.ChecksumError = wrongBy
	}
	family := IPv6
	if a.v4() {
		family = IPv4
	}
	for _, name := range p.headers {
		h := ipHeaders[ipHeader{family, name}]
		if a.v4() {
			s.IPOptions = append(s.IPOptions, h.Bytes...)
		} else {
			s.Extensions = append(s.Extensions, h)
		}
	}
	switch {
	case p.fragment && a.v4():
		s.ID, s.Fragment = fragmentID, p.offset/8
		if p.more {
			s.Fragment |= stacktest.MoreFragments
		}
	case p.fragment:
		s.Extensions = append(s.Extensions, stacktest.FragmentHeader(p.offset/8, p.more))
	}
	return s
}

// bytes is the IP packet that the side sends.
func (p *pattern) bytes(env names, a *Addresses, from Side) []byte {
	switch p.form {
	case formICMP:
		return ipPacket(a.Router[from], a.Host[from.peer()], icmpProtocol(a), p.icmpMessage(env, a, from, from.peer()))
	case formRest:
		return p.rest(env, a, from)
	}
	s := p.segment(env, a, from)
	return s.Packet()
}

// rest is a later fragment: the segment's packet without its TCP header.
func (p *pattern) rest(env names, a *Addresses, from Side) []byte {
	s := p.segment(env, a, from)
	b := s.Packet()
	headers := len(b) - len(s.Payload) - 20
	b = append(b[:headers:headers], s.Payload...)
	if a.v4() {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], ^stacktest.Sum(b[:headers]))
	} else {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	}
	return b
}

// ipPacket is a plain packet of any protocol.
func ipPacket(src, dst netip.Addr, proto uint8, body []byte) []byte {
	var b []byte
	if src.Is4() {
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+len(body)))
		b = append(b, 0, 0, 0, 0, 64, proto, 0, 0)
	} else {
		b = append(b, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
		b = append(b, proto, 64)
	}
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	if src.Is4() {
		binary.BigEndian.PutUint16(b[10:], ^stacktest.Sum(b))
	}
	return append(b, body...)
}
