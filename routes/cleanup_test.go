package routes

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestCleanupAfterKill(t *testing.T) {
	for _, test := range []struct {
		name       string
		persistent bool
		wantLine   string
	}{
		{"the TUN goes with its process", false, "sysctl -w net.ipv4.ip_forward=0"},
		{"the TUN stays", true, "ip link del dev tun0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := enterGateway(t)
			cfg := config(t)
			closeTUN := openTUN(t, cfg.TUN, test.persistent)
			must(t, newPlan(t, cfg).Apply())
			closeTUN() // as the kernel does for a killed process
			report, err := Cleanup(cfg, cfg.StateFile)
			must(t, err)
			for _, want := range []string{test.wantLine, "ip -4 rule del priority 7300 iif tun0 lookup main protocol 108"} {
				if !slices.Contains(report, want) {
					t.Errorf("the report does not say %q:\n%s", want, strings.Join(report, "\n"))
				}
			}
			wantNoFile(t, cfg.StateFile)
			wantSame(t, before)
			report, err = Cleanup(cfg, cfg.StateFile)
			must(t, err)
			if len(report) > 0 {
				t.Errorf("a second Cleanup found something: %q", report)
			}
			wantSame(t, before)
		})
	}
}

func TestRestartAfterKillKeepsOriginals(t *testing.T) {
	enterGateway(t)
	set(t, "net/ipv4/conf/cli0/forwarding", "1")
	before := take(t)
	cfg := config(t)
	var plan *Plan
	var closeTUN func()
	for range 3 {
		closeTUN = openTUN(t, cfg.TUN, false)
		plan = newPlan(t, cfg)
		must(t, plan.Apply())
		wantNoDiff(t, plan)
		closeTUN()
	}
	must(t, plan.Remove())
	wantSame(t, before)
}

func TestCleanupLeavesForeignAlone(t *testing.T) {
	enterGateway(t)
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table, rule.Protocol, rule.IifName = unix.AF_INET, 7301, 7332, unix.RTPROT_STATIC, "cli0"
	must(t, netlink.RuleAdd(rule))
	srv0, err := netlink.LinkByName("srv0")
	must(t, err)
	must(t, netlink.RouteAdd(&netlink.Route{Table: 7332, Dst: ipNet(prefixes("198.18.0.0/15")[0]), LinkIndex: srv0.Attrs().Index, Scope: netlink.SCOPE_LINK}))
	before := take(t)
	// Ours right beside them, the same but for the tag.
	rule.Protocol = Protocol
	must(t, netlink.RuleAdd(rule))
	must(t, netlink.RouteAdd(&netlink.Route{Table: 7332, Dst: ipNet(prefixes("198.18.0.0/15")[0]), LinkIndex: srv0.Attrs().Index, Scope: netlink.SCOPE_LINK,
		Protocol: Protocol, Priority: 5}))
	cfg := config(t)
	report, err := Cleanup(cfg, cfg.StateFile)
	must(t, err)
	if len(report) != 2 {
		t.Errorf("want a rule and a route in the report, got %q", report)
	}
	wantSame(t, before)
}

func TestCleanupLeavesOtherLinksAlone(t *testing.T) {
	for _, test := range []struct {
		name string
		make func(*testing.T)
		want string
	}{
		{"not a TUN", func(t *testing.T) {
			must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}}))
		}, "kind bridge"},
		{"a TAP", func(t *testing.T) {
			tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TAP, Queues: 1}
			must(t, netlink.LinkAdd(tap))
			for _, fd := range tap.Fds {
				fd.Close()
			}
		}, "kind tap"},
		{"a TUN in use", func(t *testing.T) { openTUN(t, "tun0", false) }, "in use"},
		{"a persistent TUN in use", func(t *testing.T) { openTUN(t, "tun0", true) }, "in use"},
		{"a TUN without queues", func(t *testing.T) {
			must(t, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN}))
		}, "isn't levee's"},
	} {
		t.Run(test.name, func(t *testing.T) {
			enterNamespace(t)
			test.make(t)
			before := take(t)
			cfg := config(t)
			report, err := Cleanup(cfg, cfg.StateFile)
			must(t, err)
			if len(report) != 1 || !strings.Contains(report[0], test.want) || !strings.Contains(report[0], "tun0") {
				t.Errorf("report %q, want one line that says %q", report, test.want)
			}
			wantSame(t, before)
		})
	}
}

func TestSysctlOfSomebodyElseIsKept(t *testing.T) {
	const rp, fwd = "net/ipv4/conf/all/send_redirects", "net/ipv6/conf/cli0/forwarding"
	enterGateway(t)
	cfg := config(t)
	cfg.ClientInterfaces = []string{"cli0", "srv0"} // srv0 on both sides: redirects go off
	before := take(t)
	closeTUN := openTUN(t, cfg.TUN, false)
	plan := newPlan(t, cfg)
	must(t, plan.Apply())
	set(t, rp, "7")  // a value of its own
	set(t, fwd, "0") // one that levee changed only by turning all of them on
	must(t, plan.Remove())
	closeTUN()
	if got := get(t, rp); got != "7" {
		t.Errorf("%s is %s: Remove did not leave it alone", rp, got)
	}
	if report := plan.Report(); len(report) != 1 || !strings.Contains(report[0], "net.ipv4.conf.all.send_redirects is 7, not the 0") {
		t.Errorf("report %q", report)
	}
	set(t, rp, "1")
	wantSame(t, before)
	wantNoFile(t, cfg.StateFile)
}

// TestSideEffectOfSomebodyElseIsKept: putting forwarding back must not undo what others have set since.
func TestSideEffectOfSomebodyElseIsKept(t *testing.T) {
	enterGateway(t)
	set(t, "net/ipv4/conf/all/accept_redirects", "0")
	cfg := config(t)
	closeTUN := openTUN(t, cfg.TUN, false)
	plan := newPlan(t, cfg)
	must(t, plan.Apply())
	set(t, "net/ipv4/conf/cli0/forwarding", "0")
	set(t, "net/ipv4/conf/all/accept_redirects", "1")
	must(t, plan.Remove())
	closeTUN()
	for key, want := range map[string]string{
		"net/ipv4/ip_forward": "0", "net/ipv4/conf/cli0/forwarding": "0", "net/ipv4/conf/all/accept_redirects": "1",
	} {
		if got := get(t, key); got != want {
			t.Errorf("%s is %s, want %s", key, got, want)
		}
	}
}

// TestStateFileOfElsewhere: values of another boot mean nothing, those of another namespace are not ours to use.
func TestStateFileOfElsewhere(t *testing.T) {
	before := enterGateway(t)
	cfg := config(t)
	closeTUN := openTUN(t, cfg.TUN, false)
	must(t, newPlan(t, cfg).Apply())
	file, err := os.ReadFile(cfg.StateFile)
	must(t, err)
	t.Run("another namespace", func(t *testing.T) {
		enterGateway(t)
		set(t, "net/ipv4/ip_forward", "1")
		before := take(t)
		openTUN(t, "other0", false)
		other := cfg
		other.TUN = "other0"
		if err := newPlan(t, other).Apply(); err == nil || !strings.Contains(err.Error(), "another network namespace") {
			t.Errorf("Apply: error %v", err)
		}
		_, err := Cleanup(Config{TUN: "tun0"}, cfg.StateFile)
		if err == nil || !strings.Contains(err.Error(), cfg.StateFile) || !strings.Contains(err.Error(), "another network namespace") {
			t.Errorf("Cleanup: error %v", err)
		}
		if now, err := os.ReadFile(cfg.StateFile); err != nil || string(now) != string(file) {
			t.Errorf("the file was touched: %v\n%s", err, now)
		}
		link, err := netlink.LinkByName("other0")
		must(t, err)
		must(t, netlink.LinkDel(link))
		wantSame(t, before)
	})
	t.Run("another boot", func(t *testing.T) {
		enterGateway(t)
		set(t, "net/ipv4/ip_forward", "1")
		before := take(t)
		path := config(t).StateFile
		boot := strings.TrimSpace(readFile(t, "/proc/sys/kernel/random/boot_id"))
		must(t, os.WriteFile(path, []byte(strings.Replace(string(file), boot, "an-earlier-boot", 1)), 0o600))
		_, err := Cleanup(Config{TUN: "tun0"}, path)
		must(t, err)
		wantNoFile(t, path)
		wantSame(t, before)
	})
	closeTUN()
	_, err = Cleanup(cfg, cfg.StateFile)
	must(t, err)
	wantSame(t, before)
}

func TestBadStateFile(t *testing.T) {
	for _, test := range []struct{ name, content, want string }{
		{"not JSON", "{", "delete the file"},
		{"a key of its own", "", "not a sysctl of levee's"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := enterGateway(t)
			cfg := config(t)
			content := test.content
			if content == "" {
				state, err := here()
				must(t, err)
				state.Values = []savedValue{{Key: "net/ipv4/../../kernel/hostname", Old: "x", Set: "y"}}
				must(t, state.write(cfg.StateFile))
			} else {
				must(t, os.WriteFile(cfg.StateFile, []byte(content), 0o600))
			}
			rule := Rule{Family: V6, Priority: 7300, Iif: "tun0", Table: 254, Protocol: Protocol}
			must(t, netlink.RuleAdd(rule.netlink()))
			_, err := Cleanup(cfg, cfg.StateFile)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line that says %q", err, test.want)
			}
			wantSame(t, before) // the rule is gone all the same
		})
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}
