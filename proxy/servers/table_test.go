package servers

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"levee/stack"
	"pgregory.net/rapid"
)

const t0 = 1_800_000_000

func key(i int) Key {
	return Key{Addr: stack.AddrFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i >> 16)})), Port: uint16(i) + 1}
}

func table(probes bool) *Table {
	return New(Config{Capacity: 64, WScale: 7, ClosedFor: 10 * time.Second, Probes: probes})
}

var linux = Answer{Asked: All, Does: All, MSS: 1460, WScale: 10, Window: 65160}

// A refused client closes a port for everybody only where nothing speaks against it.
func TestRefusals(t *testing.T) {
	k := key(1)
	answered := func(at int64, from Source) func(*Table) bool {
		return func(tb *Table) bool { return tb.Answered(&k, t0+at, &linux, from) }
	}
	refused := func(at int64, how State) func(*Table) bool {
		return func(tb *Table) bool { return tb.Refused(&k, t0+at, how) }
	}
	failed := func(at int64, how State) func(*Table) bool {
		return func(tb *Table) bool { tb.ProbeFailed(&k, t0+at, how); return false }
	}
	for _, test := range []struct {
		name   string
		probes bool
		steps  []func(*Table) bool
		asks   bool // the last step asks for a probe
		at     int64
		want   State
	}{
		{"nothing known", true, nil, false, 0, Unknown},
		{"answered", true, []func(*Table) bool{answered(0, Traffic)}, true, 1, Alive},
		{"answered a probe", true, []func(*Table) bool{answered(0, Probe)}, false, 1, Alive},
		{"answered, no probes", false, []func(*Table) bool{answered(0, Traffic)}, false, 1, Alive},
		{"answered after a probe", true, []func(*Table) bool{answered(0, Probe), answered(1, Traffic)}, false, 1, Alive},
		{"answered long after a probe", true, []func(*Table) bool{answered(0, Probe), answered(again, Traffic)}, true, again, Alive},
		{"answered while a probe is under way", true, []func(*Table) bool{answered(0, Traffic), answered(1, Traffic)}, false, 1, Alive},
		{"answered after a probe was not", true, []func(*Table) bool{answered(0, Traffic), failed(1, Silent), answered(60, Traffic)}, false, 60, Alive},
		{"too old", true, []func(*Table) bool{answered(0, Traffic)}, true, keep, Unknown},

		{"never answered, a client refused", true, []func(*Table) bool{refused(0, Closed)}, true, 1, Unknown},
		{"the same, again and again", true, []func(*Table) bool{refused(0, Closed), refused(4, Closed), refused(5, Closed)}, true, 5, Unknown},
		{"the same, and the probe", true, []func(*Table) bool{refused(0, Closed), failed(1, Closed)}, false, 10, Closed},
		{"the same, for as long as it counts", true, []func(*Table) bool{refused(0, Closed), failed(1, Closed)}, false, 11, Unknown},
		{"a client refused, the probe unanswered", true, []func(*Table) bool{refused(0, Closed), failed(3, Silent)}, false, 3, Silent},
		{"a client unanswered, the probe refused", true, []func(*Table) bool{refused(0, Silent), failed(1, Closed)}, false, 1, Closed},
		{"a client unanswered, no way to send a probe", true, []func(*Table) bool{refused(0, Silent), failed(0, Unknown)}, false, 9, Silent},
		{"a client refused, the probe's turn comes too late", true, []func(*Table) bool{refused(0, Closed), failed(doubt, Closed)}, false, doubt, Unknown},
		{"a client refused, its probe counts once", true, []func(*Table) bool{refused(0, Closed), failed(1, Closed), failed(12, Closed)}, false, 12, Unknown},
		{"a client refused, another answered before the probe was not", true, []func(*Table) bool{refused(0, Closed), answered(1, Traffic), failed(2, Closed)}, false, 2, Alive},
		{"never answered, not refused to a probe", true, []func(*Table) bool{refused(0, Closed), answered(1, Probe)}, false, 2, Alive},
		{"no probe was ever answered, and it was quiet", true, []func(*Table) bool{answered(0, Traffic), failed(3, Silent), refused(quiet, Silent)}, false, quiet, Silent},
		{"no probe was ever answered, answered just now", true, []func(*Table) bool{answered(0, Traffic), failed(3, Silent), refused(quiet-1, Silent)}, true, quiet - 1, Alive},
		{"no probe has come back yet", true, []func(*Table) bool{answered(0, Traffic), refused(quiet, Silent)}, true, quiet, Alive},
		{"refused, the clock was set back", true, []func(*Table) bool{refused(0, Closed), failed(0, Closed)}, false, -1, Unknown},
		{"a client refused, the clock was set back", true, []func(*Table) bool{refused(0, Closed), failed(-1, Closed)}, false, -1, Unknown},
		{"refused, then answered", true, []func(*Table) bool{refused(0, Closed), failed(1, Closed), answered(5, Traffic)}, true, 5, Alive},
		{"refused, long after it answered", true, []func(*Table) bool{answered(0, Probe), refused(keep, Closed)}, true, keep, Unknown},
		{"the same, and the probe of what answered long ago", true, []func(*Table) bool{answered(0, Traffic), refused(keep, Closed), failed(keep+1, Closed)}, false, keep + 1, Closed},

		{"answered a client, another refused", true, []func(*Table) bool{answered(0, Traffic), refused(20, Closed)}, true, 20, Alive},
		{"the same, and the probe", true, []func(*Table) bool{answered(0, Traffic), refused(20, Closed), failed(21, Closed)}, false, 21, Alive},
		{"answered a probe, a client refused", true, []func(*Table) bool{answered(0, Probe), refused(20, Closed)}, true, 20, Alive},
		{"the same, and the next probe", true, []func(*Table) bool{answered(0, Probe), refused(20, Closed), failed(21, Closed)}, false, 21, Closed},
		{"the same, and the next probe unanswered", true, []func(*Table) bool{answered(0, Probe), refused(20, Silent), failed(23, Silent)}, false, 23, Silent},
		{"the same, but a client is answered", true, []func(*Table) bool{answered(0, Probe), refused(20, Closed), answered(21, Traffic), failed(22, Closed)}, false, 22, Alive},
		{"the same, but the probe is late", true, []func(*Table) bool{answered(0, Probe), refused(20, Closed), failed(20+doubt, Closed)}, false, 20 + doubt, Alive},
		{"the same, but it could not be sent", true, []func(*Table) bool{answered(0, Probe), refused(20, Closed), failed(20, Unknown)}, false, 20, Alive},
		{"a probe refused, no client", true, []func(*Table) bool{answered(0, Probe), failed(20, Closed)}, false, 20, Alive},
		{"a probe of nothing known refused", true, []func(*Table) bool{failed(0, Closed)}, false, 0, Unknown},
		{"refused for the whole time", true, []func(*Table) bool{answered(0, Probe), refused(20, Closed), failed(21, Closed), refused(30, Closed)}, true, 30, Closed},
		{"the same, and the next probe too", true, []func(*Table) bool{answered(0, Probe), refused(20, Closed), failed(21, Closed), refused(30, Closed), failed(31, Closed)}, false, 35, Closed},

		{"a second probe refused says no more", true, []func(*Table) bool{answered(0, Probe), refused(20, Closed), failed(21, Closed), failed(24, Silent)}, false, 24, Closed},
		{"answered just after a probe was not", true, []func(*Table) bool{refused(0, Closed), failed(1, Closed), answered(2, Traffic)}, false, 2, Alive},
		{"answered, the clock was set back", true, []func(*Table) bool{answered(1000, Traffic), answered(0, Traffic)}, true, 0, Alive},

		{"without probes, never answered", false, []func(*Table) bool{refused(0, Closed)}, false, 9, Closed},
		{"without probes, refused for the whole time", false, []func(*Table) bool{refused(0, Closed), refused(9, Silent)}, false, 18, Silent},
		{"without probes, time has passed", false, []func(*Table) bool{refused(0, Closed)}, false, 10, Unknown},
		{"without probes, answered just now", false, []func(*Table) bool{answered(0, Traffic), refused(quiet-1, Closed)}, false, quiet - 1, Alive},
		{"without probes, quiet", false, []func(*Table) bool{answered(0, Traffic), refused(quiet, Closed)}, false, quiet, Closed},
	} {
		t.Run(test.name, func(t *testing.T) {
			tb, asks := table(test.probes), false
			for _, step := range test.steps {
				asks = step(tb)
			}
			if asks != test.asks {
				t.Errorf("asks for a probe: %v", asks)
			}
			if got := tb.Find(&k, t0+test.at).State; got != test.want {
				t.Errorf("%v, not %v", got, test.want)
			}
		})
	}
}

// What was not asked for is not learned, and what is learned replaces what was.
func TestFeatures(t *testing.T) {
	tb, k := table(true), key(1)
	tb.Answered(&k, t0, &Answer{Asked: SACK, Does: SACK, MSS: 536, Window: 65160}, Traffic)
	if got := tb.Find(&k, t0); got.Knows != MSS|SACK || !got.Does.Has(SACK) || got.MSS != 536 || got.Told != 7 {
		t.Errorf("got %+v", got)
	}
	tb.Answered(&k, t0, &linux, Probe)
	if got := tb.Find(&k, t0); got.Knows != All || got.Does != All || got.MSS != 1460 || got.Told != 10 || got.Window != 65160 {
		t.Errorf("got %+v", got)
	}
	tb.Answered(&k, t0+1, &Answer{Asked: SACK, MSS: 1400, Window: 100}, Traffic)
	if got := tb.Find(&k, t0+1); got.Knows != All || got.Does != All&^SACK || got.MSS != 1400 || got.Window != 100 {
		t.Errorf("got %+v", got)
	}
	// What failed a client is not promised to the next, whatever a probe sees, for a while.
	tb.Denied(&k, t0+2, Timestamps)
	tb.Answered(&k, t0+3, &linux, Probe)
	if got := tb.Find(&k, t0+3); got.Knows != All || got.Does != All&^Timestamps {
		t.Errorf("after a wrong promise %+v", got)
	}
	tb.Answered(&k, t0+2+denied, &linux, Probe)
	if got := tb.Find(&k, t0+2+denied); got.Does != All {
		t.Errorf("long after a wrong promise %+v", got)
	}
	// One wrong promise doesn't take back another, but one that is over is over.
	tb.Denied(&k, t0+2+denied, ECN)
	tb.Denied(&k, t0+3+denied, SACK)
	if got := tb.Find(&k, t0+3+denied); got.Does != All&^(ECN|SACK) {
		t.Errorf("after two wrong promises %+v", got)
	}
}

// A smaller first window counts at once, a larger one little by little; the first of all, and the first after a day, as it is.
func TestWindows(t *testing.T) {
	tb, k := table(true), key(1)
	for i, step := range []struct {
		at          int64
		shown, want uint16
	}{
		{0, 60000, 60000}, {1, 4000, 4000}, {2, 4016, 4001}, {3, 60000, 7501}, {4, 0, 0}, {5, 65535, 4096}, {5 + keep, 65535, 65535}, {6 + keep, 65535, 65535},
	} {
		a := linux
		a.Window = step.shown
		tb.Answered(&k, t0+step.at, &a, Traffic)
		if got := tb.Find(&k, t0+step.at).Window; got != step.want {
			t.Errorf("step %d: %d, not %d", i, got, step.want)
		}
	}
}

// TestCookieTellsNothing: the options that a server's SYN cookie has no room for are done again when its flood is over.
func TestCookieTellsNothing(t *testing.T) {
	k, tb := key(1), table(false)
	stampless := Answer{Asked: MSS | WScale | SACK, Does: MSS, MSS: 1460, WScale: NoWScale, Window: 64240}
	tb.Answered(&k, t0, &stampless, Traffic)
	if got := tb.Find(&k, t0); got.Knows != MSS|WScale|SACK || got.Does != MSS {
		t.Errorf("a server that has shown nothing else is known as %+v", got)
	}
	tb.Answered(&k, t0+2*hold, &linux, Traffic)
	want := tb.Find(&k, t0+2*hold)
	if want.Told != linux.WScale {
		t.Fatalf("clients are told %d", want.Told)
	}
	tb.Answered(&k, t0+4*hold, &stampless, Traffic)
	want.Before = want.Told
	want.Window = NextWindow(want.Window, stampless.Window)
	if got := tb.Find(&k, t0+4*hold); got != want {
		t.Errorf("it is known as %+v, not %+v", got, want)
	}
	// It says so where it can.
	stamped := Answer{Asked: All, Does: MSS | Timestamps | ECN, MSS: 1460, WScale: NoWScale, Window: 64240}
	tb.Answered(&k, t0+6*hold, &stamped, Traffic)
	if got := tb.Find(&k, t0+6*hold); got.Does.Has(SACK) || got.Does.Has(WScale) || got.Told != NoWScale {
		t.Errorf("it is known as %+v", got)
	}
}

// A promised scale stays for longer than a cookie lives, and the one before it is known for as long.
func TestScales(t *testing.T) {
	tb, k := table(true), key(1)
	scale := func(w uint8) *Answer { a := linux; a.WScale = w; return &a }
	want := func(at int64, told, before uint8) {
		t.Helper()
		if got := tb.Find(&k, t0+at); got.Told != told || got.Before != before {
			t.Errorf("after %d s told %d, before %d, not %d and %d", at, got.Told, got.Before, told, before)
		}
	}
	want(0, 7, 7)
	tb.Answered(&k, t0, scale(10), Traffic)
	want(0, 10, 7)
	tb.Answered(&k, t0+1, scale(0), Traffic) // a balancer with servers of two kinds
	want(1, 10, 7)
	want(hold, 10, 10)
	tb.Answered(&k, t0+hold, scale(0), Traffic)
	want(hold, 0, 10)
	want(2*hold, 0, 0)
	tb.Answered(&k, t0+2*hold, scale(NoWScale), Traffic)
	want(2*hold, NoWScale, 0)
	// Too old: what is promised again is the default, but the old promise may still be out.
	want(2*hold+keep, 7, NoWScale)
	tb.Answered(&k, t0+2*hold+keep, scale(3), Traffic)
	want(2*hold+keep, 3, 7)
	// A clock that is set back doesn't make a promise eternal.
	tb.Answered(&k, t0+hold, scale(9), Traffic)
	want(hold, 9, 3)
}

// At any time every scale that was promised within a cookie's life is among the two that the table knows, as long as the server is.
func TestPromisesOverlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tb, k := New(Config{Capacity: 1, WScale: 7}), key(1)
		type promise struct {
			at   int64
			told uint8
		}
		var out []promise
		now := int64(t0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now += rapid.Int64Range(0, 100).Draw(t, "pause")
			if rapid.Bool().Draw(t, "answer") {
				a := linux
				a.WScale = uint8(rapid.IntRange(0, 15).Draw(t, "scale"))
				tb.Answered(&k, now, &a, Traffic)
			}
			got := tb.Find(&k, now)
			out = append(out, promise{now, got.Told})
			for _, p := range out {
				if now-p.at < 128 && p.told != got.Told && p.told != got.Before {
					t.Fatalf("promised %d %d s ago, known are %d and %d", p.told, now-p.at, got.Told, got.Before)
				}
			}
		}
	})
}

// The table never grows, and whoever scans closed ports pushes out no open one.
func TestScanForgetsNothing(t *testing.T) {
	tb := table(false)
	open := 0
	for i := range tb.Capacity() / 2 {
		k := key(i)
		tb.Answered(&k, t0, &linux, Traffic)
	}
	open = tb.Counts(t0)[Alive]
	for i := range 100_000 {
		k := key(1<<16 + i)
		tb.Refused(&k, t0+1, Closed)
	}
	counts := tb.Counts(t0 + 1)
	if counts[Alive] != open || counts[Closed] != tb.Capacity()-open {
		t.Errorf("%v, were %d alive of %d", counts, open, tb.Capacity())
	}
	// Servers that answer push out what doesn't, and then the oldest.
	for i := range 10_000 {
		k := key(2<<16 + i)
		tb.Answered(&k, t0+2, &linux, Traffic)
	}
	for i := range 10_000 {
		k := key(3<<16 + i)
		tb.Refused(&k, t0+2, Closed)
	}
	if counts := tb.Counts(t0 + 2); counts[Alive] != tb.Capacity() {
		t.Errorf("%v", counts)
	}
	for i := range tb.Capacity() / 2 {
		k := key(i)
		if tb.Find(&k, t0+2).State != Unknown {
			t.Fatalf("%v is still there", k.AddrPort())
		}
	}
}

// A full set makes room by what is missed least, not by what is oldest.
func TestWhoMakesRoom(t *testing.T) {
	state := func(tb *Table, i int) State { k := key(i); return tb.Find(&k, t0+20).State }
	tb := New(Config{Capacity: ways, ClosedFor: time.Minute})
	for i := range ways { // half of them refused, after the others answered
		k := key(i)
		if i < ways/2 {
			tb.Answered(&k, t0, &linux, Traffic)
		} else {
			tb.Refused(&k, t0+int64(ways-i), Closed) // the last is the oldest
		}
	}
	newcomer := key(100)
	tb.Refused(&newcomer, t0+10, Closed)
	for i, want := range []State{Alive, Alive, Alive, Alive, Closed, Closed, Closed, Unknown} {
		if got := state(tb, i); got != want {
			t.Errorf("after a refusal %d is %v, not %v", i, got, want)
		}
	}
	for i := range ways / 2 {
		k := key(200 + i)
		tb.Answered(&k, t0+11, &linux, Traffic)
	}
	for i := range ways / 2 {
		if state(tb, i) != Alive || state(tb, 200+i) != Alive {
			t.Errorf("server %d or %d made room for a refusal", i, 200+i)
		}
	}
}

// As many ports as there is room for wait for their probes, whatever is known of none of them.
func TestSuspectsMakeRoom(t *testing.T) {
	tb := New(Config{Capacity: ways, ClosedFor: time.Minute, Probes: true})
	for i := range ways + 1 {
		k := key(i)
		tb.Refused(&k, t0+int64(i), Closed)
	}
	for i := range ways + 1 {
		k := key(i)
		tb.ProbeFailed(&k, t0+ways+1, Closed)
		want := Closed
		if i == 0 {
			want = Unknown // it was refused longest ago
		}
		if got := tb.Find(&k, t0+ways+1).State; got != want {
			t.Errorf("port %d is %v, not %v", i, got, want)
		}
	}
}

// What is over is listed no longer: nothing is known of it.
func TestOnlyWhatIsKnownIsListed(t *testing.T) {
	for _, probes := range []bool{false, true} {
		tb := table(probes)
		old, alive, closed := key(1), key(2), key(3)
		tb.Answered(&old, t0, &linux, Probe)
		tb.Answered(&alive, t0+keep-1, &linux, Probe)
		tb.Refused(&closed, t0+keep-1, Closed)
		tb.ProbeFailed(&closed, t0+keep-1, Closed)
		for _, step := range []struct {
			at   int64
			want [NumStates]int
		}{{keep - 1, [NumStates]int{Alive: 2, Closed: 1}}, {keep, [NumStates]int{Alive: 1, Closed: 1}}, {keep + 9, [NumStates]int{Alive: 1}}} {
			if got := tb.Counts(t0 + step.at); got != step.want {
				t.Errorf("probes %v, after %d s: %v, not %v", probes, step.at, got, step.want)
			}
		}
	}
}

// The table against a map, as long as nothing has to be pushed out.
func TestAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tb := New(Config{Capacity: 4096, WScale: 7, ClosedFor: 10 * time.Second})
		model := map[Key]uint16{}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			k := key(rapid.IntRange(0, 40).Draw(t, "key"))
			if rapid.Bool().Draw(t, "write") {
				a := linux
				a.MSS = rapid.Uint16().Draw(t, "mss")
				tb.Answered(&k, t0, &a, Traffic)
				model[k] = a.MSS
			}
			want, ok := model[k]
			if got := tb.Find(&k, t0); (got.State == Alive) != ok || got.MSS != want {
				t.Fatalf("%v: %+v, want MSS %d", k.AddrPort(), got, want)
			}
		}
		if n := tb.Counts(t0)[Alive]; n != len(model) {
			t.Fatalf("%d servers, not %d", n, len(model))
		}
	})
}

func TestFile(t *testing.T) {
	tb := table(true)
	v6 := Key{Addr: stack.AddrFrom(netip.MustParseAddr("2001:db8::1")), Port: 443}
	a, b, c := key(1), key(2), key(3)
	tb.Answered(&a, t0, &linux, Probe)
	none := Answer{Asked: All, Does: MSS, MSS: 536, WScale: NoWScale}
	tb.Answered(&b, t0+5, &none, Traffic)
	tb.Answered(&v6, t0+6, &linux, Traffic)
	tb.Refused(&c, t0+6, Closed)
	var text bytes.Buffer
	if err := tb.Save(&text, t0+7); err != nil {
		t.Fatal(err)
	}
	again := table(true)
	if n, err := again.Load(bytes.NewReader(text.Bytes()), t0+8); n != 3 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	for _, k := range []Key{a, b, v6} {
		want, got := tb.Find(&k, t0+8), again.Find(&k, t0+8)
		if want.Before = 7; got != want {
			t.Errorf("%v: %+v, want %+v", k.AddrPort(), got, want)
		}
	}
	if got := again.Find(&c, t0+8).State; got != Unknown {
		t.Errorf("a refusal was kept: %v", got)
	}
	// A day later only the later ones are young enough.
	again = table(true)
	if n, err := again.Load(bytes.NewReader(text.Bytes()), t0+keep+2); n != 2 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	// What is from the future has no age.
	again = table(true)
	if n, err := again.Load(bytes.NewReader(text.Bytes()), t0+1); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// A clock that was set back between a probe and a client's connection makes no file that is not believed.
func TestFileAfterClockSetBack(t *testing.T) {
	tb, k, other := table(true), key(1), key(2)
	tb.Answered(&k, t0+100, &linux, Probe)
	tb.Answered(&k, t0, &linux, Traffic)
	tb.Answered(&other, t0, &linux, Probe)
	var text bytes.Buffer
	if err := tb.Save(&text, t0+1); err != nil {
		t.Fatal(err)
	}
	read := table(true)
	if n, err := read.Load(&text, t0+2); n != 2 || err != nil {
		t.Fatalf("%d servers, %v", n, err)
	}
	if got := read.Find(&k, t0+2); got.State != Alive || got.MSS != linux.MSS {
		t.Errorf("%+v", got)
	}
	// Nor does the probe of a time to come put off the next.
	if !tb.Answered(&k, t0+again, &linux, Traffic) {
		t.Error("no probe is asked for")
	}
}

// A file of another version is said to be that, whatever else is in it.
func TestVersionBeforeContent(t *testing.T) {
	for _, text := range []string{`{"version":2,"servers":[{"server":"192.0.2.0:2","new":true}]}`, `{"servers":{"by":"address"},"version":2}`} {
		if n, err := table(true).Load(strings.NewReader(text), t0); n != 0 || err == nil || !strings.Contains(err.Error(), "version 2") {
			t.Errorf("%s: %d, %v", text, n, err)
		}
	}
}

func TestBadFiles(t *testing.T) {
	var good bytes.Buffer
	tb, k := table(true), key(1)
	tb.Answered(&k, t0, &linux, Probe)
	if err := tb.Save(&good, t0); err != nil {
		t.Fatal(err)
	}
	text := good.String()
	replace := func(old, with string) string {
		if !strings.Contains(text, old) {
			t.Fatalf("no %s in %s", old, text)
		}
		return strings.Replace(text, old, with, 1)
	}
	for name, bad := range map[string]string{
		"empty":           "",
		"cut off":         text[:len(text)-4],
		"two":             text + text,
		"another version": replace(`"version":1`, `"version":2`),
		"unknown key":     replace(`"version":1`, `"version":1,"x":1`),
		"no port":         replace(`192.0.2.0:2`, `192.0.2.0:0`),
		"a zone":          replace(`192.0.2.0:2`, `[fe80::1%eth0]:2`),
		"scale":           replace(`"wscale":10`, `"wscale":16`),
		"feature":         replace(`"knows":"mss,`, `"knows":"mms,`),
		"does unknown":    replace(`"knows":"mss,`, `"knows":"`),
		"source":          replace(`"probe"`, `"rumour"`),
		"probed later":    replace(fmt.Sprintf(`"probed":%d`, t0), fmt.Sprintf(`"probed":%d`, t0+1)),
		"never answered":  replace(fmt.Sprintf(`"answered":%d`, t0), `"answered":0`),
		"no JSON":         "\x00\x01",
	} {
		tb := table(true)
		if n, err := tb.Load(strings.NewReader(bad), t0); n != 0 || err == nil {
			t.Errorf("%s: %d servers, %v", name, n, err)
		}
		if tb.Counts(t0) != [NumStates]int{} {
			t.Errorf("%s: something was believed", name)
		}
	}
}

// A server that is in a file twice is in the table once.
func TestTwiceInFile(t *testing.T) {
	one := fmt.Sprintf(`{"server":"192.0.2.0:2","knows":"mss","does":"mss","mss":%%d,"wscale":15,"window":1,"source":"probe","answered":%d,"probed":1}`, t0)
	tb, k := table(true), key(1)
	if _, err := tb.Load(strings.NewReader(fmt.Sprintf(`{"version":1,"servers":[`+one+","+one+`]}`, 1000, 1200)), t0); err != nil {
		t.Fatal(err)
	}
	if n, got := tb.Counts(t0)[Alive], tb.Find(&k, t0); n != 1 || got.MSS != 1200 {
		t.Errorf("%d servers, %+v", n, got)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(`{"version":1,"servers":[{"server":"192.0.2.0:2","knows":"mss,wscale","does":"mss","mss":1460,"wscale":10,"window":1,"source":"probe","answered":1800000000,"probed":1}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		tb := table(true)
		n, err := tb.Load(bytes.NewReader(text), t0)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := tb.Save(&out, t0); err != nil {
			t.Fatal(err)
		}
		if m, err := table(true).Load(&out, t0); err != nil || m > n {
			t.Errorf("%d read again as %d, %v", n, m, err)
		}
	})
}

func TestNoAllocations(t *testing.T) {
	tb, k := table(true), key(1)
	r := rand.New(rand.NewPCG(1, 2))
	for name, f := range map[string]func(){
		"find":     func() { tb.Find(&k, t0) },
		"answered": func() { tb.Answered(&k, t0, &linux, Traffic) },
		"refused":  func() { k := key(r.IntN(1 << 20)); tb.Refused(&k, t0, Closed) },
	} {
		if n := testing.AllocsPerRun(1000, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// The SYN path: a flood at one known server, and at ports of which nothing is known.
func BenchmarkFind(b *testing.B) {
	tb := New(Config{Capacity: DefaultCapacity})
	known := key(80)
	tb.Answered(&known, t0, &linux, Traffic)
	for name, n := range map[string]int{"known": 1, "spread": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				k := key(80 + i%n)
				tb.Find(&k, t0)
			}
		})
	}
}
