package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"

	"levee/cmd/levee/control"
)

func sampleHistory() *topHistory {
	h := &topHistory{}
	at := time.Date(2026, 1, 2, 15, 4, 0, 0, time.Local)
	for i := range uint64(30) {
		syn := i * 1000
		if i >= 10 {
			syn = 10000 + (i-10)*50000
		}
		h.add(topSample{at.Add(time.Duration(i) * time.Second), control.Status{
			Version: "v1", Ready: true, UptimeSeconds: int64(90 + i),
			Flows: control.Flows{Open: 120, Opening: 3, Remembered: 40, Capacity: 1000},
			Services: []control.Service{
				{Name: "ssh", Mode: "always", SynReceived: i * 2, CookieValid: i * 2, Opened: i * 2, Flows: 20},
				{Name: "web", Mode: "auto", SynReceived: syn, SynPassed: i * 10, CookieValid: i * 100, CookieInvalid: i * 7, Opened: i * 90, Refused: i * 10, Flows: 100,
					FloodSeconds: float64(max(int(i)-10, 0)), Engagement: &control.Engagement{Engaged: i > 10, Destinations: 2, PeakSynRate: 50000}},
			},
			Drops:   map[string]uint64{"cookie_invalid": i * 7, "land": 3, "no_flow": 0},
			Passed:  map[string]uint64{"mode_off": i * 5},
			TUN:     control.TUN{TxDrops: i * 20},
			Workers: []control.Worker{{Received: i * 100, ReceivedBytes: i * 1000}, {Received: i * 10, ReceivedBytes: i * 250}},
		}})
	}
	return h
}

func TestTopFrame(t *testing.T) {
	v := topView{history: sampleHistory(), every: time.Second, width: columns, height: rows}
	want := `levee v1, up 1m59s, ready                                     every 1s  15:04:29
flows 120 open, 3 opening, 0 closing, 40 remembered of 1000
SYN/s      50012  max  50012 ▁▁▁▁▁▁▁▁▁▁███████████████████
opened/s      92  max     92 █████████████████████████████
failed/s      10  max     10 █████████████████████████████
dropped/s     27  max     27 █████████████████████████████
bit/s      10000  max  10000 █████████████████████████████
FLOOD  web for 19s, 2 destinations answered with cookies, 50000 SYN/s at most

SERVICE              MODE        SYN/s  GOOD/s   BAD/s  OPEN/s  FAIL/s     FLOWS
web                  auto*       50010     100     7.0      90      10       100
ssh                  always        2.0     2.0       0     2.0       0        20

DROPPED                 /s      in all  PASSED                  /s      in all
(queues full)           20         580  mode_off               5.0         145
cookie_invalid         7.0         203
land                     0           3






q quit   p pause   s sort (now by SYN/s)`
	if got := strings.Join(v.frame(), "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	v.problem = "no daemon on /run/levee/control.sock: is levee running, or is this text so long that it takes two lines?"
	if got := strings.Split(strings.Join(v.frame(), "\n"), "\n"); len(got) != rows || got[0] != "levee v1, up 1m59s, NO ANSWER                                     as of 15:04:29" ||
		got[rows-2] != "no answer: no daemon on /run/levee/control.sock: is levee running, or is this" || got[rows-1] != "text so long that it takes two lines?" {
		t.Errorf("no answer:\n%s", strings.Join(got, "\n"))
	}
	v.problem = ""
	v.sort, v.paused = sortFlows, true
	v.history.last.status.Services[0].Flows = 200
	if got := strings.Join(v.frame(), "\n"); !strings.Contains(got, "PAUSED  15:04:29\n") || strings.Index(got, "\nssh ") > strings.Index(got, "\nweb ") {
		t.Errorf("paused, by flows:\n%s", got)
	}
}

// A flood of a service in mode monitor is only watched, whatever mode auto would have done.
func TestTopMonitored(t *testing.T) {
	h := sampleHistory()
	h.last.status.Services[1].Mode = "monitor"
	v := topView{history: h, every: time.Second, width: columns, height: rows}
	if got := strings.Join(v.frame(), "\n"); !strings.Contains(got, "\nFLOOD  web for 19s, only watched, 50000 SYN/s at most\n") {
		t.Errorf("got\n%s", got)
	}
}

// Whatever there is to show, and whatever the screen: it fits.
func TestTopFits(t *testing.T) {
	h := sampleHistory()
	s := &h.last.status
	for i := range 50 {
		s.Services = append(s.Services, control.Service{Name: strings.Repeat("x", 40) + string(rune('a'+i%26)), Mode: "monitor", Flows: 1 << 40, FloodSeconds: 1e6})
		s.Drops[strings.Repeat("r", i+1)] = 1 << 62
	}
	s.Flows.Capacity, s.Version = 1<<60, strings.Repeat("v", 100)
	for _, size := range [][2]int{{80, 24}, {200, 60}, {40, 10}, {80, 1}, {1, 1}, {60, 14}} {
		for _, problem := range []string{"", strings.Repeat("problem ", 40)} {
			v := topView{history: h, every: time.Second, width: size[0], height: size[1], problem: problem}
			lines := v.frame()
			if len(lines) != size[1] {
				t.Errorf("%v: %d lines", size, len(lines))
			}
			for _, l := range lines {
				if n := utf8.RuneCountInString(l); n > max(size[0], minTopWidth) {
					t.Errorf("%v: %d columns: %s", size, n, l)
				}
			}
		}
	}
	if got := strings.Join((topView{history: h, width: 80, height: 24}).frame(), "\n"); !strings.Contains(got, " more\n") {
		t.Errorf("what is left out is not said:\n%s", got)
	}
}

// Counters that begin anew, with another process of the daemon, are no rates; services that come with a reload are.
func TestTopHistory(t *testing.T) {
	h := &topHistory{}
	at := time.Unix(100, 0)
	status := func(start, syn uint64) control.Status {
		return control.Status{Started: time.Unix(int64(start), 0), Services: []control.Service{{Name: "web", SynReceived: syn}}}
	}
	h.add(topSample{at, status(1, 1000)})
	h.add(topSample{at.Add(2 * time.Second), status(1, 3000)})
	if len(h.rates) != 1 || h.now().syn != 1000 {
		t.Errorf("%+v", h.rates)
	}
	h.add(topSample{at.Add(3 * time.Second), status(2, 5)})
	h.add(topSample{at.Add(4 * time.Second), status(2, 12)})
	if len(h.rates) != 2 || h.now().syn != 7 {
		t.Errorf("%+v", h.rates)
	}
	for i := range uint64(2 * maxTopHistory) {
		h.add(topSample{at.Add(time.Duration(5+i) * time.Second), status(2, 12)})
	}
	if len(h.rates) != maxTopHistory {
		t.Errorf("%d looks are kept", len(h.rates))
	}
}

func TestRate(t *testing.T) {
	for x, want := range map[float64]string{-1: "0", 0: "0", 0.34: "0.3", 9.94: "9.9", 9.96: "10", 99999: "99999", 100000: "100k", 123456: "123k", 1e6: "1.0M", 12.34e9: "12.3G", 5e20: "500E"} {
		if got := rate(x); got != want && !(x == 100000 && got == "100k") {
			t.Errorf("rate(%v) = %s, want %s", x, got, want)
		}
	}
}

// screen is a terminal with a program on it.
type screen struct {
	t    *testing.T
	mu   sync.Mutex // guards term
	term *vt.Emulator
	pty  *os.File
	done chan error
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.term.String()
}

func (s *screen) until(what string, good func(text string) bool) {
	s.t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !good(s.text()); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not in 15 s: %s; the screen:\n%s", what, s.text())
		}
	}
}

func (s *screen) press(keys string) {
	s.t.Helper()
	if _, err := s.pty.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

func (s *screen) resize(width, height uint16) {
	s.t.Helper()
	s.mu.Lock()
	s.term.Resize(int(width), int(height))
	s.mu.Unlock()
	if err := pty.Setsize(s.pty, &pty.Winsize{Cols: width, Rows: height}); err != nil {
		s.t.Fatal(err)
	}
}

// onScreen starts a verb on a terminal of its own. The control socket is a file: it may be in any network namespace.
func (g *gateway) onScreen(args ...string) *screen {
	g.t.Helper()
	self := thisProgram(g.t)
	ctx, cancel := context.WithCancel(context.Background())
	c := exec.CommandContext(ctx, self, args...)
	c.Env = append(os.Environ(), "TERM=xterm-256color")
	f, err := pty.StartWithSize(c, &pty.Winsize{Cols: columns, Rows: rows})
	if err != nil {
		cancel()
		g.t.Fatal(err)
	}
	s := &screen{t: g.t, term: vt.NewEmulator(columns, rows), pty: f, done: make(chan error, 1)}
	var copying sync.WaitGroup
	copying.Go(func() {
		buffer := make([]byte, 4096)
		for {
			n, err := f.Read(buffer)
			s.mu.Lock()
			_, _ = s.term.Write(buffer[:n])
			s.mu.Unlock()
			if err != nil {
				// Which ends the other direction, as the emulator's own Close does, which races with its Read.
				_ = s.term.InputPipe().(io.Closer).Close()
				return
			}
		}
	})
	copying.Go(func() { _, _ = io.Copy(f, s.term) }) // what a terminal answers when it is asked
	copying.Go(func() { s.done <- c.Wait() })
	g.t.Cleanup(func() {
		cancel()
		_ = f.Close()
		copying.Wait()
	})
	return s
}

// top on a real terminal: it fills the screen, follows its size, obeys its keys, lives through a daemon that ends, and leaves the terminal as it was.
func TestTop(t *testing.T) {
	g := newGateway(t, services)
	c := g.start()
	s := g.onScreen("top", "-c", g.config, "--every", "200ms")
	s.until("there is a frame", func(text string) bool {
		return strings.Contains(text, ", ready ") && strings.Contains(text, "web ") && strings.Contains(text, "q quit   p pause   s sort (now by SYN/s)")
	})
	if lines := strings.Split(s.text(), "\n"); len(lines) != rows {
		t.Errorf("%d lines:\n%s", len(lines), s.text())
	}
	p := g.connect(false, 80)
	s.until("the connection shows", func(text string) bool { return strings.Contains(text, "flows 1 open") })
	s.press("s")
	s.until("another order", func(text string) bool { return strings.Contains(text, "now by BAD/s") })
	s.press("p")
	s.until("it is paused", func(text string) bool { return strings.Contains(text, "PAUSED") })
	g.connect(true, 80)
	time.Sleep(time.Second)
	if text := s.text(); !strings.Contains(text, "flows 1 open") {
		t.Errorf("the picture moves while it is paused:\n%s", text)
	}
	s.press("p")
	s.until("it goes on", func(text string) bool { return strings.Contains(text, "flows 2 open") })
	s.resize(100, 40)
	s.until("it fills the larger screen", func(text string) bool {
		lines := strings.Split(text, "\n")
		return len(lines) == 40 && strings.HasPrefix(lines[39], "q quit") && utf8.RuneCountInString(strings.TrimRight(lines[0], " ")) == 100
	})
	s.resize(60, 12)
	s.until("it fits the smaller screen", func(text string) bool {
		lines := strings.Split(text, "\n")
		return len(lines) == 12 && strings.HasPrefix(lines[11], "q quit") && strings.Contains(lines[0], "levee ")
	})
	p.wantAlive(t)
	code, once, stderr := g.levee("top", "--once", "--every", "200ms", "--for", "1s")
	if code != 0 || stderr != "" || !strings.HasPrefix(once, "levee ") || !strings.Contains(once, "flows 2 open") || strings.Contains(once, "\x1b") ||
		!strings.Contains(once, "\nSERVICE ") || strings.Contains(once, "q quit") {
		t.Errorf("--once: %d %s\n%s", code, stderr, once)
	}
	if code, _, stderr := g.levee("top"); code != 2 || stderr != "levee: top needs a terminal: use levee top --once for one frame, or levee status\n" {
		t.Errorf("without a terminal: %d %q", code, stderr)
	}
	stopped := g.command("top", "-c", g.config, "--once", "--every", "200ms", "--for", "1h")
	var frame bytes.Buffer
	stopped.Stdout = &frame
	if err := stopped.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	if err := stopped.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := g.end(stopped); code != 0 || stopped.Output() != "" || !strings.Contains(frame.String(), "\nSERVICE ") {
		t.Errorf("--once, interrupted: %d %s\n%s", code, stopped.Output(), frame.String())
	}
	if err := c.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.until("it says that the daemon hangs", func(text string) bool {
		return strings.Contains(text, ", NO ANSWER ") && strings.Contains(text, "no answer: the daemon has been asked for 2s")
	})
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	s.until("it says that nobody answers", func(text string) bool {
		return strings.Contains(text, ", NO ANSWER ") && strings.Contains(text, " as of ") && strings.Contains(text, "no answer: ")
	})
	s.press("q")
	select {
	case err := <-s.done:
		if err != nil {
			t.Errorf("top: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("q doesn't end it")
	}
	// What it wrote last may be read after its end.
	s.until("the screen is given back", func(text string) bool { return !strings.Contains(text, "SERVICE") })
	if code, _, stderr := g.levee("cleanup"); code != 0 {
		t.Errorf("cleanup: %d %s", code, stderr)
	}
}
