// Package flood notices SYN floods: for each destination, an address and port of a server, and for each service as a whole. It
// sees every SYN and what became of it, and says when handshakes must no longer go to the servers.
//
// Nothing an outsider sends makes it grow. There are three parts, all of fixed size and under keyed hashes, the first two shared by all services:
//
//	destinations   4,096 places in sets of 8, by Misra and Gries's rule: of the SYNs to a set, whoever gets more than a ninth has a place. What goes
//	               to a service that is engaged as a whole has only what the others leave. SYNs are counted with a place only, so that a flood spread over
//	               everything else that is protected hides a SYN rate below its own / 4,600: 217 SYN/s from a million SYN/s.
//	half-open      114,688 handshakes that have begun and not ended, each for Lifetime, in buckets of 7. One tuple is one of
//	               them, however often its SYN is sent; of two tuples in a bucket one in 500,000 is taken for the other. They are counted
//	               for every destination, with a place or without, by two of 8,192 numbers each, of which the smaller counts; and for every service.
//	baseline       one number for each of the last 168 hours, for thresholds that are learned. The few busiest hours don't count, those of the first day
//	               neither: a rush is not taken for usual. What has become usual counts from its third hour on.
//
// A SYN rate that is hidden is that of handshakes which end: those of a flood are half-open. What goes to a destination or a service that is engaged isn't
// among these, and a service has no more of them than engage it as a whole, so that a flood of one doesn't push out those of another. The
// error that remains:
//
//	too low    by what is forgotten early, while more than half of all places are used, 57,344. That takes 112 services at once that each stay just below the
//	           512 that engage a whole service where nothing else is learned or configured, or fewer with higher limits; one alone if its half_open is above 7,168.
//	too high   by what others have that share both numbers: by 1 in one of 300 destinations while 512 are half-open elsewhere, by 6 (12 in one of 100) while
//	           57,344 are. A destination is then engaged that much below its limit.
//
// A destination is engaged at once when the SYNs of a second or the half-open handshakes reach its limit. What spreads over more
// destinations than any limit notices engages the service as a whole, at Spread times the limits.
//
// While a destination is engaged its server gets no handshake that isn't proved, so that nothing is half-open there. Instead the
// SYNs whose cookie has not come back are counted, with a half-life of Limits.Hold, from no more than the limit: that takes as long to fall to
// half of it once the flood has ended. Then, and if the SYNs of a second were below half their limit for as long, it is let go.
package flood
