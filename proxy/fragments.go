package proxy

import "time"

// A later fragment has no ports: nothing tells which flow, or whether any, it belongs to. Since a flood of them is as easily made as
// any, they pass without a limit only between two hosts of which a first fragment has passed a short while ago, in the same direction.
// Others may have overtaken the first: a few of them pass too, unless a flood takes their place. Then the sender repeats the packet.
type fragments struct {
	// passed are the sources and destinations of first fragments.
	passed *recent
	// early bounds later ones that come before the first.
	early bucket
}

const (
	// fragmentLife is how long first fragments are remembered: as long as hosts wait for the rest (RFC 8200 §4.5).
	fragmentLife = 60 * time.Second
	// fragmentPairs is how many pairs of hosts are remembered.
	fragmentPairs = 1 << 12
	// earlyFragments is how many later fragments a second pass before a first one.
	earlyFragments = 100
)

// firstFragment notes that the packet in work passes, if it is a first fragment.
func (w *Worker) firstFragment() {
	if p := &w.pkt; p.FirstFragment {
		w.proxy.fragments.passed.note(&p.Src, &p.Dst, w.now.since)
	}
}

// laterFragment handles a fragment without a TCP header.
func (w *Worker) laterFragment(frame []byte) {
	p, f := &w.pkt, &w.proxy.fragments
	if p.MayCarryTCP() && (w.policy.proxies(&p.Dst) || w.policy.proxies(&p.Src)) &&
		!f.passed.within(&p.Src, &p.Dst, w.now.since, fragmentLife) && !f.early.take(w.now.since, earlyFragments) {
		w.dropOrSpare(DropLaterFragment, frame)
		return
	}
	w.pass(PassFragment, frame)
}
