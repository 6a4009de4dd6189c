package daemon

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"levee/cmd/levee/config"
	"levee/proxy"
	"levee/proxy/servers"
	"levee/stack"
)

func TestFirstProbes(t *testing.T) {
	service := func(mode proxy.Mode, ports []proxy.PortRange, prefixes ...string) proxy.Service {
		s := proxy.Service{Mode: mode, Ports: ports}
		for _, p := range prefixes {
			s.Prefixes = append(s.Prefixes, netip.MustParsePrefix(p))
		}
		return s
	}
	web := []proxy.PortRange{{First: 80, Last: 81}}
	for _, test := range []struct {
		name     string
		services []proxy.Service
		want     []string // the first and the last
		n        int
	}{
		{"two addresses, two ports", []proxy.Service{service(proxy.ModeAlways, web, "192.0.2.8/31")}, []string{"192.0.2.8:80", "192.0.2.9:81"}, 4},
		{"both families", []proxy.Service{service(proxy.ModeAlways, web, "192.0.2.8/32", "2001:db8::1/128")}, []string{"192.0.2.8:80", "[2001:db8::1]:81"}, 4},
		{"every port", []proxy.Service{service(proxy.ModeAlways, nil, "192.0.2.8/32")}, nil, 0},
		{"off", []proxy.Service{service(proxy.ModeOff, web, "192.0.2.8/32")}, nil, 0},
		{"the end of the addresses", []proxy.Service{service(proxy.ModeAlways, web, "255.255.255.254/31")}, []string{"255.255.255.254:80", "255.255.255.255:81"}, 4},
		{"as many as there may be", []proxy.Service{service(proxy.ModeAlways, web[:1], "192.0.2.0/25")}, []string{"192.0.2.0:80", "192.0.2.127:81"}, 256},
		{"too many", []proxy.Service{service(proxy.ModeAlways, web, "192.0.2.0/24")}, nil, 0},
		{"far too many", []proxy.Service{service(proxy.ModeAlways, web, "2001:db8::/64")}, nil, 0},
		{"too many, then few", []proxy.Service{service(proxy.ModeAlways, web, "192.0.2.0/24"), service(proxy.ModeAlways, web, "198.51.100.1/32")},
			[]string{"198.51.100.1:80", "198.51.100.1:81"}, 2},
	} {
		keys := firstProbes(config.Config{Services: test.services})
		if len(keys) != test.n {
			t.Errorf("%s: %d", test.name, len(keys))
		} else if test.n > 0 && (keys[0].AddrPort().String() != test.want[0] || keys[test.n-1].AddrPort().String() != test.want[1]) {
			t.Errorf("%s: from %v to %v", test.name, keys[0].AddrPort(), keys[test.n-1].AddrPort())
		}
	}
}

// The file is replaced as a whole, never written through a link, and a folder that is gone is reported once.
func TestServersFile(t *testing.T) {
	dir := t.TempDir()
	path := serversFile(dir)
	table := servers.New(servers.Config{Capacity: 8})
	k := servers.Key{Addr: stack.AddrFrom(netip.MustParseAddr("192.0.2.1")), Port: 80}
	now := time.Now()
	table.Answered(&k, now.Unix(), &servers.Answer{Asked: servers.All, MSS: 1460}, servers.Probe)
	// A file that would do, if it weren't behind a link.
	precious := filepath.Join(dir, "precious")
	const text = `{"version":1,"servers":[]}`
	if err := os.WriteFile(precious, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(precious, path); err != nil {
		t.Fatal(err)
	}
	if _, err := loadServers(path, table, now); err == nil {
		t.Error("a link was followed")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var failures []error
	keepServers(ended, path, table, func(err error) { failures = append(failures, err) })
	if len(failures) != 0 {
		t.Fatal(failures)
	}
	if b, err := os.ReadFile(precious); err != nil || string(b) != text {
		t.Errorf("the link's target holds %q, %v", b, err)
	}
	if fi, err := os.Lstat(path); err != nil || fi.Mode() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	again := servers.New(servers.Config{Capacity: 8})
	if n, err := loadServers(path, again, now); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := loadServers(filepath.Join(dir, "none"), again, now); n != 0 || err != nil {
		t.Errorf("no file: %d, %v", n, err)
	}
	keepServers(ended, filepath.Join(dir, "gone", "servers.json"), table, func(err error) { failures = append(failures, err) })
	if len(failures) != 1 || !errors.Is(failures[0], os.ErrNotExist) || strings.Contains(failures[0].Error(), "\n") {
		t.Errorf("failures: %v", failures)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 2 {
		t.Errorf("left behind: %v, %v", files, err)
	}
}

// Whatever lies where the file should be doesn't stop the start.
func TestPipeForAFile(t *testing.T) {
	path := serversFile(t.TempDir())
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		_, err := loadServers(path, servers.New(servers.Config{Capacity: 8}), time.Now())
		result <- err
	}()
	select {
	case err := <-result:
		if err == nil {
			t.Error("a pipe was read")
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for somebody to write into a pipe")
	}
}
