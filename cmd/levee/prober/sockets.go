package prober

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"

	"levee/proxy/servers"
	"levee/stack"
)

// sockets are a raw one for each family, and one that keeps their port.
type sockets struct {
	port   uint16
	v4, v6 *net.IPConn // v6 is nil where the kernel has none
	keeper int
	once   sync.Once
	err    error
}

func openSockets() (_ *sockets, err error) {
	s := &sockets{keeper: -1}
	defer func() {
		if err != nil {
			_ = s.close()
		}
	}()
	if s.keeper, s.port, err = keepPort(); err != nil {
		return nil, err
	}
	if s.v4, err = s.listen("ip4:tcp", true); err != nil {
		return nil, err
	}
	if s.v6, err = s.listen("ip6:tcp", false); err != nil {
		if !errors.Is(err, unix.EAFNOSUPPORT) {
			return nil, err
		}
		err = nil
	}
	return s, nil
}

// keepPort binds a TCP socket to a free port. Nobody listens on it: the kernel answers what comes there with a RST.
func keepPort() (fd int, port uint16, err error) {
	// One of IPv6 keeps the port for both families.
	fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	var anywhere unix.Sockaddr = &unix.SockaddrInet6{}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	} else if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
		anywhere = &unix.SockaddrInet4{}
	}
	if err != nil {
		return -1, 0, fmt.Errorf("make a socket: %w", err)
	}
	var bound unix.Sockaddr
	if err = unix.Bind(fd, anywhere); err == nil {
		bound, err = unix.Getsockname(fd)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, 0, fmt.Errorf("bind a port: %w", err)
	}
	switch a := bound.(type) {
	case *unix.SockaddrInet6:
		port = uint16(a.Port)
	case *unix.SockaddrInet4:
		port = uint16(a.Port)
	}
	return fd, port, nil
}

// listen opens a raw socket that gets what comes to the port. Of IPv4 it sees the IP header too.
func (s *sockets) listen(network string, v4 bool) (*net.IPConn, error) {
	c, err := net.ListenIP(network, nil)
	if err != nil {
		return nil, err
	}
	if err := attach(c, portFilter(s.port, v4)); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("attach a filter: %w", err)
	}
	return c, nil
}

// portFilter lets TCP segments for a port through, which stand behind an IPv4 header or alone (see bpf(4)).
func portFilter(port uint16, v4 bool) []unix.SockFilter {
	const dstPort = 2 // offset in the TCP header
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: dstPort}}
	if v4 {
		program = []unix.SockFilter{
			{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 0},
			{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_IND, K: dstPort},
		}
	}
	return append(program,
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(port)},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	)
}

func attach(c *net.IPConn, filter []unix.SockFilter) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{
			Len: uint16(len(filter)), Filter: &filter[0],
		})
	})
	return errors.Join(err, failed)
}

func (s *sockets) conns() []*net.IPConn {
	if s.v6 == nil {
		return []*net.IPConn{s.v4}
	}
	return []*net.IPConn{s.v4, s.v6}
}

// send sends the SYN of a probe.
func (s *sockets) send(k *servers.Key, isn seqnum.Value) error {
	c, to := s.v4, k.Addr.Netip()
	if to.Is6() {
		c = s.v6
	}
	if c == nil {
		return unix.EAFNOSUPPORT
	}
	src, err := sourceFor(k.AddrPort())
	if err != nil {
		return err
	}
	_, err = c.WriteToIP(syn(src, s.port, k, isn), &net.IPAddr{IP: to.AsSlice()})
	return err
}

// sourceFor is the address from which the kernel sends to a server. Nothing is sent to find out.
func sourceFor(server netip.AddrPort) (stack.Addr, error) {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(server))
	if err != nil {
		return stack.Addr{}, err
	}
	defer c.Close()
	return stack.AddrFrom(c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()), nil
}

func (s *sockets) close() error {
	s.once.Do(func() {
		for _, c := range []*net.IPConn{s.v4, s.v6} {
			if c != nil {
				s.err = errors.Join(s.err, c.Close())
			}
		}
		if s.keeper >= 0 {
			s.err = errors.Join(s.err, unix.Close(s.keeper))
		}
	})
	return s.err
}
