package daemon

import (
	"testing"
	"time"

	"levee/cmd/levee/control"
)

// TestDrainIsOver: a drain is over when no connection has been open for two counts, but not before clients could bring their cookies, or when its
// time is over.
func TestDrainIsOver(t *testing.T) {
	for _, tt := range []struct {
		name    string
		timeout time.Duration
		// open is how many connections are at each second; the last goes on.
		open  []int
		after time.Duration
		want  control.DrainState
	}{
		{"nothing open", 0, []int{0}, 3 * time.Second, control.Drained},
		{"one ends at once", 0, []int{1, 0}, 3 * time.Second, control.Drained},
		{"one ends later", 0, []int{1, 1, 1, 1, 1, 0}, 6 * time.Second, control.Drained},
		{"one comes with its cookie", 0, []int{0, 0, 1, 0}, 4 * time.Second, control.Drained},
		{"one stays", 4500 * time.Millisecond, []int{1}, 4500 * time.Millisecond, control.DrainTimedOut},
		{"time is over before clients could come", 2 * time.Second, []int{0}, 2 * time.Second, control.Drained},
		{"one ends before", time.Minute, []int{1, 1, 0}, 3 * time.Second, control.Drained},
	} {
		t.Run(tt.name, func(t *testing.T) {
			begin := time.Unix(1e9, 0)
			s := drains{state: control.Draining, began: begin, counted: begin, connections: tt.open[0]}
			if tt.timeout > 0 {
				s.deadline = begin.Add(tt.timeout)
			}
			for passed := time.Duration(0); passed < time.Hour; passed += drainTick {
				now := begin.Add(passed)
				open := tt.open[min(int(passed/time.Second), len(tt.open)-1)]
				if !s.due(now) || !s.look(now, open) {
					continue
				}
				if p := s.progress(now); p.State != tt.want || passed != tt.after || p.Connections != open || p.Seconds != passed.Seconds() {
					t.Errorf("over after %v: %+v", passed, p)
				}
				if s.due(now) || s.look(now, 0) {
					t.Error("over twice")
				}
				return
			}
			t.Error("never over")
		})
	}
}
