package lab

// FloodKind is what a flood consists of.
type FloodKind uint8

// The kinds. Numbers that a cookie or a connection would have to have are random.
const (
	FloodSYN FloodKind = iota
	FloodACK
	FloodSYNACK
	FloodRST
	FloodFIN
	// FloodFragments are later fragments: they have no ports.
	FloodFragments
	// FloodMixed is all of them in turn.
	FloodMixed

	numFloodKinds
)

var floodKindNames = [numFloodKinds]string{"SYN", "ACK", "SYN-ACK", "RST", "FIN", "fragments", "mixed"}

// String returns the kind's name.
func (k FloodKind) String() string {
	if k < numFloodKinds {
		return floodKindNames[k]
	}
	return "unknown"
}

// FloodKinds are all kinds.
func FloodKinds() []FloodKind {
	kinds := make([]FloodKind, numFloodKinds)
	for i := range kinds {
		kinds[i] = FloodKind(i)
	}
	return kinds
}

// flags are the TCP flags of the kind, if it is one with a TCP header.
func (k FloodKind) flags() byte {
	return [numFloodKinds]byte{
		FloodSYN: flagSYN, FloodACK: flagACK, FloodSYNACK: flagSYN | flagACK, FloodRST: flagRST, FloodFIN: flagFIN | flagACK, FloodFragments: flagACK,
	}[k]
}

// newFloodTemplates prepares the packets of a flood that cross a link from its host to its gateway.
func newFloodTemplates(l *Link, cfg *FloodConfig) []*floodTemplate {
	if cfg.Kind != FloodMixed {
		return []*floodTemplate{newFloodTemplate(l, cfg, cfg.Kind)}
	}
	var all []*floodTemplate
	for k := range FloodMixed {
		all = append(all, newFloodTemplate(l, cfg, k))
	}
	return all
}
