package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"levee/cmd/levee/control"
	"levee/routes"
)

// Explain implements control.Source.
func (d *daemon) Explain(q control.Question) (control.Explanation, error) {
	x := control.NewExplanation(q.Client, q.Server, d.proxy.Explain(time.Now(), q.Client, q.Server))
	if q.In != "" {
		if _, err := net.InterfaceByName(q.In); err != nil {
			return x, fmt.Errorf("there is no interface %q: name the one that the client's packets come in by", q.In)
		}
	}
	t := tracer{tun: d.device.Name(), explanation: &x}
	if t.plan = d.plan(); t.plan != nil {
		live, err := routes.Read(routesConfig(*d.reloads.cfg.Load()))
		if err != nil {
			return x, err
		}
		t.live = live
		t.clients = t.plan.ClientInterfaces()
	}
	t.trace(q)
	return x, nil
}

// plan is the one in force, which a reload changes; nil if the operator does the routing.
func (d *daemon) plan() *routes.Plan {
	d.reloads.mu.Lock()
	defer d.reloads.mu.Unlock()
	return d.layout.Routes
}

// tracer follows a connection's packets through the kernel and notes what isn't as it should be.
type tracer struct {
	tun  string
	live routes.Live
	plan *routes.Plan // nil if the operator does the routing
	// clients are the interfaces whose packets levee takes; none if the operator does the routing.
	clients     []string
	explanation *control.Explanation
}

func (t *tracer) trace(q control.Question) {
	// A server that connects to the outside is on the far side of the rules, but the way is the same.
	proxied := t.explanation.Service != "" || t.explanation.ClientService != ""
	if q.In == "" {
		way, err := routes.Lookup(routes.Probe{Dst: q.Client})
		if way.Local {
			t.problem("the client %v is an address of the gateway itself, whose own connections go to the servers without levee", q.Client.Addr())
			return
		}
		if err != nil {
			t.problem("the gateway has no way to the client %v: add a route, or name the interface with --in", q.Client.Addr())
			return
		}
		q.In = way.Interface
	}
	elsewhere := proxied && t.explanation.Service != "" && len(t.clients) > 0 && !slices.Contains(t.clients, q.In)
	if elsewhere {
		t.problem("the client comes in by %s, which is not among the client interfaces (%s): SYNs from there go around levee; see routing.client_interfaces",
			q.In, strings.Join(t.clients, ", "))
	}
	there := t.hop("to_levee", q.In, q.Client, q.Server, proxied && !elsewhere)
	if elsewhere {
		t.explanation.Path[0].OK = false
	}
	if there.Out != t.tun {
		return // what follows is not for levee
	}
	out := t.hop("to_server", t.tun, q.Client, q.Server, false)
	if out.Out == "" {
		return
	}
	answer := t.hop("answer_to_levee", out.Out, q.Server, q.Client, proxied)
	if !proxied && answer.Out != t.tun {
		return // levee passes the one direction, and needn't see the other
	}
	back := t.hop("to_client", t.tun, q.Server, q.Client, false)
	if back.Out != "" && back.Out != q.In {
		t.problem("answers leave by %s, but the client comes in by %s: that is well only if the hosts behind %s pass them on", back.Out, q.In, back.Out)
	}
}

// hop asks the kernel for one way, and notes whether it leads into the TUN as it should, or out of it.
func (t *tracer) hop(step, in string, src, dst netip.AddrPort, intoTUN bool) control.Hop {
	hop := control.Hop{Step: step, In: in}
	probe := routes.Probe{Iif: in, Src: src, Dst: dst}
	way, err := routes.Lookup(probe)
	cause, foreign := "", false
	if t.plan != nil {
		cause, foreign = t.plan.Blame(&t.live, probe, way) // the zero Way if there is none
	}
	switch {
	case err != nil && foreign:
		t.problem("packets from %v to %v that come in by %s are dropped by %s", src.Addr(), dst.Addr(), in, cause)
	case errors.Is(err, routes.ErrNotForwarded):
		t.problem("the kernel refuses packets from %v to %v that come in by %s: forwarding is off there (sysctl net.ipv4.ip_forward, net.ipv6.conf.all.forwarding), or rp_filter finds their source elsewhere",
			src.Addr(), dst.Addr(), in)
	case err != nil:
		t.problem("from %s to %v: %v: add one to the main table", in, dst.Addr(), err)
	case way.Local:
		t.problem("%v is an address of the gateway itself, which can't be proxied", dst.Addr())
	case way.Broadcast:
		t.problem("%v is a broadcast address: no connection goes there", dst.Addr())
	case intoTUN && way.Interface != t.tun && foreign:
		t.problem("packets from %v to %v that come in by %s go to %s, around levee, by %s", src.Addr(), dst.Addr(), in, way.Interface, cause)
	case intoTUN && way.Interface != t.tun:
		t.problem("packets from %v to %v that come in by %s go to %s, around levee: see levee plan --diff", src.Addr(), dst.Addr(), in, way.Interface)
	case !intoTUN && in == t.tun && way.Interface == t.tun:
		t.problem("packets that levee sends to %v come back to it: see levee plan --diff", dst.Addr())
	default:
		hop.OK = true
	}
	if err == nil {
		hop.Out, hop.Table = way.Interface, way.Table
		if way.Gateway.IsValid() {
			hop.Gateway = way.Gateway.String()
		}
		if rule, ok := t.live.RuleFor(probe, way.Table); ok {
			hop.Rule = rule.Priority
		}
	}
	t.explanation.Path = append(t.explanation.Path, hop)
	return hop
}

func (t *tracer) problem(format string, args ...any) {
	t.explanation.Problems = append(t.explanation.Problems, fmt.Sprintf(format, args...))
}
