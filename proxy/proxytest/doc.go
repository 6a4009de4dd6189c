// Package proxytest is a network in memory for tests of package proxy: a client host and a server host, each a
// gVisor TCP/IP stack, and levee between them, all under one fake clock, in one process, without root.
//
//	client host ──FromClient──▶ ┌────────┐ ──ToServer────▶ server host
//	  or Peer   ◀──ToClient──── │ Worker │ ◀──FromServer──   or Peer
//	                            └────────┘
//
// Everything runs on the goroutine of the test: gVisor's own goroutines stand still except while the network waits
// for them to work off one packet. With the same Config, seed included, a test therefore
// sees the same packets at the same times in every run. Time passes only in Network.Advance and Network.Until.
//
// A Hook at any of the four hops sees every packet there and may drop, change, delay or repeat it. A Peer
// is an address without a stack, whose packets the test writes and reads itself. The network keeps a
// Trace, logs it when a test has failed, and itself fails a test for frames that the kernel would refuse and for
// packets that a host finds malformed.
//
// Network.Impair makes the wires lose, double, delay and corrupt packets, and Network.Narrow carry less than they did; a
// Tracker judges every segment as the host that gets it would. With Config.Direct a plain router is in levee's
// place, to compare with.
package proxytest
