package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"levee/proxy"
)

// fixed lists the keys that can't change while levee runs, with what they are, as one would write it. Everything else a reload changes.
func (c *Config) fixed() []struct {
	key   string
	value any
} {
	return []struct {
		key   string
		value any
	}{
		{"tun.name", c.TUN.Name},
		{"tun.mtu", orAuto(c.TUN.MTU)},
		{"tun.queues", orAuto(c.TUN.Queues)},
		{"tun.txqueuelen", c.TUN.TxQueueLen},
		{"tun.steering", either(c.TUN.Steering, auto, "off")},
		{"routing.manage", c.Routing.Manage},
		{"routing.table", c.Routing.Table},
		{"routing.priority", c.Routing.Priority},
		{"routing.client_interfaces", listOrAuto(c.Routing.ClientInterfaces)},
		{"routing.server_interfaces", listOrAuto(c.Routing.ServerInterfaces)},
		{"routing.on_failure", either(c.Routing.Bypass, "bypass", "block")},
		{"routing.notrack", c.Routing.Notrack},
		{"flows.capacity", c.Flows.Capacity},
		{"flows.early_data_memory", c.Flows.EarlyDataMemory},
		{"learn.probe", c.Learn.Probe},
		{"learn.rate", c.Learn.Rate},
		{"learn.closed_for", c.Learn.ClosedFor},
		{"learn.capacity", c.Learn.Capacity},
		{"state_dir", c.StateDir},
		{"secret_file", c.SecretFile},
		{"secret_shared", c.SecretShared},
		{"metrics.listen", either(c.Metrics.IsValid(), c.Metrics.String(), "none")},
		{"log.format", either(c.Log.JSON, "json", "text")},
	}
}

func orAuto(n int) any {
	if n == 0 {
		return auto
	}
	return n
}

func listOrAuto(names []string) string {
	if names == nil {
		return auto
	}
	return "[" + strings.Join(names, ", ") + "]"
}

func either(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}

// Reloadable says what of next, loaded from the file at path, can't take the place of the configuration c of a levee that runs. The error, if any,
// is a Problem, and names every such key with what it was: nobody else says so, for there is nothing wrong with them.
func (c *Config) Reloadable(next *Config, path string) error {
	var first *Problem
	was, will := c.fixed(), next.fixed()
	for i := range was {
		switch {
		case was[i].value == will[i].value:
		case first == nil:
			first = &Problem{
				Source: sourceOf(path, was[i].key), Key: was[i].key,
				Text: fmt.Sprintf("it can't change while levee runs: restart levee, or write what it was, %v", was[i].value),
			}
		default:
			first.Text += fmt.Sprintf("; also %s, which was %v", was[i].key, was[i].value)
		}
	}
	if first == nil {
		return nil
	}
	return *first
}

// Changes says in words what differs in next that a reload changes: none if nothing does.
func (c *Config) Changes(next *Config) []string {
	var changes []string
	for _, x := range []struct {
		key     string
		was, is any
	}{
		{"flows.idle_timeout", c.Flows.IdleTimeout, next.Flows.IdleTimeout},
		{"flows.transitory_timeout", c.Flows.TransitoryTimeout, next.Flows.TransitoryTimeout},
		{"flows.grace", c.Flows.Grace, next.Flows.Grace},
		{"replies.per_network", c.Replies.PerNetwork, next.Replies.PerNetwork},
		{"replies.neighbours", c.Replies.Neighbours, next.Replies.Neighbours},
		{"log.level", c.Log.Level, next.Log.Level},
	} {
		if x.was != x.is {
			changes = append(changes, fmt.Sprintf("%s is %v, was %v", x.key, x.is, x.was))
		}
	}
	find := func(in []proxy.Service, name string) *proxy.Service {
		if i := slices.IndexFunc(in, func(s proxy.Service) bool { return s.Name == name }); i >= 0 {
			return &in[i]
		}
		return nil
	}
	for i := range next.Services {
		is := &next.Services[i]
		switch was := find(c.Services, is.Name); {
		case was == nil:
			changes = append(changes, fmt.Sprintf("service %s is new, mode %v", is.Name, is.Mode))
		case was.Mode != is.Mode:
			changes = append(changes, fmt.Sprintf("service %s has mode %v, had %v", is.Name, is.Mode, was.Mode))
		case !reflect.DeepEqual(was, is):
			changes = append(changes, fmt.Sprintf("service %s has changed", is.Name))
		}
	}
	for i := range c.Services {
		if name := c.Services[i].Name; find(next.Services, name) == nil {
			changes = append(changes, fmt.Sprintf("service %s is removed", name))
		}
	}
	return changes
}
