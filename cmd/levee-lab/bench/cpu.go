package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// cpuMark is what all CPUs of the machine had done when it was made.
type cpuMark struct {
	at   time.Time
	cpus int
	// idle time of all CPUs, waiting for disks included; stolen time is what the machine below gave to others.
	idle, stolen time.Duration
}

// cpuTick is the unit of /proc/stat: Linux's USER_HZ is 100 everywhere.
const cpuTick = time.Second / 100

func markCPU() (cpuMark, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return cpuMark{}, fmt.Errorf("read CPU times: %w", err)
	}
	m, err := parseCPU(string(text))
	if err != nil {
		return cpuMark{}, fmt.Errorf("read CPU times: /proc/stat: %w", err)
	}
	m.at = time.Now()
	return m, nil
}

// parseCPU reads the first lines of /proc/stat: the sum of all CPUs, then each.
func parseCPU(text string) (m cpuMark, err error) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || !strings.HasPrefix(f[0], "cpu"):
		case f[0] != "cpu":
			m.cpus++
		case len(f) < 9:
			return m, fmt.Errorf("%d values of all CPUs, want 8 or more", len(f)-1)
		default:
			// user nice system idle iowait irq softirq steal
			var ticks [8]int64
			for i := range ticks {
				if ticks[i], err = strconv.ParseInt(f[i+1], 10, 64); err != nil {
					return m, err
				}
			}
			m.idle = time.Duration(ticks[3]+ticks[4]) * cpuTick
			m.stolen = time.Duration(ticks[7]) * cpuTick
		}
	}
	if m.cpus == 0 {
		return m, fmt.Errorf("no CPU in it")
	}
	return m, nil
}

// usage is what all CPUs did between two marks.
type usage struct {
	wall time.Duration
	// busy is the CPU time in which none was idle, stolen time left out.
	busy time.Duration
}

// since returns the usage from an earlier mark to this one. The kernel keeps idle time to the microsecond, but samples the kinds of
// busy time at its tick, so busy is what is left when all others are taken away.
func (m cpuMark) since(earlier cpuMark) usage {
	wall := m.at.Sub(earlier.at)
	busy := wall*time.Duration(m.cpus) - (m.idle - earlier.idle) - (m.stolen - earlier.stolen)
	return usage{wall: wall, busy: max(busy, 0)}
}

// share of all CPUs' time that was busy, 0 to 1.
func (u usage) share(cpus int) float64 {
	if u.wall <= 0 {
		return 0
	}
	return u.busy.Seconds() / (u.wall.Seconds() * float64(cpus))
}
