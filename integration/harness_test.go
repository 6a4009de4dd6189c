package integration

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

func TestMain(m *testing.M) {
	if writable := os.Getenv(confine); writable != "" {
		_ = os.Unsetenv(confine)
		fmt.Fprintln(os.Stderr, executeConfined(strings.Split(writable, ":"), os.Args[1], os.Args[2], os.Args[3:]))
		os.Exit(99)
	}
	labtest.Main(m)
}

// options are a service's options as the configuration writes them.
type options map[string]string

// config is a configuration that protects all servers of the lab, on every port. Segments of unknown connections don't pass, as they would for a
// while after a start.
func config(o options) string {
	var list []string
	for key, value := range o {
		list = append(list, key+": "+value)
	}
	return fmt.Sprintf(`
tun: {name: levee0}
metrics: {listen: ""}
flows: {grace: 0s}
log: {level: debug}
services:
  - name: lab
    prefixes: [%s, "%s"]
    mode: always
    options: {%s}
`, lab.ServerPrefix4, lab.ServerPrefix6, strings.Join(list, ", "))
}

// protected is a lab whose servers are behind levee, with captures of both its sides kept if the test fails.
type protected struct {
	*lab.Lab
	levee          *lab.Levee
	client, server *lab.Host
}

func protect(t *testing.T, o options) *protected {
	t.Helper()
	return protectLab(t, lab.Config{}, o)
}

// protectLab is protect for another lab than the simplest.
func protectLab(t *testing.T, cfg lab.Config, o options) *protected {
	t.Helper()
	return protectYAML(t, cfg, config(o))
}

// protectYAML is protectLab for a configuration of its own.
func protectYAML(t *testing.T, cfg lab.Config, yaml string) *protected {
	t.Helper()
	l := labtest.New(t, cfg)
	path, err := labtest.Binary()
	if err != nil {
		t.Fatal(err)
	}
	return &protected{
		Lab: l, levee: labtest.StartLevee(t, l, path, yaml),
		client: l.Clients[0], server: l.Servers[0],
	}
}

// capture keeps what passes on both sides of levee if the test fails. It costs speed: not for bulk.
func (p *protected) capture(t *testing.T) {
	labtest.Capture(t, p.client.Namespace, "eth0")
	labtest.Capture(t, p.server.Namespace, "eth0")
}

// spliced checks that levee really was in the path: a test whose traffic goes around it proves nothing.
func (p *protected) spliced(t *testing.T, atLeast uint64) {
	t.Helper()
	status, err := p.levee.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := status.Services[0].CookieValid; got < atLeast {
		t.Errorf("levee spliced %d connections, want at least %d", got, atLeast)
	}
}

// families runs a test for IPv4 and for IPv6.
func families(t *testing.T, test func(t *testing.T, v6 bool)) {
	for _, v6 := range []bool{false, true} {
		name := "IPv4"
		if v6 {
			name = "IPv6"
		}
		t.Run(name, func(t *testing.T) { test(t, v6) })
	}
}

// start runs a program in a namespace until the test ends.
func start(t *testing.T, n *lab.Namespace, name string, args ...string) *lab.Command {
	t.Helper()
	c := n.Command(context.Background(), name, args...)
	if err := c.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		_ = c.Stop()
		if t.Failed() && c.Output() != "" {
			t.Logf("output of %s:\n%s", name, c.Output())
		}
	})
	return c
}

// run runs a program in a namespace and returns its standard output.
func run(t *testing.T, n *lab.Namespace, timeout time.Duration, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	var out strings.Builder
	c := n.Command(ctx, name, args...)
	c.Stdout = &out
	if err := c.Run(); err != nil {
		t.Fatalf("%s %s in %s: %v\n%s", name, strings.Join(args, " "), n.Name, err, out.String())
	}
	return out.String()
}

// listening waits until something accepts connections at addr, seen from inside its own namespace.
func listening(t *testing.T, n *lab.Namespace, addr netip.AddrPort) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		conn, err := n.DialContext(ctx, "tcp", addr.String())
		cancel()
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing listens at %s in %s: %v", addr, n.Name, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// write makes a file in the test's temporary folder.
func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
