package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// The peers use blocking sockets on threads of their own: next to what is measured, the Go runtime's poller and
// scheduler would weigh too much. A socket belongs to the namespace of the thread that makes it.

// newSocket makes a TCP socket whose calls give up after a time-out.
func newSocket(v6 bool, timeout time.Duration) (int, error) {
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, fmt.Errorf("make socket: %w", err)
	}
	if err := setTimeout(fd, timeout); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func setTimeout(fd int, timeout time.Duration) error {
	t := unix.NsecToTimeval(timeout.Nanoseconds())
	err := errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &t),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &t))
	if err != nil {
		return fmt.Errorf("set a time-out: %w", err)
	}
	return nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// dial connects a socket from the calling thread's namespace.
func dial(to netip.AddrPort, timeout time.Duration) (int, error) {
	fd, err := newSocket(to.Addr().Is6(), timeout)
	if err != nil {
		return -1, err
	}
	err = unix.Connect(fd, sockaddr(to))
	if err == unix.EINTR {
		err = finishConnect(fd, timeout)
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("connect to %s: %w", to, failure(err)), unix.Close(fd))
	}
	return fd, nil
}

// finishConnect waits for a connect that a signal interrupted, which goes on by itself.
func finishConnect(fd int, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return unix.ETIMEDOUT
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(left.Milliseconds())+1)
		if err != nil && err != unix.EINTR {
			return err
		}
		if n > 0 {
			code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
			if err != nil || code == 0 {
				return err
			}
			return unix.Errno(code)
		}
	}
}

// failure turns the errors of a time-out into the one that says so.
func failure(err error) error {
	if err == unix.EAGAIN || err == unix.EINPROGRESS {
		return unix.ETIMEDOUT
	}
	return err
}

// listen makes a listening socket in the calling thread's namespace, with the machine's longest queue.
func listen(at netip.AddrPort, timeout time.Duration) (int, error) {
	fd, err := newSocket(at.Addr().Is6(), timeout)
	if err != nil {
		return -1, err
	}
	err = errors.Join(unix.Bind(fd, sockaddr(at)), unix.Listen(fd, unix.SOMAXCONN))
	if err != nil {
		return -1, errors.Join(fmt.Errorf("listen at %s: %w", at, err), unix.Close(fd))
	}
	return fd, nil
}

// accept waits for a connection until the listener's time-out.
func accept(listener int) (int, error) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != unix.EINTR {
			return fd, failure(err)
		}
	}
}

// readFull fills buf, and returns when its first byte came. It fails at the connection's end.
func readFull(fd int, buf []byte) (first time.Time, err error) {
	for at := 0; at < len(buf); {
		n, err := unix.Read(fd, buf[at:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return first, failure(err)
		case n == 0:
			return first, errors.New("the connection ended early")
		}
		if at == 0 {
			first = time.Now()
		}
		at += n
	}
	return first, nil
}

func writeFull(fd int, buf []byte) error {
	for len(buf) > 0 {
		n, err := unix.Write(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return failure(err)
		}
		buf = buf[n:]
	}
	return nil
}

// readToEnd reads until the peer has closed the connection or something fails.
func readToEnd(fd int, buf []byte) {
	for {
		n, err := unix.Read(fd, buf)
		if err != unix.EINTR && n <= 0 {
			return
		}
	}
}
