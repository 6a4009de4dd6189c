// Package daemon wires everything together: it takes a checked configuration and runs a SYN proxy with it,
// shows what that would do to the machine, and cleans up after one that could not.
//
// Run makes things in this order and undoes them in the reverse one, whether it ends because
// it was asked to or because a step failed:
//
//	claims ─▶ secret ─▶ TUN ─▶ knowledge of servers ─▶ workers ─▶ control socket ─▶ metrics port ─▶ rules and routes ─▶ ready
//
// Rules come last because from then on traffic depends on all the rest, and go first so that
// traffic goes straight while the rest is taken down. What waits in the TUN then is still
// carried, for a bounded time.
package daemon
