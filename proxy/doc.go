// Package proxy is the SYN proxy: it answers SYNs with cookies, opens the server side for clients that
// return one, and translates between the two halves. It works on frames (see package
// stack) that a Link brings, and does no other I/O; time is an argument.
//
// One connection's life, with the sequence numbers that appear on each side. The client's own numbers
// (c, from its initial sequence number C) pass unchanged; the server's start at S, but the client was told the
// cookie K, so every server number gets Δ = K - S added on its way to the client:
//
//	client                        levee                          server
//	  │ SYN seq=C ────────────────▶ │                               │   nothing is stored
//	  │ ◀──── SYN-ACK seq=K ack=C+1 │                               │   window: Service.EarlyData
//	  │ ACK seq=C+1 ack=K+1 ──────▶ │ cookie good: StateOpening     │
//	  │                             │ SYN seq=C ───────────────────▶│   again after 1, 2, 4 s
//	  │ first data ───────────────▶ │ held, see earlyPool           │
//	  │                             │ ◀────────── SYN-ACK seq=S ack=C+1
//	  │                             │ ACK seq=C+1 ack=S+1 ─────────▶│   StateOpen
//	  │                             │ first data ──────────────────▶│   acknowledged by the server only
//	  │ ◀──────── ACK seq=K+1, window of the server                 │
//	  │ data seq=c ack=s+Δ ────────▶ seq=c ack=s ──────────────────▶│
//	  │ ◀──────── seq=s+Δ ack=c  ◀──────────────────── seq=s ack=c  │
//	  │ FIN ───────────────────────────────────────────────────────▶│
//	  │ ◀─────────────────────────── StateClientClosed ◀─────── ACK │   a FIN counts when it is acknowledged
//	  │ ◀────────────────────────────────────────────────────── FIN │
//	  │ ACK ───────────────────────▶ StateTimeWait ────────────────▶│   remembered for four minutes
//
// A connection that a protected server opens itself, or whose SYN can't be proxied (TCP-MD5, TCP-AO, MPTCP joins), is tracked without
// translation (see direct.go).
//
// SACK edges move with the acknowledgement number, timestamps by a difference of their own, and
// windows from the scale of the host that sent them to the scale the other was told. An ICMP error on its way to the server has Δ
// taken off the number that it quotes; one about levee's SYN is a reset for the client.
//
// What the SYN-ACK promises is what the server itself does, as far as package servers has learned it from
// SYN-ACKs and probes; a server that does less than that is made up for by rescaling windows, and for timestamps and
// ECN, where nothing can be made up, by a reset. A port that is known not to answer gets no SYN-ACK at all.
//
// # Who owns what
//
// A Worker owns its Link, its buffers and its counters. The flow table is shared and striped:
// a stripe's lock guards everything in it, and a packet takes exactly one. Both directions of a flow normally
// arrive at the same worker, so the locks are nearly always free; they make every
// other case (fragments, another queue count after a restart) right without a special path.
package proxy
