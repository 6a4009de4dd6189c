package proxy

// State is where a flow stands. Data passes in all states but the first two.
//
//	             valid ACK              SYN-ACK
//	StateFree ──────────────▶ Opening ───────────▶ Open
//	                             │                  │ ACK of one side's FIN
//	                 server RST, │                  ▼
//	                 no answer,  │          ClientClosed, ServerClosed
//	                 client RST  │                  │ ACK of the other's
//	                             ▼                  ▼
//	                           Reset ◀── RST ──  TimeWait
//
// A valid ACK for a new connection leads from every state to Opening; a time-out from every state to
// StateFree, except from Opening, which it ends by way of Reset. A direct flow (see direct.go) goes from StateFree to Opening by its SYN
// and on to Open when both hosts have answered.
//
// FINs count when their receivers have acknowledged them (see finMark), in either order or both at once. The same one again changes nothing, and
// nothing but a RST leads back from a half-closed state: it lasts as long as the hosts send. A RST counts if its sequence number is what its receiver expects next (RFC 5961 §3);
// any other is forwarded, and so is the challenge ACK it may be answered with. What passes in TimeWait and Reset is still
// translated: hosts send FINs and resets again.
type State uint8

// The states.
const (
	// StateFree is no flow.
	StateFree State = iota
	// StateOpening waits for the server's SYN-ACK.
	StateOpening
	// StateOpen passes data both ways.
	StateOpen
	// StateClientClosed and StateServerClosed are half-closed: that side's FIN is acknowledged.
	StateClientClosed
	StateServerClosed
	// StateTimeWait has seen both FINs acknowledged. It lasts for Config.TransitoryTimeout, so that
	// retransmissions still pass and a replayed handshake ACK opens nothing.
	StateTimeWait
	// StateReset has ended by a RST or was never answered. It lasts as long as StateTimeWait for the same reasons (RFC 7857 §2.2).
	StateReset

	// NumStates is the number of states.
	NumStates
)

var stateNames = [NumStates]string{"free", "opening", "open", "client_closed", "server_closed", "time_wait", "reset"}

// String returns the state's word, in snake case.
func (s State) String() string {
	if s < NumStates {
		return stateNames[s]
	}
	return "unknown"
}

// Ended says that the flow is over and only remembered: it may be evicted for a new one.
func (s State) Ended() bool { return s == StateTimeWait || s == StateReset }

// event is what can move a flow from one state to another. Whoever raises it has checked
// that the segment is the hosts' own (plausible, or for a RST exact).
type event uint8

const (
	// evHandshake: a valid ACK for this tuple that isn't this flow's own.
	evHandshake event = iota
	// evSynAck: the server accepts; in a direct flow, and the client has acknowledged that.
	evSynAck
	// evClientFIN, evServerFIN: that side has sent all it had, and its peer has acknowledged that.
	evClientFIN
	evServerFIN
	// evRST: either side has reset the connection, or the server refuses it.
	evRST
	// evGiveUp: the server has not answered any SYN, can't be reached, or lacks what the client was promised.
	evGiveUp
	// evTimeout: nothing was seen for as long as the state lasts.
	evTimeout

	numEvents
)

// next is the transition function of the drawing at State. An event that means nothing in a state leaves it.
func next(s State, e event) State {
	switch e {
	case evHandshake:
		return StateOpening
	case evTimeout:
		if s != StateOpening {
			return StateFree
		}
	case evRST:
		if s != StateFree {
			return StateReset
		}
	case evGiveUp:
		if s == StateOpening {
			return StateReset
		}
	case evSynAck:
		if s == StateOpening {
			return StateOpen
		}
	case evClientFIN:
		switch s {
		case StateOpen:
			return StateClientClosed
		case StateServerClosed:
			return StateTimeWait
		}
	case evServerFIN:
		switch s {
		case StateOpen:
			return StateServerClosed
		case StateClientClosed:
			return StateTimeWait
		}
	}
	return s
}

// fin is the event of a FIN from side s.
func fin(s side) event { return evClientFIN + event(s) }
