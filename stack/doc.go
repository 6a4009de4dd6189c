// Package stack knows bytes: it checks one IP packet once and gives a view of its TCP
// header, edits sequence numbers, SACK edges, timestamps and windows in place with the
// checksum kept right, and builds the few segments that a SYN proxy sends of its own.
//
// It does no I/O, reads no clock, writes no log and starts no goroutine. Nothing in it
// allocates per packet, and no input, however hostile, makes it panic or loop.
//
// A frame is a virtio_net_hdr followed by one IP packet, in one slice: what a read from a
// TUN queue returns and a write to it takes. The packet may be a superpacket of up to 64 KB
// that the kernel will segment later; a header edit then serves all of its segments.
package stack
