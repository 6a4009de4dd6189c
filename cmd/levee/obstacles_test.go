package main

import (
	"testing"

	"github.com/vishvananda/netlink"
)

// addLink makes something in the gateway that levee finds in its way.
func addLink(t *testing.T, g *gateway, name, kind string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	var link netlink.Link = &netlink.Bridge{LinkAttrs: attrs}
	if kind == "tun" {
		link = &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TUN}
	}
	// Not by the handle: it makes a TUN in the namespace of the calling thread.
	if err := g.lab.Gateway.Do(func() error { return netlink.LinkAdd(link) }); err != nil {
		t.Fatalf("add %s: %v", name, err)
	}
}

// addRule makes a rule that isn't levee's, for packets of an interface that there isn't.
func addRule(t *testing.T, g *gateway, priority, table int) {
	t.Helper()
	rule := netlink.NewRule()
	rule.Family = netlink.FAMILY_V4
	rule.Priority = priority
	rule.Table = table
	rule.IifName = "strange0"
	if err := g.lab.Gateway.Netlink().RuleAdd(rule); err != nil {
		t.Fatalf("add rule: %v", err)
	}
}
