package lab

import (
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// frameSocket opens a packet socket for the end, after making sure that this is a veth of the lab: it can send
// into the lab and nowhere else. It receives what comes in of the protocol, in network byte order, and
// passes the filter; with protocol 0, nothing.
func (e *End) frameSocket(protocol uint16, filter []unix.SockFilter) (fd int, err error) {
	err = e.Namespace.Do(func() error {
		if err := e.checkOwn(); err != nil {
			return err
		}
		// Protocol 0: it receives nothing before it is told to.
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open packet socket: %w", err)
		}
		err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
		if filter != nil {
			err = errors.Join(err,
				unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
				unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer),
				unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{
					Len: uint16(len(filter)), Filter: &filter[0],
				}))
		}
		err = errors.Join(err, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: e.Index}))
		if err != nil {
			return errors.Join(fmt.Errorf("bind packet socket to %s: %w", e, err), unix.Close(fd))
		}
		return nil
	})
	if err != nil {
		return -1, err
	}
	return fd, nil
}

// checkOwn makes sure that the end is a veth in a namespace that the lab made. It runs inside.
func (e *End) checkOwn() error {
	here, err := netns.Get()
	if err != nil {
		return err
	}
	defer here.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(here), &st); err != nil {
		return fmt.Errorf("identify the namespace: %w", err)
	}
	if n, _ := made.Load(st.Ino); n != e.Namespace {
		return fmt.Errorf("%s is not in a namespace of the lab", e)
	}
	link, err := netlink.LinkByIndex(e.Index)
	if err != nil {
		return fmt.Errorf("find %s: %w", e, err)
	}
	if link.Type() != "veth" || link.Attrs().Name != e.Name {
		return fmt.Errorf("%s is not a veth of the lab but %s %s", e, link.Type(), link.Attrs().Name)
	}
	return nil
}

// floodBatch is how many frames one system call sends or receives at most.
const floodBatch = 64

// frameBatch is the memory of one system call for several frames. The kernel holds pointers into it, so it
// stays where it is. One goroutine uses it.
type frameBatch struct {
	fd       int
	frames   [floodBatch][]byte
	iovecs   [floodBatch]unix.Iovec
	messages [floodBatch]unix.Mmsghdr
}

func (b *frameBatch) init(fd int) {
	b.fd = fd
	for i := range b.messages {
		b.messages[i].Hdr.Iov = &b.iovecs[i]
		b.messages[i].Hdr.SetIovlen(1)
	}
}

// setFrame makes a slice, which is not empty, the i-th of the batch.
func (b *frameBatch) setFrame(i int, frame []byte) {
	b.frames[i] = frame
	b.iovecs[i].Base = &frame[0]
	b.iovecs[i].SetLen(len(frame))
}

func (b *frameBatch) call(trap uintptr, n int, flags uintptr) (int, error) {
	done, _, errno := unix.Syscall6(trap, uintptr(b.fd), uintptr(unsafe.Pointer(&b.messages[0])), uintptr(n), flags, 0, 0)
	runtime.KeepAlive(b)
	if errno != 0 {
		return 0, errno
	}
	return int(done), nil
}

// frameSender sends frames. sendmmsg(2) past the queueing discipline was the fastest of what was tried: about 780,000 SYNs a
// second from one core, of which crossing the veth takes most; PACKET_TX_RING made four fifths of that.
type frameSender struct{ frameBatch }

// send sends the first n frames and returns how many the kernel took.
func (s *frameSender) send(n int) (int, error) { return s.call(unix.SYS_SENDMMSG, n, 0) }

// frameReader receives frames. They live until the next call.
type frameReader struct {
	frameBatch
	memory [floodBatch][2048]byte
}

func newFrameReader(fd int) *frameReader {
	r := &frameReader{}
	r.init(fd)
	for i := range r.memory {
		r.setFrame(i, r.memory[i][:])
	}
	return r
}

// receive waits for frames, returns how many came, and has them in frames.
func (r *frameReader) receive() (int, error) {
	n, err := r.call(unix.SYS_RECVMMSG, floodBatch, unix.MSG_WAITFORONE)
	for i := range n {
		r.frames[i] = r.memory[i][:r.messages[i].Len]
	}
	return n, err
}

// pacer spreads packets, or bursts of them, evenly over time.
type pacer struct {
	// rate in packets a second; 0 is as fast as it goes.
	rate  int
	begin time.Time
	// With a rate, the packets sent and skipped together keep up with rate times the time since begin.
	skipped int
	// burst is how many packets are due at once; 0 is few. burstEnd is what will have been sent after the present one.
	burst, burstEnd int
}

func newPacer(rate int) *pacer { return &pacer{rate: rate, begin: time.Now()} }

// maxCatchUp is the delay that a pacer makes up for. After a longer one, which a busy machine may
// well cause, it goes on at its rate instead of sending in one burst what nobody can take.
const maxCatchUp = 10 * time.Millisecond

// due says how many packets to send now, at most n, if so many were sent already. 0 means none before a pause.
func (p *pacer) due(sent, n int) int {
	if p.rate == 0 {
		return n
	}
	if sent < p.burstEnd {
		return min(n, p.burstEnd-sent)
	}
	due := int(time.Since(p.begin).Seconds()*float64(p.rate)) - sent - p.skipped
	if late := due - int(maxCatchUp.Seconds()*float64(p.rate)) - max(floodBatch, p.burst); late > 0 {
		due, p.skipped = due-late, p.skipped+late
	}
	if p.burst > 0 {
		if due < p.burst {
			return 0
		}
		p.burstEnd = sent + p.burst
		return min(n, p.burst)
	}
	// A millisecond's worth, or a batch, goes out at once.
	if due < min(p.rate/1000+1, n) {
		return 0
	}
	return min(n, due)
}

func (p *pacer) pause() time.Duration {
	return max(time.Second/time.Duration(p.rate), 100*time.Microsecond)
}
