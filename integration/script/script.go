package script

import (
	"fmt"
	"time"
)

// Side is one end of the connection.
type Side uint8

// The sides.
const (
	Client Side = iota
	Server
)

// String is the side's word in scripts.
func (s Side) String() string {
	if s == Client {
		return "client"
	}
	return "server"
}

func (s Side) peer() Side { return 1 - s }

// Family is the IP version that a script runs over.
type Family uint8

// The families.
const (
	IPv4 Family = iota
	IPv6
)

// Families are all there are.
var Families = []Family{IPv4, IPv6}

// String is the family's word in scripts.
func (f Family) String() string {
	if f == IPv4 {
		return "IPv4"
	}
	return "IPv6"
}

// Script is a parsed script.
type Script struct {
	// Name is that of its file, without ".txt"; Summary what its first comment says.
	Name, Summary string
	// Config are options of the service, in the order of the file.
	Config []Setting
	// Families are what it runs over.
	Families []Family
	// Known is where and why it must fail, by family; nothing where it must pass.
	Known map[Family]Fault
	// MTU in bytes of the links at both edges.
	MTU int

	tolerance time.Duration
	steps     []step
}

// Setting is one option of levee's configuration.
type Setting struct{ Key, Value string }

// Fault is a step that the proxy is known to get wrong.
type Fault struct {
	// Where is the step's file and line.
	Where, Reason string
}

type stepKind uint8

const (
	stepSend stepKind = iota
	stepExpect
	stepNothing
	stepWait
	stepLet
)

type step struct {
	kind stepKind
	// file and line say where text stands.
	file string
	line int
	text string
	// sides are one, or for stepNothing perhaps both.
	sides []Side
	// duration is of stepWait and stepNothing.
	duration time.Duration
	packet   *pattern
	name     string
	value    sum
}

func (s *step) where() string { return fmt.Sprintf("%s:%d", s.file, s.line) }

// form says what kind of packet a pattern is of.
type form uint8

const (
	formSegment form = iota
	formICMP
	formRest
)

// pattern is what a step says about a packet.
type pattern struct {
	form  form
	flags uint8
	// res holds the AE bit; the three reserved ones are a field.
	ae bool
	// fields are those that the step names.
	fields map[string]number
	// options is nil if the step says nothing about them.
	options []option
	exact   bool
	headers []string
	// fragment says that the packet is one, at the offset in bytes, and whether more follow.
	fragment, more bool
	offset         uint16
	badChecksum    bool
	land           bool
	conn           int
	// icmp is the kind of error.
	icmp string
	// after is negative if the step doesn't say.
	after time.Duration
}

// get is the value of a field to send.
func (p *pattern) get(name string, env names) uint32 {
	if n, ok := p.fields[name]; ok {
		return n.low.in(env)
	}
	return defaults[name]
}

// defaults are the fields that are not zero where a step doesn't say them.
var defaults = map[string]uint32{"win": 64240, "ttl": 64, "quote": 20}

// limits are the largest values of the fields.
var limits = map[string]uint32{
	"seq": 1<<32 - 1, "ack": 1<<32 - 1, "win": 1<<16 - 1, "len": 9000, "urg": 1<<16 - 1, "res": 7, "dscp": 63, "ecn": 3,
	"label": 1<<20 - 1, "ttl": 255, "mtu": 1<<16 - 1, "quote": 60,
}
