package routes

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// nft runs nft(8) in the test's namespace.
func nft(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.Command("nft", command).CombinedOutput()
	if err != nil {
		t.Fatalf("nft %s: %v\n%s", command, err, out)
	}
	return string(out)
}

// track has the kernel track connections, as a firewall does.
func track(t *testing.T) {
	t.Helper()
	nft(t, "add table inet firewall; add chain inet firewall forward { type filter hook forward priority 0; }; add rule inet firewall forward ct state invalid drop")
}

// hooksListed says that the kernel lists its hooks, so that there is nothing to guess.
func hooksListed(t *testing.T) bool {
	t.Helper()
	_, sure, err := tracking()
	must(t, err)
	return sure
}

// TestTracking: what tracks is seen as soon as it is loaded, before there is anything to track, and no other ruleset is taken for it.
func TestTracking(t *testing.T) {
	const chain = "add table inet f; add chain inet f c { type filter hook forward priority 0; }; "
	for _, test := range []struct {
		name, ruleset string
		want          bool
	}{
		{"state", chain + "add rule inet f c ct state invalid drop", true},
		{"state, of many rules the last", chain + strings.Repeat("add rule inet f c counter; ", 300) + "add rule inet f c ct state vmap { invalid : drop }", true},
		{"mark", chain + "add rule inet f c ct mark set 7", true},
		{"masquerade", "add table ip n; add chain ip n c { type nat hook postrouting priority 100; }; add rule ip n c masquerade", true},
		{"masquerade, of IPv6 only", "add table ip6 n; add chain ip6 n c { type nat hook postrouting priority 100; }; add rule ip6 n c masquerade", true},
		{"translation", "add table ip n; add chain ip n c { type nat hook prerouting priority -100; }; add rule ip n c tcp dport 80 dnat to 192.0.2.7", true},
		{"redirection", "add table ip n; add chain ip n c { type nat hook prerouting priority -100; }; add rule ip n c tcp dport 80 redirect to :8080", true},
		{"the kernel's SYN proxy", chain + "add rule inet f c tcp dport 80 synproxy mss 1460 wscale 7", true},
		{"number of connections", chain + "add rule inet f c ct count over 100 drop", true},
		{"number of connections of each", chain + "add set inet f s { type ipv4_addr; flags dynamic; }; add rule inet f c add @s { ip saddr ct count over 10 } drop", true},
		{"in a chain of no hook", "add table inet f; add chain inet f c; add rule inet f c ct state invalid drop", true},
		{"timeout without a rule", "add table ip f; add ct timeout ip f slow { protocol tcp; l3proto ip; policy = { established: 100 }; }", true},
		{"nothing", "add table inet f", false},
		{"rules without state", chain + "add rule inet f c tcp dport 22 counter accept; add counter inet f n; add set inet f s { type ipv4_addr; }; add rule inet f c ip saddr @s log prefix \"ct\" drop", false},
		{"an exemption", "add table inet f; add chain inet f c { type filter hook prerouting priority -300; }; add rule inet f c notrack", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			enterNamespace(t)
			nft(t, test.ruleset)
			if got, err := Tracking(); err != nil || got != test.want {
				t.Errorf("tracking is %t (%v), want %t", got, err, test.want)
			}
		})
	}
}

// TestTrackingByIptables: a rule of iptables-nft is seen by its match, and tables of the iptables before it by their being there.
func TestTrackingByIptables(t *testing.T) {
	t.Run("nft", func(t *testing.T) {
		enterNamespace(t)
		must(t, withNFT(func(c *nftables.Conn) error {
			table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"})
			chain := c.AddChain(&nftables.Chain{Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter,
				Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Match{Name: "conntrack", Rev: 3, Info: &xt.ConntrackMtinfo3{
				ConntrackMtinfo2: xt.ConntrackMtinfo2{ConntrackMtinfoBase: xt.ConntrackMtinfoBase{MatchFlags: 1}, StateMask: 1},
			}}}})
			return c.Flush()
		}))
		if got, err := Tracking(); err != nil || !got {
			t.Errorf("tracking is %t (%v)", got, err)
		}
	})
	t.Run("legacy", func(t *testing.T) {
		enterNamespace(t)
		if hooksListed(t) {
			t.Skip("this kernel lists its hooks")
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		must(t, err)
		defer unix.Close(fd)
		const getInfo = 64 // IPT_SO_GET_INFO of struct ipt_getinfo, which makes the table
		info := [84]byte{'f', 'i', 'l', 't', 'e', 'r'}
		size := uint32(len(info))
		if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_IP, getInfo,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0); errno != 0 {
			t.Skipf("this kernel has no such iptables: %v", errno)
		}
		if got, err := Tracking(); err != nil || !got {
			t.Errorf("tracking is %t (%v)", got, err)
		}
	})
}

// TestTrackingOfHuge: a ruleset that is too large to be looked through is taken for one that tracks.
func TestTrackingOfHuge(t *testing.T) {
	enterNamespace(t)
	if hooksListed(t) {
		t.Skip("this kernel lists its hooks")
	}
	for _, want := range []bool{false, true} {
		must(t, withNFT(func(c *nftables.Conn) error {
			table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "f"})
			chain := c.AddChain(&nftables.Chain{Name: "c", Table: table})
			for i := range maxRuleset/2 + 1 {
				c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}})
				if i%100 == 0 {
					if err := c.Flush(); err != nil {
						return err
					}
				}
			}
			return c.Flush()
		}))
		began := time.Now()
		if got, err := Tracking(); err != nil || got != want {
			t.Errorf("tracking is %t (%v), want %t", got, err, want)
		}
		t.Logf("it takes %v", time.Since(began))
	}
}

// TestNotrackStays: an exemption is not taken away because nothing is tracked at the moment, unless nothing can be.
func TestNotrackStays(t *testing.T) {
	live := testLive()
	plan, err := NewPlan(testConfig(), live)
	must(t, err)
	live.Exemption = plan.exempt.contents()
	for _, sure := range []bool{false, true} {
		live.trackingSure = sure
		if diff := plan.Diff(live); diff.NotrackStale != sure || diff.NotrackMissing {
			t.Errorf("where it is sure to be %t that nothing tracks: stale %t, missing %t", sure, diff.NotrackStale, diff.NotrackMissing)
		}
	}
}

func exempted(t *testing.T) bool {
	t.Helper()
	exempt, _, err := Exempt()
	must(t, err)
	return exempt
}

func TestNotrackWhereTracked(t *testing.T) {
	for _, test := range []struct {
		name    string
		notrack Notrack
		tracked bool
		want    bool
	}{
		{"auto, not tracked", NotrackAuto, false, false},
		{"auto, tracked", NotrackAuto, true, true},
		{"on, not tracked", NotrackOn, false, true},
		{"off, tracked", NotrackOff, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			enterGateway(t)
			if test.tracked {
				track(t)
			}
			if tracking, err := Tracking(); err != nil || tracking != test.tracked {
				t.Fatalf("tracking is %t (%v), want %t", tracking, err, test.tracked)
			}
			before := take(t)
			cfg := config(t)
			cfg.Notrack = test.notrack
			closeTUN := openTUN(t, cfg.TUN, false)
			plan := newPlan(t, cfg)
			if got := strings.Contains(plan.String(), "notrack"); got != test.want {
				t.Errorf("notrack in the printed plan: %t, want %t", got, test.want)
			}
			must(t, plan.Apply())
			if exempted(t) != test.want {
				t.Errorf("exempt is %t, want %t", !test.want, test.want)
			}
			wantNoDiff(t, plan)
			must(t, plan.Apply())
			wantNoDiff(t, plan)
			must(t, plan.Remove())
			closeTUN()
			wantSame(t, before)
		})
	}
}

// TestNotrackByHand: the commands of the plan make the very table that Apply makes.
func TestNotrackByHand(t *testing.T) {
	enterGateway(t)
	cfg := config(t)
	cfg.Notrack = NotrackOn
	openTUN(t, cfg.TUN, false)
	plan := newPlan(t, cfg)
	must(t, plan.Apply())
	ours := exprsOf(t)
	nft(t, "delete table inet levee")
	live, err := Read(cfg)
	must(t, err)
	diff := plan.Diff(live)
	if !diff.NotrackMissing || diff.NotrackStale || !diff.Broken() {
		t.Errorf("without the table: missing %t, stale %t, broken %t", diff.NotrackMissing, diff.NotrackStale, diff.Broken())
	}
	script := ""
	for _, line := range lines(diff.String()) {
		command, ok := strings.CutPrefix(line, "+ ")
		if !ok {
			t.Fatalf("not to be added: %s", line)
		}
		script += command + "\n"
	}
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s\n%s", err, out, script)
	}
	wantNoDiff(t, plan)
	if diff := cmp.Diff(ours, exprsOf(t)); diff != "" {
		t.Errorf("by hand it is another table (-levee +by hand):\n%s", diff)
	}
}

// exprsOf are the rules of levee's table as the kernel has them, by chain.
func exprsOf(t *testing.T) map[string][][]expr.Any {
	t.Helper()
	out := map[string][][]expr.Any{}
	must(t, withNFT(func(c *nftables.Conn) error {
		table := &nftables.Table{Family: nftables.TableFamilyINet, Name: exemptTable}
		for _, chain := range exemptChains {
			rules, err := c.GetRules(table, &nftables.Chain{Name: chain.name})
			if err != nil {
				return err
			}
			for _, r := range rules {
				for _, e := range r.Exprs {
					if lookup, ok := e.(*expr.Lookup); ok {
						lookup.SetID = 0 // of the transaction
					}
				}
				out[chain.name] = append(out[chain.name], r.Exprs)
			}
		}
		return nil
	}))
	if len(out["prerouting"]) != 8 || len(out["output"]) != 4 {
		t.Fatalf("%d and %d rules", len(out["prerouting"]), len(out["output"]))
	}
	return out
}

// TestNotrackTampered: whatever somebody does to the table is seen and put right, and only that.
func TestNotrackTampered(t *testing.T) {
	enterGateway(t)
	track(t)
	cfg := config(t)
	openTUN(t, cfg.TUN, false)
	plan := newPlan(t, cfg)
	must(t, plan.Apply())
	whole := take(t)
	for _, command := range []string{
		"delete table inet levee",
		"flush table inet levee",
		"flush chain inet levee output",
		"delete element inet levee interfaces { cli0 }",
		"delete element inet levee servers4 { 192.0.2.0/24 }",
		"add element inet levee servers6 { 2001:db8:77::/48 }",
		`insert rule inet levee prerouting ip saddr 198.51.100.9 drop comment "levee: nonsense"`,
	} {
		nft(t, command)
		live, err := Read(cfg)
		must(t, err)
		if !plan.Diff(live).Broken() {
			t.Errorf("%s: not noticed", command)
		}
		must(t, plan.Apply())
		wantNoDiff(t, plan)
		wantSame(t, whole)
	}
}

func TestNotrackTableTaken(t *testing.T) {
	enterGateway(t)
	track(t)
	nft(t, "add table inet levee; add chain inet levee c; add rule inet levee c counter")
	before := take(t)
	live, err := Read(config(t))
	must(t, err)
	_, err = NewPlan(config(t), live)
	if err == nil || err.Error() != `the nftables table "inet levee" is taken: it has rules that are not levee's: rename it` {
		t.Errorf("got %v", err)
	}
	if _, err := Cleanup(config(t), filepath.Join(t.TempDir(), "sysctls.json")); err != nil {
		t.Error(err)
	}
	wantSame(t, before)
}

// TestNotrackUpdate: a reload that protects more exempts more, one that protects less exempts less.
func TestNotrackUpdate(t *testing.T) {
	enterGateway(t)
	track(t)
	cfg := config(t)
	openTUN(t, cfg.TUN, false)
	plan := newPlan(t, cfg)
	must(t, plan.Apply())
	before := nft(t, "list table inet levee")
	more := cfg
	more.Prefixes = append(prefixes("203.0.113.128/25"), cfg.Prefixes...)
	wider := newPlan(t, more)
	must(t, wider.Update())
	wantNoDiff(t, wider)
	if list := nft(t, "list set inet levee servers4"); !strings.Contains(list, "203.0.113.128/25") {
		t.Errorf("the new prefix is not exempt:\n%s", list)
	}
	must(t, plan.Update())
	wantNoDiff(t, plan)
	if after := nft(t, "list table inet levee"); after != before {
		t.Errorf("the exemption is not as before:\n%s\nwas\n%s", after, before)
	}
}

// TestWatchTracking: it tells when tracking begins, when the table is changed, and not of other tables.
func TestWatchTracking(t *testing.T) {
	enterGateway(t)
	calls := make(chan struct{}, 16)
	ctx, cancel := context.WithCancel(t.Context())
	stop := inNamespaceOf(t, func() error { return WatchTracking(ctx, func() { calls <- struct{}{} }) })
	defer func() {
		cancel()
		must(t, stop())
	}()
	time.Sleep(300 * time.Millisecond) // until it has subscribed
	for _, step := range []struct {
		command string
		told    bool
	}{
		{"add table inet other", false},
		{"add chain inet other c { type filter hook forward priority 0; }; add rule inet other c ct state invalid drop", true},
		{"add table inet levee", true},
		{"add rule inet other c counter", false},
		{"flush ruleset", true},
	} {
		for len(calls) > 0 {
			<-calls
		}
		nft(t, step.command)
		told := false
		select {
		case <-calls:
			told = true
		case <-time.After(map[bool]time.Duration{true: 10 * time.Second, false: time.Second}[step.told]):
		}
		if told != step.told {
			t.Errorf("%s: told is %t", step.command, told)
		}
		time.Sleep(300 * time.Millisecond) // what else it has to say about this
	}
}

// inNamespaceOf runs f on a thread of its own in the namespace of the test's, and returns what waits for it.
func inNamespaceOf(t *testing.T, f func() error) (wait func() error) {
	t.Helper()
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(t, err)
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Setns(fd, unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- errors.Join(err, unix.Close(fd))
	}()
	return func() error { return <-done }
}
