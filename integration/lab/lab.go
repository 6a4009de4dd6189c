package lab

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"
)

// Config says what a lab is made of.
type Config struct {
	// Clients and Servers are how many there are, at most 16 each; 0 means one.
	Clients, Servers int
	// Attacker adds a namespace with a link of its own to the gateway, so that a flood doesn't
	// fill the clients' links.
	Attacker bool
	// ClientDelays[i], where there is one above 0, is how much longer than on a wire what client i sends, and what is sent
	// to it, is on its way: its round-trip time is twice that. At most MaxDelay.
	ClientDelays []time.Duration
	// ClientHopMTU and ServerHopMTU, where above 0, put a Hop of that MTU in bytes between every client, or server, and the gateway. IPv6
	// wants 1280 at least. A client with a Hop has no delay, and there are at most 4 of a kind that have one.
	ClientHopMTU, ServerHopMTU int
}

// Host is a namespace at the edge of the lab.
type Host struct {
	*Namespace
	// Link leads to the gateway; its Host end is here.
	Link *Link
}

// AddrPort is a port at the host's address of the wanted family.
func (h *Host) AddrPort(v6 bool, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(h.Link.Host.Addr(v6), port)
}

// Lab is a running network. The package comment draws it.
type Lab struct {
	// Name is the prefix of the namespaces' names: "lv" and six random hexadecimal digits.
	Name             string
	Gateway          *Namespace
	Clients, Servers []*Host
	// Attacker is nil unless the Config asked for it.
	Attacker *Host

	started    *cleanups
	namespaces []*Namespace
	links      []*Link
	close      func() error
}

// New makes a lab. The caller closes it; if New fails, nothing is left.
func New(cfg Config) (*Lab, error) {
	cfg.Clients, cfg.Servers = max(cfg.Clients, 1), max(cfg.Servers, 1)
	if cfg.Clients > maxHosts || cfg.Servers > maxHosts {
		return nil, fmt.Errorf("a lab has at most %d clients and %d servers", maxHosts, maxHosts)
	}
	if len(cfg.ClientDelays) > cfg.Clients {
		return nil, fmt.Errorf("%d delays for %d clients", len(cfg.ClientDelays), cfg.Clients)
	}
	for _, d := range cfg.ClientDelays {
		if d < 0 || d > MaxDelay {
			return nil, fmt.Errorf("a delay of %v: use 0 to %v", d, MaxDelay)
		}
	}
	for _, side := range []struct{ mtu, hosts int }{{cfg.ClientHopMTU, cfg.Clients}, {cfg.ServerHopMTU, cfg.Servers}} {
		if side.mtu != 0 && (side.mtu < 1280 || side.hosts > maxHopped) {
			return nil, fmt.Errorf("a hop of MTU %d for %d hosts: use 1280 or more, and at most %d hosts", side.mtu, side.hosts, maxHopped)
		}
	}
	if cfg.ClientHopMTU > 0 && len(cfg.ClientDelays) > 0 {
		return nil, errors.New("clients have a hop or delays, not both")
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("making network namespaces needs root: run it as root or with sudo")
	}
	var id [3]byte
	rand.Read(id[:])
	l := &Lab{Name: "lv" + hex.EncodeToString(id[:]), started: &cleanups{}}
	l.close = sync.OnceValue(l.closeOnce)
	if err := l.build(cfg); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) build(cfg Config) error {
	var err error
	if l.Gateway, err = l.router("gateway"); err != nil {
		return err
	}
	for i := range cfg.Clients {
		delay := time.Duration(0)
		if i < len(cfg.ClientDelays) {
			delay = cfg.ClientDelays[i]
		}
		h, err := l.host("client", i, delay, cfg.ClientHopMTU, subnet(ClientPrefix4, i, cfg.Clients), subnet(ClientPrefix6, i, cfg.Clients))
		if err != nil {
			return err
		}
		l.Clients = append(l.Clients, h)
	}
	for i := range cfg.Servers {
		h, err := l.host("server", i, 0, cfg.ServerHopMTU, subnet(ServerPrefix4, i, cfg.Servers), subnet(ServerPrefix6, i, cfg.Servers))
		if err != nil {
			return err
		}
		l.Servers = append(l.Servers, h)
	}
	if cfg.Attacker {
		if l.Attacker, err = l.host("attack", 0, 0, 0, AttackerPrefix4, AttackerPrefix6); err != nil {
			return err
		}
		for _, p := range []netip.Prefix{SpoofedPrefix4, SpoofedPrefix6} {
			if err := l.Attacker.Link.route(l.Gateway, p); err != nil {
				return err
			}
		}
	}
	deadline := time.Now().Add(linkUp)
	for _, link := range l.links {
		if err := link.waitUp(deadline); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) namespace(name string) (*Namespace, error) {
	n, err := newNamespace(l.Name+"-"+name, l.started)
	if err == nil {
		l.namespaces = append(l.namespaces, n)
	}
	return n, err
}

func (l *Lab) host(kind string, i int, delay time.Duration, hopMTU int, subnet4, subnet6 netip.Prefix) (*Host, error) {
	name := kind + strconv.Itoa(i)
	n, err := l.namespace(name)
	if err != nil {
		return nil, err
	}
	if hopMTU > 0 {
		link, err := l.narrowedLink(n, name, hopMTU, subnet4, subnet6)
		if err != nil {
			return nil, err
		}
		return &Host{Namespace: n, Link: link}, nil
	}
	var link *Link
	if delay > 0 {
		link, err = l.delayedLink(n, name, delay)
	} else {
		link, err = newLink(n, l.Gateway, name)
	}
	if err != nil {
		return nil, err
	}
	if err := link.connect(subnet4, subnet6); err != nil {
		return nil, err
	}
	l.links = append(l.links, link)
	return &Host{Namespace: n, Link: link}, nil
}

// Namespaces are all of the lab, the gateway first.
func (l *Lab) Namespaces() []*Namespace { return l.namespaces }

// linkUp is how long New waits for the links.
const linkUp = 5 * time.Second

// lingering is how long Close waits for processes that the lab didn't start itself.
const lingering = 2 * time.Second

// Close stops everything that was started in the lab and lets go of the namespaces, which makes
// the kernel remove them and all inside. It may be called again, and from several goroutines. The
// error names processes that are still in a namespace, for example a shell someone opened there
// or a child that left its parent: the namespace stays until they end.
func (l *Lab) Close() error { return l.close() }

func (l *Lab) closeOnce() error {
	err := l.started.run()
	err = errors.Join(err, waitEmpty(l.namespaces, lingering))
	for _, n := range l.namespaces {
		err = errors.Join(err, n.close())
	}
	return err
}
