package cookie

import (
	"math"
	"sync"
	"testing"
)

func TestGate(t *testing.T) {
	tests := []struct {
		name   string
		issued []int64
		at     int64
		want   bool
	}{
		{"nothing issued", nil, now, false},
		{"nothing issued, 1970", nil, 0, false},
		{"nothing issued, long ago", nil, math.MinInt64, false},
		{"issued now", []int64{now}, now, true},
		{"issued at 0", []int64{0}, 0, true},
		{"issued before 1970", []int64{-1}, -1, true},
		{"last second of life", []int64{0}, 127, true},
		{"first second after", []int64{0}, 128, false},
		{"from the epoch's end, last second of life", []int64{63}, 127, true},
		{"from the epoch's end, first second after", []int64{63}, 128, false},
		{"older time comes second", []int64{64, 63}, 191, true},
		{"clock set back after it", []int64{now}, now - 3600, true},
		{"last time there is", []int64{math.MaxInt64}, math.MaxInt64, true},
		{"first time there is", []int64{math.MinInt64}, math.MinInt64, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var g Gate
			for _, unix := range tt.issued {
				g.Issued(unix)
			}
			if got := g.Open(tt.at); got != tt.want {
				t.Errorf("Open(%d) = %v, want %v", tt.at, got, tt.want)
			}
		})
	}
}

// A gate is never shut while a cookie is good.
func TestGateCoversLife(t *testing.T) {
	m, tuple := NewMaker(testSecret), &tuples[0].t
	for issued := int64(now); issued < now+EpochSeconds; issued++ {
		var g Gate
		g.Issued(issued)
		isn := m.Issue(issued, tuple, 1, Options{})
		for at := issued; at < issued+256; at++ {
			if _, ok := m.Check(at, tuple, Ack{Seq: 2, Ack: isn + 1}); ok != g.Open(at) {
				t.Fatalf("issued at %d: at %d accepted = %v, gate open = %v", issued, at, ok, g.Open(at))
			}
		}
	}
}

func TestGateConcurrent(t *testing.T) {
	var g Gate
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 1000 {
				g.Issued(int64(n*8+i) * EpochSeconds)
				g.Open(0)
			}
		})
	}
	wg.Wait()
	if last := int64(7999); !g.Open((last+1)*EpochSeconds) || g.Open((last+2)*EpochSeconds) {
		t.Error("the gate doesn't remember the latest epoch")
	}
}
