package proxy

import "testing"

// TestNext covers every state and event: what isn't listed must leave the state alone.
func TestNext(t *testing.T) {
	type change struct {
		from State
		on   event
	}
	want := map[change]State{
		{StateOpening, evSynAck}: StateOpen,
		{StateOpening, evGiveUp}: StateReset,

		{StateOpen, evClientFIN}:         StateClientClosed,
		{StateOpen, evServerFIN}:         StateServerClosed,
		{StateClientClosed, evServerFIN}: StateTimeWait,
		{StateServerClosed, evClientFIN}: StateTimeWait,
	}
	for s := range NumStates {
		want[change{s, evHandshake}] = StateOpening
		if s != StateFree {
			want[change{s, evRST}] = StateReset
		}
		if s != StateOpening {
			want[change{s, evTimeout}] = StateFree
		}
	}
	for s := range NumStates {
		for e := range numEvents {
			to, ok := want[change{s, e}]
			if !ok {
				to = s
			}
			if got := next(s, e); got != to {
				t.Errorf("next(%s, event %d) = %s, want %s", s, e, got, to)
			}
		}
	}
	if fin(client) != evClientFIN || fin(server) != evServerFIN {
		t.Error("fin takes a side for the other")
	}
}

func TestStateNames(t *testing.T) {
	seen := map[string]bool{}
	for s := range NumStates {
		if name := s.String(); name == "" || name == "unknown" || seen[name] {
			t.Errorf("state %d has the name %q", s, name)
		} else {
			seen[name] = true
		}
		if ended := s == StateTimeWait || s == StateReset; s.Ended() != ended {
			t.Errorf("%s.Ended() = %t", s, !ended)
		}
	}
}
