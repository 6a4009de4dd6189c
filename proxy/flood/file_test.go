package flood

import (
	"bytes"
	"maps"
	"strings"
	"testing"
	"time"
)

func learnedSample() map[string]Learned {
	var l Learned
	for hour := range int64(200) {
		l.Busiest.Observe(monday+3600*hour, uint32(10+hour))
		l.Total.Observe(monday+3600*hour, uint32(1000+hour))
	}
	return map[string]Learned{"web": l, "mail": {Total: l.Total}}
}

func TestFile(t *testing.T) {
	want := learnedSample()
	var b bytes.Buffer
	if err := Save(&b, want); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	got, err := Load(&b)
	if err != nil || !maps.Equal(got, want) {
		t.Fatalf("%v\n%v\nwant %v", err, got, want)
	}
	for _, damage := range []struct{ name, was, is, want string }{
		{"cut", text[len(text)/2:], "", "damaged"},
		{"empty", text, "", "damaged"},
		{"more", "]}\n", "]}{}\n", "behind its end"},
		{"another version", `"version":1`, `"version":2`, "it has version 2, not 1"},
		{"unknown key", `"version":1`, `"version":1,"x":1`, "damaged"},
		{"too few hours", `"peaks":[0,`, `"peaks":[`, "167 hours, not 168"},
		{"too many hours", `"peaks":[0,`, `"peaks":[0,0,`, "169 hours, not 168"},
		{"a hopeless hour", `"hour":0`, `"hour":1000000000`, "hour 1000000000"},
		{"a negative hour", `"hour":0`, `"hour":-1`, "hour -1"},
		{"too much in a second", `"peaks":[0,`, `"peaks":[10000002,`, "10000001 handshakes"},
		{"a negative rate", `"peaks":[0,`, `"peaks":[-1,`, "damaged"},
		{"a name twice", `"name":"mail"`, `"name":"web"`, "no name of its own"},
		{"no name", `"name":"mail"`, `"name":""`, "no name of its own"},
	} {
		damaged := strings.Replace(text, damage.was, damage.is, 1)
		if damaged == text {
			t.Fatalf("%s: nothing is damaged", damage.name)
		}
		if got, err := Load(strings.NewReader(damaged)); err == nil || got != nil || !strings.Contains(err.Error(), damage.want) {
			t.Errorf("%s: %v, %v", damage.name, got, err)
		}
	}
}

// FuzzLoad: whatever is in the file, what is believed of it can be saved and read again.
func FuzzLoad(f *testing.F) {
	var b bytes.Buffer
	if err := Save(&b, learnedSample()); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(`{"version":1,"services":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Load(bytes.NewReader(data))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := Save(&b, got); err != nil {
			t.Fatal(err)
		}
		again, err := Load(&b)
		if err != nil || !maps.Equal(got, again) {
			t.Fatalf("%v: %v, not %v", err, again, got)
		}
		for _, l := range got {
			l.Busiest.Observe(monday, 7)
			_ = Limits{Hold: DefaultHold}.resolve(l.Busiest.Rate())
		}
	})
}

// A week, fast-forwarded: what is learned hour by hour raises the limits, a restart keeps them, and a flood of a whole day doesn't change them.
func TestWeekOutlivesRestart(t *testing.T) {
	s := service("web", Limits{Hold: DefaultHold})
	r := newRig(t, s)
	hour := func(r *rig, s Service, second func()) {
		r.pass(2*time.Second, second)
		r.now += time.Hour - 2*time.Second
	}
	for i := range Hours {
		rate := 800
		if i%24 >= 8 {
			rate = 2000 // the day
		}
		hour(r, s, r.connect(s, destination(1), rate))
	}
	wantLimits := func(s Service) {
		t.Helper()
		if halfOpen, rate := s.Thresholds(); halfOpen != 4000 || rate != 8000 {
			t.Fatalf("the limits are %d and %d, not twice and four times 2000", halfOpen, rate)
		}
	}
	wantLimits(s)
	var b bytes.Buffer
	if err := Save(&b, map[string]Learned{"web": r.Learned(s.Watch)}); err != nil {
		t.Fatal(err)
	}

	again := service("web", Limits{Hold: DefaultHold})
	r2 := newRig(t, again)
	if halfOpen, rate := again.Thresholds(); halfOpen != floorHalfOpen || rate != floorSYNRate {
		t.Fatalf("before it has learned anything the limits are %d and %d", halfOpen, rate)
	}
	learned, err := Load(&b)
	if err != nil {
		t.Fatal(err)
	}
	r2.Relearn(again.Watch, learned["web"])
	wantLimits(again)
	r2.unix += Hours * 3600
	for range 24 {
		hour(r2, again, r2.flood(again, destination(1), 50_000))
	}
	wantLimits(again)
	r2.want(again, destination(1), true)
}
