package proxy_test

import (
	"fmt"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/proxy"
	"levee/proxy/cookie"
	"levee/proxy/proxytest"
)

// none is a host, or a promise, without window scaling.
const none = proxy.WScaleNone

// Hosts of all kinds of window scales behind all kinds of promises: every window is read right, and data moves at the
// full one.
func TestWindowScales(t *testing.T) {
	cases := [][3]uint8{
		{none, 7, 7}, {7, none, 7}, {7, 7, none}, {14, none, 14}, {0, 7, none}, {14, 14, none}, {none, none, none},
	}
	// Every promise with every server, and every client with and without timestamps.
	scales := []uint8{0, 2, 7, 14}
	for i, promised := range scales {
		for j, server := range scales {
			for k := range 2 {
				cases = append(cases, [3]uint8{scales[(i+j+2*k)%4], promised, server})
			}
		}
	}
	for i, c := range cases {
		v := variant{v6: i&2 != 0, timestamps: i&1 != 0}
		t.Run(fmt.Sprintf("client %d, promised %d, server %d, %v", c[0], c[1], c[2], v), func(t *testing.T) {
			testWindows(t, v, c[0], c[1], c[2])
		})
	}
}

func testWindows(t *testing.T, v variant, client, promised, server uint8) {
	cfg := v.config()
	cfg.Proxy.Services[0].Options.WScale = promised
	noScaling := proxytest.WithoutOption(header.TCPOptionWS)
	if client == none {
		cfg.Hooks[proxytest.FromClient] = []proxytest.Hook{noScaling}
	} else {
		cfg.Client.ReceiveBuffer = proxytest.ReceiveBufferFor(int(client))
	}
	if server == none {
		cfg.Hooks[proxytest.ToServer] = []proxytest.Hook{noScaling} // it sees none in the SYN, and answers with none
	} else {
		cfg.Server.ReceiveBuffer = proxytest.ReceiveBufferFor(int(server))
	}
	s := newSession(t, v, cfg)
	s.open()
	up, down := data(1, 160<<10), data(2, 160<<10)
	s.client.Send(up)
	s.received("server", s.server, up)
	s.server.Send(down)
	s.received("client", s.client, down)
	s.Advance(100 * time.Millisecond) // the last ACKs
	wantDrops(t, s.Network, nil)

	// What each side has been told; from here on none counts as 0.
	told := scaling{client: client, promised: promised, server: server, offered: cookie.RoundWScale(v.timestamps, client)}
	if client == none || promised == none {
		told = scaling{}
	} else if server == none {
		told.offered, told.server = 0, 0
	}
	// All but the SYNs and what levee says of its own: one ACK each way.
	fromClient, toServer := s.Trace.At(proxytest.FromClient, nil)[2:], s.Trace.At(proxytest.ToServer, nil)[2:]
	fromServer, toClient := s.Trace.At(proxytest.FromServer, nil)[1:], s.Trace.At(proxytest.ToClient, nil)[2:]
	known := cookie.RoundWScale(v.timestamps, client)
	if told.client == 0 {
		known = 0
	}
	checkWindows(t, fromClient, toServer, told.client, known, told.offered)
	checkWindows(t, fromServer, toClient, told.server, told.server, told.promised)
	checkFullWindow(t, s, proxytest.FromClient, proxytest.ToClient, told.promised, len(up))
	checkFullWindow(t, s, proxytest.FromServer, proxytest.ToServer, told.offered, len(down))
}

// scaling is the shifts with which windows are written and read: by the client, by the client for the
// server's, by the server, and by the server for the client's.
type scaling struct{ client, promised, server, offered uint8 }

// checkWindows compares windows as a sender of shift real wrote them, of which levee knows the shift known, with what
// their receiver reads, who uses shift told.
func checkWindows(t *testing.T, in, out []proxytest.Record, real, known, told uint8) {
	t.Helper()
	for i := range max(len(in), len(out)) {
		if i >= min(len(in), len(out)) || in[i].TCP.Flags != out[i].TCP.Flags || in[i].TCP.PayloadLen != out[i].TCP.PayloadLen {
			t.Fatalf("%d segments in, %d out, the first %d match", len(in), len(out), i)
		}
		field := uint64(in[i].TCP.Window)
		seen, unit := uint64(out[i].TCP.Window)<<told, uint64(1)<<told
		least := min(field<<known, 65535<<told)
		if seen > max(field<<real, unit) || seen+unit <= least || (seen == 0) != (field == 0) {
			t.Errorf("a window of %d bytes is read as %d:\n%v\n%v", field<<real, seen, &in[i], &out[i])
		}
	}
}

// checkFullWindow checks that the sender at one hop had as much under way as the windows that it read at the other
// allowed, or as much as its slow start can come to.
func checkFullWindow(t *testing.T, s *session, data, acks proxytest.Hop, shift uint8, total int) {
	t.Helper()
	latency := 5 * time.Millisecond
	if acks == proxytest.ToServer {
		latency = time.Millisecond
	}
	var edge, acked seqnum.Value
	var most, window int
	ackedBy := s.Trace.At(acks, nil)
	for _, r := range s.Trace.At(data, nil) {
		for len(ackedBy) > 0 && ackedBy[0].At+latency <= r.At {
			a := &ackedBy[0].TCP
			ackedBy = ackedBy[1:]
			acked = a.Ack
			w := int(a.Window)
			if !a.Flags.Contains(syn) {
				w <<= shift
			}
			window = max(window, w)
			if right := acked.Add(seqnum.Size(w)); edge == 0 || edge.LessThan(right) {
				edge = right
			}
		}
		if r.TCP.PayloadLen == 0 {
			continue
		}
		if edge.LessThan(r.TCP.End()) && r.TCP.PayloadLen > 1 {
			t.Errorf("the sender goes beyond the window that it was shown: %v", &r)
		}
		most = max(most, int(acked.Size(r.TCP.End())))
	}
	const segment = 1460
	if want := min(window-2*segment, total/3); most < want {
		t.Errorf("at most %d bytes were under way at %v, with a window of %d", most, data, window)
	}
}

// A reader that stops shuts the window through levee, and opens it again.
func TestZeroWindowLater(t *testing.T) {
	forVariants(t, true, func(t *testing.T, v variant) {
		cfg := v.config()
		cfg.Client.ReceiveBuffer, cfg.Server.ReceiveBuffer = 64<<10, 64<<10
		s := newSession(t, v, cfg)
		s.open()
		s.client.StopReading(true)
		s.server.StopReading(true)
		up, down := data(1, 300_000), data(2, 300_000)
		s.client.Send(up)
		s.server.Send(down)
		s.Advance(20 * time.Second)
		shut := func(r *proxytest.Record) bool { return r.Is(ack) && r.TCP.Window == 0 }
		for _, hop := range []proxytest.Hop{proxytest.FromClient, proxytest.ToServer, proxytest.FromServer, proxytest.ToClient} {
			if len(s.Trace.At(hop, shut)) == 0 {
				t.Errorf("no zero window seen at %v", hop)
			}
		}
		s.client.StopReading(false)
		s.server.StopReading(false)
		s.received("server", s.server, up)
		s.received("client", s.client, down)
	})
}
