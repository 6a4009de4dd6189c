package lab_test

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
	"levee/routes/routestest"
)

// gatewayState is everything in the gateway that switching something on may change.
func gatewayState(t *testing.T, l *lab.Lab) (routestest.Snapshot, string) {
	t.Helper()
	labtest.Settle(t, l.Gateway)
	var s routestest.Snapshot
	if err := l.Gateway.Do(func() (err error) { s, err = routestest.Take(); return err }); err != nil {
		t.Fatal(err)
	}
	rules, err := exec.Command("nsenter", "--net="+l.Gateway.Path(), "nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v\n%s", err, rules)
	}
	loose, err := l.Gateway.Sysctl("net.netfilter.nf_conntrack_tcp_loose")
	if err != nil {
		t.Fatal(err)
	}
	return s, string(rules) + loose
}

// The kernel's SYN proxy answers SYNs that the server never sees, splices the connections of honest clients, counts
// both, and leaves nothing behind.
func TestSYNPROXY(t *testing.T) {
	for _, timestamps := range []bool{true, false} {
		for _, f := range families {
			name := map[bool]string{true: "timestamps", false: "none"}[timestamps] + " " + f.name
			t.Run(name, func(t *testing.T) {
				l := labtest.New(t, lab.Config{Attacker: true})
				startWeb(t, l)
				flood := 1000
				if f.v6 {
					// Linux 6.18's nft_synproxy_eval() checks every TCP checksum with IPv4's nf_ip_checksum(), so over IPv6
					// it passes only what needs no check, as from a socket on a veth. A flood's frames do need it.
					flood = 0
				}
				before, rulesBefore := gatewayState(t, l)
				s, err := l.StartSYNPROXY(lab.SYNPROXYConfig{MSS: 1440, WScale: 7, SACK: true, Timestamps: timestamps})
				if err != nil {
					t.Fatal(err)
				}
				atServer, err := l.Servers[0].Link.Host.CountSYNs(false)
				if err != nil {
					t.Fatal(err)
				}
				answers, err := l.Attacker.Link.Host.CountSYNs(true)
				if err != nil {
					t.Fatal(err)
				}
				if flood > 0 {
					if _, err := startFlood(t, l, f.v6, lab.FloodConfig{
						Count: flood, Duration: 10 * time.Second, Rate: 20_000, Options: lab.LinuxSYN,
					}).Wait(); err != nil {
						t.Fatal(err)
					}
				}
				eventually(t, "every SYN of the flood is answered", func() bool {
					_, n, err := answers.Read()
					if err != nil {
						t.Fatal(err)
					}
					return n == flood
				})
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if _, err := l.Clients[0].Get(ctx, lab.URL(l.Servers[0].AddrPort(f.v6, webPort), "/bytes/100000")); err != nil {
					t.Fatal(err)
				}
				if syns, _, err := atServer.Read(); err != nil || syns != 1 {
					t.Errorf("the server saw %d SYNs, want that of the client: %v", syns, err)
				}
				if got, err := s.Counters(); err != nil || got.SYNs != uint64(flood)+1 || got.Valid != 1 || got.Invalid != 0 {
					t.Errorf("counters %+v: %v", got, err)
				}
				if err := s.Stop(); err != nil {
					t.Fatal(err)
				}
				after, rulesAfter := gatewayState(t, l)
				if diff := before.Diff(after); diff != "" || rulesBefore != rulesAfter {
					t.Errorf("left behind:\n%s%s", diff, rulesAfter)
				}
				// Plain forwarding again.
				if _, err := l.Clients[0].Get(ctx, lab.URL(l.Servers[0].AddrPort(f.v6, webPort), "/bytes/10")); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// What fails half-way leaves nothing behind either.
func TestSYNPROXYFails(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	// In the way: a chain of the same name at another hook.
	nft := exec.Command("nsenter", "--net="+l.Gateway.Path(), "nft",
		"add table inet levee_lab_synproxy; add chain inet levee_lab_synproxy forward { type filter hook input priority 0; }")
	if out, err := nft.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	before, rulesBefore := gatewayState(t, l)
	for _, cfg := range []lab.SYNPROXYConfig{
		{MSS: 1460, WScale: 7},
		// Window scaling ends at 14 (RFC 7323 §2.3).
		{MSS: 1460, WScale: 15},
	} {
		s, err := l.StartSYNPROXY(cfg)
		if err == nil {
			s.Stop()
			t.Fatalf("%+v: started", cfg)
		}
		if !strings.Contains(err.Error(), "SYNPROXY") {
			t.Errorf("the error doesn't name what failed: %v", err)
		}
		after, rulesAfter := gatewayState(t, l)
		if diff := before.Diff(after); diff != "" || rulesBefore != rulesAfter {
			t.Errorf("left behind:\n%s%s", diff, rulesAfter)
		}
	}
}

func TestSink(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	startWeb(t, l)
	s := l.Servers[0]
	const other = 8080
	if _, err := s.StartWeb(0, s.AddrPort(false, other)); err != nil {
		t.Fatal(err)
	}
	get := func(port uint16) error {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := l.Clients[0].Get(ctx, lab.URL(s.AddrPort(false, port), "/bytes/10"))
		return err
	}
	for _, tc := range []struct {
		name        string
		end         *lab.End
		port        uint16
		web, beside bool // what still works
	}{
		{"everything", &s.Link.Gateway, 0, false, false},
		{"to a port", &s.Link.Host, webPort, false, true},
		{"from a port", &l.Clients[0].Link.Host, webPort, false, true},
		{"another port", &s.Link.Host, 81, true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sink, err := tc.end.StartSink(tc.port)
			if err != nil {
				t.Fatal(err)
			}
			if err := get(webPort); (err == nil) != tc.web {
				t.Errorf("GET: %v", err)
			}
			if err := get(other); (err == nil) != tc.beside {
				t.Errorf("GET from another port: %v", err)
			}
			if n, err := sink.Packets(); err != nil || (n > 0) == tc.web {
				t.Errorf("dropped %d packets: %v", n, err)
			}
			if err := sink.Stop(); err != nil {
				t.Fatal(err)
			}
			if err := get(webPort); err != nil {
				t.Errorf("GET after the sink: %v", err)
			}
		})
	}
}

func TestParseStat(t *testing.T) {
	const good = "entries\t\tsyn_received\tcookie_valid\n00000000\t0000000a\t00000001\n00000000\tffffffff\t00000000\n"
	got, err := lab.ParseStat(good)
	if err != nil || got["syn_received"] != 0xffffffff+10 || got["cookie_valid"] != 1 {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"a b\n1\n", "a\nx\n"} {
		if got, err := lab.ParseStat(bad); err == nil {
			t.Errorf("%q became %v", bad, got)
		}
	}
}
