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
	// data backs those with payload that was held; dataUsed bytes of it are in frames. One release takes at most release bytes, in
	// at most releases frames.
	data              []byte
	dataUsed          int
	release, releases int
	// err is the first failure of the link.
	err error
}

// maxReplies is the most segments that one packet or time-out gives rise to: a RST for an old
// server half, and a SYN.
const maxReplies = 4

// newOutput makes the output for a worker whose clients may each have early bytes held.
func newOutput(link Link, c *counters, early int) *output {
	o := &output{
		link: link, counters: c,
		built: make([][stack.MaxBuilt]byte, batchSize+maxReplies),
	}
	if early > 0 {
		o.releases = most(early)
		o.release = early + o.releases*stack.MaxBuilt
		o.data = make([]byte, 4*o.release)
	}
	o.frames = make([][]byte, 0, 2*batchSize+maxReplies+4*o.releases)
	return o
}

// reserve makes sure that one more packet and its replies fit.
func (o *output) reserve() {
	if o.used+maxReplies > len(o.built) || len(o.frames)+maxReplies+o.releases+1 > cap(o.frames) || o.dataUsed+o.release > len(o.data) {
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

// buildData sends a segment of levee's own with so many bytes of payload, in segments of at most size bytes. The caller fills data before the next
// flush.
func (o *output) buildData(s *stack.Segment, payload, size int) (data []byte) {
	frame, data := s.BuildData(o.data[o.dataUsed:], payload, size)
	o.frames = append(o.frames, frame)
	o.dataUsed += len(frame)
	return data
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
	o.frames, o.used, o.dataUsed = o.frames[:0], 0, 0
}
