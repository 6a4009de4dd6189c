package integration

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"levee/integration/lab"
)

// earlyStatus is what the daemon says of early data.
type earlyStatus struct {
	EarlyData struct {
		Used int `json:"used_bytes"`
		Size int `json:"size_bytes"`
	} `json:"early_data"`
	Services []struct {
		EarlyHeld uint64 `json:"early_held"`
	} `json:"services"`
	Drops map[string]uint64 `json:"drops"`
}

func (p *protected) earlyStatus(t *testing.T) (s earlyStatus) {
	t.Helper()
	p.status(t, &s)
	return s
}

// stream is what client i sends: its number, and then bytes that only it sends so.
func stream(i, size int) []byte {
	b := make([]byte, size)
	_, _ = io.ReadFull(lab.Pattern(), b)
	for j := range b {
		b[j] ^= byte(i) ^ byte(i>>8)
	}
	b[0], b[1] = byte(i>>8), byte(i)
	return b
}

// TestManySendEarly lets 10,000 clients connect and send 16 KiB each to a server that answers nothing for two seconds and more. What doesn't
// fit into the pool is dropped, and sent again by the clients: every stream arrives whole, and the daemon grows by no more than the pool.
func TestManySendEarly(t *testing.T) {
	const (
		clients = 10_000
		size    = 16 << 10
		silence = 2 * time.Second
		// slack is for everything else that the daemon touches for the first time, 30,000 flows among it.
		slack = 16 << 20
	)
	p := protectYAML(t, lab.Config{}, strings.Replace(config(options{"timestamps": "true"}), "{grace: 0s}", "{grace: 0s, capacity: 30000}", 1))
	for name, value := range map[string]string{"net.core.somaxconn": "16384", "net.ipv4.tcp_max_syn_backlog": "16384"} {
		if err := p.server.SetSysctl(name, value); err != nil {
			t.Fatal(err)
		}
	}
	addr := p.server.AddrPort(false, 7777)
	ln, err := p.server.Listen(addr, 16384)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	before := memoryOf(t, p.levee.Process().Pid())
	if err := p.server.SetLoss(100); err != nil {
		t.Fatal(err)
	}

	begin := time.Now()
	var conns [clients]net.Conn
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
	}()
	var next atomic.Int64
	errs := parallel(64, func() error {
		for i := int(next.Add(1)) - 1; i < clients; i = int(next.Add(1)) - 1 {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			c, err := p.client.DialContext(ctx, "tcp", addr.String())
			cancel()
			if err != nil {
				return err
			}
			conns[i] = c
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			if _, err := c.Write(stream(i, size)); err != nil {
				return fmt.Errorf("client %d: %w", i, err)
			}
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				return fmt.Errorf("client %d: %w", i, err)
			}
		}
		return nil
	})
	if errs != nil {
		t.Fatal(errs)
	}
	sent := time.Since(begin)
	status := p.earlyStatus(t)
	if status.EarlyData.Used < status.EarlyData.Size/4 || status.EarlyData.Used > status.EarlyData.Size {
		t.Errorf("%d bytes of the pool of %d are in use", status.EarlyData.Used, status.EarlyData.Size)
	}
	grown := memoryOf(t, p.levee.Process().Pid()) - before
	if grown > int64(status.EarlyData.Size+slack) {
		t.Errorf("the daemon has grown by %d MiB", grown>>20)
	}
	time.Sleep(time.Until(begin.Add(silence)))
	if err := p.server.SetLoss(0); err != nil {
		t.Fatal(err)
	}

	var got [clients]atomic.Bool
	var accepted atomic.Int64
	_ = ln.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute))
	errs = parallel(64, func() error {
		for accepted.Add(1) <= clients {
			c, err := ln.Accept()
			if err != nil {
				return err
			}
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			data, err := io.ReadAll(c)
			_ = c.Close()
			if err != nil || len(data) < 2 {
				return fmt.Errorf("%d bytes, then %w", len(data), err)
			}
			i := int(data[0])<<8 | int(data[1])
			if i >= clients || got[i].Swap(true) || !bytes.Equal(data, stream(i, size)) {
				return fmt.Errorf("the stream of client %d has %d bytes, wrong ones, or came twice", i, len(data))
			}
		}
		return nil
	})
	if errs != nil {
		t.Error(errs)
	}
	after := p.earlyStatus(t)
	if after.EarlyData.Used != 0 {
		t.Errorf("%d bytes of the pool are still in use", after.EarlyData.Used)
	}
	t.Logf("sent within %v, all there after %v; the pool held %d MiB at the end of the silence, %d segments in all, %d found no room; the daemon grew by %d MiB",
		sent.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond), status.EarlyData.Used>>20, after.Services[0].EarlyHeld, after.Drops["early_full"], grown>>20)
	p.spliced(t, clients)
}

// parallel runs a function a number of times at once and returns the errors of all.
func parallel(n int, f func() error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// memoryOf is the resident memory of a process, in bytes.
func memoryOf(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// TestSmallServerWindow sends 16 KiB at once to a server whose first window is much smaller than what the first client was told: nothing is lost
// or late, and later clients are told what the server takes.
func TestSmallServerWindow(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		p := protect(t, options{"timestamps": "true"})
		p.capture(t)
		addr := p.server.AddrPort(v6, 7777)
		var ln net.Listener
		if err := p.server.Do(func() (err error) {
			small := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
				e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
				return errors.Join(e, err)
			}}
			ln, err = small.Listen(context.Background(), "tcp", addr.String())
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		for i := range 5 {
			want := stream(i, 16<<10)
			began := time.Now()
			c, err := p.client.DialContext(t.Context(), "tcp", addr.String())
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err := c.Write(want); err != nil {
				t.Fatal(err)
			}
			_ = c.(*net.TCPConn).CloseWrite()
			s, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			_ = s.SetDeadline(time.Now().Add(10 * time.Second))
			got, err := io.ReadAll(s)
			took := time.Since(began)
			_, _ = s.Close(), c.Close()
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("connection %d: %d bytes, %v", i, len(got), err)
			}
			// The first may need a retransmission for what the server had no room for.
			if limit := time.Second; took > limit {
				t.Errorf("connection %d took %v", i, took)
			}
			t.Logf("connection %d took %v", i, took.Round(time.Millisecond))
		}
		p.spliced(t, 5)
	})
}

// TestFairStart downloads from a server with BBR: it must see the client's round trip, as it would without levee, and not the one to
// levee, of which it would make a window much too small.
func TestFairStart(t *testing.T) {
	const each = 20 * time.Millisecond
	for _, test := range []struct {
		name, options string
		far           bool // the server sees how far the client is
	}{
		{"unmeasured", "", true},
		{"unmeasured, no timestamps", "options: {timestamps: false}", true},
		{"immediate", "server_ack: immediate", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			yaml := fmt.Sprintf(`
metrics: {listen: ""}
services:
  - name: lab
    prefixes: [%s, "%s"]
    mode: always
    %s
`, lab.ServerPrefix4, lab.ServerPrefix6, cmp.Or(test.options, "options: {timestamps: true}"))
			p := protectYAML(t, lab.Config{ClientDelays: []time.Duration{each}}, yaml)
			l, err := p.server.Listen(p.server.AddrPort(false, 7777), 16)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			meet(t, p.client, l.(*net.TCPListener)) // levee gets to know the server
			client, server := meet(t, p.client, l.(*net.TCPListener))
			if _, err := server.Write(make([]byte, 20_000)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(client, make([]byte, 20_000)); err != nil {
				t.Fatal(err)
			}
			raw, err := server.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			var info *unix.TCPInfo
			if e := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); e != nil || err != nil {
				t.Fatal(e, err)
			}
			least := time.Duration(info.Min_rtt) * time.Microsecond
			if (least >= 2*each) != test.far {
				t.Errorf("the shortest round trip of the server is %v, the client is %v away", least, 2*each)
			}
			counters, err := p.server.Counters()
			if err != nil {
				t.Fatal(err)
			}
			if n := counters["TcpExtTSEcrRejected"]; n != 0 {
				t.Errorf("the server refused %d TSecrs", n)
			}
			p.spliced(t, 2)
		})
	}
}
