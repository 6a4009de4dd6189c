package tunnel

import (
	"encoding/binary"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"levee/stack"
)

// ipv4UDP builds a frame with a small UDP packet that is for nobody, checksums right.
func ipv4UDP() []byte {
	frame := make([]byte, stack.VirtioLen+28)
	ip := frame[stack.VirtioLen:]
	copy(ip, []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 203, 0, 113, 9, 198, 51, 100, 7})
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	copy(ip[20:], []byte{0, 9, 0, 9, 0, 8, 0, 0})
	return frame
}

// routed is a namespace with a TUN that prefixes of both families are routed to.
func routed(t testing.TB, cfg Config) (*namespace, *Device) {
	t.Helper()
	ns := newNamespace(t)
	cfg.Name = "levee0"
	d := ns.open(t, cfg)
	ns.up(t, "levee0", "192.0.2.1/24", "2001:db8:1::1/64")
	ns.route(t, "198.51.100.0/24", "levee0", "", 0)
	ns.route(t, "2001:db8:2::/64", "levee0", "", 0)
	return ns, d
}

// receive reads until a frame has the wanted IP protocol and destination port; the kernel
// may send packets of its own (router solicitations, for one).
func receive(t testing.TB, q *Queue, protocol byte, port uint16) []byte {
	t.Helper()
	frames := newFrames(8)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		n, err := q.Recv(frames, 100*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		for _, frame := range frames[:n] {
			ip := frame[stack.VirtioLen:]
			proto, payload := ip[9], 20
			if ip[0]>>4 == 6 {
				proto, payload = ip[6], 40
			}
			if proto == protocol && binary.BigEndian.Uint16(ip[payload+2:]) == port {
				return frame
			}
		}
	}
	t.Fatalf("no packet of protocol %d to port %d in 5 s", protocol, port)
	return nil
}

// dial connects a datagram or raw TCP socket of the namespace, or begins to connect a stream socket.
func (n *namespace) dial(t testing.TB, kind int, to string) int {
	t.Helper()
	addr := net.TCPAddrFromAddrPort(mustAddrPort(t, to))
	family := unix.AF_INET6
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: addr.Port, Addr: [16]byte(addr.IP.To16())}
	if v4 := addr.IP.To4(); v4 != nil {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(v4)}
	}
	protocol := 0
	if kind == unix.SOCK_RAW {
		protocol = unix.IPPROTO_TCP
	}
	fd := -1
	n.do(t, func() (err error) {
		if fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol); err != nil {
			return err
		}
		if err := unix.Connect(fd, sa); err != nil && err != unix.EINPROGRESS {
			return fmt.Errorf("connect to %s: %w", to, err)
		}
		return nil
	})
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// What the kernel sends arrives with the header that package stack decodes. The fields that are
// not 0 pin the byte order, too.
func TestPacketsFromTheKernel(t *testing.T) {
	ns, d := routed(t, Config{MTU: 1500, Queues: 1})
	q := d.Queues()[0]
	tests := []struct {
		name     string
		kind     int
		to       string
		protocol byte
		want     stack.Virtio // without HdrLen
	}{
		{"UDP over IPv4", unix.SOCK_DGRAM, "198.51.100.7:999", 17,
			stack.Virtio{Flags: stack.VirtioNeedsCsum, CsumStart: 20, CsumOffset: 6}},
		{"UDP over IPv6", unix.SOCK_DGRAM, "[2001:db8:2::7]:999", 17,
			stack.Virtio{Flags: stack.VirtioNeedsCsum, CsumStart: 40, CsumOffset: 6}},
		{"SYN over IPv4", unix.SOCK_STREAM, "198.51.100.7:80", 6,
			stack.Virtio{Flags: stack.VirtioNeedsCsum, CsumStart: 20, CsumOffset: 16}},
		{"SYN over IPv6", unix.SOCK_STREAM, "[2001:db8:2::7]:80", 6,
			stack.Virtio{Flags: stack.VirtioNeedsCsum, CsumStart: 40, CsumOffset: 16}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fd := ns.dial(t, tt.kind, tt.to)
			if tt.kind == unix.SOCK_DGRAM {
				if _, err := unix.Write(fd, []byte("hello")); err != nil {
					t.Fatal(err)
				}
			}
			frame := receive(t, q, tt.protocol, mustAddrPort(t, tt.to).Port())
			got := stack.DecodeVirtio(frame)
			got.HdrLen = 0 // a hint
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// A batch ends after about maxBatchBytes; nothing is lost between batches.
func TestBatchesEnd(t *testing.T) {
	ns, d := routed(t, Config{MTU: 65535, Queues: 1})
	ns.quiet(t, "levee0")
	q := d.Queues()[0]
	frames := newFrames(64)
	for n := 1; n > 0; { // what was sent before it became quiet
		n, _ = q.Recv(frames, 0)
	}
	fd := ns.dial(t, unix.SOCK_DGRAM, "198.51.100.7:999")
	payload := make([]byte, 60000)
	for i := range 8 {
		payload[0] = byte(i)
		if _, err := unix.Write(fd, payload); err != nil {
			t.Fatal(err)
		}
	}
	var sizes []int
	for total := 0; total < 8; {
		n, err := q.Recv(frames, 5*time.Second)
		if err != nil || n == 0 {
			t.Fatalf("Recv = %d, %v after %d frames", n, err, total)
		}
		for i, frame := range frames[:n] {
			if len(frame) != stack.VirtioLen+28+len(payload) || frame[stack.VirtioLen+28] != byte(total+i) {
				t.Errorf("frame %d: %d bytes, marked %d", total+i, len(frame), frame[stack.VirtioLen+28])
			}
		}
		sizes = append(sizes, n)
		total += n
	}
	if want := (maxBatchBytes + 59999) / 60000; sizes[0] != want {
		t.Errorf("batches of %v frames, want %d first", sizes, want)
	}
}

// Element i of Queues is the kernel's queue i, which a steering program will rely on.
func TestQueueOrder(t *testing.T) {
	ns, d := routed(t, Config{MTU: 1500, Queues: 4})
	for want := range d.Queues() {
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type:         ebpf.SocketFilter,
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, int32(want)), asm.Return()},
			License:      "Apache-2.0",
		})
		if err != nil {
			t.Fatal(err)
		}
		defer prog.Close()
		if err := unix.IoctlSetPointerInt(d.Queues()[0].fd, unix.TUNSETSTEERINGEBPF, prog.FD()); err != nil {
			t.Fatal(err)
		}
		to := fmt.Sprintf("198.51.100.7:%d", 1000+want)
		if _, err := unix.Write(ns.dial(t, unix.SOCK_DGRAM, to), []byte("hello")); err != nil {
			t.Fatal(err)
		}
		receive(t, d.Queues()[want], 17, uint16(1000+want))
	}
}

// Without a program the kernel spreads connections over the queues, and keeps each on one.
func TestFlowsSpread(t *testing.T) {
	ns, d := routed(t, Config{MTU: 1500, Queues: 4})
	ns.quiet(t, "levee0")
	const flows, packets = 64, 3
	for i := range flows {
		fd := ns.dial(t, unix.SOCK_DGRAM, fmt.Sprintf("198.51.100.7:%d", 1000+i))
		for range packets {
			if _, err := unix.Write(fd, []byte("hello")); err != nil {
				t.Fatal(err)
			}
		}
	}
	seen := map[uint16]map[int]int{} // port, queue: packets
	used := 0
	for i, q := range d.Queues() {
		frames := newFrames(flows * packets)
		n, err := q.Recv(frames, 0)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			used++
		}
		for _, frame := range frames[:n] {
			if frame[stack.VirtioLen]>>4 != 4 {
				continue
			}
			port := binary.BigEndian.Uint16(frame[stack.VirtioLen+22:])
			if seen[port] == nil {
				seen[port] = map[int]int{}
			}
			seen[port][i]++
		}
	}
	if used < 2 {
		t.Errorf("%d of 4 queues used by %d flows", used, flows)
	}
	if len(seen) != flows {
		t.Errorf("%d flows arrived, want %d", len(seen), flows)
	}
	for port, queues := range seen {
		if len(queues) != 1 {
			t.Errorf("flow to port %d is on several queues: %v", port, queues)
		}
	}
}

func TestStatsCountDrops(t *testing.T) {
	ns, d := routed(t, Config{MTU: 1500, Queues: 1, TxQueueLen: 16})
	ns.quiet(t, "levee0")
	q := d.Queues()[0]
	for n := 1; n > 0; {
		n, _ = q.Recv(newFrames(32), 0)
	}
	before, err := d.Stats()
	if err != nil {
		t.Fatal(err)
	}
	fd := ns.dial(t, unix.SOCK_DGRAM, "198.51.100.7:999")
	const sent = 100
	for range sent {
		if _, err := unix.Write(fd, []byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	frames := newFrames(sent)
	n, err := q.Recv(frames, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n != 16 {
		t.Errorf("%d frames arrived through a ring of 16", n)
	}
	if err := q.Send([][]byte{ipv4UDP()}); err != nil {
		t.Fatal(err)
	}
	after, err := d.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if dropped := after.TxDropped - before.TxDropped; dropped != sent-uint64(n) {
		t.Errorf("%d drops counted, %d frames missing", dropped, sent-n)
	}
	if after.TxPackets-before.TxPackets != uint64(n) || after.TxBytes-before.TxBytes != uint64(n)*(28+5) {
		t.Errorf("before %+v, after %+v: want %d packets more sent", before, after, n)
	}
	if after.RxPackets-before.RxPackets != 1 || after.RxBytes-before.RxBytes != 28 {
		t.Errorf("before %+v, after %+v: want 1 packet of 28 bytes more received", before, after)
	}
	got := q.Stats()
	if got.SentFrames != 1 || got.SentBytes != stack.VirtioLen+28 {
		t.Errorf("queue counted %+v", got)
	}
}
