package bench

import (
	"testing"
	"time"
)

const procStat = `cpu  100 0 50 1000 20 0 7 30 0 0
cpu0 50 0 25 500 10 0 3 15 0 0
cpu1 50 0 25 500 10 0 4 15 0 0
intr 12345 0 0
ctxt 1
`

func TestParseCPU(t *testing.T) {
	m, err := parseCPU(procStat)
	if err != nil || m.cpus != 2 || m.idle != 10_200*time.Millisecond || m.stolen != 300*time.Millisecond {
		t.Errorf("%+v, %v", m, err)
	}
	for name, bad := range map[string]string{
		"nothing":       "",
		"no CPU":        "cpu  1 2 3 4 5 6 7 8\n",
		"too few":       "cpu  1 2 3 4 5 6 7\ncpu0 1\n",
		"not a number":  "cpu  1 2 3 x 5 6 7 8\ncpu0 1\n",
		"another file":  "MemTotal: 12 kB\n",
		"negative sign": "cpu  1 2 3 -- 5 6 7 8\ncpu0 1\n",
	} {
		if m, err := parseCPU(bad); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

func TestUsage(t *testing.T) {
	begin := time.Now()
	for _, tc := range []struct {
		name         string
		idle, stolen time.Duration
		busy         time.Duration
		share        float64
	}{
		{"all idle", 4 * time.Second, 0, 0, 0},
		{"all busy", 0, 0, 4 * time.Second, 1},
		{"half", 2 * time.Second, 0, 2 * time.Second, 0.5},
		{"half of what isn't stolen", time.Second, 2 * time.Second, time.Second, 0.25},
		{"more idle than there is, by the coarse clock", 4010 * time.Millisecond, 0, 0, 0},
	} {
		before := cpuMark{at: begin, cpus: 2, idle: time.Hour, stolen: time.Minute}
		after := cpuMark{at: begin.Add(2 * time.Second), cpus: 2, idle: time.Hour + tc.idle, stolen: time.Minute + tc.stolen}
		u := after.since(before)
		if u.wall != 2*time.Second || u.busy != tc.busy || u.share(2) != tc.share {
			t.Errorf("%s: %+v, share %v", tc.name, u, u.share(2))
		}
	}
	if s := (usage{}).share(2); s != 0 {
		t.Errorf("the share of no time is %v", s)
	}
}

// The machine's own file has what is expected of it, and a CPU that works shows.
func TestMarkCPU(t *testing.T) {
	before, err := markCPU()
	if err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); time.Since(begin) < 200*time.Millisecond; {
	}
	after, err := markCPU()
	if err != nil {
		t.Fatal(err)
	}
	u := after.since(before)
	// The idle time of a CPU is to the 10 ms; some may have been stolen from us.
	if least := 100 * time.Millisecond; u.busy < least || u.busy > u.wall*time.Duration(after.cpus) {
		t.Errorf("%v busy in %v on %d CPUs, while one worked", u.busy, u.wall, after.cpus)
	}
}
