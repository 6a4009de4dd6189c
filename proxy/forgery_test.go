package proxy

import (
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy/servers"
)

// forgeries is how many random ACKs TestForgedACKs tries for each layout. make forgeries says 100,000,000.
func forgeries(t *testing.T) int {
	if s := os.Getenv("LEVEE_FORGERIES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("LEVEE_FORGERIES=%s: write a number", s)
		}
		return n
	}
	return 1_000_000
}

// TestForgedACKs tries random ACKs while cookies are outstanding. Each is checked as the ACK of a handshake and as a probe, against a MAC of
// 24 bits without timestamps and of 54 with them; twice as often while the window scale that clients are told has changed in the last two minutes.
func TestForgedACKs(t *testing.T) {
	n := forgeries(t)
	for _, tt := range []struct {
		name   string
		learn  servers.Features
		checks float64
	}{{"steady", 0, 2}, {"scale just learned", servers.All, 4}} {
		t.Run(tt.name, func(t *testing.T) { forgeACKs(t, n, tt.learn, tt.checks) })
	}
}

func forgeACKs(t *testing.T, n int, learn servers.Features, checks float64) {
	o := DefaultOptions()
	o.Timestamps, o.Learn = true, learn
	r := newRig(t, o)
	svc := r.proxy.policy.Load().services[0]
	r.open() // the packet that stays in the worker: only its numbers will change
	w, p := r.worker, &r.worker.pkt
	p.Partial = true
	rng := rand.New(rand.NewPCG(1, 2))
	try := func(stamped bool, otherwise DropReason) (forged int) {
		t.Helper()
		p.Flags, p.Options.Timestamps = flagACK, stamped
		p.DstPort, p.Dst = 80, rigServer
		for range n {
			bits, more := rng.Uint64(), rng.Uint64()
			p.Seq, p.Ack = seqnum.Value(bits), seqnum.Value(bits>>32)
			p.Options.TSEcr, p.SrcPort = uint32(more), uint16(more>>32)
			p.Src[14], p.Src[15] = byte(more>>48), byte(more>>56)
			if _, reason := w.checkCookie(svc); reason == NumDropReasons {
				forged++
			} else if reason != otherwise {
				t.Fatalf("dropped as %v", reason)
			}
		}
		return forged
	}
	for _, layout := range []struct {
		stamped bool
		macBits int
	}{{false, 24}, {true, 28 + 26}} {
		forged := try(layout.stamped, DropCookieInvalid)
		expected := float64(n) * checks / math.Exp2(float64(layout.macBits))
		// Six standard deviations of a Poisson distribution, and one.
		if most := expected + 6*math.Sqrt(expected) + 1; float64(forged) > most {
			t.Errorf("timestamps %t: %d of %d random ACKs are cookies, more than %.1f", layout.stamped, forged, n, most)
		}
		t.Logf("timestamps %t: %d of %d random ACKs are cookies; expected %.3g", layout.stamped, forged, n, expected)
	}

	// Three minutes after the start and the last SYN nothing is outstanding.
	w.now = r.proxy.instant(r.now.Add(3 * time.Minute))
	for _, stamped := range []bool{false, true} {
		if forged := try(stamped, DropNoFlow); forged != 0 {
			t.Errorf("timestamps %t: %d of %d random ACKs are cookies though none is outstanding", stamped, forged, n)
		}
	}
}
