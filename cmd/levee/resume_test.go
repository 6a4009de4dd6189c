package main

import (
	"strings"
	"syscall"
	"testing"
)

// TestResumeElsewhere: after a crash levee goes on where it would not have begun, as it would have gone on without the crash: with the rules that are there,
// and the problem in status until it is over. An orderly stop takes them back all the same.
func TestResumeElsewhere(t *testing.T) {
	named := "routing: {server_interfaces: [server0], client_interfaces: [client0, other0]}\n" + services
	for _, tt := range []struct{ name, yaml, damage, mend, problem string }{
		{"no route to the servers", services, "ip addr flush dev server0", "ip addr add 192.0.2.1/24 dev server0; ip addr add 2001:db8:1::1/64 dev server0 nodad", "has no route in the main table"},
		{"a named interface gone", named, "ip link del other0", "ip link add other0 type veth peer name other1; ip link set other1 up; ip link set other0 up", `there is no interface "other0"`},
		{"a small MTU", named, "ip link set client0 mtu 1279", "ip link set client0 mtu 1500", "interface client0 has an MTU of 1279"},
		{"somebody's rule in the way", services, "ip rule add priority 7305 to 203.0.113.7 lookup 99", "ip rule del priority 7305", "rule priorities 7300-7309 are taken"},
		{"somebody's route in the way", services, "ip route add 203.0.113.7 dev server0 table 7332", "ip route del 203.0.113.7 table 7332", "routing table 7332 is taken"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGateway(t, tt.yaml)
			g.onTmpfs(tt.yaml)
			g.sh("ip link add other0 type veth peer name other1; ip link set other1 up; ip link set other0 up")
			rules := func() string {
				_, stdout, _ := g.run(g.lab.Gateway.Command(t.Context(), "sh", "-c", "for f in 4 6; do ip -$f rule show; done | grep 'proto 108' | sed 's/ \\[detached\\]//' | sort"))
				return stdout
			}
			c := g.start()
			running := rules()
			if err := c.Kill(); err != nil {
				t.Fatal(err)
			}
			g.sh(tt.damage)
			c = g.start()
			problem := func() bool {
				_, stdout, _ := g.levee("status", "-o", "json")
				return strings.Contains(strings.ReplaceAll(stdout, `\"`, `"`), tt.problem)
			}
			g.until("status names the problem", problem)
			if !strings.Contains(c.Output(), "going on with the rules of the process before") {
				t.Errorf("the log doesn't say so")
			}
			if now := rules(); now != running {
				t.Errorf("rules before:\n%s\nand now:\n%s", running, now)
			}
			g.sh(tt.mend)
			g.until("the problem is over", func() bool { return !problem() })
			if err := c.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if code := g.end(c); code != 0 {
				t.Errorf("it ends with %d", code)
			}
			if left := rules(); left != "" {
				t.Errorf("rules afterwards:\n%s", left)
			}
		})
	}
}
