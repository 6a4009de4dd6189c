package script

import (
	"encoding/binary"
	"net/netip"

	"levee/stack/stacktest"
)

// icmpKinds are type and code of the errors, over IPv4 (RFC 792, RFC 1812 §5.2.7.1) and IPv6 (RFC 4443).
var icmpKinds = []struct {
	name   string
	v4, v6 [2]uint8
}{
	{"port", [2]uint8{3, 3}, [2]uint8{1, 4}},
	{"host", [2]uint8{3, 1}, [2]uint8{1, 3}},
	{"prohibited", [2]uint8{3, 13}, [2]uint8{1, 1}},
	{"exceeded", [2]uint8{11, 0}, [2]uint8{3, 0}},
	{"toobig", [2]uint8{3, 4}, [2]uint8{2, 0}},
}

func isICMPKind(name string) bool {
	for _, k := range icmpKinds {
		if k.name == name {
			return true
		}
	}
	return false
}

func icmpProtocol(a *Addresses) uint8 {
	if a.v4() {
		return protoICMP
	}
	return protoICMP6
}

// icmpMessage is the error about a segment of a side, from a router near another.
func (p *pattern) icmpMessage(env names, a *Addresses, near, about Side) []byte {
	var b []byte
	for _, k := range icmpKinds {
		if k.name == p.icmp {
			kind := k.v6
			if a.v4() {
				kind = k.v4
			}
			b = append(b, kind[0], kind[1], 0, 0)
		}
	}
	b = binary.BigEndian.AppendUint32(b, p.get("mtu", env)) // zero where the kind has none
	s := p.segment(env, a, about)
	quoted := s.Packet()
	tcpAt := 40
	if a.v4() {
		tcpAt = 20
	}
	b = append(b, quoted[:min(len(quoted), tcpAt+int(p.get("quote", env)))]...)
	binary.BigEndian.PutUint16(b[2:], ^icmpSum(a.Router[near], a.Host[about], b))
	return b
}

// icmpSum is the sum that a checksum of 0xffff minus it completes; over IPv6 it covers a pseudo-header (RFC 4443 §2.3).
func icmpSum(src, dst netip.Addr, message []byte) uint16 {
	var covered []byte
	if src.Is6() {
		covered = append(src.AsSlice(), dst.AsSlice()...)
		covered = binary.BigEndian.AppendUint32(covered, uint32(len(message)))
		covered = append(covered, 0, 0, 0, protoICMP6)
	}
	return stacktest.Sum(append(covered, message...))
}
