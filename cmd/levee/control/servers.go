package control

import (
	"net/netip"

	"levee/proxy/servers"
)

// Learned is what is known of one server, see servers.Info.
type Learned struct {
	Server netip.AddrPort `json:"server"`
	Knowledge
	// Source is where the latest of it came from: traffic or probe.
	Source string `json:"source"`
	// AgeSeconds is since then.
	AgeSeconds float64 `json:"age_seconds"`
}

func newLearned(i servers.Info) Learned {
	return Learned{Server: i.Server, Knowledge: newKnowledge(&i.Known, i.WScale), Source: i.Source.String(), AgeSeconds: seconds(i.Age)}
}
