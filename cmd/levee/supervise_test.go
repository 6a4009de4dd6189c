package main

import (
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// notified collects what a daemon tells its supervisor.
type notified struct {
	mu   sync.Mutex
	said []string
}

// listenNotify is a supervisor that listens; daemons that are started in this test have it.
func listenNotify(t *testing.T, then func(message string)) *notified {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	n := &notified{}
	go func() {
		b := make([]byte, 4096)
		for {
			size, err := c.Read(b)
			if err != nil {
				return
			}
			then(string(b[:size]))
			n.mu.Lock()
			n.said = append(n.said, string(b[:size]))
			n.mu.Unlock()
		}
	}()
	return n
}

// states are the assignments that were told, the status line and the time left out.
func (n *notified) states() (states []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, message := range n.said {
		for line := range strings.Lines(message) {
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, "STATUS=") && !strings.HasPrefix(line, "MONOTONIC_USEC=") {
				states = append(states, line)
			}
		}
	}
	return states
}

func (n *notified) all() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.said, "\n")
}

// TestSupervisor: systemd is told that levee is ready when traffic is protected, of reloads, of an upgrade in place, and of the end.
func TestSupervisor(t *testing.T) {
	g := newGateway(t, services)
	dir := g.onTmpfs(services)
	early := false
	n := listenNotify(t, func(message string) {
		if strings.Contains(message, "READY=1") && !strings.Contains(g.snapshot().String(), "7300") {
			early = true
		}
	})
	c := g.start()
	want := func(states ...string) {
		t.Helper()
		g.until("systemd is told "+strings.Join(states, " "), func() bool { return strings.Join(n.states(), " ") == strings.Join(states, " ") })
	}
	want("READY=1")
	if !strings.Contains(n.all(), "STATUS=2 services, 0 connections") {
		t.Errorf("the status line: %s", n.all())
	}
	if code, _, stderr := g.levee("reload"); code != 0 {
		t.Fatal(stderr)
	}
	want("READY=1", "RELOADING=1", "READY=1")
	if !strings.Contains(n.all(), "RELOADING=1\nMONOTONIC_USEC=") {
		t.Error("no time of the reload, which systemd wants")
	}
	g.config = g.write("levee.yaml", dir, "nonsense: 1\n"+services)
	if code, _, _ := g.levee("reload"); code != 1 {
		t.Fatal("a broken file was loaded")
	}
	want("READY=1", "RELOADING=1", "READY=1", "RELOADING=1", "READY=1")
	if !strings.Contains(n.all(), "; the latest reload failed") {
		t.Errorf("the status line doesn't tell of a failed reload: %s", n.all())
	}
	g.write("levee.yaml", dir, services)
	if err := c.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	want("READY=1", "RELOADING=1", "READY=1", "RELOADING=1", "READY=1", "RELOADING=1", "READY=1")
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	g.end(c)
	want("READY=1", "RELOADING=1", "READY=1", "RELOADING=1", "READY=1", "RELOADING=1", "READY=1", "STOPPING=1")
	if early {
		t.Error("ready before its rules were there")
	}
}

// TestWatchdogFed: by every third of its time.
func TestWatchdogFed(t *testing.T) {
	g := newGateway(t, services)
	t.Setenv("WATCHDOG_USEC", "600000")
	n := listenNotify(t, func(string) {})
	g.start()
	before := strings.Count(n.all(), "WATCHDOG=1") // a busy machine takes its time to start
	time.Sleep(1500 * time.Millisecond)
	if fed := strings.Count(n.all(), "WATCHDOG=1") - before; fed < 4 || fed > 10 {
		t.Errorf("fed %d times in a second and a half, each 200 ms", fed)
	}
}

// TestReadyz: it says what is missing. A rule of somebody else's keeps levee from mending it, so that there is time to ask.
func TestReadyz(t *testing.T) {
	g := newGateway(t, services)
	g.onTmpfs(services)
	g.start()
	const page = "http://127.0.0.1:9742/readyz"
	if body := getBody(t, g, page); body != "ready\n" {
		t.Errorf("at first: %s", body)
	}
	g.sh("ip rule add priority 7305 iif strange0 lookup 99; ip -6 rule del iif tun0")
	if body := getBody(t, g, page); body != "not ready: 1 rule missing\n" {
		t.Errorf("without a rule: %s", body)
	}
	g.sh("ip link set tun0 down")
	if body := getBody(t, g, page); body != "not ready: the TUN is down, 1 rule missing\n" {
		t.Errorf("without the TUN: %s", body)
	}
}
