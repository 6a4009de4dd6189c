package metrics

import "github.com/prometheus/client_golang/prometheus"

// desc puts a name beside its help; labels are those whose values differ from series to series.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("levee_"+name, help, labels, nil)
}

// The words after levee_ are those of /proc/net/stat/synproxy where it has them.
var (
	buildInfo = desc("build_info", "A 1, labelled with the version of levee and of Go.", "version", "goversion")

	reloadSuccessful = desc("config_last_reload_successful", "A 1, or a 0 if the latest reload failed and the configuration is older than its file.")
	reloadTime       = desc("config_last_reload_success_timestamp_seconds", "When the configuration in force was loaded.")

	draining         = desc("draining", "A 1 while levee drains, or is about to stop because it has.")
	drainConnections = desc("drain_connections", "Connections that have to end before levee stops; only while it drains.")
	ready            = desc("ready", "A 1 while traffic is protected, else a 0, as /readyz says.")
	problems         = desc("problems", "What is wrong in the kernel and levee can't put right, see levee status.")
	repairs          = desc("repairs_total", "How often what others had changed in the kernel was put right, or rules followed a change of interfaces.", "what")

	conntrackTracking = desc("conntrack_tracking", "A 1 if the kernel tracks connections, so that protected traffic needs to be exempt, else a 0; only with routing.manage.")
	conntrackExempt   = desc("conntrack_exempt", "A 1 while levee's nftables table exempts protected traffic from connection tracking, else a 0; only with routing.manage.")

	synReceived   = desc("syn_received_total", "SYNs that were answered with a cookie.", "service")
	cookieValid   = desc("cookie_valid_total", "ACKs that carried a valid cookie.", "service")
	cookieInvalid = desc("cookie_invalid_total", "ACKs that carried a wrong or expired cookie.", "service")
	cookieRetrans = desc("cookie_retrans_total", "SYNs to the server that were sent again.", "service")
	connReopened  = desc("conn_reopened_total", "Valid ACKs on addresses and ports that still had a flow.", "service")
	opened        = desc("opened_total", "Flows whose server answered.", "service")
	refused       = desc("refused_total", "Flows that the server reset instead of answering.", "service")
	unreachable   = desc("unreachable_total", "Flows that an ICMP error ended before the server answered: there is no way to it.", "service")
	timedOut      = desc("timed_out_total", "Flows whose server did not answer.", "service")
	mismatched    = desc("mismatched_total", "Flows that were reset because the server lacks timestamps or ECN, which the client was promised.", "service")
	serverCookies = desc("server_cookies_total", "Flows whose server answered with a SYN cookie: its own queue of half-open connections is full.", "service")
	closedResets  = desc("closed_resets_total", "SYNs that got a RST because their port is known to be closed.", "service")
	earlyHeld     = desc("early_held_total", "Segments of clients that were held until their server had answered.", "service")
	allowed       = desc("allowed_total", "SYNs, and segments of no flow, that passed because their source is on the service's list.", "service")
	denied        = desc("denied_total", "SYNs, and segments of no flow, that were dropped because their source is on the service's list.", "service")
	verified      = desc("verified_total", "SYNs that passed because their source has completed a handshake lately.", "service")
	unknownResets = desc("unknown_resets_total", "Segments of no flow that were answered with a RST.", "service")
	adopted       = desc("adopted_total", "Connections from before the start, or let pass without a handshake, that are tracked since.", "service")
	serviceFlows  = desc("service_flows", "Flows in the table, those only remembered not counted.", "service")

	halfOpenReset = desc("half_open_resets_total", "Handshakes that had passed, before a flood was noticed or within bypass_rate, and were ended at the server because nobody answered it.", "service")
	synPassed     = desc("syn_passed_total", "SYNs that went to the server as they were, in the modes auto and monitor.", "service")
	engaged       = desc("engaged", "A 1 while the service has its SYNs answered with cookies because of a flood, or would have in mode monitor, else a 0; only of the modes auto and monitor.", "service")
	engagedHow    = desc("engaged_destinations", "Addresses and ports of servers that are engaged on their own.", "service")
	halfOpenLimit = desc("engage_half_open", "Unfinished handshakes that engage a destination, configured or learned.", "service")
	synRateLimit  = desc("engage_syn_rate", "SYNs in a second that engage a destination, configured or learned.", "service")
	floodsStarted = desc("floods_started_total", "Floods that have begun.", "service")
	floodsEnded   = desc("floods_ended_total", "Floods that have ended.", "service")
	floodPeak     = desc("flood_peak_syn_rate", "The most SYNs in a second of the flood that lasts, or else of the latest.", "service")
	floodStart    = desc("flood_start_timestamp_seconds", "When the flood that lasts, or else the latest, began; 0 if there was none.", "service")
	floodEnd      = desc("flood_end_timestamp_seconds", "When the latest flood ended; 0 while one lasts, or if there was none.", "service")
	mostHalfOpen  = desc("half_open_max", "Unfinished handshakes of the destination that has the most; of one that is engaged, the SYNs that nobody has stood by lately, up to the threshold.", "service")
	mostRate      = desc("syn_rate_max", "SYNs in the last second of the destination that got the most.", "service")
	wouldAnswer   = desc("would_answer_total", "SYNs that mode auto would have answered with a cookie, of mode monitor.", "service")
	wouldDrop     = desc("would_drop_total", "Packets that mode auto would have dropped, segments of no flow only unless they carried a cookie, of mode monitor.", "service")

	drops  = desc("drops_total", "Packets that went no further.", "reason")
	passed = desc("passed_total", "Packets that were forwarded as they came.", "reason")

	flows         = desc("flows", "Flows in the table.", "state")
	flowsEvicted  = desc("flows_evicted_total", "Flows forgotten before their time because the table was full; none of them was open.")
	flowsCapacity = desc("flows_capacity", "The most flows that the table holds.")
	earlyUsed     = desc("early_data_bytes", "Memory in use for what clients have sent before their servers answered.")
	earlySize     = desc("early_data_capacity_bytes", "The most memory for what clients send before their servers answer.")
	handshake     = desc("handshake_duration_seconds", "Of the server's half, the time from the first SYN to it until its SYN-ACK; of the client's, from the SYN-ACK to it until its ACK, of a sample.", "half")

	knownServers = desc("servers", "Server addresses and ports of which something is known.", "state")
	probes       = desc("probes_total", "SYNs of levee's own that asked a server what it does.", "outcome")

	tunRxDrops     = desc("tun_rx_drops_total", "Packets from levee that the kernel dropped as they left the TUN.")
	tunTxDrops     = desc("tun_tx_drops_total", "Packets for levee that found their queue of the TUN full.")
	tunRingPackets = desc("tun_ring_packets_total", "Packets that the kernel chose this queue of the TUN for; a superpacket is one.", "queue", "takes")
	tunRingDrops   = desc("tun_ring_drops_total", "Of those, the ones that found the queue full: exact if it was ever empty while it was looked at, otherwise the least it can be; never more than tun_tx_drops_total.", "queue", "takes")
	tunRefused     = desc("tun_refused_frames_total", "Frames from levee that the kernel did not take.", "reason")

	workerReceived      = desc("worker_received_frames_total", "Frames that the worker read; a superpacket is one.", "worker")
	workerSent          = desc("worker_sent_frames_total", "Frames that the worker wrote; a superpacket is one.", "worker")
	workerReceivedBytes = desc("worker_received_bytes_total", "Bytes of IP packets that the worker read.", "worker")
	workerSentBytes     = desc("worker_sent_bytes_total", "Bytes of IP packets that the worker wrote.", "worker")
)
