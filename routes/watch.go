package routes

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// watchAgain is the pause before a watch that has failed begins anew.
const watchAgain = time.Second

// watched are the groups of netlink messages that say what a plan may be about.
var watched = []uint{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
}

// Watch calls changed whenever the kernel says that something happened which a plan may be about: a rule is new or gone, one of levee's routes is gone,
// an interface or its addresses have changed, another route that concerns says matters, or one of Live.OnLink's. Several events may make one call. It works in
// the network namespace of the thread that calls it, and returns when ctx is done. When it can't hear the kernel it says so to failed, once until it
// can, and goes on trying; as something may have happened meanwhile, it then calls changed.
func Watch(ctx context.Context, concerns func(table int, dst netip.Prefix) bool, changed func(), failed func(error)) {
	persist(ctx, watchAgain, func(changed func()) error { return watch(ctx, concerns, changed) }, changed, failed)
}

// persist does try again after each error, of which it tells once until try has called changed, and returns when try has no error or ctx is done.
func persist(ctx context.Context, pause time.Duration, try func(changed func()) error, changed func(), failed func(error)) {
	said := false
	for ctx.Err() == nil {
		err := try(func() {
			said = false
			changed()
		})
		if err == nil {
			return
		}
		if !said {
			failed(err)
		}
		said = true
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// watch calls changed when it begins, too. It returns nil when ctx is done.
func watch(ctx context.Context, concerns func(int, netip.Prefix) bool, changed func()) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, watched...)
	if err != nil {
		return fmt.Errorf("watch rules and routes: %w", err)
	}
	defer s.Close()
	defer context.AfterFunc(ctx, s.Close)() // which ends Receive
	changed()
	for {
		messages, _, err := s.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS): // there were too many to tell
			changed()
			continue
		case err != nil:
			return fmt.Errorf("watch rules and routes: %w", err)
		}
		for _, m := range messages {
			if matters(m.Header.Type, m.Data, concerns) {
				changed()
				break
			}
		}
	}
}

// matters says whether a message is about something of a plan's.
func matters(kind uint16, data []byte, concerns func(int, netip.Prefix) bool) bool {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWRULE, unix.RTM_DELRULE, unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return true
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if len(data) < unix.SizeofRtMsg {
			return false
		}
		m := nl.DeserializeRtMsg(data)
		if m.Protocol == Protocol {
			return kind == unix.RTM_DELROUTE
		}
		dst, table, by, ok := destination(m, data[unix.SizeofRtMsg:])
		return ok && (concerns(table, dst) || table == unix.RT_TABLE_MAIN && m.Type == unix.RTN_UNICAST && findsNeighbours(by))
	}
	return false
}

// findsNeighbours says whether the kernel has to find the neighbours on an interface. The index 0 is none's.
func findsNeighbours(index int) bool {
	if index == 0 {
		return false
	}
	link, err := net.InterfaceByIndex(index)
	return err == nil && link.Flags&(net.FlagPointToPoint|net.FlagLoopback) == 0 // one that is gone is told of itself
}

// destination reads where a route leads, and its table. by is its interface, if it leads there without a gateway, or else 0.
func destination(m *nl.RtMsg, attributes []byte) (dst netip.Prefix, table, by int, ok bool) {
	addr := netip.IPv4Unspecified()
	switch m.Family {
	case unix.AF_INET:
	case unix.AF_INET6:
		addr = netip.IPv6Unspecified()
	default:
		return dst, 0, 0, false
	}
	all, err := nl.ParseRouteAttr(attributes)
	if err != nil {
		return dst, 0, 0, false
	}
	table = int(m.Table)
	gateway := false
	for _, a := range all {
		switch {
		case a.Attr.Type == unix.RTA_DST:
			if addr, ok = netip.AddrFromSlice(a.Value); !ok {
				return dst, 0, 0, false
			}
		case a.Attr.Type == unix.RTA_GATEWAY, a.Attr.Type == unix.RTA_VIA:
			gateway = true
		case a.Attr.Type == unix.RTA_OIF && len(a.Value) >= 4:
			by = int(binary.NativeEndian.Uint32(a.Value))
		case a.Attr.Type == unix.RTA_TABLE && len(a.Value) >= 4:
			table = int(binary.NativeEndian.Uint32(a.Value))
		}
	}
	if gateway {
		by = 0
	}
	dst = netip.PrefixFrom(addr, int(m.Dst_len))
	return dst, table, by, dst.IsValid()
}

// Broken says that traffic doesn't get into the TUN as planned, and that Update can put that right.
func (d Diff) Broken() bool {
	return !d.TUNMissing && (d.TUNDown || d.NotrackMissing || d.NotrackStale || len(d.MissingRules)+len(d.MissingRoutes) > 0)
}

// Repairable says that Update would change something.
func (d Diff) Repairable() bool {
	return !d.TUNMissing && (d.Broken() || len(d.StaleRules)+len(d.StaleRoutes) > 0 ||
		slices.ContainsFunc(d.Sysctls, func(s SysctlDiff) bool { return !s.Missing }))
}
