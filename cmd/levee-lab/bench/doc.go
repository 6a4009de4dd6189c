// Package bench compares what can stand on a gateway: plain forwarding, the kernel's SYNPROXY with and without timestamps,
// and levee. All of them are measured in one run in one lab, in turn, a different one first each time, and everything
// several times. Figures are medians; the least and the greatest stand beside them. A ratio is the median of the ratios of the
// repetitions, so that what slows the machine down for a while weighs on both. No figure is worth much on another machine,
// nor on a busy one: the report says how busy it was in the pauses.
//
//	client 0 ──────────────────────┐
//	client 1 ── 25 ms each way ────┤ gateway ── server
//	attacker ──────────────────────┘ plain, SYNPROXY or levee
//
// Every line is a veth pair (see package lab), all traffic is IPv4. The hosts, the generator and the gateway share the machine's CPUs. Servers
// have a window scale of 7 and timestamps, and the SYNPROXY rules say so, as its manual asks; levee has timestamps: true.
//
// A contender that doesn't see its traffic gives no figure: SYNPROXY's own counters, and levee's status, must have counted at least the
// SYNs that were answered and the connections that were made, and a TUN on the gateway spoils plain forwarding. What can't be
// measured for this or another reason is named in the report, and the run fails.
//
// # CPU
//
// Busy time is that of the whole machine: wall-clock time × CPUs, less the idle, waiting and stolen time of /proc/stat. The kernel
// counts idle time exactly, and busy time only by looking at each tick what is being done.
//
// # syn
//
// One core sends SYNs of Linux's shape from random addresses to one port. An answer is a SYN-ACK that arrives on the attacker's link, where it
// is counted and dropped. CPU per answered SYN is at one rate for all, 0.6 of what the slowest answers at the generator's
// limit or less, which is looked for at the beginning; each must answer 95 % or more. From the CPU time of this run is
// taken that of another, at the same rate, whose SYNs are dropped by nftables at the ingress of the gateway, so
// that the generator costs nothing. Then the generator sends as fast as it can. On veths the gateway's kernel receives on the
// sender's core: SYNPROXY and plain forwarding, which do all their work there, slow the generator down, while levee's workers
// use the other cores; hence what was sent is shown too. With plain forwarding the server itself answers, with tcp_syncookies=2.
//
// # bulk
//
// One connection or eight, toward the server (up) or the client (down), that the sender fills as fast as it can; a window
// in the middle is measured. CPU per gigabyte has the hosts' share in it, the larger part, for all contenders alike.
//
// # conn
//
// Sixteen workers connect, send a request of 100 bytes, get 1000, and close, one time after another. Then, with nothing else going
// on, 500 connections a second, evenly spread: the time from connect to the last byte. Then the same while the generator
// sends to the same port as fast as it can. Each run has a port of its own on the server, because SYNPROXY doesn't let a
// client's address and port connect again to a server's for two minutes.
//
// SYNPROXY with timestamps answers a server's SYN-ACK with a wrong TSecr, which Linux has dropped since 6.15. The server then
// hears of the connection by the client's request, or not even by that if its clock went on by a millisecond meanwhile: some
// connections hang for more than a second. So p99 while flooded is compared with the better of the two SYNPROXYs.
//
// # ttfb
//
// Connections from client 1, ten at once: the time from connect to the first byte, if the client sends a request, and if the
// server greets, and of a page by TLS 1.3, one at a time. The delay between them, in user space, is late by about 0.2 ms each time, for all contenders alike, and loses nothing.
// The medians are of those that were completed; a contender with less than nine in ten has none.
//
// # download
//
// Client 1 asks for 1 MiB or 20 MiB, one download at a time, from a server with BBR or CUBIC: the time from connect to the last byte. A
// proxy that acknowledges the server's SYN-ACK itself makes the server believe that its client is near, and BBR sizes its window by that.
// SYNPROXY without timestamps is left out: it takes 20 s for 20 MiB.
//
// # flows
//
// For levee only, on one daemon: connections of a synthetic client to a synthetic server, which keep no socket (see lab.Crowd).
// When all are open, as levee's status counts them: the resident memory of the process, divided by their number (all told), and
// what has come on top of the daemon's memory at its start. Then segments without payload, 100,000 a second, each on the next
// connection: CPU per packet that arrives, less that of packets dropped at the gateway's ingress, as for SYNs. With few
// connections all that levee looks up is in the CPU's caches, with a million next to nothing. Allocations
// are those of the whole daemon by its metrics, less those of the same time while the packets were dropped before it: the Go runtime, learning
// and the metrics allocate now and then. That the path of a packet allocates nothing is for tests to show. The pause is the longest of
// the latest 256, go_gc_duration_seconds{quantile="1"}.
//
// # Churn
//
// Churn isn't part of the comparison: a daemon alone, with synthetic hosts as above, whose client replaces its connections, the oldest
// first, by new ones from addresses and ports that had none before. One in sixteen ends with a RST of the client, the others
// with a FIN of each side; what gets no answer is sent again. A closed flow is remembered for a cookie's lifetime, so that the table
// holds 128 seconds' worth of them beside those that are open, and has to be large enough: the report says how full it was. Memory counts as flat
// if its mean of the last minute is within 2 % of that of the second; as pause, all that the world stands still for one collection.
package bench
