package routes

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxListed bounds lists of names in comments.
const maxListed = 8

// sides are the interfaces of a plan, with what the operator should know about how they were found.
type sides struct {
	clients, servers []string
	// ways are the interfaces that default routes lead by; all says that clients are all that auto has found.
	ways  []string
	all   bool
	notes []string
}

// Spares says whether levee is of use although something is wrong with name, one of broken: auto took it because it takes all that there are, it is not the way to
// servers nor the default route, and there is another for clients to come in by.
func (p *Plan) Spares(name string, broken []string) bool {
	s := &p.sides
	needed := func(name string) bool { return slices.Contains(s.ways, name) || slices.Contains(s.servers, name) }
	return s.all && slices.Contains(s.clients, name) && !needed(name) && slices.ContainsFunc(s.clients, func(other string) bool {
		return !slices.Contains(broken, other) && (slices.Contains(s.ways, other) || !slices.Contains(s.servers, other))
	})
}

// Without says what to write into the configuration for a plan without the client interfaces in broken.
func (p *Plan) Without(broken []string) string {
	rest := slices.DeleteFunc(p.ClientInterfaces(), func(name string) bool { return slices.Contains(broken, name) })
	return fmt.Sprintf("set routing.client_interfaces to [%s]", strings.Join(rest, ", "))
}

// onBoth returns the interfaces that serve both sides: on a one-armed gateway, the only one.
func (s *sides) onBoth() []string {
	var out []string
	for _, name := range s.clients {
		if slices.Contains(s.servers, name) {
			out = append(out, name)
		}
	}
	return out
}

// resolve finds the interfaces of both sides for prefixes, which are outermost.
func resolve(cfg *Config, prefixes []netip.Prefix, live *Live) (sides, error) {
	var s sides
	note, err := checkLocal(prefixes, live)
	if err != nil {
		return s, err
	}
	s.notes = append(s.notes, note...)
	if s.servers, err = namedOr("routing.server_interfaces", cfg.ServerInterfaces, cfg, live, func() ([]string, error) {
		found, err := serverSide(cfg, prefixes, live)
		return keep(found, cfg.KeptServers, cfg, live), err
	}); err != nil {
		return s, err
	}
	s.clients, err = namedOr("routing.client_interfaces", cfg.ClientInterfaces, cfg, live, func() ([]string, error) {
		found, left := clientSide(cfg, s.servers, live)
		if len(left) > 0 {
			s.notes = append(s.notes, "Not taken as client interfaces: "+listed(left)+".")
		}
		// Other hosts may be behind the servers' interfaces too, and be clients of servers behind another or, by way of a router,
		// the same: their SYNs must not go around levee when the answers go through it.
		return keep(append(found, s.servers...), cfg.KeptClients, cfg, live), nil
	})
	s.all = len(cfg.ClientInterfaces) == 0
	for _, r := range live.Routes {
		if r.Table == unix.RT_TABLE_MAIN && !r.Own() && r.Dst.Bits() == 0 {
			s.ways = append(s.ways, r.Interfaces...)
		}
	}
	return s, err
}

// inForce finds the interfaces of both sides in levee's rules.
func inForce(cfg *Config, live *Live) (s sides) {
	for _, r := range live.Rules {
		side := &s.clients
		switch {
		case !r.Own():
			continue
		case r.Priority == cfg.Priority+fromClients:
		case r.Priority == cfg.Priority+fromServers:
			side = &s.servers
		default:
			continue
		}
		if !slices.Contains(*side, r.Iif) {
			*side = append(*side, r.Iif)
		}
	}
	slices.Sort(s.clients)
	slices.Sort(s.servers)
	return s
}

// noInterfaceError is about a name in the configuration.
type noInterfaceError struct{ key, name string }

func (e *noInterfaceError) Error() string {
	return fmt.Sprintf("%s: there is no interface %q: name one that exists, or use auto", e.key, e.name)
}

// keep adds those of an earlier plan that are down or gone, and sorts.
func keep(found, former []string, cfg *Config, live *Live) []string {
	for _, name := range former {
		l, there := live.link(name)
		if name != cfg.TUN && !slices.Contains(found, name) && (!there || !l.Up && l.Master == 0) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

// namedOr returns the checked names, or what auto finds if there are none.
func namedOr(key string, names []string, cfg *Config, live *Live, auto func() ([]string, error)) ([]string, error) {
	if len(names) == 0 {
		return auto()
	}
	var out []string
	for _, name := range names {
		if name == cfg.TUN {
			return nil, fmt.Errorf("%s: %s is levee's own TUN: name the interface that packets come in by", key, name)
		}
		link, ok := live.link(name)
		if !ok {
			return nil, &noInterfaceError{key, name}
		}
		if link.Loopback {
			return nil, fmt.Errorf("%s: %s is the loopback: connections of the gateway itself can't be proxied, leave it out", key, name)
		}
		// The packets of a bridge's or bond's port come in by the bridge or bond; a VRF's ports keep theirs.
		if m, ok := live.linkByIndex(link.Master); ok && link.Master != 0 && m.Kind != kindVRF {
			return nil, fmt.Errorf("%s: %s is a port of %s: name %s instead", key, name, m.Name, m.Name)
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out, nil
}

// checkLocal refuses prefixes that are the gateway itself, and notes its own addresses inside of them.
func checkLocal(prefixes []netip.Prefix, live *Live) (notes []string, err error) {
	for _, p := range prefixes {
		var own []string
		for _, r := range live.Routes {
			if r.Type != unix.RTN_LOCAL || !r.Dst.Overlaps(p) {
				continue
			}
			if covers(r.Dst, p) {
				return nil, fmt.Errorf("prefix %v is local to this gateway, which is not supported: protect addresses of servers behind it", p)
			}
			own = append(own, r.Dst.String())
		}
		if len(own) > 0 {
			slices.Sort(own)
			notes = append(notes, fmt.Sprintf("In %v, not protected because they are the gateway's own: %s.", p, listed(slices.Compact(own))))
		}
	}
	return notes, nil
}

// serverSide returns the interfaces that the main table leads to for the prefixes.
func serverSide(cfg *Config, prefixes []netip.Prefix, live *Live) ([]string, error) {
	var out []string
	for _, p := range prefixes {
		routes := routesTo(p, live)
		if len(routes) == 0 {
			return nil, noRoute(p, cfg, live)
		}
		for _, r := range routes {
			if r.Type != unix.RTN_UNICAST {
				if covers(r.Dst, p) {
					return nil, fmt.Errorf("prefix %v is routed as %q: route it to its servers, or name the interfaces in routing.server_interfaces",
						p, typeName(r.Type)+" "+r.Dst.String())
				}
				continue // a hole in the prefix
			}
			if len(r.Interfaces) == 0 {
				return nil, fmt.Errorf("prefix %v: the route to %v names no interface: name it in routing.server_interfaces", p, r.Dst)
			}
			for _, name := range r.Interfaces {
				if name == cfg.TUN {
					return nil, fmt.Errorf("prefix %v: the route to %v in the main table leads into %s itself: remove it", p, r.Dst, name)
				}
				if l, ok := live.link(name); ok && l.Loopback {
					continue
				}
				if !slices.Contains(out, name) {
					out = append(out, name)
				}
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the routes to the protected prefixes lead to no interface: name them in routing.server_interfaces")
	}
	slices.Sort(out)
	return out, nil
}

// downError is about an interface whose routes the kernel has taken away because it is down.
type downError struct {
	prefix netip.Prefix
	name   string
}

func (e *downError) Error() string {
	return fmt.Sprintf("prefix %v has no route in the main table, and interface %s is down: %s", e.prefix, e.name, upCommand(e.name))
}

// upCommand is the command that brings an interface up.
func upCommand(name string) string { return "ip link set dev " + quote(name) + " up" }

// noRoute says why there is no route to p, as far as that can be known: one that led by a router leaves nothing behind, and is guessed from what is down.
func noRoute(p netip.Prefix, cfg *Config, live *Live) error {
	var down []string
	for _, l := range live.Links {
		switch {
		case l.Up || l.Loopback || l.Name == cfg.TUN:
		case live.wouldLead(&l, p), slices.Contains(cfg.KeptServers, l.Name):
			return &downError{p, l.Name}
		case len(l.Networks) > 0:
			down = append(down, l.Name)
		}
	}
	hint := ""
	if len(down) > 0 {
		slices.Sort(down)
		hint = " (down, with addresses: " + listed(down) + ")"
	}
	return fmt.Errorf("prefix %v has no route in the main table%s: add one, or name the interfaces in routing.server_interfaces", p, hint)
}

// routesTo returns the main table's routes that packets to p can take: the narrowest one that covers p,
// and those inside p. Of routes to the same destination, those of the best metric.
func routesTo(p netip.Prefix, live *Live) []Route {
	best := map[netip.Prefix]int{}
	cover := netip.Prefix{}
	for _, r := range live.Routes {
		if r.Table != unix.RT_TABLE_MAIN || r.Own() || !r.Dst.Overlaps(p) {
			continue
		}
		if covers(r.Dst, p) && (!cover.IsValid() || r.Dst.Bits() > cover.Bits()) {
			cover = r.Dst
		}
		if m, ok := best[r.Dst]; !ok || r.Metric < m {
			best[r.Dst] = r.Metric
		}
	}
	var out []Route
	for _, r := range live.Routes {
		if r.Table != unix.RT_TABLE_MAIN || r.Own() || !r.Dst.Overlaps(p) || r.Metric != best[r.Dst] {
			continue
		}
		if r.Dst == cover || !covers(r.Dst, p) {
			out = append(out, r)
		}
	}
	return out
}

// clientSide returns every other interface that packets can come in by, and why the rest was left out.
func clientSide(cfg *Config, servers []string, live *Live) (out, left []string) {
	for _, l := range live.Links {
		master, _ := live.linkByIndex(l.Master)
		switch {
		case l.Loopback, l.Name == cfg.TUN, slices.Contains(servers, l.Name):
		case l.Master != 0:
			left = append(left, fmt.Sprintf("%s (port of %s)", l.Name, master.Name))
		case l.Kind == kindVRF:
			// Its routes aren't in the main table, where packets from the TUN are looked up.
			left = append(left, l.Name+" (VRF)")
		case !l.Up && !slices.Contains(cfg.KeptClients, l.Name):
			left = append(left, l.Name+" (down)")
		default:
			out = append(out, l.Name)
		}
	}
	slices.Sort(out)
	slices.Sort(left)
	return out, left
}

// listed joins names, at most maxListed of them.
func listed(names []string) string {
	if n := len(names) - maxListed; n > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxListed], ", "), n)
	}
	return strings.Join(names, ", ")
}
