package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"levee/proxy"
	"levee/proxy/flood"
	"levee/proxy/servers"
)

var namePattern = regexp.MustCompile(`^[a-z0-9_-]{1,63}$`)

// services checks each service and then all against each other. Only good services are returned.
func (c checker) services(list []rawService, standard serviceDefaults) []proxy.Service {
	if len(list) > MaxServices {
		c.report("services", "%d are too many: at most %d", len(list), MaxServices)
		return nil
	}
	prefixes := 0
	for _, r := range list {
		prefixes += len(r.Prefixes)
	}
	if prefixes > MaxPrefixes {
		c.report("services", "%d prefixes are too many: at most %d in all services together", prefixes, MaxPrefixes)
		return nil
	}
	var services []proxy.Service
	for i, r := range list {
		services = append(services, c.service(index("services", i), r, standard))
	}
	c.compare(services)
	if c.wrong("services") {
		return nil
	}
	return services
}

// serviceDefaults is what services have that don't say otherwise.
type serviceDefaults struct {
	mode      proxy.Mode
	earlyData int
	serverAck proxy.ServerAck
	unknown   proxy.Unknown
	engage    flood.Limits
}

func (c checker) service(key string, r rawService, standard serviceDefaults) proxy.Service {
	s := proxy.Service{
		Name:     string(r.Name),
		Prefixes: c.prefixes(key, r.Prefixes),
		Ports:    c.ports(join(key, "ports"), r.Ports),
		Mode:     c.mode(join(key, "mode"), r.Mode, standard.mode),
		Engage:   c.engage(join(key, "engage"), r.Engage, standard.engage),
		Options:  c.options(join(key, "options"), r.Options),

		BypassRate: c.atMost(join(key, "bypass_rate"), r.BypassRate, proxy.MaxBypassRate, proxy.DefaultBypassRate),
		EarlyData:  standard.earlyData,
		ServerAck:  standard.serverAck,

		ClosedPorts: c.closedPorts(join(key, "closed_ports"), r.ClosedPorts),

		Unknown:   standard.unknown,
		Allow:     c.sources(join(key, "allow"), r.Allow),
		Deny:      c.sources(join(key, "deny"), r.Deny),
		Verified:  c.verified(join(key, "verified"), r.Verified),
		PerSource: c.perSource(join(key, "per_source"), r.PerSource),
	}
	c.compareLists(key, &s)
	if r.Unknown != "" {
		s.Unknown = c.unknown(join(key, "unknown"), r.Unknown)
	}
	if r.ServerAck != "" {
		s.ServerAck = c.serverAck(join(key, "server_ack"), r.ServerAck)
	}
	if r.EarlyData != "" {
		s.EarlyData = c.size(join(key, "early_data"), r.EarlyData, proxy.MaxEarlyData, standard.earlyData)
	}
	switch {
	case r.Name == "" && c.shape.concern(key): // it may be there by another key
	case r.Name == "":
		c.report(join(key, "name"), "missing: every service needs one, for status and metrics")
	case !namePattern.MatchString(s.Name):
		c.report(join(key, "name"), "%s can't be a label: use 1 to %d of a-z, 0-9, _ and -", shown(r.Name), maxNameBytes)
	}
	return s
}

// compare finds names used twice and addresses and ports that two services claim.
func (c checker) compare(services []proxy.Service) {
	known := make([]bool, len(services)) // which addresses and ports are meant
	for i := range services {
		key := index("services", i)
		known[i] = !c.shape.concern(key) && !c.wrong(join(key, "prefixes")) && !c.wrong(join(key, "ports"))
	}
	for j := range services {
		for i := range j {
			a, b := &services[i], &services[j]
			if a.Name == b.Name && a.Name != "" {
				c.report(join(index("services", j), "name"), "%q is also the name of services[%d]: rename one", b.Name, i)
			}
			if !known[i] || !known[j] {
				continue
			}
			if ports, ok := commonPorts(a.Ports, b.Ports); ok {
				if p, q, ok := commonAddresses(a.Prefixes, b.Prefixes); ok {
					c.report(index("services", j), "%q (%v) overlaps %q (%v) on %s: give each address and port to one service",
						b.Name, q, a.Name, p, ports)
				}
			}
		}
	}
}

func commonAddresses(a, b []netip.Prefix) (p, q netip.Prefix, ok bool) {
	for _, p := range a {
		for _, q := range b {
			if p.Overlaps(q) {
				return p, q, true
			}
		}
	}
	return p, q, false
}

// commonPorts describes the first ports that both lists have; an empty list has all.
func commonPorts(a, b []proxy.PortRange) (string, bool) {
	all := []proxy.PortRange{{First: 1, Last: 65535}}
	if len(a) == 0 && len(b) == 0 {
		return "every port", true
	}
	if len(a) == 0 {
		a = all
	}
	if len(b) == 0 {
		b = all
	}
	for _, r := range a {
		for _, s := range b {
			common := proxy.PortRange{First: max(r.First, s.First), Last: min(r.Last, s.Last)}
			if common.First == common.Last {
				return "port " + common.String(), true
			}
			if common.First < common.Last {
				return "ports " + common.String(), true
			}
		}
	}
	return "", false
}

func (c checker) ports(key string, list words) []proxy.PortRange {
	if len(list) > MaxPortRanges {
		c.report(key, "%d entries are too many: at most %d; join neighbours to ranges such as 8000-8100", len(list), MaxPortRanges)
		return nil
	}
	var ranges []proxy.PortRange
	for i, t := range list {
		r, err := parsePorts(string(t))
		if err != nil {
			c.report(index(key, i), "%s %v", shown(t), err)
			continue
		}
		for _, other := range ranges {
			if r.First <= other.Last && other.First <= r.Last {
				c.report(index(key, i), "%v overlaps %v of the same service: give each port once", r, other)
				break
			}
		}
		ranges = append(ranges, r)
	}
	return ranges
}

func parsePorts(s string) (proxy.PortRange, error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	low, err1 := strconv.Atoi(first)
	high, err2 := strconv.Atoi(last)
	switch {
	case err1 != nil || err2 != nil || low < 1 || low > 65535 || high < 1 || high > 65535:
		return proxy.PortRange{}, fmt.Errorf("is not a port: use 1 to 65535, or a range such as 8000-8100")
	case high < low:
		return proxy.PortRange{}, fmt.Errorf("ends before it begins: write %d-%d", high, low)
	}
	return proxy.PortRange{First: uint16(low), Last: uint16(high)}, nil
}

// Bounds of a configured MSS: the least that Linux accepts (TCP_MIN_MSS) and what an IPv4 packet holds.
const minMSS, maxMSS = 88, 65495

func (c checker) options(key string, r rawOptions) proxy.Options {
	d := optionDefaults
	or := func(t, otherwise text) text {
		if t == "" {
			return otherwise
		}
		return t
	}
	o := proxy.DefaultOptions() // for servers that aren't known yet
	if t := or(r.MSS, d.MSS); t == auto {
		o.Learn |= servers.MSS
	} else {
		o.MSS = uint16(c.autoNumber(join(key, "mss"), t, minMSS, maxMSS))
	}
	if t := or(r.WScale, d.WScale); t == auto {
		o.Learn |= servers.WScale
	} else {
		o.WScale = c.wscale(join(key, "wscale"), t)
	}
	for _, f := range []struct {
		word    string
		value   text
		promise *bool
		feature servers.Features
	}{
		{"sack", or(r.SACK, d.SACK), &o.SACK, servers.SACK},
		{"timestamps", or(r.Timestamps, d.Timestamps), &o.Timestamps, servers.Timestamps},
		{"ecn", or(r.ECN, d.ECN), &o.ECN, servers.ECN},
	} {
		switch f.value {
		case auto:
			o.Learn |= f.feature
		case "true", "false":
			*f.promise = f.value == "true"
		default:
			c.report(join(key, f.word), "%s is neither auto nor true nor false", shown(f.value))
		}
	}
	return o
}

func (c checker) closedPorts(key string, t text) proxy.ClosedPorts {
	if t == "" {
		return proxy.ClosedReset
	}
	choice, ok := proxy.ParseClosedPorts(string(t))
	if !ok {
		c.report(key, "%s is unknown: use reset, drop or accept", shown(t))
	}
	return choice
}

func (c checker) verified(key string, r rawVerified) proxy.Verified {
	v := proxy.Verified{TTL: proxy.DefaultVerifiedTTL, Rate: c.atMost(join(key, "rate"), r.Rate, proxy.MaxVerifiedRate, 0)}
	if r.TTL != "" {
		v.TTL = c.between(join(key, "ttl"), r.TTL, time.Second, proxy.MaxVerifiedTTL, proxy.DefaultVerifiedTTL)
	}
	return v
}

func (c checker) perSource(key string, r rawPerSource) proxy.PerSource {
	return proxy.PerSource{
		Flows: c.atMost(join(key, "flows"), r.Flows, proxy.MaxPerSource, 0),
		Rate:  c.atMost(join(key, "rate"), r.Rate, proxy.MaxPerSource, 0),
	}
}

// atMost parses a number from 0 to high; if it isn't there or isn't one the result is otherwise.
func (c checker) atMost(key string, t text, high, otherwise int) int {
	if t == "" {
		return otherwise
	}
	if n, err := strconv.Atoi(string(t)); err == nil && 0 <= n && n <= high {
		return n
	}
	c.report(key, "%s is not a whole number from 0 to %d", shown(t), high)
	return otherwise
}

// wscale is at most 14 (RFC 7323 §2.2).
func (c checker) wscale(key string, t text) uint8 {
	switch t {
	case "none":
		return proxy.WScaleNone
	}
	if n, err := strconv.Atoi(string(t)); err == nil && 0 <= n && n <= 14 {
		return uint8(n)
	}
	c.report(key, "%s is not a window scale: use auto, none or 0 to 14", shown(t))
	return proxy.DefaultWScale
}
