package stack_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"levee/stack"
	"levee/stack/stacktest"
)

// oddity is a packet that is not a plain sound TCP segment.
type oddity struct {
	packet []byte
	kind   stack.Kind
}

// changed returns the packet of s with its bytes changed by change.
func changed(s stacktest.Segment, change func(b []byte)) []byte {
	b := s.Packet()
	change(b)
	return b
}

// put16 is a change of the 16-bit field at byte at.
func put16(at int, v uint16) func([]byte) {
	return func(b []byte) { binary.BigEndian.PutUint16(b[at:], v) }
}

// put is a change of the byte at at.
func put(at int, v byte) func([]byte) { return func(b []byte) { b[at] = v } }

// oddities4 are IPv4 packets and packets of no version at all.
func oddities4() map[string]oddity {
	s := stacktest.Segment{Src: client4, Dst: server4, Flags: stacktest.ACK, Options: bulkOptions(), Payload: make([]byte, 24)}
	fragment := func(word uint16, tcpBytes int) []byte {
		f := s
		f.Fragment = word
		b := f.Packet()[:20+tcpBytes]
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		return b
	}
	all := map[string]oddity{
		"no bytes":                           {nil, stack.KindTruncated},
		"one byte":                           {[]byte{0x45}, stack.KindTruncated},
		"19 bytes":                           {s.Packet()[:19], stack.KindTruncated},
		"version 0":                          {changed(s, put(0, 0x05)), stack.KindBadIP},
		"version 5":                          {changed(s, put(0, 0x55)), stack.KindBadIP},
		"version 15":                         {changed(s, put(0, 0xff)), stack.KindBadIP},
		"total length 0":                     {changed(s, put16(2, 0)), stack.KindBadIP},
		"total length below header":          {changed(s, put16(2, 19)), stack.KindBadIP},
		"total length below options":         {changed(s, func(b []byte) { b[0] = 0x46; b[3] = 23 }), stack.KindBadIP},
		"total length beyond buffer":         {changed(s, put16(2, 77)), stack.KindTruncated},
		"total length 65535":                 {changed(s, put16(2, 0xffff)), stack.KindTruncated},
		"header alone":                       {changed(s, put16(2, 20)), stack.KindTruncated},
		"header length beyond total":         {changed(s, func(b []byte) { b[0] = 0x4f; b[3] = 59 }), stack.KindBadIP},
		"header length beyond buffer":        {changed(s, func(b []byte) { b[0] = 0x4f })[:40], stack.KindTruncated},
		"options up to the end":              {changed(s, func(b []byte) { b[0] = 0x4f; b[3] = 60 }), stack.KindTruncated},
		"UDP":                                {changed(s, put(9, 17)), stack.KindOther},
		"ICMP":                               {changed(s, put(9, 1)), stack.KindOther},
		"fragment of UDP":                    {changed(s, func(b []byte) { b[9] = 17; b[7] = 1 }), stack.KindLaterFragment},
		"later fragment":                     {fragment(185, 24), stack.KindLaterFragment},
		"fragment over the header":           {fragment(1|stacktest.MoreFragments, 8), stack.KindTinyFragment},
		"fragment over the flags":            {fragment(2, 16), stack.KindTinyFragment},
		"fragment behind the shortest":       {fragment(3, 16), stack.KindLaterFragment},
		"last possible fragment":             {fragment(0x1fff, 1), stack.KindLaterFragment},
		"later fragment without bytes":       {fragment(3, 0), stack.KindLaterFragment},
		"first fragment of 8 bytes":          {fragment(stacktest.MoreFragments, 8), stack.KindTinyFragment},
		"first fragment without flags":       {fragment(stacktest.MoreFragments, 12), stack.KindTinyFragment},
		"first fragment without the options": {fragment(stacktest.MoreFragments, 24), stack.KindTinyFragment},
		"first fragment of the header":       {fragment(stacktest.MoreFragments, 32), stack.KindTCP},
		"reserved flag":                      {fragment(0x8000, 32), stack.KindTCP},
		"first fragment with data offset 4":  {changed(s, func(b []byte) { b[6] = 0x20; b[32] = 0x40 }), stack.KindBadTCP},
	}
	for n := range byte(5) {
		all["header length "+string('0'+n)] = oddity{changed(s, put(0, 0x40|n)), stack.KindBadIP}
	}
	return all
}

// oddities6 are IPv6 packets.
func oddities6() map[string]oddity {
	chain := func(e ...stacktest.Extension) stacktest.Segment {
		return stacktest.Segment{
			Src: client6, Dst: server6, Flags: stacktest.ACK, Extensions: e, Options: bulkOptions(), Payload: make([]byte, 24),
		}
	}
	var (
		header        = stacktest.ExtensionHeader
		hopByHop      = header(stacktest.HopByHop, 8)
		destination   = header(stacktest.DestinationOptions, 8)
		firstFragment = stacktest.FragmentHeader(0, true)
		atomic        = stacktest.FragmentHeader(0, false)
		later         = stacktest.FragmentHeader(3, false)
		over          = stacktest.FragmentHeader(2, false)
	)
	// shortened cuts the packet of s to n bytes after the IPv6 header.
	shortened := func(s stacktest.Segment, n int) []byte {
		b := s.Packet()[:40+n]
		binary.BigEndian.PutUint16(b[4:], uint16(n))
		return b
	}
	all := map[string]oddity{
		"v6 39 bytes":                      {chain().Packet()[:39], stack.KindTruncated},
		"v6 payload length 0":              {changed(chain(), put16(4, 0)), stack.KindTruncated},
		"v6 payload length beyond buffer":  {changed(chain(), put16(4, 57)), stack.KindTruncated},
		"v6 payload length 65535":          {changed(chain(), put16(4, 0xffff)), stack.KindTruncated},
		"v6 UDP":                           {changed(chain(), put(6, 17)), stack.KindOther},
		"v6 ICMPv6":                        {changed(chain(), put(6, 58)), stack.KindOther},
		"v6 ESP":                           {changed(chain(), put(6, 50)), stack.KindOther},
		"v6 no next header":                {changed(chain(), put(6, 59)), stack.KindOther},
		"v6 no next header after another":  {changed(chain(hopByHop), put(40, 59)), stack.KindOther},
		"v6 mobility header":               {changed(chain(), put(6, 135)), stack.KindOther},
		"v6 hop by hop":                    {chain(hopByHop).Packet(), stack.KindTCP},
		"v6 destination options":           {chain(destination).Packet(), stack.KindTCP},
		"v6 routing":                       {chain(header(stacktest.Routing, 24)).Packet(), stack.KindTCP},
		"v6 authentication":                {chain(header(stacktest.Authentication, 24)).Packet(), stack.KindTCP},
		"v6 authentication in 4s":          {chain(header(stacktest.Authentication, 12)).Packet(), stack.KindTCP},
		"v6 atomic fragment":               {chain(atomic).Packet(), stack.KindTCP},
		"v6 first fragment":                {chain(firstFragment).Packet(), stack.KindTCP},
		"v6 first fragment, options":       {chain(firstFragment, destination).Packet(), stack.KindTCP},
		"v6 first then atomic fragment":    {chain(firstFragment, atomic).Packet(), stack.KindTCP},
		"v6 later fragment":                {chain(later).Packet(), stack.KindLaterFragment},
		"v6 fragment over the flags":       {chain(over).Packet(), stack.KindTinyFragment},
		"v6 fragment of options":           {chain(over, destination).Packet(), stack.KindLaterFragment},
		"v6 last possible fragment":        {chain(hopByHop, stacktest.FragmentHeader(0x1fff, false)).Packet(), stack.KindLaterFragment},
		"v6 later fragment without bytes":  {shortened(chain(later), 8), stack.KindLaterFragment},
		"v6 fragment header cut":           {shortened(chain(later), 7), stack.KindTruncated},
		"v6 first fragment of 8 bytes":     {shortened(chain(firstFragment), 16), stack.KindTinyFragment},
		"v6 first fragment, cut options":   {shortened(chain(firstFragment), 8+31), stack.KindTinyFragment},
		"v6 first fragment of the header":  {shortened(chain(firstFragment), 8+32), stack.KindTCP},
		"v6 extension without its length":  {shortened(chain(hopByHop), 1), stack.KindTruncated},
		"v6 no extension after all":        {shortened(chain(hopByHop), 0), stack.KindTruncated},
		"v6 extension longer than packet":  {shortened(chain(header(stacktest.Routing, 64)), 63), stack.KindTruncated},
		"v6 extension into what follows":   {changed(chain(hopByHop), func(b []byte) { b[5] = 7; b[40] = 17 }), stack.KindTruncated},
		"v6 authentication without length": {shortened(chain(header(stacktest.Authentication, 12)), 1), stack.KindTruncated},
		"v6 authentication cut":            {shortened(chain(header(stacktest.Authentication, 12)), 11), stack.KindTruncated},
		"v6 length byte 255":               {chain(header(stacktest.DestinationOptions, 2048)).Packet(), stack.KindTCP},
		"v6 length byte 255, cut":          {changed(chain(hopByHop), put(41, 255)), stack.KindTruncated},
		"v6 authentication length 255":     {chain(header(stacktest.Authentication, 1028)).Packet(), stack.KindTCP},
		"v6 eight headers":                 {chain(slices.Repeat([]stacktest.Extension{destination}, 8)...).Packet(), stack.KindTCP},
		"v6 nine headers":                  {chain(slices.Repeat([]stacktest.Extension{destination}, 9)...).Packet(), stack.KindBadIP},
		"v6 a chain to itself":             {changed(chain(hopByHop), func(b []byte) { clear(b[40:]) }), stack.KindTruncated},
		"v6 a long chain to itself":        {shortened(stacktest.Segment{Src: client6, Dst: server6, Extensions: []stacktest.Extension{hopByHop}, Payload: make([]byte, 60000)}, 60000), stack.KindBadIP},
		"v6 mapped source":                 {changed(chain(), mapped(8)), stack.KindBadIP},
		"v6 mapped destination":            {changed(chain(), mapped(24)), stack.KindBadIP},
	}
	// A chain of zeros: hop-by-hop options that say that hop-by-hop options follow.
	clear(all["v6 a long chain to itself"].packet[40:])
	// A jumbogram (RFC 2675): payload length 0 and the length in an option.
	jumbo := chain(stacktest.Extension{Kind: stacktest.HopByHop, Bytes: []byte{6, 0, 0xc2, 4, 0, 1, 0, 0}})
	all["v6 jumbogram"] = oddity{changed(jumbo, put16(4, 0)), stack.KindTruncated}
	eight := chain(slices.Repeat([]stacktest.Extension{destination}, 8)...)
	all["v6 UDP after eight headers"] = oddity{changed(eight, put(40+7*8, 17)), stack.KindOther}
	return all
}

// mapped is a change of the IPv6 address at at to an IPv4-mapped one.
func mapped(at int) func([]byte) {
	a := netip.MustParseAddr("::ffff:192.0.2.10").As16()
	return func(b []byte) { copy(b[at:], a[:]) }
}

func TestParseKinds(t *testing.T) {
	for _, all := range []map[string]oddity{oddities4(), oddities6()} {
		for name, o := range all {
			t.Run(name, func(t *testing.T) {
				// A buffer of exactly the packet, so that reading on panics.
				p, kind := parse(slices.Clip(bytes.Clone(o.packet)), false)
				if kind != o.kind {
					t.Fatalf("kind %d, want %d", kind, o.kind)
				}
				if kind != stack.KindOther && kind != stack.KindLaterFragment {
					return
				}
				src, dst := client4, server4
				if o.packet[0]>>4 == 6 {
					src, dst = client6, server6
				}
				if p.Src != stack.AddrFrom(src.Addr()) || p.Dst != stack.AddrFrom(dst.Addr()) {
					t.Errorf("from %s to %s, want %s, %s", p.Src.Netip(), p.Dst.Netip(), src.Addr(), dst.Addr())
				}
			})
		}
	}
}

func TestFirstFragment(t *testing.T) {
	for name, want := range map[string]bool{
		"v6 first fragment": true, "v6 first fragment, options": true, "v6 first then atomic fragment": true,
		"v6 atomic fragment": false, "v6 hop by hop": false,
	} {
		p := mustParse(t, oddities6()[name].packet, false)
		if p.FirstFragment != want || p.ChecksumOK() == want {
			t.Errorf("%s: FirstFragment %v, ChecksumOK %v, want %v, %v", name, p.FirstFragment, p.ChecksumOK(), want, !want)
		}
	}
}
