package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee/integration/lab"
)

// What goes on while the daemon is killed.
const (
	idleConns        = 700
	interactiveConns = 292
	bulkConns        = 8
	// interactivePause is between two messages of an interactive connection, bulkBlock the size of one piece of bulk.
	interactivePause = 250 * time.Millisecond
	bulkBlock        = 64 << 10
	// newRate is how many connections begin each second, floodRate how many forged SYNs come.
	newRate, floodRate = 500, 10_000
	// patience is after how long without an answer a connection counts as lost.
	patience = 30 * time.Second
)

// traffic is what connections through levee do and what becomes of them. A server returns every byte that it gets.
type traffic struct {
	t      *testing.T
	from   *lab.Host
	to     netip.AddrPort
	ctx    context.Context
	conns  sync.WaitGroup
	failed chan error

	// longest is how long an interactive or bulk connection waited for its answer at most; opened how many connections
	// have come and gone, and slowest how long the handshake and first answer of one of them took at most.
	longest, slowest atomic.Int64
	opened           atomic.Int64
}

// startEcho serves until the test ends.
func startEcho(t *testing.T, on *lab.Host, addr netip.AddrPort) {
	t.Helper()
	l, err := on.Listen(addr, 4096)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
}

func longer(longest *atomic.Int64, d time.Duration) {
	for {
		was := longest.Load()
		if int64(d) <= was || longest.CompareAndSwap(was, int64(d)) {
			return
		}
	}
}

func (r *traffic) dial() net.Conn {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	c, err := r.from.DialContext(ctx, "tcp", r.to.String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

// exchange sends a message and wants it back.
func exchange(c net.Conn, message, answer []byte) (took time.Duration, err error) {
	begin := time.Now()
	if err := c.SetDeadline(begin.Add(patience)); err != nil {
		return 0, err
	}
	written := make(chan error, 1)
	go func() {
		_, err := c.Write(message)
		written <- err
	}()
	_, err = io.ReadFull(c, answer)
	if err = errors.Join(<-written, err); err != nil {
		return 0, err
	}
	if !bytes.Equal(message, answer) {
		return 0, errors.New("another answer than what was sent")
	}
	return time.Since(begin), nil
}

// keep uses a connection, a message of so many bytes each pause, until the context is done, and once more then.
func (r *traffic) keep(what string, c net.Conn, size int, pause time.Duration) {
	r.conns.Add(1)
	go func() {
		defer r.conns.Done()
		message, answer := make([]byte, size), make([]byte, size)
		source := rand.NewChaCha8([32]byte{1})
		for n, last := uint64(0), false; !last; n++ {
			last = r.ctx.Err() != nil
			_, _ = source.Read(message)
			binary.BigEndian.PutUint64(message, n)
			took, err := exchange(c, message, answer)
			if err != nil {
				r.failed <- fmt.Errorf("%s connection %v, message %d: %w", what, c.LocalAddr(), n, err)
				return
			}
			if !last {
				longer(&r.longest, took)
			}
			select {
			case <-r.ctx.Done():
			case <-time.After(pause):
			}
		}
	}()
}

// come opens and closes connections until the context is done. It gives the client all ports there are: each rests in TIME-WAIT for a minute
// after its connection (tcp(7)), and of the usual 28,232 none is left by then.
func (r *traffic) come() {
	if err := r.from.SetSysctl("net.ipv4.ip_local_port_range", "1024 65535"); err != nil {
		r.t.Error(err)
		return
	}
	each := time.NewTicker(time.Second / newRate)
	defer each.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-each.C:
		}
		r.conns.Add(1)
		go func() {
			defer r.conns.Done()
			begin := time.Now()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			c, err := r.from.DialContext(ctx, "tcp", r.to.String())
			if err == nil {
				_, err = exchange(c, []byte("hello"), make([]byte, 5))
				_ = c.Close()
			}
			if err != nil {
				r.failed <- fmt.Errorf("new connection of %s after %v: %w", begin.UTC().Format(clock), time.Since(begin).Round(time.Millisecond), err)
				return
			}
			r.opened.Add(1)
			longer(&r.slowest, time.Since(begin))
		}()
	}
}

// restarts is how often the daemon is ended: a few times, or as often as the environment says.
func restarts(t *testing.T) int {
	t.Helper()
	text := os.Getenv("LEVEE_RESTARTS")
	if text == "" {
		return 3
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("LEVEE_RESTARTS=%q is no number of restarts", text)
	}
	return n
}

// TestSurvivesKill kills the daemon at random moments and starts it again.
func TestSurvivesKill(t *testing.T) {
	survive(t, func(p *protected) error {
		if err := p.levee.Kill(); err != nil {
			return err
		}
		time.Sleep(rand.N(500 * time.Millisecond)) // a supervisor's
		return p.levee.Start(t.Context())
	})
}

// TestSurvivesUpgrade has it execute its program anew.
func TestSurvivesUpgrade(t *testing.T) {
	survive(t, func(p *protected) error { return p.levee.Upgrade(t.Context()) })
}

// TestSurvivesConversion has levee upgrade do the same, with a flow table of another size each time: the flow file is converted.
func TestSurvivesConversion(t *testing.T) {
	capacity, other := "capacity: 100000", "capacity: 300000" // the next comes first
	survive(t, func(p *protected) error {
		yaml, err := os.ReadFile(p.levee.Config)
		if err != nil {
			return err
		}
		capacity, other = other, capacity
		text := strings.Replace(string(yaml), "grace: 0s}", "grace: 0s, "+capacity+"}", 1)
		if err := os.WriteFile(p.levee.Config, []byte(strings.Replace(text, other, capacity, 1)), 0o600); err != nil {
			return err
		}
		c := p.levee.Command(t.Context(), "upgrade", "-o", "json")
		var out bytes.Buffer
		c.Stdout = &out
		if err := c.Run(); err != nil {
			return fmt.Errorf("%w: %s", err, c.Output())
		}
		var result struct {
			Converted   bool
			Flows, Lost int
			Seconds     float64
		}
		if err := json.Unmarshal(out.Bytes(), &result); err != nil {
			return err
		}
		if !result.Converted || result.Flows < idleConns+interactiveConns+bulkConns || result.Lost > maxRewritten {
			return fmt.Errorf("levee upgrade says %+v", result)
		}
		return nil
	})
}

// maxRewritten is how many flows can be lost because they were being rewritten: one in each stripe.
const maxRewritten = 64

// survive restarts the daemon at random moments, while connections of all kinds are open, others begin, and a flood goes on: each stream
// goes on where it was.
func survive(t *testing.T, restart func(*protected) error) {
	t.Helper()
	times := restarts(t)
	p := protectLab(t, lab.Config{Attacker: true}, nil)
	addr := p.server.AddrPort(false, 80)
	startEcho(t, p.server, addr)
	listening(t, p.server.Namespace, addr)
	if _, err := p.Attacker.Link.Host.CountSYNs(true); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r := &traffic{t: t, from: p.client, to: addr, ctx: ctx, failed: make(chan error, 100_000)}
	var idle []net.Conn
	for range idleConns {
		c := r.dial()
		if _, err := exchange(c, []byte("begin"), make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		idle = append(idle, c)
	}
	p.spliced(t, idleConns)
	for range interactiveConns {
		r.keep("interactive", r.dial(), 16, interactivePause)
	}
	for range bulkConns {
		r.keep("bulk", r.dial(), bulkBlock, 0)
	}
	flood, err := p.Attacker.Link.StartFlood(t.Context(), lab.FloodConfig{
		Target: addr, Rate: floodRate, Count: lab.MaxFloodCount, Duration: lab.MaxFloodDuration,
	})
	if err != nil {
		t.Fatal(err)
	}
	var coming sync.WaitGroup
	coming.Go(r.come)

	var down time.Duration
	for range times {
		time.Sleep(time.Second + rand.N(2*time.Second))
		ended := time.Now()
		if err := restart(p); err != nil {
			t.Fatal(err)
		}
		down = max(down, time.Since(ended))
	}
	time.Sleep(2 * time.Second)
	stop()
	coming.Wait()
	r.conns.Wait()
	if _, err := flood.Stop(); err != nil {
		t.Error(err)
	}
	for i, c := range idle {
		if _, err := exchange(c, []byte("still there"), make([]byte, 11)); err != nil {
			r.failed <- fmt.Errorf("idle connection %d: %w", i, err)
		}
	}
	close(r.failed)
	lost := 0
	for err := range r.failed {
		if lost++; lost <= 10 {
			t.Error(err)
		}
	}
	t.Logf("%d restarts, down for at most %v; %d connections lost; longest stall %v; %d new connections, the slowest took %v",
		times, down.Round(time.Millisecond), lost, time.Duration(r.longest.Load()).Round(time.Millisecond),
		r.opened.Load(), time.Duration(r.slowest.Load()).Round(time.Millisecond))
	if lost > 10 {
		t.Errorf("and %d more", lost-10)
	}
	if r.opened.Load() == 0 {
		t.Error("no connection came and went")
	}
}
