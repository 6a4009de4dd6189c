package stack_test

import (
	"net/netip"
	"slices"

	"levee/stack/stacktest"
)

var (
	client4 = netip.MustParseAddrPort("198.51.100.7:40000")
	server4 = netip.MustParseAddrPort("192.0.2.10:443")
	client6 = netip.MustParseAddrPort("[2001:db8:c::7]:40000")
	server6 = netip.MustParseAddrPort("[2001:db8:5::10]:443")
)

// opts joins options.
func opts(o ...[]byte) []byte { return slices.Concat(o...) }

// bulkOptions are those of an established connection with timestamps.
func bulkOptions() []byte {
	return opts(stacktest.NOP(2), stacktest.Timestamps(0x11223344, 0x55667788))
}

// sackOptions are the timestamps and three SACK blocks that fill the header, aligned as Linux does.
func sackOptions() []byte {
	return opts(bulkOptions(), stacktest.NOP(2), stacktest.SACK(1000, 2000, 3000, 4000, 0xffffff00, 0x100))
}

// synOptions are those of a Linux client.
func synOptions(mss uint16) []byte {
	return opts(stacktest.MSS(mss), stacktest.SACKPermitted(), stacktest.Timestamps(0xfffffffe, 0),
		stacktest.NOP(1), stacktest.WScale(7))
}

// shapes are sound segments, each different in layout from the others, in both families.
func shapes() map[string]stacktest.Segment {
	plain := map[string]stacktest.Segment{
		"SYN": {Seq: 0x01020304, Flags: stacktest.SYN, Window: 64240, Options: synOptions(1460)},
		"SYN-ACK with ECN": {
			TrafficClass: 0x02, Seq: 0xffffffff, Ack: 0x01020305, Reserved: 1, Window: 65160,
			Flags: stacktest.SYN | stacktest.ACK | stacktest.ECE, Options: synOptions(8940),
		},
		"ACK without options": {Seq: 7, Ack: 8, Flags: stacktest.ACK, Window: 501},
		"bulk": {
			Seq: 0xfffffff0, Ack: 0x80000000, Flags: stacktest.ACK | stacktest.PSH, Window: 0xffff,
			Options: bulkOptions(), Payload: slices.Repeat([]byte("levee"), 289),
		},
		"three SACK blocks": {Seq: 1, Ack: 1000, Flags: stacktest.ACK, Window: 1, Options: sackOptions()},
		"odd alignment": {
			Seq: 1, Ack: 0xfffffffe, Flags: stacktest.ACK | stacktest.FIN, Window: 2, Payload: []byte("x"),
			Options: opts(stacktest.WScale(3), stacktest.SACK(1, 0x10000), stacktest.NOP(1), stacktest.Timestamps(0, 0xffffffff)),
		},
		"duplicate options": {
			Seq: 3, Ack: 4, Flags: stacktest.ACK, Options: opts(stacktest.Timestamps(1, 2), stacktest.NOP(1),
				stacktest.SACK(5, 6), stacktest.NOP(2), stacktest.Timestamps(3, 4)),
		},
		"garbage after the end of the options": {
			Seq: 5, Ack: 6, Flags: stacktest.ACK, Options: []byte{1, 1, 1, 0, 8, 10, 2, 0, 5, 200, 0xff, 0xff},
		},
		"options after the end of the options": {
			Seq: 5, Ack: 6, Flags: stacktest.ACK, Options: opts(stacktest.Timestamps(1, 2), []byte{0}, stacktest.SACK(3, 4), stacktest.Timestamps(5, 6)),
		},
		"RST":   {Seq: 9, Flags: stacktest.RST, Payload: []byte("go away")},
		"flags": {Seq: 10, Ack: 11, Reserved: 15, Flags: 0xff, Urgent: 12, Window: 13},
		"null":  {Seq: 14, Ack: 15},
		"superpacket": {
			Seq: 16, Ack: 17, Flags: stacktest.ACK, Options: bulkOptions(), Payload: make([]byte, 64000),
			Partial: true, GSOSize: 1428,
		},
		"largest":        {Seq: 17, Flags: stacktest.ACK, Payload: slices.Repeat([]byte{0xff}, 0xffff-80)},
		"partial":        {Seq: 18, Ack: 19, Flags: stacktest.ACK, Options: bulkOptions(), Payload: []byte("odd"), Partial: true},
		"wrong checksum": {Seq: 20, Ack: 21, Flags: stacktest.ACK, Options: bulkOptions(), ChecksumError: 0xbeef},
	}
	all := map[string]stacktest.Segment{
		"v4 IP options": {
			Src: client4, Dst: server4, ID: 0x1234, Fragment: stacktest.DontFragment, TrafficClass: 0xb8,
			IPOptions: []byte{148, 4, 0, 0, 1, 1, 1, 1}, Flags: stacktest.ACK, Options: bulkOptions(), Payload: []byte("abc"),
		},
		"v4 first fragment": {
			Src: client4, Dst: server4, Fragment: stacktest.MoreFragments, Flags: stacktest.ACK,
			Options: bulkOptions(), Payload: make([]byte, 24),
		},
		"v6 every extension": {
			Src: client6, Dst: server6, TrafficClass: 0xb8, FlowLabel: 0xabcde, Flags: stacktest.ACK,
			Extensions: []stacktest.Extension{
				stacktest.ExtensionHeader(stacktest.HopByHop, 8), stacktest.ExtensionHeader(stacktest.DestinationOptions, 16),
				stacktest.ExtensionHeader(stacktest.Routing, 24), stacktest.FragmentHeader(0, false),
				stacktest.ExtensionHeader(stacktest.Authentication, 28), stacktest.ExtensionHeader(stacktest.DestinationOptions, 2048),
			},
			Options: sackOptions(), Payload: []byte("abc"),
		},
		"v6 first fragment": {
			Src: client6, Dst: server6, Extensions: []stacktest.Extension{stacktest.FragmentHeader(0, true)},
			Flags: stacktest.ACK, Options: bulkOptions(), Payload: make([]byte, 24),
		},
	}
	for name, s := range plain {
		s.Src, s.Dst = client4, server4
		all["v4 "+name] = s
		s.Src, s.Dst = client6, server6
		all["v6 "+name] = s
	}
	return all
}
