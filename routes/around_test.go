package routes

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// sh runs commands in the test's namespace.
func sh(t *testing.T, commands string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "sh", "-ec", commands).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", commands, err, out)
	}
}

// TestAround: rules of somebody else's that take protected packets around levee are seen, before levee's rules are there too, and those that don't are not.
func TestAround(t *testing.T) {
	enterGateway(t)
	set(t, keyForward4, "1")
	set(t, keyForward6, "1")
	// A way out for the servers, as where there are two providers; one of management; and a mark's.
	sh(t, `
		for i in isp2 mgmt vpn; do ip link add $i type veth peer name ${i}far; ip link set ${i}far master br0 up; ip link set $i up; done
		ip addr add 100.64.2.1/24 dev isp2; ip addr add 100.64.3.1/24 dev mgmt; ip -6 addr add 2001:db8:3::1/64 dev isp2 nodad
		ip route add 198.18.0.0/15 dev vpn
		ip route add default via 203.0.113.254
		ip route add default via 100.64.2.2 table 102; ip -6 route add default via 2001:db8:3::2 table 102
		ip route add default via 100.64.3.2 table 103; ip route add 192.0.2.0/24 dev srv0 table 104; ip route add 10.0.0.0/8 via 100.64.2.2 table 105
		ip route add blackhole 100.64.0.0/10 table 106; ip route add blackhole 203.0.113.128/25 table 106`)
	cfg := config(t)
	cfg.ClientInterfaces = []string{"cli0", "isp2", "mgmt"}
	cfg.Ports = map[netip.Prefix][][2]uint16{}
	for _, p := range cfg.Prefixes[:3] {
		cfg.Ports[p] = [][2]uint16{{80, 80}, {443, 443}}
	}
	type rule struct {
		name, rule string
		says       string // empty: it is no detour
		whole      bool
		later      bool // it is not seen before levee's rules are there
	}
	rules := []rule{
		{"to the servers", "-4 to 192.0.2.0/24 lookup main", "takes packets to 192.0.2.0/24 that come in by cli0 around levee, to srv0", true, false},
		{"to the servers, IPv6", "-6 to 2001:db8:1::/64 lookup main", "takes packets to 2001:db8:1::/64 that come in by cli0 around levee, to srv0", true, false},
		{"to more than the servers", "-4 to 192.0.0.0/16 lookup 104", "takes packets to 192.0.2.0/24 that come in by cli0 around levee", true, false},
		{"to one server", "-4 to 192.0.2.77 lookup main", "takes packets to 192.0.2.0/24 that", false, false},
		{"from some clients", "-4 from 203.0.113.64/26 lookup main", "takes packets to 192.0.2.0/24 that", false, false},
		{"from one client to one server", "-4 from 203.0.113.7 to 192.0.2.9 ipproto tcp dport 443 lookup main", "takes packets to 192.0.2.0/24 that", false, false},
		{"from one interface", "-4 iif cli0 to 192.0.2.0/24 lookup main", "that come in by cli0 around levee", false, false},
		{"everything", "-4 lookup main", "takes packets to 192.0.2.0/24 that", true, false},
		{"everything but by default", "-4 lookup main suppress_prefixlength 0", "takes packets to 192.0.2.0/24 that", true, false},
		{"everything without a mark", "-4 not fwmark 0x1 lookup main", "takes packets to 192.0.2.0/24 that", true, false},
		{"past levee", "-4 goto 32766", "takes packets to 192.0.2.0/24 that", true, true},
		{"the answers", "-4 from 192.0.2.0/24 lookup 102", "takes packets from 192.0.2.0/24 that come in by srv0 around levee, to isp2", true, false},
		{"the answers, IPv6", "-6 from 2001:db8:1::/64 lookup 102", "takes packets from 2001:db8:1::/64 that come in by srv0 around levee, to isp2", true, false},
		{"the answers of one server", "-4 from 192.0.2.77 lookup 102", "takes packets from 192.0.2.0/24 that come in by srv0 around levee, to isp2", false, false},
		{"the answers to some clients", "-4 to 203.0.113.32/27 lookup main", "takes packets from 192.0.2.0/24 that come in by srv0 around levee, to cli0", false, false},
		{"the answers from a port", "-4 ipproto tcp sport 443 lookup 102", "takes packets from 192.0.2.0/24 that", false, false},
		{"what levee sends", "-4 iif tun0 blackhole", "drops packets to 192.0.2.0/24 that come in by tun0", true, false},
		{"what levee sends to servers, IPv6", "-6 iif tun0 to 2001:db8:1::/64 prohibit", "drops packets to 2001:db8:1::/64 that come in by tun0", true, false},
		{"all to the servers", "-4 to 192.0.2.0/24 unreachable", "drops packets to 192.0.2.0/24 that come in by cli0", true, false},

		{"another interface", "-4 iif br0 lookup main", "", false, false},
		{"another interface is gone", "-4 iif eth77 lookup main", "", false, false},
		{"a mark", "-4 fwmark 0x80000/0xff0000 lookup main", "", false, false},
		{"a mark that is dropped", "-4 fwmark 0x1 unreachable", "", false, false},
		{"the answers to clients elsewhere", "-4 to 100.64.9.0/24 lookup main", "takes packets from 192.0.2.0/24 that come in by srv0 around levee, to cli0", false, false},
		{"other servers", "-4 iif cli0 to 100.64.9.0/24 lookup main", "", false, false},
		{"hosts that aren't clients", "-4 to 198.18.0.0/15 lookup main", "", false, false},
		{"a table without a route", "-4 lookup 999", "", false, false},
		{"a table with other routes", "-4 lookup 105", "", false, false},
		{"a table that drops others", "-4 lookup 106", "", false, false},
		{"a suppressed table", "-4 to 192.0.2.0/24 lookup main suppress_prefixlength 24", "", false, false},
		{"suppressed default routes", "-4 lookup 102 suppress_prefixlength 0", "", false, false},
		{"the gateway's own address", "-4 from 203.0.113.1 lookup 102", "", false, false},
		{"the gateway's own address, IPv6", "-6 from 2001:db8:c::1 lookup 102", "", false, false},
		{"the gateway's own packets", "-4 iif lo lookup 102", "", false, false},
		{"another protocol", "-4 ipproto udp lookup main", "", false, false},
		{"ICMP", "-4 ipproto icmp lookup main", "", false, false},
		{"a port of no service", "-4 ipproto tcp dport 25 lookup main", "", false, false},
		{"mail that servers send", "-4 from 192.0.2.0/24 ipproto tcp dport 25 lookup 102", "", false, false},
		{"an interface apart", "-4 iif mgmt lookup 103", "", false, false},
		{"an interface dropped", "-4 iif mgmt unreachable", "", false, false},
		{"by another interface", "-4 oif isp2 lookup 102", "", false, false},
		{"by a type of service", "-4 tos 0x10 lookup main", "", false, false},
		{"what levee sends takes another way", "-4 iif tun0 from 192.0.2.0/24 lookup 102", "", false, false},
		{"the local table", "-4 lookup local", "", false, false},
		{"nothing", "-4 nop", "", false, false},
	}
	// Not in subtests, which have threads of their own, and those are not in the namespace.
	look := func(name string, r rule, priority string) {
		t.Helper()
		family, words, _ := strings.Cut(r.rule, " ")
		sh(t, "ip "+family+" rule add priority "+priority+" "+words)
		defer sh(t, "ip "+family+" rule del priority "+priority)
		live, err := Read(cfg)
		must(t, err)
		plan, err := NewPlanAlongside(cfg, live)
		must(t, err)
		began := time.Now()
		detours, whole := plan.Around(&live)
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Errorf("%s: it took %v", name, took)
		}
		switch {
		case r.says == "" && (len(detours) > 0 || whole):
			t.Errorf("%s: %q, %v, want none", name, detours, whole)
		case r.says != "" && (len(detours) != 1 || !strings.Contains(detours[0].Text, "\"priority "+priority+" ") || !strings.Contains(detours[0].Text, r.says)):
			t.Errorf("%s: %q, want one with %q", name, detours, r.says)
		case whole != r.whole:
			t.Errorf("%s: whole %v", name, whole)
		}
	}
	for _, r := range rules {
		if !r.later {
			look("before, "+r.name, r, "100")
		}
	}
	closeTUN := openTUN(t, cfg.TUN, false)
	defer closeTUN()
	must(t, newPlan(t, cfg).Apply())
	for _, r := range rules {
		look("under levee, "+r.name, r, "7299")
	}
	look("behind levee", rule{rule: "-4 to 192.0.2.0/24 lookup main"}, "7310")
}
