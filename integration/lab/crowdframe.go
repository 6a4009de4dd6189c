package lab

import "encoding/binary"

// crowdSegment is one TCP segment over IPv4, as far as a Crowd needs to know it.
type crowdSegment struct {
	src, dst         [4]byte
	srcPort, dstPort uint16
	seq, ack         uint32
	flags            byte
	window           uint16
	// handshake segments have the options of a SYN, those of LinuxSYN.
	handshake bool
	// stamped segments have timestamps.
	stamped      bool
	tsval, tsecr uint32
}

// maxCrowdFrame is the length of the longest frame of a crowd.
const maxCrowdFrame = ethLen + ipv4Len + tcpLen + 24

// handshakeOptions are LinuxSYN's without the timestamp, which differs from segment to segment.
var handshakeOptions = SYNOptions{MSS: LinuxSYN.MSS, SACK: true, WScale: true, Shift: LinuxSYN.Shift}.encode()

// Kinds of TCP options.
const (
	optionEnd = 0
	optionNOP = 1
	optionTS  = 8
)

// appendTo appends the packet to b, with full checksums.
func (s *crowdSegment) appendTo(b []byte) []byte {
	start := len(b)
	b = append(b, 4<<4|ipv4Len/4, 0, 0, 0, 0, 0, 1<<6, 0, hops, protoTCP, 0, 0)
	b = append(append(b, s.src[:]...), s.dst[:]...)
	b = binary.BigEndian.AppendUint16(b, s.srcPort)
	b = binary.BigEndian.AppendUint16(b, s.dstPort)
	b = binary.BigEndian.AppendUint32(b, s.seq)
	b = binary.BigEndian.AppendUint32(b, s.ack)
	b = append(b, 0, s.flags)
	b = binary.BigEndian.AppendUint16(b, s.window)
	b = append(b, 0, 0, 0, 0)
	b = s.appendOptions(b)

	ip, tcp := b[start:start+ipv4Len], b[start+ipv4Len:]
	binary.BigEndian.PutUint16(ip[2:], uint16(ipv4Len+len(tcp)))
	binary.BigEndian.PutUint16(ip[ipv4SumAt:], ^fold(sum16(ip)))
	tcp[12] = byte(len(tcp)/4) << 4
	sum := sum16(tcp) + sum16(s.src[:]) + sum16(s.dst[:]) + protoTCP + uint32(len(tcp))
	binary.BigEndian.PutUint16(tcp[tcpSumAt:], ^fold(sum))
	return b
}

func (s *crowdSegment) appendOptions(b []byte) []byte {
	if s.handshake {
		b = append(b, handshakeOptions...)
	}
	if s.stamped {
		b = append(b, optionNOP, optionNOP, optionTS, 10)
		b = binary.BigEndian.AppendUint32(b, s.tsval)
		b = binary.BigEndian.AppendUint32(b, s.tsecr)
	}
	return b
}

// parse reads a frame, and says whether it holds a TCP segment over IPv4. Checksums are not checked, and
// options other than timestamps left out.
func (s *crowdSegment) parse(frame []byte) bool {
	if len(frame) < ethLen+ipv4Len {
		return false
	}
	ip := frame[ethLen:]
	header := int(ip[0]&0xf) * 4
	if ip[0]>>4 != 4 || header < ipv4Len || ip[9] != protoTCP || len(ip) < header+tcpLen {
		return false
	}
	tcp := ip[header:]
	end := int(tcp[12]>>4) * 4
	if end < tcpLen || end > len(tcp) {
		return false
	}
	*s = crowdSegment{
		src: [4]byte(ip[ipv4SrcAt:]), dst: [4]byte(ip[ipv4SrcAt+4:]),
		srcPort: binary.BigEndian.Uint16(tcp[tcpSrcPortAt:]), dstPort: binary.BigEndian.Uint16(tcp[tcpDstPortAt:]),
		seq: binary.BigEndian.Uint32(tcp[tcpSeqAt:]), ack: binary.BigEndian.Uint32(tcp[tcpSeqAt+4:]),
		flags: tcp[tcpFlagsAt], window: binary.BigEndian.Uint16(tcp[14:]),
	}
	for o := tcp[tcpLen:end]; len(o) > 0 && o[0] != optionEnd; {
		if o[0] == optionNOP {
			o = o[1:]
			continue
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			return false
		}
		if o[0] == optionTS && o[1] == 10 {
			s.stamped = true
			s.tsval, s.tsecr = binary.BigEndian.Uint32(o[2:]), binary.BigEndian.Uint32(o[6:])
		}
		o = o[o[1]:]
	}
	return true
}

// crowdAddrs is how many addresses a crowd's clients have: those of SpoofedPrefix4.
var crowdAddrs = 1 << (32 - SpoofedPrefix4.Bits())

// firstCrowdPort is the port of the first connection from each address.
const firstCrowdPort = 1024

// crowdAddr is the client's end of connection i, below MaxCrowd.
func crowdAddr(i int) (addr [4]byte, port uint16) {
	addr = SpoofedPrefix4.Addr().As4()
	binary.BigEndian.PutUint32(addr[:], binary.BigEndian.Uint32(addr[:])+uint32(i%crowdAddrs))
	return addr, uint16(firstCrowdPort + i/crowdAddrs)
}

// crowdIndex is the inverse of crowdAddr.
func crowdIndex(addr [4]byte, port uint16) (i int, ok bool) {
	base := SpoofedPrefix4.Addr().As4()
	offset := int(binary.BigEndian.Uint32(addr[:])) - int(binary.BigEndian.Uint32(base[:]))
	if offset < 0 || offset >= crowdAddrs || port < firstCrowdPort {
		return 0, false
	}
	return offset + int(port-firstCrowdPort)*crowdAddrs, true
}
