package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"levee/routes"
)

// check runs it in the gateway.
func (g *gateway) check() (code int, answer checked) {
	g.t.Helper()
	code, stdout, stderr := g.levee("check", "-o", "json")
	if err := json.Unmarshal([]byte(stdout), &answer); err != nil || stderr != "" {
		g.t.Fatalf("check: %d %v\n%s%s", code, err, stdout, stderr)
	}
	return code, answer
}

// sh runs commands in the gateway.
func (g *gateway) sh(commands string) {
	g.t.Helper()
	if code, stdout, stderr := g.run(g.lab.Gateway.Command(g.t.Context(), "sh", "-ec", commands)); code != 0 {
		g.t.Fatalf("%s: %d\n%s%s", commands, code, stdout, stderr)
	}
}

// healthy makes the gateway one that check finds nothing about.
const healthy = `
	sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
	for i in client0 server0; do ethtool -K $i gro on gso on tso on; done`

// other makes another interface of the gateway's, as a tunnel or one for management is.
const other = "ip link add client9 type bridge; ip link set client9 up; "

// settled waits for what the kernel adds to new links at a time of its own: without a link-local address that is one route.
const settled = `for i in client9 far9 server9; do
	! ip link show dev $i up 2>/dev/null | grep -q LOWER_UP || until ip -6 route show table all dev $i | grep -q ff00::/8; do sleep 0.01; done
done`

// TestCheckHost: every finding on a machine made so. Its remedy is done, as a command or in the configuration, and then nothing is found any longer.
func TestCheckHost(t *testing.T) {
	const manageNot = "routing: {manage: false, client_interfaces: [client0], server_interfaces: [server0]}\n"
	for _, tt := range []struct {
		name, yaml, breakIt string
		want                routes.Finding // of Text, the beginning
		mended              string         // what the configuration is, once the remedy is written there; empty if it is a command
		env                 string
	}{
		{name: "IPv4 not forwarded", breakIt: "sysctl -qw net.ipv4.ip_forward=0",
			want: routes.Finding{What: "forwarding", Text: "IPv4 is not forwarded: levee run turns that on", Remedy: "sysctl -w net.ipv4.ip_forward=1"}},
		{name: "IPv6 not forwarded", breakIt: "sysctl -qw net.ipv6.conf.all.forwarding=0",
			want: routes.Finding{What: "forwarding", Text: "IPv6 is not forwarded: levee run turns that on", Remedy: "sysctl -w net.ipv6.conf.all.forwarding=1"}},
		{name: "not forwarded, and levee is not to", yaml: manageNot, breakIt: "sysctl -qw net.ipv4.ip_forward=0",
			want: routes.Finding{What: "forwarding", Fatal: true, Text: "IPv4 is not forwarded, and routing.manage is false", Remedy: "sysctl -w net.ipv4.ip_forward=1"}},
		{name: "one interface not forwarded", breakIt: "sysctl -qw net.ipv4.conf.client0.forwarding=0",
			want: routes.Finding{What: "forwarding", Fatal: true, Text: "IPv4 that comes in by client0 is not forwarded", Remedy: "sysctl -w net.ipv4.conf.client0.forwarding=1"}},
		{name: "strict reverse path check of the TUN", yaml: manageNot, breakIt: "sysctl -qw net.ipv4.conf.default.rp_filter=1",
			want: routes.Finding{What: "rp_filter", Fatal: true, Text: "the reverse path check of tun0 is strict", Remedy: "sysctl -w net.ipv4.conf.default.rp_filter=2"}},
		{name: "strict reverse path check of one of two ways to clients",
			breakIt: "ip link add client9 type veth peer far9; ip link set far9 up; ip link set client9 up; sysctl -qw net.ipv4.conf.client9.rp_filter=1; for i in client9 far9; do ethtool -K $i gro on gso on tso on; done",
			want:    routes.Finding{What: "rp_filter", Text: "the reverse path check of client9 is strict", Remedy: "sysctl -w net.ipv4.conf.client9.rp_filter=2"}},
		{name: "tracked, not exempt", yaml: "routing: {notrack: off}\n", breakIt: "nft add table inet f; nft add chain inet f c '{ type filter hook forward priority 0; }'; nft add rule inet f c ct state invalid drop",
			want:   routes.Finding{What: "conntrack", Text: "connections are tracked and routing.notrack is off: rules that drop ct state invalid break proxied connections", Remedy: "set routing.notrack to auto"},
			mended: "routing: {notrack: auto}\n"},
		{name: "table taken", breakIt: "ip rule add iif client7 priority 100 lookup 7332",
			want:   routes.Finding{What: "table", Fatal: true, Text: `routing table 7332 is taken: the IPv4 rule "priority 100 iif client7`, Remedy: "set routing.table to 7333"},
			mended: "routing: {table: 7333}\n"},
		{name: "table taken by a route", breakIt: "ip route add 203.0.113.0/24 dev client0 table 7332",
			want:   routes.Finding{What: "table", Fatal: true, Text: `routing table 7332 is taken: the IPv4 route "203.0.113.0/24 dev client0`, Remedy: "set routing.table to 7333"},
			mended: "routing: {table: 7333}\n"},
		{name: "priority taken", breakIt: "ip rule add iif client7 priority 7305 lookup 99",
			want:   routes.Finding{What: "priority", Fatal: true, Text: `rule priorities 7300-7309 are taken: the IPv4 rule "priority 7305 iif client7`, Remedy: "set routing.priority to 1000"},
			mended: "routing: {priority: 1000}\n"},
		{name: "no such interface", yaml: "routing: {client_interfaces: [eth7]}\n",
			want:   routes.Finding{What: "interface", Fatal: true, Text: `routing.client_interfaces: there is no interface "eth7"`, Remedy: "name one that exists, or use auto"},
			mended: "routing: {client_interfaces: auto}\n"},
		{name: "no such interface, unmanaged", yaml: strings.Replace(manageNot, "client0", "eth7", 1),
			want:   routes.Finding{What: "interface", Fatal: true, Text: "interface eth7: ", Remedy: "name one that exists, or use auto"},
			mended: manageNot},
		{name: "interface down", yaml: "routing: {client_interfaces: [client0, client9]}\n", breakIt: "ip link add client9 type veth peer far9; ip link set far9 up; for i in client9 far9; do ethtool -K $i gro on gso on tso on; done",
			want: routes.Finding{What: "interface", Text: "interface client9 is down", Remedy: "ip link set dev client9 up"}},
		{name: "servers' interface down", breakIt: "sysctl -qw net.ipv6.conf.server0.keep_addr_on_down=1; ip link set server0 down",
			want: routes.Finding{What: "interface", Fatal: true, Text: "prefix 192.0.2.0/24 has no route in the main table, and interface server0 is down",
				Remedy: "ip link set dev server0 up"}},
		{name: "servers' interface down, next to a default route", breakIt: "ip route add default dev client0; ip -6 route add default dev client0; ip link set server0 down",
			want: routes.Finding{What: "interface", Text: "interface server0 is down", Remedy: "ip link set dev server0 up"}},
		{name: "MTU too small", breakIt: "ip link set client0 mtu 1200",
			want: routes.Finding{What: "mtu", Fatal: true, Text: "interface client0 has an MTU of 1200: levee needs 1280 or more", Remedy: "ip link set dev client0 mtu 1500"}},
		{name: "MTU of a named one too small", yaml: "routing: {client_interfaces: [client0, client9]}\n", breakIt: other + "ip link set client9 mtu 1000",
			want: routes.Finding{What: "mtu", Fatal: true, Text: "interface client9 has an MTU of 1000: levee needs 1280 or more", Remedy: "ip link set dev client9 mtu 1500"}},
		{name: "MTU of another too small", breakIt: other + "ip link set client9 mtu 1000",
			want: routes.Finding{What: "mtu", Text: "interface client9 has an MTU of 1000, and levee reckons with 1280 or more: clients behind it",
				Remedy: "set routing.client_interfaces to [client0, server0]"},
			mended: "routing: {client_interfaces: [client0, server0]}\n"},
		{name: "MTU of the default route too small", breakIt: other + "ip addr add 203.0.113.1/24 dev client9; ip route add default via 203.0.113.2; ip link set client9 mtu 1000",
			want: routes.Finding{What: "mtu", Fatal: true, Text: "interface client9 has an MTU of 1000: levee needs 1280 or more", Remedy: "ip link set dev client9 mtu 1500"}},
		{name: "another interface not forwarded", breakIt: other + "sysctl -qw net.ipv4.conf.client9.forwarding=0",
			want: routes.Finding{What: "forwarding", Text: "IPv4 that comes in by client9 is not forwarded: clients behind it don't reach the services",
				Remedy: "set routing.client_interfaces to [client0, server0]"},
			mended: "routing: {client_interfaces: [client0, server0]}\n"},
		{name: "MTU of the TUN below the interfaces'", yaml: "tun: {mtu: 1400}\n",
			want:   routes.Finding{What: "mtu", Text: "tun.mtu 1400 is below the 1500 of interface client0", Remedy: "set tun.mtu to auto"},
			mended: "tun: {mtu: auto}\n"},
		{name: "offloads off", breakIt: "ethtool -K server0 gro off tso off",
			want: routes.Finding{What: "offload", Text: "interface server0 has gro, tso off", Remedy: "ethtool -K server0 gro on tso on"}},
		{name: "a way to clients that isn't taken", yaml: "routing: {client_interfaces: [client0]}\n",
			breakIt: "ip link add client9 type veth peer far9; ip link set far9 up; ip link set client9 up; ip addr add 203.0.113.1/24 dev client9; ip route add default via 203.0.113.2; for i in client9 far9; do ethtool -K $i gro on gso on tso on; done",
			want:    routes.Finding{What: "asymmetry", Text: "a way to clients leads by client9, which is not in routing.client_interfaces", Remedy: "set routing.client_interfaces to [client0, client9], or to auto"},
			mended:  "routing: {client_interfaces: [client0, client9]}\n"},
		{name: "a way to servers that isn't taken", yaml: "routing: {server_interfaces: [server0]}\n",
			breakIt: "ip link add server9 type veth peer far9; ip link set far9 up; ip link set server9 up; ip route add 192.0.2.128/25 dev server9; for i in server9 far9; do ethtool -K $i gro on gso on tso on; done",
			want:    routes.Finding{What: "asymmetry", Text: "a way to servers leads by server9, which is not in routing.server_interfaces", Remedy: "set routing.server_interfaces to [server0, server9], or to auto"},
			mended:  "routing: {server_interfaces: [server0, server9]}\n"},
		{name: "a network next to the gateway that isn't taken", yaml: "routing: {client_interfaces: [client0]}\n",
			breakIt: "ip link add client9 type veth peer far9; ip link set far9 up; ip link set client9 up; ip addr add 203.0.113.129/25 dev client9; for i in client9 far9; do ethtool -K $i gro on gso on tso on; done",
			want:    routes.Finding{What: "asymmetry", Text: "hosts behind client9 (203.0.113.128/25) can't use the services", Remedy: "if they are to, set routing.client_interfaces to [client0, client9], or to auto"},
			mended:  "routing: {client_interfaces: [client0, client9]}\n"},
		{name: "a rule ahead of levee's", breakIt: "ip rule add priority 100 to 192.0.2.0/24 lookup main",
			want:   routes.Finding{What: "rule", Fatal: true, Text: `the IPv4 rule "priority 100 to 192.0.2.0/24 lookup main`, Remedy: "set routing.priority to 90, or give it a priority above 7309"},
			mended: "routing: {priority: 90}\n"},
		{name: "a rule for one server ahead of levee's", breakIt: "ip rule add priority 100 to 192.0.2.9 lookup main",
			want:   routes.Finding{What: "rule", Text: `the IPv4 rule "priority 100 to 192.0.2.9/32 lookup main`, Remedy: "set routing.priority to 90, or give it a priority above 7309"},
			mended: "routing: {priority: 90}\n"},
		{name: "no TUN", env: withoutTUN,
			want: routes.Finding{What: "tun", Fatal: true, Text: "no TUN can be made: open /dev/net/tun: no such file", Remedy: "modprobe tun"}},
		{name: "no BPF", env: withoutBPF,
			want: routes.Finding{What: "bpf", Text: "SYNs will share queues with other packets", Remedy: "give levee CAP_BPF, or sysctl -w kernel.unprivileged_bpf_disabled=0"}},
		{name: "no privilege", env: withoutAdmin,
			want: routes.Finding{What: "privilege", Text: "nftables, BPF and what a start needs can't be seen without CAP_NET_ADMIN", Remedy: "run levee check as root"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGateway(t, tt.yaml+services)
			dir := g.onTmpfs(tt.yaml + services)
			g.sh(healthy)
			if tt.yaml == "" {
				if code, answer := g.check(); code != 0 || !answer.OK || len(answer.Host) != 0 {
					t.Fatalf("something is wrong before: %d %+v", code, answer)
				}
			}
			if tt.breakIt != "" {
				g.sh("sysctl -qw net.ipv6.conf.default.addr_gen_mode=1; " + tt.breakIt)
			}
			if strings.Contains(tt.breakIt, "type veth") {
				g.sh(settled)
			}
			before := g.snapshot()
			if tt.env != "" {
				t.Setenv(tt.env, "1")
			}
			code, answer := g.check()
			i := slices.IndexFunc(answer.Host, func(f routes.Finding) bool { return f.What == tt.want.What })
			if i < 0 {
				t.Fatalf("not found, but %+v", answer)
			}
			got := answer.Host[i]
			if !strings.HasPrefix(got.Text, tt.want.Text) || got.Fatal != tt.want.Fatal || got.Remedy != tt.want.Remedy || strings.ContainsRune(got.Text+got.Remedy, '\n') {
				t.Errorf("found\n%+v\nwant\n%+v", got, tt.want)
			}
			if answer.OK == tt.want.Fatal || (code != 0) != tt.want.Fatal || len(answer.Problems) != 0 {
				t.Errorf("exit code %d, ok %t", code, answer.OK)
			}
			textCode, stdout, stderr := g.levee("check")
			line, where, other := "warning: ", stdout, stderr
			if tt.want.Fatal {
				line, where, other = "error: ", stderr, stdout
			}
			line += got.What + ": " + got.Text + "\n    " + got.Remedy + "\n"
			if textCode != code || !strings.Contains(where, line) || strings.Contains(other, got.Text) {
				t.Errorf("as text: %d\n%s%s\nwant\n%s", textCode, stdout, stderr, line)
			}
			g.same(before, "check")
			if tt.env != "" {
				return // of this process alone
			}
			if tt.mended != "" {
				g.config = g.write("levee.yaml", dir, tt.mended+services)
			} else {
				g.sh(got.Remedy)
			}
			if code, answer := g.check(); code != 0 || slices.ContainsFunc(answer.Host, func(f routes.Finding) bool { return f.What == tt.want.What }) {
				t.Errorf("after %s: %d %+v", got.Remedy, code, answer.Host)
			}
		})
	}
}

// TestCheckFirewall: a chain that drops what has no state is named, unless it accepts some of that.
func TestCheckFirewall(t *testing.T) {
	g := newGateway(t, services)
	g.onTmpfs(services)
	g.sh(healthy)
	const drop = "add table inet f; add chain inet f c { type filter hook forward priority 0; policy drop; }; "
	for _, tt := range []struct {
		rules string
		found bool
	}{
		{drop + "add rule inet f c ct state established,related accept; add rule inet f c iifname server0 ct state new accept", true},
		{drop + "add rule inet f c ct state established,related accept; add rule inet f c ct state untracked ip daddr 192.0.2.0/24 accept", false},
		{drop + "add rule inet f c ct state established,related,untracked accept", false},
		{drop + "add rule inet f c ct state vmap { established : accept, untracked : accept }", false},
		{drop + "add rule inet f c ip daddr 192.0.2.0/24 accept", false}, // tracks nothing
		{"add table inet f; add chain inet f c { type filter hook forward priority 0; }; add rule inet f c ct state invalid drop", false},
	} {
		g.sh("nft flush ruleset; nft '" + tt.rules + "'")
		code, answer := g.check()
		if found := len(answer.Host) == 1 && answer.Host[0].What == "firewall" && strings.HasPrefix(answer.Host[0].Text, "the nftables chain c of table f drops "); code != 0 || found != tt.found || !found && len(answer.Host) > 0 {
			t.Errorf("%s: %d %+v", tt.rules, code, answer.Host)
		}
	}
}

// TestCheckStateDir: connections are kept on a tmpfs only.
func TestCheckStateDir(t *testing.T) {
	g := newGateway(t, services)
	dir, err := os.MkdirTemp("/var/tmp", "levee-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if out, err := exec.Command("stat", "-f", "-c", "%T", dir).Output(); err != nil || strings.TrimSpace(string(out)) == "tmpfs" {
		t.Fatalf("/var/tmp is no place for this test: %s %v", out, err)
	}
	g.config = g.write("levee.yaml", dir+"/state", services)
	g.sh(healthy)
	want := routes.Finding{What: "state_dir", Text: "connections won't outlive a crash or an upgrade: " + dir + " is not on a tmpfs",
		Remedy: "set state_dir to a folder on a tmpfs, such as /run/levee"}
	if code, answer := g.check(); code != 0 || len(answer.Host) != 1 || answer.Host[0] != want {
		t.Errorf("got %d %+v, want %+v", code, answer.Host, want)
	}
}

// TestCheckWhileRunning: what levee itself has made is not in its way.
func TestCheckWhileRunning(t *testing.T) {
	g := newGateway(t, services)
	g.onTmpfs(services)
	g.sh(healthy)
	g.start()
	if code, answer := g.check(); code != 0 || len(answer.Host) != 0 {
		t.Errorf("got %d %+v", code, answer.Host)
	}
}
