package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"levee/proxy"
	"levee/proxy/servers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a daemon with as many flows as wanted.
type fake struct {
	// changes and refusal are what a reload comes to.
	changes []string
	refusal error
	status  Status
	flows   int
	servers []servers.Info
	// explanation is the answer about every SYN.
	explanation proxy.Explanation
	// proxy is observed; nil has too many observers.
	proxy *proxy.Proxy
	// during, if set, is called for each flow.
	during func(i int)
	// began is called when an upgrade begins; refusal refuses it, and drains.
	began func(program string)
	// drains is what a drain comes to, a line each look; asked is with which time-out.
	drains []Drain
	asked  time.Duration
	mu     sync.Mutex // guards drains and asked
	// kill, if set, ends flows.
	kill func(ctx context.Context, a, b netip.AddrPort) (bool, error)
}

func (f *fake) Upgrade(program string) (Upgrade, func(), error) {
	return Upgrade{Program: program, Version: "v2", Converts: true}, func() { f.began(program) }, f.refusal
}

func (f *fake) Drain(timeout time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = timeout
	return f.refusal
}

func (f *fake) CancelDrain() error { return f.refusal }

func (f *fake) DrainProgress() Drain {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.drains[0]
	if len(f.drains) > 1 {
		f.drains = f.drains[1:]
	}
	return now
}

func (f *fake) Kill(ctx context.Context, a, b netip.AddrPort) (bool, error) { return f.kill(ctx, a, b) }

func (f *fake) Status() Status { return f.status }
func (f *fake) Servers(yield func(servers.Info) bool) {
	for _, i := range f.servers {
		if !yield(i) {
			return
		}
	}
}

func (f *fake) Reload() ([]string, error) { return f.changes, f.refusal }

func (f *fake) Explain(q Question) (Explanation, error) {
	if q.In == "eth9" {
		return Explanation{}, errors.New("there is no eth9")
	}
	return NewExplanation(q.Client, q.Server, f.explanation), nil
}

func (f *fake) Observe(in proxy.Interest) (*proxy.Observer, error) {
	if f.proxy == nil {
		return nil, proxy.ErrTooManyObservers
	}
	return f.proxy.Observe(in)
}

func (f *fake) Services() []string { return []string{"web", "ssh"} }

func (f *fake) Flows(yield func(proxy.FlowInfo) bool) {
	for i := range f.flows {
		if f.during != nil {
			f.during(i)
		}
		if !yield(f.flow(i)) {
			return
		}
	}
}

// flow i alternates between two services and walks through the states.
func (f *fake) flow(i int) proxy.FlowInfo {
	return proxy.FlowInfo{
		Client:  netip.AddrPortFrom(netip.MustParseAddr("2001:db8:2::10"), uint16(i)),
		Server:  netip.MustParseAddrPort("192.0.2.10:80"),
		Service: f.Services()[i%2],
		State:   proxy.StateFree + 1 + proxy.State(i%int(proxy.NumStates-1)),
		Age:     time.Duration(i)*time.Second + 1234567*time.Microsecond, Idle: 250 * time.Millisecond,
		Delta: 1 << 31, TSDelta: 7, ClientBytes: 1 << 40, ServerBytes: uint64(i),
	}
}

// serve starts a server for the fake and returns a client and the socket's path.
func serve(t *testing.T, f *fake) (*Client, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	s, err := Listen(path, f, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there after Close: %v", err)
		}
	})
	return NewClient(path), path
}

func TestStatusRoundTrip(t *testing.T) {
	var snapshot proxy.Snapshot
	snapshot.Capacity, snapshot.Evicted = 100, 7
	for s := range snapshot.Flows {
		snapshot.Flows[s] = 1 << s
	}
	for r := range snapshot.Drops {
		snapshot.Drops[r] = uint64(r)
	}
	snapshot.Services = []proxy.ServiceSnapshot{{Name: "web", Mode: proxy.ModeAlways, SynReceived: 1, CookieValid: 2, CookieInvalid: 3,
		CookieRetrans: 4, ConnReopened: 5, Opened: 6, Refused: 7, Unreachable: 11, TimedOut: 8, Mismatched: 10, ClosedReset: 12, ServerCookies: 13, Flows: 9}}
	snapshot.Workers = []proxy.WorkerSnapshot{{Received: 1, Sent: 2, ReceivedBytes: 3, SentBytes: 4}}
	want := NewStatus(snapshot)
	want.Version, want.UptimeSeconds, want.Ready = "v1", 61, true
	want.TUN = TUN{Name: "tun0", Queues: 2, Offload: "csum"}

	client, _ := serve(t, &fake{status: want})
	got, err := client.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := len(got.Drops); n != int(proxy.NumDropReasons) {
		t.Errorf("%d drop reasons, want all %d", n, proxy.NumDropReasons)
	}
	wantFlows := Flows{Opening: 1 << proxy.StateOpening, Open: 1 << proxy.StateOpen, Closing: 1<<proxy.StateClientClosed + 1<<proxy.StateServerClosed,
		Remembered: 1<<proxy.StateTimeWait + 1<<proxy.StateReset, Capacity: 100, Evicted: 7}
	if got.Flows != wantFlows {
		t.Errorf("flows %+v, want %+v", got.Flows, wantFlows)
	}
}

// Others rely on these names.
func TestFieldNames(t *testing.T) {
	status := NewStatus(proxy.Snapshot{Services: []proxy.ServiceSnapshot{{Name: "web"}}})
	for _, tt := range []struct {
		what  string
		value any
		want  string
	}{
		{"status", status, "version uptime_seconds ready flows services drops tun"},
		{"flow counts", status.Flows, "open opening capacity evicted"},
		{"service", status.Services[0], "name mode syn_received cookie_valid cookie_invalid flows"},
		{"tun", status.TUN, "name queues offload"},
		{"flow", Flow{}, "client server service state age_seconds idle_seconds delta ts_delta client_bytes server_bytes"},
	} {
		text, err := json.Marshal(tt.value)
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]any
		if err := json.Unmarshal(text, &fields); err != nil {
			t.Fatal(err)
		}
		for _, name := range strings.Fields(tt.want) {
			if _, ok := fields[name]; !ok {
				t.Errorf("%s lacks %s: %s", tt.what, name, text)
			}
		}
	}
}

func TestFlows(t *testing.T) {
	const total = 3000 // several chunks
	f := &fake{flows: total}
	client, _ := serve(t, f)
	for _, tt := range []struct {
		name   string
		filter Filter
		want   int
	}{
		{"all", Filter{}, total},
		{"limit", Filter{Limit: 7}, 7},
		{"limit beyond", Filter{Limit: total + 1}, total},
		{"service", Filter{Service: "ssh"}, total / 2},
		{"state", Filter{State: "open"}, total / int(proxy.NumStates-1)},
		{"client", Filter{Client: netip.MustParsePrefix("2001:db8:2::/48")}, total},
		{"other client", Filter{Client: netip.MustParsePrefix("2001:db8:3::/48")}, 0},
		{"client of the other family", Filter{Client: netip.MustParsePrefix("0.0.0.0/0")}, 0},
		{"client port", Filter{ClientPort: 17}, 1},
		{"server", Filter{Server: netip.MustParsePrefix("192.0.2.8/29")}, total},
		{"server port", Filter{ServerPort: 80}, total},
		{"other server port", Filter{ServerPort: 81}, 0},
		{"one", Filter{}.Between(netip.MustParseAddrPort("[2001:db8:2::10]:17"), netip.MustParseAddrPort("192.0.2.10:80")), 1},
		{"the other way round", Filter{}.Between(netip.MustParseAddrPort("192.0.2.10:80"), netip.MustParseAddrPort("[2001:db8:2::10]:17")), 1},
		{"another port, the other way round", Filter{}.Between(netip.MustParseAddrPort("192.0.2.10:17"), netip.MustParseAddrPort("[2001:db8:2::10]:80")), 0},
		{"service and state and limit", Filter{Service: "ssh", State: "open", Limit: 3}, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			err := client.Flows(context.Background(), tt.filter, func(got Flow) error {
				if tt.filter.Service != "" && got.Service != tt.filter.Service || tt.filter.State != "" && got.State != tt.filter.State {
					return fmt.Errorf("%+v doesn't match", got)
				}
				if want := newFlow(f.flow(int(got.ServerBytes))); got != want {
					return fmt.Errorf("got %+v, want %+v", got, want)
				}
				n++
				return nil
			})
			if err != nil || n != tt.want {
				t.Errorf("%d flows, %v; want %d", n, err, tt.want)
			}
		})
	}
}

func TestNoFlows(t *testing.T) {
	_, path := serve(t, &fake{})
	if code, body := get(t, path, "/v1/flows"); code != 200 || body != "[]\n" {
		t.Errorf("%d %q, want an empty array", code, body)
	}
}

func TestFlowText(t *testing.T) {
	_, path := serve(t, &fake{flows: 1})
	_, body := get(t, path, "/v1/flows")
	want := `[
{"client":"[2001:db8:2::10]:0","server":"192.0.2.10:80","service":"web","state":"opening","age_seconds":1.234,"idle_seconds":0.25,"delta":2147483648,"ts_delta":7,"client_bytes":1099511627776,"server_bytes":0}
]
`
	if body != want {
		t.Errorf("got %s want %s", body, want)
	}
}

func TestStopsEarly(t *testing.T) {
	client, _ := serve(t, &fake{flows: 100000})
	enough := errors.New("enough")
	if err := client.Flows(context.Background(), Filter{}, func(Flow) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("got %v, want yield's error", err)
	}
}

func TestBadRequests(t *testing.T) {
	_, path := serve(t, &fake{})
	for _, tt := range []struct {
		url  string
		code int
		want string
	}{
		{"/v1/flows?service=x", 400, `there is no service "x": use one of web, ssh`},
		{"/v1/flows?state=x", 400, `"x" is not a state: use one of opening, open, client_closed, server_closed, time_wait, reset`},
		{"/v1/flows?limit=-1", 400, `limit "-1" is not a number: use 1 or more, or 0 for all`},
		{"/v1/flows?limit=1e99", 400, `limit "1e99" is not a number: use 1 or more, or 0 for all`},
		{"/v1/flows?client=192.0.2.1", 400, `client "192.0.2.1" is no prefix: write 192.0.2.0/24 or 2001:db8::/64`},
		{"/v1/flows?server_port=65536", 400, `server_port "65536" is no port: use 1 to 65535`},
		{"/v1/flows?older=5s", 400, `there is no filter "older" in this daemon: use its own levee`},
		{"/v2/status", 404, `there is no GET /v2/status in version 1 of this interface: use the levee that the daemon runs`},
	} {
		code, body := get(t, path, tt.url)
		var f failure
		if err := json.Unmarshal([]byte(body), &f); err != nil || code != tt.code || f.Error != tt.want {
			t.Errorf("%s: %d %s, want %d %s", tt.url, code, body, tt.code, tt.want)
		}
	}
}

// get is what curl --unix-socket does.
func get(t *testing.T, path, url string) (int, string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	resp, err := c.Get("http://levee" + url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestSocketIsPrivate(t *testing.T) {
	_, path := serve(t, &fake{})
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", fi.Mode(), err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := NewClient(path).Status(context.Background()); err == nil || err.Error() != "no daemon on "+path+": is levee running?" {
		t.Errorf("asking a dead daemon: %v", err)
	}
	s, err := Listen(path, &fake{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil { // without Serve, as when the start fails later
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestListenRefusals(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, path, want string }{
		{"a file", file, "control socket " + file + ": something else is there: remove it or set another state_dir"},
		{"no folder", dir + "/none/control.sock", "control socket " + dir + "/none/control.sock: listen unix " + dir +
			"/none/control.sock: bind: no such file or directory: check state_dir"},
	} {
		if _, err := Listen(tt.path, &fake{}, slog.New(slog.DiscardHandler)); err == nil || err.Error() != tt.want {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
	if data, _ := os.ReadFile(file); string(data) != "precious" {
		t.Error("the file is gone")
	}
}

func TestClientWithoutDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	want := "no daemon on " + path + ": is levee running?"
	if _, err := NewClient(path).Status(context.Background()); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// A daemon that dies in the middle of the flows must not look like one that has no more.
func TestTruncatedFlows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	f := &fake{flows: 100000}
	s, err := Listen(path, f, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	f.during = func(i int) {
		if i == 50000 {
			_ = s.Close()
		}
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	n := 0
	err = NewClient(path).Flows(context.Background(), Filter{}, func(Flow) error { n++; return nil })
	if err == nil || !strings.Contains(err.Error(), "stopped in the middle of its answer") {
		t.Errorf("%d flows, %v; want an error", n, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Something else than levee on the socket.
func TestStranger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/status" {
			fmt.Fprint(w, "hello")
			return
		}
		w.WriteHeader(http.StatusTeapot)
	})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	defer func() { _ = srv.Close(); <-done }()
	for name, ask := range map[string]func() error{
		"status": func() error { _, err := NewClient(path).Status(context.Background()); return err },
		"flows":  func() error { return NewClient(path).Flows(context.Background(), Filter{}, nil) },
	} {
		if err := ask(); err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "another version?") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What isn't known is null, not false.
func TestServers(t *testing.T) {
	_, none := serve(t, &fake{})
	if code, body := get(t, none, "/v1/servers"); code != 200 || body != "[]\n" {
		t.Errorf("none: %d %q", code, body)
	}
	client, path := serve(t, &fake{servers: []servers.Info{
		{Server: netip.MustParseAddrPort("192.0.2.10:80"), WScale: 10, Source: servers.Probe, Age: 1500 * time.Millisecond,
			Known: servers.Known{State: servers.Alive, Knows: servers.All, Does: servers.All &^ servers.SACK, MSS: 1460}},
		{Server: netip.MustParseAddrPort("[2001:db8::1]:443"), WScale: servers.NoWScale,
			Known: servers.Known{State: servers.Alive, Knows: servers.MSS | servers.WScale}},
		{Server: netip.MustParseAddrPort("192.0.2.10:81"), Known: servers.Known{State: servers.Closed}},
	}})
	want := "[\n" +
		`{"server":"192.0.2.10:80","state":"alive","mss":1460,"wscale":10,"sack":false,"timestamps":true,"ecn":true,"source":"probe","age_seconds":1.5},` + "\n" +
		`{"server":"[2001:db8::1]:443","state":"alive","mss":0,"wscale":-1,"sack":null,"timestamps":null,"ecn":null,"source":"traffic","age_seconds":0},` + "\n" +
		`{"server":"192.0.2.10:81","state":"closed","mss":null,"wscale":null,"sack":null,"timestamps":null,"ecn":null,"source":"traffic","age_seconds":0}` + "\n]\n"
	if code, body := get(t, path, "/v1/servers"); code != 200 || body != want {
		t.Errorf("%d\n%s\nwant\n%s", code, body, want)
	}
	n := 0
	err := client.Servers(t.Context(), func(s Learned) error {
		if n++; n == 1 && (s.SACK == nil || *s.SACK || *s.WScale != 10) || n == 3 && s.MSS != nil {
			t.Errorf("%d: %+v", n, s)
		}
		return nil
	})
	if err != nil || n != 3 {
		t.Errorf("%d servers, %v", n, err)
	}
}

func TestExplain(t *testing.T) {
	client, path := serve(t, &fake{explanation: proxy.Explanation{
		Service: "web", Mode: proxy.ModeAlways, Verdict: proxy.VerdictDrop, Drop: proxy.DropSilent,
		Server: servers.Known{State: servers.Silent}, Recorded: true, Flow: proxy.FlowInfo{State: proxy.StateReset},
	}})
	q := Question{Client: netip.MustParseAddrPort("203.0.113.7:40000"), Server: netip.MustParseAddrPort("192.0.2.10:80")}
	x, err := client.Explain(t.Context(), q)
	if err != nil || x.Client != q.Client || x.Server != q.Server || x.Service != "web" || x.Mode != "always" || x.Verdict != "drop" || x.Reason != "silent" ||
		x.Known == nil || x.Known.State != "silent" || x.Flow == nil || x.Flow.State != "reset" || x.Promise != nil {
		t.Errorf("%v: %+v", err, x)
	}
	for query, want := range map[string]string{
		"client=203.0.113.7&server=192.0.2.10:80":               "client \"203.0.113.7\" is no address and port: write 192.0.2.1:80 or [2001:db8::1]:80",
		"client=203.0.113.7:1&server=192.0.2.10:0":              "server \"192.0.2.10:0\" is no address and port: write 192.0.2.1:80 or [2001:db8::1]:80",
		"client=203.0.113.7:1&server=[2001:db8::1]:80":          "203.0.113.7:1 and [2001:db8::1]:80 are of different families: nothing can go from the one to the other",
		"client=[::ffff:203.0.113.7]:1&server=[2001:db8::1]:80": "203.0.113.7:1 and [2001:db8::1]:80 are of different families: nothing can go from the one to the other",
	} {
		code, body := get(t, path, "/v1/explain?"+query)
		var f failure
		if err := json.Unmarshal([]byte(body), &f); err != nil || code != 400 || f.Error != want {
			t.Errorf("%s: %d %s", query, code, body)
		}
	}
	// Not for the question, but for what there is.
	if code, body := get(t, path, "/v1/explain?client=203.0.113.7:1&server=192.0.2.10:80&in=eth9"); code != 409 || !strings.Contains(body, "there is no eth9") {
		t.Errorf("no such interface: %d %s", code, body)
	}
}
