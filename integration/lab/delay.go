package lab

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Delay makes a link longer. It stands in a namespace of its own between the two veth pairs of the link, and hands
// every Ethernet frame over, in order and unchanged, superpackets whole, when its time has come.
type Delay struct {
	// each direction's time, of which a busy machine makes more but never less.
	each      time.Duration
	near, far End
	lost      atomic.Int64
	sockets   [2]*os.File
	readers   sync.WaitGroup
	writers   sync.WaitGroup
}

const (
	// MaxDelay is the longest delay of one direction.
	MaxDelay = time.Second
	// DelayFrames is how many frames are on their way in one direction at most; what comes then is lost.
	DelayFrames = 1000
	// maxFrame is a superpacket with its virtio_net_hdr and its Ethernet header.
	maxFrame = 10 + ethLen + 65535
)

// delayedLink connects a host to the gateway through a namespace that delays what passes.
func (l *Lab) delayedLink(host *Namespace, name string, each time.Duration) (*Link, error) {
	middle, err := l.namespace(name + "-delay")
	if err != nil {
		return nil, err
	}
	// The middle is a wire: the kernel there is not to speak for itself.
	if err := middle.SetSysctl("net.ipv6.conf.default.disable_ipv6", "1"); err != nil {
		return nil, err
	}
	d := &Delay{
		each: each,
		near: End{Namespace: middle, Name: "near"},
		far:  End{Namespace: middle, Name: "far"},
	}
	link := &Link{
		Host:    End{Namespace: host, Name: hostIf},
		Gateway: End{Namespace: l.Gateway, Name: name},
		Delay:   d,
	}
	if err := errors.Join(pair(&link.Host, &d.near), pair(&d.far, &link.Gateway)); err != nil {
		return nil, fmt.Errorf("connect %s to %s: %w", host.Name, l.Gateway.Name, err)
	}
	if err := d.start(); err != nil {
		return nil, err
	}
	l.started.add(d.stop)
	return link, nil
}

// Lost counts frames that came when too many were on their way already, or that the other side didn't take.
func (d *Delay) Lost() int { return int(d.lost.Load()) }

func (d *Delay) start() error {
	for i, e := range []*End{&d.near, &d.far} {
		s, err := e.wholeFrames()
		if err != nil {
			return errors.Join(fmt.Errorf("delay at %s: %w", e, err), d.stop())
		}
		d.sockets[i] = s
	}
	for i := range d.sockets {
		from, to := d.sockets[i], d.sockets[1-i]
		queue := make(chan delayed, DelayFrames)
		d.readers.Go(func() {
			defer close(queue)
			d.read(from, queue)
		})
		d.writers.Go(func() { d.write(to, queue) })
	}
	return nil
}

func (d *Delay) stop() (err error) {
	for _, s := range d.sockets {
		if s != nil {
			err = errors.Join(err, s.SetReadDeadline(time.Now()))
		}
	}
	d.readers.Wait()
	d.writers.Wait()
	for _, s := range d.sockets {
		if s != nil {
			err = errors.Join(err, s.Close())
		}
	}
	return err
}

// wholeFrames opens a packet socket that receives what comes into the end's interface, and sends out of it, with
// the virtio_net_hdr that says which checksums and segments are left to do.
func (e *End) wholeFrames() (*os.File, error) {
	fd := -1
	err := e.Namespace.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: e.Index}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bind packet socket: %w", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "delay"), nil
}

// delayed is a frame that waits for its time.
type delayed struct {
	// due is a time of CLOCK_MONOTONIC in nanoseconds.
	due   int64
	frame []byte
}

func (d *Delay) read(from *os.File, queue chan<- delayed) {
	raw, err := from.SyscallConn()
	if err != nil {
		return // the socket is closed
	}
	buf := make([]byte, maxFrame)
	var control [128]byte
	for {
		var n, controlLen int
		var readErr error
		err := raw.Read(func(fd uintptr) bool {
			n, controlLen, _, _, readErr = unix.Recvmsg(int(fd), buf, control[:], 0)
			return readErr != unix.EAGAIN
		})
		if err != nil {
			return // stop
		}
		switch readErr {
		case nil:
		case unix.EINTR, unix.ENETDOWN: // an interface that goes down says so once
			continue
		default:
			return
		}
		// The time counts from when the kernel had the frame, not from when we came to read it.
		waited := min(max(time.Since(packetTime(control[:controlLen])), 0), d.each)
		select {
		case queue <- delayed{monotonic() + (d.each - waited).Nanoseconds(), append([]byte(nil), buf[:n]...)}:
		default:
			d.lost.Add(1)
		}
	}
}

func (d *Delay) write(to *os.File, queue <-chan delayed) {
	// A thread of its own, which ends with the goroutine, that the kernel wakes on time and ahead of all ordinary ones, for the
	// runtime's timers are made for milliseconds. Where that is not allowed, frames are a little later.
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Policy: unix.SCHED_FIFO, Priority: 1}, 0)
	raw, err := to.SyscallConn()
	if err != nil {
		return
	}
	for f := range queue {
		until := unix.NsecToTimespec(f.due)
		for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &until, nil) == unix.EINTR {
		}
		err := raw.Control(func(fd uintptr) {
			if _, err := unix.Write(int(fd), f.frame); err != nil {
				d.lost.Add(1)
			}
		})
		if err != nil {
			return
		}
	}
}

// monotonic is CLOCK_MONOTONIC in nanoseconds.
func monotonic() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // can't fail with a clock that exists
	return t.Nano()
}
