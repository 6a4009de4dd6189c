package proxy

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"unsafe"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/stack"
	"pgregory.net/rapid"
)

func newTestPool(t testing.TB, bytes int) *earlyPool {
	t.Helper()
	p, err := newEarlyPool(bytes, func(n int) ([]byte, error) { return make([]byte, n), nil })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestChunkSize(t *testing.T) {
	if size := unsafe.Sizeof(chunk{}); size != chunkSize {
		t.Errorf("a chunk is %d bytes, not %d", size, chunkSize)
	}
}

// checkChain says what is wrong with a chain: it must be in order, without overlap, and within the limit and its share of the pool.
func checkChain(t interface{ Fatalf(string, ...any) }, p *earlyPool, head chunkRef, limit int) (chunks int) {
	end, closed := 0, false
	for c := p.at(head); c != nil; c = p.at(c.next) {
		chunks++
		switch {
		case int(c.offset) < end:
			t.Fatalf("a piece at %d after one that ends at %d", c.offset, end)
		case closed:
			t.Fatalf("a piece at %d after the FIN", c.offset)
		case c.length == 0 && c.flags&flagFIN == 0:
			t.Fatalf("an empty piece at %d", c.offset)
		case c.end() > limit:
			t.Fatalf("a piece to %d, beyond the limit %d", c.end(), limit)
		}
		end, closed = c.end(), c.flags&flagFIN != 0
	}
	if chunks > most(limit) {
		t.Fatalf("%d chunks for a limit of %d bytes", chunks, limit)
	}
	return chunks
}

// A model holds every byte by itself. While there is room, the pool and the model agree about each; without, the
// pool has a part of what the model has.
func TestHoldAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.SampledFrom([]int{1, 700, 4096, 16384, 65535}).Draw(t, "limit")
		pool, err := newEarlyPool(rapid.SampledFrom([]int{0, 4 * chunkSize, 1 << 20}).Draw(t, "pool"), func(n int) ([]byte, error) { return make([]byte, n), nil })
		if err != nil {
			t.Fatal(err)
		}
		stream := make([]byte, 1<<17)
		_, _ = rand.NewChaCha8([32]byte{1}).Read(stream)
		held := make([]bool, limit)
		fin, full := -1, false
		var head chunkRef
		last := min(limit+1000, 66000)
		for range rapid.IntRange(1, 60).Draw(t, "segments") {
			at := rapid.IntRange(0, last).Draw(t, "at")
			n := rapid.SampledFrom([]int{0, 1, 99, 499, 500, 501, 536, 1448, 4000, 65000}).Draw(t, "length")
			s := earlySegment{offset: at, data: stream[at : at+n], flags: flagACK}
			// The stream has one end, and data beyond it are nonsense that must do no harm.
			if rapid.IntRange(0, 9).Draw(t, "FIN") == 0 {
				s.flags |= flagFIN
			}
			before := pool.used.Load()
			result := pool.hold(&head, s, limit)
			chunks := checkChain(t, pool, head, limit)
			if int64(chunks) != pool.used.Load() {
				t.Fatalf("%d chunks in the chain, %d in use", chunks, pool.used.Load())
			}
			if result == holdKnown && pool.used.Load() != before {
				t.Fatalf("nothing new, but %d chunks instead of %d", pool.used.Load(), before)
			}
			full = full || result == holdFull && (chunks == most(limit) || chunks == len(pool.chunks))
			// The model.
			for i := at; i < min(at+n, limit) && (fin < 0 || i < fin); i++ {
				held[i] = true
			}
			if s.flags&flagFIN != 0 && at+n <= limit && fin < 0 && !anyFrom(held, at+n) {
				fin = at + n
			}
		}
		got, gotFIN := make([]bool, limit), -1
		for c := pool.at(head); c != nil; c = pool.at(c.next) {
			if !bytes.Equal(c.data[:c.length], stream[c.offset:c.end()]) {
				t.Fatalf("wrong bytes from %d to %d", c.offset, c.end())
			}
			for i := int(c.offset); i < c.end(); i++ {
				got[i] = true
			}
			if c.flags&flagFIN != 0 {
				gotFIN = c.end()
			}
		}
		if !full {
			for i := range held {
				if held[i] != got[i] {
					t.Fatalf("byte %d: held %v, the model says %v", i, got[i], held[i])
				}
			}
			if fin != gotFIN {
				t.Fatalf("FIN at %d, the model says %d", gotFIN, fin)
			}
		}
		pool.drop(&head)
		if used := pool.used.Load(); used != 0 || head != 0 {
			t.Fatalf("%d chunks in use after drop", used)
		}
	})
}

func anyFrom(held []bool, at int) bool {
	for i := at; i < len(held); i++ {
		if held[i] {
			return true
		}
	}
	return false
}

func TestHoldFlags(t *testing.T) {
	big := make([]byte, 1200)
	for _, test := range []struct {
		name     string
		segments []earlySegment
		// want is offset, length, urgent pointer and flags of every piece.
		want []chunk
	}{
		{"PSH is on the last piece",
			[]earlySegment{{data: big, flags: flagACK | flagPSH}},
			[]chunk{{length: 500}, {offset: 500, length: 500}, {offset: 1000, length: 200, flags: flagPSH}}},
		{"URG on the pieces before the pointer",
			[]earlySegment{{offset: 10, data: big, flags: flagURG, urgent: 600}},
			[]chunk{
				{offset: 10, length: 500, flags: flagURG, urgent: 600},
				{offset: 510, length: 500, flags: flagURG, urgent: 100}, {offset: 1010, length: 200},
			}},
		{"an urgent pointer at the end of a piece is not the next one's",
			[]earlySegment{{data: big[:600], flags: flagURG, urgent: 500}},
			[]chunk{{length: 500, flags: flagURG, urgent: 500}, {offset: 500, length: 100}}},
		{"a FIN without payload",
			[]earlySegment{{offset: 0, flags: flagFIN}},
			[]chunk{{flags: flagFIN}}},
		{"a FIN behind what is held",
			[]earlySegment{{data: big[:100]}, {offset: 100, flags: flagFIN}},
			[]chunk{{length: 100, flags: flagFIN}}},
		{"a FIN again, with payload that is held",
			[]earlySegment{{data: big[:100]}, {data: big[:100], flags: flagFIN | flagPSH}, {data: big[:100], flags: flagFIN}},
			[]chunk{{length: 100, flags: flagFIN | flagPSH}}},
		{"a FIN behind a gap, which is then filled",
			[]earlySegment{{offset: 100, flags: flagFIN}, {data: big[:100]}},
			[]chunk{{length: 100}, {offset: 100, flags: flagFIN}}},
		{"a FIN inside what is held, and data beyond a FIN, are nonsense",
			[]earlySegment{{data: big[:100]}, {data: big[:50], flags: flagFIN}, {data: big[:100], flags: flagFIN}, {offset: 90, data: big[:20]}},
			[]chunk{{length: 100, flags: flagFIN}}},
		{"the part between two that are held",
			[]earlySegment{{data: big[:10]}, {offset: 20, data: big[:10]}, {offset: 5, data: big[:20], flags: flagPSH}},
			[]chunk{{length: 10}, {offset: 10, length: 10}, {offset: 20, length: 10}}},
		{"the traffic class",
			[]earlySegment{{data: big[:10], trafficClass: 3}},
			[]chunk{{length: 10, trafficClass: 3}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			pool := newTestPool(t, 1<<16)
			var head chunkRef
			for _, s := range test.segments {
				pool.hold(&head, s, 16384)
			}
			var got []chunk
			for c := pool.at(head); c != nil; c = pool.at(c.next) {
				piece := *c
				piece.next, piece.data = 0, [chunkData]byte{}
				got = append(got, piece)
			}
			if len(got) != len(test.want) {
				t.Fatalf("%d pieces, not %d", len(got), len(test.want))
			}
			for i := range got {
				if g, w := &got[i], &test.want[i]; *g != *w {
					t.Errorf("piece %d: offset %d length %d urgent %d flags %v class %d, not %d %d %d %v %d", i,
						g.offset, g.length, g.urgent, g.flags, g.trafficClass, w.offset, w.length, w.urgent, w.flags, w.trafficClass)
				}
			}
		})
	}
}

func TestPoolIsBounded(t *testing.T) {
	const chunks = 64
	pool := newTestPool(t, chunks*chunkSize+chunkSize-1)
	var heads [chunks + 1]chunkRef
	for i := range heads {
		want := holdNew
		if i == chunks {
			want = holdFull
		}
		if got := pool.hold(&heads[i], earlySegment{data: []byte{1}}, 100); got != want {
			t.Fatalf("flow %d: result %d, not %d", i, got, want)
		}
		if got, want := pool.inviting(), i+1 < chunks/2; got != want {
			t.Fatalf("with %d of %d chunks in use: inviting %v, not %v", i+1, chunks, got, want)
		}
	}
	for i := range heads {
		pool.drop(&heads[i])
	}
	if used, size := pool.level(); used != 0 || size != chunks*chunkSize {
		t.Errorf("level %d of %d after all was dropped", used, size)
	}
	if pool.fresh != chunks || !pool.inviting() {
		t.Errorf("%d chunks were ever used, inviting %v", pool.fresh, pool.inviting())
	}
	if none := newTestPool(t, 0); none.inviting() || none.hold(&heads[0], earlySegment{data: []byte{1}, flags: header.TCPFlagPsh}, 100) != holdFull {
		t.Error("an empty pool has room")
	}
}

// A client that sends byte by byte gets no more memory than any other.
func TestTinySegmentsAreBounded(t *testing.T) {
	pool := newTestPool(t, 1<<20)
	var head chunkRef
	for i := range 16384 {
		pool.hold(&head, earlySegment{offset: 2 * i % 16384, data: []byte{1}}, 16384)
	}
	if used, _ := pool.level(); used > 2*16384 {
		t.Errorf("%d bytes of memory for one flow", used)
	}
	checkChain(t, pool, head, 16384)
}

// TestNoAllocationsForEarlyData opens connections whose clients send right away.
func TestNoAllocationsForEarlyData(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	o := DefaultOptions()
	o.Timestamps = true
	r := newRig(t, o)
	r.change(func(s *Service) { s.EarlyData = DefaultEarlyData })
	r.proxy.early = newTestPool(t, 1<<20)
	r.worker.out = newOutput(r.link, r.worker.counters, DefaultEarlyData)
	const runs = 100
	var batches [][][]byte
	for i := range runs + 1 {
		port := uint16(1000 + i)
		between := func(from side, s stack.Segment, payload int) []byte {
			s.Src, s.Dst, s.SrcPort, s.DstPort = rigClient, rigServer, port, 80
			if from == server {
				s.Src, s.Dst, s.SrcPort, s.DstPort = s.Dst, s.Src, s.DstPort, s.SrcPort
			}
			s.Timestamps, s.Window = true, 1000
			frame, _ := s.BuildData(make([]byte, stack.MaxBuilt+payload), payload, max(payload, 1))
			return frame
		}
		synAck := r.step(between(client, stack.Segment{Seq: 1000, Flags: flagSYN, MSS: 1460, WScale: 7}, 0))
		ts := synAck.Options.TSVal
		batches = append(batches, [][]byte{
			between(client, stack.Segment{Seq: 1001, Ack: synAck.Seq + 1, Flags: flagACK, WScale: WScaleNone, TSEcr: ts}, 5000),
			between(client, stack.Segment{Seq: 7001, Ack: synAck.Seq + 1, Flags: flagACK | flagPSH, WScale: WScaleNone, TSEcr: ts}, 300),
			between(client, stack.Segment{Seq: 6001, Ack: synAck.Seq + 1, Flags: flagACK, WScale: WScaleNone, TSEcr: ts}, 1000),
			between(server, stack.Segment{Seq: 5000, Ack: 1001, Flags: flagSYN | flagACK, MSS: 1460, WScale: 9, TSVal: 7}, 0),
		})
	}
	// The first run, which AllocsPerRun doesn't count, is one of them.
	n := testing.AllocsPerRun(runs, func() {
		r.link.in, batches = batches[0], batches[1:]
		if _, err := r.worker.Step(r.clock, 0); err != nil {
			t.Fatal(err)
		}
	})
	s := r.proxy.Snapshot()
	if n != 0 {
		t.Errorf("%v allocations a connection", n)
	}
	if s.Flows[StateOpen] != runs+1 || s.Services[0].EarlyHeld != 3*(runs+1) || s.EarlyUsed != 0 {
		t.Errorf("%d flows open, %d segments held, %d bytes still in use", s.Flows[StateOpen], s.Services[0].EarlyHeld, s.EarlyUsed)
	}
}
