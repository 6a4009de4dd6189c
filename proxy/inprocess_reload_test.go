package proxy_test

import (
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/proxy"
	"levee/proxy/proxytest"
	"levee/proxy/servers"
)

// changes are what a reload may do to the only service.
var changes = []struct {
	name string
	edit func(*proxy.Config)
	// gone: its name is in the configuration no longer.
	gone bool
}{
	{"nothing", func(*proxy.Config) {}, false},
	{"off", func(c *proxy.Config) { c.Services[0].Mode = proxy.ModeOff }, false},
	{"other ports", func(c *proxy.Config) { c.Services[0].Ports = []proxy.PortRange{{First: 1, Last: 1}} }, false},
	{"other prefixes", func(c *proxy.Config) { c.Services[0].Prefixes = elsewhere }, false},
	{"renamed", func(c *proxy.Config) { c.Services[0].Name = "new" }, true},
	{"removed", func(c *proxy.Config) { c.Services[0].Name, c.Services[0].Prefixes = "new", elsewhere }, true},
	{"another window scale", func(c *proxy.Config) { c.Services[0].Options.WScale = 2 }, false},
	{"learned options", func(c *proxy.Config) { c.Services[0].Options.Learn = servers.WScale | servers.MSS | servers.SACK }, false},
	{"no early data", func(c *proxy.Config) { c.Services[0].EarlyData = 0 }, false},
	{"shorter time-outs", func(c *proxy.Config) { c.IdleTimeout, c.TransitoryTimeout = time.Hour, time.Second }, false},
}

var elsewhere = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}

// change reloads with an edit of services that are the test's own.
func (s *session) change(edit func(*proxy.Config)) {
	s.t.Helper()
	s.Reload(func(c *proxy.Config) {
		c.Services = append([]proxy.Service(nil), c.Services...)
		edit(c)
	})
}

// TestReloadKeepsOpenFlows exchanges data and closes as if nothing had happened, whatever becomes of the service.
func TestReloadKeepsOpenFlows(t *testing.T) {
	for _, change := range changes {
		t.Run(change.name, func(t *testing.T) {
			forVariants(t, true, func(t *testing.T, v variant) {
				s := openSession(t, v)
				s.exchange()
				s.change(change.edit)
				s.exchange()
				s.Advance(time.Minute)
				s.exchange()
				if f := s.flow(); f.Service != "web" {
					t.Errorf("the flow's service is %q", f.Service)
				}
				s.client.CloseWrite()
				s.server.CloseWrite()
				s.Until("closed", soon, func() bool { return s.client.EOF() && s.server.EOF() })
				s.Advance(time.Second)
				s.wantState(proxy.StateTimeWait)
				if n := s.Trace.At(proxytest.ToClient, isRst); len(n) != 0 {
					t.Errorf("%d resets", len(n))
				}
			})
		})
	}
}

// TestReloadKeepsHandshakes reloads while the client's ACK is on its way: the cookie that it carries is good still.
func TestReloadKeepsHandshakes(t *testing.T) {
	for _, change := range changes {
		t.Run(change.name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				s := newSession(t, v, v.config())
				s.Advance(5 * time.Minute) // no cookie of an earlier process can come back
				s.dial()
				s.Advance(7 * time.Millisecond) // the SYN-ACK is on its way
				if got := s.service(); got.SynReceived != 1 || got.CookieValid != 0 {
					t.Fatalf("counters before the reload %+v", got)
				}
				s.change(change.edit)
				s.Until("open at both ends", soon, func() bool { return s.client.Established() && s.server != nil })
				s.exchange()
				// A window that was not rescaled as the client was told shows in bulk.
				s.server.Send(data(9, 1<<20))
				s.Until("all arrived", soon, func() bool { return len(s.client.Received()) == 1<<20+5000 })
				if s.flow().Delta == 0 {
					t.Error("the connection went around levee")
				}
			})
		})
	}
}

// TestReloadKeepsOpeningFlows reloads between levee's SYN to the server and the answer, with data held.
func TestReloadKeepsOpeningFlows(t *testing.T) {
	for _, change := range changes {
		t.Run(change.name, func(t *testing.T) {
			forVariants(t, false, func(t *testing.T, v variant) {
				cfg := v.config()
				cfg.Hooks[proxytest.ToServer] = []proxytest.Hook{proxytest.DropFirst(1, func(p *proxytest.Packet) bool { return p.Is(syn) })}
				s := newSession(t, v, cfg)
				s.dial()
				s.Until("the client is connected", soon, func() bool { return s.client.Established() })
				s.client.Send(data(1, 300))
				s.Advance(100 * time.Millisecond)
				s.wantState(proxy.StateOpening)
				s.change(change.edit)
				s.Until("open at both ends", soon, func() bool { return s.server != nil })
				s.received("server", s.server, data(1, 300))
				s.exchange()
			})
		})
	}
}

// TestOffAfterAlways opens connections from the same port again and again after the mode has become off: a record of a spliced connection, and
// of one that the server alone has forgotten, must not stand in their way.
func TestOffAfterAlways(t *testing.T) {
	off := func(c *proxy.Config) { c.Services[0].Mode = proxy.ModeOff }
	t.Run("ended", func(t *testing.T) {
		forVariants(t, false, func(t *testing.T, v variant) {
			s := newSession(t, v, v.config())
			c := newRawClient(s)
			c.open()
			s.server.Abort()
			s.Advance(time.Second)
			s.wantState(proxy.StateReset)
			s.change(off)
			c.isn += 0x12345678
			c.open()
			c.send(0, data(5, 2000))
			s.received("server", s.server, data(5, 2000))
			wantEmpty(t, s)
			if got := s.service(); got.CookieValid != 1 || got.Flows != 0 {
				t.Errorf("counters %+v", got)
			}
		})
	})
	t.Run("refused", func(t *testing.T) {
		forVariants(t, false, func(t *testing.T, v variant) {
			s := &session{Network: proxytest.New(t, v.config()), t: t, v: v}
			c := newRawClient(s)
			c.connect()
			c.acknowledge()
			s.Advance(time.Second)
			s.wantState(proxy.StateReset)
			s.change(off)
			s.Server.Listen(v.serverAddr(), func(c *proxytest.Conn) { s.servers, s.server = append(s.servers, c), c })
			c.isn += 0x12345678
			c.open()
			c.send(0, data(5, 2000))
			s.received("server", s.server, data(5, 2000))
			wantEmpty(t, s)
		})
	})
	t.Run("open, the server has forgotten it", func(t *testing.T) {
		forVariants(t, false, func(t *testing.T, v variant) {
			cfg := v.config()
			s := newSession(t, v, cfg)
			c := newRawClient(s)
			c.open()
			// The reset goes around levee.
			s.Hooks[proxytest.FromServer] = []proxytest.Hook{func(p *proxytest.Packet) proxytest.Fate {
				if p.Has(header.TCPFlagRst) {
					return proxytest.Drop
				}
				return proxytest.Fate{}
			}}
			s.server.Abort()
			s.Advance(time.Second)
			s.wantState(proxy.StateOpen)
			s.change(off)
			c.isn += 0x12345678
			c.open()
			c.send(0, data(5, 2000))
			s.received("server", s.server, data(5, 2000))
			wantEmpty(t, s)
		})
	})
}

// TestCookiesAfterProtection sees cookies to an unprotected service honoured for as long as they may live, and no longer: after that an
// ACK passes as it is.
func TestCookiesAfterProtection(t *testing.T) {
	for _, change := range changes {
		if change.name != "off" && change.name != "removed" && change.name != "other ports" {
			continue
		}
		for _, test := range []struct {
			after time.Duration
			valid uint64
		}{{60 * time.Second, 1}, {3 * time.Minute, 0}} {
			v := variant{}
			s := newSession(t, v, v.config())
			c := newRawClient(s)
			c.connect()
			s.change(change.edit)
			s.Advance(test.after)
			s.change(func(*proxy.Config) {}) // what is left has to outlast another reload
			c.acknowledge()
			s.Advance(time.Second)
			if got := len(s.servers); got != int(test.valid) {
				t.Errorf("%s: %v later %d connections, want %d", change.name, test.after, got, test.valid)
			}
			if got := s.Proxy.Snapshot(); test.valid == 0 && got.Passed[proxy.PassModeOff]+got.Passed[proxy.PassNoService] == 0 {
				t.Errorf("%s: the ACK did not pass: %v", change.name, got.Drops)
			}
		}
	}
}

// TestReloadTakesEffect sees the next connection treated as the new configuration says.
func TestReloadTakesEffect(t *testing.T) {
	v := variant{}
	s := openSession(t, v)
	s.change(func(c *proxy.Config) { c.Services[0].Mode = proxy.ModeOff })
	open := func(port uint16) {
		c := s.Client.Dial(port, v.serverAddr())
		before := len(s.servers)
		s.Until("open", soon, func() bool { return c.Established() && len(s.servers) > before })
	}
	open(40001)
	if got := s.service(); got.SynReceived != 1 || got.Mode != proxy.ModeOff {
		t.Errorf("after off: %+v", got)
	}
	s.change(func(c *proxy.Config) { c.Services[0].Mode = proxy.ModeAlways })
	open(40002)
	if got := s.service(); got.SynReceived != 2 || got.Opened != 2 || got.Mode != proxy.ModeAlways {
		t.Errorf("after always: %+v", got)
	}
	s.change(func(c *proxy.Config) {
		c.Services = append(c.Services, proxy.Service{
			Name: "more", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.10/32")}, Ports: []proxy.PortRange{{First: 80, Last: 80}},
			Mode: proxy.ModeAlways, Options: proxy.DefaultOptions(),
		})
		c.Services[0].Ports = []proxy.PortRange{{First: 81, Last: 81}}
	})
	open(40003)
	if got := s.Proxy.Snapshot().Services; len(got) != 2 || got[0].SynReceived != 2 || got[1].Name != "more" || got[1].Opened != 1 {
		t.Errorf("after another service: %+v", got)
	}
	// Idle time-outs count from the reload on.
	s.change(func(c *proxy.Config) { c.IdleTimeout, c.TransitoryTimeout = time.Hour, time.Second })
	s.Advance(time.Hour + 5*time.Minute)
	wantEmpty(t, s)
}
