package servers

import (
	"fmt"
	"net/netip"
	"time"

	"levee/stack"
)

// Key names a server: the address and port that clients connect to.
type Key struct {
	Addr stack.Addr
	Port uint16
}

// AddrPort is the key for people.
func (k Key) AddrPort() netip.AddrPort { return netip.AddrPortFrom(k.Addr.Netip(), k.Port) }

// State is whether a server answers.
type State uint8

// The states.
const (
	// Unknown: nothing is known, or no longer.
	Unknown State = iota
	// Alive: it answered with a SYN-ACK.
	Alive
	// Closed: it answered with a RST, or an ICMP error said that there is no way to it.
	Closed
	// Silent: it answered nothing.
	Silent

	// NumStates is the number of states.
	NumStates
)

var stateNames = [NumStates]string{"unknown", "alive", "closed", "silent"}

// String returns the state's word.
func (s State) String() string {
	if s < NumStates {
		return stateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

func (s State) refuses() bool { return s == Closed || s == Silent }

// Source is where the latest knowledge came from.
type Source uint8

// The sources.
const (
	// Traffic: a connection of a client's.
	Traffic Source = iota
	// Probe: a SYN of the gateway's own.
	Probe

	// NumSources is the number of sources.
	NumSources
)

var sourceNames = [NumSources]string{"traffic", "probe"}

// String returns the source's word.
func (s Source) String() string {
	if s < NumSources {
		return sourceNames[s]
	}
	return fmt.Sprintf("source(%d)", uint8(s))
}

// Question is what a probe is to find out.
type Question uint8

// The questions.
const (
	// WhatItDoes: what a server that answers does. These learn from clients that were served.
	WhatItDoes Question = iota
	// WhetherClosed: whether a port that refused a client refuses others too. A client that scans asks it for every port there is.
	WhetherClosed

	// NumQuestions is the number of questions.
	NumQuestions
)

// Features is a set of what a SYN-ACK can show.
type Features uint8

// The features.
const (
	MSS Features = 1 << iota
	WScale
	SACK
	Timestamps
	ECN

	// All of them.
	All = MSS | WScale | SACK | Timestamps | ECN
)

// Has says whether all of x are in f.
func (f Features) Has(x Features) bool { return f&x == x }

// NoWScale is the window scale of a server that does none (RFC 7323 §2.2).
const NoWScale = stack.WScaleNone

// Answer is what a SYN-ACK shows.
type Answer struct {
	// Asked is what the SYN offered, and what the SYN-ACK's silence therefore means no to. Does is what it agreed to.
	Asked, Does Features
	// MSS in bytes, 0 for none; WScale 0 to 14 or NoWScale; Window the bytes that may be sent at once: a SYN-ACK's is not scaled.
	MSS    uint16
	WScale uint8
	Window uint16
}

// Known is what a Table knows of one server.
type Known struct {
	// State at the time of the look-up.
	State State
	// Knows is what there is an answer about, Does what the answer was.
	Knows, Does Features
	// MSS, if known: in bytes, 0 for a server that doesn't say.
	MSS uint16
	// Window is about the smallest, in bytes, with which it begins (see NextWindow). It means something if anything is known.
	Window uint16
	// Told is the window scale to promise clients for the server's, if known, and Before the one that was promised until a
	// short while ago: an answer to it may still come. They differ from what the server does while that changes often.
	Told, Before uint8
	// Repeats: it answers a SYN that comes twice at once, twice (see Table.Repeats).
	Repeats bool
}

// NextWindow is the first window, in bytes, to count on when a SYN-ACK has shown another one. What a client is told too much waits in vain,
// so that a smaller one counts at once, a larger one little by little.
func NextWindow(known, shown uint16) uint16 {
	if shown <= known {
		return shown
	}
	return known + uint16((int(shown)-int(known)+15)/16)
}

// Info is one server for people.
type Info struct {
	Server netip.AddrPort
	Known
	// WScale of the last SYN-ACK.
	WScale uint8
	Source Source
	// Age is since the latest answer or refusal.
	Age time.Duration
}
