package proxy

import "levee/stack"

// A service of ModeMonitor has no packet changed and none dropped: what would be is counted, and goes on as it is. A packet's
// service is that of its addresses and ports. Of a packet without ports, which is malformed or a later fragment, only the addresses tell: it goes on if
// every service at them that is protected is only monitored. Neither holds for connections that are translated already when a
// reload makes their service a monitored one: they go on as they are, and so does what levee does about them.

// dropOrSpare drops the packet in work for a reason, unless its service is only monitored.
func (w *Worker) dropOrSpare(r DropReason, frame []byte) {
	if svc := w.policy.monitored(&w.pkt); svc != nil {
		w.spare(svc, frame)
		return
	}
	w.drop(r)
}

// spare lets the packet in work pass that would be dropped if the service were not only monitored.
func (w *Worker) spare(svc *service, frame []byte) {
	w.count(svc).wouldDrop.inc()
	w.pass(PassMonitored, frame)
}

// monitored is the service of a packet if it is only monitored, and so is whichever else may be the packet's; otherwise nil.
func (p *policy) monitored(packet *stack.Packet) *service {
	to, others := p.monitoredAt(&packet.Dst, packet.DstPort)
	if others {
		return nil
	}
	from, others := p.monitoredAt(&packet.Src, packet.SrcPort)
	if others {
		return nil
	}
	if to == nil {
		return from
	}
	return to
}

// monitoredAt is the service of an address and port that is only monitored, one of them if the port is 0, which stands for any. others says
// that there is one that is protected.
func (p *policy) monitoredAt(addr *stack.Addr, port uint16) (svc *service, others bool) {
	candidates, _ := p.prefixes.Lookup(addr.Netip())
	for _, s := range candidates {
		switch {
		case !s.protected() || port != 0 && !s.hasPort(port):
		case s.Mode != ModeMonitor:
			return nil, true
		default:
			svc = s
		}
	}
	return svc, false
}
