// Package lab builds a small network out of Linux network namespaces, and has what it takes to
// use it: processes started inside, a web server and clients, packet loss and delay, captures, counters,
// the kernel's own SYN proxy to compare with, synthetic connections in crowds that stay and in a churn that comes and goes,
// and a bounded SYN generator. The latter three can send into the lab and nowhere else.
//
//	                        gateway (forwards IPv4 and IPv6; levee runs here)
//	                     ┌──────────────────────────────┐
//	client 0 eth0 ───────┤ client0              server0 ├─────── eth0 server 0
//	198.51.100.10        │ 198.51.100.1       192.0.2.1 │        192.0.2.10
//	2001:db8:2::a        │ 2001:db8:2::1   2001:db8:1::1│        2001:db8:1::a
//	                     │                              │
//	client 1 eth0 ───────┤ client1              server1 ├─────── eth0 server 1
//	     ...             │            attack0           │              ...
//	                     └───────────────┬──────────────┘
//	                                     │ 203.0.113.1, 2001:db8:3::1
//	                                     │ 203.0.113.10, 2001:db8:3::a
//	                                   eth0
//	                                  attacker
//	        spoofed sources 198.18.0.0/15 and 2001:db8:f000::/36 are routed back here
//
// Every line is a veth pair. The drawing shows one client and one server on its left and right
// edge; with more of them, the /24 and /64 of a side are divided evenly, and in each part the first
// address is the gateway's and the tenth the host's. Neighbours are permanent entries, so no ARP or
// neighbour discovery mixes with the traffic.
//
// A client's line may be longer: Config.ClientDelays puts a namespace between two pairs, in which a Delay
// holds every frame back for its time. And either side's lines may have a narrow place: Config.ClientHopMTU and
// Config.ServerHopMTU put a Hop into them.
//
// The namespaces have no name in the file system: descriptors and threads of this process hold
// them, and the kernel removes them with everything inside when the process ends, however it ends.
// Close is still the way to go, because it also stops the processes and removes the files.
// Nothing outside the namespaces is touched.
//
// All of it needs root.
package lab
