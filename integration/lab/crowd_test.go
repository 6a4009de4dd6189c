package lab_test

import (
	"context"
	"encoding/hex"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

const crowdPort = 7

// A crowd opens its connections over plain forwarding, sends on them in turn, and its frames are well formed.
func TestCrowd(t *testing.T) {
	const size, sent = 2000, 3000
	l := labtest.New(t, lab.Config{Attacker: true})
	c, err := l.StartCrowd(crowdPort, size)
	if err != nil {
		t.Fatal(err)
	}
	capture, err := l.Gateway.StartCapture(l.Attacker.Link.Gateway.Name, filepath.Join(t.TempDir(), "crowd.pcap"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Open(t.Context(), size, 20_000); err != nil {
		t.Fatal(err)
	}
	if n := c.Opened(size); n != size {
		t.Errorf("%d of %d are open", n, size)
	}
	// SYN and ACK of each.
	eventually(t, "all handshakes have arrived", func() bool { return arrived(t, c) >= 2*size })
	before := arrived(t, c)
	if n, err := c.Send(t.Context(), size, 50_000, sent); err != nil || n != sent {
		t.Fatalf("sent %d of %d: %v", n, sent, err)
	}
	eventually(t, "all segments have arrived", func() bool { return arrived(t, c) == before+sent })
	if err := capture.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	checkCrowd(t, capture.File, size, before+sent)
	// Where the crowd was, the kernel rules again.
	if _, err := l.Servers[0].StartWeb(0, l.Servers[0].AddrPort(false, crowdPort)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := l.Clients[0].Get(ctx, lab.URL(l.Servers[0].AddrPort(false, crowdPort), "/bytes/10")); err != nil {
		t.Error(err)
	}
}

func arrived(t *testing.T, c *lab.Crowd) int {
	t.Helper()
	n, err := c.Arrived()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// checkCrowd checks what crossed the attacker's link.
func checkCrowd(t *testing.T, file string, size, fromClients int) {
	t.Helper()
	acks, seen := map[string]int{}, 0
	for _, p := range readCapture(t, file) {
		tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok {
			continue
		}
		if err := tcp.SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
			t.Fatal(err)
		}
		if err, bad := p.VerifyChecksums(); err != nil || len(bad) != 0 {
			t.Fatalf("checksums of %s: %v %v", p, bad, err)
		}
		var kinds []string
		for _, o := range tcp.Options {
			kinds = append(kinds, o.OptionType.String())
		}
		want := "NOP NOP Timestamps"
		if tcp.SYN {
			want = "MSS NOP NOP SACKPermitted NOP WindowScale " + want
		}
		if got := strings.Join(kinds, " "); got != want {
			t.Fatalf("options %s, want %s", got, want)
		}
		if tcp.DstPort != crowdPort {
			continue
		}
		seen++
		if !tcp.SYN {
			acks[p.NetworkLayer().NetworkFlow().Src().String()+tcp.SrcPort.String()]++
		}
	}
	if seen != fromClients || len(acks) != size {
		t.Errorf("%d segments of %d clients, want %d of %d", seen, len(acks), fromClients, size)
	}
	for client, n := range acks {
		// One of the handshake, and one or two of 3000 on 2000 connections.
		if n < 2 || n > 3 {
			t.Fatalf("%d ACKs from %s", n, client)
		}
	}
}

// What gets lost is asked for again.
func TestCrowdInspiteOfLoss(t *testing.T) {
	const size = 300
	l := labtest.New(t, lab.Config{Attacker: true})
	if err := l.Gateway.SetLoss(20); err != nil {
		t.Fatal(err)
	}
	c, err := l.StartCrowd(crowdPort, size)
	if err != nil {
		t.Fatal(err)
	}
	// Of 300 that each fail with 36 %, about 2 are left after five passes.
	err = c.Open(t.Context(), size, 20_000)
	if n := c.Opened(size); n < size-15 || n < size && err == nil {
		t.Errorf("%d of %d are open: %v", n, size, err)
	}
	if err := l.Gateway.SetLoss(0); err != nil {
		t.Fatal(err)
	}
	if err := c.Open(t.Context(), size, 20_000); err != nil {
		t.Error(err)
	}
}

func TestCrowdEnds(t *testing.T) {
	l := labtest.New(t, lab.Config{Attacker: true})
	if err := l.Gateway.SetLoss(100); err != nil {
		t.Fatal(err)
	}
	c, err := l.StartCrowd(crowdPort, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := c.Open(ctx, 10_000, 1000); err == nil {
		t.Error("connections were opened at a loss of 100 %")
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Send(t.Context(), 1, 1, 1); err == nil {
		t.Error("sent after Close")
	}
}

func TestCrowdRefuses(t *testing.T) {
	l := labtest.New(t, lab.Config{Attacker: true})
	for _, bad := range []struct {
		port uint16
		size int
	}{{0, 1}, {crowdPort, 0}, {crowdPort, lab.MaxCrowd + 1}} {
		if c, err := l.StartCrowd(bad.port, bad.size); err == nil {
			c.Close()
			t.Errorf("accepted %+v", bad)
		}
	}
	c, err := l.StartCrowd(crowdPort, 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][2]int{{0, 1}, {11, 1}, {1, 0}} {
		if err := c.Open(t.Context(), bad[0], bad[1]); err == nil {
			t.Errorf("opened %d at %d a second", bad[0], bad[1])
		}
	}
	if l, err := lab.New(lab.Config{}); err != nil {
		t.Error(err)
	} else {
		if c, err := l.StartCrowd(crowdPort, 10); err == nil {
			c.Close()
			t.Error("started a crowd without an attacker")
		}
		l.Close()
	}
}

func TestCrowdAddresses(t *testing.T) {
	seen := map[[6]byte]bool{}
	for _, i := range []int{0, 1, 1<<17 - 1, 1 << 17, 1<<17 + 1, lab.MaxCrowd - 1} {
		addr, port := lab.CrowdAddr(i)
		if back, ok := lab.CrowdIndex(addr, port); !ok || back != i {
			t.Errorf("connection %d is %v:%d, which is %d, %t", i, addr, port, back, ok)
		}
		seen[[6]byte{addr[0], addr[1], addr[2], addr[3], byte(port >> 8), byte(port)}] = true
	}
	if len(seen) != 6 {
		t.Errorf("not all different: %v", seen)
	}
	for _, other := range [][4]byte{{198, 17, 255, 255}, {198, 20, 0, 0}, {}} {
		if i, ok := lab.CrowdIndex(other, 2000); ok {
			t.Errorf("%v is connection %d", other, i)
		}
	}
}

// Whatever comes, parsing ends, and what it accepts survives being written again.
func FuzzCrowdSegment(f *testing.F) {
	for _, seed := range []string{
		// A SYN with MSS, SACK, timestamps and window scale.
		"0200000000010200000000010800" + "4500003c00004000400600000a0000010a000002" + "0400000700000001000000000a02faf000000000" + "020405b40402080a000000010000000001030307",
		// An option of length 0, and one beyond the end.
		"0200000000010200000000010800" + "4500002c00004000400600000a0000010a000002" + "0400000700000001000000006002faf000000000" + "08000000",
		"0200000000010200000000010800" + "4500002c00004000400600000a0000010a000002" + "0400000700000001000000006002faf000000000" + "080a0000",
		"0200000000010200000000010800" + "4f00002c",
	} {
		b, err := hex.DecodeString(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		again, ok := lab.CrowdRewrite(frame)
		if !ok {
			return
		}
		if third, ok := lab.CrowdRewrite(again); !ok || string(third) != string(again) {
			t.Errorf("%x became %x, then %x", frame, again, third)
		}
	})
}
