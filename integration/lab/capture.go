package lab

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"golang.org/x/sys/unix"
)

// The bounds of a capture.
const (
	// captureSnap is how many bytes of each packet are kept: all headers, extension headers included.
	captureSnap = 256
	// captureMax is how many bytes of packets, after which it goes on without keeping any more.
	captureMax = 64 << 20
	// captureBuffer is how many bytes the kernel holds for us.
	captureBuffer = 16 << 20
)

// Capture writes the packets of an interface to a pcap file.
type Capture struct {
	// File is where the packets go.
	File string

	socket, file *os.File
	buffer       *bufio.Writer
	writer       *pcapgo.Writer
	stop         func() error
	done         chan struct{}

	// The rest belongs to run until done is closed.

	packet  [captureSnap]byte
	control [128]byte
	// kept bytes, and packets that came faster than they were read.
	kept, lost int
	err        error
}

// StartCapture captures what comes in and goes out of an interface of the namespace into a new file: the
// first 256 bytes of each packet, up to 64 MiB. It ends with Stop or with the lab.
func (n *Namespace) StartCapture(ifname, file string) (*Capture, error) {
	fail := func(err error) (*Capture, error) {
		return nil, fmt.Errorf("capture %s in %s: %w", ifname, n.Name, err)
	}
	link, err := n.nl.LinkByName(ifname)
	if err != nil {
		return fail(err)
	}
	// Interfaces without a link layer, such as a TUN, give bare IP packets.
	linkType := layers.LinkTypeRaw
	if len(link.Attrs().HardwareAddr) != 0 {
		linkType = layers.LinkTypeEthernet
	}
	c := &Capture{File: file, done: make(chan struct{})}
	if c.socket, err = n.captureSocket(link.Attrs().Index); err != nil {
		return fail(err)
	}
	if c.file, err = os.Create(file); err != nil {
		return fail(errors.Join(err, c.socket.Close()))
	}
	c.buffer = bufio.NewWriter(c.file)
	c.writer = pcapgo.NewWriterNanos(c.buffer)
	if err := c.writer.WriteFileHeader(captureSnap, linkType); err != nil {
		return fail(errors.Join(err, c.socket.Close(), c.file.Close()))
	}
	c.stop = sync.OnceValue(c.stopOnce)
	n.started.add(c.stop)
	go c.run()
	return c, nil
}

func (n *Namespace) captureSocket(ifindex int) (*os.File, error) {
	var fd int
	err := n.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifindex}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bind packet socket: %w", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "capture"), nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func (c *Capture) run() {
	defer close(c.done)
	raw, err := c.socket.SyscallConn()
	if err != nil {
		c.err = err
		return
	}
	for c.err == nil {
		err := raw.Read(c.next)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		c.err = errors.Join(c.err, err)
	}
	// Stopped: what came before that still waits in the socket, bounded by its buffer.
	err = raw.Control(func(fd uintptr) {
		for c.err == nil && c.next(fd) {
		}
		stats, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err == nil {
			c.lost = int(stats.Drops)
		}
	})
	c.err = errors.Join(c.err, err, c.buffer.Flush())
}

// next reads and writes one packet. It returns false if none waits.
func (c *Capture) next(fd uintptr) bool {
	// With MSG_TRUNC the length is the packet's, not that of what fits.
	length, controlLen, _, _, err := unix.Recvmsg(int(fd), c.packet[:], c.control[:], unix.MSG_TRUNC)
	switch err {
	case nil:
	case unix.EAGAIN:
		return false
	case unix.EINTR, unix.ENETDOWN:
		// The interface may come back.
		return true
	default:
		c.err = fmt.Errorf("read packet: %w", err)
		return true
	}
	info := gopacket.CaptureInfo{
		Timestamp: packetTime(c.control[:controlLen]), CaptureLength: min(length, captureSnap), Length: length,
	}
	if c.kept += info.CaptureLength; c.kept <= captureMax {
		c.err = c.writer.WritePacket(info, c.packet[:info.CaptureLength])
	}
	return true
}

// packetTime is when the kernel saw the packet, or now if it doesn't say.
func packetTime(control []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return time.Now()
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
			// struct timespec on a 64-bit machine.
			sec, nsec := binary.NativeEndian.Uint64(m.Data), binary.NativeEndian.Uint64(m.Data[8:])
			return time.Unix(int64(sec), int64(nsec))
		}
	}
	return time.Now()
}

// Stop ends the capture and closes the file, which is complete then. It may be called again.
func (c *Capture) Stop() error { return c.stop() }

// Lost counts packets that are not in the file because they came too fast. Only after Stop.
func (c *Capture) Lost() int { return c.lost }

func (c *Capture) stopOnce() error {
	err := c.socket.SetReadDeadline(time.Now())
	<-c.done
	return errors.Join(err, c.err, c.socket.Close(), c.file.Close())
}
