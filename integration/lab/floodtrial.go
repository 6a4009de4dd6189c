package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// FloodTrial is what a flood did to a levee, alone first and then while honest clients connect.
type FloodTrial struct {
	Kind FloodKind
	// Sent, Received and Emitted count packets of the flood alone: sent by the generator, and received and sent by levee's workers. What
	// others send because of it, such as resets of the sources' hosts, is received too.
	Sent              int
	Received, Emitted uint64
	// CPU time that levee took for it.
	CPU time.Duration
	// Memory resident before the trial and after it, in bytes.
	MemoryBefore, Memory int64
	// Honest is what became of the clients.
	Honest *LoadResult
	// Drops and Passed are packets by reason, in both parts, those that there are.
	Drops, Passed map[string]uint64
}

// PerPacket is how many packets levee sent for each of the flood's.
func (r *FloodTrial) PerPacket() float64 { return float64(r.Emitted) / float64(max(r.Sent, 1)) }

// settle is how long after a flood the last of its packets are through.
const settle = 100 * time.Millisecond

// TryFlood floods from the attacker for the time that cfg says, and again until the honest clients, who connect from the first client, have
// ended.
func (l *Lab) TryFlood(ctx context.Context, lv *Levee, cfg FloodConfig, honest Load) (*FloodTrial, error) {
	r := &FloodTrial{Kind: cfg.Kind}
	before, err := lv.Status(ctx)
	if err != nil {
		return nil, err
	}
	cpu, memory, err := lv.usage()
	if err != nil {
		return nil, err
	}
	r.MemoryBefore = memory
	f, err := l.Attacker.Link.StartFlood(ctx, cfg)
	if err != nil {
		return nil, err
	}
	alone, err := f.Wait()
	if err != nil {
		return nil, err
	}
	time.Sleep(settle)
	after, err := lv.Status(ctx)
	if err != nil {
		return nil, err
	}
	cpuAfter, _, err := lv.usage()
	if err != nil {
		return nil, err
	}
	r.Sent, r.CPU = alone.Sent, cpuAfter-cpu
	for i := range after.Workers {
		r.Received += after.Workers[i].Received - before.Workers[i].Received
		r.Emitted += after.Workers[i].Sent - before.Workers[i].Sent
	}

	cfg.Duration, cfg.Count = MaxFloodDuration, MaxFloodCount
	if f, err = l.Attacker.Link.StartFlood(ctx, cfg); err != nil {
		return nil, err
	}
	r.Honest, err = honest.Run(ctx, l.Clients[0].Namespace)
	_, e := f.Stop()
	if err := errors.Join(err, e); err != nil {
		return nil, err
	}
	if after, err = lv.Status(ctx); err != nil {
		return nil, err
	}
	r.Drops, r.Passed = grown(before.Drops, after.Drops), grown(before.Passed, after.Passed)
	_, r.Memory, err = lv.usage()
	return r, err
}

// grown is by how much counters have grown, those that have.
func grown(before, after map[string]uint64) map[string]uint64 {
	g := make(map[string]uint64)
	for k, n := range after {
		if n > before[k] {
			g[k] = n - before[k]
		}
	}
	return g
}

// usage is the CPU time that the daemon has taken, and its resident memory in bytes.
func (lv *Levee) usage() (cpu time.Duration, memory int64, err error) {
	pid := lv.Process().Pid()
	fail := func(err error) (time.Duration, int64, error) {
		return 0, 0, fmt.Errorf("read what process %d uses: %w", pid, err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return fail(err)
	}
	// The name, in brackets, may hold anything; behind it utime and stime are fields 14 and 15 of proc_pid_stat(5), in USER_HZ, and rss is
	// field 24, in pages.
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 22 {
		return fail(errors.New("too few fields"))
	}
	var n [3]int64
	for i, at := range []int{14, 15, 24} {
		if n[i], err = strconv.ParseInt(fields[at-3], 10, 64); err != nil {
			return fail(err)
		}
	}
	const hertz = 100
	return time.Duration(n[0]+n[1]) * time.Second / hertz, n[2] * int64(os.Getpagesize()), nil
}
