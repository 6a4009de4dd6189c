package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"levee/cmd/levee/control"
	"levee/integration/lab"
	"levee/stack/stacktest"
)

func TestDecisionText(t *testing.T) {
	at := time.Date(2026, 1, 2, 15, 4, 5, 678e6, time.Local)
	client, server := netip.MustParseAddrPort("203.0.113.7:40000"), netip.MustParseAddrPort("192.0.2.10:443")
	client6, server6 := netip.MustParseAddrPort("[2001:db8:2222:3333:4444:5555:6666:7777]:40000"), netip.MustParseAddrPort("[2001:db8:1::10]:443")
	var b bytes.Buffer
	p := newDecisionPrinter(&b)
	for _, o := range []control.Observation{
		{Sample: &control.Sample{}},
		{Decision: &control.Decision{Time: at, Verdict: "answer", Service: "web", Src: client, Dst: server, Protocol: 6, Flags: "S"}},
		{Decision: &control.Decision{Time: at, Verdict: "forward", Service: strings.Repeat("long", 10), Src: client6, Dst: server6, Protocol: 6, Flags: "P.", Payload: 65000}},
		{Sample: &control.Sample{Shown: 2, Matched: 700}},
		{Sample: &control.Sample{Shown: 2, Matched: 700}},
		{Decision: &control.Decision{Time: at, Verdict: "drop", Reason: "cookie_invalid", Service: "web", Src: client, Dst: server, Protocol: 6, Flags: "."}},
		{Decision: &control.Decision{Time: at, Verdict: "pass", Reason: "not_tcp", Src: client, Dst: server, Protocol: 1}},
		{Decision: &control.Decision{Time: at, Verdict: "drop", Reason: "truncated", Length: 7}},
		{Sample: &control.Sample{Shown: 5, Matched: 900}},
	} {
		if err := p.print(o); err != nil {
			t.Fatal(err)
		}
	}
	want := `15:04:05.678 answer web 203.0.113.7:40000 > 192.0.2.10:443 [S]
15:04:05.678 forward longlonglonglonglon~
    [2001:db8:2222:3333:4444:5555:6666:7777]:40000 > [2001:db8:1::10]:443 [P.] 65000
# 2 of 700 shown
15:04:05.678 drop cookie_invalid web 203.0.113.7:40000 > 192.0.2.10:443 [.]
15:04:05.678 pass not_tcp 203.0.113.7 > 192.0.2.10 protocol 1
15:04:05.678 drop truncated 7 bytes of no sound packet
# 5 of 900 shown
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	d := control.Decision{Time: at, Verdict: "drop", Reason: "land", Src: client, Dst: server, Protocol: 6}
	if got := decisionText(&d, true); got != "15:04:05.678 \x1b[31mdrop\x1b[0m land 203.0.113.7:40000 > 192.0.2.10:443\n" {
		t.Errorf("%q", got)
	}
}

// A pipe, a dumb terminal and whoever says so get no colours.
func TestNoColours(t *testing.T) {
	if painterFor(&bytes.Buffer{}) {
		t.Error("a buffer is no terminal")
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if painterFor(null) {
		t.Error("/dev/null is no terminal")
	}
}

// background starts a verb and returns it and what it writes.
func (g *gateway) background(verb string, args ...string) (*lab.Command, io.Reader) {
	g.t.Helper()
	c := g.command(append([]string{verb, "-c", g.config}, args...)...)
	r, w, err := os.Pipe()
	if err != nil {
		g.t.Fatal(err)
	}
	c.Stdout = w
	if err := c.Start(); err != nil {
		g.t.Fatal(err)
	}
	_ = w.Close()
	g.t.Cleanup(func() { _ = r.Close() })
	return c, r
}

// knock makes a connection to the first server's port 80, if somebody listens, and closes it again.
func (g *gateway) knock() {
	server := g.lab.Servers[0].AddrPort(false, 80)
	if conn, err := g.lab.Clients[0].DialContext(g.t.Context(), "tcp", server.String()); err == nil {
		_ = conn.Close()
	}
}

func TestObserveVerb(t *testing.T) {
	g := newGateway(t, services)
	g.start()
	c, out := g.background("observe", "-f", "-o", "json", "--service", "web", "--prefix", g.lab.Servers[0].AddrPort(false, 0).Addr().String())
	dec := json.NewDecoder(out)
	next := func() (o control.Observation) {
		t.Helper()
		if err := dec.Decode(&o); err != nil {
			t.Fatal(err)
		}
		return o
	}
	if o := next(); o.Sample == nil { // it looks on
		t.Fatalf("%+v", o)
	}
	g.knock()
	seen := map[string]bool{}
	for !seen["answer"] || !seen["open"] {
		if d := next().Decision; d != nil {
			seen[d.Verdict] = true
			if d.Service != "web" || d.Data != nil || time.Since(d.Time).Abs() > time.Minute {
				t.Errorf("%+v", d)
			}
		}
	}
	if err := c.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := g.end(c); code != 0 || c.Output() != "" {
		t.Errorf("interrupted: %d %s", code, c.Output())
	}
	c, out = g.background("observe", "-n", "1", "--verdict", "answer,refuse", "--for", "20s")
	g.until("it has seen one", func() bool {
		g.knock()
		select {
		case <-c.Done():
			return true
		default:
			return false
		}
	})
	text, err := io.ReadAll(out)
	if err != nil || g.end(c) != 0 || !strings.Contains(string(text), " web ") || !strings.Contains(string(text), " > 192.0.2.10:80 [S]\n") {
		t.Errorf("%v\n%s", err, text)
	}
	maxColumns(t, string(text))
}

// tshark reads what capture writes, with the reasons.
func TestCapture(t *testing.T) {
	g := newGateway(t, services)
	g.start()
	server := g.lab.Servers[0].AddrPort(false, 80)
	l, err := g.lab.Servers[0].Listen(server, 8)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // the queue of a server that accepts nothing is soon full, and nothing is spliced then
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	path := g.dir + "/all.pcapng"
	c, _ := g.background("capture", "-w", path, "--for", "20s", "-n", "12", "--verdict", "answer,open,splice")
	drops, out := g.background("capture", "-w", "-", "--for", "20s", "-n", "1", "--verdict", "drop", "--reason", "bad_flags,land")
	wire, err := g.lab.Clients[0].Link.OpenWire(false, netip.MustParsePrefix("203.0.113.0/24"))
	if err != nil {
		t.Fatal(err)
	}
	stray := stacktest.Segment{Src: netip.MustParseAddrPort("203.0.113.9:9"), Dst: server, Seq: 1, Flags: stacktest.SYN | stacktest.FIN}
	g.until("both have ended", func() bool {
		g.knock()
		if err := wire.Send(stray.Packet()); err != nil {
			t.Fatal(err)
		}
		for _, c := range []*lab.Command{c, drops} {
			select {
			case <-c.Done():
			default:
				return false
			}
		}
		return true
	})
	piped, err := io.ReadAll(out)
	if err != nil || g.end(c) != 0 || g.end(drops) != 0 {
		t.Fatalf("%v\n%s%s", err, c.Output(), drops.Output())
	}
	if !strings.HasPrefix(c.Output(), "12 of ") || !strings.HasSuffix(c.Output(), " packets written.\n") {
		t.Errorf("%q", c.Output())
	}
	written, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for want, file := range map[string][]byte{
		"192.0.2.10\t0x0002\tlevee: answer, service web\n":               written,
		"192.0.2.10\t0x0010\tlevee: open, service web\n":                 written,
		"192.0.2.10,198.51.100.10\t0x0012\tlevee: splice, service web\n": written,
		"192.0.2.10\t0x0003\tlevee: drop bad_flags, service web\n":       piped,
	} {
		tshark := exec.CommandContext(t.Context(), "tshark", "-r", "-", "-T", "fields", "-e", "ip.addr", "-e", "tcp.flags", "-e", "frame.comment")
		tshark.Stdin = bytes.NewReader(file)
		text, err := tshark.Output()
		if err != nil {
			t.Fatalf("tshark: %v", err)
		}
		if !strings.Contains(string(text), want) {
			t.Errorf("tshark shows no %q:\n%s", want, text)
		}
	}
}
