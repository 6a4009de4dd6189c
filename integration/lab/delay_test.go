package lab_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

// A client behind a delay, and one that isn't.
func delayedLab(t *testing.T, each time.Duration) *lab.Lab {
	return labtest.New(t, lab.Config{Clients: 2, ClientDelays: []time.Duration{each}})
}

// udpPair are a socket of the lab's first server and one of a client that sends to it.
func udpPair(t *testing.T, l *lab.Lab, client int, v6 bool) (server, sender *net.UDPConn) {
	t.Helper()
	to := net.UDPAddrFromAddrPort(l.Servers[0].AddrPort(v6, 9))
	if err := l.Servers[0].Do(func() (err error) { server, err = net.ListenUDP("udp", to); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	if err := l.Clients[client].Do(func() (err error) { sender, err = net.DialUDP("udp", nil, to); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sender.Close() })
	return server, sender
}

func TestDelayIsAccurate(t *testing.T) {
	const each = 20 * time.Millisecond
	l := delayedLab(t, each)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			server, client := udpPair(t, l, 0, f.v6)
			go func() {
				buf := make([]byte, 16)
				for {
					n, from, err := server.ReadFromUDPAddrPort(buf)
					if err != nil {
						return // closed
					}
					_, _ = server.WriteToUDPAddrPort(buf[:n], from) // lost: the client's deadline tells
				}
			}()
			var trips []time.Duration
			buf := make([]byte, 16)
			for range 20 {
				begin := time.Now()
				if _, err := client.Write([]byte("ping")); err != nil {
					t.Fatal(err)
				}
				if err := client.SetReadDeadline(begin.Add(5 * time.Second)); err != nil {
					t.Fatal(err)
				}
				if _, err := client.Read(buf); err != nil {
					t.Fatal(err)
				}
				trips = append(trips, time.Since(begin))
			}
			slices.Sort(trips)
			// Early is our fault always. Late may be the machine's, but hardly every time.
			if trips[0] < 2*each || trips[0] > 2*each+time.Millisecond || trips[len(trips)/2] > 2*each+5*time.Millisecond {
				t.Errorf("round trips took %v to %v, the median %v: want %v and little more",
					trips[0], trips[len(trips)-1], trips[len(trips)/2], 2*each)
			}
		})
	}
}

func TestOnlyTheDelayedClientIsSlow(t *testing.T) {
	const each = 100 * time.Millisecond
	l := delayedLab(t, each)
	startWeb(t, l)
	for i, c := range l.Clients {
		begin := time.Now()
		conn, err := c.DialContext(t.Context(), "tcp", l.Servers[0].AddrPort(false, webPort).String())
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(begin)
		conn.Close()
		if slow := took >= 2*each; slow != (i == 0) {
			t.Errorf("client %d connected in %v", i, took)
		}
	}
}

// Up to its bound, the delay keeps every frame and their order; beyond, it loses and counts.
func TestDelayKeepsOrderAndLosesNothing(t *testing.T) {
	// The hosts announce their groups when their links come up: a few frames that aren't ours.
	const others = 10
	for _, tc := range []struct {
		name       string
		sent, want int
	}{{"as many as fit", lab.DelayFrames - others, lab.DelayFrames - others}, {"more", 3 * lab.DelayFrames, lab.DelayFrames - others}} {
		t.Run(tc.name, func(t *testing.T) {
			// All are sent before the first is due.
			l := delayedLab(t, 500*time.Millisecond)
			server, client := udpPair(t, l, 0, false)
			if err := server.SetReadBuffer(4 << 20); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			for i := range tc.sent {
				if _, err := client.Write(binary.BigEndian.AppendUint32(nil, uint32(i))); err != nil {
					t.Fatal(err)
				}
			}
			if took := time.Since(begin); took > 400*time.Millisecond {
				t.Fatalf("sending took %v: the machine is too busy for this test", took)
			}
			buf := make([]byte, 16)
			for i := range tc.want {
				if err := server.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
					t.Fatal(err)
				}
				if _, err := server.Read(buf); err != nil {
					t.Fatalf("after %d of %d: %v", i, tc.want, err)
				}
				if got := binary.BigEndian.Uint32(buf); got != uint32(i) {
					t.Fatalf("number %d came in place of %d", got, i)
				}
			}
			lost := l.Clients[0].Link.Delay.Lost()
			if fits := tc.sent == tc.want; fits && lost != 0 || !fits && (lost > tc.sent-tc.want || lost < tc.sent-lab.DelayFrames-1) {
				t.Errorf("%d of %d are counted as lost", lost, tc.sent)
			}
		})
	}
}

// Superpackets with their checksums left to do go through whole, and come out right.
func TestDelayCarriesBulk(t *testing.T) {
	l := delayedLab(t, time.Millisecond)
	for _, mtu := range []int{1500, 9000} {
		for _, link := range []*lab.Link{l.Clients[0].Link, l.Servers[0].Link} {
			if err := link.SetMTU(mtu); err != nil {
				t.Fatal(err)
			}
		}
		if !sawSuperpacket(t, l) {
			t.Errorf("no superpacket came through at MTU %d", mtu)
		}
		for _, f := range families {
			t.Run(fmt.Sprintf("%s MTU %d", f.name, mtu), func(t *testing.T) {
				web := l.Servers[0].AddrPort(f.v6, webPort)
				w, err := l.Servers[0].StartWeb(0, web)
				if err != nil {
					t.Fatal(err)
				}
				defer w.Close()
				transfer(t, l.Clients[0].Namespace, lab.URL(web, ""))
			})
		}
	}
	if lost := l.Clients[0].Link.Delay.Lost(); lost != 0 {
		t.Errorf("%d frames were lost", lost)
	}
}

func TestDelayBounds(t *testing.T) {
	labtest.RequireRoot(t)
	for _, bad := range []lab.Config{
		{ClientDelays: []time.Duration{-1}},
		{ClientDelays: []time.Duration{lab.MaxDelay + 1}},
		{ClientDelays: []time.Duration{1, 1}},
	} {
		if l, err := lab.New(bad); err == nil {
			l.Close()
			t.Errorf("delays of %v were accepted", bad.ClientDelays)
		}
	}
}
