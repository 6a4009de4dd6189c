package labtest

import (
	"net"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"levee/integration/lab"
)

// Settle waits until the kernel has given every link of a namespace its link-local address: before that the namespace changes by itself.
func Settle(t testing.TB, n *lab.Namespace) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !settled(t, n); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not every link has its link-local address in 20 s")
		}
	}
}

func settled(t testing.TB, n *lab.Namespace) bool {
	t.Helper()
	links, err := n.Netlink().LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := n.Netlink().AddrList(l, netlink.FAMILY_V6)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 }) {
			return false
		}
	}
	return true
}
