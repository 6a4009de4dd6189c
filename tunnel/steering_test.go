package tunnel

import (
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// newTestSteering loads the program, which needs root.
func newTestSteering(t *testing.T, queues int, clock asm.Instructions) *steering {
	t.Helper()
	s, err := newSteering(queues, clock)
	if errors.Is(err, unix.EPERM) && os.Getenv("LEVEE_REQUIRE_ROOT") != "1" {
		t.Skip("loading a BPF program needs root")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.close() })
	return s
}

// steer runs the program in the kernel on one packet.
func steer(t *testing.T, s *steering, packet []byte) int {
	t.Helper()
	// A test run of a socket filter begins behind an Ethernet header.
	queue, err := s.program.Run(&ebpf.RunOptions{Data: append(make([]byte, 14), packet...)})
	if err != nil {
		t.Fatal(err)
	}
	return int(queue)
}

// ip4 and ip6 make packets with a TCP header; extensions are whole headers, the first
// byte of which is set here to the protocol that follows.
func ip4(src, dst byte, sport, dport byte, flags byte, fragment uint16, options int) []byte {
	b := make([]byte, 20+options+20)
	b[0], b[6], b[7], b[9] = byte(0x45+options/4), byte(fragment>>8), byte(fragment), 6
	b[12], b[15], b[16], b[19] = 192, src, 192, dst
	putTCP(b[20+options:], sport, dport, flags)
	return b
}

type extension struct {
	protocol byte
	header   []byte
}

func ip6(src, dst byte, sport, dport byte, flags byte, extensions ...extension) []byte {
	b := make([]byte, 40, 200)
	b[0], b[8], b[23], b[24], b[39] = 0x60, 0x20, src, 0x20, dst
	next := &b[6]
	for _, e := range extensions {
		*next = e.protocol
		at := len(b)
		b = append(b, e.header...)
		next = &b[at]
	}
	*next = 6
	tcp := make([]byte, 20)
	putTCP(tcp, sport, dport, flags)
	return append(b, tcp...)
}

func putTCP(b []byte, sport, dport byte, flags byte) {
	b[1], b[3], b[12], b[13] = sport, dport, 0x50, flags
}

func TestSteering(t *testing.T) {
	const (
		fin, syn, rst, psh, ack = 1, 2, 4, 8, 16
		queues                  = 5
	)
	s := newTestSteering(t, queues, repeatClock)
	dest := extension{unix.IPPROTO_DSTOPTS, make([]byte, 8)}
	long := extension{unix.IPPROTO_HOPOPTS, append([]byte{0, 2}, make([]byte, 22)...)}
	route := extension{unix.IPPROTO_ROUTING, make([]byte, 8)}
	auth := extension{unix.IPPROTO_AH, append([]byte{0, 4}, make([]byte, 22)...)}
	first := extension{unix.IPPROTO_FRAGMENT, []byte{0, 0, 0, 1, 0, 0, 0, 9}}
	later := extension{unix.IPPROTO_FRAGMENT, []byte{0, 0, 0, 9, 0, 0, 0, 9}}

	for _, tt := range []struct {
		name   string
		packet []byte
		syn    bool
	}{
		{"SYN", ip4(1, 2, 3, 4, syn, 0, 0), true},
		{"SYN with ECN", ip4(1, 2, 3, 4, syn|0xc0, 0, 0), true},
		{"SYN behind IP options", ip4(1, 2, 3, 4, syn, 0, 40), true},
		{"SYN-FIN", ip4(1, 2, 3, 4, syn|fin, 0, 0), true},
		{"SYN in a first fragment", ip4(1, 2, 3, 4, syn, 0x2000, 0), true},
		{"later fragment", ip4(1, 2, 3, 4, syn, 0x2001, 0), false},
		{"SYN-ACK", ip4(1, 2, 3, 4, syn|ack, 0, 0), false},
		{"ACK", ip4(1, 2, 3, 4, ack, 0, 0), false},
		{"data", ip4(1, 2, 3, 4, psh|ack, 0, 0), false},
		{"RST", ip4(1, 2, 3, 4, rst, 0, 0), false},
		{"not IP", append([]byte{0x70}, make([]byte, 60)...), false},
		{"IPv6 SYN", ip6(1, 2, 3, 4, syn), true},
		{"IPv6 ACK", ip6(1, 2, 3, 4, ack), false},
		{"IPv6 SYN behind each extension", ip6(1, 2, 3, 4, syn, long, route, auth, dest), true},
		{"IPv6 SYN in a first fragment", ip6(1, 2, 3, 4, syn, dest, first), true},
		{"IPv6 later fragment", ip6(1, 2, 3, 4, syn, dest, later), false},
		{"IPv6 ACK behind each extension", ip6(1, 2, 3, 4, ack, long, route, auth, dest), false},
		{"IPv6 with too many extensions", ip6(1, 2, 3, 4, syn, dest, dest, dest, dest, dest), false},
	} {
		if got := steer(t, s, tt.packet); (got == SYNQueue) != tt.syn || got < 0 || got >= queues {
			t.Errorf("%s: queue %d", tt.name, got)
		}
	}
	if got := steer(t, s, ip4(1, 2, 3, 4, ack, 0, 0)[:33]); got != SYNQueue {
		t.Errorf("a truncated packet goes to queue %d", got)
	}
}

// TestSteeringSpreads checks that connections spread over the flow queues, that both directions of each go to the same one,
// and that the counters tell.
func TestSteeringSpreads(t *testing.T) {
	for _, queues := range []int{2, 3, 5, 17} {
		s := newTestSteering(t, queues, repeatClock)
		random := rand.New(rand.NewPCG(1, uint64(queues)))
		const flows = 4000
		want := make([]uint64, queues)
		for range flows {
			src, dst, sport, dport := byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32())
			there := steer(t, s, ip4(src, dst, sport, dport, 16, 0, 0))
			back := steer(t, s, ip4(dst, src, dport, sport, 16, 0, 0))
			there6 := steer(t, s, ip6(src, dst, sport, dport, 16))
			back6 := steer(t, s, ip6(dst, src, dport, sport, 16))
			if there != back || there6 != back6 {
				t.Fatalf("%d queues: a connection goes to %d and %d, over IPv6 to %d and %d", queues, there, back, there6, back6)
			}
			want[there] += 2
			want[there6] += 2
		}
		first := FlowQueue(queues)
		for q, n := range want[:first] {
			if n != 0 {
				t.Errorf("%d queues: %d packets on queue %d, which is for SYNs", queues, n, q)
			}
		}
		for q, n := range want[first:] {
			if even := 4 * flows / uint64(queues-first); n < even*3/4 || n > even*5/4 {
				t.Errorf("%d queues: %d packets on queue %d, evenly it would be %d", queues, n, q+first, even)
			}
		}
		got, err := s.counts(queues)
		if err != nil {
			t.Fatal(err)
		}
		for q := range want {
			if got[q] != want[q] {
				t.Errorf("%d queues: queue %d counted %d packets, want %d", queues, q, got[q], want[q])
			}
		}
	}
}

// TestRings fills the SYN queue's ring and sees what was lost there, and that nothing was elsewhere.
func TestRings(t *testing.T) {
	const ring, syns, others = 16, 100, 5
	ns, d := routed(t, Config{MTU: 1500, Queues: 3, TxQueueLen: ring, Steering: true})
	if err := d.Steering(); err != nil {
		t.Fatal(err)
	}
	ns.quiet(t, "levee0")
	at := func(want []RingStats) {
		t.Helper()
		got, err := d.Rings()
		if err != nil {
			t.Fatal(err)
		}
		for q := range want {
			if got[q] != want[q] {
				t.Errorf("queue %d: %+v, want %+v", q, got[q], want[q])
			}
		}
	}
	drain := func(q *Queue) (n int) {
		for {
			got, err := q.Recv(newFrames(64), 0)
			if err != nil {
				t.Fatal(err)
			}
			if n += got; got == 0 {
				return n
			}
		}
	}
	for q := range d.Queues() { // what the link sent of its own while it came up
		drain(d.Queues()[q])
	}
	base, err := d.Rings()
	if err != nil {
		t.Fatal(err)
	}
	raw := ns.dial(t, unix.SOCK_RAW, "198.51.100.7:0")
	send := func(flags byte, n int) {
		t.Helper()
		segment := make([]byte, 20)
		putTCP(segment, 1, 2, flags)
		for range n {
			if _, err := unix.Write(raw, segment); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(2, syns)
	send(16, others)
	const flow = 2 // the only queue that isn't for SYNs
	want := append([]RingStats(nil), base...)
	// The ring is full: what it holds is not lost.
	want[SYNQueue] = RingStats{Takes: FirstSYNs, Chosen: base[SYNQueue].Chosen + syns, Dropped: syns - ring}
	want[flow] = RingStats{Takes: Flows, Chosen: base[flow].Chosen + others}
	at(want)
	if n := drain(d.Queues()[SYNQueue]); n != ring {
		t.Errorf("%d SYNs in a ring of %d", n, ring)
	}
	if n := drain(d.Queues()[flow]); n != others {
		t.Errorf("%d of %d other segments arrived", n, others)
	}
	want[SYNQueue].Exact, want[flow].Exact = true, true
	at(want)
}
