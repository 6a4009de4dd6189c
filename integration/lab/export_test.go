package lab

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Outside is the namespace in which the tests run, dressed up as one of a lab.
func Outside(t testing.TB) *Namespace {
	t.Helper()
	h, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	var st unix.Stat_t
	if err := unix.Fstat(int(h), &st); err != nil {
		t.Fatal(err)
	}
	return &Namespace{Name: "outside", handle: h, inode: st.Ino, started: &cleanups{}}
}

// FrameWriter makes SYN frames to target without a lab.
func FrameWriter(target netip.AddrPort) ([]byte, func([]byte)) {
	return FloodWriter(FloodConfig{Target: target, Options: LinuxSYN})
}

// FloodWriter makes frames of a flood, which isn't mixed, without a lab.
func FloodWriter(cfg FloodConfig) ([]byte, func([]byte)) {
	end := End{HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	t := newFloodTemplates(&Link{Host: end, Gateway: end}, &cfg)[0]
	rng := rand.New(rand.NewPCG(1, 2))
	return append([]byte(nil), t.frame...), func(frame []byte) { t.write(frame, rng) }
}

// ParseStat reads a table of /proc/net/stat.
var ParseStat = parseStat

// The two ways between a connection of a Crowd and its client's address and port.
var (
	CrowdAddr  = crowdAddr
	CrowdIndex = crowdIndex
)

// CrowdRewrite parses a frame and writes what it understood.
func CrowdRewrite(frame []byte) ([]byte, bool) {
	var s crowdSegment
	if !s.parse(frame) {
		return nil, false
	}
	return s.appendTo(make([]byte, ethLen)), true
}
