package stack_test

import (
	"flag"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	// More checks than rapid's 100, since each costs microseconds, and no files left behind by a failure, which
	// names its seed. The command line still overrides both.
	checks := "3000"
	if raceOn {
		checks = "500" // everything is ten times slower, and no goroutine in sight
	}
	for name, value := range map[string]string{"rapid.checks": checks, "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
