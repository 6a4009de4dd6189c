package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"levee/cmd/levee/config"
	"levee/cmd/levee/control"
	"levee/cmd/levee/daemon"
	"levee/routes"
)

// planned is the answer of plan in JSON.
type planned struct {
	File string `json:"file"`
	// Managed: rules, routes and sysctls are levee's.
	Managed          bool       `json:"managed"`
	TUN              plannedTUN `json:"tun"`
	ClientInterfaces []string   `json:"client_interfaces"`
	ServerInterfaces []string   `json:"server_interfaces"`
	Notes            []string   `json:"notes"`
	// Steps are the commands, in their order.
	Steps []routes.Step `json:"steps"`
	// Difference is nil unless it was asked for.
	Difference *difference `json:"difference"`
}

// plannedTUN is what has become of auto.
type plannedTUN struct {
	Name       string `json:"name"`
	MTU        int    `json:"mtu"`
	Queues     int    `json:"queues"`
	TxQueueLen int    `json:"txqueuelen"`
}

// difference is what separates the machine from a plan.
type difference struct {
	// Same: the machine is as planned.
	Same bool `json:"same"`
	// Daemon: a levee with this configuration answers.
	Daemon bool `json:"daemon"`
	// forbidden: whether one does can't be told.
	forbidden bool
	// Down are the plan's interfaces that are down or missing: nothing comes in there, which isn't levee's to change.
	Down  []string      `json:"down_interfaces"`
	Steps []routes.Step `json:"steps"`
}

func newPlan(file *string) *cobra.Command {
	var diff bool
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show what run would do to this machine, as commands",
		Long: "Show what run would do to this machine as it is now, as commands that do the same by hand. Nothing is changed.\n\n" +
			"With --diff, only what is not as planned: + add, - delete, ~ set, ! something of somebody else's is in the way,\n" +
			"? can't be seen without root. The exit code is then 0 if nothing differs and 1 if something does, as diff(1) has it,\n" +
			"or if it can't be told; in that case there is an error too, and no answer.",
	}
	cmd.Flags().BoolVar(&diff, "diff", false, "compare with the machine as it is; the exit code is 1 if it differs")
	output := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(*file)
		if err != nil {
			return err
		}
		layOut := daemon.NewLayout
		if diff {
			layOut = daemon.NewLayoutAlongside
		}
		layout, err := layOut(cfg)
		if err != nil {
			return err
		}
		answer := planOf(*file, layout)
		if diff {
			if answer.Difference, err = differenceOf(cmd.Context(), cfg, layout); err != nil {
				return err
			}
		}
		if err := writePlanned(cmd.OutOrStdout(), *output, answer); err != nil {
			return err
		}
		if diff && !answer.Difference.Same {
			return errReported
		}
		return nil
	}
	return cmd
}

func planOf(file string, l *daemon.Layout) planned {
	p := planned{
		File: file, Managed: l.Routes != nil, Notes: l.Notes(), Steps: l.Steps(),
		TUN:              plannedTUN{Name: l.TUN.Name, MTU: l.TUN.MTU, Queues: l.TUN.Queues, TxQueueLen: l.TUN.TxQueueLen},
		ClientInterfaces: []string{}, ServerInterfaces: []string{},
	}
	if l.Routes != nil {
		p.ClientInterfaces, p.ServerInterfaces = l.Routes.ClientInterfaces(), l.Routes.ServerInterfaces()
	}
	return p
}

func differenceOf(ctx context.Context, cfg config.Config, l *daemon.Layout) (*difference, error) {
	steps, down, err := l.Differences()
	if err != nil {
		return nil, err
	}
	slices.Sort(down)
	steps = append(l.Detours(), steps...)
	_, err = control.NewClient(cfg.SocketPath()).PID(ctx)
	return &difference{
		Same: len(steps) == 0, Daemon: err == nil, forbidden: errors.As(err, new(control.Forbidden)),
		Down: append([]string{}, down...), Steps: append([]routes.Step{}, steps...),
	}, nil
}

func writePlanned(w io.Writer, output format, p planned) error {
	if output == formatJSON {
		return writeJSON(w, p)
	}
	var b bytes.Buffer
	if p.Difference != nil {
		writeDifference(&b, p)
	} else {
		writePlan(&b, p)
	}
	_, err := b.WriteTo(w)
	return err
}

// writePlan writes a script for a shell.
func writePlan(b *bytes.Buffer, p planned) {
	writeAbout(b, p.File, "what levee run does, as commands")
	for _, note := range p.Notes {
		writeComment(b, note)
	}
	why := ""
	for _, s := range p.Steps {
		if s.Text != why && s.Text != "" {
			writeComment(b, s.Text)
		}
		why = s.Text
		writeCommand(b, "", s.Command)
	}
}

func writeDifference(b *bytes.Buffer, p planned) {
	d := p.Difference
	switch {
	case d.Same:
		writeAbout(b, p.File, "nothing differs from the plan")
	case d.Daemon:
		writeAbout(b, p.File, "what differs from the plan")
		writeComment(b, "The levee that runs puts back by itself what others change. What stays is for levee reload, or a problem that levee status names.")
	default:
		writeAbout(b, p.File, "what differs from the plan")
		if d.forbidden {
			writeComment(b, "Whether levee runs can't be seen without root.")
		} else {
			writeComment(b, "No levee answers here.")
		}
	}
	if !p.Managed {
		writeComment(b, "routing.manage is false: rules, routes and sysctls are not compared.")
	}
	for _, name := range d.Down {
		writeComment(b, fmt.Sprintf("Interface %s is down or missing: nothing comes in there.", name))
	}
	for _, s := range d.Steps {
		writeStep(b, s)
	}
}

// writeAbout writes what is to come. A path is never broken.
func writeAbout(b *bytes.Buffer, file, what string) {
	b.WriteString("# " + file + ": " + what + ".\n")
}
