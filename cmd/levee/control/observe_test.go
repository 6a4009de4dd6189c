package control

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/proxy"
	"levee/proxy/cookie"
	"levee/stack"
)

// synLink brings the worker the same SYN as often as it asks.
type synLink struct{ frame []byte }

func (l *synLink) Recv(frames [][]byte, _ time.Duration) (int, error) {
	frames[0] = frames[0][:copy(frames[0], l.frame)]
	return 1, nil
}

func (*synLink) Send([][]byte) error { return nil }

// flooded is a proxy whose worker answers n SYNs each time that step is called.
func flooded(t *testing.T) (p *proxy.Proxy, step func(n int)) {
	t.Helper()
	start := time.Now()
	p, err := proxy.New(proxy.Config{
		Services: []proxy.Service{{Name: "web", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Mode: proxy.ModeAlways, Options: proxy.DefaultOptions()}},
		Capacity: 16, MTU: 1500, IdleTimeout: time.Hour, TransitoryTimeout: time.Minute, Secret: cookie.Secret{1},
	}, start)
	if err != nil {
		t.Fatal(err)
	}
	syn := stack.Segment{
		Src: stack.AddrFrom(netip.MustParseAddr("203.0.113.7")), Dst: stack.AddrFrom(netip.MustParseAddr("192.0.2.10")),
		SrcPort: 40000, DstPort: 80, Seq: 7, Flags: 2, Window: 1000, WScale: stack.WScaleNone,
	}
	w := p.NewWorker(&synLink{syn.Build(make([]byte, stack.MaxBuilt))})
	now := start
	return p, func(n int) {
		for range n {
			now = now.Add(time.Millisecond)
			if _, err := w.Step(func() time.Time { return now }, 0); err != nil {
				t.Error(err)
			}
		}
	}
}

// A client sees decisions as they are made, how many there were, and the end that it asked for.
func TestObserve(t *testing.T) {
	p, step := flooded(t)
	client, _ := serve(t, &fake{proxy: p})
	var got []Observation
	err := client.Observe(t.Context(), Watch{Count: 3, Rate: 1000, Bytes: true}, func(o Observation) error {
		if len(got) == 0 {
			step(5)
		}
		got = append(got, o)
		return nil
	})
	if err != nil || len(got) != 5 {
		t.Fatalf("%v, %d lines", err, len(got))
	}
	if first := got[0].Sample; first == nil || *first != (Sample{}) {
		t.Errorf("at first: %+v", got[0])
	}
	for _, o := range got[1:4] {
		d := o.Decision
		if d == nil || d.Verdict != "answer" || d.Reason != "" || d.Service != "web" || d.Src.String() != "203.0.113.7:40000" ||
			d.Dst.String() != "192.0.2.10:80" || d.Flags != "S" || d.Seq != 7 || d.Protocol != 6 || d.Length != 40 || len(d.Data) != 40 {
			t.Errorf("%+v", d)
		}
	}
	if last := got[4].Sample; last == nil || last.Shown != 3 || last.Matched != 5 {
		t.Errorf("at last: %+v", last)
	}
}

// An observation of nothing ends when its time is over, says in between that it lives, and leaves nothing behind.
func TestObserveNothing(t *testing.T) {
	p, step := flooded(t)
	client, _ := serve(t, &fake{proxy: p})
	samples := 0
	err := client.Observe(t.Context(), Watch{For: 1200 * time.Millisecond, Verdicts: []string{"drop"}, Reasons: []string{"land", "mode_off"},
		Prefix: netip.MustParsePrefix("192.0.2.0/24")}, func(o Observation) error {
		step(1)
		if o.Sample == nil || o.Sample.Matched != 0 {
			t.Errorf("%+v", o.Decision)
		}
		samples++
		return nil
	})
	if err != nil || samples != 3 {
		t.Errorf("%v, %d samples", err, samples)
	}
	for range proxy.MaxObservers + 1 { // each is gone before the next
		if err := client.Observe(t.Context(), Watch{For: time.Millisecond}, func(Observation) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
}

// What is wrong with the question, and a client that goes away, end it at once.
func TestObserveErrors(t *testing.T) {
	p, _ := flooded(t)
	client, _ := serve(t, &fake{proxy: p})
	for _, tt := range []struct {
		w    Watch
		want string
	}{
		{Watch{Verdicts: []string{"dropped"}}, `"dropped" is not a verdict: use one of forward, pass, drop, answer, refuse, open, splice, hold, reply, take`},
		{Watch{Reasons: []string{"x"}}, `"x" is not a reason: use one of truncated, `},
		{Watch{Service: "smtp"}, `there is no service "smtp": use one of web, ssh`},
		{Watch{Rate: proxy.MaxObserveRate + 1}, "rate 20001: use 1 to 20000"},
		{Watch{Rate: -1}, `rate "-1" is not a number: use 0 or more`},
	} {
		var bad BadRequest
		if err := client.Observe(t.Context(), tt.w, nil); !errors.As(err, &bad) || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt.w, err)
		}
	}
	full, _ := serve(t, &fake{})
	if err := full.Observe(t.Context(), Watch{}, nil); err == nil || err.Error() != proxy.ErrTooManyObservers.Error() || errors.As(err, new(BadRequest)) {
		t.Errorf("too many: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := client.Observe(ctx, Watch{}, func(Observation) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("gone: %v", err)
	}
}

// A word is there once, and chooses all that it stands for.
func TestReasonWords(t *testing.T) {
	words := ReasonWords()
	slices.Sort(words)
	if once := slices.Compact(slices.Clone(words)); len(once) != len(words) {
		t.Errorf("%d words, %d of them different: %v", len(words), len(once), words)
	}
	in, err := Watch{Reasons: []string{"fragment", "land", "bypass"}}.interest()
	if err != nil || !slices.Equal(in.Drops, []proxy.DropReason{proxy.DropFragment, proxy.DropLand}) ||
		!slices.Equal(in.Passes, []proxy.PassReason{proxy.PassFragment, proxy.PassBypass}) {
		t.Errorf("%v: %+v", err, in)
	}
}
