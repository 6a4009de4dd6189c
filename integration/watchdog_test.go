package integration

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

// hangWords and hangOnceEnv are those of cmd/levee/daemon/link_hang.go.
const (
	hangWords   = "this worker is to hang here"
	hangOnceEnv = "LEVEE_HANG_ONCE"
)

// TestSurvivesHang: a worker that loops for ever is noticed. The process ends with its stack in a report, and the next goes on with all
// connections, that one too whose segment was its end.
func TestSurvivesHang(t *testing.T) {
	labtest.RequireRoot(t)
	dir := t.TempDir()
	binary := filepath.Join(dir, "levee")
	if out, err := exec.Command("go", "build", "-tags", "levee_hang", "-o", binary, "levee/cmd/levee").CombinedOutput(); err != nil {
		t.Fatalf("build levee: %v\n%s", err, out)
	}
	t.Setenv(hangOnceEnv, filepath.Join(dir, "hung"))
	l := labtest.New(t, lab.Config{})
	p := &protected{Lab: l, levee: labtest.StartLevee(t, l, binary, config(nil)), client: l.Clients[0], server: l.Servers[0]}
	addr := p.server.AddrPort(false, 80)
	startEcho(t, p.server, addr)
	listening(t, p.server.Namespace, addr)
	r := &traffic{t: t, from: p.client, to: addr}
	var conns []net.Conn
	for range 20 {
		c := r.dial()
		if _, err := exchange(c, []byte("begin"), make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	p.spliced(t, 20)
	answered := make(chan error, 1)
	begin := time.Now()
	go func() {
		_, err := exchange(conns[7], []byte(hangWords), make([]byte, len(hangWords)))
		answered <- err
	}()
	daemon := p.levee.Process()
	select {
	case <-daemon.Done():
	case <-time.After(25 * time.Second):
		t.Fatal("a worker that hangs is not noticed")
	}
	took := time.Since(begin)
	if err := daemon.Wait(); err == nil {
		t.Error("the daemon's end looks like an orderly one")
	}
	if !strings.Contains(daemon.Output(), "a worker hangs") {
		t.Error("its log doesn't say why")
	}
	if err := p.levee.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Errorf("the connection on which it hung: %v", err)
	}
	for i, c := range conns {
		if _, err := exchange(c, []byte("still there"), make([]byte, 11)); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	report, err := os.ReadFile(filepath.Join(p.levee.Dir, "state", "crash.previous"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"levee ", " has not moved for 10", "its thread ", "hangingLink", "(*Worker).Run"} {
		if !strings.Contains(string(report), want) {
			t.Errorf("the report lacks %q:\n%s", want, report)
		}
	}
	if !strings.Contains(p.levee.Log(), "crash.previous") {
		t.Error("the next daemon's log doesn't say where the report is")
	}
	t.Logf("noticed after %v; a report of %d bytes", took.Round(time.Millisecond), len(report))
}

// TestSurvivesStop: a process that gets no time, as one whose machine sleeps, doesn't take its workers for hanging when it goes on, with packets
// waiting.
func TestSurvivesStop(t *testing.T) {
	p := protect(t, nil)
	addr := p.server.AddrPort(false, 80)
	startEcho(t, p.server, addr)
	listening(t, p.server.Namespace, addr)
	r := &traffic{t: t, from: p.client, to: addr}
	c := r.dial()
	daemon := p.levee.Process()
	if err := daemon.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := exchange(c, []byte("wait"), make([]byte, 4))
		answered <- err
	}()
	time.Sleep(12 * time.Second) // longer than a worker may hang
	if err := daemon.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	select {
	case <-daemon.Done():
		t.Errorf("it ended: %v\n%s", daemon.Wait(), daemon.Output())
	case <-time.After(2 * time.Second):
	}
}
