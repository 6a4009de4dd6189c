// Package routes steers the traffic of protected prefixes into levee's TUN and back out of it:
// the policy rules, the routing table and the sysctls that this takes.
//
// It works from a desired state. Read takes from the kernel what matters, NewPlan turns it and the
// configuration into a Plan without touching anything, and a Plan can be printed as commands,
// compared with the kernel, applied and removed.
//
//	client ─▶ eth-c ─ P+1: iif eth-c to P tcp ─▶ table T ─▶ TUN ─ P: iif TUN ─▶ main ─▶ eth-s ─▶ server
//	client ◀─ eth-c ◀─ main ◀─ P: iif TUN ─ TUN ◀─ table T ◀─ P+2: iif eth-s from P tcp ─ eth-s ◀─ server
//
// Every rule and route it makes carries the protocol tag Protocol. What carries the tag is levee's
// own and is deleted without asking; what doesn't is never changed or deleted, and if it is in the
// way the plan is refused. Old values of sysctls are kept in a file, so that they can be put back
// even after the process was killed.
//
// Everything acts in the network namespace of the calling thread. A caller that changes
// namespaces has to lock its goroutine to the thread.
//
// The rules name interfaces. An interface that comes up, or a route that moves, after the plan was
// made is not in it: Watch tells when to make another, and Update puts that in force.
//
// Where the kernel tracks connections, protected traffic is exempted in an nftables table of levee's own: each segment passes twice, with the
// numbers of two connections.
package routes
