package proxy

import (
	"math/big"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/stack"
	"pgregory.net/rapid"
)

// TestRescaleAgainstArithmetic compares with unbounded integers.
func TestRescaleAgainstArithmetic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := rapid.Uint16().Draw(t, "window")
		from := rapid.Uint8Range(0, 14).Draw(t, "from")
		to := rapid.Uint8Range(0, 14).Draw(t, "to")
		v := big.NewInt(int64(w))
		v.Lsh(v, uint(from))
		v.Div(v, new(big.Int).Lsh(big.NewInt(1), uint(to)))
		want := uint16(min(v.Uint64(), 65535))
		if w != 0 && want == 0 {
			want = 1
		}
		if got := rescale(w, from, to); got != want {
			t.Fatalf("rescale(%d, %d, %d) = %d, want %d", w, from, to, got, want)
		}
	})
}

// TestTranslateRoundTrip is the model of a splice: what a host says about the other's numbers must mean the same on
// both sides of levee, whatever the deltas and wraps.
func TestTranslateRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := &flow{
			flags:   opened | timestamps,
			delta:   rapid.Uint32().Draw(t, "delta"),
			tsDelta: rapid.Uint32().Draw(t, "tsDelta"),
		}
		serverSeq := seqnum.Value(rapid.Uint32().Draw(t, "seq"))
		serverTS := rapid.Uint32().Draw(t, "ts")

		data := stack.Packet{Seq: serverSeq, Flags: header.TCPFlagAck}
		e := f.edit(server, &data)
		shown, shownTS := uint32(serverSeq)+e.Seq, serverTS+e.TSVal
		if e.Ack != 0 || e.TSEcr != 0 {
			t.Fatal("the server's acknowledgement of the client's numbers must not change")
		}
		// The client acknowledges what it was shown.
		e = f.edit(client, &stack.Packet{Flags: header.TCPFlagAck})
		if back := shown + e.Ack; back != uint32(serverSeq) {
			t.Fatalf("the server sends %d and sees %d acknowledged", serverSeq, back)
		}
		if back := shownTS + e.TSEcr; back != serverTS {
			t.Fatalf("the server sends timestamp %d and sees %d echoed", serverTS, back)
		}
		if e.Seq != 0 || e.TSVal != 0 {
			t.Fatal("the client's own numbers must not change")
		}
	})
}

// TestPlausible checks the bounds of a segment's numbers, on both sides of a wrap.
func TestPlausible(t *testing.T) {
	for _, base := range []seqnum.Value{0, 1 << 31, 0xffffff00} {
		f := &flow{flags: opened}
		// The client has sent up to base+1000, of which the server acknowledged 900 and allows 500 more; the server
		// has sent up to base+70000, of which the client acknowledged all, and allows 100000.
		f.half[client] = half{end: base + 1000, ack: base + 70000, maxWindow: 100_000}
		f.half[server] = half{end: base + 70000, ack: base + 900, maxWindow: 500}
		tests := []struct {
			name string
			side side
			seq  seqnum.Value
			len  int
			ack  seqnum.Value
			want bool
		}{
			{"next data", client, base + 1000, 100, base + 70000, true},
			{"retransmission", client, base + 900, 100, base + 70000, true},
			{"end of the window", client, base + 1400, 0, base + 70000, true},
			{"beyond the window", client, base + 1401, 1, base + 70000, false},
			{"a window ago", client, base + 500, 0, base + 70000, true},
			{"longer ago", client, base + 499, 0, base + 70000, false},
			{"keep-alive", client, base + 999, 0, base + 70000, true},
			{"acknowledges what levee may not have seen", client, base + 1000, 0, base + 70000 + 65536, true},
			{"acknowledges what was not sent", client, base + 1000, 0, base + 70000 + 65537, false},
			{"old acknowledgement", client, base + 1000, 0, base, true},
			{"too old acknowledgement", client, base + 1000, 0, base - 40000, false},
			{"the server's oldest acknowledgement", server, base + 70000, 0, base + 1000 - 66000, true},
			{"the server's older acknowledgement", server, base + 70000, 0, base + 1000 - 66001, false},
			{"server data", server, base + 70000, 60000, base + 1000, true},
			{"server beyond the window", server, base + 170001, 1, base + 1000, false},
			{"server acknowledges too much", server, base + 70000, 0, base + 1000 + 65537, false},
		}
		for _, tt := range tests {
			p := &stack.Packet{Seq: tt.seq, Ack: tt.ack, PayloadLen: tt.len, Flags: header.TCPFlagAck}
			if got := f.plausible(tt.side, p, tt.ack); got != tt.want {
				t.Errorf("base %d, %s: %t, want %t", base, tt.name, got, tt.want)
			}
		}
	}
}
