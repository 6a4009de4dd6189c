// Package flood notices SYN floods: for each destination, an address and port of a server, and for each service as a whole. It
// sees every SYN and what became of it, and says when handshakes must no longer go to the servers.
//
// Nothing an outsider sends makes it grow. There are three parts, all of fixed size and under keyed hashes:
//
//	destinations   4,096 in sets of 8, found by Misra and Gries's rule: of the SYNs to a set, whoever gets more than a ninth has a place. A flood
//	               spread over everything that is protected hides a destination only below its rate / 4,600: one with 217 SYN/s
//	               from a million SYN/s.
//	half-open      114,688 handshakes that have begun and not ended, each for Lifetime, in buckets of 7. One tuple is one of
//	               them, however often its SYN is sent. Of two tuples in a bucket one in 500,000 is taken for the other; while more than half of
//	               all places are used some are forgotten early, so counts are then too low, never too high.
//	baseline       one number for each of the last 168 hours, for thresholds that are learned. The few busiest hours don't count, those of the first day
//	               neither: a rush is not taken for usual. What has become usual counts from its third hour on.
//
// A destination is engaged at once when the SYNs of a second or the half-open handshakes reach its limit. What spreads over more
// destinations than any limit notices engages the service as a whole, at Spread times the limits.
//
// While a destination is engaged its server gets no handshake that isn't proved, so that nothing is half-open there. Instead the
// SYNs whose cookie has not come back are counted, with a half-life of Limits.Hold, from no more than the limit: that takes as long to fall to
// half of it once the flood has ended. Then, and if the SYNs of a second were below half their limit for as long, it is let go.
package flood
