package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"levee/stack"
)

// Wire sends and receives whole IP packets at the host's end of a link, for addresses that no kernel has: what comes
// for them is seen by nobody else, and not answered.
type Wire struct {
	socket *os.File
	// vouched says that packets have a virtio header before them.
	vouched bool
	head4   []byte
	head6   []byte
	mu      sync.Mutex
	frame   []byte // guarded by mu
}

// OpenWire routes prefixes, which hold no address of the lab, from the gateway to the link's host, and opens a packet socket
// there. It closes with the lab, or earlier.
//
// If vouched is set, TCP packets with a right checksum enter the kernel as if from a socket on this host: nobody on their
// way checks it. The kernel's SYN proxy needs that over IPv6 (see StartSYNPROXY).
func (l *Link) OpenWire(vouched bool, prefixes ...netip.Prefix) (*Wire, error) {
	for _, p := range prefixes {
		if p.Contains(l.Host.Addr4) || p.Contains(l.Host.Addr6) || p.Contains(l.Gateway.Addr4) || p.Contains(l.Gateway.Addr6) {
			return nil, fmt.Errorf("open wire at %s: %s holds an address of the link", &l.Host, p)
		}
		if err := l.route(l.Gateway.Namespace, p); err != nil {
			return nil, err
		}
	}
	// What came in and is IP; what went out is left out by frameSocket.
	everything := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 18}}
	fd, err := l.Host.frameSocket(htons(unix.ETH_P_ALL), everything)
	if err != nil {
		return nil, err
	}
	err = unix.SetNonblock(fd, true)
	if vouched && err == nil {
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
			// Otherwise the checksum is computed before the packet crosses the link.
			l.Host.Namespace.Do(func() error { return l.Host.setOne("tx-checksum", unix.ETHTOOL_STXCSUM, true) }))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open wire at %s: %w", &l.Host, err), unix.Close(fd))
	}
	ethernet := append([]byte(nil), l.Gateway.HardwareAddr...)
	ethernet = append(ethernet, l.Host.HardwareAddr...)
	w := &Wire{
		socket: os.NewFile(uintptr(fd), "wire"), vouched: vouched,
		head4: append(ethernet[:len(ethernet):len(ethernet)], ethIPv4>>8, ethIPv4&0xff),
		head6: append(ethernet[:len(ethernet):len(ethernet)], ethIPv6>>8, ethIPv6&0xff),
	}
	l.Host.Namespace.started.add(func() error {
		if err := w.Close(); !errors.Is(err, os.ErrClosed) {
			return err
		}
		return nil
	})
	return w, nil
}

// Send sends an IP packet, which it doesn't keep, to the gateway. It may be called from several goroutines.
func (w *Wire) Send(packet []byte) error {
	if len(packet) == 0 {
		return errors.New("send an empty packet")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	head := w.head4
	if packet[0]>>4 == 6 {
		head = w.head6
	}
	w.frame = w.frame[:0]
	if w.vouched {
		w.frame = append(w.frame, make([]byte, stack.VirtioLen)...)
	}
	w.frame = append(append(w.frame, head...), packet...)
	if w.vouched {
		vouch(w.frame)
	}
	if _, err := w.socket.Write(w.frame); err != nil {
		return fmt.Errorf("send packet: %w", err)
	}
	return nil
}

// vouch makes a frame, which starts with an empty virtio header, one whose TCP checksum is still to be computed, if it is right.
func vouch(frame []byte) {
	ip := frame[stack.VirtioLen+ethLen:]
	var p stack.Packet
	if p.Parse(ip, false) != stack.KindTCP || !p.ChecksumOK() {
		return
	}
	addr := func(a stack.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.Netip().AsSlice()) }
	tcp := header.TCP(p.IP[p.L4:])
	tcp.SetChecksum(header.PseudoHeaderChecksum(header.TCPProtocolNumber, addr(p.Src), addr(p.Dst), uint16(len(tcp))))
	stack.Virtio{
		Flags: stack.VirtioNeedsCsum, CsumStart: uint16(ethLen + p.L4), CsumOffset: tcpSumAt,
	}.Encode(frame)
}

// Receive waits for the next IP packet from the gateway, whomever it is for, and returns it in buffer. The error is
// os.ErrClosed after Close. One goroutine calls it.
func (w *Wire) Receive(buffer []byte) ([]byte, error) {
	for {
		n, err := w.socket.Read(buffer)
		if err != nil {
			return nil, fmt.Errorf("receive packet: %w", err)
		}
		frame := buffer[:n]
		if w.vouched {
			frame = frame[min(n, stack.VirtioLen):]
		}
		if len(frame) <= ethLen {
			continue
		}
		if t := int(frame[12])<<8 | int(frame[13]); t == ethIPv4 || t == ethIPv6 {
			return frame[ethLen:], nil
		}
	}
}

// Close ends Receive.
func (w *Wire) Close() error { return w.socket.Close() }
