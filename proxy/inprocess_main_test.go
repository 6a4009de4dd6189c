package proxy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"
	"levee/proxy"
	"levee/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	clientPort = 40000
	serverPort = 80
	// soon is longer than anything takes that is not meant to wait.
	soon = time.Minute
)

// variant is what nearly every test is repeated for.
type variant struct{ v6, timestamps, gso bool }

func (v variant) String() string {
	name := "v4"
	if v.v6 {
		name = "v6"
	}
	if v.timestamps {
		name += ",timestamps"
	}
	if v.gso {
		name += ",gso"
	}
	return name
}

func (v variant) serverAddr() netip.AddrPort {
	if v.v6 {
		return netip.AddrPortFrom(proxytest.Server6, serverPort)
	}
	return netip.AddrPortFrom(proxytest.Server4, serverPort)
}

func (v variant) clientAddr() netip.AddrPort {
	if v.v6 {
		return netip.AddrPortFrom(proxytest.Client6, clientPort)
	}
	return netip.AddrPortFrom(proxytest.Client4, clientPort)
}

// config promises what the hosts of the network can do.
func (v variant) config() proxytest.Config {
	options := proxy.DefaultOptions()
	options.Timestamps = v.timestamps
	return proxytest.Config{
		Seed:   1,
		Client: proxytest.HostConfig{GSO: v.gso},
		Server: proxytest.HostConfig{GSO: v.gso},
		Proxy: proxy.Config{Services: []proxy.Service{{
			Name: "web", Prefixes: proxytest.Protected(), Mode: proxy.ModeAlways, Options: options,
		}}},
	}
}

// forVariants runs a test for all variants, or for those without GSO.
func forVariants(t *testing.T, gso bool, test func(t *testing.T, v variant)) {
	t.Helper()
	for i := range 8 {
		v := variant{v6: i&1 != 0, timestamps: i&2 != 0, gso: i&4 != 0}
		if !v.gso || gso {
			t.Run(v.String(), func(t *testing.T) { test(t, v) })
		}
	}
}

// session is a network with a server that listens, and a client.
type session struct {
	*proxytest.Network
	t *testing.T
	v variant
	// servers are the connections that the server has accepted; server is the last of them.
	servers []*proxytest.Conn
	server  *proxytest.Conn
	client  *proxytest.Conn
}

func newSession(t *testing.T, v variant, cfg proxytest.Config) *session {
	t.Helper()
	s := &session{Network: proxytest.New(t, cfg), t: t, v: v}
	s.Server.Listen(v.serverAddr(), func(c *proxytest.Conn) {
		s.servers = append(s.servers, c)
		s.server = c
	})
	return s
}

// dial starts a connection from clientPort.
func (s *session) dial() { s.client = s.Client.Dial(clientPort, s.v.serverAddr()) }

// open opens a connection from clientPort and waits until the server has it.
func (s *session) open() {
	s.t.Helper()
	before := len(s.servers)
	s.dial()
	s.Until("open at both ends", soon, func() bool { return s.client.Established() && len(s.servers) > before })
}

// openSession is newSession and open.
func openSession(t *testing.T, v variant) *session {
	t.Helper()
	s := newSession(t, v, v.config())
	s.open()
	return s
}

// received waits until a connection has received data and compares.
func (s *session) received(who string, c *proxytest.Conn, data []byte) time.Duration {
	s.t.Helper()
	took := s.Until(fmt.Sprintf("%d bytes at the %s", len(data), who), soon, func() bool {
		return len(c.Received()) >= len(data) || c.Err() != nil
	})
	if string(c.Received()) != string(data) {
		s.t.Fatalf("the %s has received %d bytes, wrong ones, not the %d that were sent; error %v",
			who, len(c.Received()), len(data), c.Err())
	}
	return took
}

// exchange sends a request and an answer over the open connection.
func (s *session) exchange() {
	s.t.Helper()
	wasClient, wasServer := len(s.client.Received()), len(s.server.Received())
	request, answer := data(3, 300), data(4, 5000)
	s.client.Send(request)
	s.received("server", s.server, append(s.server.Received()[:wasServer:wasServer], request...))
	s.server.Send(answer)
	s.received("client", s.client, append(s.client.Received()[:wasClient:wasClient], answer...))
}

// flow is the only flow in the table.
func (s *session) flow() proxy.FlowInfo {
	s.t.Helper()
	flows := s.Flows()
	if len(flows) != 1 {
		s.t.Fatalf("%d flows in the table, not 1: %+v", len(flows), flows)
	}
	return flows[0]
}

func (s *session) wantState(want proxy.State) {
	s.t.Helper()
	if f := s.flow(); f.State != want {
		s.t.Errorf("at %v the flow is %v, not %v", s.Clock.Elapsed(), f.State, want)
	}
}

// service is the counters of the only service.
func (s *session) service() proxy.ServiceSnapshot { return s.Proxy.Snapshot().Services[0] }

// wantDrops compares the counters of drops with what is expected; reasons not named are expected to be 0.
func wantDrops(t *testing.T, n *proxytest.Network, want map[proxy.DropReason]uint64) {
	t.Helper()
	drops := n.Proxy.Snapshot().Drops
	for r := range proxy.NumDropReasons {
		if drops[r] != want[r] {
			t.Errorf("%d packets dropped as %v, not %d", drops[r], r, want[r])
		}
	}
}

// data is n bytes that differ from those of another seed.
func data(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}
