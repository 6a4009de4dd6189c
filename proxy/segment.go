package proxy

import (
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"levee/stack"
)

const (
	flagFIN = header.TCPFlagFin
	flagSYN = header.TCPFlagSyn
	flagRST = header.TCPFlagRst
	flagACK = header.TCPFlagAck
	flagECE = header.TCPFlagEce
	flagCWR = header.TCPFlagCwr
	flagURG = header.TCPFlagUrg
	flagPSH = header.TCPFlagPsh
)

func isSYN(p *stack.Packet) bool { return p.Flags&flagSYN != 0 }
func isACK(p *stack.Packet) bool { return p.Flags&flagACK != 0 }
func isRST(p *stack.Packet) bool { return p.Flags&flagRST != 0 }
func isFIN(p *stack.Packet) bool { return p.Flags&flagFIN != 0 }

// saneFlags says whether the flags can come from a TCP (RFC 9293 §3.10): exactly one of SYN, FIN, RST
// or none of them, and ACK on all but a first SYN and a RST. URG, PSH and the ECN bits may
// go with any (RFC 3360: a middlebox must not mind them).
func saneFlags(f header.TCPFlags) bool {
	switch f & (flagSYN | flagFIN | flagRST) {
	case flagSYN, flagRST:
		return true
	case 0, flagFIN:
		return f&flagACK != 0
	}
	return false
}
