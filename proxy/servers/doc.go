// Package servers remembers what servers do: for each address and port the TCP options that its last SYN-ACKs showed, and
// whether it answers at all. It does no I/O, reads no clock and starts no goroutine; times are Unix seconds,
// so that knowledge survives a restart.
//
// Its memory is fixed. A Table is a cache of sets with a lock each, found by a keyed hash: a look-up takes one lock, writes
// nothing and allocates nothing. A full set makes room by forgetting what is over first, then the refusals of ports that
// never answered, and only then the server that was quiet for longest: whoever scans closed ports
// pushes out nothing that is known of open ones.
//
// # Who may teach it
//
// Only what a server answers to a SYN of the gateway's, on behalf of a client that returned a cookie or as
// a probe. Nothing is learned from a client's SYN, whose source anybody can forge. Still, what
// a server answers to one client need not be what it answers to another: its firewall may have banned that one. Therefore
//
//   - a port is refused only when a probe is too;
//   - one that has answered clients, moreover, only if it has answered probes before. Where it never did, it has to have been quiet
//     for a while, and then a client's word has to do;
//   - without probes a client's word does for a port that never answered;
//   - any SYN-ACK ends a refusal.
package servers
