package tunnel

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// remembering is the steering program under a clock of the test's own.
type remembering struct {
	*steering
	clock *ebpf.Map
}

func newRemembering(t *testing.T) *remembering {
	t.Helper()
	needRoot(t)
	clock, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = clock.Close() })
	r := &remembering{newTestSteering(t, 4, asm.Instructions{
		asm.LoadMapValue(asm.R1, clock.FD(), 0),
		asm.LoadMem(asm.R0, asm.R1, 0, asm.DWord),
	}), clock}
	return r
}

func (r *remembering) set(t *testing.T, now time.Duration) {
	t.Helper()
	if err := r.clock.Put(uint32(0), uint64(now)); err != nil {
		t.Fatal(err)
	}
}

// numbered is an IPv4 SYN of one client with this source address and sequence number.
func numbered(src, isn uint32) []byte {
	b := ip4(1, 2, 3, 4, 2, 0, 0)
	binary.BigEndian.PutUint32(b[12:], src)
	binary.BigEndian.PutUint32(b[24:], isn)
	return b
}

// TestRepeats shows which SYNs count as sent again.
func TestRepeats(t *testing.T) {
	r := newRemembering(t)
	syn6 := ip6(9, 2, 3, 4, 2, extension{unix.IPPROTO_DSTOPTS, make([]byte, 8)})
	change := func(packet []byte, at int) []byte {
		packet = append([]byte(nil), packet...)
		packet[at] ^= 1
		return packet
	}
	other := ip4(1, 2, 3, 4, 2, 0, 0)
	now := time.Duration(0)
	for _, tt := range []struct {
		name   string
		packet []byte
		after  time.Duration
		queue  int
	}{
		{"a SYN", numbered(1, 1), time.Hour, SYNQueue},
		{"again after 1 s", numbered(1, 1), time.Second, RepeatQueue},
		{"again after 2 s", numbered(1, 1), 2 * time.Second, RepeatQueue},
		{"again after 4 s", numbered(1, 1), 4 * time.Second, RepeatQueue},
		{"again after 8 s", numbered(1, 1), 8 * time.Second, SYNQueue},
		{"again at once", numbered(1, 1), time.Millisecond, SYNQueue},
		{"after 0.2 s", numbered(1, 1), 200 * time.Millisecond, SYNQueue},
		{"after 0.2 s once more", numbered(1, 1), 200 * time.Millisecond, SYNQueue},
		{"another one", other, 0, SYNQueue},
		{"of another source", change(other, 15), time.Second, SYNQueue},
		{"to another destination", change(other, 18), 0, SYNQueue},
		{"from another port", change(other, 21), 0, SYNQueue},
		{"to another port", change(other, 23), 0, SYNQueue},
		{"with another sequence number", change(other, 27), 0, SYNQueue},
		{"the same, with another acknowledgement number", change(other, 31), 0, RepeatQueue},
		{"IPv6", syn6, time.Second, SYNQueue},
		{"IPv6 again", syn6, time.Second, RepeatQueue},
		{"IPv6 with another sequence number", change(syn6, 48+7), time.Second, SYNQueue},
		{"cut off before the ports end", ip4(1, 2, 3, 4, 2, 0, 0)[:22], time.Second, SYNQueue},
	} {
		now += tt.after
		r.set(t, now)
		if got := steer(t, r.steering, tt.packet); got != tt.queue {
			t.Errorf("%s: queue %d, want %d", tt.name, got, tt.queue)
		}
	}
	// With two queues there is only one for SYNs.
	two := newTestSteering(t, 2, repeatClock)
	if got := steer(t, two, other); got != SYNQueue {
		t.Errorf("with 2 queues a SYN goes to queue %d", got)
	}
}

// TestRepeatsProperty compares the memory with one that keeps everything.
func TestRepeatsProperty(t *testing.T) {
	r := newRemembering(t)
	first := uint32(0)
	now := 10 * time.Hour
	rapid.Check(t, func(rt *rapid.T) {
		first += 16 // SYNs that no earlier case has sent
		last := map[uint32]uint64{}
		for range rapid.IntRange(1, 60).Draw(rt, "SYNs") {
			now += time.Duration(rapid.Int64Range(0, int64(3*time.Second)).Draw(rt, "pause"))
			r.set(t, now)
			isn := first + rapid.Uint32Range(0, 7).Draw(rt, "SYN")
			unit := uint64(now) >> repeatUnitShift
			want := SYNQueue
			if before, sent := last[isn]; sent {
				if age := (unit - before) % repeatUnits; age >= repeatYoungest && age <= repeatOldest {
					want = RepeatQueue
				}
			}
			last[isn] = unit
			if got := steer(t, r.steering, numbered(7, isn)); got != want {
				rt.Fatalf("queue %d, want %d", got, want)
			}
		}
	})
}

// TestRepeatsInFlood sends clients' SYNs and, a second later, those again, in a flood of forged ones. The former are
// told from the latter, but for the one in some thousands both of whose cells others have hit just before.
func TestRepeatsInFlood(t *testing.T) {
	const (
		rate    = 60_000 // forged SYNs a second
		seconds = 2
		every   = 200 // forged SYNs to one of a client
	)
	r := newRemembering(t)
	random := rand.New(rand.NewPCG(1, 2))
	type client struct{ src, isn uint32 }
	var waiting []client
	var missed, repeated, mistaken int
	for i := range rate * seconds {
		if i%100 == 0 {
			r.set(t, time.Hour+time.Duration(i)*time.Second/rate)
		}
		if i%every == 0 {
			c := client{random.Uint32(), random.Uint32()}
			waiting = append(waiting, c)
			steer(t, r.steering, numbered(c.src, c.isn))
			if i >= rate {
				c, waiting = waiting[0], waiting[1:]
				repeated++
				if steer(t, r.steering, numbered(c.src, c.isn)) != RepeatQueue {
					missed++
				}
			}
		}
		if steer(t, r.steering, numbered(random.Uint32(), random.Uint32())) != SYNQueue {
			mistaken++
		}
	}
	if repeated != rate/every || missed > repeated/100 {
		t.Errorf("%d of %d retransmissions went to the queue of first SYNs", missed, repeated)
	}
	if mistaken > rate*seconds/1000 {
		t.Errorf("%d of %d forged SYNs count as sent again", mistaken, rate*seconds)
	}
}

// BenchmarkSteering is the program's part in the kernel's way with a packet, without what a cache miss of its memory costs.
func BenchmarkSteering(b *testing.B) {
	needRoot(b)
	for _, bb := range []struct {
		name   string
		queues int
		packet []byte
	}{
		{"SYN, one queue for all", 2, ip4(1, 2, 3, 4, 2, 0, 0)},
		{"SYN", 4, ip4(1, 2, 3, 4, 2, 0, 0)},
		{"ACK", 4, ip4(1, 2, 3, 4, 16, 0, 0)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			s, err := newSteering(bb.queues, repeatClock)
			if err != nil {
				b.Fatal(err)
			}
			defer s.close()
			_, each, err := s.program.Benchmark(append(make([]byte, 14), bb.packet...), max(b.N, 1000), nil)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(each.Nanoseconds()), "ns/packet")
		})
	}
}
