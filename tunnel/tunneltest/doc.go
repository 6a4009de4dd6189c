// Package tunneltest stands in for a TUN queue in tests: links in memory that behave as
// tunnel.Queue does, without root and without a kernel. Unlike the queue they allocate and
// copy. They use the clock only to bound a wait, so a test may run them under testing/synctest.
package tunneltest
