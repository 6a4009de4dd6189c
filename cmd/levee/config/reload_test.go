package config

import (
	"slices"
	"strings"
	"testing"
)

// Every key is either fixed, and its change refused by name, or changed by a reload, which says so.
func TestReloadable(t *testing.T) {
	others := map[string]string{
		"tun.name": "tun9", "tun.mtu": "1400", "tun.queues": "3", "tun.txqueuelen": "5000", "tun.steering": "off",
		"routing.manage": "false", "routing.table": "77", "routing.priority": "77", "routing.client_interfaces": "eth7", "routing.server_interfaces": "eth8", "routing.on_failure": "bypass", "routing.notrack": "on",
		"flows.capacity": "77", "flows.idle_timeout": "3h", "flows.transitory_timeout": "5m", "flows.early_data_memory": "1MiB",
		"learn.probe": "false", "learn.rate": "7", "learn.closed_for": "7s", "learn.capacity": "77",
		"state_dir": "/run/other", "secret_file": "/run/other.key", "secret_shared": "true", "metrics.listen": "127.0.0.1:77",
		"log.level": "debug", "log.format": "json", "defaults.mode": "off", "defaults.early_data": "0", "defaults.server_ack": "immediate",
		"flows.grace": "7s", "replies.per_network": "7000", "replies.neighbours": "70", "defaults.unknown": "reset",
		"defaults.engage.half_open": "77", "defaults.engage.syn_rate": "77", "defaults.engage.hold": "7s",
	}
	reloaded := []string{"flows.idle_timeout", "flows.transitory_timeout", "flows.grace", "replies.per_network", "replies.neighbours",
		"log.level", "defaults.mode", "defaults.early_data", "defaults.server_ack", "defaults.unknown",
		"defaults.engage.half_open", "defaults.engage.syn_rate", "defaults.engage.hold"}
	path := write(t, "services: [{name: web, prefixes: [192.0.2.0/24]}]\n")
	was, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range defaults {
		t.Run(d.key, func(t *testing.T) {
			other, ok := others[d.key]
			if !ok {
				t.Fatal("decide whether a reload changes this key, and give another value for it here")
			}
			t.Setenv(envName(d.key), other)
			next, err := Load(path)
			if err != nil {
				t.Fatal(err)
			}
			refused, changes := was.Reloadable(&next, path), was.Changes(&next)
			if slices.Contains(reloaded, d.key) {
				if refused != nil || len(changes) != 1 {
					t.Errorf("got %v, %q; want it to change", refused, changes)
				}
			} else if refused == nil || !strings.Contains(refused.Error(), envName(d.key)+": "+d.key+": ") || len(changes) != 0 {
				t.Errorf("got %v, %q; want it refused by name", refused, changes)
			}
		})
	}
}

// A reload that changes several keys that it can't is refused with all their names and what they were.
func TestReloadableNamesAll(t *testing.T) {
	load := func(text string) (Config, string) {
		path := write(t, text+"services: [{name: web, prefixes: [192.0.2.0/24]}]\n")
		cfg, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		return cfg, path
	}
	was, _ := load("routing: {client_interfaces: [eth0, eth1], on_failure: bypass}\n")
	next, path := load("tun: {name: tun7, mtu: 1400, steering: off}\nflows: {capacity: 77}\nmetrics: {listen: none}\nlog: {format: json}\nlearn: {closed_for: 7s}\n")
	want := path + ": tun.name: it can't change while levee runs: restart levee, or write what it was, tun0; also tun.mtu, which was auto; also tun.steering, which was auto; " +
		"also routing.client_interfaces, which was [eth0, eth1]; also routing.on_failure, which was bypass; also flows.capacity, which was 1048576; " +
		"also learn.closed_for, which was 10s; also metrics.listen, which was 127.0.0.1:9742; also log.format, which was text"
	if err := was.Reloadable(&next, path); err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}

func TestChanges(t *testing.T) {
	load := func(services string) Config {
		t.Helper()
		c, err := Load(write(t, "services:\n"+services))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	was := load("  - {name: a, prefixes: [192.0.2.1/32]}\n  - {name: b, prefixes: [192.0.2.2/32]}\n  - {name: c, prefixes: [192.0.2.3/32]}\n")
	next := load("  - {name: d, prefixes: [192.0.2.4/32], mode: off}\n  - {name: b, prefixes: [192.0.2.2/32], mode: off}\n  - {name: c, prefixes: [192.0.2.3/32], ports: [80]}\n")
	want := []string{"service d is new, mode off", "service b has mode off, had auto", "service c has changed", "service a is removed"}
	if got := was.Changes(&next); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if got := was.Changes(&was); got != nil {
		t.Errorf("nothing has changed, but %q", got)
	}
}
