package stacktest

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Sum is the one's-complement sum of b (RFC 1071 §1), not complemented. A missing last byte counts as zero.
func Sum(b []byte) uint16 {
	sum := 0
	for i, c := range b {
		if i%2 == 0 {
			sum += int(c) << 8
		} else {
			sum += int(c)
		}
		if sum > 0xffff {
			sum -= 0xffff // the carry comes back in at the low end
		}
	}
	return uint16(sum)
}

// SameChecksum says whether two checksums mean the same: 0 and 0xffff are both zero in one's complement.
func SameChecksum(a, b uint16) bool { return a%0xffff == b%0xffff }

// FullChecksumOK says whether packet, one IP packet without virtio header, carries a TCP segment whose
// complete checksum is right, and for IPv4 also whether the one of the IP header is. That of a first fragment
// covers bytes that are elsewhere, and is not.
func FullChecksumOK(packet []byte) bool {
	s, err := Decode(packet, false)
	if err != nil || s.FirstFragment() || !SameChecksum(s.ChecksumError, 0) {
		return false
	}
	return !s.Src.Addr().Is4() || Sum(packet[:s.l4()]) == 0xffff
}

// CompleteChecksum returns a copy of frame after what the kernel or a network card does with
// VIRTIO_NET_HDR_F_NEEDS_CSUM: the sum from csum_start to the end goes into the checksum field. A frame
// without the flag is copied as it is.
func CompleteChecksum(frame []byte) []byte {
	frame = slices.Clone(frame)
	if frame[0]&needsCsum == 0 {
		return frame
	}
	covered := frame[virtioLen+int(binary.LittleEndian.Uint16(frame[6:])):]
	binary.BigEndian.PutUint16(covered[binary.LittleEndian.Uint16(frame[8:]):], ^Sum(covered))
	copy(frame, make([]byte, virtioLen))
	return frame
}

// pseudoHeader is what a TCP checksum covers besides the segment itself (RFC 9293 §3.1, RFC 8200 §8.1).
func pseudoHeader(src, dst netip.Addr, length int) []byte {
	b := slices.Concat(src.AsSlice(), dst.AsSlice())
	if src.Is4() {
		return append(b, 0, protoTCP, byte(length>>8), byte(length))
	}
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	return append(b, 0, 0, 0, protoTCP)
}

// rightChecksum is what belongs into the checksum field of tcp, a header with its payload.
func rightChecksum(src, dst netip.Addr, tcp []byte, partial bool) uint16 {
	pseudo := pseudoHeader(src, dst, len(tcp))
	if partial {
		return Sum(pseudo)
	}
	covered := slices.Concat(pseudo, tcp)
	at := len(pseudo) + 16
	covered[at], covered[at+1] = 0, 0
	return ^Sum(covered)
}

// plus adds in one's complement.
func plus(a, b uint16) uint16 {
	sum := int(a) + int(b)
	if sum > 0xffff {
		sum -= 0xffff
	}
	return uint16(sum)
}
