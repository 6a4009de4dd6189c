package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Stats is what the kernel counts for the interface. As everywhere in the kernel, Tx is what
// the interface took to send, which is what levee reads, and Rx is what levee wrote.
type Stats struct {
	TxPackets, TxBytes uint64
	// TxDropped counts packets that found the ring of their queue full (or, while the
	// device is being made or removed, no queue): levee was too slow to read them.
	TxDropped uint64

	RxPackets, RxBytes uint64
	// RxDropped counts packets that levee wrote and the kernel dropped on entry.
	RxDropped uint64
}

// statsTimeout bounds the wait for the kernel's answer, in seconds. It answers at once,
// unless something holds the lock of all network configuration.
const statsTimeout = 2

// openControl makes the socket for settings and statistics. Being a netlink socket, it
// works on hosts without IPv4 or IPv6 too; ioctl takes any socket.
func openControl() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: statsTimeout}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// setLink sets one number of the interface by an ioctl such as SIOCSIFMTU.
func (d *Device) setLink(request uint, value int) error {
	ifr, err := unix.NewIfreq(d.name)
	if err != nil {
		return err
	}
	ifr.SetUint32(uint32(value))
	return unix.IoctlIfreq(d.control, request, ifr)
}

func (d *Device) linkIndex() (int, error) {
	ifr, err := unix.NewIfreq(d.name)
	if err != nil {
		return 0, err
	}
	err = unix.IoctlIfreq(d.control, unix.SIOCGIFINDEX, ifr)
	return int(ifr.Uint32()), err
}

// Stats asks the kernel for the interface's counters. The error matches ErrGone when
// the interface was deleted, os.ErrClosed after Close.
func (d *Device) Stats() (Stats, error) {
	d.controlMu.Lock()
	defer d.controlMu.Unlock()
	if d.closed {
		return Stats{}, fmt.Errorf("counters of %s: %w", d.name, os.ErrClosed)
	}
	return d.stats()
}

// stats is Stats for those who hold controlMu of an open device.
func (d *Device) stats() (Stats, error) {
	d.sequence++
	s, err := requestStats(d.control, d.sequence, d.index)
	if errors.Is(err, unix.ENODEV) {
		err = ErrGone
	}
	if err != nil {
		return Stats{}, fmt.Errorf("counters of %s: %w", d.name, err)
	}
	return s, nil
}

// Lengths in bytes of the netlink messages of RTM_GETSTATS (include/uapi/linux/if_link.h):
//
//	0          16                                28              32
//	nlmsghdr   family, 3 pad, ifindex, filter    attribute head  struct rtnl_link_stats64
const (
	statsMsgLen = 12 // struct if_stats_msg
	attrLen     = 4  // struct rtattr
	statsLen    = 64 // the first eight counters of struct rtnl_link_stats64

	attrTypeMask = 0x3fff // NLA_TYPE_MASK: without the nested and byte order flags
)

// statsTries bounds how many messages are read in search of the answer: an earlier
// request that timed out may have left its own.
const statsTries = 8

func requestStats(fd int, sequence uint32, index int) (Stats, error) {
	order := binary.NativeEndian // netlink's
	var request [unix.SizeofNlMsghdr + statsMsgLen]byte
	order.PutUint32(request[0:], uint32(len(request)))
	order.PutUint16(request[4:], unix.RTM_GETSTATS)
	order.PutUint16(request[6:], unix.NLM_F_REQUEST)
	order.PutUint32(request[8:], sequence)
	order.PutUint32(request[unix.SizeofNlMsghdr+4:], uint32(index))
	order.PutUint32(request[unix.SizeofNlMsghdr+8:], 1<<(unix.IFLA_STATS_LINK_64-1))
	if err := unix.Sendto(fd, request[:], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return Stats{}, err
	}
	var answer [1024]byte
	for range statsTries {
		n, _, err := unix.Recvfrom(fd, answer[:], 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return Stats{}, err
		}
		msg := answer[:n]
		if len(msg) < unix.SizeofNlMsghdr || order.Uint32(msg[8:]) != sequence {
			continue
		}
		return parseStats(order.Uint16(msg[4:]), msg[unix.SizeofNlMsghdr:])
	}
	return Stats{}, errors.New("no answer from the kernel")
}

// parseStats reads the body of a netlink message that answers RTM_GETSTATS.
func parseStats(kind uint16, body []byte) (Stats, error) {
	order := binary.NativeEndian
	switch {
	case kind == unix.NLMSG_ERROR && len(body) >= 4:
		return Stats{}, unix.Errno(-int32(order.Uint32(body)))
	case kind != unix.RTM_NEWSTATS || len(body) < statsMsgLen:
		return Stats{}, fmt.Errorf("the kernel's answer has type %d and length %d", kind, len(body))
	}
	for attrs := body[statsMsgLen:]; len(attrs) >= attrLen; {
		length := int(order.Uint16(attrs))
		if length < attrLen || length > len(attrs) {
			break
		}
		value := attrs[attrLen:length]
		if order.Uint16(attrs[2:])&attrTypeMask == unix.IFLA_STATS_LINK_64 && len(value) >= statsLen {
			counter := func(i int) uint64 { return order.Uint64(value[8*i:]) }
			return Stats{
				RxPackets: counter(0), TxPackets: counter(1),
				RxBytes: counter(2), TxBytes: counter(3),
				RxDropped: counter(6), TxDropped: counter(7), // 4 and 5 are errors
			}, nil
		}
		attrs = attrs[min((length+3)&^3, len(attrs)):] // attributes are padded to 4 bytes
	}
	return Stats{}, errors.New("the kernel's answer holds no counters")
}
