package script

import (
	"fmt"
	"strings"
	"time"
)

// Arrival is an IP packet that came, and when.
type Arrival struct {
	Packet []byte
	At     time.Time
}

// Network is what lies between the two ends of one run.
type Network interface {
	// Send sends an IP packet from a side. It doesn't keep the packet.
	Send(from Side, packet []byte) error
	// Next is the next packet that came for a side's address, or false if none has come by the deadline. The caller keeps it.
	Next(to Side, deadline time.Time) (Arrival, bool)
}

const (
	// patience is how long a packet may take that a step without "after" waits for.
	patience = 3 * time.Second
	// grace is how long after the last step packets still count as too many.
	grace = 100 * time.Millisecond
)

// Failure is a packet, or its absence, that a script didn't expect.
type Failure struct {
	// Where is file and line, empty at the end of the script; Want the step there.
	Where, Want string
	// Seen is what came instead, Why what is wrong with it.
	Seen, Why string
	// Transcript is all that was sent and received.
	Transcript []string
}

// Error tells everything, in several lines.
func (f *Failure) Error() string {
	return fmt.Sprintf("%s: %s\n  want %s\n  seen %s\nall packets:\n  %s",
		f.Where, f.Why, f.Want, f.Seen, strings.Join(f.Transcript, "\n  "))
}

// run is a run of a script.
type run struct {
	*Script
	network   Network
	addresses Addresses
	env       names
	began     time.Time
	// last is when the packet of the last step was sent or came.
	last       time.Time
	transcript []string
}

// Run plays both ends. The error is a *Failure if something else came than the script says.
func (s *Script) Run(network Network, a Addresses) error {
	now := time.Now()
	r := &run{Script: s, network: network, addresses: a, env: names{}, began: now, last: now}
	for i := range s.steps {
		if err := r.step(&s.steps[i]); err != nil {
			return err
		}
	}
	end := step{file: s.Name + ".txt", text: "nothing more"}
	end.sides, end.duration = []Side{Client, Server}, grace
	return r.nothing(&end)
}

func (r *run) step(s *step) error {
	switch s.kind {
	case stepSend:
		return r.send(s)
	case stepExpect:
		return r.expect(s)
	case stepNothing:
		return r.nothing(s)
	case stepWait:
		time.Sleep(s.duration)
	case stepLet:
		r.env[s.name] = s.value.in(r.env)
	}
	return nil
}

func (r *run) send(s *step) error {
	raw := s.packet.bytes(r.env, &r.addresses, s.sides[0])
	r.last = time.Now()
	r.note(r.last, s.sides[0], ">", raw)
	if err := r.network.Send(s.sides[0], raw); err != nil {
		return fmt.Errorf("%s: %w", s.where(), err)
	}
	return nil
}

func (r *run) expect(s *step) error {
	wait := patience
	if s.packet.after > 0 {
		wait = s.packet.after + r.tolerance
	}
	got, ok := r.network.Next(s.sides[0], r.last.Add(wait))
	if !ok {
		return r.failure(s, "nothing", fmt.Sprintf("nothing came to the %s in %s", s.sides[0], wait))
	}
	came := got.At.Sub(r.last)
	r.last = got.At
	r.note(got.At, s.sides[0], "<", got.Packet)
	packet := read(got.Packet)
	differ := s.packet.differences(&packet, r.env, &r.addresses, s.sides[0])
	if s.packet.after > 0 && (came < s.packet.after-r.tolerance || came > s.packet.after+r.tolerance) {
		differ = append(differ, fmt.Sprintf("time: it came after %s", came.Round(time.Millisecond)))
	}
	if differ != nil {
		return r.failure(s, r.describe(s.sides[0], &packet), "different: "+strings.Join(differ, ", "))
	}
	return nil
}

func (r *run) nothing(s *step) error {
	deadline := time.Now().Add(s.duration)
	for _, side := range s.sides {
		if got, ok := r.network.Next(side, deadline); ok {
			r.note(got.At, side, "<", got.Packet)
			packet := read(got.Packet)
			return r.failure(s, r.describe(side, &packet), fmt.Sprintf("a packet came to the %s that no step asks for", side))
		}
	}
	return nil
}

func (r *run) describe(side Side, p *packet) string {
	return fmt.Sprintf("%s < %s", side, p.describe(r.env, &r.addresses))
}

func (r *run) note(at time.Time, side Side, arrow string, raw []byte) {
	p := read(raw)
	r.transcript = append(r.transcript,
		fmt.Sprintf("%6.3fs %s %s %s", at.Sub(r.began).Seconds(), side, arrow, p.describe(r.env, &r.addresses)))
}

func (r *run) failure(s *step, seen, why string) error {
	// What else has come says more about why.
	for _, side := range []Side{Client, Server} {
		for {
			got, ok := r.network.Next(side, time.Now())
			if !ok {
				break
			}
			r.note(got.At, side, "<", got.Packet)
		}
	}
	where := s.where()
	if s.line == 0 {
		where = s.file + ", at its end"
	}
	return &Failure{Where: where, Want: s.text, Seen: seen, Why: why, Transcript: r.transcript}
}
