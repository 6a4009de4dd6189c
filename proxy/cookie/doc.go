// Package cookie makes and checks SYN cookies: initial sequence numbers (ISNs) that carry what a
// server has to remember of a SYN, so that it need not remember it until the client has shown that it
// exists. It does no I/O but LoadSecret's, reads no clock, starts no goroutine, and its per-packet
// calls allocate nothing. It needs nothing else of levee.
//
// # Bits
//
// A client that uses timestamps (RFC 7323 §3) echoes 64 bits, one that doesn't echoes 32:
//
//	                  31   30..28  27..25   24    23..0
//	ISN, plain       ┌─────┬───────┬────────┬──────┬──────────────────┐
//	                 │ key │  MSS  │ wscale │ SACK │       MAC        │
//	                 └─────┴───────┴────────┴──────┴──────────────────┘
//	                  31   30..28  27..0
//	ISN, timestamps  ┌─────┬───────┬──────────────────────────────────┐
//	                 │ key │  MSS  │             MAC, low             │
//	                 └─────┴───────┴──────────────────────────────────┘
//	                  31..6                       5     4      3..0
//	TSval            ┌───────────────────────────┬─────┬──────┬───────┐
//	                 │         MAC, high         │ ECN │ SACK │ wscale│
//	                 └───────────────────────────┴─────┴──────┴───────┘
//
// MSS and the plain layout's wscale are indexes into tables, rounded down (- is a SYN without the option):
//
//	index    0    1    2    3    4    5    6    7
//	IPv4   536 1200 1360 1400 1440 1452 1460 8960
//	IPv6  1220 1280 1340 1380 1420 1432 1440 8940
//	wscale   -    0    2    5    6    7    8   10
//
// In the timestamps layout wscale is the shift itself, 0 to 14, or 15 for a SYN without the option.
// The plain layout has no room for ECN: a SYN-ACK made with Issue must not accept it.
//
// # MSS below the table
//
// An MSS smaller than entry 0, and a SYN without the option (MSS 0), give entry 0 back. For the
// missing option that is the value the standards assume (RFC 9293 §3.7.1). For a smaller MSS it is the
// one case in which a cookie gives back more than the client said. Linux does the same, and it is the
// safer error: every IPv4 host takes in datagrams of 576 bytes (RFC 1122 §3.3.2), every IPv6 link
// carries 1280 (RFC 8200 §5), path MTU discovery repairs the rest, and a server can't be made to cut
// its answers into crumbs by SYNs that claim an MSS of a few bytes. A caller that wants to treat such
// clients differently finds them before it answers: RoundMSS(v6, mss) > mss, mss not 0.
//
// # MAC
//
// Epoch N is 64 s of Unix time, N = floor(unix/64). Its key is 16 bytes,
//
//	HKDF-SHA256(IKM = secret, salt = none, info = "levee cookie v1 epoch N")
//
// (RFC 5869) with N in decimal, taken as SipHash takes keys: two little-endian 64-bit numbers. The key
// bit of the ISN is the epoch's parity, so a check knows which of the last two epochs it is about and
// computes one hash for each ISN the client may have had. The MAC comes from SipHash-2-4, 64 bits, of
// this message (integers in network byte order):
//
//	offset  bytes
//	0       1         layout: bit 0 set = timestamps, bit 1 set = IPv6
//	1       1         MSS index, as in bits 30..28 of the ISN
//	2       1         other options: bits 27..24 of the ISN, or (timestamps) 5..0 of the TSval
//	3       1         context, which is the caller's: 0 if there is none
//	4       4         client ISN
//	8       2, 2      client port, server port
//	12      4, 4      client address, server address; IPv6: 16, 16
//
// Plain: MAC = bits 23..0 of the hash. Timestamps: low = bits 27..0, high = bits 63..38. A connection
// is IPv4 if both addresses are v4-mapped. Test vectors are in testdata/vectors.json, made by
// testdata/vectors.py, which shares no code with this package.
//
// # Life
//
// A cookie is good for the rest of its epoch and the whole next one: more than 64 s, at most 128 s. A
// cookie of an epoch that hasn't begun for the checker is refused: use one clock for making and
// checking, and on nodes that share a secret keep the clocks closer than a round trip to the clients.
//
// A check doesn't use a cookie up. Whoever sees a client's ACK can replay it during the cookie's life,
// so the caller has to recognise connections that it has already opened.
//
// # Forged ACKs
//
// A sender that never sees the SYN-ACK can only guess the MAC. SEQ-1 and SEQ are both tried as client
// ISN, so an ACK of random numbers has two chances:
//
//	plain        2 / 2^24      = 2^-23, 1 in 8.4 million; at 1,000,000 ACKs a second one in 8.4 s
//	timestamps   2 / 2^(28+26) = 2^-53, 1 in 9.0·10^15;   at 1,000,000 ACKs a second one in 285 years
//
// The key bit and the options add nothing, since every value of them occurs in cookies. The sender
// chooses the layout: an ACK without timestamps is checked as a plain cookie, so count with 2^-23. What
// it wins is one connection from an address that it need not own: an address that only a cookie has
// confirmed is no proof of identity. Gate tells when no cookie can be out and ACKs need no check.
package cookie
