package lab_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

// A churn keeps its number of connections while it replaces them, and leaves none. Over plain forwarding nothing fails.
func TestChurn(t *testing.T) {
	const flows = 500
	l := labtest.New(t, lab.Config{Attacker: true})
	c, err := l.StartChurn(lab.ChurnConfig{Port: crowdPort, Flows: flows, Window: 64, ResetEvery: 10})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := c.Counts(); n.Opened != flows || n.Closed+n.Reset != 0 || n.Failures() != 0 {
		t.Errorf("after Fill: %+v", n)
	}
	if err := c.Turn(t.Context(), 500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	n := c.Counts()
	// Where slots are used again, more than once.
	if n.Opened < 5*flows || n.Opened-n.Closed-n.Reset != flows || n.Failures() != 0 {
		t.Errorf("after Turn: %+v", n)
	}
	if err := c.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	n = c.Counts()
	if n.Closed+n.Reset != n.Opened || n.Reset != (n.Opened+9)/10 || n.Failures() != 0 {
		t.Errorf("after Drain: %+v", n)
	}
	// It can begin anew.
	if err := c.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := c.Counts(); now.Opened != n.Opened+flows {
		t.Errorf("after another Fill: %+v", now)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Turn(t.Context(), time.Second); err == nil {
		t.Error("it went on after Close")
	}
}

// What gets lost is sent again, and none is counted twice.
func TestChurnInSpiteOfLoss(t *testing.T) {
	const flows = 400
	l := labtest.New(t, lab.Config{Attacker: true})
	if err := l.Gateway.SetLoss(3); err != nil {
		t.Fatal(err)
	}
	c, err := l.StartChurn(lab.ChurnConfig{Port: crowdPort, Flows: flows, Window: 200, ResetEvery: 10})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []func(context.Context) error{c.Fill, c.Drain} {
		if err := step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	n := c.Counts()
	// Of 800 exchanges that each fail with 6 % at most, one is left after six tries in one of 30,000 runs.
	if n.Opened != flows || n.Closed+n.Reset != flows || n.Failures() != 0 || n.Retried < 10 {
		t.Errorf("%+v", n)
	}
}

// A gateway that takes nothing makes failures, not an endless wait.
func TestChurnGivesUp(t *testing.T) {
	l := labtest.New(t, lab.Config{Attacker: true})
	if err := l.Gateway.SetLoss(100); err != nil {
		t.Fatal(err)
	}
	c, err := l.StartChurn(lab.ChurnConfig{Port: crowdPort, Flows: 10, Window: 10})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := c.Fill(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if err := c.Fill(t.Context()); err != nil {
		t.Error(err)
	}
	if n := c.Counts(); n.Unopened != 10 || n.Opened != 0 || n.Retried != 50 {
		t.Errorf("%+v", n)
	}
	// There is nothing to close.
	if err := c.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if n := c.Counts(); n.Unclosed != 0 || n.Failures() != 10 {
		t.Errorf("%+v", n)
	}
}

func TestChurnRefuses(t *testing.T) {
	l := labtest.New(t, lab.Config{Attacker: true})
	for _, bad := range []lab.ChurnConfig{
		{Flows: 1, Window: 1}, {Port: 7, Window: 1}, {Port: 7, Flows: 1}, {Port: 7, Flows: lab.MaxCrowd + 1, Window: 1},
		{Port: 7, Flows: 1, Window: lab.MaxChurnWindow + 1}, {Port: 7, Flows: 1, Window: 1, ResetEvery: -1},
	} {
		if c, err := l.StartChurn(bad); err == nil {
			c.Close()
			t.Errorf("accepted %+v", bad)
		}
	}
}
