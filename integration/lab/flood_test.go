package lab_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

// startFlood sends a flood from the lab's attacker to its server.
func startFlood(t testing.TB, l *lab.Lab, v6 bool, cfg lab.FloodConfig) *lab.Flood {
	t.Helper()
	cfg.Target = l.Servers[0].AddrPort(v6, webPort)
	f, err := l.Attacker.Link.StartFlood(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFloodSendsWellFormedSYNs(t *testing.T) {
	const count = 1000
	for _, f := range families {
		for _, opts := range []struct {
			name string
			lab.SYNOptions
			want string // the options' kinds
		}{
			{"Linux", lab.LinuxSYN, "MSS SACKPermitted Timestamps NOP WindowScale"},
			{"none", lab.SYNOptions{}, ""},
			{"SACK only", lab.SYNOptions{SACK: true}, "NOP NOP SACKPermitted"},
			{"timestamps only", lab.SYNOptions{Timestamps: true}, "NOP NOP Timestamps"},
		} {
			t.Run(f.name+" options "+opts.name, func(t *testing.T) {
				l := labtest.New(t, lab.Config{Attacker: true})
				// It comes out of the far side of the gateway, so the IPv4 header has been accepted there.
				c, err := l.Gateway.StartCapture(l.Servers[0].Link.Gateway.Name, filepath.Join(t.TempDir(), "syns.pcap"))
				if err != nil {
					t.Fatal(err)
				}
				r, err := startFlood(t, l, f.v6, lab.FloodConfig{Count: count, Rate: 20_000, Duration: 10 * time.Second, Options: opts.SYNOptions}).Wait()
				if err != nil || r.Sent != count {
					t.Fatalf("sent %d of %d SYNs: %v", r.Sent, count, err)
				}
				if err := c.Stop(); err != nil {
					t.Fatal(err)
				}
				sources, isns := map[netip.Addr]bool{}, map[uint32]bool{}
				for _, p := range readCapture(t, c.File) {
					if tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP); ok && !tcp.ACK && !tcp.RST {
						sources[checkSYN(t, p, tcp, l.Servers[0].AddrPort(f.v6, webPort), opts.want)] = true
						isns[tcp.Seq] = true
					}
				}
				// 131,072 sources at least: a few of 1000 are drawn twice.
				if len(sources) < count*9/10 || len(isns) < count*9/10 {
					t.Errorf("%d SYNs came from %d sources with %d ISNs", count, len(sources), len(isns))
				}
			})
		}
	}
}

// checkSYN checks one SYN of a flood and returns its source.
func checkSYN(t *testing.T, p gopacket.Packet, tcp *layers.TCP, target netip.AddrPort, options string) netip.Addr {
	t.Helper()
	src, _ := netip.AddrFromSlice(p.NetworkLayer().NetworkFlow().Src().Raw())
	dst, _ := netip.AddrFromSlice(p.NetworkLayer().NetworkFlow().Dst().Raw())
	if !lab.SpoofedPrefix4.Contains(src) && !lab.SpoofedPrefix6.Contains(src) {
		t.Errorf("source %s is not of the spoofed prefixes", src)
	}
	if dst != target.Addr() || uint16(tcp.DstPort) != target.Port() {
		t.Errorf("destination %s:%d, want %s", dst, tcp.DstPort, target)
	}
	if !tcp.SYN || tcp.FIN || tcp.PSH || tcp.URG || tcp.ECE || tcp.CWR || tcp.SrcPort < 1024 {
		t.Errorf("not a plain SYN: %+v", tcp)
	}
	var kinds []string
	for _, o := range tcp.Options {
		kinds = append(kinds, o.OptionType.String())
	}
	if got := strings.Join(kinds, " "); got != options {
		t.Errorf("options %s, want %s", got, options)
	}
	if err := tcp.SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
		t.Fatal(err)
	}
	if err, bad := p.VerifyChecksums(); err != nil || len(bad) != 0 {
		t.Errorf("checksums of %s: %v %v", p, bad, err)
	}
	return src
}

func TestFloodIsBounded(t *testing.T) {
	l := labtest.New(t, lab.Config{Attacker: true})
	t.Run("count", func(t *testing.T) {
		r, err := startFlood(t, l, false, lab.FloodConfig{Count: 777, Duration: time.Minute}).Wait()
		if err != nil || r.Sent != 777 {
			t.Errorf("sent %d SYNs of 777: %v", r.Sent, err)
		}
	})
	t.Run("time", func(t *testing.T) {
		r, err := startFlood(t, l, true, lab.FloodConfig{Count: lab.MaxFloodCount, Duration: 100 * time.Millisecond, Rate: 1000}).Wait()
		if err != nil || r.Sent == 0 || r.Sent > 200 || r.Elapsed > 5*time.Second {
			t.Errorf("sent %d SYNs in %v, want about 100 in 100 ms: %v", r.Sent, r.Elapsed, err)
		}
	})
	t.Run("stop", func(t *testing.T) {
		f := startFlood(t, l, false, lab.FloodConfig{Count: lab.MaxFloodCount, Duration: time.Minute, Rate: 10_000})
		eventually(t, "something is sent", func() bool { return f.Sent() > 0 })
		if r, err := f.Stop(); err != nil || r.Elapsed > 30*time.Second || r.Sent < f.Sent() {
			t.Errorf("stopped after %+v: %v", r, err)
		}
	})
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f, err := l.Attacker.Link.StartFlood(ctx, lab.FloodConfig{
			Target: l.Servers[0].AddrPort(false, webPort), Count: lab.MaxFloodCount, Duration: time.Minute, Rate: 10_000,
		})
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if r, err := f.Wait(); err != nil || r.Elapsed > 30*time.Second {
			t.Errorf("went on for %v: %v", r.Elapsed, err)
		}
	})
}

func TestFloodKeepsItsRate(t *testing.T) {
	l := labtest.New(t, lab.Config{Attacker: true})
	r, err := startFlood(t, l, false, lab.FloodConfig{Count: 10_000, Duration: 10 * time.Second, Rate: 20_000}).Wait()
	if err != nil {
		t.Fatal(err)
	}
	// Late is the fault of a busy machine, early is ours.
	if r.Rate() > 21_000 {
		t.Errorf("%.0f SYNs a second, want at most 20,000", r.Rate())
	}
}

// Bursts keep the mean rate, and there is nothing between them.
func TestFloodInBursts(t *testing.T) {
	l := labtest.New(t, lab.Config{Attacker: true})
	f := startFlood(t, l, false, lab.FloodConfig{Count: 5000, Duration: 10 * time.Second, Rate: 10_000, Burst: 1000, Urgent: true})
	whole, looks := 0, 0
	for running := true; running; {
		select {
		case <-f.Done():
			running = false
		case <-time.After(time.Millisecond):
			looks++
			if f.Sent()%1000 == 0 {
				whole++
			}
		}
	}
	r, err := f.Wait()
	if err != nil || r.Sent != 5000 {
		t.Fatalf("sent %d of 5000: %v", r.Sent, err)
	}
	// Late is the fault of a busy machine, early is ours.
	if r.Rate() > 10_500 {
		t.Errorf("%.0f SYNs a second, want at most 10,000", r.Rate())
	}
	if looks < 20 || whole < looks*3/4 {
		t.Errorf("%d of %d looks were between bursts", whole, looks)
	}
}

func TestFloodRefuses(t *testing.T) {
	l := labtest.New(t, lab.Config{Attacker: true})
	good := lab.FloodConfig{Target: l.Servers[0].AddrPort(false, webPort), Count: 1, Duration: time.Second}
	for _, tc := range []struct {
		name   string
		change func(*lab.FloodConfig)
	}{
		{"a target outside the lab", func(c *lab.FloodConfig) { c.Target = netip.MustParseAddrPort("198.51.100.10:80") }},
		{"no target", func(c *lab.FloodConfig) { c.Target = netip.AddrPort{} }},
		{"no count", func(c *lab.FloodConfig) { c.Count = 0 }},
		{"too many", func(c *lab.FloodConfig) { c.Count = lab.MaxFloodCount + 1 }},
		{"no time", func(c *lab.FloodConfig) { c.Duration = 0 }},
		{"too long", func(c *lab.FloodConfig) { c.Duration = lab.MaxFloodDuration + 1 }},
		{"a negative rate", func(c *lab.FloodConfig) { c.Rate = -1 }},
		{"a negative burst", func(c *lab.FloodConfig) { c.Rate, c.Burst = 1, -1 }},
		{"bursts at no rate", func(c *lab.FloodConfig) { c.Burst = 1 }},
	} {
		cfg := good
		tc.change(&cfg)
		if f, err := l.Attacker.Link.StartFlood(t.Context(), cfg); err == nil {
			f.Stop()
			t.Errorf("accepted %s", tc.name)
		}
	}

	lo, err := l.Attacker.Netlink().LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tap0"}, Mode: netlink.TUNTAP_MODE_TAP}
	if err := l.Attacker.Do(func() error { return netlink.LinkAdd(tap) }); err != nil {
		t.Fatal(err)
	}
	for name, end := range map[string]lab.End{
		"lo of a lab":             {Namespace: l.Attacker.Namespace, Name: "lo", Index: lo.Attrs().Index},
		"a TAP in a lab":          {Namespace: l.Attacker.Namespace, Name: "tap0", Index: tap.Index},
		"no interface":            {Namespace: l.Attacker.Namespace, Name: "eth0", Index: 4711},
		"lo of the machine":       {Namespace: lab.Outside(t), Name: "lo", Index: 1},
		"the machine as a lab":    {Namespace: lab.Outside(t), Name: l.Attacker.Link.Host.Name, Index: l.Attacker.Link.Host.Index},
		"a namespace of a closed": closedEnd(t),
	} {
		link := &lab.Link{Host: end, Gateway: l.Attacker.Link.Gateway}
		f, err := link.StartFlood(t.Context(), good)
		if err == nil {
			f.Stop()
			t.Errorf("flooded %s", name)
		}
		t.Logf("%s: %v", name, err)
	}
}

func closedEnd(t *testing.T) lab.End {
	t.Helper()
	l, err := lab.New(lab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Clients[0].Link.Host
}

// A server without SYN cookies and with a short backlog answers some SYNs of a flood and then
// nobody; with cookies it answers all. Both are counted, in spite of being swallowed.
func TestFloodAndCountSYNs(t *testing.T) {
	const count = 2000
	for _, f := range families {
		for cookies, answered := range map[string]func(int) bool{
			"0": func(n int) bool { return n > 0 && n < count/2 },
			"2": func(n int) bool { return n == count },
		} {
			t.Run(f.name+" tcp_syncookies="+cookies, func(t *testing.T) {
				l := labtest.New(t, lab.Config{Attacker: true})
				s := l.Servers[0]
				if err := s.SetSysctl("net.ipv4.tcp_syncookies", cookies); err != nil {
					t.Fatal(err)
				}
				if _, err := s.StartWeb(64, s.AddrPort(f.v6, webPort)); err != nil {
					t.Fatal(err)
				}
				in, err := s.Link.Host.CountSYNs(false)
				if err != nil {
					t.Fatal(err)
				}
				out, err := l.Attacker.Link.Host.CountSYNs(true)
				if err != nil {
					t.Fatal(err)
				}
				if r, err := startFlood(t, l, f.v6, lab.FloodConfig{
					Count: count, Duration: 10 * time.Second, Rate: 20_000, Options: lab.LinuxSYN,
				}).Wait(); err != nil || r.Sent != count {
					t.Fatalf("sent %d of %d SYNs: %v", r.Sent, count, err)
				}
				syns, synAcks := 0, 0
				eventually(t, "the server has seen all SYNs", func() bool {
					if syns, _, err = in.Read(); err != nil {
						t.Fatal(err)
					}
					return syns == count
				})
				if _, synAcks, err = out.Read(); err != nil {
					t.Fatal(err)
				}
				if !answered(synAcks) {
					t.Errorf("%d of %d SYNs were answered", synAcks, count)
				}
			})
		}
	}
}

// What one core sends, with nothing but the veth to cross.
func BenchmarkFlood(b *testing.B) {
	for _, f := range families {
		b.Run(f.name, func(b *testing.B) {
			l := labtest.New(b, lab.Config{Attacker: true})
			// The gateway routes none of it.
			if err := l.Gateway.SetLoss(100); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			r, err := startFlood(b, l, f.v6, lab.FloodConfig{
				Count: b.N, Duration: time.Minute, Options: lab.LinuxSYN,
			}).Wait()
			if err != nil || r.Sent != b.N {
				b.Fatalf("sent %d of %d SYNs: %v", r.Sent, b.N, err)
			}
			b.ReportMetric(r.Rate(), "SYN/s")
		})
	}
}

// Making a SYN must cost little next to sending it.
func BenchmarkSYNFrame(b *testing.B) {
	frame, write := lab.FrameWriter(netip.MustParseAddrPort("192.0.2.10:80"))
	b.ReportAllocs()
	for b.Loop() {
		write(frame)
	}
	if bytes.Equal(frame[26:30], make([]byte, 4)) || binary.BigEndian.Uint16(frame[36:]) != 80 {
		b.Fatalf("not a SYN: %x", frame)
	}
}
