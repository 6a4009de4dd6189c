package daemon

import (
	"net/netip"
	"slices"
	"time"

	"levee/proxy"
	"levee/routes"
)

// maxRemoved bounds the rules for servers of which not even a rule is left.
const maxRemoved = 1000

// keepRemoved looks at the connections of an earlier process whose service the configuration has no longer. The rules that lead them here stay while
// they are needed, as after a reload that removes a service.
func (d *daemon) keepRemoved() error {
	if d.layout.Routes == nil || d.proxy.Restored().Unserved == 0 {
		return nil
	}
	now, served := time.Now(), d.cfg.Prefixes()
	leaving := make(map[netip.Prefix]time.Time)
	d.proxy.Flows(now, func(f proxy.FlowInfo) bool {
		server := f.Server.Addr()
		if f.Service == "" && !slices.ContainsFunc(served, func(p netip.Prefix) bool { return p.Contains(server) }) {
			leaving[ruledPrefix(d.layout.live.Rules, server)] = now
		}
		return len(leaving) < maxRemoved
	})
	if len(leaving) == 0 {
		return nil
	}
	var layout *Layout
	var err error
	if d.resumed {
		layout, err = d.resume(leaving)
	} else {
		layout, err = d.relayout(d.cfg, leaving)
	}
	if err != nil {
		return err
	}
	if len(leaving) == 0 {
		d.log.Warn("connections of services that were removed are lost: there is no way to their servers any longer", "connections", d.proxy.Restored().Unserved)
	}
	if err := d.keepTUN(layout); err != nil {
		return err
	}
	d.layout, d.reloads.leaving = layout, leaving
	return nil
}

// ruledPrefix is the prefix for which levee has a rule that leads to a server, or else just its address.
func ruledPrefix(rules []routes.Rule, server netip.Addr) netip.Prefix {
	for _, r := range rules {
		if r.Own() && r.Dst.IsValid() && r.Dst.Contains(server) {
			return r.Dst
		}
	}
	return netip.PrefixFrom(server, server.BitLen())
}
