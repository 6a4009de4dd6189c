// Package integration holds the tests that run the built levee between real hosts: kernel TCP at both ends, in network
// namespaces, with real peers. `make integration` builds the binary and installs the peers.
package integration
