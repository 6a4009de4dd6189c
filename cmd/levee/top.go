package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"

	"levee/cmd/levee/control"
)

// Bounds of top.
const (
	defaultTopEvery = time.Second
	minTopEvery     = 100 * time.Millisecond
	topPatience     = 2 * time.Second // for an answer, until what is shown is said to be old
	rows            = 24              // how high a screen is at least
)

func newTop(file *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show what is going on, live",
		Long: "Show rates, floods, services and the reasons of drops on the whole screen, until q or Ctrl-C. p stops the picture, s sorts\n" +
			"the services by another column. A mode with a * is engaged. With --once it waits for two looks and prints one frame, for\n" +
			"which no terminal is needed. For programs there are levee status -o json and the metrics.",
		Example: "  levee top\n  levee top --every 5s\n  levee top --once --for 10s",
	}
	every := cmd.Flags().Duration("every", defaultTopEvery, "look again after this `time`")
	once := cmd.Flags().Bool("once", false, "print one frame and end")
	length := cmd.Flags().Duration("for", 0, "end after this `time`; with --once, look for so long before")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *every < minTopEvery || *length < 0 {
			return misused("--every and --for: use positive values, for --every %v or more", minTopEvery)
		}
		out := cmd.OutOrStdout()
		if !*once && (!isTerminal(out) || !isTerminal(os.Stdin)) {
			return misused("top needs a terminal: use levee top --once for one frame, or levee status")
		}
		client, err := daemonOf(*file)
		if err != nil {
			return err
		}
		if *once {
			return topOnce(cmd.Context(), client, *every, *length, out)
		}
		return topLive(cmd.Context(), client, *every, *length, out)
	}
	return cmd
}

// look reads the status.
func look(ctx context.Context, client *control.Client) (topSample, error) {
	status, err := client.Status(ctx)
	return topSample{time.Now(), status}, err
}

// topOnce looks at least twice, for length, and writes one frame.
func topOnce(parent context.Context, client *control.Client, every, length time.Duration, out io.Writer) error {
	ctx, stop := signal.NotifyContext(parent, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	v := topView{history: &topHistory{}, every: every, width: columns, height: rows, paint: painterFor(out)}
	for end := time.Now().Add(length); ; {
		s, err := look(ctx, client)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil {
			v.history.add(s)
		}
		enough := len(v.history.rates) > 0
		if enough && !time.Now().Before(end) {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(every):
		}
		if ctx.Err() != nil && enough {
			break // show what there is
		}
		if ctx.Err() != nil {
			return errors.New("interrupted before there was anything to show: it takes two looks")
		}
	}
	lines := v.frame()
	_, err := io.WriteString(out, strings.TrimRight(strings.Join(lines[:len(lines)-1], "\n"), "\n")+"\n") // without the help
	return err
}

// topLive is top on a terminal.
func topLive(parent context.Context, client *control.Client, every, length time.Duration, out io.Writer) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	first, err := look(ctx, client) // a daemon that isn't there is told as by other verbs
	if err != nil {
		return err
	}
	m := topModel{ctx: ctx, client: client, length: length, topView: topView{
		history: &topHistory{}, every: every, width: columns, height: rows, paint: painterFor(out),
	}}
	m.history.add(first)
	_, err = tea.NewProgram(m, tea.WithContext(ctx), tea.WithOutput(out)).Run()
	if errors.Is(err, tea.ErrInterrupted) {
		return nil
	}
	return err
}

// topModel is top's state: bubbletea calls its methods one after another.
type topModel struct {
	topView
	ctx    context.Context
	client *control.Client
	length time.Duration
	// looks counts them, and asking says that the latest has no answer yet.
	looks  int
	asking bool
}

// looked is the outcome of a look, lookAgain says that it is time for one, late that one of a number should have been answered
// by now, and over that it is time to end.
type (
	looked struct {
		sample topSample
		err    error
	}
	lookAgain struct{}
	late      int
	over      struct{}
)

// Init implements tea.Model.
func (m topModel) Init() tea.Cmd {
	if m.length > 0 {
		return tea.Batch(m.wait(), tea.Tick(m.length, func(time.Time) tea.Msg { return over{} }))
	}
	return m.wait()
}

func (m topModel) wait() tea.Cmd {
	return tea.Tick(m.every, func(time.Time) tea.Msg { return lookAgain{} })
}

// Update implements tea.Model.
func (m topModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		switch msg.String() {
		case "q", "esc", "ctrl+c":
			return m, tea.Quit
		case "p", "space":
			m.paused = !m.paused
		case "s":
			m.sort = (m.sort + 1) % numTopSorts
		}
	case over:
		return m, tea.Quit
	case lookAgain:
		if m.paused {
			return m, m.wait()
		}
		m.looks++
		m.asking = true
		number := late(m.looks)
		return m, tea.Batch(func() tea.Msg {
			s, err := look(m.ctx, m.client)
			return looked{s, err}
		}, tea.Tick(topPatience, func(time.Time) tea.Msg { return number }))
	case late:
		if m.asking && int(msg) == m.looks {
			m.problem = fmt.Sprintf("the daemon has been asked for %v", topPatience)
		}
	case looked:
		m.problem, m.asking = "", false
		if msg.err != nil {
			m.problem = msg.err.Error() // it may be starting again
		} else if !m.paused {
			m.history.add(msg.sample)
		}
		return m, m.wait()
	}
	return m, nil
}

// View implements tea.Model.
func (m topModel) View() tea.View {
	v := tea.NewView(strings.Join(m.frame(), "\n"))
	v.AltScreen = true
	v.WindowTitle = "levee top"
	return v
}
