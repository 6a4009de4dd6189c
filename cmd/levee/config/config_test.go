package config

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"levee/proxy"
	"levee/proxy/flood"
	"levee/proxy/servers"
)

// minimal is the shortest good configuration.
const minimal = `services: [{name: web, prefixes: [192.0.2.0/24]}]`

// write puts text into a file of its own and returns its path.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "levee.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, text string) Config {
	t.Helper()
	cfg, err := Load(write(t, text))
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return cfg
}

var compare = cmp.Options{cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmpopts.EquateEmpty()}

// standard is what minimal means.
func standard() Config {
	return Config{
		TUN:        TUN{Name: "tun0", TxQueueLen: 4096, Steering: true},
		Routing:    Routing{Manage: true, Table: 7332, Priority: 7300},
		Flows:      Flows{Capacity: proxy.DefaultCapacity, IdleTimeout: proxy.DefaultIdleTimeout, TransitoryTimeout: proxy.DefaultTransitoryTimeout, EarlyDataMemory: proxy.DefaultEarlyPool, Grace: proxy.DefaultGrace},
		Replies:    proxy.Replies{PerNetwork: proxy.DefaultPerNetwork, Neighbours: proxy.DefaultNeighbours},
		Learn:      Learn{Probe: true, Rate: 20, ClosedFor: 10 * time.Second, Capacity: servers.DefaultCapacity},
		StateDir:   "/run/levee",
		SecretFile: "/var/lib/levee/cookie.key",
		Metrics:    netip.MustParseAddrPort("127.0.0.1:9742"),
		Log:        Log{Level: slog.LevelInfo},
		Services: []proxy.Service{{
			Name:     "web",
			Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
			Mode:     proxy.ModeAuto,
			Options:  proxy.Options{WScale: proxy.DefaultWScale, SACK: true, Learn: servers.All},

			Engage:      flood.Limits{Hold: flood.DefaultHold},
			BypassRate:  proxy.DefaultBypassRate,
			EarlyData:   proxy.DefaultEarlyData,
			ServerAck:   proxy.AckUnmeasured,
			ClosedPorts: proxy.ClosedReset,
			Verified:    proxy.Verified{TTL: proxy.DefaultVerifiedTTL},
		}},
	}
}

func TestDefaults(t *testing.T) {
	if diff := cmp.Diff(standard(), load(t, minimal), compare); diff != "" {
		t.Errorf("the minimal file (-want +got):\n%s", diff)
	}
}

func TestEveryKey(t *testing.T) {
	got := load(t, `
tun: {name: levee0, mtu: 9000, queues: 3, txqueuelen: 8192, steering: off}
routing: {manage: false, table: 100, priority: 500, on_failure: bypass, client_interfaces: [eth0, eth1.5], server_interfaces: eth2}
flows: {capacity: 1000, idle_timeout: 90s, transitory_timeout: 1m, early_data_memory: 1GiB, grace: 0s}
replies: {per_network: 5, neighbours: 6}
learn: {probe: false, rate: 7, closed_for: 1m, capacity: 100}
state_dir: /tmp/levee/
secret_file: "/etc/levee/key"
secret_shared: true
metrics: {listen: "[2001:db8::1]:80"}
log: {level: debug, format: json}
defaults: {mode: off, engage: {half_open: 100, hold: 30s}, early_data: 4KiB, server_ack: immediate, unknown: reset}
services:
  - name: web-1
    prefixes: [192.0.2.0/25, 2001:db8:1::/64]
    ports: [80, "443", 8000-8100]
    mode: monitor
    engage: {half_open: auto, syn_rate: 5000}
    options: {mss: 1400, wscale: 14, sack: false, timestamps: true, ecn: true}
    bypass_rate: 7
    early_data: 0
    server_ack: unmeasured
    closed_ports: drop
    unknown: pass
    allow: [203.0.113.0/24, 203.0.113.7, 203.0.113.0/24]
    deny: ['::/0', 0.0.0.0/0]
    verified: {ttl: 1h, rate: 3}
    per_source: {flows: 100, rate: 20}
  - {name: rest, prefixes: 192.0.2.0/25, ports: [81-442], options: {wscale: none}, closed_ports: accept}
`)
	want := Config{
		TUN: TUN{Name: "levee0", MTU: 9000, Queues: 3, TxQueueLen: 8192},
		Routing: Routing{Table: 100, Priority: 500, Bypass: true,
			ClientInterfaces: []string{"eth0", "eth1.5"}, ServerInterfaces: []string{"eth2"}},
		Flows:      Flows{Capacity: 1000, IdleTimeout: 90 * time.Second, TransitoryTimeout: time.Minute, EarlyDataMemory: 1 << 30},
		Replies:    proxy.Replies{PerNetwork: 5, Neighbours: 6},
		Learn:      Learn{Rate: 7, ClosedFor: time.Minute, Capacity: 100},
		StateDir:   "/tmp/levee",
		SecretFile: "/etc/levee/key", SecretShared: true,
		Metrics: netip.MustParseAddrPort("[2001:db8::1]:80"),
		Log:     Log{Level: slog.LevelDebug, JSON: true},
		Services: []proxy.Service{
			{
				Name:     "web-1",
				Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25"), netip.MustParsePrefix("2001:db8:1::/64")},
				Ports:    []proxy.PortRange{{First: 80, Last: 80}, {First: 443, Last: 443}, {First: 8000, Last: 8100}},
				Mode:     proxy.ModeMonitor,
				Engage:   flood.Limits{SYNRate: 5000, Hold: 30 * time.Second},
				Options:  proxy.Options{MSS: 1400, WScale: 14, Timestamps: true, ECN: true},

				BypassRate:  7,
				ServerAck:   proxy.AckUnmeasured,
				ClosedPorts: proxy.ClosedDrop,

				Unknown:   proxy.UnknownPass,
				Allow:     []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("203.0.113.7/32")},
				Deny:      []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
				Verified:  proxy.Verified{TTL: time.Hour, Rate: 3},
				PerSource: proxy.PerSource{Flows: 100, Rate: 20},
			},
			{
				Name:     "rest",
				Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25")},
				Ports:    []proxy.PortRange{{First: 81, Last: 442}},
				Mode:     proxy.ModeOff,
				Engage:   flood.Limits{HalfOpen: 100, Hold: 30 * time.Second},
				Options:  proxy.Options{WScale: proxy.WScaleNone, SACK: true, Learn: servers.All &^ servers.WScale},

				BypassRate: proxy.DefaultBypassRate,
				EarlyData:  4096,
				Unknown:    proxy.UnknownReset,
				Verified:   proxy.Verified{TTL: proxy.DefaultVerifiedTTL},
			},
		},
	}
	if diff := cmp.Diff(want, got, compare); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := got.Prefixes(); len(got) != 2 {
		t.Errorf("Prefixes() = %v: want each prefix once", got)
	}
}

// YAML 1.1 reads off, no and false as the same; a mode must stay the word that was written.
func TestModeOff(t *testing.T) {
	for _, written := range []string{"off", `"off"`, "'off'"} {
		cfg := load(t, `services: [{name: web, prefixes: [192.0.2.0/24], mode: `+written+`}]`)
		if cfg.Services[0].Mode != proxy.ModeOff {
			t.Errorf("mode: %s is %v", written, cfg.Services[0].Mode)
		}
	}
}

func TestEmptySectionsAreDefaults(t *testing.T) {
	got := load(t, "tun:\nrouting: {}\nlog:\n  level:\n"+minimal)
	if diff := cmp.Diff(standard(), got, compare); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNoMetrics(t *testing.T) {
	for _, written := range []string{`""`, "none"} {
		if cfg := load(t, "metrics: {listen: "+written+"}\n"+minimal); cfg.Metrics.IsValid() {
			t.Errorf("listen: %s is %v", written, cfg.Metrics)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("LEVEE_LOG_LEVEL", "debug")
	t.Setenv("LEVEE_TUN_QUEUES", "2")
	t.Setenv("LEVEE_ROUTING_MANAGE", "false")
	t.Setenv("LEVEE_ROUTING_CLIENT_INTERFACES", "eth7")
	t.Setenv("LEVEE_STATE_DIR", "/tmp/other")
	t.Setenv("LEVEE_METRICS_LISTEN", "") // empty is not set
	t.Setenv("LEVEE_LOG", "nothing of ours")
	want := standard()
	want.Log.Level = slog.LevelDebug
	want.TUN.Queues = 2
	want.TUN.Name = "levee0"
	want.Routing.Manage = false
	want.Routing.ClientInterfaces = []string{"eth7"}
	want.StateDir = "/tmp/other"
	got := load(t, "tun: {name: levee0, queues: 5}\nlog: {level: error}\n"+minimal)
	if diff := cmp.Diff(want, got, compare); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Every scalar key outside of services can be overridden: a bad value in its variable is
// refused, and the message names the variable.
func TestEnvironmentReachesEveryKey(t *testing.T) {
	path := write(t, minimal)
	for _, d := range defaults {
		t.Run(d.key, func(t *testing.T) {
			t.Setenv(envName(d.key), "no/such value")
			_, err := Load(path)
			want := "environment " + envName(d.key) + ": " + d.key
			if err == nil || len(err.Error()) < len(want) || err.Error()[:len(want)] != want {
				t.Errorf("got %v, want it to begin with %q", err, want)
			}
		})
	}
}
