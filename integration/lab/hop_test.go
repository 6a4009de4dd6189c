package lab_test

import (
	"testing"
	"time"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

// Data crosses a hop both ways, and whoever sends it first learns on the way that it is narrow. (The other then knows from its MSS.)
func TestHop(t *testing.T) {
	for _, f := range families {
		for _, way := range []string{"from servers", "from clients"} {
			t.Run(f.name+" "+way, func(t *testing.T) {
				l := labtest.New(t, lab.Config{Clients: 2, Servers: 2, ClientHopMTU: 1300, ServerHopMTU: 1280})
				from, to := l.Servers, l.Clients
				if way == "from clients" {
					from, to = to, from
				}
				for _, h := range from {
					web := h.AddrPort(f.v6, webPort)
					if _, err := h.StartWeb(0, web); err != nil {
						t.Fatal(err)
					}
					for _, other := range to {
						transfer(t, other.Namespace, lab.URL(web, ""))
					}
					n, err := h.Counters()
					if err != nil {
						t.Fatal(err)
					}
					if got := n["IcmpInDestUnreachs"] + n["Icmp6InPktTooBigs"]; got == 0 {
						t.Errorf("%s was told of no narrow place", h.Name)
					}
				}
			})
		}
	}
}

func TestHopRefuses(t *testing.T) {
	for name, cfg := range map[string]lab.Config{
		"too small":      {ClientHopMTU: 1279},
		"too many hosts": {ServerHopMTU: 1280, Servers: 5},
		"with a delay":   {ClientHopMTU: 1280, ClientDelays: []time.Duration{time.Millisecond}},
	} {
		if l, err := lab.New(cfg); err == nil {
			l.Close()
			t.Errorf("%s: made", name)
		}
	}
}
