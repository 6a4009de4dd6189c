package proxy

import (
	"math/rand/v2"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// heapTable makes a table in Go's heap.
func heapTable(capacity int) *table {
	table, err := newTable(capacity, nil, func(bytes int) ([]byte, error) { return make([]byte, bytes), nil })
	if err != nil {
		panic(err)
	}
	return table
}

// hugeTable makes one in huge pages, as the daemon does.
func hugeTable(b *testing.B, capacity int) *table {
	table, err := newTable(capacity, nil, func(bytes int) ([]byte, error) {
		memory, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return nil, err
		}
		b.Cleanup(func() { _ = unix.Munmap(memory) })
		return memory, unix.Madvise(memory, unix.MADV_HUGEPAGE)
	})
	if err != nil {
		b.Fatal(err)
	}
	return table
}

// key makes the n-th of many distinct keys.
func key(n int) flowKey {
	var k flowKey
	k.low[15], k.low[14], k.low[13] = byte(n), byte(n>>8), byte(n>>16)
	k.lowPort = uint16(n)
	return k
}

// TestFlowSize pins what a flow costs: DESIGN §15 allows 160 bytes all told, the record's share is 128.
func TestFlowSize(t *testing.T) {
	if size := unsafe.Sizeof(flow{}); size > 128 {
		t.Errorf("a flow takes %d bytes, more than 128", size)
	}
	table := heapTable(1 << 20)
	var bytes uintptr
	for i := range table.stripes {
		s := &table.stripes[i]
		bytes += unsafe.Sizeof(*s) + uintptr(cap(s.flows))*unsafe.Sizeof(flow{}) +
			uintptr(cap(s.index))*unsafe.Sizeof(entry(0)) + uintptr(cap(s.links))*unsafe.Sizeof(link{})
	}
	per := float64(bytes) / float64(table.capacity())
	t.Logf("%.1f bytes a flow", per)
	if per > 145 {
		t.Errorf("%.1f bytes a flow, more than 145: DESIGN allows 160 with all else that the process needs", per)
	}
}

func TestTableCapacity(t *testing.T) {
	for _, capacity := range []int{1, 2, 3, 16, 4095, 4096, 8191, 8192, 100_000, 1 << 20} {
		table := heapTable(capacity)
		if got := table.capacity(); got < capacity || got > capacity+stripesWanted {
			t.Errorf("heapTable(%d) has room for %d", capacity, got)
		}
	}
}

// checkStripe verifies every invariant of a stripe the slow way.
func checkStripe(t rapid.TB, s *stripe) {
	t.Helper()
	var counts [NumStates]int
	indexed := map[uint32]bool{}
	for i, e := range s.index {
		if e == 0 {
			continue
		}
		slot := e.slot()
		if indexed[slot] {
			t.Fatalf("slot %d is in the index twice", slot)
		}
		indexed[slot] = true
		hash, mask := s.hash.of(&s.flows[slot].key), uint64(len(s.index)-1)
		far := (uint64(i) - home(hash)) & mask
		if e != newEntry(slot, tagOf(hash), far) {
			t.Fatalf("index entry %d is %#x, not what its flow and its distance of %d make", i, e, far)
		}
		if far > 0 && s.index[(uint64(i)-1)&mask] == 0 {
			t.Fatalf("index entry %d lies behind a gap: no search finds it", i)
		}
	}
	for i := range s.flows {
		f := &s.flows[i]
		counts[f.state]++
		if (f.state != StateFree) != indexed[uint32(i)] {
			t.Fatalf("slot %d in state %s, in the index: %t", i, f.state, indexed[uint32(i)])
		}
	}
	if counts != s.states {
		t.Fatalf("counted %v, found %v", s.states, counts)
	}
	listed := map[uint32]int{}
	for head := uint32(len(s.flows)); head < uint32(len(s.links)); head++ {
		for n := s.links[head].next; n != head; n = s.links[n].next {
			listed[n]++
			if s.links[s.links[n].next].prev != n {
				t.Fatalf("slot %d: its neighbour does not point back", n)
			}
			state := s.flows[n].state
			if (head == s.free) != (state == StateFree) || (head == s.ended || head == s.unproven) != (state.Ended()) {
				t.Fatalf("slot %d in state %s is in list %d (free %d, ended %d)", n, state, head, s.free, s.ended)
			}
		}
	}
	for i := range s.flows {
		if listed[uint32(i)] != 1 {
			t.Fatalf("slot %d is in %d lists", i, listed[uint32(i)])
		}
	}
}

// TestTableAgainstMap runs random operations on a stripe and on a map.
func TestTableAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity := rapid.IntRange(1, 40).Draw(t, "capacity")
		s := &heapTable(capacity).stripes[0]
		model := map[flowKey]State{}
		var ended []flowKey // the oldest first
		forget := func(k flowKey) {
			delete(model, k)
			for i := range ended {
				if ended[i] == k {
					ended = append(ended[:i:i], ended[i+1:]...)
					return
				}
			}
		}
		for range rapid.IntRange(1, 200).Draw(t, "operations") {
			k := key(rapid.IntRange(0, 60).Draw(t, "key"))
			hash := s.hash.of(&k)
			slot, found := s.find(&k, hash)
			if state, ok := model[k]; ok != found || ok && s.flows[slot].state != state {
				t.Fatalf("find %v: %t, the model has it: %t", k.lowPort, found, ok)
			}
			switch op := rapid.IntRange(0, 3).Draw(t, "operation"); {
			case !found && op < 3:
				slot, ok := s.insert(&k, hash, func(*flow) {})
				if full := len(model) == capacity; full && len(ended) == 0 {
					if ok {
						t.Fatal("insert into a table full of live flows succeeded")
					}
					continue
				} else if full {
					forget(ended[0])
				}
				if !ok {
					t.Fatal("insert failed with room in the table")
				}
				model[k] = StateOpen
				s.setState(slot, StateOpen)
				s.arm(slot, tick(rapid.Uint32Range(0, 5000).Draw(t, "deadline")))
			case found && op == 0:
				forget(k)
				s.remove(slot)
			case found && op == 1:
				forget(k)
				model[k] = StateTimeWait
				ended = append(ended, k)
				s.setState(slot, StateTimeWait)
				s.bury(slot)
			}
			checkStripe(t, s)
		}
	})
}

// TestTableFarFromHome fills a stripe with keys that all belong in one place, so that most entries lie farther from it
// than an entry can say.
func TestTableFarFromHome(t *testing.T) {
	const capacity = 3 * farAway
	s := &heapTable(capacity).stripes[0]
	mask := uint64(len(s.index) - 1)
	var keys []flowKey
	for n := 0; len(keys) < capacity; n++ {
		if k := key(n); home(s.hash.of(&k))&mask == mask { // the last place: the entries go round the end
			keys = append(keys, k)
			slot, ok := s.insert(&k, s.hash.of(&k), func(*flow) {})
			if !ok {
				t.Fatal("full")
			}
			s.setState(slot, StateOpen)
			s.arm(slot, 1)
		}
	}
	checkStripe(t, s)
	rng := rand.New(rand.NewPCG(3, 4))
	rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	for len(keys) > 0 {
		slot, ok := s.find(&keys[0], s.hash.of(&keys[0]))
		if !ok {
			t.Fatal("lost")
		}
		s.remove(slot)
		keys = keys[1:]
		checkStripe(t, s)
		for i := range keys {
			if _, ok := s.find(&keys[i], s.hash.of(&keys[i])); !ok {
				t.Fatalf("with %d left, one of them is lost", len(keys))
			}
		}
	}
}

// BenchmarkLookup finds random flows among few and many: in the table, in huge pages and in Go's heap, and, to compare, in Go
// maps from keys to slots, one for each stripe behind the same lock.
func BenchmarkLookup(b *testing.B) {
	for _, bench := range []struct {
		name  string
		flows int
	}{{"1k", 1_000}, {"100k", 100_000}, {"1M", 1_000_000}} {
		keys := make([]flowKey, bench.flows)
		for i := range keys {
			keys[i] = key(i)
		}
		order := rand.New(rand.NewPCG(1, 2)).Perm(bench.flows)
		run := func(name string, make func(b *testing.B) (*table, []map[flowKey]uint32)) {
			b.Run(name+"/"+bench.name, func(b *testing.B) {
				table, maps := make(b)
				for i := range keys {
					hash := table.hash.of(&keys[i])
					s := table.stripe(hash)
					slot, ok := s.insert(&keys[i], hash, func(*flow) {})
					if !ok {
						b.Fatal("full")
					}
					s.setState(slot, StateOpen)
					if maps != nil {
						maps[hash&uint64(len(maps)-1)][keys[i]] = slot
					}
				}
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					k := key(order[i%bench.flows]) // made, not fetched: that would cost a cache miss of its own
					hash := table.hash.of(&k)
					s := table.stripe(hash)
					s.mu.Lock()
					var slot uint32
					var ok bool
					if maps == nil {
						slot, ok = s.find(&k, hash)
					} else {
						slot, ok = maps[hash&uint64(len(maps)-1)][k]
					}
					s.flows[slot].lastSeen++
					s.mu.Unlock()
					if !ok {
						b.Fatal("lost")
					}
				}
			})
		}
		run("huge", func(b *testing.B) (*table, []map[flowKey]uint32) { return hugeTable(b, 1<<20), nil })
		run("heap", func(*testing.B) (*table, []map[flowKey]uint32) { return heapTable(1 << 20), nil })
		run("map", func(b *testing.B) (*table, []map[flowKey]uint32) {
			table := hugeTable(b, 1<<20)
			maps := make([]map[flowKey]uint32, len(table.stripes))
			for i := range maps {
				maps[i] = map[flowKey]uint32{}
			}
			return table, maps
		})
	}
}
