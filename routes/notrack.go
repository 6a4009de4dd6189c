package routes

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Notrack says when protected traffic is exempted from connection tracking.
type Notrack uint8

// Auto exempts it wherever the kernel tracks connections, On everywhere.
const (
	NotrackAuto Notrack = iota
	NotrackOn
	NotrackOff
)

// String returns the word of the configuration.
func (n Notrack) String() string {
	switch n {
	case NotrackOn:
		return "on"
	case NotrackOff:
		return "off"
	}
	return "auto"
}

// exemptTable is the nftables table of levee's own, of family inet.
const exemptTable = "levee"

// exemptTag begins the comment of each rule in it: a table with other rules is somebody else's.
const exemptTag = "levee: "

// exemptPriority is that of the chains: ahead of the reassembly that connection tracking has done (NF_IP_PRI_CONNTRACK_DEFRAG, -400), so that fragments
// pass as they are too.
const exemptPriority = -450

// exemption is what has to get around connection tracking, which would see each segment twice, with numbers of two connections: TCP of the
// protected prefixes, and errors that quote it. What is for an address of the gateway itself isn't levee's traffic.
type exemption struct {
	interfaces []string // in order; the TUN is one
	prefixes   []netip.Prefix
}

// exemptSet is a named set, exemptChain a base chain, exemptRule a rule: what the kernel is told, and how nft(8) says the same.
type exemptSet struct {
	name, text string
	kind       nftables.SetDatatype
	interval   bool
	elements   []nftables.SetElement
}

type exemptChain struct {
	name string
	hook *nftables.ChainHook
}

type exemptRule struct {
	chain, text, comment string
	exprs                []expr.Any
}

var exemptChains = []exemptChain{
	{"prerouting", nftables.ChainHookPrerouting},
	{"output", nftables.ChainHookOutput},
}

// sets of the table. A raw match takes no set of addresses in nft's language, so that quoted addresses have sets of their own.
func (e *exemption) sets() []exemptSet {
	names := exemptSet{name: "interfaces", kind: nftables.TypeIFName}
	var quoted []string
	for _, name := range e.interfaces {
		quoted = append(quoted, `"`+name+`"`)
		key := make([]byte, unix.IFNAMSIZ)
		copy(key, name)
		names.elements = append(names.elements, nftables.SetElement{Key: key})
	}
	names.text = "type ifname; elements = { " + strings.Join(quoted, ", ") + " };"
	out := []exemptSet{names}
	for _, f := range e.families() {
		var addresses, numbers []string
		var elements []nftables.SetElement
		for _, p := range e.prefixes {
			if familyOf(p) != f {
				continue
			}
			first, last := p.Addr(), lastOf(p)
			addresses = append(addresses, p.String())
			numbers = append(numbers, fmt.Sprintf("0x%x-0x%x", first.AsSlice(), last.AsSlice()))
			elements = append(elements, nftables.SetElement{Key: first.AsSlice()})
			if next := last.Next(); next.IsValid() { // an interval without an end goes on to the last address
				elements = append(elements, nftables.SetElement{Key: next.AsSlice(), IntervalEnd: true})
			}
		}
		kind, word, raw := nftables.TypeIPAddr, "ipv4_addr", quotedAt(f).source
		if f == V6 {
			kind, word = nftables.TypeIP6Addr, "ipv6_addr"
		}
		out = append(out,
			exemptSet{fmt.Sprintf("servers%d", f), fmt.Sprintf("type %s; flags interval; elements = { %s };", word, strings.Join(addresses, ", ")), kind, true, elements},
			exemptSet{fmt.Sprintf("quoted%d", f), fmt.Sprintf("typeof %s; flags interval; elements = { %s };", raw.text(), strings.Join(numbers, ", ")), kind, true, elements},
		)
	}
	return out
}

func (e *exemption) families() (out []Family) {
	for _, f := range []Family{V4, V6} {
		if slices.ContainsFunc(e.prefixes, func(p netip.Prefix) bool { return familyOf(p) == f }) {
			out = append(out, f)
		}
	}
	return out
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < 8*len(b); bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// field is a place in a packet, in bytes from the beginning of its network or transport header.
type field struct {
	base        expr.PayloadBase
	offset, len uint32
}

func (f field) text() string {
	base := "th"
	if f.base == expr.PayloadBaseNetworkHeader {
		base = "nh"
	}
	return fmt.Sprintf("@%s,%d,%d", base, 8*f.offset, 8*f.len)
}

func (f field) load() expr.Any {
	return &expr.Payload{DestRegister: 1, Base: f.base, Offset: f.offset, Len: f.len}
}

// headerAt is where an IP header at an offset has the protocol of what follows, and its addresses. Quoted IPv6 headers aren't looked behind: an error about
// a segment with extension headers stays tracked.
type headerAt struct{ protocol, source, destination field }

func headerOf(f Family, base expr.PayloadBase, offset uint32) headerAt {
	if f == V6 {
		return headerAt{field{base, offset + 6, 1}, field{base, offset + 8, 16}, field{base, offset + 24, 16}}
	}
	return headerAt{field{base, offset + 9, 1}, field{base, offset + 12, 4}, field{base, offset + 16, 4}}
}

// quotedAt is the header that an ICMP error quotes, behind the eight bytes of its own.
func quotedAt(f Family) headerAt { return headerOf(f, expr.PayloadBaseTransportHeader, 8) }

// rules of the table, in order.
func (e *exemption) rules() (out []exemptRule) {
	for _, f := range e.families() {
		word, protocol := "ip", byte(unix.NFPROTO_IPV4)
		if f == V6 {
			word, protocol = "ip6", unix.NFPROTO_IPV6
		}
		inside := []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
			&expr.Lookup{SourceRegister: 1, SetName: "interfaces"},
		}
		family := []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			equal(protocol),
		}
		notLocal := []expr.Any{
			&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: nativeUint32(unix.RTN_LOCAL)},
		}
		in := func(at field, set string) []expr.Any {
			return []expr.Any{at.load(), &expr.Lookup{SourceRegister: 1, SetName: fmt.Sprintf("%s%d", set, f)}}
		}
		isTCP := []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal(unix.IPPROTO_TCP)}
		notrack := []expr.Any{&expr.Notrack{}}
		header, quoted := headerOf(f, expr.PayloadBaseNetworkHeader, 0), quotedAt(f)

		for _, side := range []struct {
			word    string
			at      field
			comment string
		}{{"daddr", header.destination, "to servers"}, {"saddr", header.source, "from servers"}} {
			out = append(out, exemptRule{
				"prerouting",
				fmt.Sprintf("iifname @interfaces %s %s @servers%d meta l4proto tcp fib daddr type != local notrack", word, side.word, f),
				exemptTag + side.comment,
				slices.Concat(inside, family, in(side.at, "servers"), isTCP, notLocal, notrack),
			})
		}
		errorText, isError := errorsOf(f)
		for _, side := range []struct {
			at      field
			comment string
		}{{quoted.source, "errors about what servers sent"}, {quoted.destination, "errors about what servers were sent"}} {
			about := fmt.Sprintf("%s %s 6 %s @quoted%d", errorText, quoted.protocol.text(), side.at.text(), f)
			match := slices.Concat(isError, []expr.Any{quoted.protocol.load(), equal(unix.IPPROTO_TCP)}, in(side.at, "quoted"))
			out = append(out,
				exemptRule{"prerouting", "iifname @interfaces " + about + " fib daddr type != local notrack", exemptTag + side.comment,
					slices.Concat(inside, family, match, notLocal, notrack)},
				// The gateway's own, for instance that a packet is too large.
				exemptRule{"output", about + " notrack", exemptTag + side.comment, slices.Concat(family, match, notrack)},
			)
		}
	}
	return out
}

// errorsOf matches the ICMP messages that quote a packet.
func errorsOf(f Family) (text string, match []expr.Any) {
	is := func(protocol byte) []expr.Any {
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal(protocol),
			field{expr.PayloadBaseTransportHeader, 0, 1}.load()}
	}
	if f == V6 { // errors are below 128 (RFC 4443 §2.1)
		return "icmpv6 type < 128", append(is(unix.IPPROTO_ICMPV6), &expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: []byte{128}})
	}
	// Destination unreachable, source quench, redirect, and time exceeded, parameter problem (RFC 792); between them are echo and the
	// advertisements of routers, whose type no error has.
	return "icmp type 3-12 icmp type != 8", append(is(unix.IPPROTO_ICMP),
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: []byte{3}}, &expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: []byte{12}},
		field{expr.PayloadBaseTransportHeader, 0, 1}.load(), &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{8}})
}

func equal(b byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{b}} }

// commands do by hand what levee does in one transaction.
func (e *exemption) commands() []string {
	nft := func(format string, args ...any) string { return "nft " + quote(fmt.Sprintf(format, args...)) }
	out := []string{nft("add table inet %s", exemptTable)}
	for _, s := range e.sets() {
		out = append(out, nft("add set inet %s %s { %s }", exemptTable, s.name, s.text))
	}
	for _, c := range exemptChains {
		out = append(out, nft("add chain inet %s %s { type filter hook %s priority %d; }", exemptTable, c.name, c.name, exemptPriority))
	}
	for _, r := range e.rules() {
		out = append(out, nft("add rule inet %s %s %s comment %q", exemptTable, r.chain, r.text, r.comment))
	}
	return out
}

// exemptDelete is the command that deletes the table.
const exemptDelete = "nft 'delete table inet " + exemptTable + "'"

// contents is the table in lines that compare with those of Live.Exemption.
func (e *exemption) contents() []string {
	var out []string
	for _, s := range e.sets() {
		out = append(out, setLines(s.name, s.elements)...)
	}
	for _, c := range exemptChains {
		out = append(out, chainLine(c.name, *c.hook, exemptPriority))
		i := 0
		for _, r := range e.rules() {
			if r.chain == c.name {
				out = append(out, ruleLine(r.chain, i, r.comment, len(r.exprs)))
				i++
			}
		}
	}
	slices.Sort(out)
	return out
}

func setLines(set string, elements []nftables.SetElement) (out []string) {
	for _, e := range elements {
		out = append(out, fmt.Sprintf("set %s %x %t", set, e.Key, e.IntervalEnd))
	}
	return out
}

func chainLine(name string, hook nftables.ChainHook, priority int32) string {
	return fmt.Sprintf("chain %s hook %d priority %d", name, hook, priority)
}

func ruleLine(chain string, i int, comment string, exprs int) string {
	return fmt.Sprintf("rule %s %d %q with %d parts", chain, i, comment, exprs)
}

// exemption of the plan.
func (p *Plan) exemption(prefixes []netip.Prefix) exemption {
	e := exemption{interfaces: []string{p.cfg.TUN}, prefixes: prefixes}
	e.interfaces = append(append(e.interfaces, p.sides.clients...), p.sides.servers...)
	slices.Sort(e.interfaces)
	e.interfaces = slices.Compact(e.interfaces)
	return e
}

// wantsExemption says whether the exemption belongs on a machine as in live. One that is there is only taken away where it is sure to be of no use: it may
// be the very reason why nothing is tracked now, and costs little.
func (p *Plan) wantsExemption(live *Live) bool {
	return p.cfg.Notrack == NotrackOn || p.cfg.Notrack == NotrackAuto && (live.Tracking || live.Exemption != nil && !live.trackingSure)
}
