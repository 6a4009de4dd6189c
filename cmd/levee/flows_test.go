package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"levee/cmd/levee/control"
)

// pair is one connection through levee.
type pair struct{ client, server net.Conn }

func (p pair) ends() (client, server string) {
	return p.client.LocalAddr().String(), p.client.RemoteAddr().String()
}

// connect opens a connection to the first server's port, and proves that it carries data.
func (g *gateway) connect(v6 bool, port uint16) pair {
	g.t.Helper()
	to := g.lab.Servers[0].AddrPort(v6, port)
	l, err := g.lab.Servers[0].Listen(to, 8)
	if err != nil {
		g.t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(g.t.Context(), 10*time.Second)
	defer cancel()
	var p pair
	if p.client, err = g.lab.Clients[0].DialContext(ctx, "tcp", to.String()); err != nil {
		g.t.Fatalf("connect through levee: %v", err)
	}
	g.t.Cleanup(func() { _ = p.client.Close() })
	if p.server, err = l.Accept(); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = p.server.Close() })
	if _, err := p.client.Write([]byte("hello")); err != nil {
		g.t.Fatal(err)
	}
	if _, err := io.ReadFull(p.server, make([]byte, len("hello"))); err != nil {
		g.t.Fatal(err)
	}
	return p
}

// wantReset fails the test unless a connection ends with a reset at both ends, and soon.
func (p pair) wantReset(t *testing.T) {
	t.Helper()
	for name, c := range map[string]net.Conn{"client": p.client, "server": p.server} {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the %s reads %v, want a reset", name, err)
		}
	}
}

// wantAlive fails the test unless data still pass.
func (p pair) wantAlive(t *testing.T) {
	t.Helper()
	if _, err := p.client.Write([]byte("still")); err != nil {
		t.Errorf("a connection that was to live: %v", err)
	}
	_ = p.server.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(p.server, make([]byte, len("still"))); err != nil {
		t.Errorf("a connection that was to live: %v", err)
	}
}

// Real connections are listed by every filter, seen by watch as they come and go, and ended by kill, and none but those that are meant.
func TestFlowsVerbs(t *testing.T) {
	g := newGateway(t, services)
	g.start()
	watch, lines := g.background("flows", "watch", "--every", "200ms", "-o", "json")
	events := make(chan flowEvent, 100)
	go func() {
		defer close(events)
		for s := bufio.NewScanner(lines); s.Scan(); {
			var e flowEvent
			if err := json.Unmarshal(s.Bytes(), &e); err != nil || !strings.HasPrefix(s.Text(), `{"schema":1,`) {
				t.Errorf("watch: %v: %s", err, s.Text())
			}
			events <- e
		}
	}()
	next := func() flowEvent {
		t.Helper()
		select {
		case e := <-events:
			return e
		case <-time.After(10 * time.Second):
			t.Fatal("watch shows nothing")
		}
		return flowEvent{}
	}
	time.Sleep(time.Second) // watch has had its first look
	first, second, third := g.connect(false, 80), g.connect(false, 443), g.connect(true, 80)
	client, server := first.ends()
	for range 3 {
		if e := next(); e.Event != "new" && e.Event != "state" || e.Flow.Service != "web" {
			t.Errorf("watch: %+v", e)
		}
	}
	list := func(args ...string) (ends []string) {
		t.Helper()
		code, stdout, stderr := g.levee("flows", append([]string{"list", "-o", "json"}, args...)...)
		var answer struct {
			Schema int
			Flows  []control.Flow
		}
		if err := json.Unmarshal([]byte(stdout), &answer); err != nil || code != 0 || answer.Schema != schema {
			t.Fatalf("%v: %d %s %s", err, code, stdout, stderr)
		}
		for _, f := range answer.Flows {
			ends = append(ends, f.Client.String())
		}
		return ends
	}
	client6, _ := third.ends()
	prefix := netip.MustParseAddrPort(client).Addr()
	for _, tt := range []struct {
		args []string
		want int
	}{
		{nil, 3}, {[]string{"--port", "80"}, 2}, {[]string{"--port", "81"}, 0}, {[]string{"--client", prefix.String()}, 2}, {[]string{"--client", "198.18.0.0/16"}, 0},
		{[]string{"--client", "2000::/3"}, 1}, {[]string{"--server", netip.MustParseAddrPort(server).Addr().String()}, 2}, {[]string{"--service", "ssh"}, 0},
		{[]string{"--state", "open", "--service", "web", "--server", "0.0.0.0/0", "--port", "443"}, 1}, {[]string{"tcp", client, server}, 1}, {[]string{"tcp", server, client}, 1},
	} {
		if got := list(tt.args...); len(got) != tt.want {
			t.Errorf("list %v: %v, want %d", tt.args, got, tt.want)
		}
	}
	if _, stdout, _ := g.levee("flows", "list", "--client", "2000::/3"); strings.Count(stdout, "\n") < 2 || !strings.Contains(stdout, client6) {
		t.Errorf("list of one:\n%s", stdout)
	}

	if code, stdout, stderr := g.levee("flows", "kill", "tcp", client, server); code != 0 || stdout != "1 connection killed\n" || stderr != "" {
		t.Errorf("kill: %d %q %q", code, stdout, stderr)
	}
	first.wantReset(t)
	second.wantAlive(t)
	third.wantAlive(t)
	for e := next(); e.Event != "state" || e.Flow.State != "reset" || e.Flow.Client.String() != client; e = next() {
	}
	if code, stdout, _ := g.levee("flows", "kill", "-o", "json", "--client", prefix.String(), "--service", "web"); code != 0 ||
		stdout != "{\n  \"schema\": 1,\n  \"matched\": 1,\n  \"killed\": 1\n}\n" {
		t.Errorf("kill: %d %q", code, stdout)
	}
	second.wantReset(t)
	third.wantAlive(t)
	if code, stdout, _ := g.levee("flows", "kill", "--port", "80"); code != 0 || stdout != "1 connection killed\n" {
		t.Errorf("kill: %d %q", code, stdout)
	}
	third.wantReset(t)
	if code, stdout, _ := g.levee("flows", "kill", "--port", "80"); code != 0 || stdout != "0 connections killed\n" {
		t.Errorf("kill of none: %d %q", code, stdout)
	}
	if err := watch.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := g.end(watch); code != 0 {
		t.Errorf("watch: exit code %d", code)
	}
}

func TestFlowChanges(t *testing.T) {
	at := time.Unix(1, 0)
	flow := func(port uint16, state string, seconds float64) control.Flow {
		return control.Flow{Client: netip.AddrPortFrom(sampleFlows[0].Client.Addr(), port), Server: sampleFlows[0].Server, Service: "web", State: state, AgeSeconds: seconds}
	}
	tableOf := func(flows ...control.Flow) flowTable {
		table := flowTable{}
		for _, f := range flows {
			table[[2]netip.AddrPort{f.Client, f.Server}] = f
		}
		return table
	}
	before := tableOf(flow(1, "open", 5), flow(2, "opening", 4), flow(3, "open", 3), flow(4, "time_wait", 200))
	now := tableOf(flow(1, "open", 6), flow(2, "open", 5), flow(4, "open", 0.5), flow(5, "open", 0.2))
	got := ""
	for _, e := range flowChanges(before, now, at, "forgotten") {
		got += flowEventText(&e, false)
	}
	want := `00:00:01 state     198.51.100.10:2 > 192.0.2.10:80 web open 5.0s 0/0
00:00:01 forgotten 198.51.100.10:3 > 192.0.2.10:80 web open 3.0s 0/0
00:00:01 new       198.51.100.10:4 > 192.0.2.10:80 web open 0.5s 0/0
00:00:01 new       198.51.100.10:5 > 192.0.2.10:80 web open 0.2s 0/0
`
	want = strings.ReplaceAll(want, "00:00:01", at.Local().Format("15:04:05"))
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := flowChanges(now, now, at, "forgotten"); len(got) != 0 {
		t.Errorf("nothing has changed, got %+v", got)
	}
}

// Long tables stay within the screen, and every chunk of them is aligned for itself.
func TestTable(t *testing.T) {
	var b strings.Builder
	table := newTable(&b, 1, "NAME", "VALUE")
	for range 2 * alignedRows {
		if err := table.add("a", strings.Repeat("x", 5)); err != nil {
			t.Fatal(err)
		}
	}
	if err := table.add(strings.Repeat("b", 60), strings.Repeat("y", 30)); err != nil {
		t.Fatal(err)
	}
	if err := table.end(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) < 2*alignedRows+3 || lines[0] != "NAME  VALUE" || lines[1] != "a     xxxxx" {
		t.Errorf("%d lines, first %q", len(lines), lines[:2])
	}
	for _, l := range lines {
		if len(l) > columns {
			t.Errorf("wider than a screen: %q", l)
		}
	}
	if last := lines[len(lines)-1]; last != "    "+strings.Repeat("y", 30) {
		t.Errorf("last line %q", last)
	}
}

// TestFlowsWatchState: a connection that has only left the state that was asked for is not called forgotten.
func TestFlowsWatchState(t *testing.T) {
	g := newGateway(t, services)
	g.start()
	p := g.connect(false, 80)
	c, out := g.background("flows", "watch", "--state", "open", "--every", "100ms", "-o", "json")
	lines := make(chan string, 1000)
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	told := func(event, client string) bool {
		for {
			select {
			case line := <-lines:
				if strings.Contains(line, `"event":"forgotten"`) {
					t.Error(line)
				}
				if strings.Contains(line, fmt.Sprintf(`"event":%q`, event)) && strings.Contains(line, client) {
					return true
				}
			case <-time.After(200 * time.Millisecond):
				return false
			}
		}
	}
	g.until("it has looked once", func() bool {
		other, _ := g.connect(false, 443).ends()
		return told("new", other)
	})
	_ = p.client.Close()
	_ = p.server.Close()
	from, to := p.ends()
	g.until("the connection has left", func() bool { return told("left", from) })
	if _, stdout, _ := g.levee("flows", "list", "tcp", from, to); !strings.Contains(stdout, from) {
		t.Errorf("it is forgotten:\n%s", stdout)
	}
	if err := c.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := g.end(c); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
