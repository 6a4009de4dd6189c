//go:build race

package tunnel

// raceEnabled excuses tests that count allocations: the race detector makes some itself.
const raceEnabled = true
