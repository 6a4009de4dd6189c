package main

import (
	"strings"
	"testing"
)

// TestMend: what somebody else takes away comes back, and the log has one line about it.
func TestMend(t *testing.T) {
	for _, tt := range []struct {
		name     string
		commands [][]string
	}{
		{"rules flushed", [][]string{{"ip", "rule", "flush", "protocol", "108"}}},
		{"a rule deleted", [][]string{{"ip", "-6", "rule", "del", "iif", "tun0"}}},
		{"the table flushed", [][]string{{"ip", "route", "flush", "table", "7332"}}},
		{"the TUN set down", [][]string{{"ip", "link", "set", "tun0", "down"}}},
		{"the TUN set down and up", [][]string{{"ip", "link", "set", "tun0", "down"}, {"ip", "link", "set", "tun0", "up"}}},
		{"nftables flushed", [][]string{{"nft", "delete table inet levee"}}},
		{"an element deleted from nftables", [][]string{{"nft", "delete element inet levee interfaces { tun0 }"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			yaml := "routing: {notrack: on}\n" + services
			g := newGateway(t, yaml)
			g.onTmpfs(yaml)
			c := g.start()
			before := g.snapshot()
			for _, command := range tt.commands {
				if code, _, stderr := g.run(g.lab.Gateway.Command(t.Context(), command[0], command[1:]...)); code != 0 {
					t.Fatalf("%v: %s", command, stderr)
				}
			}
			g.until("it is repaired", func() bool {
				return strings.Contains(c.Output(), "were gone: repaired") && before.Diff(g.snapshot()) == ""
			})
			if n := strings.Count(c.Output(), "repaired"); n != 1 {
				t.Errorf("%d lines about it:\n%s", n, c.Output())
			}
		})
	}
}
