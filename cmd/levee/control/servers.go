package control

import (
	"net/netip"

	"levee/proxy/servers"
)

// Learned is what is known of one server, see servers.Info. What is not known is null.
type Learned struct {
	Server netip.AddrPort `json:"server"`
	State  string         `json:"state"`
	// MSS in bytes, 0 if it doesn't say; WScale 0 to 14, or -1 if it does no window scaling.
	MSS        *int  `json:"mss"`
	WScale     *int  `json:"wscale"`
	SACK       *bool `json:"sack"`
	Timestamps *bool `json:"timestamps"`
	ECN        *bool `json:"ecn"`
	// Source is where the latest of it came from: traffic or probe.
	Source string `json:"source"`
	// AgeSeconds is since then.
	AgeSeconds float64 `json:"age_seconds"`
}

func newLearned(i servers.Info) Learned {
	s := Learned{Server: i.Server, State: i.State.String(), Source: i.Source.String(), AgeSeconds: seconds(i.Age)}
	number := func(f servers.Features, n int) *int {
		if !i.Knows.Has(f) {
			return nil
		}
		return &n
	}
	does := func(f servers.Features) *bool {
		if !i.Knows.Has(f) {
			return nil
		}
		does := i.Does.Has(f)
		return &does
	}
	scale := int(i.WScale)
	if i.WScale == servers.NoWScale {
		scale = -1
	}
	s.MSS, s.WScale = number(servers.MSS, int(i.MSS)), number(servers.WScale, scale)
	s.SACK, s.Timestamps, s.ECN = does(servers.SACK), does(servers.Timestamps), does(servers.ECN)
	return s
}
