package main

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"levee/cmd/levee/control"
)

func TestServersTable(t *testing.T) {
	n := func(n int) *int { return &n }
	yes, no := true, false
	list := []control.Learned{
		{Server: sampleFlows[0].Server, Knowledge: control.Knowledge{State: "alive", MSS: n(1460), WScale: n(10), SACK: &yes, Timestamps: &no}, Source: "probe", AgeSeconds: 75},
		{Server: sampleFlows[1].Server, Knowledge: control.Knowledge{State: "alive", MSS: n(0), WScale: n(-1), SACK: &no}, Source: "traffic"},
		{Server: sampleFlows[1].Server, Knowledge: control.Knowledge{State: "closed"}, Source: "traffic", AgeSeconds: 3},
	}
	want := `SERVER                STATE   MSS   WSCALE  SACK  TS  ECN  SOURCE   AGE
192.0.2.10:80         alive   1460  10      yes   no  -    probe    1m15s
[2001:db8:1::10]:443  alive   none  none    no    -   -    traffic  0.0s
[2001:db8:1::10]:443  closed  -     -       -     -   -    traffic  3.0s
`
	var b strings.Builder
	err := writeServers(&b, func(yield func(control.Learned) error) error {
		for _, l := range list {
			if err := yield(l); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || b.String() != want {
		t.Errorf("%v\n%s\nwant\n%s", err, b.String(), want)
	}
}

// What was learned outlives the daemon; a file that can't be read is said to be lost, once, and harms nothing.
func TestKnowledgeSurvives(t *testing.T) {
	g := newGateway(t, services)
	server := g.lab.Servers[0].AddrPort(false, 80)
	l, err := g.lab.Servers[0].Listen(server, 8)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	known := func() (found *control.Learned) {
		t.Helper()
		code, stdout, stderr := g.levee("servers", "-o", "json")
		var answer struct{ Servers []control.Learned }
		if err := json.Unmarshal([]byte(stdout), &answer); code != 0 || err != nil {
			t.Fatalf("%d %v %s %s", code, err, stdout, stderr)
		}
		list := answer.Servers
		for i := range list {
			if list[i].Server == server {
				found = &list[i]
			}
		}
		return found
	}
	c := g.start()
	if got := known(); got != nil {
		t.Fatalf("known at the start: %+v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := g.lab.Clients[0].DialContext(ctx, "tcp", server.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	g.until("a probe has found out the rest", func() bool {
		k := known()
		return k != nil && k.Timestamps != nil && *k.Timestamps && k.ECN != nil
	})
	if _, stdout, _ := g.levee("servers"); !strings.Contains(stdout, server.String()+"  alive  1460  ") {
		t.Errorf("table:\n%s", stdout)
	}
	if body := getBody(t, g, "http://127.0.0.1:9742/metrics"); !strings.Contains(body, "levee_servers{state=\"alive\"} 1\n") ||
		!strings.Contains(body, "levee_probes_total{outcome=\"answered\"} 1\n") {
		t.Errorf("metrics:\n%s", body)
	}
	stop := func() {
		t.Helper()
		if err := c.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := g.end(c); code != 0 {
			t.Fatalf("exit code %d", code)
		}
	}
	stop()
	file := g.dir + "/state/servers.json"
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", fi, err)
	}
	if entries, err := os.ReadDir(g.dir + "/state"); err != nil || len(entries) > 3 {
		t.Errorf("left in state_dir: %v, %v", entries, err)
	}

	c = g.start()
	if got := known(); got == nil || got.State != "alive" || got.Timestamps == nil || !*got.Timestamps || got.Source != "probe" {
		t.Errorf("after a restart %+v", got)
	}
	stop()
	if err := os.WriteFile(file, []byte(`{"version":1,"servers":[{"ser`), 0o600); err != nil {
		t.Fatal(err)
	}
	c = g.start()
	if got := known(); got != nil {
		t.Errorf("out of a damaged file: %+v", got)
	}
	if log := c.Output(); strings.Count(log, "what was known of servers is lost") != 1 || !strings.Contains(log, "damaged") {
		t.Errorf("log:\n%s", log)
	}
	stop()
}
