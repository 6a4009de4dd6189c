package tunnel

import (
	"fmt"
	"sync/atomic"
	"testing"

	"levee/stack"
)

// A bulk transfer between two hosts crosses the TUN in superpackets, and the kernel takes
// them back whole: it doesn't split them before the next interface.
func TestSuperpacketsStayWhole(t *testing.T) {
	for _, n := range networks {
		for _, queues := range []int{1, 4} {
			t.Run(fmt.Sprintf("%s %d queues", n.name, queues), func(t *testing.T) {
				g := newGateway(t, queues)
				var largest atomic.Int64
				var bad atomic.Pointer[stack.Virtio]
				wait := g.echo(t, func(frame []byte) {
					v := stack.DecodeVirtio(frame)
					if v.GSOType == stack.GSONone {
						return
					}
					if v.GSOType&^stack.GSOECN != uint8(n.superpacket) || v.Flags != stack.VirtioNeedsCsum ||
						int(v.CsumStart) != n.ipLen || v.CsumOffset != 16 || v.GSOSize < 1000 || v.GSOSize > 1460 {
						bad.Store(&v)
					}
					for now := largest.Load(); int64(len(frame)) > now && !largest.CompareAndSwap(now, int64(len(frame))); {
						now = largest.Load()
					}
				})
				const size = 32 << 20
				before := g.router.find(t, "srv0").Attrs().Statistics.TxPackets
				g.transfer(t, n, size)
				packets := g.router.find(t, "srv0").Attrs().Statistics.TxPackets - before
				g.device.Close()
				wait()

				if v := bad.Load(); v != nil {
					t.Errorf("superpacket with header %+v", *v)
				}
				if largest.Load() <= 32<<10 {
					t.Errorf("largest frame %d bytes, want more than 32 KiB", largest.Load())
				}
				// A superpacket counts as one packet on a veth. Acknowledgments count too.
				if limit := uint64(size / 8192); packets > limit {
					t.Errorf("%d packets left for the server, want at most %d for %d bytes", packets, limit, size)
				}
				for i, q := range g.device.Queues() {
					if s := q.Stats(); s.Refused != [NumRefusals]uint64{} || s.RecvShort != 0 || s.RecvOversize != 0 {
						t.Errorf("queue %d: %+v", i, s)
					}
				}
				t.Logf("largest frame %d bytes, %d packets for %d bytes", largest.Load(), packets, size)
			})
		}
	}
}
