package config

import (
	"fmt"
	"reflect"
	"slices"

	"levee/proxy"
)

// fixed lists the keys that can't change while levee runs, with what they are. Everything else a reload changes.
func (c *Config) fixed() []struct {
	key   string
	value any
} {
	return []struct {
		key   string
		value any
	}{
		{"tun.name", c.TUN.Name},
		{"tun.mtu", c.TUN.MTU},
		{"tun.queues", c.TUN.Queues},
		{"tun.txqueuelen", c.TUN.TxQueueLen},
		{"tun.steering", c.TUN.Steering},
		{"routing.manage", c.Routing.Manage},
		{"routing.table", c.Routing.Table},
		{"routing.priority", c.Routing.Priority},
		{"routing.client_interfaces", c.Routing.ClientInterfaces},
		{"routing.server_interfaces", c.Routing.ServerInterfaces},
		{"routing.on_failure", c.Routing.Bypass},
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
		{"metrics.listen", c.Metrics},
		{"log.format", c.Log.JSON},
	}
}

// Reloadable says what of next, loaded from the file at path, can't take the place of the configuration c of a levee that runs. The error, if any,
// is Problems.
func (c *Config) Reloadable(next *Config, path string) error {
	var problems Problems
	was, will := c.fixed(), next.fixed()
	for i := range was {
		if !reflect.DeepEqual(was[i].value, will[i].value) {
			problems = append(problems, Problem{
				Source: sourceOf(path, was[i].key), Key: was[i].key,
				Text: "it can't change while levee runs: restart levee, or write what it was",
			})
		}
	}
	if len(problems) > 0 {
		return problems
	}
	return nil
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
