package control

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"

	"levee/proxy"
	"levee/proxy/servers"
)

// Explanation is what becomes of a SYN between two ends, step by step.
type Explanation struct {
	Client netip.AddrPort `json:"client"`
	Server netip.AddrPort `json:"server"`
	// Path is which way the kernel sends the connection's packets, in the order of a connection.
	Path []Hop `json:"path"`
	// Service protects the server, ClientService the client; empty if none does. Mode is that of the first, or else of the second.
	Service       string `json:"service"`
	ClientService string `json:"client_service"`
	Mode          string `json:"mode"`
	// Flood is what the modes auto and monitor make of the server's address and port now, null in others.
	Flood *Alarm `json:"flood"`
	// Flow is the record of a connection between these ends, null if there is none.
	Flow *Flow `json:"flow"`
	// Known is what is known of the server, null if nothing is.
	Known *Knowledge `json:"known"`
	// Promise is what the SYN-ACK would tell the client; null unless the verdict is answer.
	Promise *Promise `json:"promise"`
	// Replies is how many answers that come to nothing are left to the client's network; null if the SYN needs none.
	Replies *RepliesLeft `json:"replies"`
	// Verdict on a SYN that reaches levee, one of proxy.Verdict's words, and the reason of one that is dropped or passed.
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"`
	// Problems are what keeps the connection from working, each in one line; none if nothing was found.
	Problems []string `json:"problems"`
}

// Hop is one way through the kernel's rules and routes.
type Hop struct {
	// Step is "to_levee", "to_server", "answer_to_levee" or "to_client".
	Step string `json:"step"`
	// In and Out are interfaces; Out is empty if the packet goes nowhere.
	In  string `json:"in"`
	Out string `json:"out"`
	// Table is the routing table, and Rule the priority of the rule that led to it, 0 if it isn't known.
	Table int `json:"table"`
	Rule  int `json:"rule"`
	// Gateway is the next router, empty if there is none.
	Gateway string `json:"gateway"`
	// OK says that this is the way that it should go; otherwise Problems has a line about it.
	OK bool `json:"ok"`
}

// Knowledge is what is known of a server. What isn't known is null.
type Knowledge struct {
	State string `json:"state"`
	// MSS in bytes, 0 if it doesn't say; WScale 0 to 14, or -1 if it does no window scaling.
	MSS        *int  `json:"mss"`
	WScale     *int  `json:"wscale"`
	SACK       *bool `json:"sack"`
	Timestamps *bool `json:"timestamps"`
	ECN        *bool `json:"ecn"`
}

// Alarm is whether a server's address and port are flooded, and from when on they would be.
type Alarm struct {
	// Engaged: mode auto answers SYNs with cookies now.
	Engaged  bool `json:"engaged"`
	HalfOpen int  `json:"half_open"`
	SynRate  int  `json:"syn_rate"`
	// HoldSeconds is how long it takes to let go.
	HoldSeconds float64 `json:"hold_seconds"`
}

// Promise is what a SYN-ACK tells a client that offers everything.
type Promise struct {
	// MSS and Window in bytes; WScale 0 to 14, or -1 for none.
	MSS        int  `json:"mss"`
	Window     int  `json:"window"`
	WScale     int  `json:"wscale"`
	SACK       bool `json:"sack"`
	Timestamps bool `json:"timestamps"`
	ECN        bool `json:"ecn"`
}

// RepliesLeft is how much of the configuration's replies is left to a client now.
type RepliesLeft struct {
	// Network is the client's, a /24 or a /56.
	Network    string `json:"network"`
	ToNetwork  int    `json:"to_network"`
	PerNetwork int    `json:"per_network"`
	// NewNeighbour says that the next two count for this client: it is on a link of the gateway's, and new there.
	NewNeighbour bool `json:"new_neighbour"`
	ToNeighbours int  `json:"to_neighbours"`
	Neighbours   int  `json:"neighbours"`
}

// NewExplanation fills in what the proxy knows.
func NewExplanation(client, server netip.AddrPort, e proxy.Explanation) Explanation {
	x := Explanation{
		Client: client, Server: server, Path: []Hop{}, Problems: []string{},
		Service: e.Service, ClientService: e.ClientService,
		Verdict: e.Verdict.String(),
	}
	d := proxy.Decision{Verdict: e.Verdict, Drop: e.Drop, Pass: e.Pass}
	x.Reason = d.Reason()
	if e.Service != "" || e.ClientService != "" {
		x.Mode = e.Mode.String()
	}
	if e.Watched {
		x.Flood = &Alarm{Engaged: e.DestinationEngaged, HalfOpen: e.Engagement.HalfOpen, SynRate: e.Engagement.SYNRate, HoldSeconds: seconds(e.Engagement.Hold)}
	}
	if e.Recorded {
		f := newFlow(e.Flow)
		x.Flow = &f
	}
	if e.Server.State != servers.Unknown || e.Server.Knows != 0 {
		k := newKnowledge(&e.Server, e.Server.Told)
		x.Known = &k
	}
	if r := e.Replies; r.PerNetwork != 0 {
		x.Replies = &RepliesLeft{
			Network: r.Network.String(), ToNetwork: r.ToNetwork, PerNetwork: r.PerNetwork,
			NewNeighbour: r.NewNeighbour, ToNeighbours: r.ToNeighbours, Neighbours: r.Neighbours,
		}
	}
	if e.Verdict == proxy.VerdictAnswer {
		x.Promise = &Promise{
			MSS: int(e.Promise.MSS), Window: int(e.Window), WScale: scale(e.Promise.WScale),
			SACK: e.Promise.SACK, Timestamps: e.Promise.Timestamps, ECN: e.Promise.ECN && e.Promise.Timestamps,
		}
	}
	return x
}

// scale is a window scale with -1 for none.
func scale(wscale uint8) int {
	if wscale == servers.NoWScale {
		return -1
	}
	return int(wscale)
}

func newKnowledge(k *servers.Known, wscale uint8) Knowledge {
	number := func(f servers.Features, n int) *int {
		if !k.Knows.Has(f) {
			return nil
		}
		return &n
	}
	does := func(f servers.Features) *bool {
		if !k.Knows.Has(f) {
			return nil
		}
		does := k.Does.Has(f)
		return &does
	}
	return Knowledge{
		State: k.State.String(), MSS: number(servers.MSS, int(k.MSS)), WScale: number(servers.WScale, scale(wscale)),
		SACK: does(servers.SACK), Timestamps: does(servers.Timestamps), ECN: does(servers.ECN),
	}
}

// Question is what explain is asked.
type Question struct {
	Client, Server netip.AddrPort
	// In is the interface that the client's packets come in by; empty means the one that the gateway would use to reach the client.
	In string
}

func (q Question) query() url.Values {
	return url.Values{"client": {q.Client.String()}, "server": {q.Server.String()}, "in": {q.In}}
}

func parseQuestion(v url.Values) (q Question, err error) {
	for _, end := range []struct {
		name string
		to   *netip.AddrPort
	}{{"client", &q.Client}, {"server", &q.Server}} {
		*end.to, err = netip.ParseAddrPort(v.Get(end.name))
		if err == nil && end.to.Port() == 0 {
			err = fmt.Errorf("port 0")
		}
		if err != nil {
			return q, fmt.Errorf("%s %q is no address and port: write 192.0.2.1:80 or [2001:db8::1]:80", end.name, v.Get(end.name))
		}
		*end.to = netip.AddrPortFrom(end.to.Addr().Unmap().WithZone(""), end.to.Port())
	}
	if q.Client.Addr().Is4() != q.Server.Addr().Is4() {
		return q, fmt.Errorf("%v and %v are of different families: nothing can go from the one to the other", q.Client, q.Server)
	}
	q.In = v.Get("in")
	return q, nil
}

func serveExplain(w http.ResponseWriter, r *http.Request, source Source) {
	q, err := parseQuestion(r.URL.Query())
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	answer, err := source.Explain(q)
	if err != nil {
		refuse(w, http.StatusConflict, err)
		return
	}
	serveOne(w, answer)
}
