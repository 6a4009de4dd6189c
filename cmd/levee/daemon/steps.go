package daemon

import (
	"fmt"

	"levee/routes"
	"levee/tunnel"
)

// Steps returns the commands that do by hand what a start does to the machine, in its order.
func (l *Layout) Steps() []routes.Step {
	var out []routes.Step
	for _, command := range l.TUN.Commands() {
		out = append(out, routes.Step{About: routes.AboutTUN, Change: routes.ChangeAdd, Command: command,
			Text: fmt.Sprintf("The TUN, which levee opens with a queue for each of its workers: %d.", l.TUN.Queues)})
	}
	if l.Routes == nil {
		return append(out, l.up(routes.ChangeSet, ""))
	}
	return append(out, l.Routes.Steps()...)
}

// up is the step that brings the TUN up where package routes doesn't.
func (l *Layout) up(change routes.Change, text string) routes.Step {
	return routes.Step{About: routes.AboutTUN, Change: change, Command: "ip link set dev " + l.TUN.Name + " up", Text: text}
}

// unmanaged says why a layout has nothing but a TUN.
const unmanaged = "routing.manage is false: rules, routes and sysctls are yours."

// Notes returns what there is to say besides the commands, a sentence or two each.
func (l *Layout) Notes() []string {
	if l.Routes == nil {
		return []string{unmanaged}
	}
	return l.Routes.Notes()
}

// Differences returns what of the machine is not as a start would make it: each step puts something right, as far as that is levee's. It
// changes nothing. down are the interfaces of either side where nothing comes in at present.
func (l *Layout) Differences() (steps []routes.Step, down []string, err error) {
	live, err := tunnel.Look(l.TUN.Name)
	if err != nil {
		return nil, nil, err
	}
	if live.Exists && !live.Ours {
		steps = append(steps, routes.Step{About: routes.AboutTUN, Change: routes.ChangeConflict,
			Text: fmt.Sprintf("interface %s exists and is not levee's: choose another tun.name, or delete it if nothing uses it", l.TUN.Name)})
	}
	for _, d := range l.TUN.Diff(live) {
		change := routes.ChangeSet
		if !live.Exists {
			change = routes.ChangeAdd
		}
		steps = append(steps, routes.Step{About: routes.AboutTUN, Change: change, Command: d.Command, Text: d.Text})
	}
	if l.Routes == nil {
		if !live.Up {
			text := "is down"
			if !live.Exists {
				text = "does not exist"
			}
			steps = append(steps, l.up(routes.ChangeAdd, text))
		}
		return steps, nil, nil
	}
	diff := l.Routes.Diff(l.live)
	return append(steps, diff.Steps()...), append(diff.DownInterfaces, diff.MissingInterfaces...), nil
}

// Detours returns what of somebody else's takes packets around levee without being in the way of a start: no step of levee's puts that right.
func (l *Layout) Detours() (steps []routes.Step) {
	if l.Routes == nil {
		return nil
	}
	detours, _ := l.Routes.Around(&l.live)
	for _, d := range detours {
		steps = append(steps, routes.Step{About: routes.AboutRule, Change: routes.ChangeConflict, Text: d.Error()})
	}
	return steps
}
