package config

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"levee/proxy"
	"levee/proxy/flood"
	"levee/proxy/servers"
	"levee/routes"
)

// reporter takes note of a problem with the value of a key.
type reporter func(key, format string, args ...any)

// checker turns texts into values. A value that is wrong is reported, and the default used instead, so
// that one load finds every problem.
type checker struct {
	report reporter
	// wrong says whether a problem with key, or with what lies in it, has been reported.
	wrong func(key string) bool
	// shape is what was wrong before there were values: what it concerns may be missing only for that.
	shape Problems
}

func (c checker) config(r raw) Config {
	cfg := Config{
		TUN: TUN{
			Name:       c.ifname("tun.name", r.TUN.Name),
			MTU:        c.autoNumber("tun.mtu", r.TUN.MTU, proxy.MinMTU, proxy.MaxMTU),
			Queues:     c.autoNumber("tun.queues", r.TUN.Queues, 1, MaxQueues),
			TxQueueLen: c.number("tun.txqueuelen", r.TUN.TxQueueLen, MinTxQueueLen, MaxTxQueueLen),
			Steering:   c.word("tun.steering", r.TUN.Steering, auto, "off") == auto,
		},
		Routing: Routing{
			Manage:   c.boolean("routing.manage", r.Routing.Manage),
			Table:    c.table("routing.table", r.Routing.Table),
			Priority: c.number("routing.priority", r.Routing.Priority, 1, MaxPriority),
			Bypass:   c.word("routing.on_failure", r.Routing.OnFailure, "bypass", "block") == "bypass",
			Notrack:  c.notrack("routing.notrack", r.Routing.Notrack),
		},
		Flows: Flows{
			Capacity:          c.number("flows.capacity", r.Flows.Capacity, 1, proxy.MaxCapacity),
			IdleTimeout:       c.duration("flows.idle_timeout", r.Flows.IdleTimeout),
			TransitoryTimeout: c.duration("flows.transitory_timeout", r.Flows.TransitoryTimeout),
			Grace:             c.between("flows.grace", r.Flows.Grace, 0, proxy.MaxGrace, proxy.DefaultGrace),
			EarlyDataMemory:   c.size("flows.early_data_memory", r.Flows.EarlyDataMemory, proxy.MaxEarlyPool, proxy.DefaultEarlyPool),
		},
		Learn: Learn{
			Probe:     c.boolean("learn.probe", r.Learn.Probe),
			Rate:      c.number("learn.rate", r.Learn.Rate, 1, MaxProbeRate),
			ClosedFor: c.duration("learn.closed_for", r.Learn.ClosedFor),
			Capacity:  c.number("learn.capacity", r.Learn.Capacity, 1, servers.MaxCapacity),
		},
		Replies: proxy.Replies{
			PerNetwork: c.number("replies.per_network", r.Replies.PerNetwork, 1, proxy.MaxReplyRate),
			Neighbours: c.number("replies.neighbours", r.Replies.Neighbours, 1, proxy.MaxReplyRate),
		},
		StateDir:     c.path("state_dir", r.StateDir),
		SecretFile:   c.path("secret_file", r.SecretFile),
		SecretShared: c.boolean("secret_shared", r.SecretShared),
		Metrics:      c.listen("metrics.listen", r.Metrics.Listen),
		Log: Log{
			Level: c.level("log.level", r.Log.Level),
			JSON:  c.word("log.format", r.Log.Format, "text", "json") == "json",
		},
	}
	cfg.Routing.ClientInterfaces = c.interfaces("routing.client_interfaces", r.Routing.ClientInterfaces, cfg.TUN.Name)
	cfg.Routing.ServerInterfaces = c.interfaces("routing.server_interfaces", r.Routing.ServerInterfaces, cfg.TUN.Name)
	if path := socketPath(cfg.StateDir); len(path) > maxSocketBytes {
		c.report("state_dir", "%s is too long for a socket in it (%d bytes, at most %d): choose a shorter path",
			shown(r.StateDir), len(path), maxSocketBytes)
		cfg.StateDir = defaultOf("state_dir")
	}
	cfg.Services = c.services(r.Services, serviceDefaults{
		mode:      c.mode("defaults.mode", r.Defaults.Mode, proxy.ModeAuto),
		earlyData: c.size("defaults.early_data", r.Defaults.EarlyData, proxy.MaxEarlyData, proxy.DefaultEarlyData),
		serverAck: c.serverAck("defaults.server_ack", r.Defaults.ServerAck),
		unknown:   c.unknown("defaults.unknown", r.Defaults.Unknown),
		engage:    c.engage("defaults.engage", r.Defaults.Engage, flood.Limits{Hold: flood.DefaultHold}),
	})
	return cfg
}

// shown is a value as messages quote it, on one line and not endless.
func shown(t text) string {
	const most = 64
	if len(t) > most {
		return strconv.Quote(string(t[:most])) + "…"
	}
	return strconv.Quote(string(t))
}

func defaultOf(key string) string {
	for _, d := range defaults {
		if d.key == key {
			return d.value
		}
	}
	panic("config: no default for " + key)
}

// number parses a decimal from low to high; if it isn't one the result is the default of the key.
func (c checker) number(key string, t text, low, high int) int {
	n, err := strconv.Atoi(string(t))
	if err == nil && low <= n && n <= high {
		return n
	}
	c.report(key, "%s is not a whole number from %d to %d", shown(t), low, high)
	n, _ = strconv.Atoi(defaultOf(key))
	return n
}

// autoNumber is the same for keys that may be auto, which is 0.
func (c checker) autoNumber(key string, t text, low, high int) int {
	if t == auto {
		return 0
	}
	if n, err := strconv.Atoi(string(t)); err == nil && low <= n && n <= high {
		return n
	}
	c.report(key, "%s is neither auto nor a whole number from %d to %d", shown(t), low, high)
	return 0
}

// size parses a number of bytes, 0 to high; if it isn't one the result is otherwise.
func (c checker) size(key string, t text, high, otherwise int) int {
	digits, unit := string(t), 1
	for _, u := range []struct {
		name  string
		bytes int
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}} {
		if before, ok := strings.CutSuffix(digits, u.name); ok {
			digits, unit = before, u.bytes
			break
		}
	}
	n, err := strconv.Atoi(digits)
	switch {
	case err != nil || n < 0:
		c.report(key, "%s is not a size: write bytes, or a number with its unit, such as 16KiB or 64MiB", shown(t))
	case n > high/unit:
		c.report(key, "%s is too large: at most %d bytes", shown(t), high)
	default:
		return n * unit
	}
	return otherwise
}

func (c checker) boolean(key string, t text) bool {
	switch t {
	case "true":
		return true
	case "false":
		return false
	}
	c.report(key, "%s is neither true nor false", shown(t))
	return true
}

func (c checker) word(key string, t text, choices ...string) string {
	for _, w := range choices {
		if string(t) == w {
			return w
		}
	}
	c.report(key, "%s is unknown: use %s", shown(t), strings.Join(choices, " or "))
	return choices[0]
}

func (c checker) level(key string, t text) slog.Level {
	switch t {
	case "debug":
		return slog.LevelDebug
	case "info":
		return slog.LevelInfo
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	c.report(key, "%s is unknown: use debug, info, warn or error", shown(t))
	return slog.LevelInfo
}

func (c checker) mode(key string, t text, otherwise proxy.Mode) proxy.Mode {
	if t == "" {
		return otherwise
	}
	m, err := proxy.ParseMode(string(t))
	if err != nil {
		c.report(key, "%s is not a mode: use auto, always, monitor or off", shown(t))
		return otherwise
	}
	return m
}

// engage is what is there of a section, and otherwise what isn't.
func (c checker) engage(key string, r rawEngage, otherwise flood.Limits) flood.Limits {
	l := otherwise
	if r.HalfOpen != "" {
		l.HalfOpen = c.autoNumber(join(key, "half_open"), r.HalfOpen, 1, flood.MaxHalfOpen)
	}
	if r.SYNRate != "" {
		l.SYNRate = c.autoNumber(join(key, "syn_rate"), r.SYNRate, 1, flood.MaxSYNRate)
	}
	if r.Hold != "" {
		l.Hold = c.between(join(key, "hold"), r.Hold, flood.MinHold, flood.MaxHold, otherwise.Hold)
	}
	return l
}

func (c checker) serverAck(key string, t text) proxy.ServerAck {
	a, err := proxy.ParseServerAck(string(t))
	if err != nil {
		c.report(key, "%s is not known: use immediate or unmeasured", shown(t))
	}
	return a
}

func (c checker) unknown(key string, t text) proxy.Unknown {
	u, err := proxy.ParseUnknown(string(t))
	if err != nil {
		c.report(key, "%s is not known: use drop, pass or reset", shown(t))
	}
	return u
}

// between parses a duration from low to high; if it isn't one the result is otherwise.
func (c checker) between(key string, t text, low, high, otherwise time.Duration) time.Duration {
	d, err := time.ParseDuration(string(t))
	switch {
	case err != nil:
		c.report(key, "%s is not a duration: write a number with its unit, such as 90s, 4m or 2h4m", shown(t))
	case d < low || d > high:
		c.report(key, "%s is out of range: use %v to %v", shown(t), low, high)
	default:
		return d
	}
	return otherwise
}

// Bounds of timeouts: shorter ones would end connections between two packets, longer ones are typing errors.
const (
	minTimeout = time.Second
	maxTimeout = 7 * 24 * time.Hour
)

func (c checker) duration(key string, t text) time.Duration {
	d, err := time.ParseDuration(string(t))
	if err == nil && minTimeout <= d && d <= maxTimeout {
		return d
	}
	if err != nil {
		c.report(key, "%s is not a duration: write a number with its unit, such as 90s, 4m or 2h4m", shown(t))
	} else {
		c.report(key, "%s is out of range: use %v to %v", shown(t), minTimeout, maxTimeout)
	}
	d, _ = time.ParseDuration(defaultOf(key))
	return d
}

func (c checker) notrack(key string, t text) routes.Notrack {
	for _, n := range []routes.Notrack{routes.NotrackAuto, routes.NotrackOn, routes.NotrackOff} {
		if string(t) == n.String() {
			return n
		}
	}
	c.report(key, "%s is unknown: use auto, on or off", shown(t))
	return routes.NotrackAuto
}

func (c checker) path(key string, t text) string {
	if !filepath.IsAbs(string(t)) || strings.ContainsRune(string(t), 0) {
		c.report(key, "%s is not an absolute path: begin it with /", shown(t))
		return defaultOf(key)
	}
	return filepath.Clean(string(t))
}

// table refuses what the kernel uses itself (include/uapi/linux/rtnetlink.h: unspec, default, main, local).
func (c checker) table(key string, t text) int {
	n, err := strconv.Atoi(string(t))
	switch {
	case err != nil || n < 1 || n > 1<<31-1:
		c.report(key, "%s is not the number of a table: use 1 to %d", shown(t), 1<<31-1)
	case 253 <= n && n <= 255:
		name := map[int]string{253: "default", 254: "main", 255: "local"}[n]
		c.report(key, "%d is the kernel's table %q: use one of levee's own", n, name)
	default:
		return n
	}
	n, _ = strconv.Atoi(defaultOf(key))
	return n
}

func (c checker) listen(key string, t text) netip.AddrPort {
	if t == "" || t == "none" {
		return netip.AddrPort{}
	}
	addr, err := netip.ParseAddrPort(string(t))
	if err == nil && addr.Port() != 0 {
		return addr
	}
	c.report(key, `%s is not an IP address and port: write it like 127.0.0.1:9742, or "none" for no metrics`, shown(t))
	return netip.AddrPort{}
}

var ifnamePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// ifname is stricter than the kernel: no "%", which it would expand, and none of the names that mean
// something else below /proc/sys/net/ipv4/conf.
func (c checker) ifname(key string, t text) string {
	name := string(t)
	switch {
	case len(name) > maxIfnameBytes:
		c.report(key, "%s is too long for the name of an interface: at most %d characters", shown(t), maxIfnameBytes)
	case !ifnamePattern.MatchString(name) || name == "all" || name == "default" || name == "lo":
		c.report(key, "%s can't name the TUN: use letters, digits, _, . and -, such as tun0", shown(t))
	default:
		return name
	}
	return defaultOf(key)
}

// interfaces returns nil for auto.
func (c checker) interfaces(key string, list words, tun string) []string {
	if len(list) == 1 && list[0] == auto {
		return nil
	}
	if len(list) == 0 {
		c.report(key, "the list is empty: use auto or name at least one interface")
		return nil
	}
	var names []string
	seen := make(map[string]bool)
	for i, t := range list {
		name, at := string(t), index(key, i)
		switch {
		case name == auto:
			c.report(at, "auto stands alone: use either auto or a list of names")
		case name == "" || len(name) > maxIfnameBytes || strings.ContainsAny(name, "/: \t\n\x00"):
			c.report(at, "%s can't be the name of an interface", shown(t))
		case name == tun:
			c.report(at, "%s is the TUN itself: name the interfaces where packets come from", shown(t))
		case seen[name]:
			c.report(at, "%s is listed twice: remove one", shown(t))
		default:
			names = append(names, name)
		}
		seen[name] = true
	}
	return names
}
