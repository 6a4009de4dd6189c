//go:build race

package proxy

// raceEnabled: the race detector allocates, so counts of allocations mean nothing under it.
const raceEnabled = true
