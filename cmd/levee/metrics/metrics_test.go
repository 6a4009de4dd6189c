package metrics

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"levee/cmd/levee/control"
	"levee/cmd/levee/prober"
	"levee/proxy"
	"levee/proxy/servers"
	"levee/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fake struct {
	ready bool
	gone  bool
}

func (f *fake) NotReady() []string {
	if f.ready {
		return nil
	}
	return []string{"the TUN is down", "2 rules are missing"}
}

func (f *fake) Kernel() control.Kernel {
	return control.Kernel{Problems: []string{"interface eth9 is down"}, Repairs: map[string]uint64{"tun": 0, "routing": 3}}
}

func (f *fake) Configuration() control.Configuration {
	return control.Configuration{LoadedAt: time.Unix(1_700_000_000, 0), LastReloadSuccessful: !f.gone}
}

func (f *fake) DrainProgress() control.Drain {
	if f.gone {
		return control.Drain{State: control.Draining, Connections: 17}
	}
	return control.Drain{State: control.DrainCancelled, Connections: 17}
}

func (f *fake) Exemption() (exempt, tracking, known bool) { return f.ready, true, !f.gone }

func (f *fake) ServerCounts() [servers.NumStates]int { return [servers.NumStates]int{1, 2, 3, 4} }

func (f *fake) Probes() [prober.NumOutcomes]uint64 { return [prober.NumOutcomes]uint64{5, 6, 7, 8, 9} }

func (f *fake) Snapshot() proxy.Snapshot {
	s := proxy.Snapshot{Capacity: 1000, Evicted: 21}
	for i, name := range []string{"web", "ssh"} {
		n := uint64(10 * i)
		s.Services = append(s.Services, proxy.ServiceSnapshot{Name: name, SynReceived: n + 1, CookieValid: n + 2, CookieInvalid: n + 3,
			CookieRetrans: n + 4, ConnReopened: n + 5, Opened: n + 6, Refused: n + 7, Unreachable: n + 9, TimedOut: n + 8, Mismatched: n + 10, ClosedReset: n + 11,
			Allowed: n + 12, Denied: n + 13, Verified: n + 14, UnknownReset: n + 15, Adopted: n + 16, ServerCookies: n + 17, Flows: int(n) + 9})
	}
	s.Services[0].Mode, s.Services[0].SynPassed, s.Services[0].HalfOpenReset = proxy.ModeAuto, 31, 36
	s.Services[0].Engagement = proxy.Engagement{Engaged: 2, HalfOpen: 128, SYNRate: 1000, FloodsStarted: 33, FloodsEnded: 32, PeakRate: 50_000,
		FloodStart: time.Unix(1_700_000_100, 250_000_000), MostHalfOpen: 127, MostRate: 999}
	s.Services[1].FloodStart, s.Services[1].FloodEnd = time.Unix(1_700_000_010, 0), time.Unix(1_700_000_020, 0)
	s.Services[1].Mode, s.Services[1].WouldAnswer, s.Services[1].WouldDrop = proxy.ModeMonitor, 34, 35
	s.Flows[proxy.StateFree] = 900 // no flow at all, and not a series
	s.Flows[proxy.StateOpen] = 12
	s.Drops[proxy.DropCookieInvalid] = 5
	s.Passed[proxy.PassModeOff] = 6
	s.Handshake.Buckets[0] = 3
	s.Handshake.Buckets[2] = 4
	s.Handshake.Buckets[len(s.Handshake.Buckets)-1] = 1
	s.ClientHandshake.Buckets[2], s.ClientHandshake.Sum = 1, 2*time.Millisecond
	s.Handshake.Sum = 20*time.Second + 500*time.Millisecond
	s.Workers = []proxy.WorkerSnapshot{{Received: 1, Sent: 2, ReceivedBytes: 3, SentBytes: 4}, {Received: 5}}
	return s
}

func (f *fake) TUNStats() (tunnel.Stats, error) {
	if f.gone {
		return tunnel.Stats{}, errors.New("no answer")
	}
	return tunnel.Stats{TxDropped: 7, RxDropped: 8}, nil
}

func (f *fake) Rings() ([]tunnel.RingStats, error) {
	return []tunnel.RingStats{{Chosen: 11, Dropped: 12}, {Takes: tunnel.Flows, Chosen: 13}}, nil
}

func (f *fake) QueueStats() []tunnel.QueueStats {
	return []tunnel.QueueStats{
		{Refused: [tunnel.NumRefusals]uint64{tunnel.RefusedInvalid: 1}},
		{Refused: [tunnel.NumRefusals]uint64{tunnel.RefusedInvalid: 2, tunnel.RefusedDown: 3}},
	}
}

func TestLint(t *testing.T) {
	problems, err := testutil.CollectAndLint(&collector{version: "v1", source: &fake{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestValues(t *testing.T) {
	const want = `
# HELP levee_half_open_resets_total Handshakes that had passed, before a flood was noticed or within bypass_rate, and were ended at the server because nobody answered it.
# TYPE levee_half_open_resets_total counter
levee_half_open_resets_total{service="ssh"} 0
levee_half_open_resets_total{service="web"} 36
# HELP levee_syn_passed_total SYNs that went to the server as they were, in the modes auto and monitor.
# TYPE levee_syn_passed_total counter
levee_syn_passed_total{service="ssh"} 0
levee_syn_passed_total{service="web"} 31
# HELP levee_engaged A 1 while the service has its SYNs answered with cookies because of a flood, or would have in mode monitor, else a 0; only of the modes auto and monitor.
# TYPE levee_engaged gauge
levee_engaged{service="ssh"} 0
levee_engaged{service="web"} 1
# HELP levee_engaged_destinations Addresses and ports of servers that are engaged on their own.
# TYPE levee_engaged_destinations gauge
levee_engaged_destinations{service="ssh"} 0
levee_engaged_destinations{service="web"} 2
# HELP levee_engage_half_open Unfinished handshakes that engage a destination, configured or learned.
# TYPE levee_engage_half_open gauge
levee_engage_half_open{service="ssh"} 0
levee_engage_half_open{service="web"} 128
# HELP levee_engage_syn_rate SYNs in a second that engage a destination, configured or learned.
# TYPE levee_engage_syn_rate gauge
levee_engage_syn_rate{service="ssh"} 0
levee_engage_syn_rate{service="web"} 1000
# HELP levee_floods_started_total Floods that have begun.
# TYPE levee_floods_started_total counter
levee_floods_started_total{service="ssh"} 0
levee_floods_started_total{service="web"} 33
# HELP levee_floods_ended_total Floods that have ended.
# TYPE levee_floods_ended_total counter
levee_floods_ended_total{service="ssh"} 0
levee_floods_ended_total{service="web"} 32
# HELP levee_flood_peak_syn_rate The most SYNs in a second of the flood that lasts, or else of the latest.
# TYPE levee_flood_peak_syn_rate gauge
levee_flood_peak_syn_rate{service="ssh"} 0
levee_flood_peak_syn_rate{service="web"} 50000
# HELP levee_flood_start_timestamp_seconds When the flood that lasts, or else the latest, began; 0 if there was none.
# TYPE levee_flood_start_timestamp_seconds gauge
levee_flood_start_timestamp_seconds{service="ssh"} 1.70000001e+09
levee_flood_start_timestamp_seconds{service="web"} 1.70000010025e+09
# HELP levee_flood_end_timestamp_seconds When the latest flood ended; 0 while one lasts, or if there was none.
# TYPE levee_flood_end_timestamp_seconds gauge
levee_flood_end_timestamp_seconds{service="ssh"} 1.70000002e+09
levee_flood_end_timestamp_seconds{service="web"} 0
# HELP levee_half_open_max Unfinished handshakes of the destination that has the most; of one that is engaged, the SYNs that nobody has stood by lately, up to the threshold.
# TYPE levee_half_open_max gauge
levee_half_open_max{service="ssh"} 0
levee_half_open_max{service="web"} 127
# HELP levee_syn_rate_max SYNs in the last second of the destination that got the most.
# TYPE levee_syn_rate_max gauge
levee_syn_rate_max{service="ssh"} 0
levee_syn_rate_max{service="web"} 999
# HELP levee_ready A 1 while traffic is protected, else a 0, as /readyz says.
# TYPE levee_ready gauge
levee_ready 0
# HELP levee_conntrack_tracking A 1 if the kernel tracks connections, so that protected traffic needs to be exempt, else a 0; only with routing.manage.
# TYPE levee_conntrack_tracking gauge
levee_conntrack_tracking 1
# HELP levee_conntrack_exempt A 1 while levee's nftables table exempts protected traffic from connection tracking, else a 0; only with routing.manage.
# TYPE levee_conntrack_exempt gauge
levee_conntrack_exempt 0
# HELP levee_would_answer_total SYNs that mode auto would have answered with a cookie, of mode monitor.
# TYPE levee_would_answer_total counter
levee_would_answer_total{service="ssh"} 34
levee_would_answer_total{service="web"} 0
# HELP levee_would_drop_total Packets that mode auto would have dropped, segments of no flow only unless they carried a cookie, of mode monitor.
# TYPE levee_would_drop_total counter
levee_would_drop_total{service="ssh"} 35
levee_would_drop_total{service="web"} 0
# HELP levee_syn_received_total SYNs that were answered with a cookie.
# TYPE levee_syn_received_total counter
levee_syn_received_total{service="ssh"} 11
levee_syn_received_total{service="web"} 1
# HELP levee_cookie_valid_total ACKs that carried a valid cookie.
# TYPE levee_cookie_valid_total counter
levee_cookie_valid_total{service="ssh"} 12
levee_cookie_valid_total{service="web"} 2
# HELP levee_closed_resets_total SYNs that got a RST because their port is known to be closed.
# TYPE levee_closed_resets_total counter
levee_closed_resets_total{service="ssh"} 21
levee_closed_resets_total{service="web"} 11
# HELP levee_adopted_total Connections from before the start, or let pass without a handshake, that are tracked since.
# TYPE levee_adopted_total counter
levee_adopted_total{service="ssh"} 26
levee_adopted_total{service="web"} 16
# HELP levee_allowed_total SYNs, and segments of no flow, that passed because their source is on the service's list.
# TYPE levee_allowed_total counter
levee_allowed_total{service="ssh"} 22
levee_allowed_total{service="web"} 12
# HELP levee_denied_total SYNs, and segments of no flow, that were dropped because their source is on the service's list.
# TYPE levee_denied_total counter
levee_denied_total{service="ssh"} 23
levee_denied_total{service="web"} 13
# HELP levee_unknown_resets_total Segments of no flow that were answered with a RST.
# TYPE levee_unknown_resets_total counter
levee_unknown_resets_total{service="ssh"} 25
levee_unknown_resets_total{service="web"} 15
# HELP levee_verified_total SYNs that passed because their source has completed a handshake lately.
# TYPE levee_verified_total counter
levee_verified_total{service="ssh"} 24
levee_verified_total{service="web"} 14
# HELP levee_cookie_invalid_total ACKs that carried a wrong or expired cookie.
# TYPE levee_cookie_invalid_total counter
levee_cookie_invalid_total{service="ssh"} 13
levee_cookie_invalid_total{service="web"} 3
# HELP levee_cookie_retrans_total SYNs to the server that were sent again.
# TYPE levee_cookie_retrans_total counter
levee_cookie_retrans_total{service="ssh"} 14
levee_cookie_retrans_total{service="web"} 4
# HELP levee_conn_reopened_total Valid ACKs on addresses and ports that still had a flow.
# TYPE levee_conn_reopened_total counter
levee_conn_reopened_total{service="ssh"} 15
levee_conn_reopened_total{service="web"} 5
# HELP levee_mismatched_total Flows that were reset because the server lacks timestamps or ECN, which the client was promised.
# TYPE levee_mismatched_total counter
levee_mismatched_total{service="ssh"} 20
levee_mismatched_total{service="web"} 10
# HELP levee_opened_total Flows whose server answered.
# TYPE levee_opened_total counter
levee_opened_total{service="ssh"} 16
levee_opened_total{service="web"} 6
# HELP levee_probes_total SYNs of levee's own that asked a server what it does.
# TYPE levee_probes_total counter
levee_probes_total{outcome="answered"} 5
levee_probes_total{outcome="refused"} 6
levee_probes_total{outcome="silent"} 7
levee_probes_total{outcome="skipped"} 9
levee_probes_total{outcome="unsent"} 8
# HELP levee_refused_total Flows that the server reset instead of answering.
# TYPE levee_refused_total counter
levee_refused_total{service="ssh"} 17
levee_refused_total{service="web"} 7
# HELP levee_timed_out_total Flows whose server did not answer.
# TYPE levee_timed_out_total counter
levee_timed_out_total{service="ssh"} 18
levee_timed_out_total{service="web"} 8
# HELP levee_unreachable_total Flows that an ICMP error ended before the server answered: there is no way to it.
# TYPE levee_unreachable_total counter
levee_unreachable_total{service="ssh"} 19
levee_unreachable_total{service="web"} 9
# HELP levee_servers Server addresses and ports of which something is known.
# TYPE levee_servers gauge
levee_servers{state="alive"} 2
levee_servers{state="closed"} 3
levee_servers{state="silent"} 4
# HELP levee_server_cookies_total Flows whose server answered with a SYN cookie: its own queue of half-open connections is full.
# TYPE levee_server_cookies_total counter
levee_server_cookies_total{service="ssh"} 27
levee_server_cookies_total{service="web"} 17
# HELP levee_service_flows Flows in the table, those only remembered not counted.
# TYPE levee_service_flows gauge
levee_service_flows{service="ssh"} 19
levee_service_flows{service="web"} 9
# HELP levee_flows Flows in the table.
# TYPE levee_flows gauge
levee_flows{state="client_closed"} 0
levee_flows{state="open"} 12
levee_flows{state="opening"} 0
levee_flows{state="reset"} 0
levee_flows{state="server_closed"} 0
levee_flows{state="time_wait"} 0
# HELP levee_flows_capacity The most flows that the table holds.
# TYPE levee_flows_capacity gauge
levee_flows_capacity 1000
# HELP levee_flows_evicted_total Flows forgotten before their time because the table was full; none of them was open.
# TYPE levee_flows_evicted_total counter
levee_flows_evicted_total 21
# HELP levee_handshake_duration_seconds Of the server's half, the time from the first SYN to it until its SYN-ACK; of the client's, from the SYN-ACK to it until its ACK, of a sample.
# TYPE levee_handshake_duration_seconds histogram
levee_handshake_duration_seconds_bucket{half="client",le="0.0005"} 0
levee_handshake_duration_seconds_bucket{half="client",le="0.001"} 0
levee_handshake_duration_seconds_bucket{half="client",le="0.0025"} 1
levee_handshake_duration_seconds_bucket{half="client",le="0.005"} 1
levee_handshake_duration_seconds_bucket{half="client",le="0.01"} 1
levee_handshake_duration_seconds_bucket{half="client",le="0.025"} 1
levee_handshake_duration_seconds_bucket{half="client",le="0.05"} 1
levee_handshake_duration_seconds_bucket{half="client",le="0.1"} 1
levee_handshake_duration_seconds_bucket{half="client",le="0.25"} 1
levee_handshake_duration_seconds_bucket{half="client",le="0.5"} 1
levee_handshake_duration_seconds_bucket{half="client",le="1"} 1
levee_handshake_duration_seconds_bucket{half="client",le="2.5"} 1
levee_handshake_duration_seconds_bucket{half="client",le="5"} 1
levee_handshake_duration_seconds_bucket{half="client",le="10"} 1
levee_handshake_duration_seconds_bucket{half="client",le="+Inf"} 1
levee_handshake_duration_seconds_sum{half="client"} 0.002
levee_handshake_duration_seconds_count{half="client"} 1
levee_handshake_duration_seconds_bucket{half="server",le="0.0005"} 3
levee_handshake_duration_seconds_bucket{half="server",le="0.001"} 3
levee_handshake_duration_seconds_bucket{half="server",le="0.0025"} 7
levee_handshake_duration_seconds_bucket{half="server",le="0.005"} 7
levee_handshake_duration_seconds_bucket{half="server",le="0.01"} 7
levee_handshake_duration_seconds_bucket{half="server",le="0.025"} 7
levee_handshake_duration_seconds_bucket{half="server",le="0.05"} 7
levee_handshake_duration_seconds_bucket{half="server",le="0.1"} 7
levee_handshake_duration_seconds_bucket{half="server",le="0.25"} 7
levee_handshake_duration_seconds_bucket{half="server",le="0.5"} 7
levee_handshake_duration_seconds_bucket{half="server",le="1"} 7
levee_handshake_duration_seconds_bucket{half="server",le="2.5"} 7
levee_handshake_duration_seconds_bucket{half="server",le="5"} 7
levee_handshake_duration_seconds_bucket{half="server",le="10"} 7
levee_handshake_duration_seconds_bucket{half="server",le="+Inf"} 8
levee_handshake_duration_seconds_sum{half="server"} 20.5
levee_handshake_duration_seconds_count{half="server"} 8
# HELP levee_tun_ring_drops_total Of those, the ones that found the queue full: exact if it was ever empty while it was looked at, otherwise the least it can be; never more than tun_tx_drops_total.
# TYPE levee_tun_ring_drops_total counter
levee_tun_ring_drops_total{queue="0",takes="first_syns"} 12
levee_tun_ring_drops_total{queue="1",takes="flows"} 0
# HELP levee_tun_ring_packets_total Packets that the kernel chose this queue of the TUN for; a superpacket is one.
# TYPE levee_tun_ring_packets_total counter
levee_tun_ring_packets_total{queue="0",takes="first_syns"} 11
levee_tun_ring_packets_total{queue="1",takes="flows"} 13
# HELP levee_tun_rx_drops_total Packets from levee that the kernel dropped as they left the TUN.
# TYPE levee_tun_rx_drops_total counter
levee_tun_rx_drops_total 8
# HELP levee_tun_tx_drops_total Packets for levee that found their queue of the TUN full.
# TYPE levee_tun_tx_drops_total counter
levee_tun_tx_drops_total 7
# HELP levee_worker_received_frames_total Frames that the worker read; a superpacket is one.
# TYPE levee_worker_received_frames_total counter
levee_worker_received_frames_total{worker="0"} 1
levee_worker_received_frames_total{worker="1"} 5
# HELP levee_worker_sent_bytes_total Bytes of IP packets that the worker wrote.
# TYPE levee_worker_sent_bytes_total counter
levee_worker_sent_bytes_total{worker="0"} 4
levee_worker_sent_bytes_total{worker="1"} 0
`
	var names []string
	for line := range strings.Lines(want) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			names = append(names, strings.Fields(rest)[0])
		}
	}
	if err := testutil.CollectAndCompare(&collector{version: "v1", source: &fake{}}, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
}

// Every reason is a series from the start, so that a rate can be taken of its first packet.
func TestEveryReasonIsThere(t *testing.T) {
	c := &collector{version: "v1", source: &fake{}}
	for name, want := range map[string]int{
		"levee_drops_total":              int(proxy.NumDropReasons),
		"levee_passed_total":             int(proxy.NumPassReasons),
		"levee_tun_refused_frames_total": int(tunnel.NumRefusals),
		"levee_build_info":               1,
	} {
		if got := testutil.CollectAndCount(c, name); got != want {
			t.Errorf("%s has %d series, want %d", name, got, want)
		}
	}
}

// Without the kernel's answer the rest is still served.
func TestTUNCountersMayFail(t *testing.T) {
	c := &collector{version: "v1", source: &fake{gone: true}}
	if n := testutil.CollectAndCount(c, "levee_tun_tx_drops_total"); n != 0 {
		t.Errorf("%d series without counters", n)
	}
	if n := testutil.CollectAndCount(c, "levee_flows_capacity"); n != 1 {
		t.Error("the other series are gone too")
	}
}

func TestServer(t *testing.T) {
	source := &fake{}
	s, err := Listen(netip.MustParseAddrPort("127.0.0.1:0"), "v1.2.3", source, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()

	code, body := get(t, s, "/metrics")
	for _, want := range []string{`levee_build_info{goversion="go`, `version="v1.2.3"`, "go_goroutines", "go_sched_pauses_stopping_gc_seconds_bucket", "process_open_fds", "levee_drops_total"} {
		if code != 200 || !strings.Contains(body, want) {
			t.Errorf("/metrics (%d) lacks %s", code, want)
		}
	}
	for _, tt := range []struct {
		path  string
		ready bool
		code  int
		body  string
	}{
		{"/healthz", false, 200, "ok\n"},
		{"/readyz", false, 503, "not ready: the TUN is down, 2 rules are missing\n"},
		{"/readyz", true, 200, "ready\n"},
		{"/other", true, 404, "404 page not found\n"},
	} {
		source.ready = tt.ready
		if code, body := get(t, s, tt.path); code != tt.code || body != tt.body {
			t.Errorf("%s: %d %q, want %d %q", tt.path, code, body, tt.code, tt.body)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func get(t *testing.T, s *Server, path string) (int, string) {
	t.Helper()
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get("http://" + s.Address().String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestListenRefusals(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, tt := range []struct{ name, address, want string }{
		{"in use", l.Addr().String(), "metrics.listen " + l.Addr().String() + " is in use: stop what listens there or choose another port"},
		{"not ours", "192.0.2.1:9742", "metrics.listen 192.0.2.1:9742 is no address of this machine: choose one that is, such as 127.0.0.1"},
	} {
		_, err := Listen(netip.MustParseAddrPort(tt.address), "v1", &fake{}, slog.New(slog.DiscardHandler))
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

// Closing without Serve, as when the start fails later, gives the port back.
func TestCloseWithoutServe(t *testing.T) {
	s, err := Listen(netip.MustParseAddrPort("127.0.0.1:0"), "v1", &fake{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	address := s.Address().String()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("the port is still taken: %v", err)
	}
	_ = l.Close()
}

var _ prometheus.Collector = (*collector)(nil)

func TestReloadMetrics(t *testing.T) {
	for _, failed := range []bool{false, true} {
		successful := "1"
		if failed {
			successful = "0"
		}
		want := `# HELP levee_config_last_reload_success_timestamp_seconds When the configuration in force was loaded.
# TYPE levee_config_last_reload_success_timestamp_seconds gauge
levee_config_last_reload_success_timestamp_seconds 1.7e+09
# HELP levee_config_last_reload_successful A 1, or a 0 if the latest reload failed and the configuration is older than its file.
# TYPE levee_config_last_reload_successful gauge
levee_config_last_reload_successful ` + successful + "\n"
		if err := testutil.CollectAndCompare(&collector{source: &fake{gone: failed}}, strings.NewReader(want),
			"levee_config_last_reload_successful", "levee_config_last_reload_success_timestamp_seconds"); err != nil {
			t.Error(err)
		}
	}
}

func TestDrainMetrics(t *testing.T) {
	const help = `# HELP levee_draining A 1 while levee drains, or is about to stop because it has.
# TYPE levee_draining gauge
`
	for _, tt := range []struct {
		draining bool
		want     string
	}{
		{false, help + "levee_draining 0\n"},
		{true, help + `levee_draining 1
# HELP levee_drain_connections Connections that have to end before levee stops; only while it drains.
# TYPE levee_drain_connections gauge
levee_drain_connections 17
`},
	} {
		c := &collector{version: "v1", source: &fake{gone: tt.draining}}
		if err := testutil.CollectAndCompare(c, strings.NewReader(tt.want), "levee_draining", "levee_drain_connections"); err != nil {
			t.Error(err)
		}
	}
}
