package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"levee/integration/lab"
)

// contenderID names who stands on the gateway.
type contenderID string

const (
	plainID contenderID = "plain"
	// The kernel's SYN proxy. What it offers depends much on timestamps, so there are two.
	synproxyID   contenderID = "synproxy"
	synproxyNoTS contenderID = "synproxy-nots"
	leveeID      contenderID = "levee"
)

// contenderNames are for people.
var contenderNames = map[contenderID]string{
	plainID:      "plain forwarding",
	synproxyID:   "SYNPROXY",
	synproxyNoTS: "SYNPROXY, no TS",
	leveeID:      "levee",
}

// seen is what a contender says it has handled since it was switched on.
type seen struct {
	// SYNs that it answered, and connections whose client proved itself.
	syns, connections uint64
}

// contender is one way to treat connections on the gateway. One at a time is on.
type contender interface {
	id() contenderID
	// on returns when traffic is treated.
	on(ctx context.Context) error
	// off leaves the gateway as it was before on.
	off() error
	seen(ctx context.Context) (seen, error)
}

// plain forwards, and leaves SYNs to the server.
type plain struct{ lab *lab.Lab }

func (plain) id() contenderID { return plainID }

// on changes nothing, but makes sure that no other is left on.
func (p plain) on(context.Context) error {
	links, err := p.lab.Gateway.Netlink().LinkList()
	if err != nil {
		return fmt.Errorf("list the gateway's interfaces: %w", err)
	}
	for _, l := range links {
		if l.Type() == "tuntap" {
			return fmt.Errorf("%s is still on the gateway: this would not be plain forwarding", l.Attrs().Name)
		}
	}
	return nil
}

func (plain) off() error                         { return nil }
func (plain) seen(context.Context) (seen, error) { return seen{}, nil }

// synproxy is the kernel's.
type synproxy struct {
	lab        *lab.Lab
	timestamps bool

	running *lab.SYNPROXY
	// before are the kernel's counters at on: they go on counting from one time to the next.
	before lab.SYNPROXYCounters
}

func (s *synproxy) id() contenderID {
	if s.timestamps {
		return synproxyID
	}
	return synproxyNoTS
}

func (s *synproxy) on(context.Context) (err error) {
	// What the lab's servers use, as an operator is told to find out.
	s.running, err = s.lab.StartSYNPROXY(lab.SYNPROXYConfig{MSS: 1460, WScale: serverWScale, SACK: true, Timestamps: s.timestamps})
	if err != nil {
		return err
	}
	s.before, err = s.running.Counters()
	if err != nil {
		return errors.Join(err, s.running.Stop())
	}
	return nil
}

func (s *synproxy) off() error { return s.running.Stop() }

func (s *synproxy) seen(context.Context) (seen, error) {
	now, err := s.running.Counters()
	if err != nil {
		return seen{}, err
	}
	return seen{syns: now.SYNs - s.before.SYNs, connections: now.Valid - s.before.Valid}, nil
}

// levee is the daemon, started anew each time.
type levee struct {
	lab    *lab.Lab
	binary string
	daemon *lab.Levee
}

// leveeConfig protects all servers of the lab, which do timestamps. capacity is in flows. The lab's floods come from 512 networks, real ones from
// many more: what each of them is answered is no limit here. Connections that another contender has left hanging are not taken on.
func leveeConfig(capacity int) string {
	return fmt.Sprintf(`flows: {capacity: %d, grace: 0s}
replies: {per_network: 100000000}
metrics: {listen: %s}
services:
  - name: bench
    prefixes: [%q, %q]
    mode: always
    options: {timestamps: true}
`, capacity, metricsAddr, lab.ServerPrefix4, lab.ServerPrefix6)
}

// metricsAddr is inside the gateway's namespace.
const metricsAddr = "127.0.0.1:9742"

// defaultCapacity is the daemon's.
const defaultCapacity = 1 << 20

func (*levee) id() contenderID { return leveeID }

func (v *levee) on(ctx context.Context) (err error) {
	if v.daemon != nil {
		return v.daemon.Start(ctx)
	}
	v.daemon, err = v.lab.StartLevee(ctx, v.binary, leveeConfig(defaultCapacity))
	return err
}

func (v *levee) off() error {
	err := v.daemon.Stop()
	if err != nil {
		// What it left behind must not be in the way of the next contender.
		ctx, cancel := context.WithTimeout(context.Background(), peerTimeout)
		defer cancel()
		err = errors.Join(err, v.daemon.Command(ctx, "cleanup").Run())
	}
	return err
}

func (v *levee) seen(ctx context.Context) (seen, error) {
	status, err := v.daemon.Status(ctx)
	if err != nil {
		return seen{}, err
	}
	var sum seen
	for _, s := range status.Services {
		sum.syns += s.SynReceived
		sum.connections += s.CookieValid
	}
	return sum, nil
}

// serverWScale is the window scale of the lab's servers, which follows from tuneHosts.
const serverWScale = 7

// tuneHosts makes the hosts of the lab alike on every machine.
func tuneHosts(l *lab.Lab) error {
	hosts := append(append([]*lab.Host(nil), l.Clients...), l.Servers...)
	for _, h := range hosts {
		for _, s := range [][2]string{
			// Linux's defaults on a machine with much memory; the largest gives a window scale of 7.
			{"net.ipv4.tcp_rmem", "4096 131072 6291456"},
			{"net.ipv4.tcp_wmem", "4096 16384 4194304"},
			// Many short connections from one address, each from a port of its own.
			{"net.ipv4.ip_local_port_range", "1024 65535"},
			{"net.ipv4.tcp_max_tw_buckets", "262144"},
		} {
			if err := h.SetSysctl(s[0], s[1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// settleTime is for what a switch sets off in the kernel and in levee. What the machine does then is mostly somebody else's.
const settleTime = 100 * time.Millisecond

// with runs a measurement on a contender and checks that the contender saw its traffic: expect says how much it must have
// been, once the measurement has run. What went past the contender is no result.
func (b *bench) with(ctx context.Context, c contender, measure func() (expect seen, err error)) (err error) {
	if err := c.on(ctx); err != nil {
		return fmt.Errorf("switch on: %w", err)
	}
	defer func() {
		if e := c.off(); e != nil {
			err = errors.Join(err, fmt.Errorf("switch off: %w", e))
		}
	}()
	if err := b.pause(ctx, settleTime); err != nil {
		return err
	}
	expect, err := measure()
	if err != nil {
		return err
	}
	got, err := c.seen(ctx)
	if err != nil {
		return err
	}
	return prove(c.id(), expect, got)
}

// prove says what is wrong if a contender has seen less than it must have.
func prove(id contenderID, expect, got seen) error {
	if id == plainID {
		return nil
	}
	if got.syns < expect.syns {
		return fmt.Errorf("%s counts %d SYNs that it answered, but %d answers were seen: they went past it", contenderNames[id], got.syns, expect.syns)
	}
	if got.connections < expect.connections {
		return fmt.Errorf("%s counts %d connections, but %d were made: they went past it", contenderNames[id], got.connections, expect.connections)
	}
	return nil
}

// sleep waits, or returns the reason why ctx ended earlier.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
