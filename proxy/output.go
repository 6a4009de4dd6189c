package proxy

import "levee/stack"

// output collects the frames of a batch in the order in which they leave.
type output struct {
	link     Link
	counters *counters
	frames   [][]byte
	// built backs the frames that levee makes itself; used of them are in frames.
	built [][stack.MaxBuilt]byte
	used  int
	// err is the first failure of the link.
	err error
}

// maxReplies is the most segments that one packet or time-out gives rise to: a RST for an old
// server half, and a SYN.
const maxReplies = 4

func newOutput(link Link, c *counters) *output {
	return &output{
		link: link, counters: c,
		frames: make([][]byte, 0, 2*batchSize+maxReplies),
		built:  make([][stack.MaxBuilt]byte, batchSize+maxReplies),
	}
}

// reserve makes sure that one more packet and its replies fit.
func (o *output) reserve() {
	if o.used+maxReplies > len(o.built) || len(o.frames)+maxReplies+1 > cap(o.frames) {
		o.flush()
	}
}

// room is how many segments of levee's own fit, at least maxReplies after reserve.
func (o *output) room() int { return min(len(o.built)-o.used, cap(o.frames)-len(o.frames)) }

// forward sends a frame, which must be left alone until flush.
func (o *output) forward(frame []byte) { o.frames = append(o.frames, frame) }

// build sends a segment of levee's own.
func (o *output) build(s *stack.Segment) {
	o.frames = append(o.frames, s.Build(o.built[o.used][:]))
	o.used++
}

// flush hands everything to the link.
func (o *output) flush() {
	if len(o.frames) == 0 {
		return
	}
	bytes := 0
	for _, f := range o.frames {
		bytes += len(f) - stack.VirtioLen
	}
	o.counters.sent.Add(uint64(len(o.frames)))
	o.counters.sentBytes.Add(uint64(bytes))
	if err := o.link.Send(o.frames); err != nil && o.err == nil {
		o.err = err
	}
	clear(o.frames)
	o.frames, o.used = o.frames[:0], 0
}
