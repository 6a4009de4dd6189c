package proxytest

import (
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/stack"
)

// Routers that answer for a narrow wire.
var (
	Router4 = netip.MustParseAddr("198.18.0.1")
	Router6 = netip.MustParseAddr("2001:db8:ff::1")
)

// back is the direction of the answer to a packet at a hop, on the same wire.
var back = [NumHops]Hop{FromClient: ToClient, ToClient: FromClient, ToServer: FromServer, FromServer: ToServer}

// Narrow makes a wire carry, in one direction, packets of at most mtu bytes once the network is that old. A router at its start
// drops longer ones and says so to whoever sent them (RFC 1191, RFC 8201); the answer goes back over the same wire, where
// it may be lost.
func (n *Network) Narrow(hop Hop, since time.Duration, mtu int) {
	n.Hooks[hop] = append(n.Hooks[hop], func(p *Packet) Fate {
		if p.At < since || p.Kind != stack.KindTCP || longest(p) <= mtu {
			return Fate{}
		}
		frame := tooBig(p, mtu)
		n.Clock.AfterFunc(0, func() { n.transmit(back[hop], frame) })
		return Drop
	})
}

// longest is the length in bytes of the longest packet that a frame becomes on a wire.
func longest(p *Packet) int {
	if v := stack.DecodeVirtio(p.Frame); v.GSOType != stack.GSONone {
		return p.TCP.L4 + p.TCP.HeaderLen + int(v.GSOSize)
	}
	return len(p.TCP.IP)
}

// tooBig is the frame of the error about a packet, which quotes its start.
func tooBig(p *Packet, mtu int) []byte {
	const quoted = 128 // bytes: more than the least (RFC 792: 8 of the TCP header), less than the most
	quote := p.TCP.IP[:min(len(p.TCP.IP), quoted)]
	frame := make([]byte, stack.VirtioLen, stack.VirtioLen+header.IPv6MinimumSize+header.ICMPv6MinimumSize+quoted)
	stack.Virtio{}.Encode(frame)
	src := addrOf(p.TCP.Src)
	if p.TCP.V6 {
		frame = append(frame, make([]byte, header.IPv6MinimumSize+header.ICMPv6PacketTooBigMinimumSize)...)
		frame = append(frame, quote...)
		router := addrOf(stack.AddrFrom(Router6))
		icmp := header.ICMPv6(frame[stack.VirtioLen+header.IPv6MinimumSize:])
		icmp.SetType(header.ICMPv6PacketTooBig)
		icmp.SetMTU(uint32(mtu))
		icmp.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: icmp, Src: router, Dst: src}))
		header.IPv6(frame[stack.VirtioLen:]).Encode(&header.IPv6Fields{
			PayloadLength: uint16(len(icmp)), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: 64,
			SrcAddr: router, DstAddr: src,
		})
		return frame
	}
	frame = append(frame, make([]byte, header.IPv4MinimumSize+header.ICMPv4MinimumSize)...)
	frame = append(frame, quote...)
	ip := header.IPv4(frame[stack.VirtioLen:])
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(ip)), TTL: 64, Protocol: uint8(header.ICMPv4ProtocolNumber),
		SrcAddr: addrOf(stack.AddrFrom(Router4)), DstAddr: src,
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	icmp := header.ICMPv4(ip[header.IPv4MinimumSize:])
	icmp.SetType(header.ICMPv4DstUnreachable)
	icmp.SetCode(header.ICMPv4FragmentationNeeded)
	icmp.SetMTU(uint16(mtu))
	icmp.SetChecksum(^checksum.Checksum(icmp, 0))
	return frame
}
