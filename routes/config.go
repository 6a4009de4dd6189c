package routes

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Protocol is levee's tag: the routing protocol number (rtm_protocol, FRA_PROTOCOL) on every rule and
// route it makes. The kernel gives it no meaning; iproute2's rt_protos and the known routing daemons
// leave this number free.
const Protocol = 108

// Offsets of the rules from Config.Priority. The gaps up to prioritySpan are kept for later rules.
const (
	loopBreaker  = 0
	fromClients  = 1
	fromServers  = 2
	fromGateway  = 3
	prioritySpan = 10
)

// maxRules bounds a plan: the kernel walks the rules one by one, for every packet that isn't local.
const maxRules = 1024

// lastPriority is the last that a rule of ours may have: the kernel's own rule for the main table
// sits at 32766 and would win over all behind it.
const lastPriority = 32765

// Config is what the operator asked for, already typed.
type Config struct {
	// TUN is the name of levee's interface. Package tunnel makes it and takes it away.
	TUN string
	// Table is the routing table that leads into the TUN, 1 to 4294967295, not 253 to 255. It has
	// to be empty.
	Table int
	// Priority is the lowest priority of the rules; Priority to Priority+9 have to be free.
	// 1 to 32756.
	Priority int
	// ClientInterfaces and ServerInterfaces are where the two sides' packets come in.
	// Empty means auto. An interface may be in both.
	ClientInterfaces, ServerInterfaces []string
	// KeptClients and KeptServers are interfaces of an earlier plan: where auto would leave one out because it is down or gone, it stays, so that
	// nothing gets around levee when it is back.
	KeptClients, KeptServers []string
	// Prefixes are those of all services, of either family. At least one.
	Prefixes []netip.Prefix
	// Ports are the ranges of ports that are protected in each of Prefixes, both ends included; in a prefix that has none nothing is. nil means all ports of all.
	// Only Around asks for them.
	Ports map[netip.Prefix][][2]uint16
	// Bypass says that packets take the main table while nobody reads from the TUN; otherwise they are dropped.
	Bypass bool
	// Notrack says when this traffic is exempted from connection tracking.
	Notrack Notrack
	// StateFile keeps the old values of sysctls while a plan is applied. Its folder has to exist.
	// Apply and Remove need it; NewPlan, String and Diff don't.
	StateFile string
}

// Family is an IP version.
type Family uint8

// The two families.
const (
	V4 Family = 4
	V6 Family = 6
)

// String returns "IPv4" or "IPv6".
func (f Family) String() string { return fmt.Sprintf("IPv%d", uint8(f)) }

// af is the family's address family number, as netlink wants it.
func (f Family) af() int {
	if f == V6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// sysctl is the name of the family's folder in /proc/sys/net.
func (f Family) sysctl() string { return strings.ToLower(f.String()) }

func familyOf(p netip.Prefix) Family {
	if p.Addr().Is4() {
		return V4
	}
	return V6
}

// check refuses what no kernel state could make right.
func (c *Config) check() error {
	if err := checkName(c.TUN); err != nil {
		return fmt.Errorf("tun.name %q: %w", c.TUN, err)
	}
	if c.Table < 1 || int64(c.Table) > 1<<32-1 || (c.Table >= 253 && c.Table <= 255) {
		return fmt.Errorf("routing.table %d: use 1 to 4294967295, but not 253 to 255, which are the kernel's", c.Table)
	}
	if c.Priority < 1 || c.Priority+prioritySpan-1 > lastPriority {
		return fmt.Errorf("routing.priority %d: use 1 to %d, behind the rule for the local table and ahead of the one for the main table",
			c.Priority, lastPriority-prioritySpan+1)
	}
	if len(c.Prefixes) == 0 {
		return fmt.Errorf("no prefix to protect: give a service in `services` at least one in `prefixes`")
	}
	for _, p := range c.Prefixes {
		if !p.IsValid() {
			return fmt.Errorf("a prefix in `services` is not valid: write it as 192.0.2.0/24 or 2001:db8::/64")
		}
		if p.Addr().Is4In6() {
			return fmt.Errorf("prefix %v is IPv4 written as IPv6: write it as IPv4", p)
		}
	}
	return nil
}

// checkName has the kernel's rules for interface names (dev_valid_name), and no "%", which a
// TUN's name may use as a template.
func checkName(name string) error {
	if name == "" || len(name) >= unix.IFNAMSIZ || name == "." || name == ".." || strings.ContainsAny(name, "/:% \t\n\v\f\r\x00") {
		return fmt.Errorf("not an interface name: use 1 to %d characters without space, '/', ':' or '%%'", unix.IFNAMSIZ-1)
	}
	return nil
}

// outermost returns the prefixes masked and in order, without those that lie within another. The kernel
// refuses a rule for 0.0.0.0/0 next to narrower ones of the same priority, and they would do nothing.
func outermost(in []netip.Prefix) []netip.Prefix {
	all := make([]netip.Prefix, 0, len(in))
	for _, p := range in {
		all = append(all, p.Masked())
	}
	// Wide before narrow at the same address, IPv4 before IPv6: a prefix can only lie within the
	// last one that was kept.
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var out []netip.Prefix
	for _, p := range all {
		if len(out) > 0 && covers(out[len(out)-1], p) {
			continue
		}
		out = append(out, p)
	}
	return out
}

// covers says whether all of inner lies in outer.
func covers(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}
