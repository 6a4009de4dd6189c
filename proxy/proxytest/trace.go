package proxytest

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/stack"
)

// Record is a packet as it was seen at a hop, after the hooks.
type Record struct {
	Hop  Hop
	At   time.Duration
	Fate Fate
	Kind stack.Kind
	// GSO says that it is a superpacket of segments of that many payload bytes.
	GSO uint16
	// TCP is a view of a copy of the headers: no payload follows them.
	TCP stack.Packet
	// SACK blocks, in the order in which they stand.
	SACK []header.SACKBlock
}

// Is is as Packet.Is.
func (r *Record) Is(flags header.TCPFlags) bool {
	return (&Packet{Kind: r.Kind, TCP: r.TCP}).Is(flags)
}

// Trace is the packets of a network, of all hops, in order.
type Trace []Record

// maxTrace bounds the memory of a trace; what follows is not recorded.
const maxTrace = 1 << 18

func (t *Trace) add(p *Packet, fate Fate) {
	if len(*t) < maxTrace {
		*t = append(*t, record(p, fate))
	}
}

// record keeps a packet's headers.
func record(p *Packet, fate Fate) Record {
	r := Record{Hop: p.Hop, At: p.At, Fate: fate, Kind: p.Kind, TCP: p.TCP}
	if p.Kind == stack.KindTCP {
		if v := stack.DecodeVirtio(p.Frame); v.GSOType != stack.GSONone {
			r.GSO = v.GSOSize
		}
		r.TCP.IP = append([]byte(nil), p.TCP.IP[:p.TCP.L4+p.TCP.HeaderLen]...)
		r.SACK = sackBlocks(r.TCP.IP[p.TCP.L4+header.TCPMinimumSize:])
	} else {
		r.TCP.IP = nil
	}
	return r
}

// At returns the TCP segments of one hop that were not dropped there and for which match, if any, is true.
func (t Trace) At(hop Hop, match func(r *Record) bool) []Record {
	var out []Record
	for i := range t {
		r := &t[i]
		if r.Hop == hop && r.Kind == stack.KindTCP && !r.Fate.Drop && (match == nil || match(r)) {
			out = append(out, *r)
		}
	}
	return out
}

// sackBlocks reads the SACK options (RFC 2018 §3) of a well-formed option list.
func sackBlocks(b []byte) (blocks []header.SACKBlock) {
	for len(b) > 0 && b[0] != header.TCPOptionEOL {
		n := 1
		if b[0] != header.TCPOptionNOP {
			n = int(b[1])
		}
		if b[0] == header.TCPOptionSACK {
			for e := b[2:n]; len(e) >= 8; e = e[8:] {
				blocks = append(blocks, header.SACKBlock{
					Start: seqnum.Value(binary.BigEndian.Uint32(e)), End: seqnum.Value(binary.BigEndian.Uint32(e[4:])),
				})
			}
		}
		b = b[n:]
	}
	return blocks
}

// String is the trace as lines of text: all of a short one, the ends of a long one.
func (t Trace) String() string {
	const head, tail = 60, 140
	var b strings.Builder
	for i := range t {
		if i == head && len(t) > head+tail {
			fmt.Fprintf(&b, "... %d more ...\n", len(t)-head-tail)
		}
		if i < head || i >= len(t)-tail {
			b.WriteString(t[i].String())
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// String is the packet on one line.
func (r *Record) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%12.6f  %s", r.At.Seconds(), r.Hop)
	switch {
	case r.Fate.Drop:
		b.WriteString("  LOST")
	case r.Fate.Copies > 0:
		fmt.Fprintf(&b, "  +%d COPIES", r.Fate.Copies)
	case r.Fate.Delay > 0:
		fmt.Fprintf(&b, "  LATE %v", r.Fate.Delay)
	}
	p := &r.TCP
	if r.Kind != stack.KindTCP {
		fmt.Fprintf(&b, "  not a whole TCP segment (kind %d) %v > %v", r.Kind, p.Src.Netip(), p.Dst.Netip())
		return b.String()
	}
	fmt.Fprintf(&b, "  %v:%d > %v:%d  %s seq %d", p.Src.Netip(), p.SrcPort, p.Dst.Netip(), p.DstPort, flagText(p.Flags), uint32(p.Seq))
	if p.Flags.Contains(header.TCPFlagAck) {
		fmt.Fprintf(&b, " ack %d", uint32(p.Ack))
	}
	fmt.Fprintf(&b, " win %d len %d", p.Window, p.PayloadLen)
	if r.GSO != 0 {
		fmt.Fprintf(&b, " gso %d", r.GSO)
	}
	o := &p.Options
	if o.MSS != 0 {
		fmt.Fprintf(&b, " mss %d", o.MSS)
	}
	if o.WScale != stack.WScaleNone {
		fmt.Fprintf(&b, " ws %d", o.WScale)
	}
	if o.SACKPermitted {
		b.WriteString(" sackOK")
	}
	if o.Timestamps {
		fmt.Fprintf(&b, " ts %d/%d", o.TSVal, o.TSEcr)
	}
	for _, s := range r.SACK {
		fmt.Fprintf(&b, " sack %d-%d", uint32(s.Start), uint32(s.End))
	}
	return b.String()
}

func flagText(f header.TCPFlags) string {
	text := []byte("[")
	for i, c := range []byte("FSRPAUEC") {
		if f&(1<<i) != 0 {
			text = append(text, c)
		}
	}
	return string(append(text, ']'))
}
