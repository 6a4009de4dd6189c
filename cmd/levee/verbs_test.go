package main

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"levee/cmd/levee/control"
)

func TestWhileRunning(t *testing.T) {
	g := newGateway(t, services)
	before := g.snapshot()
	code, plan, stderr := g.levee("plan")
	if code != 0 || stderr != "" {
		t.Fatalf("plan: %d %s", code, stderr)
	}
	g.same(before, "plan")

	c := g.start()
	running := g.snapshot()
	if code, again, stderr := g.levee("plan"); code != 0 || again != plan {
		t.Errorf("plan under the daemon: %d %s\n%s\nwant\n%s", code, stderr, again, plan)
	}
	code, stdout, stderr := g.levee("status")
	for _, want := range []string{", ready, up ", "tun    tun0, ", "0 open, 0 opening", "web                  always", "ssh                  off"} {
		if code != 0 || stderr != "" || !strings.Contains(stdout, want) {
			t.Errorf("status lacks %q: %d %s\n%s", want, code, stderr, stdout)
		}
	}
	if code, stdout, stderr := g.levee("flows", "-o", "json"); code != 0 || stdout != `{"schema":1,"flows":[]}`+"\n" || stderr != "" {
		t.Errorf("flows: %d %q %q", code, stdout, stderr)
	}
	if code, _, stderr := g.levee("flows", "--service", "smtp"); code != 2 || stderr != "levee: there is no service \"smtp\": use one of web, ssh\n" {
		t.Errorf("flows of no service: %d %q", code, stderr)
	}
	for path, want := range map[string]string{"/readyz": "ready\n", "/healthz": "ok\n", "/metrics": `levee_syn_received_total{service="web"} `} {
		if body := getBody(t, g, "http://127.0.0.1:9742"+path); !strings.Contains(body, want) {
			t.Errorf("%s lacks %q:\n%s", path, want, body)
		}
	}
	g.same(running, "looking at it")
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := g.end(c); code != 0 {
		t.Errorf("exit code %d", code)
	}
	g.same(before, "after SIGTERM")
}

func getBody(t *testing.T, g *gateway, url string) string {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: g.lab.Gateway.DialContext, DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// The whole plan for two services of two families; the TUN follows the interfaces.
func TestPlan(t *testing.T) {
	g := newGateway(t, "tun: {queues: 3, txqueuelen: 8192}\n"+services)
	if err := g.lab.Clients[0].Link.SetMTU(9000); err != nil {
		t.Fatal(err)
	}
	code, plan, stderr := g.levee("plan")
	if code != 0 || stderr != "" {
		t.Fatalf("got %d %s", code, stderr)
	}
	plan = strings.ReplaceAll(plan, g.config, "CONFIG")
	if *update {
		if err := os.WriteFile("testdata/plan.golden", []byte(plan), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/plan.golden")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), plan); diff != "" {
		t.Errorf("the plan differs from testdata/plan.golden, run with -update if it is meant to (-want +got):\n%s", diff)
	}
}

var update = flag.Bool("update", false, "rewrite the golden files")

func TestPlanUnmanaged(t *testing.T) {
	g := newGateway(t, "tun: {name: levee0, queues: 1}\nrouting: {manage: false}\n"+services)
	want := `# ` + g.config + `: what levee run does, as commands.
# routing.manage is false: rules, routes and sysctls are yours.
# The TUN, which levee opens with a queue for each of its workers: 1.
ip tuntap add dev levee0 mode tun multi_queue vnet_hdr
ip link set dev levee0 mtu 1500 txqueuelen 4096 alias levee
tc qdisc replace dev levee0 root noqueue
ip link set dev levee0 up
`
	if code, plan, stderr := g.levee("plan"); code != 0 || stderr != "" || plan != want {
		t.Errorf("got %d %s\n%s\nwant\n%s", code, stderr, plan, want)
	}
}

// A connection through the daemon is in what the verbs show.
func TestFlowShown(t *testing.T) {
	g := newGateway(t, services)
	g.start()
	server := g.lab.Servers[0].AddrPort(false, 80)
	l, err := g.lab.Servers[0].Listen(server, 8)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := g.lab.Clients[0].DialContext(ctx, "tcp", server.String())
	if err != nil {
		t.Fatalf("connect through levee: %v", err)
	}
	defer conn.Close()
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	g.until("the flow is open", func() bool {
		_, stdout, _ := g.levee("flows", "-o", "json", "--state", "open", "--service", "web")
		var answer struct{ Flows []control.Flow }
		if err := json.Unmarshal([]byte(stdout), &answer); err != nil {
			t.Fatalf("%v: %s", err, stdout)
		}
		flows := answer.Flows
		return len(flows) == 1 && flows[0].Client.String() == conn.LocalAddr().String() && flows[0].Server == server
	})
	_, stdout, _ := g.levee("flows")
	if lines := strings.Split(stdout, "\n"); len(lines) != 3 || !strings.HasPrefix(lines[1], conn.LocalAddr().String()+"  "+server.String()+"  web ") {
		t.Errorf("table:\n%s", stdout)
	}
	if _, stdout, _ := g.levee("status"); !strings.Contains(stdout, "\nflows  1 open, 0 opening, ") {
		t.Errorf("status:\n%s", stdout)
	}
	if body := getBody(t, g, "http://127.0.0.1:9742/metrics"); !strings.Contains(body, "\nlevee_flows{state=\"open\"} 1\n") {
		t.Errorf("no open flow in the metrics:\n%s", body)
	}
}

// Any user can bind the name by which levees find each other; that must not keep root's from starting.
func TestNameTakenByAnyUser(t *testing.T) {
	g := newGateway(t, services)
	const nobody = 65534
	err := g.lab.Gateway.Do(func() error {
		// The kernel notes the effective user of whoever listens. The raw call changes it for this thread alone.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), nobody, ^uintptr(0)); errno != 0 {
			return errno
		}
		defer unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0))
		l, err := net.Listen("unix", "@levee/routing")
		if err == nil {
			t.Cleanup(func() { _ = l.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	g.start()
}
