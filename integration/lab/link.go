package lab

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hostIf is the interface of every namespace but the gateway.
const hostIf = "eth0"

// End is one end of a veth pair.
type End struct {
	Namespace *Namespace
	// Name of the interface, and its number inside Namespace.
	Name         string
	Index        int
	HardwareAddr net.HardwareAddr
	// Addr4 and Addr6 are the addresses that the lab gave it.
	Addr4, Addr6 netip.Addr
}

// Link is a veth pair between the gateway and another namespace of the lab, or two pairs with a Delay between
// them, or three with a Hop in the middle.
type Link struct {
	Host, Gateway End
	// Delay is nil if there is none.
	Delay *Delay
	// Hop is nil if there is none.
	Hop *Hop

	subnet4, subnet6 netip.Prefix
}

// newLink makes a veth pair between host and gateway, called hostIf and gatewayIf.
func newLink(host, gateway *Namespace, gatewayIf string) (*Link, error) {
	l := &Link{
		Host:    End{Namespace: host, Name: hostIf},
		Gateway: End{Namespace: gateway, Name: gatewayIf},
	}
	if err := pair(&l.Host, &l.Gateway); err != nil {
		return nil, fmt.Errorf("connect %s to %s: %w", host.Name, gateway.Name, err)
	}
	return l, nil
}

// connect gives both ends addresses of the two subnets, permanent neighbours, and the host its default
// routes toward the gateway.
func (l *Link) connect(subnet4, subnet6 netip.Prefix) error {
	host, gateway := l.Host.Namespace, l.Gateway.Namespace
	if err := l.address(subnet4, subnet6); err != nil {
		return fmt.Errorf("connect %s to %s: %w", host.Name, gateway.Name, err)
	}
	for _, any := range []string{"0.0.0.0/0", "::/0"} {
		if err := l.route(host, netip.MustParsePrefix(any)); err != nil {
			return err
		}
	}
	return nil
}

// pair makes a veth pair inside two namespaces, so that it never shows up in another, and sets it up. The
// ends, whose namespaces and names are given, learn the rest.
func pair(a, b *End) error {
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: b.Name, TxQLen: -1})
	veth.PeerName, veth.PeerNamespace = a.Name, netlink.NsFd(a.Namespace.handle)
	if err := b.Namespace.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth pair %s: %w", b, err)
	}
	for _, e := range []*End{a, b} {
		link, err := e.link()
		if err != nil {
			return err
		}
		if err := e.Namespace.nl.LinkSetUp(link); err != nil {
			return fmt.Errorf("set %s up: %w", e, err)
		}
		e.Index, e.HardwareAddr = link.Attrs().Index, link.Attrs().HardwareAddr
	}
	return nil
}

// waitUp waits until both ends carry packets and know their addresses: kernel workers see to that
// some time after the calls that asked for it, and what is sent earlier is lost.
func (l *Link) waitUp(deadline time.Time) error {
	for _, e := range l.ends() {
		for {
			up, err := e.isUp()
			if err != nil {
				return err
			}
			if up {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s does not come up", e)
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

func (e *End) isUp() (bool, error) {
	link, err := e.link()
	if err != nil {
		return false, err
	}
	if link.Attrs().OperState != netlink.OperUp {
		return false, nil
	}
	for _, a := range []netip.Addr{e.Addr4, e.Addr6} {
		// An address is in use once it is routed to its own host.
		routes, err := e.Namespace.nl.RouteGet(a.AsSlice())
		if err != nil || len(routes) != 1 || routes[0].Type != unix.RTN_LOCAL {
			return false, nil
		}
	}
	return true, nil
}

func (l *Link) ends() []*End { return []*End{&l.Host, &l.Gateway} }

func (l *Link) peer(e *End) *End {
	if e == &l.Host {
		return &l.Gateway
	}
	return &l.Host
}

func (e *End) link() (netlink.Link, error) {
	link, err := e.Namespace.nl.LinkByName(e.Name)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", e, err)
	}
	return link, nil
}

// String is the interface and its namespace.
func (e *End) String() string { return fmt.Sprintf("%s in %s", e.Name, e.Namespace.Name) }

// address gives both ends their addresses and tells each about the other's.
func (l *Link) address(subnet4, subnet6 netip.Prefix) error {
	l.subnet4, l.subnet6 = subnet4, subnet6
	l.Gateway.Addr4, l.Gateway.Addr6 = nth(subnet4, gatewayHost), nth(subnet6, gatewayHost)
	l.Host.Addr4, l.Host.Addr6 = nth(subnet4, hostHost), nth(subnet6, hostHost)
	for _, e := range l.ends() {
		peer := l.peer(e)
		for _, a := range []struct {
			own, peer netip.Addr
			bits      int
		}{{e.Addr4, peer.Addr4, subnet4.Bits()}, {e.Addr6, peer.Addr6, subnet6.Bits()}} {
			if err := e.addAddr(a.own, a.bits); err != nil {
				return err
			}
			if err := e.addNeighbour(a.peer, peer.HardwareAddr); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *End) addAddr(a netip.Addr, bits int) error {
	err := e.Namespace.nl.AddrReplace(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: e.Index}}, &netlink.Addr{
		IPNet: ipNet(netip.PrefixFrom(a, bits)), Flags: unix.IFA_F_NODAD,
	})
	if err != nil {
		return fmt.Errorf("add address %s to %s: %w", a, e, err)
	}
	return nil
}

func (e *End) addNeighbour(a netip.Addr, mac net.HardwareAddr) error {
	err := e.Namespace.nl.NeighSet(&netlink.Neigh{
		LinkIndex: e.Index, IP: a.AsSlice(), HardwareAddr: mac, State: unix.NUD_PERMANENT,
	})
	if err != nil {
		return fmt.Errorf("add neighbour %s to %s: %w", a, e, err)
	}
	return nil
}

// route sends a prefix from one end of the link to the other.
func (l *Link) route(from *Namespace, to netip.Prefix) error {
	e := &l.Host
	if from == l.Gateway.Namespace {
		e = &l.Gateway
	}
	via := l.peer(e).Addr4
	if to.Addr().Is6() {
		via = l.peer(e).Addr6
	}
	err := e.Namespace.nl.RouteReplace(&netlink.Route{LinkIndex: e.Index, Dst: ipNet(to), Gw: via.AsSlice()})
	if err != nil {
		return fmt.Errorf("add route to %s via %s: %w", to, e, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// SetMTU sets the MTU of the whole link, in bytes of IP packet; with a Hop, of all but the narrow place.
func (l *Link) SetMTU(mtu int) error {
	ends := l.ends()
	if l.Delay != nil {
		ends = append(ends, &l.Delay.near, &l.Delay.far)
	}
	if l.Hop != nil {
		ends = append(ends, &l.Hop.outer.Gateway, &l.Hop.inner.Host)
	}
	for _, e := range ends {
		link, err := e.link()
		if err != nil {
			return err
		}
		if err := e.Namespace.nl.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set MTU %d of %s: %w", mtu, e, err)
		}
	}
	return nil
}

// Addr is the address of an end of the wanted family.
func (e *End) Addr(v6 bool) netip.Addr {
	if v6 {
		return e.Addr6
	}
	return e.Addr4
}
