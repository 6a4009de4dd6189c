// Package metrics serves the daemon's counters to Prometheus. It is the only importer of the metrics client.
//
// The workers own plain counters; this package reads a snapshot of them when it is scraped and
// counts nothing itself. No label has a value that an outsider can choose: services, reasons and states
// are words from the configuration and the code.
package metrics
