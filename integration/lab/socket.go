package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listen opens a TCP listener inside the namespace; it may be used from anywhere. backlog bounds
// both its queue of accepted connections and, without SYN cookies, its half-open connections; 0
// leaves the default of the machine.
func (n *Namespace) Listen(addr netip.AddrPort, backlog int) (net.Listener, error) {
	var ln net.Listener
	err := n.Do(func() (err error) {
		var cfg net.ListenConfig
		cfg.SetMultipathTCP(false)
		ln, err = cfg.Listen(context.Background(), "tcp", addr.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", n.Name, err)
	}
	if backlog == 0 {
		return ln, nil
	}
	if err := setBacklog(ln.(*net.TCPListener), backlog); err != nil {
		ln.Close()
		return nil, fmt.Errorf("listen at %s in %s: %w", addr, n.Name, err)
	}
	return ln, nil
}

// setBacklog calls listen(2) again, which changes nothing but the backlog. Package net has no way
// to choose it.
func setBacklog(ln *net.TCPListener, backlog int) error {
	raw, err := ln.SyscallConn()
	if err != nil {
		return fmt.Errorf("set backlog: %w", err)
	}
	var listenErr error
	if err := raw.Control(func(fd uintptr) { listenErr = unix.Listen(int(fd), backlog) }); err != nil {
		return fmt.Errorf("set backlog: %w", err)
	}
	if listenErr != nil {
		return fmt.Errorf("set backlog %d: %w", backlog, listenErr)
	}
	return nil
}

// errSecondSocket is in the error of a connection for which package net wanted to try a second socket.
var errSecondSocket = errors.New("no local port is free, or the connection was reset at once")

// DialContext connects from inside the namespace; the connection may be used from anywhere. It fits
// http.Transport. The address must be numeric: names would be looked up outside.
func (n *Namespace) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial from %s: the address must be numeric: %w", n.Name, err)
	}
	leave, err := n.enter()
	if err != nil {
		return nil, err
	}
	left := false
	var leaveErr error
	leaveOnce := func() {
		if !left {
			left, leaveErr = true, leave()
		}
	}
	// The socket belongs to the namespace in which it is made. Package net makes it on this
	// goroutine, since the address is numeric, and calls Control right after: with that the
	// thread's work is done, and it needn't be kept until the peer answers. It may make another
	// when that one got no port, which would be outside and mustn't connect.
	dialer := net.Dialer{Control: func(string, string, syscall.RawConn) error {
		if left {
			return errSecondSocket
		}
		leaveOnce()
		return leaveErr
	}}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.DialContext(ctx, network, address)
	leaveOnce()
	if err == nil && leaveErr != nil {
		conn.Close()
	}
	if leaveErr != nil {
		return nil, leaveErr
	}
	return conn, err
}
