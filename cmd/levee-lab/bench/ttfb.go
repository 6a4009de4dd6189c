package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"levee/integration/lab"
)

// tripWorkers connect at once.
const tripWorkers = 10

// tripsShare is the least percentage of a contender's far connections that must be completed: its medians are of those, and how many
// failed is a figure of its own.
const tripsShare = 90

// trips makes connections one after another from a few workers, nearly all of which must succeed.
func trips(n *lab.Namespace, r *responder, count int) (*tally, error) {
	t := &tally{}
	var next atomic.Int64
	err := inside(n, tripWorkers, func() {
		for int(next.Add(1)) <= count {
			t.add(exchange(r.addr, r.first, peerTimeout))
		}
	})
	return t, errors.Join(err, t.errBelow(tripsShare))
}

// beforeTTFB measures the round-trip time between the gateway and the server, with nothing else going on: what a proxy that
// opens the server's half itself can't do without.
func (b *bench) beforeTTFB(ctx context.Context) (err error) {
	server, err := startResponder(b.server.Namespace, b.nextPort(), clientFirst, tripWorkers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.close()) }()
	t, err := trips(b.lab.Gateway, server, b.length.trips)
	if err != nil {
		return err
	}
	b.serverRTT = percentile(t.sorted(func(t times) time.Duration { return t.connected }), 0.5)
	b.report.add("server-rtt", plainID, milliseconds(b.serverRTT))
	return ctx.Err()
}

// runTTFB measures the time from connect to the first byte for a client 50 ms away.
func (b *bench) runTTFB(ctx context.Context, id contenderID) (expect seen, err error) {
	lost := b.far.Link.Delay.Lost()
	medians := map[firstWord]float64{}
	tried := 0
	for _, first := range []firstWord{clientFirst, serverFirst} {
		t, err := b.farTrips(first)
		if err := errors.Join(err, ctx.Err()); err != nil {
			return expect, err
		}
		expect.connections += uint64(len(t.completed))
		tried += t.tried
		medians[first] = milliseconds(percentile(t.sorted(func(t times) time.Duration { return t.first }), 0.5))
	}
	secret, err := b.tlsTrips(ctx)
	if err != nil {
		return expect, fmt.Errorf("TLS: %w", err)
	}
	expect.connections += uint64(len(secret.completed))
	tried += secret.tried
	if n := b.far.Link.Delay.Lost() - lost; n != 0 {
		return expect, fmt.Errorf("the delay lost %d frames", n)
	}
	b.report.add("ttfb-request", id, medians[clientFirst])
	b.report.add("ttfb-tls", id, milliseconds(percentile(secret.sorted(func(t times) time.Duration { return t.first }), 0.5)))
	b.report.add("ttfb-banner", id, medians[serverFirst])
	b.report.add("ttfb-completed", id, 100*float64(expect.connections)/float64(tried))
	return expect, nil
}

func (b *bench) farTrips(first firstWord) (t *tally, err error) {
	server, err := startResponder(b.server.Namespace, b.nextPort(), first, tripWorkers)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.close()) }()
	return trips(b.far.Namespace, server, b.length.trips)
}
