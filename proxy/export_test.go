package proxy

// Openings is how many connections the counters by server say are opening, in all.
func (p *Proxy) Openings() int {
	n := 0
	for i := range p.opening {
		n += int(p.opening[i].Load())
	}
	return n
}

// SourceFlows is how many flows the counters by source say there are, in all.
func (p *Proxy) SourceFlows() int {
	n := 0
	for i := range p.perSource.rows[0] {
		n += int(p.perSource.rows[0][i].Load())
	}
	return n
}

// KillsWaiting is how many orders of Kill no worker has taken.
func (p *Proxy) KillsWaiting() int { return len(p.kills) }
