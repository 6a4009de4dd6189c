package routes

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
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
	sendOne(t)
}

// sendOne sends a packet over lo, for the kernel to track if it does.
func sendOne(t *testing.T) {
	t.Helper()
	c, err := net.Dial("udp", "127.0.0.1:9")
	must(t, err)
	_, err = c.Write([]byte("x"))
	must(t, err)
	must(t, c.Close())
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
		sendOne(t)
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
