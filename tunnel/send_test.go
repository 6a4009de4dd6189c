package tunnel

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"levee/stack"
)

func mustAddrPort(t testing.TB, s string) netip.AddrPort {
	t.Helper()
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Frames that the kernel refuses are counted by reason and don't stop the rest.
func TestSendGarbage(t *testing.T) {
	ns := newNamespace(t)
	d := ns.open(t, Config{Name: "levee0", MTU: 1500, Queues: 1})
	ns.quiet(t, "levee0")
	ns.up(t, "levee0")
	q := d.Queues()[0]

	with := func(v stack.Virtio) []byte {
		frame := ipv4UDP()
		v.Encode(frame)
		return frame
	}
	version := func(v byte) []byte {
		frame := ipv4UDP()
		frame[stack.VirtioLen] = v<<4 | 5
		return frame
	}
	tests := []struct {
		name  string
		frame []byte
		want  Refusal
	}{
		{"nothing", nil, RefusedShort},
		{"part of a header", make([]byte, stack.VirtioLen-1), RefusedShort},
		{"header only", make([]byte, stack.VirtioLen), RefusedShort},
		{"one byte", make([]byte, stack.VirtioLen+1), RefusedInvalid},
		{"IP version 0", version(0), RefusedInvalid},
		{"IP version 5", version(5), RefusedInvalid},
		{"unknown GSO type", with(stack.Virtio{GSOType: 0x40, GSOSize: 1000}), RefusedInvalid},
		{"GSO size 0", with(stack.Virtio{GSOType: stack.GSOTCPv4, Flags: stack.VirtioNeedsCsum, CsumStart: 20, CsumOffset: 16}),
			RefusedInvalid},
		{"checksum beyond the end", with(stack.Virtio{Flags: stack.VirtioNeedsCsum, CsumStart: 1000, CsumOffset: 16}),
			RefusedInvalid},
		{"header length beyond the end", with(stack.Virtio{HdrLen: 29}), RefusedInvalid},
		{"too long", make([]byte, FrameSize+1), RefusedOversize},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := q.Stats()
			if err := q.Send([][]byte{ipv4UDP(), tt.frame, ipv4UDP()}); err != nil {
				t.Fatalf("Send: %v", err)
			}
			want := before
			want.SentFrames += 2
			want.SentBytes += 2 * (stack.VirtioLen + 28)
			want.Refused[tt.want]++
			if got := q.Stats(); got != want {
				t.Errorf("counters %+v, want %+v", got, want)
			}
		})
	}

	t.Run("link down", func(t *testing.T) {
		if err := ns.link.LinkSetDown(ns.find(t, "levee0")); err != nil {
			t.Fatal(err)
		}
		before := q.Stats()
		if err := q.Send([][]byte{ipv4UDP(), ipv4UDP()}); err != nil {
			t.Fatalf("Send: %v", err)
		}
		want := before
		want.Refused[RefusedDown] += 2
		if got := q.Stats(); got != want {
			t.Errorf("counters %+v, want %+v", got, want)
		}
		if n, err := q.Recv(newFrames(1), time.Millisecond); n != 0 || err != nil {
			t.Errorf("Recv = %d, %v; want nothing", n, err)
		}
	})
}

func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	ns, d := routed(t, Config{MTU: 1500, Queues: 1})
	ns.quiet(t, "levee0")
	q := d.Queues()[0]
	fd := ns.dial(t, unix.SOCK_DGRAM, "198.51.100.7:999")
	frames, garbage := newFrames(4), [][]byte{make([]byte, 20), nil}
	payload := []byte("hello")

	tests := []struct {
		name string
		run  func()
	}{
		{"packets", func() {
			unix.Write(fd, payload)
			unix.Write(fd, payload)
			n, err := q.Recv(frames, time.Second)
			if n == 0 || err != nil {
				t.Fatalf("Recv = %d, %v", n, err)
			}
			if err := q.Send(frames[:n]); err != nil {
				t.Fatal(err)
			}
		}},
		{"waiting in vain", func() {
			if _, err := q.Recv(frames, time.Microsecond); err != nil {
				t.Fatal(err)
			}
		}},
		{"refused frames", func() {
			if err := q.Send(garbage); err != nil {
				t.Fatal(err)
			}
		}},
		{"counters", func() { q.Stats() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := testing.AllocsPerRun(1000, tt.run); got != 0 {
				t.Errorf("%v allocations per run, want 0", got)
			}
		})
	}
}
