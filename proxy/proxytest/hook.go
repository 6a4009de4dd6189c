package proxytest

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/stack"
)

// Hop is a place where packets can be seen, and a direction.
type Hop uint8

// The hops, in the order in which a connection uses them.
const (
	FromClient Hop = iota
	ToServer
	FromServer
	ToClient

	// NumHops is the number of hops.
	NumHops
)

var hopNames = [NumHops]string{"client ▶ levee", "levee ▶ server", "server ▶ levee", "levee ▶ client"}

// String draws the hop.
func (h Hop) String() string {
	if h < NumHops {
		return hopNames[h]
	}
	return "unknown"
}

// Packet is a packet at a hop. Hooks may keep it only if they change nothing later.
type Packet struct {
	Hop Hop
	// At is the time since the network's start.
	At time.Duration
	// Frame is the virtio header and the IP packet; TCP a view of it, good if Kind says KindTCP.
	Frame []byte
	Kind  stack.Kind
	TCP   stack.Packet
}

func newPacket(hop Hop, at time.Duration, frame []byte) *Packet {
	p := &Packet{Hop: hop, At: at, Frame: frame}
	p.parse()
	return p
}

func (p *Packet) parse() {
	if len(p.Frame) < stack.VirtioLen {
		p.Kind = stack.KindTruncated
		return
	}
	virtio := stack.DecodeVirtio(p.Frame)
	p.Kind = p.TCP.Parse(p.Frame[stack.VirtioLen:], virtio.Flags&stack.VirtioNeedsCsum != 0)
}

// Has says whether it is a TCP segment with all of these flags.
func (p *Packet) Has(flags header.TCPFlags) bool {
	return p.Kind == stack.KindTCP && p.TCP.Flags.Contains(flags)
}

// Is says whether it is a TCP segment with these of SYN, FIN, RST and ACK, and no others.
func (p *Packet) Is(flags header.TCPFlags) bool {
	const control = header.TCPFlagSyn | header.TCPFlagFin | header.TCPFlagRst | header.TCPFlagAck
	return p.Kind == stack.KindTCP && p.TCP.Flags&control == flags
}

// Edit changes the TCP header by f and makes the checksum right again.
func (p *Packet) Edit(f func(tcp header.TCP)) {
	tcp := header.TCP(p.TCP.IP[p.TCP.L4:])
	f(tcp)
	if !p.TCP.Partial {
		fixChecksum(&p.TCP, tcp)
	}
	p.parse()
}

// fixChecksum computes the checksum of a TCP segment whose ends are p's.
func fixChecksum(p *stack.Packet, tcp header.TCP) {
	tcp.SetChecksum(0)
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, addrOf(p.Src), addrOf(p.Dst), uint16(len(tcp)))
	tcp.SetChecksum(^checksum.Checksum(tcp, sum))
}

// Fate is what a Hook decides. The zero value lets the packet pass.
type Fate struct {
	Drop bool
	// Copies more than the one are sent.
	Copies int
	// Delay is added to the latency of the wire: packets behind overtake. CopyDelay comes on top for copies.
	Delay, CopyDelay time.Duration
}

// Hook sees every packet at one hop, may edit it, and decides.
type Hook func(p *Packet) Fate

// Drop is the fate of a packet that is lost.
var Drop = Fate{Drop: true}

// DropFirst drops the first n packets for which match is true.
func DropFirst(n int, match func(p *Packet) bool) Hook {
	return func(p *Packet) Fate {
		if n > 0 && match(p) {
			n--
			return Drop
		}
		return Fate{}
	}
}

// WithoutOption makes hosts look as if they did not know a TCP option of SYNs: it is overwritten with
// NOPs wherever SYN is set.
func WithoutOption(kind uint8) Hook {
	return func(p *Packet) Fate {
		if p.Has(header.TCPFlagSyn) && (p.TCP.Partial || p.TCP.ChecksumOK()) { // Edit would mend what is corrupted
			p.Edit(func(tcp header.TCP) { blankOption(tcp[header.TCPMinimumSize:p.TCP.HeaderLen], kind) })
		}
		return Fate{}
	}
}

// blankOption overwrites options of a kind in a well-formed option list.
func blankOption(b []byte, kind uint8) {
	for len(b) > 0 && b[0] != header.TCPOptionEOL {
		n := 1
		if b[0] != header.TCPOptionNOP {
			n = int(b[1])
		}
		if b[0] == kind {
			for i := range n {
				b[i] = header.TCPOptionNOP
			}
		}
		b = b[n:]
	}
}
