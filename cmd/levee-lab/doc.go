// Command levee-lab builds networks out of namespaces to try levee on: a demo that floods a server
// with and without levee in front of it, a benchmark beside the kernel's SYN proxy, a churn of connections
// among a million, and a network to play with. It holds a SYN generator, which is why it is not part of the daemon. The generator sends into its
// own namespaces only.
package main
