package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"levee/cmd/levee/control"
)

var morning = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestStatusText(t *testing.T) {
	const most = 1<<64 - 1
	for _, tt := range []struct {
		name   string
		status control.Status
		want   string
	}{
		{"quiet", control.Status{
			Version: "v1.2.3", UptimeSeconds: 7384, Ready: true,
			Configuration: control.Configuration{LastReloadSuccessful: true},
			Flows:         control.Flows{Open: 12, Opening: 3, Closing: 2, Remembered: 40, Capacity: 1048576},
			EarlyData:     control.EarlyData{Used: 512, Size: 64 << 20},
			Services:      []control.Service{{Name: "web", Mode: "always", SynReceived: 1200, CookieValid: 1190, CookieInvalid: 4, EarlyHeld: 1100, Allowed: 7, Denied: 5, Flows: 17}, {Name: "ssh", Mode: "off"}},
			Drops:         map[string]uint64{"cookie_invalid": 4, "land": 0},
			Passed:        map[string]uint64{"mode_off": 0},
			TUN: control.TUN{Name: "tun0", Queues: 4, Offload: "csum,tso4,tso6,ecn", Steering: "ebpf", OnFailure: "block",
				Rings: []control.Ring{{Takes: "first_syns", Chosen: 100, Dropped: 12, Exact: true}, {Takes: "repeated_syns", Dropped: 4}, {Takes: "flows", Dropped: 1}, {Takes: "flows", Dropped: 2}}},
		}, `
levee v1.2.3, ready, up 2h3m4s
tun    tun0, 4 queues, offload csum,tso4,tso6,ecn
       on failure block: without levee, or its TUN, the kernel drops all TCP and
       ICMP of the prefixes, whatever the port
       steering ebpf; lost to full queues: 12 first SYNs, 4 repeated, 3 others
flows  12 open, 3 opening, 2 closing, 40 remembered
       of 1048576 at most
early  1 of 65536 KiB in use
       1100 segments were held, 0 found no room

SERVICE              MODE              SYN  COOKIE GOOD   COOKIE BAD       FLOWS
web                  always           1200         1190            4          17
ssh                  off                 0            0            0           0
web                  allowed 7, denied 5, verified 0

drops  cookie_invalid 4
passed none
`},
		{"floods", control.Status{
			Version: "v1.2.3", UptimeSeconds: 60, Ready: true, Configuration: control.Configuration{LastReloadSuccessful: true},
			Services: []control.Service{
				{Name: "web", Mode: "auto", SynReceived: 70, SynPassed: 5000, FloodSeconds: 12, Rates: control.Rates{Syn: 50000, CookieValid: 70, Opened: 70},
					Engagement: &control.Engagement{Engaged: true, Destinations: 1, HalfOpen: 128, SynRate: 1000, HalfOpenNow: 12, SynRateNow: 50123}},
				{Name: "mail", Mode: "monitor", SynPassed: 1 << 40, FloodSeconds: 7201, Rates: control.Rates{Syn: 1e7},
					Engagement: &control.Engagement{Engaged: true, Spread: true, HalfOpen: 65536, SynRate: 10_000_000, WouldAnswer: 1 << 39, WouldDrop: 1 << 38}},
			},
			Floods: []control.Flood{
				{ID: 1, Service: "web", Start: morning, End: &morning},
				{ID: 2, Service: "web", Start: morning, End: &morning, Seconds: 61, Top: "192.0.2.10:80", TopSynRate: 900, PeakSynRate: 1000, Destinations: 1},
				{ID: 3, Service: "web", Start: morning, End: &morning, Seconds: 62, PeakSynRate: 1001, Spread: true},
				{ID: 4, Service: "mail", Start: morning, End: &morning, Seconds: 63, PeakSynRate: 1002, Top: "[2001:db8:1:2:3:4:5:10]:65535", TopSynRate: 10_000_000, Destinations: 4096, Monitored: true},
				{ID: 5, Service: "web", Start: morning, Seconds: 12, PeakSynRate: 50_123, Top: "192.0.2.10:80", TopSynRate: 50_123, Destinations: 1},
				{ID: 6, Service: "mail", Start: morning, Seconds: 7201, PeakSynRate: 10_000_001, Spread: true, Monitored: true},
			},
			TUN: control.TUN{Name: "tun0", Queues: 4, Offload: "csum", Steering: "ebpf"},
		}, `
levee v1.2.3, ready, up 1m0s
FLOOD      web, since 2026-01-02 03:04:05 (12s): 50000 SYNs a second, 70 clients
           a second return their cookie, 70 are connected, 0 fail at the server
peak       50123 SYNs a second at most, 50123 to 192.0.2.10:80
FLOOD      mail, since 2026-01-02 03:04:05 (2h0m): 10000000 SYNs a second, which
           all go to the servers
peak       10000001 SYNs a second at most; spread over the whole service;
           nothing is done about it, mode monitor
past flood web, 2026-01-02 03:04:05, for 1m1s: 1000 SYNs a second at most, 900
           to 192.0.2.10:80
past flood web, 2026-01-02 03:04:05, for 1m2s: 1001 SYNs a second at most;
           spread over the whole service
past flood mail, 2026-01-02 03:04:05, for 1m3s: 1002 SYNs a second at most,
           10000000 to [2001:db8:1:2:3:4:5:10]:65535; 4096 destinations; nothing
           is done about it, mode monitor
tun    tun0, 4 queues, offload csum
       steering ebpf
       lost to full queues: 0 packets
flows  0 open, 0 opening, 0 closing, 0 remembered
       of 0 at most

SERVICE              MODE              SYN  COOKIE GOOD   COOKIE BAD       FLOWS
web                  auto               70            0            0           0
mail                 monitor             0            0            0           0
auto       web: 5000 SYNs passed, half_open 12 (128 engages), syn_rate 50123
           (1000 engages)
monitor    mail: 1099511M SYNs passed, half_open 0 (65536 engages), syn_rate 0
           (10000000 engages); mode auto would have answered 549755813888 SYNs,
           dropped 274877906944 packets

drops  none
passed none
`},
		{"everything large", control.Status{
			Version: "v10.20.30-rc1", UptimeSeconds: 31536000,
			Drain: &control.Drain{State: control.Draining, Seconds: 7384, TimeoutSeconds: 86400, Connections: 67108864},
			Configuration: control.Configuration{LoadedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
				LastError: "/etc/levee/levee.yaml: services[0].ports: \"http\": use numbers, 1 to 65535, or ranges"},
			Flows:     control.Flows{Open: 67108864, Opening: 6710886, Closing: 671088, Remembered: 67108, Capacity: 67108864, Evicted: 1 << 62},
			EarlyData: control.EarlyData{Used: 1 << 30, Size: 1 << 30},
			Services: []control.Service{{Name: strings.Repeat("a-long-name-", 5), Mode: "always",
				SynReceived: most, CookieValid: most / 1000, CookieInvalid: 99999999999, EarlyHeld: most - 1, Flows: 67108864,
				FloodSeconds: 754, Rates: control.Rates{Syn: 1234567.8, CookieValid: 120.4, Opened: 118.2, Failed: 2.2}}, {EarlyHeld: 1}},
			Drops: map[string]uint64{"truncated": most, "bad_ip": most, "bad_tcp": most, "bad_options": 12345678901, "bad_flags": 123456789,
				"bad_checksum": 1, "land": 2, "fragment": 3, "cookie_invalid": most, "no_flow": 10, "replay": 11, "opening": 12, "early_full": 12, "table_full": 13, "bad_ack": 14},
			Passed: map[string]uint64{"no_service": 5},
			TUN: control.TUN{Name: "a23456789012345", Queues: 1, Offload: "none", RxDrops: 5, TxDrops: most,
				Steering: "none: load a BPF program: operation not permitted, which is a long story to tell here"},
		}, `
levee v10.20.30-rc1, not ready, up 8760h0m0s
draining for 2h3m4s: 67108864 connections open, 21h56m56s left; new ones go to
the servers themselves
config of 2026-01-02 03:04:05; the latest reload failed:
       /etc/levee/levee.yaml: services[0].ports: "http": use numbers, 1 to
       65535, or ranges
FLOOD      a-long-name-a-long-name-a-long-name-a-long-name-a-long-name-, for
           12m34s: 1234568 SYNs a second, 120 clients a second return their
           cookie, 118 are connected, 2 fail at the server
tun    a23456789012345, 1 queue, offload none
       steering none: load a BPF program: operation not permitted, which is a
       long story to tell here
       lost to full queues: 18446744073709551615 packets
flows  67108864 open, 6710886 opening, 671088 closing, 67108 remembered
       of 67108864 at most; 4611686018427387904 forgotten before their time
early  1048576 of 1048576 KiB in use
       18446744073709551615 segments were held, 12 found no room

SERVICE              MODE              SYN  COOKIE GOOD   COOKIE BAD       FLOWS
a-long-name-a-long-name-a-long-name-a-long-name-a-long-name-
                     always      18446744T 18446744073M  99999999999    67108864
                                         0            0            0           0

drops  bad_ip 18446744073709551615, bad_tcp 18446744073709551615,
       cookie_invalid 18446744073709551615, truncated 18446744073709551615,
       bad_options 12345678901, bad_flags 123456789, bad_ack 14, table_full 13,
       early_full 12, opening 12, replay 11, no_flow 10, fragment 3, land 2,
       bad_checksum 1
passed no_service 5
tun drops 18446744073709551615 for levee, 5 from levee
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b strings.Builder
			if err := writeStatus(&b, tt.status); err != nil {
				t.Fatal(err)
			}
			if got, want := b.String(), strings.TrimPrefix(tt.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			for line := range strings.Lines(b.String()) {
				if n := len(strings.TrimSuffix(line, "\n")); n > columns {
					t.Errorf("%d columns: %s", n, line)
				}
			}
		})
	}
}

// TestStatusOfManyServices fits a screen, in whose first lines is what is flooded.
func TestStatusOfManyServices(t *testing.T) {
	s := control.Status{Version: "v1.2.3", Ready: true, Configuration: control.Configuration{LastReloadSuccessful: true}}
	for i := range 30 {
		s.Services = append(s.Services, control.Service{Name: fmt.Sprintf("customer-portal-%02d-production-web", i), Mode: "auto", SynPassed: uint64(i),
			Engagement: &control.Engagement{HalfOpen: 128, SynRate: 1000}})
	}
	s.Services[3].Engagement.HalfOpenNow = 60
	s.Services[7].FloodSeconds, s.Services[7].Engagement.SynRateNow = 12, 50000
	s.Floods = []control.Flood{{ID: 5, Service: s.Services[7].Name, Start: morning, Seconds: 12, PeakSynRate: 50_123}}
	var b strings.Builder
	if err := writeStatus(&b, s); err != nil {
		t.Fatal(err)
	}
	const want = "levee v1.2.3, ready, up 0s\nFLOOD      customer-portal-07-production-web, since 2026-01-02 03:04:05 (12s): 0\n"
	text := b.String()
	if lines := strings.Count(text, "\n"); lines > 48 || !strings.HasPrefix(text, want) || !strings.Contains(text, "\nand 24 quieter services: levee top, levee status -o json\n") {
		t.Errorf("%d lines:\n%s", lines, text)
	}
	for i := range s.Services {
		if shown := strings.Contains(text, "\n"+s.Services[i].Name+"\n"); shown != (i == 3 || i == 7 || i > 25) {
			t.Errorf("%s is shown: %v", s.Services[i].Name, shown)
		}
	}
	maxColumns(t, text)
}

// flowsOf is a daemon's answer.
func flowsOf(flows ...control.Flow) lister {
	return func(f control.Filter, yield func(control.Flow) error) error {
		for i, flow := range flows {
			if f.Limit > 0 && i == f.Limit {
				break
			}
			if err := yield(flow); err != nil {
				return err
			}
		}
		return nil
	}
}

var sampleFlows = []control.Flow{
	{Client: netip.MustParseAddrPort("198.51.100.10:40000"), Server: netip.MustParseAddrPort("192.0.2.10:80"), Service: "web", State: "open",
		AgeSeconds: 75.5, IdleSeconds: 0.25, Delta: 7, TSDelta: 8, ClientBytes: 100, ServerBytes: 1 << 40},
	{Client: netip.MustParseAddrPort("[2001:db8:2::10]:1"), Server: netip.MustParseAddrPort("[2001:db8:1::10]:443"), Service: "web", State: "client_closed",
		AgeSeconds: 200000, IdleSeconds: 7300},
}

func TestFlowsText(t *testing.T) {
	const header = "CLIENT               SERVER\n    SERVICE  STATE          AGE    IDLE  SENT  RECEIVED\n"
	const first = "198.51.100.10:40000  192.0.2.10:80\n    web      open           1m15s  0.2s  100   1.0T\n"
	const second = "[2001:db8:2::10]:1   [2001:db8:1::10]:443\n    web      client_closed  2d7h   2h1m  0     0\n"
	for _, tt := range []struct {
		limit int
		want  string
		more  bool
	}{{0, header + first + second, false}, {2, header + first + second, false}} {
		var b strings.Builder
		more, err := writeFlows(&b, control.Filter{Limit: tt.limit}, flowsOf(sampleFlows...))
		if err != nil || b.String() != tt.want || more != tt.more {
			t.Errorf("limit %d: %v, more %v\n%s\nwant\n%s", tt.limit, err, more, b.String(), tt.want)
		}
	}
	var b strings.Builder
	more, err := writeFlows(&b, control.Filter{Limit: 1}, flowsOf(sampleFlows...))
	const fits = "CLIENT               SERVER         SERVICE  STATE  AGE    IDLE  SENT  RECEIVED\n" +
		"198.51.100.10:40000  192.0.2.10:80  web      open   1m15s  0.2s  100   1.0T\n"
	if err != nil || !more || b.String() != fits {
		t.Errorf("limit 1: %v, more %v\n%s\nwant\n%s", err, more, b.String(), fits)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 1023: "1023", 1024: "1.0K", 10188: "9.9K", 10189: "10K", 1023487: "999K", 1023488: "1.0M", 1 << 30: "1.0G", 1<<64 - 1: "16E"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %s, want %s", n, got, want)
		}
	}
}

// allOf is flowsOf without a filter.
func allOf(flows ...control.Flow) func(yield func(control.Flow) error) error {
	return func(yield func(control.Flow) error) error { return flowsOf(flows...)(control.Filter{}, yield) }
}

func TestFlowsJSON(t *testing.T) {
	const first = `{"client":"198.51.100.10:40000","server":"192.0.2.10:80","service":"web","state":"open","age_seconds":75.5,"idle_seconds":0.25,"delta":7,"ts_delta":8,"client_bytes":100,"server_bytes":1099511627776}`
	const second = `{"client":"[2001:db8:2::10]:1","server":"[2001:db8:1::10]:443","service":"web","state":"client_closed","age_seconds":200000,"idle_seconds":7300,"delta":0,"ts_delta":0,"client_bytes":0,"server_bytes":0}`
	for _, tt := range []struct {
		name  string
		flows []control.Flow
		want  string
	}{
		{"none", nil, `{"schema":1,"flows":[]}` + "\n"},
		{"one", sampleFlows[:1], `{"schema":1,"flows":[` + "\n" + first + "\n]}\n"},
		{"two", sampleFlows, `{"schema":1,"flows":[` + "\n" + first + ",\n" + second + "\n]}\n"},
	} {
		var b strings.Builder
		if err := writeArray(&b, "flows", allOf(tt.flows...)); err != nil || b.String() != tt.want {
			t.Errorf("%s: %v\n%s\nwant\n%s", tt.name, err, b.String(), tt.want)
		}
	}
}

// A daemon that dies on the way leaves no array that looks whole.
func TestFlowsJSONBroken(t *testing.T) {
	died := errors.New("died")
	var b strings.Builder
	err := writeArray(&b, "flows", func(yield func(control.Flow) error) error {
		_ = yield(sampleFlows[0])
		return died
	})
	if !errors.Is(err, died) || json.Valid([]byte(b.String())) {
		t.Errorf("%v: %q", err, b.String())
	}
}

func TestAge(t *testing.T) {
	for seconds, want := range map[float64]string{0: "0.0s", 9.96: "10.0s", 59.9: "59s", 60: "1m0s", 3599: "59m59s", 3600: "1h0m", 86399: "23h59m", 86400: "1d0h", 90000: "1d1h"} {
		if got := age(seconds); got != want {
			t.Errorf("age(%v) = %s, want %s", seconds, got, want)
		}
	}
}
