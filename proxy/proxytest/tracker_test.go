package proxytest_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/proxy"
	"levee/proxy/proxytest"
)

// tracked runs a conversation with loss through levee, or through what edit makes of it at a hop, and returns the tracker's faults.
func tracked(t *testing.T, hop proxytest.Hop, edit func(p *proxytest.Packet, tcp header.TCP)) []proxytest.Fault {
	t.Helper()
	options := proxy.DefaultOptions()
	options.Timestamps = true
	cfg := proxytest.Config{Seed: 3, Hostile: true, Proxy: proxy.Config{Services: []proxy.Service{{
		Name: "web", Prefixes: proxytest.Protected(), Mode: proxy.ModeAlways, Options: options,
	}}}}
	cfg.Hooks[hop] = []proxytest.Hook{func(p *proxytest.Packet) proxytest.Fate {
		if edit != nil {
			p.Edit(func(tcp header.TCP) { edit(p, tcp) })
		}
		return proxytest.Fate{}
	}}
	n := proxytest.New(t, cfg)
	wires := [proxytest.NumHops]proxytest.Impairment{{Loss: 0.1}, {Loss: 0.1}, {Loss: 0.1}, {Loss: 0.1}}
	tracker := n.Track([proxytest.NumHops]time.Duration{})
	n.Impair(5, wires)
	at := netip.AddrPortFrom(proxytest.Server4, 80)
	content := make([]byte, 30_000)
	for i := range content {
		content[i] = byte(i + i>>8)
	}
	n.Server.Listen(at, func(c *proxytest.Conn) {
		c.Send(content)
		c.CloseWrite()
	})
	c := n.Client.Dial(40000, at)
	c.Send(content)
	c.CloseWrite()
	n.Advance(30 * time.Second)
	if edit == nil && !c.EOF() {
		t.Error("the conversation has not ended")
	}
	return tracker.Faults
}

// A tracker has nothing to say against levee, and something against whoever gets one field wrong.
func TestTracker(t *testing.T) {
	for _, f := range tracked(t, proxytest.ToClient, nil) {
		t.Errorf("levee as it is: %v", f)
	}
	data := func(p *proxytest.Packet) bool { return p.TCP.PayloadLen > 1 }
	// option is the option list from an option of this kind on, or nil.
	option := func(p *proxytest.Packet, tcp header.TCP, kind uint8) []byte {
		for b := tcp[header.TCPMinimumSize:p.TCP.HeaderLen]; len(b) > 0; {
			switch {
			case b[0] == kind:
				return b
			case b[0] == header.TCPOptionNOP:
				b = b[1:]
			default:
				b = b[b[1]:]
			}
		}
		return nil
	}
	for _, test := range []struct {
		name string
		hop  proxytest.Hop
		edit func(p *proxytest.Packet, tcp header.TCP)
		want string
	}{
		{"sequence number", proxytest.ToClient, func(p *proxytest.Packet, tcp header.TCP) {
			if data(p) {
				tcp.SetSequenceNumber(tcp.SequenceNumber() + 100)
			}
		}, "payload"},
		{"far beyond the window", proxytest.ToServer, func(p *proxytest.Packet, tcp header.TCP) {
			if data(p) {
				tcp.SetSequenceNumber(tcp.SequenceNumber() + 1<<28)
			}
		}, "beyond the window"},
		{"acknowledgement", proxytest.ToServer, func(p *proxytest.Packet, tcp header.TCP) {
			if data(p) {
				tcp.SetAckNumber(tcp.AckNumber() + 1<<20)
			}
		}, "acknowledges"},
		{"payload", proxytest.ToServer, func(p *proxytest.Packet, tcp header.TCP) {
			if data(p) {
				tcp[len(tcp)-1] ^= 1
			}
		}, "other payload"},
		{"FIN too early", proxytest.ToClient, func(p *proxytest.Packet, tcp header.TCP) {
			if data(p) {
				tcp.SetFlags(uint8(p.TCP.Flags | header.TCPFlagFin))
			}
		}, "FIN"},
		{"SACK", proxytest.ToClient, func(p *proxytest.Packet, tcp header.TCP) {
			if b := option(p, tcp, header.TCPOptionSACK); b != nil {
				b[6] ^= 0x40
			}
		}, "SACK"},
		{"TSecr", proxytest.ToServer, func(p *proxytest.Packet, tcp header.TCP) {
			if p.TCP.Options.Timestamps && data(p) {
				option(p, tcp, header.TCPOptionTS)[9] ^= 0x80
			}
		}, "TSecr"},
		{"TSval goes back", proxytest.ToClient, func(p *proxytest.Packet, tcp header.TCP) {
			if p.TCP.Options.Timestamps && data(p) {
				option(p, tcp, header.TCPOptionTS)[2] -= 0x20
			}
		}, "TSval"},
		{"SYN again with another number", proxytest.ToServer, func(p *proxytest.Packet, tcp header.TCP) {
			if p.Is(header.TCPFlagSyn) {
				tcp.SetSequenceNumber(7)
			}
		}, "no client has used"},
		{"RST", proxytest.ToClient, func(p *proxytest.Packet, tcp header.TCP) {
			if data(p) {
				tcp.SetFlags(uint8(header.TCPFlagRst))
				tcp.SetSequenceNumber(tcp.SequenceNumber() + 1<<28)
			}
		}, "RST"},
	} {
		t.Run(test.name, func(t *testing.T) {
			faults := tracked(t, test.hop, test.edit)
			if len(faults) == 0 || !strings.Contains(faults[0].What, test.want) {
				t.Errorf("faults are %v, none about %q first", faults, test.want)
			}
		})
	}
}
