package daemon

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"levee/cmd/levee/config"
	"levee/cmd/levee/flowfile"
	"levee/proxy"
	"levee/routes"
	"levee/tunnel"
)

// Inspect looks for what about this machine is in the way of cfg, what is fatal first. It changes nothing. Without privilege it sees less: not whether BPF is
// allowed, what nftables hold, or what a start would be refused for.
func Inspect(cfg config.Config) ([]routes.Finding, error) {
	var out []routes.Finding
	rc := routesConfig(cfg)
	live, err := routes.Read(rc)
	if err != nil {
		return nil, err
	}
	var plan *routes.Plan
	interfaces := slices.Concat(cfg.Routing.ClientInterfaces, cfg.Routing.ServerInterfaces)
	if cfg.Routing.Manage {
		if plan, err = routes.NewPlan(rc, live); err != nil {
			return routes.InspectConflicts(rc, live, err), nil // the rest depends on the plan
		}
		interfaces = slices.Concat(plan.ClientInterfaces(), plan.ServerInterfaces())
	}
	out = append(out, routes.Inspect(rc, live, plan)...)
	out = append(out, routes.InspectFirewall(live, plan)...)
	slices.Sort(interfaces)
	interfaces = slices.Compact(interfaces)
	for _, name := range interfaces {
		out = append(out, inspectInterface(name, cfg.TUN.MTU)...)
	}
	if _, small, err := mtusOf(interfaces); err == nil { // or it is said that one isn't there
		out = append(out, smallMTUs(small, plan)...)
	}
	out = append(out, inspectTUN(cfg)...)
	refused := inspectStart(&cfg)
	out = append(out, refused...)
	if f, ok := inspectStateDir(cfg.StateDir); ok && !slices.ContainsFunc(refused, func(r routes.Finding) bool { return r.What == f.What }) {
		out = append(out, f)
	}
	slices.SortStableFunc(out, func(a, b routes.Finding) int {
		switch {
		case a.Fatal == b.Fatal:
			return 0
		case a.Fatal:
			return -1
		}
		return 1
	})
	return out, nil
}

// inspectInterface looks at what levee is told of one interface, and what makes it slow. tunMTU is the configured one of the TUN, 0 if it follows.
func inspectInterface(name string, tunMTU int) (out []routes.Finding) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return []routes.Finding{{What: "interface", Fatal: true, Text: fmt.Sprintf("interface %s: %v", name, err), Remedy: "name one that exists, or use auto"}}
	}
	if tunMTU != 0 && tunMTU < min(link.MTU, proxy.MaxMTU) {
		out = append(out, routes.Finding{What: "mtu",
			Text:   fmt.Sprintf("tun.mtu %d is below the %d of interface %s: larger packets are fragmented, or refused", tunMTU, link.MTU, name),
			Remedy: "set tun.mtu to auto"})
	}
	if off := offloadsOff(name); len(off) > 0 {
		out = append(out, routes.Finding{What: "offload",
			Text:   fmt.Sprintf("interface %s has %s off: bulk data pass levee in packets of %d bytes, instead of up to 64 KB, at several times the cost", name, strings.Join(off, ", "), link.MTU),
			Remedy: fmt.Sprintf("ethtool -K %s %s on", name, strings.Join(off, " on "))})
	}
	return out
}

// offloadsOff lists the offloads that are off, as ethtool(8) names them. What the device doesn't tell of is not among them.
func offloadsOff(name string) (off []string) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	for _, o := range []struct {
		name string
		cmd  uint32
	}{{"gro", unix.ETHTOOL_GGRO}, {"gso", unix.ETHTOOL_GGSO}, {"tso", unix.ETHTOOL_GTSO}} {
		if on, err := tunnel.Ethtool(fd, name, o.cmd, 0); err == nil && on == 0 {
			off = append(off, o.name)
		}
	}
	return off
}

// inspectTUN: the device, and the program that chooses its queues.
func inspectTUN(cfg config.Config) (out []routes.Finding) {
	if err := tunnel.CheckDevice(); err != nil {
		out = append(out, routes.Finding{What: "tun", Fatal: true, Text: "no TUN can be made: " + strings.Split(err.Error(), ": load ")[0], Remedy: "modprobe tun"})
	}
	if checkPrivilege() != nil {
		return append(out, routes.Finding{What: "privilege",
			Text:   "nftables, BPF and what a start needs can't be seen without CAP_NET_ADMIN: there may be more",
			Remedy: "run levee check as root"})
	}
	if !cfg.TUN.Steering {
		return out
	}
	if err := tunnel.CheckSteering(); err != nil {
		out = append(out, routes.Finding{What: "bpf",
			Text:   fmt.Sprintf("SYNs will share queues with other packets, which a flood can push out: %v", err),
			Remedy: "give levee CAP_BPF, or sysctl -w kernel.unprivileged_bpf_disabled=0"})
	}
	return out
}

// inspectStateDir: connections are kept on a tmpfs only. A folder that isn't there yet is judged by where it will be.
func inspectStateDir(dir string) (routes.Finding, bool) {
	if err := flowfile.CheckFolder(dir); err != nil {
		return routes.Finding{What: "state_dir",
			Text:   fmt.Sprintf("connections won't outlive a crash or an upgrade: %v", err),
			Remedy: "set state_dir to a folder on a tmpfs, such as /run/levee"}, true
	}
	return routes.Finding{}, false
}
