package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"

	"levee/cmd/levee/config"
	"levee/proxy"
	"levee/proxy/cookie"
	"levee/routes"
	"levee/tunnel"
)

// unknownMTU is assumed where the interfaces aren't known: Ethernet's.
const unknownMTU = 1500

// Layout is a configuration applied to this machine: what is auto has become a number or a name.
type Layout struct {
	TUN tunnel.Config
	// MTU in bytes of the smallest link that proxied packets cross: the bound of the MSS.
	MTU int
	// sources is what the interfaces tell of clients' addresses.
	sources sources
	// Routes is nil if the operator does the routing.
	Routes *routes.Plan
	// warnings are what is not as it should be, and no reason not to go on.
	warnings []string
	// live is what Routes was planned from; a layout in force has none.
	live routes.Live
}

// NewLayout looks at the machine and changes nothing. Its errors are one line each.
func NewLayout(cfg config.Config) (*Layout, error) { return newLayout(cfg, former{}, routes.NewPlan) }

// NewLayoutAlongside is NewLayout for a comparison: rules and routes of somebody else's that are in the way are no error, but Differences shows them.
func NewLayoutAlongside(cfg config.Config) (*Layout, error) {
	return newLayout(cfg, former{}, routes.NewPlanAlongside)
}

// former is what of an earlier layout is to stay in the next: rules for prefixes that no service has any longer, and interfaces that are down or gone.
type former struct {
	prefixes         []netip.Prefix
	clients, servers []string
	// resumed: its interfaces do, whatever their MTU is by now.
	resumed bool
}

// newLayout is NewLayout with what stays of an earlier one, and a way to plan.
func newLayout(cfg config.Config, was former, plan func(routes.Config, routes.Live) (*routes.Plan, error)) (*Layout, error) {
	l := &Layout{TUN: tunnel.Config{
		Name: cfg.TUN.Name, Queues: cfg.TUN.Queues, TxQueueLen: cfg.TUN.TxQueueLen, Steering: cfg.TUN.Steering,
		Persist: true,
	}}
	if l.TUN.Queues == 0 {
		l.TUN.Queues = min(2+runtime.GOMAXPROCS(0), config.MaxQueues)
	}
	clients, servers := cfg.Routing.ClientInterfaces, cfg.Routing.ServerInterfaces
	var onLink []routes.OnLink
	var err error
	if cfg.Routing.Manage {
		rc := routesConfig(cfg)
		rc.Prefixes = append(rc.Prefixes, was.prefixes...)
		rc.KeptClients, rc.KeptServers = was.clients, was.servers
		live, err := routes.Read(rc)
		if err != nil {
			return nil, err
		}
		if l.Routes, err = plan(rc, live); err != nil {
			return nil, err
		}
		l.live, onLink = live, live.OnLink
		gone := l.Routes.Diff(live).MissingInterfaces
		absent := func(name string) bool { return slices.Contains(gone, name) }
		clients, servers = slices.DeleteFunc(l.Routes.ClientInterfaces(), absent), slices.DeleteFunc(l.Routes.ServerInterfaces(), absent)
	} else if onLink, err = routes.ReadOnLink(); err != nil {
		return nil, err
	}
	mtus, small, err := mtusOf(slices.Concat(clients, servers))
	if err != nil {
		return nil, err
	}
	for _, f := range smallMTUs(small, l.Routes) {
		if f.Fatal && !was.resumed {
			return nil, errors.New(f.Text)
		}
		l.warnings = append(l.warnings, f.Text+": "+f.Remedy)
	}
	if l.sources, err = sourcesOf(clients, servers, cfg.Services, onLink); err != nil {
		return nil, err
	}
	l.TUN.MTU, l.MTU = chooseMTU(cfg.TUN.MTU, mtus)
	return l, nil
}

// mtusOf returns the MTU of each interface in bytes, but for those below what the proxy works with.
func mtusOf(interfaces []string) (mtus []int, small []net.Interface, err error) {
	for _, name := range interfaces {
		link, err := net.InterfaceByName(name)
		if err != nil {
			return nil, nil, fmt.Errorf("read the MTU of interface %s: %w: name one that exists", name, err)
		}
		if link.MTU < proxy.MinMTU {
			small = append(small, *link)
			continue
		}
		mtus = append(mtus, min(link.MTU, proxy.MaxMTU))
	}
	return mtus, small, nil
}

// smallMTUs says of each interface whose MTU is too small what comes of it. One that levee can spare, as an unrelated tunnel, must not keep it from
// starting: it is among the client interfaces still, so that nothing that comes in there gets around levee, but segments are not sized for it.
func smallMTUs(links []net.Interface, plan *routes.Plan) (out []routes.Finding) {
	var names []string
	for _, link := range links {
		names = append(names, link.Name)
	}
	for i, link := range links {
		if slices.Contains(names[:i], link.Name) { // it is on both sides
			continue
		}
		f := routes.Finding{What: "mtu", Fatal: true,
			Text:   fmt.Sprintf("interface %s has an MTU of %d: levee needs %d or more, IPv6's least", link.Name, link.MTU, proxy.MinMTU),
			Remedy: fmt.Sprintf("ip link set dev %s mtu %d", link.Name, unknownMTU)}
		if plan != nil && plan.Spares(link.Name, names) {
			f.Fatal, f.Remedy = false, plan.Without(names)
			f.Text = fmt.Sprintf("interface %s has an MTU of %d, and levee reckons with %d or more: clients behind it depend on path MTU discovery",
				link.Name, link.MTU, proxy.MinMTU)
		}
		out = append(out, f)
	}
	return out
}

// chooseMTU returns the MTU of the TUN and the smallest of the path. Unless the operator has set it, the TUN's is the
// largest of the interfaces', so that it is never the TUN that a packet doesn't fit; what does
// not fit the interface it leaves by is the kernel's to answer, as without levee.
func chooseMTU(configured int, interfaces []int) (tun, smallest int) {
	tun, smallest = configured, proxy.MaxMTU
	largest := 0
	for _, m := range interfaces {
		largest, smallest = max(largest, m), min(smallest, m)
	}
	if largest == 0 {
		largest, smallest = unknownMTU, unknownMTU
	}
	if tun == 0 {
		tun = largest
	}
	return tun, min(smallest, tun)
}

func routesConfig(cfg config.Config) routes.Config {
	return routes.Config{
		TUN:              cfg.TUN.Name,
		Table:            cfg.Routing.Table,
		Priority:         cfg.Routing.Priority,
		ClientInterfaces: cfg.Routing.ClientInterfaces,
		ServerInterfaces: cfg.Routing.ServerInterfaces,
		Prefixes:         cfg.Prefixes(),
		Ports:            protectedPorts(cfg.Services),
		Bypass:           cfg.Routing.Bypass,
		Notrack:          cfg.Routing.Notrack,
		StateFile:        sysctlFile(cfg.StateDir),
	}
}

// protectedPorts are those of each prefix, of all services that are not off.
func protectedPorts(services []proxy.Service) map[netip.Prefix][][2]uint16 {
	ports := make(map[netip.Prefix][][2]uint16)
	for _, s := range services {
		if s.Mode == proxy.ModeOff {
			continue
		}
		for _, p := range s.Prefixes {
			for _, r := range s.Ports {
				ports[p] = append(ports[p], [2]uint16{r.First, r.Last})
			}
			if len(s.Ports) == 0 {
				ports[p] = append(ports[p], [2]uint16{1, 65535})
			}
		}
	}
	return ports
}

// sysctlFile is where routes keeps what it has to restore.
func sysctlFile(stateDir string) string { return filepath.Join(stateDir, "sysctls.json") }

// proxyConfig is the configuration of the proxy on this machine.
func proxyConfig(cfg config.Config, l *Layout, secret cookie.Secret) proxy.Config {
	return proxy.Config{
		Services:          cfg.Services,
		Capacity:          cfg.Flows.Capacity,
		IdleTimeout:       cfg.Flows.IdleTimeout,
		TransitoryTimeout: cfg.Flows.TransitoryTimeout,
		Grace:             cfg.Flows.Grace,
		Replies:           cfg.Replies,
		EarlyPool:         cfg.Flows.EarlyDataMemory,
		MTU:               l.MTU,
		Neighbours:        l.sources.Neighbours,
		NoSources:         l.sources.NoSources,
		Memory:            flowMemory,
		Secret:            secret,
		SharedSecret:      cfg.SecretShared,
	}
}
