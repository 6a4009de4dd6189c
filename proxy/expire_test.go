package proxy

import (
	"testing"
	"time"

	"levee/stack"
)

// lockedLink finds out whether a stripe is locked while frames are sent.
type lockedLink struct {
	oneLink
	proxy  *Proxy
	locked int
}

func (l *lockedLink) Send(frames [][]byte) error {
	for i := range l.proxy.table.stripes {
		if mu := &l.proxy.table.stripes[i].mu; mu.TryLock() {
			mu.Unlock()
		} else {
			l.locked++
		}
	}
	return l.oneLink.Send(frames)
}

// TestTimeoutsSendUnlocked lets more flows time out at once than fit a batch: each is sent a SYN again, and a link that is slow
// holds up nobody who waits for a stripe.
func TestTimeoutsSendUnlocked(t *testing.T) {
	r := newRig(t, DefaultOptions())
	link := &lockedLink{oneLink: oneLink{last: make([]byte, frameSize)}, proxy: r.proxy}
	r.worker.link, r.worker.out.link = link, link
	const flows = 300
	for i := range flows {
		k := key(i)
		hash := r.proxy.table.hash.of(&k)
		s := r.proxy.table.stripe(hash)
		slot, ok := s.insert(&k, hash, r.worker.evict)
		if !ok {
			t.Fatal("full")
		}
		r.worker.now = r.proxy.instant(r.now)
		s.flows[slot].wscale = WScaleNone
		r.worker.enter(s, slot, evHandshake)
	}
	for step := 1; step <= 3; step++ {
		r.now = r.now.Add(synTimeout(0).duration() << (step - 1))
		if _, err := r.worker.Step(r.clock, 0); err != nil {
			t.Fatal(err)
		}
		if link.sent != step*flows {
			t.Errorf("after time-out %d: %d SYNs sent, not %d", step, link.sent, step*flows)
		}
	}
	if link.locked != 0 {
		t.Errorf("a stripe was locked %d times while frames were sent", link.locked)
	}
	var p stack.Packet
	if p.Parse(link.last[stack.VirtioLen:], true) != stack.KindTCP || !isSYN(&p) {
		t.Errorf("the last is no SYN: %+v", p)
	}
}

func (t tick) duration() time.Duration { return time.Duration(t) * time.Second / ticksPerSecond }
