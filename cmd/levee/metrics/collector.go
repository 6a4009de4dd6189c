package metrics

import (
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee/cmd/levee/control"
	"levee/cmd/levee/prober"
	"levee/proxy"
	"levee/proxy/servers"
	"levee/tunnel"
)

// Source is where the counters are. Its methods may be called at any time, at once.
type Source interface {
	Snapshot() proxy.Snapshot
	// TUNStats are the interface's counters as the kernel sees them; the error says that they can't be had now.
	TUNStats() (tunnel.Stats, error)
	// QueueStats are those of each queue.
	QueueStats() []tunnel.QueueStats
	// Rings are those of each queue's ring, none without steering.
	Rings() ([]tunnel.RingStats, error)
	// ServerCounts is how many servers are known by state; Probes how many probes had an outcome.
	ServerCounts() [servers.NumStates]int
	Probes() [prober.NumOutcomes]uint64
	// Configuration says what became of the latest reload.
	Configuration() control.Configuration
	// NotReady says why traffic is not protected, one line for each reason; none if it is.
	NotReady() []string
	// DrainProgress is how far the latest drain is.
	DrainProgress() control.Drain
	// Exemption says whether protected traffic is exempt from connection tracking, and whether there is tracking at all; known is false
	// if that is not levee's business or can't be seen now.
	Exemption() (exempt, tracking, known bool)
	// Kernel says what others have changed that levee had set up.
	Kernel() control.Kernel
}

// collector reads the source when it is scraped.
type collector struct {
	version string
	source  Source
}

// Describe sends nothing: which series there are depends on the configuration.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends every series.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	timestamp := func(d *prometheus.Desc, at time.Time, labels ...string) {
		value := 0.0
		if !at.IsZero() {
			value = float64(at.UnixMilli()) / 1e3
		}
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	s := c.source.Snapshot()

	gauge(buildInfo, 1, c.version, runtime.Version())
	configuration := c.source.Configuration()
	gauge(reloadSuccessful, oneIf(configuration.LastReloadSuccessful))
	gauge(reloadTime, int(configuration.LoadedAt.Unix()))
	drain := c.source.DrainProgress()
	if drain.State == "" || drain.State == control.DrainCancelled {
		gauge(draining, 0)
	} else {
		gauge(draining, 1)
		gauge(drainConnections, drain.Connections)
	}
	gauge(ready, oneIf(len(c.source.NotReady()) == 0))
	if exempt, tracking, known := c.source.Exemption(); known {
		gauge(conntrackTracking, oneIf(tracking))
		gauge(conntrackExempt, oneIf(exempt))
	}
	kernel := c.source.Kernel()
	gauge(problems, len(kernel.Problems))
	for what, n := range kernel.Repairs {
		counter(repairs, n, what)
	}
	for _, v := range s.Services {
		counter(synReceived, v.SynReceived, v.Name)
		counter(cookieValid, v.CookieValid, v.Name)
		counter(cookieInvalid, v.CookieInvalid, v.Name)
		counter(cookieRetrans, v.CookieRetrans, v.Name)
		counter(connReopened, v.ConnReopened, v.Name)
		counter(opened, v.Opened, v.Name)
		counter(refused, v.Refused, v.Name)
		counter(unreachable, v.Unreachable, v.Name)
		counter(timedOut, v.TimedOut, v.Name)
		counter(mismatched, v.Mismatched, v.Name)
		counter(serverCookies, v.ServerCookies, v.Name)
		counter(earlyHeld, v.EarlyHeld, v.Name)
		counter(closedResets, v.ClosedReset, v.Name)
		counter(allowed, v.Allowed, v.Name)
		counter(denied, v.Denied, v.Name)
		counter(verified, v.Verified, v.Name)
		counter(unknownResets, v.UnknownReset, v.Name)
		counter(adopted, v.Adopted, v.Name)
		gauge(serviceFlows, v.Flows, v.Name)
		if v.Mode == proxy.ModeAuto || v.Mode == proxy.ModeMonitor {
			gauge(engaged, oneIf(v.Engaged > 0 || v.Whole), v.Name)
			gauge(engagedHow, v.Engaged, v.Name)
			gauge(halfOpenLimit, v.HalfOpen, v.Name)
			gauge(synRateLimit, v.SYNRate, v.Name)
			gauge(mostHalfOpen, v.MostHalfOpen, v.Name)
			gauge(mostRate, v.MostRate, v.Name)
		}
		counter(halfOpenReset, v.HalfOpenReset, v.Name)
		counter(synPassed, v.SynPassed, v.Name)
		counter(floodsStarted, v.FloodsStarted, v.Name)
		counter(floodsEnded, v.FloodsEnded, v.Name)
		gauge(floodPeak, v.PeakRate, v.Name)
		timestamp(floodStart, v.FloodStart, v.Name)
		timestamp(floodEnd, v.FloodEnd, v.Name)
		counter(wouldAnswer, v.WouldAnswer, v.Name)
		counter(wouldDrop, v.WouldDrop, v.Name)
	}
	for r, n := range s.Drops {
		counter(drops, n, proxy.DropReason(r).String())
	}
	for r, n := range s.Passed {
		counter(passed, n, proxy.PassReason(r).String())
	}
	for state := proxy.StateFree + 1; state < proxy.NumStates; state++ {
		gauge(flows, s.Flows[state], state.String())
	}
	gauge(flowsCapacity, s.Capacity)
	counter(flowsEvicted, s.Evicted)
	gauge(earlyUsed, s.EarlyUsed)
	gauge(earlySize, s.EarlySize)
	ch <- histogram(handshake, s.ClientHandshake, "client")
	ch <- histogram(handshake, s.Handshake, "server")
	for i, w := range s.Workers {
		worker := strconv.Itoa(i)
		counter(workerReceived, w.Received, worker)
		counter(workerSent, w.Sent, worker)
		counter(workerReceivedBytes, w.ReceivedBytes, worker)
		counter(workerSentBytes, w.SentBytes, worker)
	}
	for state, n := range c.source.ServerCounts() {
		if state := servers.State(state); state != servers.Unknown {
			gauge(knownServers, n, state.String())
		}
	}
	for outcome, n := range c.source.Probes() {
		counter(probes, n, prober.Outcome(outcome).String())
	}
	c.collectTUN(counter)
}

func oneIf(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

func (c *collector) collectTUN(counter func(*prometheus.Desc, uint64, ...string)) {
	// Without an answer the series are absent for this scrape; a 0 would look like a restart.
	if s, err := c.source.TUNStats(); err == nil {
		counter(tunRxDrops, s.RxDropped)
		counter(tunTxDrops, s.TxDropped)
	}
	if rings, err := c.source.Rings(); err == nil {
		for q, r := range rings {
			counter(tunRingPackets, r.Chosen, strconv.Itoa(q), r.Takes.String())
			counter(tunRingDrops, r.Dropped, strconv.Itoa(q), r.Takes.String())
		}
	}
	var sum [tunnel.NumRefusals]uint64
	for _, q := range c.source.QueueStats() {
		for r, n := range q.Refused {
			sum[r] += n
		}
	}
	for r, n := range sum {
		counter(tunRefused, n, tunnel.Refusal(r).String())
	}
}

// histogram cumulates the buckets, as Prometheus wants them; the last, without a bound, is the count.
func histogram(d *prometheus.Desc, h proxy.Histogram, labels ...string) prometheus.Metric {
	buckets := make(map[float64]uint64)
	var count uint64
	for i, n := range h.Buckets {
		count += n
		if i < len(proxy.HandshakeBuckets) {
			buckets[proxy.HandshakeBuckets[i]] = count
		}
	}
	return prometheus.MustNewConstHistogram(d, count, h.Sum.Seconds(), buckets, labels...)
}
