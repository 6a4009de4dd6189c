package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"levee/integration/lab"
)

// What the phases have in common.
const (
	// Connections each second, and the time each has: enough for several SYNs in case some get lost.
	loadRate    = 50
	loadTimeout = 5 * time.Second
	// pageSize is the bytes of the page that is fetched.
	pageSize = 1000
	// backlog of the server: half-open connections beyond it are dropped. Many appliances have less.
	backlog = 128
	webPort = 80
	// floodRate is SYNs each second, both families together.
	floodRate = 50_000
	// floodWarmup is how many SYNs of each family are sent before the first client connects: many times
	// the backlog.
	floodWarmup = 5_000
)

// levee's configuration: the least that protects the server.
const leveeConfig = `services:
  - name: demo
    prefixes: ["192.0.2.0/24", "2001:db8:1::/64"]
    ports: [80]
    mode: always
`

// expectation is what a phase has to show.
type expectation int

const (
	// allComplete: not one connection fails.
	allComplete expectation = iota
	// mostFail: less than half of the connections are completed.
	mostFail
)

// phase is one of the demo's situations.
type phase struct {
	Name    string
	explain string
	flood   bool
	levee   bool
	expect  expectation
}

var phases = []phase{
	{Name: "server alone", explain: "no flood, no levee", expect: allComplete},
	{Name: "server flooded", explain: "no levee; clients wait in vain", flood: true, expect: mostFail},
	{Name: "flooded behind levee", explain: "the same flood, levee on the gateway", flood: true, levee: true, expect: allComplete},
}

// result is what came of a phase.
type result struct {
	Phase     string  `json:"phase"`
	Tried     int     `json:"tried"`
	Completed int     `json:"completed"`
	Percent   float64 `json:"percent"`
	// P50 and P99 of connect and GET, of the connections that were completed.
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
	// SYNs that the attacker sent, that reached the server or levee, and that it answered; the clients' own count
	// in the latter two.
	FloodSent int `json:"flood_syns_sent"`
	Received  int `json:"syns_received"`
	Answered  int `json:"syns_answered"`
	// Failures by kind.
	Failures map[string]int `json:"failures"`

	expect expectation
	// What explains a failure: levee's last status and the end of its log, if it was there, and the
	// packets that the gateway's interfaces dropped.
	status *lab.Status
	log    string
	drops  []string
}

// run builds a lab of its own, so that no phase sees what another left behind.
func (p phase) run(ctx context.Context, cfg demoConfig) (r *result, err error) {
	l, err := lab.New(lab.Config{Attacker: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	server := l.Servers[0]
	if err := server.SetSysctl("net.ipv4.tcp_syncookies", "0"); err != nil {
		return nil, err
	}
	load := lab.Load{Attempts: int(cfg.duration.Seconds() * loadRate), Rate: loadRate, Timeout: loadTimeout}
	for _, v6 := range []bool{false, true} {
		addr := server.AddrPort(v6, webPort)
		if _, err := server.StartWeb(backlog, addr); err != nil {
			return nil, err
		}
		load.URLs = append(load.URLs, lab.URL(addr, fmt.Sprintf("/bytes/%d", pageSize)))
	}
	syns, err := countSYNs(l)
	if err != nil {
		return nil, err
	}
	r = &result{Phase: p.Name, expect: p.expect}
	var lv *lab.Levee
	if p.levee {
		if lv, err = l.StartLevee(ctx, cfg.levee, leveeConfig); err != nil {
			return nil, err
		}
		defer func() { r.log = lv.Log() }()
	}
	var floods []*lab.Flood
	if p.flood {
		if floods, err = startFloods(ctx, l, cfg); err != nil {
			return nil, err
		}
	}
	done, err := load.Run(ctx, l.Clients[0].Namespace)
	if err != nil {
		return nil, err
	}
	for _, f := range floods {
		sent, err := f.Stop()
		if err != nil {
			return nil, err
		}
		r.FloodSent += sent.Sent
	}
	r.Tried, r.Completed, r.Failures = done.Tried, done.Completed, done.Failures
	r.Percent = 100 * float64(r.Completed) / float64(r.Tried)
	r.P50, r.P99 = milliseconds(done.Percentile(0.5)), milliseconds(done.Percentile(0.99))
	return r, errors.Join(r.count(ctx, syns, lv), r.countDrops(l.Gateway))
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// startFloods starts one flood per family and waits until the server feels them.
func startFloods(ctx context.Context, l *lab.Lab, cfg demoConfig) ([]*lab.Flood, error) {
	var floods []*lab.Flood
	longest := cfg.duration + loadTimeout + 5*time.Second
	for _, v6 := range []bool{false, true} {
		rate := floodRate / 2
		f, err := l.Attacker.Link.StartFlood(ctx, lab.FloodConfig{
			Target: l.Servers[0].AddrPort(v6, webPort), Options: lab.LinuxSYN,
			Rate: rate, Count: rate * int(longest.Seconds()), Duration: longest,
		})
		if err != nil {
			return nil, err
		}
		floods = append(floods, f)
	}
	for _, f := range floods {
		for f.Sent() < floodWarmup {
			select {
			case <-time.After(time.Millisecond):
			case <-f.Done():
				_, err := f.Wait()
				return nil, errors.Join(errors.New("the flood ended before it began to hurt"), err, ctx.Err())
			}
		}
	}
	return floods, nil
}

// counters count SYNs on their way to the server and SYN-ACKs on their way back.
type counters struct{ server, client, attacker *lab.SYNCounter }

func countSYNs(l *lab.Lab) (c counters, err error) {
	if c.server, err = l.Servers[0].Link.Host.CountSYNs(false); err != nil {
		return c, err
	}
	if c.client, err = l.Clients[0].Link.Host.CountSYNs(false); err != nil {
		return c, err
	}
	// The attacker has no use for the answers.
	c.attacker, err = l.Attacker.Link.Host.CountSYNs(true)
	return c, err
}

// count fills in the SYNs that the server, or levee if it was there, has seen and answered.
func (r *result) count(ctx context.Context, c counters, lv *lab.Levee) error {
	received, _, err := c.server.Read()
	if err != nil {
		return err
	}
	if lv != nil {
		status, err := lv.Status(ctx)
		if err != nil {
			return err
		}
		received = 0
		for _, s := range status.Services {
			received += int(s.SynReceived)
		}
		r.status = status
	}
	_, toClient, err := c.client.Read()
	if err != nil {
		return err
	}
	_, toAttacker, err := c.attacker.Read()
	if err != nil {
		return err
	}
	r.Received, r.Answered = received, toClient+toAttacker
	return nil
}

// countDrops notes which of the gateway's interfaces dropped packets.
func (r *result) countDrops(gateway *lab.Namespace) error {
	links, err := gateway.Netlink().LinkList()
	if err != nil {
		return fmt.Errorf("list the gateway's interfaces: %w", err)
	}
	for _, l := range links {
		a := l.Attrs()
		if s := a.Statistics; s != nil && s.RxDropped+s.TxDropped > 0 {
			r.drops = append(r.drops, fmt.Sprintf("%s dropped %d going out, %d coming in", a.Name, s.TxDropped, s.RxDropped))
		}
	}
	return nil
}
