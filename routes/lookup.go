package routes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Probe is a TCP packet that Lookup asks the kernel about.
type Probe struct {
	// Iif is the interface that it comes in by; empty for one of the gateway's own.
	Iif string
	// Src and Dst are its ends. Src may be invalid for one of the gateway's own.
	Src, Dst netip.AddrPort
}

// Way is where the kernel sends a packet.
type Way struct {
	// Table that the route is in, and Interface that the packet leaves by.
	Table     int
	Interface string
	// Gateway is invalid if the destination is on the link.
	Gateway netip.Addr
	// Local says that the packet is for the gateway itself, Broadcast that it is for everybody on a link.
	Local, Broadcast bool
}

// The reasons why there is no way.
var (
	// ErrNoRoute: there is no route, or one that says so.
	ErrNoRoute = errors.New("no route")
	// ErrNotForwarded: forwarding is off where the packet comes in, or rp_filter says that its source doesn't live there.
	ErrNotForwarded = errors.New("not forwarded: forwarding is off, or rp_filter doesn't accept the source there")
)

// Lookup asks the kernel which way a packet would go, by its rules and tables as they are now, and changes nothing.
func Lookup(p Probe) (Way, error) {
	iif := 0
	if p.Iif != "" {
		link, err := net.InterfaceByName(p.Iif)
		if err != nil {
			return Way{}, fmt.Errorf("interface %s: %w", p.Iif, err)
		}
		iif = link.Index
	}
	way, oif, err := ask(p, iif)
	if err != nil || oif == 0 {
		return way, err
	}
	link, err := net.InterfaceByIndex(oif)
	if err != nil {
		return Way{}, fmt.Errorf("the interface of a route: %w", err)
	}
	way.Interface = link.Name
	return way, nil
}

// ask is Lookup with indexes for the interfaces, 0 for none.
func ask(p Probe, iif int) (way Way, oif int, err error) {
	dst, src := p.Dst.Addr(), p.Src.Addr()
	family := unix.AF_INET
	if dst.Is6() {
		family = unix.AF_INET6
	}
	request := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_REQUEST)
	message := &nl.RtMsg{}
	message.Family, message.Dst_len, message.Flags = uint8(family), uint8(dst.BitLen()), unix.RTM_F_LOOKUP_TABLE
	request.AddData(message)
	add := func(attribute int, value []byte) { request.AddData(nl.NewRtAttr(attribute, value)) }
	port := func(attribute int, port uint16) { add(attribute, binary.BigEndian.AppendUint16(nil, port)) }
	add(unix.RTA_DST, dst.AsSlice())
	add(unix.RTA_IP_PROTO, []byte{unix.IPPROTO_TCP})
	port(unix.RTA_DPORT, p.Dst.Port())
	if src.IsValid() {
		message.Src_len = uint8(src.BitLen())
		add(unix.RTA_SRC, src.AsSlice())
		port(unix.RTA_SPORT, p.Src.Port())
	}
	if iif != 0 {
		add(unix.RTA_IIF, binary.NativeEndian.AppendUint32(nil, uint32(iif)))
	}
	answers, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	switch {
	case iif != 0 && (errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL)):
		return Way{}, 0, ErrNotForwarded
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINVAL):
		return Way{}, 0, ErrNoRoute
	case err != nil:
		return Way{}, 0, fmt.Errorf("ask the kernel for the route to %v: %w", dst, err)
	case len(answers) == 0:
		return Way{}, 0, ErrNoRoute
	}
	return wayOf(answers[0])
}

// wayOf reads a RTM_NEWROUTE message, but for the interface's name.
func wayOf(m []byte) (way Way, oif int, err error) {
	if len(m) < unix.SizeofRtMsg {
		return Way{}, 0, errors.New("the kernel's answer about a route is too short")
	}
	message := nl.DeserializeRtMsg(m)
	attributes, err := nl.ParseRouteAttr(m[unix.SizeofRtMsg:])
	if err != nil {
		return Way{}, 0, fmt.Errorf("the kernel's answer about a route: %w", err)
	}
	way = Way{Table: int(message.Table), Local: message.Type == unix.RTN_LOCAL, Broadcast: message.Type == unix.RTN_BROADCAST}
	switch message.Type {
	case unix.RTN_UNREACHABLE, unix.RTN_BLACKHOLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		return Way{}, 0, ErrNoRoute
	}
	for _, a := range attributes {
		switch a.Attr.Type {
		case unix.RTA_TABLE:
			way.Table = int(binary.NativeEndian.Uint32(a.Value))
		case unix.RTA_GATEWAY:
			gateway, _ := netip.AddrFromSlice(a.Value)
			way.Gateway = gateway.Unmap()
		case unix.RTA_OIF:
			oif = int(binary.NativeEndian.Uint32(a.Value))
		}
	}
	return way, oif, nil
}

// RuleFor returns the first rule by which the kernel can have sent the packet to a table, or nowhere if that is 0. Of rules that choose by what forwarded
// packets don't have, a mark for one, nobody knows which packets they get.
func (l *Live) RuleFor(p Probe, table int) (Rule, bool) {
	i := slices.IndexFunc(l.Rules, func(r Rule) bool { return r.matches(p) && l.leadsTo(r, p, table) })
	if i < 0 {
		return Rule{}, false
	}
	return l.Rules[i], true
}

// leadsTo says whether a rule that matches a packet can have sent it to a table, or nowhere if that is 0.
func (l *Live) leadsTo(r Rule, p Probe, table int) bool {
	switch {
	case table == 0:
		return r.asks.drops
	case r.asks.drops:
		return false
	case r.asks.jump > 0:
		// What it goes over might have taken the packet.
		return slices.ContainsFunc(l.Rules, func(own Rule) bool {
			return own.Own() && own.Priority > r.Priority && own.Priority < r.asks.jump && own.matches(p)
		})
	case r.asks.vrf:
		in, _ := l.link(p.Iif)
		master, ok := l.linkByIndex(in.Master)
		return ok && in.Master != 0 && master.Kind == kindVRF
	case r.Table != table:
		return false
	}
	return r.asks.longer == 0 || table != unix.RT_TABLE_MAIN || l.mainBits(p.Dst.Addr()) >= r.asks.longer
}

// mainBits is how long the prefix of the main table's route to an address is, as far as Live knows.
func (l *Live) mainBits(to netip.Addr) int {
	bits := -1
	for _, r := range slices.Concat(l.Routes, l.Ways) {
		if r.Table == unix.RT_TABLE_MAIN && r.Dst.Contains(to) {
			bits = max(bits, r.Dst.Bits())
		}
	}
	return bits
}

// matches says whether the rule is for a packet that is forwarded and has no mark.
func (r Rule) matches(p Probe) bool {
	family := V4
	if p.Dst.Addr().Is6() {
		family = V6
	}
	all := !r.asks.never &&
		(r.Iif == "" || r.Iif == p.Iif) &&
		(!r.Src.IsValid() || r.Src.Contains(p.Src.Addr())) &&
		(!r.Dst.IsValid() || r.Dst.Contains(p.Dst.Addr())) &&
		(r.IPProto == 0 || r.IPProto == unix.IPPROTO_TCP) &&
		within(r.asks.sport, p.Src.Port()) && within(r.asks.dport, p.Dst.Port())
	return r.Family == family && all != r.asks.not
}

// within says whether a port is in a rule's range.
func within(ports [2]uint16, port uint16) bool {
	return ports == [2]uint16{} || ports[0] <= port && port <= ports[1]
}

// TableName is the word for a routing table that has one, or else its number.
func TableName(table int) string { return tableName(table) }
