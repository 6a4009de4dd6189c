package lab

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Echo is a server that sends back what it gets, and notes what its kernel had to send again.
type Echo struct {
	listeners []net.Listener
	conns     sync.WaitGroup
	close     func() error

	mu sync.Mutex // guards what follows
	// open connections, to be closed at the end; retransmits of those that have ended, by the address that they came to.
	open        map[net.Conn]bool
	retransmits map[netip.AddrPort]int
}

// StartEcho starts such a server on every address. It ends with Close or with the lab.
func (n *Namespace) StartEcho(backlog int, addrs ...netip.AddrPort) (*Echo, error) {
	e := &Echo{open: map[net.Conn]bool{}, retransmits: map[netip.AddrPort]int{}}
	for _, a := range addrs {
		ln, err := n.Listen(a, backlog)
		if err != nil {
			return nil, errors.Join(err, e.closeOnce())
		}
		e.listeners = append(e.listeners, ln)
		e.conns.Go(func() { e.accept(a, ln) })
	}
	e.close = sync.OnceValue(e.closeOnce)
	n.started.add(e.close)
	return e, nil
}

func (e *Echo) accept(at netip.AddrPort, ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return // closed
		}
		e.mu.Lock()
		e.open[conn] = true
		e.mu.Unlock()
		e.conns.Go(func() {
			_, _ = io.Copy(conn, conn)
			again, err := Retransmits(conn)
			if err == nil {
				e.mu.Lock()
				e.retransmits[at] += again
				delete(e.open, conn)
				e.mu.Unlock()
			}
			_ = conn.Close()
		})
	}
}

// Retransmits is how many segments to clients of an address had to be sent again, in all connections that have ended.
func (e *Echo) Retransmits(at netip.AddrPort) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.retransmits[at]
}

// Close ends the server and all its connections.
func (e *Echo) Close() error { return e.close() }

func (e *Echo) closeOnce() (err error) {
	for _, ln := range e.listeners {
		err = errors.Join(err, ln.Close())
	}
	e.mu.Lock()
	for conn := range e.open {
		_ = conn.SetDeadline(time.Now())
	}
	e.mu.Unlock()
	e.conns.Wait()
	return err
}

// Retransmits is how many segments of a TCP connection its own end had to send again, SYNs and SYN-ACKs included.
func Retransmits(conn net.Conn) (int, error) {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	var infoErr error
	if err := raw.Control(func(fd uintptr) { info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); err != nil || infoErr != nil {
		return 0, errors.Join(err, infoErr)
	}
	return int(info.Total_retrans), nil
}
