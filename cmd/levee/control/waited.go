package control

import (
	"context"
	"net"
	"net/http"

	"golang.org/x/sys/unix"
)

// connectionKey is where the context of a request has its connection.
type connectionKey struct{}

func keepConnection(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, c)
}

// waited has a handler that changes something do nothing for a client that has gone: it may have asked while the daemon hung, and was told that
// there was no answer. Nobody expects a drain, minutes after it failed.
func waited(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connectionKey{}).(*net.UnixConn); ok && hungUp(c) {
			return
		}
		h(w, r)
	}
}

// hungUp asks the kernel whether the other end has closed: not only its half, as who has said all and waits for the answer may. The context of a
// request learns that too, but later.
func hungUp(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true // it is closed here
	}
	poll := []unix.PollFd{{}} // POLLHUP and POLLERR are always looked for
	err = raw.Control(func(fd uintptr) {
		poll[0].Fd = int32(fd)
		for {
			if _, err := unix.Poll(poll, 0); err != unix.EINTR {
				return
			}
		}
	})
	return err != nil || poll[0].Revents != 0
}
