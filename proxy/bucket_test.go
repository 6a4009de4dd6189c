package proxy

import (
	"testing"
	"time"
)

func TestBucket(t *testing.T) {
	for _, rate := range []int{0, 1, 3, 1000} {
		var b bucket
		taken := func(now time.Duration, tries int) (n int) {
			for range tries {
				if b.take(now, rate) {
					n++
				}
			}
			return n
		}
		for _, tt := range []struct {
			name  string
			now   time.Duration
			tries int
			want  int
		}{
			{"full at first", 0, 2 * rate, rate},
			{"empty", 0, 10, 0},
			{"a second later", time.Second, 2 * rate, rate},
			{"an hour later no more", time.Hour, 2 * rate, rate},
			{"an earlier clock", time.Minute, 10, 0},
		} {
			if got := taken(tt.now, tt.tries); got != tt.want {
				t.Errorf("rate %d, %s: %d of %d taken, not %d", rate, tt.name, got, tt.tries, tt.want)
			}
		}
		n := 0
		for i := range 10_000 { // ten seconds of tries each millisecond
			n += taken(2*time.Hour+time.Duration(i)*time.Millisecond, 5)
		}
		if want := 11 * rate; n > want || n < want-rate/10-1 {
			t.Errorf("rate %d: %d taken in ten seconds, not %d", rate, n, want)
		}
	}
}
