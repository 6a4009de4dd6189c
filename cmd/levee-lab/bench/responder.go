package bench

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"levee/integration/lab"
)

// firstWord says who speaks first on a connection.
type firstWord int

const (
	// clientFirst: the client asks and the server answers, as in HTTP.
	clientFirst firstWord = iota
	// serverFirst: the server greets, as in SMTP, SSH or MySQL.
	serverFirst
)

// Bytes of what is said: a small GET, a small page, a banner.
const (
	requestSize = 100
	pageSize    = 1000
	bannerSize  = 100
)

// peerTimeout bounds every single call of a peer.
const peerTimeout = 5 * time.Second

// responder is a server that answers short connections. The client closes first.
type responder struct {
	addr  netip.AddrPort
	first firstWord
	// page is the bytes of the answer, if not pageSize.
	page     int
	listener int
	stopping atomic.Bool
	workers  sync.WaitGroup
}

// startResponder serves as many connections at once as it has workers.
func startResponder(n *lab.Namespace, addr netip.AddrPort, first firstWord, workers int) (*responder, error) {
	r := &responder{addr: addr, first: first}
	err := n.Do(func() (err error) {
		r.listener, err = listen(addr, peerTimeout)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start a server in %s: %w", n.Name, err)
	}
	for range workers {
		r.workers.Go(r.serve)
	}
	return r, nil
}

func (r *responder) serve() {
	page := make([]byte, max(r.page, pageSize, bannerSize, requestSize))
	for !r.stopping.Load() {
		fd, err := accept(r.listener)
		if err != nil {
			continue // a time-out or the end
		}
		r.answer(fd, page)
		_ = unix.Close(fd)
	}
}

// answer serves one connection. What fails there shows at the client.
func (r *responder) answer(fd int, page []byte) {
	size := bannerSize
	if r.first == clientFirst {
		if _, err := readFull(fd, page[:requestSize]); err != nil {
			return
		}
		size = cmp.Or(r.page, pageSize)
	}
	if writeFull(fd, page[:size]) == nil {
		readToEnd(fd, page)
	}
}

func (r *responder) close() error {
	r.stopping.Store(true)
	// Wakes those who wait for a connection.
	err := unix.Shutdown(r.listener, unix.SHUT_RDWR)
	r.workers.Wait()
	return errors.Join(err, unix.Close(r.listener))
}

// times of one connection, all since it was begun.
type times struct {
	// connected is when connect returned, first when the first byte of the answer came, last when all of it had.
	connected, first, last time.Duration
}

// exchange makes one connection from the calling thread's namespace, gets the answer and closes.
func exchange(to netip.AddrPort, word firstWord, timeout time.Duration) (t times, err error) {
	var buf [pageSize]byte
	begin := time.Now()
	fd, err := dial(to, timeout)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	t.connected = time.Since(begin)
	answer := buf[:bannerSize]
	if word == clientFirst {
		answer = buf[:pageSize]
		if err := writeFull(fd, buf[:requestSize]); err != nil {
			return t, fmt.Errorf("ask %s: %w", to, err)
		}
	}
	first, err := readFull(fd, answer)
	if err != nil {
		return t, fmt.Errorf("wait for %s: %w", to, err)
	}
	t.first, t.last = first.Sub(begin), time.Since(begin)
	return t, nil
}
