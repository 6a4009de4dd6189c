package main

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// Whatever keeps levee from running is told in one line, and the system stays as it was.
func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name string
		yaml string // besides services
		// break makes the machine one that levee can't run on.
		breakIt func(t *testing.T, g *gateway)
		env     string
		want    string // without "levee: "; DIR is the folder of the daemon's files, … the rest that another package words
	}{
		{
			name:    "TUN name taken by a TUN",
			breakIt: func(t *testing.T, g *gateway) { addLink(t, g, "tun0", "tun") },
			want:    "make interface tun0: the name is taken: device or resource busy: choose another name, or delete that interface if nothing uses it (ip link delete tun0)",
		},
		{
			name:    "TUN name taken by something else",
			breakIt: func(t *testing.T, g *gateway) { addLink(t, g, "tun0", "bridge") },
			want:    "interface tun0 exists and is …",
		},
		{
			name:    "routing table taken",
			breakIt: func(t *testing.T, g *gateway) { addRule(t, g, 100, 7332) },
			want:    `routing table 7332 is taken: the IPv4 rule "priority 100 iif strange0 lookup 7332 protocol 0" is not levee's: choose another routing.table`,
		},
		{
			name:    "rule priorities taken",
			breakIt: func(t *testing.T, g *gateway) { addRule(t, g, 7305, 99) },
			want:    `rule priorities 7300-7309 are taken: the IPv4 rule "priority 7305 iif strange0 lookup 99 protocol 0" is not levee's: choose another routing.priority`,
		},
		{
			name: "no such interface",
			yaml: "routing: {server_interfaces: [eth7]}\n",
			want: `routing.server_interfaces: there is no interface "eth7": name one that exists, or use auto`,
		},
		{
			name: "metrics port in use",
			breakIt: func(t *testing.T, g *gateway) {
				l, err := g.lab.Gateway.Listen(netip.MustParseAddrPort("127.0.0.1:9742"), 1)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = l.Close() })
			},
			want: "metrics.listen 127.0.0.1:9742 is in use: stop what listens there or choose another port",
		},
		{
			name: "metrics address of another machine",
			yaml: "metrics: {listen: 203.0.113.77:9742}\n",
			want: "metrics.listen 203.0.113.77:9742 is no address of this machine: choose one that is, such as 127.0.0.1",
		},
		{
			name: "no /dev/net/tun",
			env:  withoutTUN,
			want: "open /dev/net/tun: no such file or directory: load the tun module (modprobe tun), or give the container the device (--device /dev/net/tun)",
		},
		{
			name: "no CAP_NET_ADMIN",
			env:  withoutAdmin,
			want: "this needs CAP_NET_ADMIN, to make a TUN and rules: run it as root",
		},
		{
			name:    "something else in the socket's place",
			breakIt: func(t *testing.T, g *gateway) { mkdir(t, g.dir+"/state/control.sock", 0o700) },
			want:    "control socket DIR/state/control.sock: something else is there: remove it or set another state_dir",
		},
		{
			name:    "state_dir that others can write to",
			breakIt: func(t *testing.T, g *gateway) { mkdir(t, g.dir+"/state", 0o777) },
			want:    "state_dir DIR/state can be written to by others (drwxrwxrwx): set one that is levee's own",
		},
		{
			name: "state_dir is a file",
			breakIt: func(t *testing.T, g *gateway) {
				if err := os.WriteFile(g.dir+"/state", nil, 0o600); err != nil {
					t.Fatal(err)
				}
			},
			want: "state_dir DIR/state can't be made: not a directory: set another",
		},
		{
			name: "secret that others can read",
			breakIt: func(t *testing.T, g *gateway) {
				if err := os.WriteFile(g.dir+"/cookie.key", []byte(strings.Repeat("0", 64)+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			},
			want: "secret file DIR/cookie.key: …",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGateway(t, tt.yaml+services)
			if tt.breakIt != nil {
				tt.breakIt(t, g)
			}
			before := g.snapshot()
			if tt.env != "" {
				t.Setenv(tt.env, "1")
			}
			if code, stdout, stderr := g.levee("check"); (code != 1 || !strings.Contains(stderr, "error: ")) && tt.env != withoutAdmin { // who can't tell
				t.Errorf("check: %d\n%s%s", code, stdout, stderr)
			}
			g.same(before, "checked")
			code, stdout, stderr := g.levee("run")
			want := "levee: " + strings.ReplaceAll(tt.want, "DIR", g.dir)
			if short, ok := strings.CutSuffix(want, "…"); ok {
				want = short
			} else {
				want += "\n"
			}
			if code != 1 || stdout != "" || !strings.HasPrefix(stderr, want) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("got %d %q\n%s\nwant 1\n%s", code, stdout, stderr, want)
			}
			g.same(before, "refused")
			if _, err := os.Lstat(g.dir + "/state/control.sock"); err == nil && tt.name != "something else in the socket's place" {
				t.Error("the control socket is still there")
			}
		})
	}
}

func mkdir(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // MkdirAll minds the umask
		t.Fatal(err)
	}
}

func TestSecondDaemon(t *testing.T) {
	g := newGateway(t, services)
	first := g.start()
	before := g.snapshot()
	elsewhere := g.write("elsewhere.yaml", g.dir+"/state2",
		"tun: {name: tun1}\nrouting: {table: 7333, priority: 7400}\nmetrics: {listen: none}\n"+services)
	for _, tt := range []struct{ name, config, want string }{
		{"same state_dir", g.config, fmt.Sprintf("another levee (pid %d) uses state_dir %s/state: stop it first, or set another state_dir", first.Pid(), g.dir)},
		{"another state_dir", elsewhere, fmt.Sprintf("another levee (pid %d) manages the routing of this network namespace: stop it first, or set routing.manage to false in one of them", first.Pid())},
	} {
		code, _, stderr := g.run(g.command("run", "-c", tt.config))
		if code != 1 || stderr != "levee: "+tt.want+"\n" {
			t.Errorf("%s: got %d\n%s\nwant 1\nlevee: %s", tt.name, code, stderr, tt.want)
		}
		g.same(before, tt.name)
	}
	for _, config := range []string{g.config, elsewhere} {
		code, _, stderr := g.run(g.command("cleanup", "-c", config))
		if code != 1 || !strings.HasPrefix(stderr, fmt.Sprintf("levee: another levee (pid %d) ", first.Pid())) || !strings.HasSuffix(stderr, ": stop it, and it cleans up by itself\n") {
			t.Errorf("cleanup under a daemon: %d %s", code, stderr)
		}
		g.same(before, "cleanup under a daemon")
	}
	if code, _, _ := g.levee("status"); code != 0 {
		t.Error("the first daemon doesn't answer any more")
	}
}
