package proxytest

import (
	"bytes"
	"errors"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Errors of a Conn that tests ask for. Others carry gVisor's text.
var (
	ErrReset   = errors.New("connection reset by peer")
	ErrRefused = errors.New("connection refused")
	ErrTimeout = errors.New("timed out")
)

// Conn is one end of a connection and its application, which writes what Send has queued as the
// stack takes it, and reads everything at once. No method waits: Network.Until does.
type Conn struct {
	host *Host
	ep   tcpip.Endpoint
	// ready says that it is in the host's list of those with something to do, done that it never will be again.
	ready, done bool

	unsent      []byte
	closeWrite  bool
	closeAll    bool
	notReading  bool
	established bool
	keepAlive   time.Duration
	received    bytes.Buffer
	eof         bool
	err         error
}

// Dial starts a connection to a server from the local port, or from any if that is 0.
func (h *Host) Dial(localPort uint16, to netip.AddrPort) *Conn {
	local := netip.AddrPortFrom(h.Addr(to.Addr().Is6()), localPort)
	queue := &waiter.Queue{}
	ep, err := h.stack.NewEndpoint(tcp.ProtocolNumber, protocolOf(to.Addr()), queue)
	if err == nil {
		err = ep.Bind(fullAddress(local))
	}
	if err == nil {
		err = ep.Connect(fullAddress(to))
	}
	if _, started := err.(*tcpip.ErrConnectStarted); !started {
		h.net.tb.Helper()
		h.net.tb.Fatalf("proxytest: connection from %v to %v: %s", local, to, err)
	}
	return newConn(h, ep, queue, false)
}

func newConn(h *Host, ep tcpip.Endpoint, queue *waiter.Queue, established bool) *Conn {
	c := &Conn{host: h, ep: ep, established: established}
	const events = waiter.EventIn | waiter.EventOut | waiter.EventErr | waiter.EventHUp | waiter.EventRdHUp
	// gVisor calls this on its own goroutine, but only while the network waits for that.
	entry := waiter.NewFunctionEntry(events, func(waiter.EventMask) { c.wake() })
	queue.EventRegister(&entry)
	c.wake()
	return c
}

// wake makes the host let the application run.
func (c *Conn) wake() {
	if !c.ready {
		c.ready = true
		c.host.ready = append(c.host.ready, c)
	}
}

// Listener accepts connections.
type Listener struct {
	host   *Host
	ep     tcpip.Endpoint
	queue  waiter.Queue
	accept func(*Conn)
}

// Listen calls accept for every connection to a port of addr.
func (h *Host) Listen(at netip.AddrPort, accept func(*Conn)) *Listener {
	l := &Listener{host: h, accept: accept}
	const backlog = 1024
	ep, err := h.stack.NewEndpoint(tcp.ProtocolNumber, protocolOf(at.Addr()), &l.queue)
	if err == nil {
		err = ep.Bind(fullAddress(at))
	}
	if err == nil {
		err = ep.Listen(backlog)
	}
	if err != nil {
		h.net.tb.Helper()
		h.net.tb.Fatalf("proxytest: listener at %v: %s", at, err)
	}
	l.ep = ep
	h.listeners = append(h.listeners, l)
	return l
}

func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}
}

func (l *Listener) poll() bool {
	busy := false
	for {
		ep, queue, err := l.ep.Accept(nil)
		if err != nil {
			return busy
		}
		l.accept(newConn(l.host, ep, queue, true))
		busy = true
	}
}

// Send queues data.
func (c *Conn) Send(data []byte) {
	c.unsent = append(c.unsent, data...)
	c.wake()
}

// CloseWrite sends a FIN after everything that is queued.
func (c *Conn) CloseWrite() {
	c.closeWrite = true
	c.wake()
}

// Close closes the connection after everything that is queued.
func (c *Conn) Close() {
	c.closeAll = true
	c.wake()
}

// Abort sends a RST at once.
func (c *Conn) Abort() {
	c.ep.Abort()
	c.done = true
}

// StopReading makes the application leave what comes in the receive buffer, or read again.
func (c *Conn) StopReading(stop bool) {
	c.notReading = stop
	c.wake()
}

// KeepAlive makes the stack probe the connection, once it is established, when it has been idle for this time, again
// and again.
func (c *Conn) KeepAlive(idle time.Duration) {
	c.keepAlive = idle
	if c.established {
		c.startKeepAlive()
	}
}

// startKeepAlive does it: gVisor takes note of the options only on an established connection.
func (c *Conn) startKeepAlive() {
	o, i := tcpip.KeepaliveIdleOption(c.keepAlive), tcpip.KeepaliveIntervalOption(c.keepAlive)
	c.ep.SocketOptions().SetKeepAlive(true)
	_, _ = c.ep.SetSockOpt(&o), c.ep.SetSockOpt(&i)
	if c.host.cfg.Stubborn {
		_ = c.ep.SetSockOptInt(tcpip.KeepaliveCountOption, endless)
	}
}

// Remote is the address of the other end.
func (c *Conn) Remote() netip.AddrPort {
	a, err := c.ep.GetRemoteAddress()
	if err != nil {
		return netip.AddrPort{}
	}
	addr, _ := netip.AddrFromSlice(a.Addr.AsSlice())
	return netip.AddrPortFrom(addr, a.Port)
}

// Established says whether the handshake is over. It stays true.
func (c *Conn) Established() bool { return c.established }

// Received is everything read so far. It must not be changed.
func (c *Conn) Received() []byte { return c.received.Bytes() }

// Sent says whether the stack has taken everything that was queued.
func (c *Conn) Sent() bool { return len(c.unsent) == 0 }

// EOF says whether the peer's FIN has come and all before it is read.
func (c *Conn) EOF() bool { return c.eof }

// Err is why the connection broke, or nil.
func (c *Conn) Err() error { return c.err }

// Gone says whether the stack has forgotten the connection, TIME-WAIT included.
func (c *Conn) Gone() bool {
	s := tcp.EndpointState(c.ep.State())
	return s == tcp.StateClose || s == tcp.StateError
}

// State is the stack's word for the state of the connection.
func (c *Conn) State() string { return tcp.EndpointState(c.ep.State()).String() }

// poll lets the application run once, and says whether it did anything.
func (c *Conn) poll() bool {
	if c.done {
		return false
	}
	busy := false
	if !c.established && tcp.EndpointState(c.ep.State()) == tcp.StateEstablished {
		c.established, busy = true, true
		if c.keepAlive > 0 {
			c.startKeepAlive()
		}
	}
	for len(c.unsent) > 0 {
		n, err := c.ep.Write(bytes.NewReader(c.unsent), tcpip.WriteOptions{})
		if !c.alive(err) || n == 0 {
			break
		}
		c.unsent, busy = c.unsent[n:], true
	}
	if c.established && c.closeWrite && len(c.unsent) == 0 {
		c.closeWrite, busy = false, true
		_ = c.ep.Shutdown(tcpip.ShutdownWrite)
	}
	for !c.done && !c.notReading {
		_, err := c.ep.Read(&c.received, tcpip.ReadOptions{})
		if _, closed := err.(*tcpip.ErrClosedForReceive); closed {
			busy = busy || !c.eof
			c.eof = true
			break
		}
		if !c.alive(err) || err != nil {
			break
		}
		busy = true
	}
	if !c.done && c.closeAll && len(c.unsent) == 0 {
		c.ep.Close()
		c.done, busy = true, true
	}
	return busy
}

// alive notes the error of a broken connection, and says whether it is none.
func (c *Conn) alive(err tcpip.Error) bool {
	switch err.(type) {
	case nil, *tcpip.ErrWouldBlock, *tcpip.ErrNotConnected, *tcpip.ErrClosedForSend:
		return true
	case *tcpip.ErrConnectionReset:
		c.err = ErrReset
	case *tcpip.ErrConnectionRefused:
		c.err = ErrRefused
	case *tcpip.ErrTimeout:
		c.err = ErrTimeout
	default:
		c.err = errors.New(err.String())
	}
	c.done = true
	return false
}
