package stack

import "encoding/binary"

// VirtioLen is the length in bytes of the virtio_net_hdr that precedes every
// packet on a TUN queue opened with IFF_VNET_HDR (include/uapi/linux/virtio_net.h,
// without the num_buffers field, which TUN does not use by default).
const VirtioLen = 10

// Flags of a virtio_net_hdr (VIRTIO_NET_HDR_F_*).
const (
	// VirtioNeedsCsum says that the checksum field at CsumStart+CsumOffset holds
	// only the pseudo-header sum and that whoever sends the packet to a wire completes it.
	VirtioNeedsCsum = 1
	// VirtioDataValid says that the kernel has verified the checksum. It is set on
	// read only; the kernel ignores it on write.
	VirtioDataValid = 2
)

// GSO types of a virtio_net_hdr (VIRTIO_NET_HDR_GSO_*).
const (
	GSONone  = 0
	GSOTCPv4 = 1
	GSOTCPv6 = 4
	// GSOECN is a flag on the TCP types: CWR is set and belongs to the first segment only.
	GSOECN = 0x80
)

// Virtio is a virtio_net_hdr. On the wire it is
//
//	0       1        2        4         6          8            10
//	flags   gsoType  hdrLen   gsoSize   csumStart  csumOffset
//
// with every 16-bit field little-endian: TUN uses the host's order unless told
// otherwise, and levee runs on little-endian hosts and asks for TUNSETVNETLE.
// gVisor's header.VirtioNetHeader is not used because its getters and its encoder disagree
// about the byte order.
type Virtio struct {
	Flags   uint8
	GSOType uint8
	// HdrLen is the length in bytes of all headers. The kernel sizes the linear part of
	// the packet by it on write; on read it is only a hint.
	HdrLen uint16
	// GSOSize is the payload bytes per segment; 0 when GSOType is GSONone.
	GSOSize uint16
	// CsumStart is the offset in bytes, from the start of the packet, where summing begins.
	CsumStart uint16
	// CsumOffset is the offset in bytes of the checksum field after CsumStart: 16 for TCP.
	CsumOffset uint16
}

// DecodeVirtio reads the header from the first VirtioLen bytes of b, which must be there.
func DecodeVirtio(b []byte) Virtio {
	_ = b[VirtioLen-1]
	return Virtio{
		Flags:      b[0],
		GSOType:    b[1],
		HdrLen:     binary.LittleEndian.Uint16(b[2:]),
		GSOSize:    binary.LittleEndian.Uint16(b[4:]),
		CsumStart:  binary.LittleEndian.Uint16(b[6:]),
		CsumOffset: binary.LittleEndian.Uint16(b[8:]),
	}
}

// Encode writes the header to the first VirtioLen bytes of b, which must be there.
func (v Virtio) Encode(b []byte) {
	_ = b[VirtioLen-1]
	b[0] = v.Flags
	b[1] = v.GSOType
	binary.LittleEndian.PutUint16(b[2:], v.HdrLen)
	binary.LittleEndian.PutUint16(b[4:], v.GSOSize)
	binary.LittleEndian.PutUint16(b[6:], v.CsumStart)
	binary.LittleEndian.PutUint16(b[8:], v.CsumOffset)
}
