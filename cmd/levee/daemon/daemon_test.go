package daemon

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/cmd/levee/config"
	"levee/proxy"
	"levee/proxy/cookie"
	"levee/routes"
)

func TestChooseMTU(t *testing.T) {
	for _, tt := range []struct {
		name          string
		configured    int
		interfaces    []int
		tun, smallest int
	}{
		{"all the same", 0, []int{1500, 1500}, 1500, 1500},
		{"the TUN follows the largest, the MSS the smallest", 0, []int{9000, 1400, 1500}, 9000, 1400},
		{"none known", 0, nil, 1500, 1500},
		{"configured larger", 9000, []int{1500}, 9000, 1500},
		{"configured smaller", 1400, []int{1500}, 1400, 1400},
		{"configured, none known", 9000, nil, 9000, 1500},
	} {
		if tun, smallest := chooseMTU(tt.configured, tt.interfaces); tun != tt.tun || smallest != tt.smallest {
			t.Errorf("%s: %d, %d; want %d, %d", tt.name, tun, smallest, tt.tun, tt.smallest)
		}
	}
}

// What check lets through must not be refused by the packages that it is for.
func TestAcceptedByThePackages(t *testing.T) {
	for name, text := range map[string]string{
		"least":   "tun: {mtu: 1280, queues: 1, txqueuelen: 256}\nrouting: {manage: false, table: 1, priority: 1}\nflows: {capacity: 1, idle_timeout: 1s, transitory_timeout: 1s}\n",
		"most":    "tun: {mtu: 65535, queues: 16, txqueuelen: 65536}\nrouting: {manage: false, table: 2147483647, priority: 32000}\nflows: {capacity: 1000, idle_timeout: 168h, transitory_timeout: 168h}\n",
		"default": "routing: {manage: false}\nflows: {capacity: 1000}\n",
	} {
		path := filepath.Join(t.TempDir(), "levee.yaml")
		text += `services:
  - {name: web, prefixes: [192.0.2.0/24, "2001:db8::/32"], ports: [1-65535], options: {mss: 88, wscale: none, sack: false}}
  - {name: all, prefixes: [198.51.100.1/32], mode: off, options: {mss: 65495, wscale: 14, timestamps: true, ecn: true}}
`
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(path)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		layout, err := NewLayout(cfg)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := layout.TUN.Validate(); err != nil {
			t.Errorf("%s: tunnel: %v", name, err)
		}
		if _, err := proxy.New(proxyConfig(cfg, layout, cookie.Secret{1}), time.Unix(1e9, 0)); err != nil {
			t.Errorf("%s: proxy: %v", name, err)
		}
	}
}

func TestMTUsOf(t *testing.T) {
	mtus, _, err := mtusOf([]string{"lo"})
	if err != nil || len(mtus) != 1 || mtus[0] != proxy.MaxMTU {
		t.Errorf("lo: %v, %v; want it bounded to %d", mtus, err, proxy.MaxMTU)
	}
	if _, _, err := mtusOf([]string{"no-such-link"}); err == nil || !strings.Contains(err.Error(), "no-such-link") {
		t.Errorf("got %v, want an error that names the interface", err)
	}
}

// TestUndoStays: what lasts is left for the next process.
func TestUndoStays(t *testing.T) {
	for stay, want := range map[bool][]string{false: {"rules", "TUN", "socket"}, true: {"leave TUN", "socket"}} {
		var order []string
		note := func(what string) func() error {
			return func() error {
				order = append(order, what)
				return nil
			}
		}
		var u undo
		u.add("socket", note("socket"))
		u.addLasting("TUN", note("TUN"), note("leave TUN"))
		u.addLasting("rules", note("rules"), nil)
		if u.run(slog.New(slog.DiscardHandler), stay) || !slices.Equal(order, want) {
			t.Errorf("stay %t: %v, want %v", stay, order, want)
		}
	}
}

func TestUndo(t *testing.T) {
	var order []string
	var u undo
	for _, what := range []string{"first", "second", "third"} {
		u.add(what, func() error {
			order = append(order, what)
			if what == "second" {
				return errors.New("stuck")
			}
			return nil
		})
	}
	var log strings.Builder
	if failed := u.run(slog.New(slog.NewTextHandler(&log, nil)), false); !failed {
		t.Error("the failure is lost")
	}
	if want := []string{"third", "second", "first"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	if !strings.Contains(log.String(), "what=second error=stuck") {
		t.Errorf("log: %s", &log)
	}
	if u.run(slog.New(slog.DiscardHandler), false) || len(order) != 3 {
		t.Error("a second run does something")
	}
}

func TestClaimFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run", "levee")
	if _, err := claimFolder(dir, false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder, and not to be made: %v", err)
	}
	first, err := claimFolder(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v, %v; want mode 0700", fi.Mode(), err)
	}
	var held *heldError
	if _, err := claimFolder(dir, true); !errors.As(err, &held) || held.pid != os.Getpid() {
		t.Errorf("second claim: %v, want one that names process %d", err, os.Getpid())
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := claimFolder(dir, true)
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	_ = again.Close()
}

// The lock of a process that was killed is free.
func TestClaimAfterKill(t *testing.T) {
	if dir := os.Getenv("LEVEE_TEST_CLAIM"); dir != "" {
		if _, err := claimFolder(dir, true); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("claimed\n")
		select {}
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestClaimAfterKill$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), "LEVEE_TEST_CLAIM="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if n, err := out.Read(make([]byte, 8)); err != nil || n != 8 {
		t.Fatalf("the other process claims nothing: %d bytes, %v", n, err)
	}
	var held *heldError
	if _, err := claimFolder(dir, true); !errors.As(err, &held) || held.pid != cmd.Process.Pid {
		t.Errorf("got %v, want one that names process %d", err, cmd.Process.Pid)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	c, err := claimFolder(dir, true)
	if err != nil {
		t.Fatalf("after SIGKILL: %v", err)
	}
	_ = c.Close()
}

func TestClaimRefusesLinks(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(target, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, filepath.Join(dir, "lock")); err != nil {
		t.Fatal(err)
	}
	if _, err := claimFolder(dir, true); err == nil || !strings.HasPrefix(err.Error(), "lock state_dir: "+dir+"/lock: ") {
		t.Errorf("got %v", err)
	}
	if data, _ := os.ReadFile(target); string(data) != "precious" {
		t.Error("the lock was written through a link")
	}
}

// Every setting reaches the package that it is for.
func TestSettingsArrive(t *testing.T) {
	service := func(name string, prefixes ...string) proxy.Service {
		s := proxy.Service{Name: name, Mode: proxy.ModeAlways}
		for _, p := range prefixes {
			s.Prefixes = append(s.Prefixes, netip.MustParsePrefix(p))
		}
		return s
	}
	cfg := config.Config{
		TUN:      config.TUN{Name: "tun7"},
		Routing:  config.Routing{Table: 8, Priority: 9, ClientInterfaces: []string{"c"}, ServerInterfaces: []string{"s"}},
		Flows:    config.Flows{Capacity: 11, IdleTimeout: 12 * time.Hour, TransitoryTimeout: 13 * time.Minute, EarlyDataMemory: 15, Grace: 16 * time.Second},
		Replies:  proxy.Replies{PerNetwork: 17, Neighbours: 18},
		StateDir: "/state", SecretShared: true,
		Services: []proxy.Service{service("a", "192.0.2.0/25"), service("b", "192.0.2.128/25", "2001:db8::/64")},
	}
	cfg.Services[1].Ports = []proxy.PortRange{{First: 80, Last: 81}}
	off := service("c", "2001:db8::/64")
	off.Mode = proxy.ModeOff
	cfg.Services = append(cfg.Services, off)
	got := proxyConfig(cfg, &Layout{MTU: 1400, sources: sources{prefixes("10.0.0.0/8"), prefixes("10.255.255.255/32")}}, cookie.Secret{14})
	if got.Memory == nil {
		t.Error("the flow table lies in Go's heap")
	}
	got.Memory = nil
	if want := (proxy.Config{
		Services: cfg.Services, Capacity: 11, IdleTimeout: 12 * time.Hour, TransitoryTimeout: 13 * time.Minute, EarlyPool: 15,
		MTU: 1400, Secret: cookie.Secret{14}, SharedSecret: true, Grace: 16 * time.Second, Replies: cfg.Replies,
		Neighbours: prefixes("10.0.0.0/8"), NoSources: prefixes("10.255.255.255/32"),
	}); !reflect.DeepEqual(got, want) {
		t.Errorf("proxy: %+v, want %+v", got, want)
	}
	if got, want := routesConfig(cfg), (routes.Config{
		TUN: "tun7", Table: 8, Priority: 9, ClientInterfaces: []string{"c"}, ServerInterfaces: []string{"s"}, StateFile: "/state/sysctls.json",
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25"), netip.MustParsePrefix("192.0.2.128/25"), netip.MustParsePrefix("2001:db8::/64")},
		Ports: map[netip.Prefix][][2]uint16{
			netip.MustParsePrefix("192.0.2.0/25"): {{1, 65535}}, netip.MustParsePrefix("192.0.2.128/25"): {{80, 81}}, netip.MustParsePrefix("2001:db8::/64"): {{80, 81}},
		},
	}); !reflect.DeepEqual(got, want) {
		t.Errorf("routes: %+v, want %+v", got, want)
	}
}
