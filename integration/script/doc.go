// Package script runs packet scripts: exact sequences of segments that the two ends of a connection send, and of what
// each must see. Both ends are scripted, no TCP answers by itself, so that a script shows all that a SYN proxy between
// them does. A script is a text file, read line by line:
//
//	# The handshake: what this script shows, in the lines before the first step.
//	config: timestamps=true
//
//	client > S  seq=1000 opts=mss:1460,sack,ts:100:0,ws:7
//	client < SA seq=K ack=1001 opts=mss:1460,sack,ts:T:100,ws:7
//	client > A  seq=1001 ack=K+1 opts=ts:101:T
//	server < S  seq=1000 opts=mss:1460,sack,ts:101:0,ws:7
//	server > SA seq=5000 ack=1001 opts=mss:1460,sack,ts:900:101,ws:9
//	server < A  seq=1001 ack=5001 opts=ts:101:900
//	client < A  seq=K+1 ack=1001 opts=ts:T:101
//	nothing both 300ms
//
// # Head
//
// Words before the first step, each on its line:
//
//	config: key=value ...      options of the service, as levee's configuration writes them; server_ack is "immediate" if unsaid
//	only: IPv4                 or IPv6; otherwise a script runs over both, from the same text
//	tolerance: 500ms           how far "after" may be off, 700ms if left out
//	mtu: 9000                  of the links at both edges, 1500 if left out
//
// # Steps
//
//	SIDE > FLAGS word ...      the side sends a segment
//	SIDE < FLAGS word ...      the next packet to come to the side is this
//	SIDE > icmp KIND word ...  a router on the side sends an ICMP error about a segment that was on its way to the side
//	SIDE < icmp KIND word ...  such an error comes to the side, about a segment of its own
//	SIDE > rest word ...       a later fragment; also with "<"
//	wait 1.2s                  a pause
//	nothing SIDE 300ms         nothing comes to the side (or "both") for so long
//	let S = 5000               names a number
//	include open               the steps of another file, include/open.txt
//	known: reason              the next step is right and levee is not, yet: it must fail. "known IPv6:" over one family
//
// A packet waits until its step is reached; whatever no step has asked for by the end of the script fails it. FLAGS are letters: F, S, R, P, A,
// U, E (ECE), C (CWR), N (AE, once NS) and "-" for none.
//
// Numbers are sums of decimal or 0x numbers and names, as in K+1, modulo 2^32. In what is to come, "*" is any number, A..B any from A to B, and a name that isn't
// bound yet takes the number that came.
//
//	seq= ack=        always to be said of what comes, ack only with A among the flags; 0 if unsaid in what is sent
//	win=             window field; 64240 if unsaid in what is sent, not compared if unsaid in what comes
//	len=             bytes of payload, 0 if unsaid
//	opts=            TCP options, "none" or a list of those below; NOP and the order of what comes don't matter
//	exact=           instead of opts, where order and NOP do matter
//	urg= res=        urgent pointer, the three reserved bits; 0 if unsaid
//	dscp= ecn=       of the IP header; 0 if unsaid
//	label=           IPv6 flow label; not compared if unsaid in what comes, and left out over IPv4
//	ttl=             64 if unsaid, not compared if unsaid in what comes
//	ip=              IP options or extension headers, in order: options (either family), router-alert, hop, dst, route, ah
//	frag=0+          offset of the fragment in bytes, with "+" if more follow
//	bad=checksum     the TCP checksum is wrong, by as much in what comes as in what is sent
//	land             source and destination are the server's (in what is sent)
//	conn=2           the segment belongs to a second connection, from the next client port (up to 4)
//	after=1s         when it comes, counted from the last step's packet
//	mtu= quote=      of an ICMP error: the next hop's MTU, and how many bytes of TCP it quotes, 20 if unsaid
//
// The options: mss:N, ws:N, sack (permitted), sack:A..B (blocks, as in sack:1..2:5..6), ts:VAL:ECR, nop, eol, tfo or tfo:HEX, md5,
// ao, mp_capable, mp_join, accecn, and opt:KIND:HEX for any other.
//
// The kinds of ICMP error, each that of the family: port (unreachable), host (unreachable), prohibited, exceeded (hops), toobig.
//
// A segment carries a pattern that depends on nothing but its length. TCP and IP checksums of what comes are always checked.
package script
