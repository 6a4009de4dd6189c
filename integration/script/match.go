package script

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"levee/stack/stacktest"
)

// packet is one that came.
type packet struct {
	raw      []byte
	src, dst netip.Addr
	// proto and body are what the IP header says. segment is nil, and why says why, if that isn't a TCP segment.
	proto   uint8
	body    []byte
	segment *stacktest.Segment
	why     error
	// fragment says that it is one, not the first, at the offset in bytes.
	rest   bool
	offset uint16
	more   bool
}

// read takes an IP packet apart. It keeps raw.
func read(raw []byte) packet {
	p := packet{raw: raw}
	s, err := stacktest.Decode(raw, false)
	if err == nil {
		p.segment = &s
		return p
	}
	p.why = err
	var word uint16
	switch {
	case len(raw) >= 20 && raw[0]>>4 == 4 && len(raw) >= int(raw[0]&15)*4:
		p.src, p.dst = netip.AddrFrom4([4]byte(raw[12:])), netip.AddrFrom4([4]byte(raw[16:]))
		p.proto, p.body = raw[9], raw[int(raw[0]&15)*4:]
		word = binary.BigEndian.Uint16(raw[6:])
		p.offset, p.more = word<<3, word&stacktest.MoreFragments != 0
	case len(raw) >= 40 && raw[0]>>4 == 6:
		p.src, p.dst = netip.AddrFrom16([16]byte(raw[8:])), netip.AddrFrom16([16]byte(raw[24:]))
		p.proto, p.body = raw[6], raw[40:]
		if p.proto == stacktest.Fragmentation && len(p.body) >= 8 {
			word = binary.BigEndian.Uint16(p.body[2:])
			p.offset, p.more = word&^7, word&1 != 0
			p.proto, p.body = p.body[0], p.body[8:]
		}
	}
	p.rest = p.offset != 0
	return p
}

// differences says what of a packet that came to a side is not what the pattern says, and binds names.
func (p *pattern) differences(got *packet, env names, a *Addresses, side Side) []string {
	switch p.form {
	case formICMP:
		return p.icmpDifferences(got, env, a, side)
	case formRest:
		return p.restDifferences(got, env, a, side)
	}
	if got.segment == nil {
		return []string{"not a TCP segment"}
	}
	s := got.segment
	var out []string
	differ := func(what string) { out = append(out, what) }
	if s.Src != a.end(side.peer(), p.conn) || s.Dst != a.end(side, p.conn) {
		differ("address or port")
	}
	if s.Flags != p.flags || s.Reserved&1 != 0 != p.ae {
		differ("flags")
	}
	number := func(key string, v uint32, always bool) {
		n, said := p.fields[key]
		if !said && !always {
			return
		}
		if !said {
			n = exactly(0)
		}
		if !n.matches(v, env) {
			differ(key)
		}
	}
	number("seq", s.Seq, true)
	if p.flags&stacktest.ACK != 0 {
		number("ack", s.Ack, true)
	} else {
		number("ack", s.Ack, false)
	}
	number("win", uint32(s.Window), false)
	number("len", uint32(len(s.Payload)), true)
	number("urg", uint32(s.Urgent), true)
	number("res", uint32(s.Reserved>>1), true)
	number("dscp", uint32(s.TrafficClass>>2), true)
	number("ecn", uint32(s.TrafficClass&3), true)
	number("ttl", uint32(s.TTL), false)
	if !a.v4() {
		number("label", s.FlowLabel, false)
	}
	if p.options != nil {
		list, err := stacktest.ParseOptions(s.Options)
		if err != nil || !matchOptions(p.options, p.exact, list, env) {
			differ("opts")
		}
	}
	// Only now all names are bound.
	want := p.segment(env, a, side.peer())
	if !bytes.Equal(s.Payload, payload(uint32(len(s.Payload)))) {
		differ("payload")
	}
	if !bytes.Equal(s.IPOptions, want.IPOptions) || !slices.EqualFunc(s.Extensions, want.Extensions, func(x, y stacktest.Extension) bool {
		return x.Kind == y.Kind && bytes.Equal(x.Bytes, y.Bytes)
	}) || (s.Fragment^want.Fragment)&^stacktest.DontFragment != 0 {
		differ("ip or frag")
	}
	if !stacktest.SameChecksum(s.ChecksumError, want.ChecksumError) {
		differ("TCP checksum")
	}
	if !ipChecksumOK(got.raw) {
		differ("IP checksum")
	}
	return out
}

func ipChecksumOK(raw []byte) bool {
	return raw[0]>>4 != 4 || stacktest.Sum(raw[:int(raw[0]&15)*4]) == 0xffff
}

func (p *pattern) icmpDifferences(got *packet, env names, a *Addresses, side Side) []string {
	if got.segment != nil || got.rest || got.proto != icmpProtocol(a) || len(got.body) < 8 {
		return []string{"not an ICMP error"}
	}
	var out []string
	if got.dst != a.Host[side] {
		out = append(out, "address")
	}
	if icmpSum(got.src, got.dst, got.body) != 0xffff {
		out = append(out, "ICMP checksum")
	}
	want := p.icmpMessage(env, a, side.peer(), side)
	if !bytes.Equal(got.body[:2], want[:2]) {
		out = append(out, "type or code")
	}
	if !bytes.Equal(got.body[4:8], want[4:8]) {
		out = append(out, "mtu")
	}
	if !bytes.Equal(got.body[8:], want[8:]) {
		out = append(out, fmt.Sprintf("what it quotes (%x, want %x)", got.body[8:], want[8:]))
	}
	return out
}

func (p *pattern) restDifferences(got *packet, env names, a *Addresses, side Side) []string {
	if !got.rest {
		return []string{"not a later fragment"}
	}
	// The time to live has gone down on the way.
	want := read(p.rest(env, a, side.peer()))
	var out []string
	if got.src != want.src || got.dst != want.dst || got.proto != want.proto {
		out = append(out, "address or protocol")
	}
	if got.offset != want.offset || got.more != want.more {
		out = append(out, "frag")
	}
	if !bytes.Equal(got.body, want.body) {
		out = append(out, "payload")
	}
	if !ipChecksumOK(got.raw) {
		out = append(out, "IP checksum")
	}
	return out
}

// describe writes a packet as scripts do.
func (got *packet) describe(env names, a *Addresses) string {
	switch {
	case got.segment != nil:
		return describeSegment(got.segment, env, a)
	case got.rest:
		return fmt.Sprintf("rest frag=%s len=%d", offset(got.offset, got.more), len(got.body))
	case (got.proto == protoICMP || got.proto == protoICMP6) && len(got.body) >= 8:
		for _, k := range icmpKinds {
			kind := k.v6
			if got.proto == protoICMP {
				kind = k.v4
			}
			if !bytes.Equal(got.body[:2], kind[:]) {
				continue
			}
			return fmt.Sprintf("icmp %s mtu=%d %s", k.name, binary.BigEndian.Uint32(got.body[4:]), describeQuote(got.body[8:], env))
		}
		return fmt.Sprintf("icmp type %d code %d", got.body[0], got.body[1])
	}
	return fmt.Sprintf("%x (%v)", got.raw[:min(len(got.raw), 64)], got.why)
}

func describeQuote(b []byte, env names) string {
	at := 40
	if len(b) > 0 && b[0]>>4 == 4 {
		at = int(b[0]&15) * 4
	}
	if len(b) < at+8 {
		return "quoting too little"
	}
	return fmt.Sprintf("quote=%d seq=%s", len(b)-at, env.express(binary.BigEndian.Uint32(b[at+4:])))
}

func offset(n uint16, more bool) string {
	if more {
		return fmt.Sprintf("%d+", n)
	}
	return fmt.Sprint(n)
}

func describeSegment(s *stacktest.Segment, env names, a *Addresses) string {
	words := []string{describeFlags(s.Flags, s.Reserved&1 != 0), "seq=" + env.express(s.Seq)}
	if s.Flags&stacktest.ACK != 0 || s.Ack != 0 {
		words = append(words, "ack="+env.express(s.Ack))
	}
	words = append(words, fmt.Sprintf("win=%d", s.Window))
	for _, f := range []struct {
		name string
		v    uint32
	}{
		{"len", uint32(len(s.Payload))}, {"urg", uint32(s.Urgent)}, {"res", uint32(s.Reserved >> 1)},
		{"dscp", uint32(s.TrafficClass >> 2)}, {"ecn", uint32(s.TrafficClass & 3)}, {"label", s.FlowLabel},
	} {
		if f.v != 0 {
			words = append(words, fmt.Sprintf("%s=%d", f.name, f.v))
		}
	}
	if list, err := stacktest.ParseOptions(s.Options); err == nil && len(list) > 0 {
		words = append(words, "opts="+describeOptions(list, env))
	}
	if len(s.IPOptions) > 0 {
		words = append(words, fmt.Sprintf("ip=%x", s.IPOptions))
	}
	for _, e := range s.Extensions {
		words = append(words, fmt.Sprintf("ip=%d:%x", e.Kind, e.Bytes))
	}
	if f := s.Fragment &^ stacktest.DontFragment; f != 0 {
		words = append(words, fmt.Sprintf("frag=%s", offset(f<<3, f&stacktest.MoreFragments != 0)))
	}
	for conn := 2; conn <= maxConn; conn++ {
		if c := a.end(Client, conn); s.Src == c || s.Dst == c {
			words = append(words, fmt.Sprintf("conn=%d", conn))
		}
	}
	if !stacktest.SameChecksum(s.ChecksumError, 0) {
		words = append(words, "bad=checksum")
	}
	return strings.Join(words, " ")
}
