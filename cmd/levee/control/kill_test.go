package control

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee/proxy"
)

func post(t *testing.T, path, url string) (int, string) {
	t.Helper()
	c := NewClient(path)
	resp, err := c.http.Post("http://levee"+url, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var f failure
	_ = json.NewDecoder(resp.Body).Decode(&f)
	return resp.StatusCode, f.Error
}

// Exactly the flows that the filter chooses are ended, except for those that have ended before.
func TestKill(t *testing.T) {
	const total = 3000
	f := &fake{flows: total}
	var mu sync.Mutex
	asked := map[netip.AddrPort]int{}
	f.kill = func(_ context.Context, a, b netip.AddrPort) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		asked[a]++
		return b == netip.MustParseAddrPort("192.0.2.10:80") && a.Port()%10 != 0, nil // some end by themselves meanwhile
	}
	client, _ := serve(t, f)
	filter := Filter{Service: "ssh", ClientPort: 0, Client: netip.MustParsePrefix("2001:db8:2::/64")}
	got, err := client.Kill(t.Context(), filter)
	var want Killed
	for i := range total {
		flow := f.flow(i)
		matches := i%2 == 1 && flow.State != proxy.StateTimeWait && flow.State != proxy.StateReset
		if matches {
			want.Matched++
			if i%10 != 0 {
				want.Killed++
			}
		}
		if n := asked[flow.Client]; n != map[bool]int{true: 1}[matches] {
			t.Fatalf("flow %d, %v of %s: killed %d times", i, flow.State, flow.Service, n)
		}
	}
	if err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if got, err := client.Kill(t.Context(), Filter{ServerPort: 80, Limit: 5}); err != nil || got.Matched != 5 {
		t.Errorf("at most 5: %+v, %v", got, err)
	}
}

// Nobody kills everything by leaving something out, and nothing but POST changes anything.
func TestKillRefusals(t *testing.T) {
	f := &fake{flows: 10, kill: func(context.Context, netip.AddrPort, netip.AddrPort) (bool, error) {
		t.Error("a flow was killed")
		return true, nil
	}}
	_, path := serve(t, f)
	for url, want := range map[string]string{
		"/v1/flows/kill":              errKillAll.Error(),
		"/v1/flows/kill?limit=7":      errKillAll.Error(),
		"/v1/flows/kill?service=x":    `there is no service "x": use one of web, ssh`,
		"/v1/flows/kill?from=1.2.3.4": `there is no filter "from" in this daemon: use its own levee`,
	} {
		if code, got := post(t, path, url); code != http.StatusBadRequest || got != want {
			t.Errorf("%s: %d %s", url, code, got)
		}
	}
	if code, _ := get(t, path, "/v1/flows/kill?service=web"); code != http.StatusNotFound {
		t.Errorf("GET: %d", code)
	}
}

// Many are ended at a time, and it may take longer than the client's patience: the daemon tells that it is at work. Who goes away stops it.
func TestKillTakesLong(t *testing.T) {
	f := &fake{flows: 5000}
	var busy, most atomic.Int64
	release := make(chan struct{})
	f.kill = func(ctx context.Context, _, _ netip.AddrPort) (bool, error) {
		most.Store(max(most.Load(), busy.Add(1)))
		defer busy.Add(-1)
		select {
		case <-release:
			return true, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	client, _ := serve(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := client.Kill(ctx, Filter{ServerPort: 80})
		ended <- err
	}()
	for busy.Load() < killers {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("cut off without an error")
	}
	for deadline := time.Now().Add(10 * time.Second); busy.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the daemon goes on for nobody")
		}
	}
	if most.Load() > killers {
		t.Errorf("%d at a time", most.Load())
	}
	time.AfterFunc(requestTimeout+2*time.Second, func() { close(release) })
	if got, err := client.Kill(t.Context(), Filter{ServerPort: 80, Limit: 100}); err != nil || got != (Killed{100, 100}) {
		t.Errorf("%+v, %v", got, err)
	}
}
