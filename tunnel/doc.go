// Package tunnel is the TUN device: it opens its queues, agrees on offloads with the kernel,
// and moves batches of frames between the kernel and the workers.
//
// A frame is a virtio_net_hdr and one IP packet in one slice, exactly what a read(2) of a
// queue returns and a write(2) to it takes (package stack has the layout). A superpacket of
// up to 64 KB stays one frame in both directions; nothing here splits, joins or copies one,
// and nothing allocates per packet.
//
//	             ┌ queue 0 ◀─▶ worker 0      first SYNs
//	kernel ─ tun ┼ queue 1 ◀─▶ worker 1      SYNs that were sent before
//	             └ queue 2 ◀─▶ worker 2      everything else, here and in further queues
//
// Device.Queues()[i] is the kernel's queue i, for as long as the device is open. One worker has one Queue. Which queue a
// packet takes is the steering program's choice (see SYNQueue). Without it, it is the kernel's: a hash that is the same for both directions
// of a connection, unless the connection's last packet was written to another queue.
//
// The life cycle (name, close) of each queue's descriptor belongs to wireguard/tun; its Read
// and Write are never used, because they split superpackets and merge them again.
//
// The device lives as long as its Device, or until an orderly end if Config.Persist says so. Device.Repair makes one again that was deleted.
package tunnel
