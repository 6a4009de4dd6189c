package lab_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

// readCapture reads a whole pcap file.
func readCapture(t testing.TB, file string) []gopacket.Packet {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var packets []gopacket.Packet
	for {
		data, info, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return packets
		}
		if err != nil {
			t.Fatal(err)
		}
		p := gopacket.NewPacket(data, r.LinkType(), gopacket.Default)
		p.Metadata().CaptureInfo = info
		packets = append(packets, p)
	}
}

func TestCapture(t *testing.T) {
	begin := time.Now()
	l := labtest.New(t, lab.Config{})
	startWeb(t, l)
	c := labtest.Capture(t, l.Gateway, l.Clients[0].Link.Gateway.Name)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	web := l.Servers[0].AddrPort(true, webPort)
	if _, err := l.Clients[0].Get(ctx, lab.URL(web, "/bytes/1000")); err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	var syns, synAcks int
	for _, p := range readCapture(t, c.File) {
		if at := p.Metadata().Timestamp; at.Before(begin) || at.After(time.Now()) {
			t.Errorf("packet of %v in a capture from %v to %v", at, begin, time.Now())
		}
		tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok {
			continue
		}
		switch {
		case tcp.SYN && tcp.ACK:
			synAcks++
		case tcp.SYN:
			syns++
		}
	}
	if syns != 1 || synAcks != 1 {
		t.Errorf("captured %d SYNs and %d SYN-ACKs of one connection", syns, synAcks)
	}
}

func TestCaptureOfNothing(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	if _, err := l.Gateway.StartCapture("nosuch0", filepath.Join(t.TempDir(), "x")); err == nil {
		t.Error("captured an interface that isn't there")
	}
	c, err := l.Gateway.StartCapture("lo", filepath.Join(t.TempDir(), "lo.pcap"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if packets := readCapture(t, c.File); len(packets) != 0 {
		t.Errorf("%d packets on a silent lo", len(packets))
	}
}
