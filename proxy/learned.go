package proxy

import (
	"maps"

	"levee/proxy/flood"
)

// maxUnused bounds the services whose baselines are kept while they aren't configured, in 1.4 KB each.
const maxUnused = 1024

// Learned is what is usual for the services that are, or have been, watched, by name: to be given to Relearn of the next Proxy. Services that a
// reload has removed are among them for a week, should they come back.
func (p *Proxy) Learned() map[string]flood.Learned {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := maps.Clone(p.unused)
	for _, s := range p.policy.Load().services {
		if l := p.floods.Learned(s.state.watch); l != (flood.Learned{}) {
			all[s.Name] = l
		}
	}
	return all
}

// Relearn gives the services what was known of them before. What is known of others is kept for a reload that brings them.
func (p *Proxy) Relearn(learned map[string]flood.Learned) {
	p.mu.Lock()
	defer p.mu.Unlock()
	learned = maps.Clone(learned)
	p.relearn(learned)
	for name, l := range learned {
		p.setAside(name, l)
	}
}

// relearn gives the services of the latest policy what was known of them, and takes it out of learned. Proxy.mu is held.
func (p *Proxy) relearn(learned map[string]flood.Learned) {
	for _, s := range p.policy.Load().services {
		if l, ok := learned[s.Name]; ok {
			p.floods.Relearn(s.state.watch, l)
			delete(learned, s.Name)
		}
	}
}

// leave sets aside what is known of the services of a former policy that the latest one, of the time unix, has no longer. Proxy.mu is held.
func (p *Proxy) leave(former *policy, unix int64) {
	hour := unix / 3600
	maps.DeleteFunc(p.unused, func(_ string, l flood.Learned) bool { return max(l.Busiest.Hour, l.Total.Hour) <= hour-flood.Hours })
	configured := make(map[string]bool)
	for _, s := range p.policy.Load().services {
		configured[s.Name] = true
	}
	for _, s := range former.services {
		if l := p.floods.Learned(s.state.watch); !configured[s.Name] && l != (flood.Learned{}) {
			p.setAside(s.Name, l)
		}
	}
}

// setAside keeps what is known of a service, if there is room. Proxy.mu is held.
func (p *Proxy) setAside(name string, l flood.Learned) {
	if _, known := p.unused[name]; known || len(p.unused) < maxUnused {
		p.unused[name] = l
	}
}
