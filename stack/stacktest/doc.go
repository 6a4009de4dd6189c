// Package stacktest makes TCP packets for tests, sound and broken ones, and reads them back.
//
// It stands beside package stack as the slow and obvious second opinion: it uses the standard
// library only, shares no code with what it judges, copies freely and computes every checksum
// anew. Not for use outside tests.
package stacktest
