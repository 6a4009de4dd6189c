package tunnel

import (
	"strings"

	"golang.org/x/sys/unix"
)

// Offload says which work the kernel agreed to leave out on the packets that it gives us,
// so that they arrive whole. On the packets that we give it, it takes all of these anyway.
type Offload struct {
	Checksum bool // packets whose checksum is only the pseudo-header sum (stack.VirtioNeedsCsum)
	TSO4     bool // IPv4 TCP superpackets
	TSO6     bool // IPv6 TCP superpackets
	TSOECN   bool // superpackets with CWR set (stack.GSOECN); without it the kernel splits those
}

// String lists what was granted, for status output: "csum,tso4,tso6,ecn", or "none".
func (o Offload) String() string {
	var names []string
	for _, f := range []struct {
		on   bool
		name string
	}{{o.Checksum, "csum"}, {o.TSO4, "tso4"}, {o.TSO6, "tso6"}, {o.TSOECN, "ecn"}} {
		if f.on {
			names = append(names, f.name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ",")
}

// negotiateOffload asks for one offload after the other, so that one that this kernel
// doesn't know costs only itself. set is TUNSETOFFLOAD: it replaces the whole mask, and
// leaves the former one in place when it fails.
func negotiateOffload(set func(mask int) error) Offload {
	var o Offload
	mask := 0
	for _, f := range []struct {
		bit     int
		granted *bool
	}{
		{unix.TUN_F_CSUM, &o.Checksum}, // first: the kernel grants the others only with it
		{unix.TUN_F_TSO4, &o.TSO4},
		{unix.TUN_F_TSO6, &o.TSO6},
		{unix.TUN_F_TSO_ECN, &o.TSOECN},
	} {
		if set(mask|f.bit) == nil {
			mask |= f.bit
			*f.granted = true
		}
	}
	return o
}
