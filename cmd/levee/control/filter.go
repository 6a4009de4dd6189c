package control

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"levee/proxy"
)

// Filter chooses flows. Empty fields choose all.
type Filter struct {
	Service, State string
	// Client is the end that opened the flow, Server the other.
	Client, Server netip.Prefix
	// ClientPort and ServerPort are ports; 0 means any.
	ClientPort, ServerPort uint16
	// EitherWay says that Client and Server may as well be the other end.
	EitherWay bool
	// Limit is the most flows to return; 0 means all.
	Limit int
}

// All says that the filter chooses every flow there is.
func (f Filter) All() bool {
	f.Limit = 0
	return f == Filter{}
}

// Between chooses the flow between two ends, whichever has opened it.
func (f Filter) Between(client, server netip.AddrPort) Filter {
	f.EitherWay = true
	f.Client, f.ClientPort = netip.PrefixFrom(client.Addr(), client.Addr().BitLen()), client.Port()
	f.Server, f.ServerPort = netip.PrefixFrom(server.Addr(), server.Addr().BitLen()), server.Port()
	return f
}

func (f Filter) match(i proxy.FlowInfo) bool {
	return (f.Service == "" || f.Service == i.Service) && (f.State == "" || f.State == i.State.String()) &&
		(f.matchEnds(i.Client, i.Server) || f.EitherWay && f.matchEnds(i.Server, i.Client))
}

func (f Filter) matchEnds(client, server netip.AddrPort) bool {
	return matchEnd(f.Client, f.ClientPort, client) && matchEnd(f.Server, f.ServerPort, server)
}

func matchEnd(prefix netip.Prefix, port uint16, end netip.AddrPort) bool {
	return (!prefix.IsValid() || prefix.Contains(end.Addr())) && (port == 0 || port == end.Port())
}

// States are the words that Filter.State may be.
func States() []string {
	var words []string
	for s := proxy.StateFree + 1; s < proxy.NumStates; s++ {
		words = append(words, s.String())
	}
	return words
}

// eitherWay is the name of Filter.EitherWay in a query.
const eitherWay = "either_way"

func (f Filter) query() url.Values {
	q := url.Values{"limit": {strconv.Itoa(f.Limit)}}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("service", f.Service)
	set("state", f.State)
	if f.EitherWay {
		set(eitherWay, "yes")
	}
	for _, end := range []struct {
		name   string
		prefix netip.Prefix
		port   uint16
	}{{"client", f.Client, f.ClientPort}, {"server", f.Server, f.ServerPort}} {
		if end.prefix.IsValid() {
			set(end.name, end.prefix.String())
		}
		if end.port != 0 {
			set(end.name+"_port", strconv.Itoa(int(end.port)))
		}
	}
	return q
}

func parseFilter(q url.Values, services []string) (Filter, error) {
	f := Filter{Service: q.Get("service"), State: q.Get("state"), EitherWay: q.Get(eitherWay) != ""}
	for name := range q {
		if !slices.Contains([]string{"service", "state", "client", "server", "client_port", "server_port", eitherWay, "limit"}, name) {
			return f, fmt.Errorf("there is no filter %q in this daemon: use its own levee", name) // whoever kills must not kill more than was meant
		}
	}
	if err := checkService(f.Service, services); err != nil {
		return f, err
	}
	if f.State != "" && !slices.Contains(States(), f.State) {
		return f, fmt.Errorf("%q is not a state: use one of %s", f.State, strings.Join(States(), ", "))
	}
	for _, end := range []struct {
		name   string
		prefix *netip.Prefix
		port   *uint16
	}{{"client", &f.Client, &f.ClientPort}, {"server", &f.Server, &f.ServerPort}} {
		if text := q.Get(end.name); text != "" {
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				return f, fmt.Errorf("%s %q is no prefix: write 192.0.2.0/24 or 2001:db8::/64", end.name, text)
			}
			*end.prefix = prefix.Masked()
		}
		if text := q.Get(end.name + "_port"); text != "" {
			n, err := strconv.ParseUint(text, 10, 16)
			if err != nil || n == 0 {
				return f, fmt.Errorf("%s_port %q is no port: use 1 to 65535", end.name, text)
			}
			*end.port = uint16(n)
		}
	}
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return f, fmt.Errorf("limit %q is not a number: use 1 or more, or 0 for all", text)
		}
		f.Limit = n
	}
	return f, nil
}
