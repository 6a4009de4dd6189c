package routestest

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dumpTries bounds how often a dump that the kernel calls inconsistent is read again.
const dumpTries = 8

// Snapshot is the state of one network namespace: links, addresses, rules, the routes of all tables, nftables and the
// sysctls below net/ipv4 and net/ipv6, one object on a line, sorted. What changes by itself is left out:
// carrier, counters, neighbours, and whether an address is still tentative.
type Snapshot struct{ lines []string }

// String returns the lines.
func (s Snapshot) String() string { return strings.Join(s.lines, "\n") + "\n" }

// Diff returns what has to change to make after out of s, one line for each: "-" for what is only in s,
// "+" for what is only in after. Empty means that they are equal.
func (s Snapshot) Diff(after Snapshot) string {
	var b strings.Builder
	i, j := 0, 0
	for i < len(s.lines) || j < len(after.lines) {
		switch {
		case j == len(after.lines) || (i < len(s.lines) && s.lines[i] < after.lines[j]):
			b.WriteString("- " + s.lines[i] + "\n")
			i++
		case i == len(s.lines) || after.lines[j] < s.lines[i]:
			b.WriteString("+ " + after.lines[j] + "\n")
			j++
		default:
			i++
			j++
		}
	}
	return b.String()
}

// Take pictures the network namespace of the calling thread, to which the caller has locked its goroutine if
// threads differ. It needs root, for a few sysctls that others may not read.
func Take() (Snapshot, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return Snapshot{}, fmt.Errorf("snapshot: %w", err)
	}
	defer h.Close()
	var s Snapshot
	names := map[int]string{}
	for _, part := range []struct {
		what string
		take func() ([]string, error)
	}{
		{"links", func() ([]string, error) { return links(h, names) }},
		{"addresses", func() ([]string, error) { return addresses(h, names) }},
		{"rules", func() ([]string, error) { return rules(h) }},
		{"routes", func() ([]string, error) { return routes(h, names) }},
		{"sysctls", sysctls},
		{"nftables", nftTables},
	} {
		var lines []string
		var err error
		for range dumpTries {
			if lines, err = part.take(); !errors.Is(err, netlink.ErrDumpInterrupted) {
				break
			}
		}
		if err != nil {
			return Snapshot{}, fmt.Errorf("snapshot of %s: %w", part.what, err)
		}
		s.lines = append(s.lines, lines...)
	}
	slices.Sort(s.lines)
	return s, nil
}

// links also fills names.
func links(h *netlink.Handle, names map[int]string) ([]string, error) {
	all, err := h.LinkList()
	for _, l := range all {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var out []string
	for _, l := range all {
		a := l.Attrs()
		const steady = net.FlagUp | net.FlagBroadcast | net.FlagLoopback | net.FlagPointToPoint | net.FlagMulticast
		out = append(out, fmt.Sprintf("link %s index %d kind %s flags %v mtu %d txqueuelen %d address %v master %q",
			a.Name, a.Index, l.Type(), a.Flags&steady, a.MTU, a.TxQLen, a.HardwareAddr, names[a.MasterIndex]))
	}
	return out, err
}

func addresses(h *netlink.Handle, names map[int]string) ([]string, error) {
	all, err := h.AddrList(nil, netlink.FAMILY_ALL)
	var out []string
	for _, a := range all {
		out = append(out, fmt.Sprintf("address %v dev %s scope %d", a.IPNet, names[a.LinkIndex], a.Scope))
	}
	return out, err
}

func rules(h *netlink.Handle) ([]string, error) {
	var out []string
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		all, err := h.RuleList(family)
		if errors.Is(err, unix.EAFNOSUPPORT) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		for _, r := range all {
			// Pointers become what they point to; the rest prints whole.
			mask, sport, dport, uid := "none", "none", "none", "none"
			if r.Mask != nil {
				mask = fmt.Sprintf("%#x", *r.Mask)
			}
			if r.Sport != nil {
				sport = fmt.Sprint(*r.Sport)
			}
			if r.Dport != nil {
				dport = fmt.Sprint(*r.Dport)
			}
			if r.UIDRange != nil {
				uid = fmt.Sprint(*r.UIDRange)
			}
			from, to := r.Src, r.Dst
			r.Mask, r.Sport, r.Dport, r.UIDRange, r.Src, r.Dst = nil, nil, nil, nil, nil, nil
			type plain netlink.Rule // without its String, which leaves half of it out
			out = append(out, fmt.Sprintf("rule %05d from %v to %v mask %s sport %s dport %s uid %s %+v", r.Priority, from, to, mask, sport, dport, uid, plain(r)))
		}
	}
	return out, nil
}

func routes(h *netlink.Handle, names map[int]string) ([]string, error) {
	var out []string
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		err := h.RouteListFilteredIter(family, &netlink.Route{}, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			line := fmt.Sprintf("route family %d table %d type %d to %v via %v dev %q src %v proto %d scope %d metric %d tos %d mtu %d",
				r.Family, r.Table, r.Type, r.Dst, r.Gw, names[r.LinkIndex], r.Src, r.Protocol, r.Scope, r.Priority, r.Tos, r.MTU)
			for _, hop := range r.MultiPath {
				line += fmt.Sprintf(" hop via %v dev %q weight %d", hop.Gw, names[hop.LinkIndex], hop.Hops)
			}
			out = append(out, line)
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func sysctls() ([]string, error) {
	var out []string
	for _, root := range []string{"/proc/sys/net/ipv4", "/proc/sys/net/ipv6"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // an interface that has just gone, or a kernel without IPv6
			}
			if err != nil || d.IsDir() {
				return err
			}
			key := strings.TrimPrefix(path, "/proc/sys/")
			// Some can't be read: flush is write-only, stable_secret may be unset.
			value, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				value = []byte("(not readable)")
			}
			out = append(out, fmt.Sprintf("sysctl %s = %s", key, strings.Join(strings.Fields(string(value)), " ")))
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
