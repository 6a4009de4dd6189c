package integration

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/integration/lab"
)

// reloadSeconds is how long TestReloadUnderLoad reloads each second; LEVEE_RELOAD_SECONDS says otherwise.
const reloadSeconds = 20

// reloadConfig is the configuration of one second: modes, limits, options, names, ports and prefixes all change.
func reloadConfig(i int) string {
	web := []string{
		"  - {name: web, prefixes: [PREFIX4, \"PREFIX6\"], mode: always}\n",
		"  - {name: web, prefixes: [PREFIX4, \"PREFIX6\"], mode: auto}\n",
		"  - {name: web, prefixes: [PREFIX4, \"PREFIX6\"], mode: off}\n",
		"  - {name: web, prefixes: [PREFIX4, \"PREFIX6\"], mode: monitor, engage: {half_open: 1, syn_rate: 1, hold: 1s}}\n",
		"  - {name: web, prefixes: [PREFIX4, \"PREFIX6\"], mode: auto, engage: {half_open: 1, syn_rate: 1, hold: 1s}}\n",
		"  - {name: web, prefixes: [PREFIX4, \"PREFIX6\"], mode: always, early_data: 0, deny: [203.0.113.0/24]}\n",
		"  - {name: otherNUMBER, prefixes: [PREFIX4, \"PREFIX6\"], ports: [1-8079], mode: always}\n  - {name: web, prefixes: [PREFIX4, \"PREFIX6\"], ports: [8080-65535], mode: always, options: {wscale: 3}}\n",
		"  - {name: web, prefixes: [192.0.2.240/28], mode: always}\n",
		"  - {name: web, prefixes: [PREFIX4, \"PREFIX6\"], mode: auto, engage: {half_open: auto, hold: 2s}, deny: [203.0.113.0/24]}\n",
		"  - {name: web, prefixes: [PREFIX4, \"PREFIX6\"], mode: always, unknown: reset, allow: [198.51.100.0/24]}\n",
	}
	fill := strings.NewReplacer("PREFIX4", lab.ServerPrefix4.String(), "PREFIX6", lab.ServerPrefix6.String(), "NUMBER", strconv.Itoa(i))
	return "tun: {name: levee0}\nmetrics: {listen: 127.0.0.1:9742}\nflows: {grace: 3s}\nservices:\n" + fill.Replace(web[i%len(web)])
}

// TestReloadUnderLoad reloads every second while connections come and go, others stay, and data flows: none is lost, and nothing is
// left of the configurations that were.
func TestReloadUnderLoad(t *testing.T) {
	seconds := reloadSeconds
	if text := os.Getenv("LEVEE_RELOAD_SECONDS"); text != "" {
		var err error
		if seconds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	p := protectYAML(t, lab.Config{}, reloadConfig(0))
	if _, err := p.server.StartWeb(128, p.server.AddrPort(false, 80), p.server.AddrPort(true, 8080)); err != nil {
		t.Fatal(err)
	}
	header, err := os.ReadFile(p.levee.Config)
	if err != nil {
		t.Fatal(err)
	}
	header = header[:bytes.Index(header, []byte("tun: "))]
	reload := func(i int) {
		if err := os.WriteFile(p.levee.Config, append(bytes.Clone(header), reloadConfig(i)...), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := p.levee.Command(t.Context(), "reload").Run(); err != nil {
			t.Fatalf("reload %d: %v", i, err)
		}
	}
	// One round of all configurations first, so that what is compared is warm.
	for i := range 20 {
		reload(i)
	}
	reload(0)
	before := held(t, p.Gateway)

	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(seconds+60)*time.Second)
	defer cancel()
	stop := make(chan struct{})
	var group sync.WaitGroup
	for i := range 20 {
		conn := echoing(t, p.client, p.server, i%2 == 1)
		group.Go(func() { talk(t, conn, stop) })
	}
	group.Go(func() {
		load := lab.Load{
			URLs:     []string{lab.URL(p.server.AddrPort(false, 80), "/bytes/20000"), lab.URL(p.server.AddrPort(true, 8080), "/bytes/20000")},
			Attempts: 100 * seconds, Rate: 100, Timeout: 10 * time.Second,
		}
		result, err := load.Run(ctx, p.client.Namespace)
		if err != nil || result.Completed != result.Tried {
			t.Errorf("%d of %d connections completed: %v %v", result.Completed, result.Tried, result.Failures, err)
		}
	})
	group.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if n, err := p.client.Get(ctx, lab.URL(p.server.AddrPort(false, 80), "/bytes/100000000")); err != nil || n != 100_000_000 {
				t.Errorf("a download: %d bytes, %v", n, err)
				return
			}
		}
	})
	for i := range seconds {
		time.Sleep(time.Second)
		reload(i + 1)
	}
	close(stop)
	group.Wait()
	reload(0)
	after := held(t, p.Gateway)
	t.Logf("before %+v, after %+v", before, after)
	if after.goroutines > before.goroutines+2 || after.fds > before.fds+2 || after.live > before.live+before.live/20 {
		t.Errorf("something is left: before %+v, after %+v", before, after)
	}
	status, err := p.levee.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if status.Services[0].CookieValid == 0 || status.Passed["mode_off"] == 0 || status.Services[0].SynPassed == 0 || len(status.Floods) == 0 {
		t.Errorf("not every mode has had its turn: %+v, passed %v", status.Services, status.Passed)
	}
}

// echoing opens a connection to a server of its own that sends back what it gets.
func echoing(t *testing.T, client, server *lab.Host, v6 bool) net.Conn {
	t.Helper()
	l, err := server.Listen(server.AddrPort(v6, 0), 16)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(conn, conn)
		_ = conn.Close()
	}()
	conn, err := client.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// talk sends a little each tenth of a second and wants it back.
func talk(t *testing.T, conn net.Conn, stop <-chan struct{}) {
	said, heard := make([]byte, 100), make([]byte, 100)
	for i := byte(0); ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(100 * time.Millisecond):
		}
		said[0] = i
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := conn.Write(said); err != nil {
			t.Errorf("an open connection: %v", err)
			return
		}
		if _, err := io.ReadFull(conn, heard); err != nil || heard[0] != i {
			t.Errorf("an open connection: %v", err)
			return
		}
	}
}

// resources is what the daemon holds: live is about twice the bytes that the garbage collector found alive when it was last at work, the size of the heap at
// which it will be again.
type resources struct{ goroutines, fds, live int }

// heldCollections is how many collections held waits for: one finds alive what was in use just then, and what a pool keeps until the next.
const heldCollections = 5

// held reads the daemon's resources from its metrics: the least of what was left after each of a few garbage collections that have begun
// later. What is asked for makes enough garbage.
func held(t *testing.T, gateway *lab.Namespace) resources {
	t.Helper()
	var r resources
	last, collections := float64(time.Now().UnixNano())/1e9, 0
	for range 20_000 {
		values := scrape(t, gateway)
		at := values["go_memstats_last_gc_time_seconds"]
		if at <= last {
			continue
		}
		last = at
		now := resources{int(values["go_goroutines"]), int(values["process_open_fds"]), int(values["go_memstats_next_gc_bytes"])}
		if collections++; collections == 1 {
			r = now
		}
		r = resources{min(r.goroutines, now.goroutines), min(r.fds, now.fds), min(r.live, now.live)}
		if collections == heldCollections {
			return r
		}
	}
	t.Fatal("no garbage is collected")
	return r
}

// scrape reads the metrics that have no labels.
func scrape(t *testing.T, gateway *lab.Namespace) map[string]float64 {
	t.Helper()
	response, err := gateway.Client().Get("http://127.0.0.1:9742/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseFloat(value, 64); ok && err == nil {
			values[name] = n
		}
	}
	return values
}
