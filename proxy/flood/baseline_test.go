package flood

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

const monday = 1_700_000_000 / 3600 * 3600

// A week is learned hour by hour; the few busiest hours of it don't count, and after another week it is forgotten.
func TestBaselineWeek(t *testing.T) {
	var b Baseline
	unix := int64(monday)
	for hour := range Hours {
		rate := uint32(100 + 50*(hour%24)/24)
		if hour%24 == 20 {
			rate = 200
		}
		if hour%Hours == 30 {
			rate = 50_000 // an attack by real clients, or a day's news
		}
		for range 3600 / 60 {
			b.Observe(unix, rate)
			b.Observe(unix+1, 3)
			unix += 60
		}
	}
	if got := b.Rate(); got != 148 && got != 147 {
		t.Errorf("the usual rate is %d", got)
	}
	for range Hours {
		b.Observe(unix, 10)
		unix += 3600
	}
	if got := b.Rate(); got != 10 {
		t.Errorf("after a quieter week it is %d", got)
	}
}

// The rate is that of a sorted list of all hours of the last week, whatever hours are missing.
func TestBaselineOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		var b Baseline
		peaks := make(map[int64]uint32)
		hour := int64(monday / 3600)
		for range 600 {
			if r.IntN(3) == 0 {
				hour += int64(r.IntN(10))
			}
			if r.IntN(300) == 0 {
				hour += 300
			}
			rate := r.Uint32N(1000)
			b.Observe(hour*3600+int64(r.IntN(3600)), rate)
			if old, ok := peaks[hour]; !ok || rate > old {
				peaks[hour] = rate
			}
			var last []uint32
			for h, p := range peaks {
				if h > hour-Hours {
					last = append(last, p)
				}
			}
			slices.Sort(last)
			n := len(last)
			want := last[(n*95+99)/100-1] // of 100 hours 95
			switch {
			case n < 2:
			case n < 4:
				want = last[n-2]
			case n < 40:
				want = last[n-3]
			}
			if b.Rate() != want {
				t.Fatalf("%d, not %d, of %v", b.Rate(), want, last)
			}
		}
	}
}

// A rush of half an hour is not taken for usual once there is something to compare it with, whenever it comes and wherever the clock's hour ends.
func TestBaselineRush(t *testing.T) {
	for known := 1; known < 2*Hours; known++ {
		for _, first := range []int{0, 15, 45} { // the minute in which it begins
			for _, at := range []int{0, known / 2, known - 1} { // the hour
				var b Baseline
				for minute := range (known + 1) * 60 {
					rate := uint32(100)
					if began := at*60 + first; minute >= began && minute < began+30 {
						rate = 50_000
					}
					b.Observe(monday+int64(minute)*60, rate)
				}
				rushed := 1 + first/45 // hours
				if got, want := b.Rate(), uint32(100); got != want && known+1 >= 2*rushed {
					t.Fatalf("with %d hours known, after a rush from minute %d of hour %d, the usual rate is %d", known+1, first, at, got)
				}
			}
		}
	}
}

// A clock that is set back, a little or for good, is survived.
func TestBaselineClock(t *testing.T) {
	var b Baseline
	if b.Rate() != 0 {
		t.Error("something is known of nothing")
	}
	b.Observe(monday, 100)
	b.Observe(monday-3600, 200) // counts for the latest hour
	if b.Rate() != 200 {
		t.Errorf("%d", b.Rate())
	}
	b.Observe(1000*3600, 7)
	if b.Rate() != 7 {
		t.Errorf("after the clock was set back by years: %d", b.Rate())
	}
	b.Observe(-5, 7)
	b.Observe(monday, 1)
	if b.Rate() != 1 {
		t.Errorf("%d", b.Rate())
	}
}

// What is learned can be saved and given back.
func TestRelearn(t *testing.T) {
	s := service("web", Limits{Hold: time.Minute})
	r := newRig(t, s)
	r.pass(3*time.Second, r.connect(s, destination(1), 3000))
	l := r.Learned(s.Watch)
	again := service("web", Limits{Hold: time.Minute})
	r2 := newRig(t, again)
	r2.Relearn(again.Watch, l)
	if _, rate := again.Thresholds(); rate != 12_000 {
		t.Errorf("the limit is %d", rate)
	}
}
