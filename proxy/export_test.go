package proxy

// Openings is how many connections the counters by server say are opening, in all.
func (p *Proxy) Openings() int {
	n := 0
	for i := range p.opening {
		n += int(p.opening[i].Load())
	}
	return n
}
