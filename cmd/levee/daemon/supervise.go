package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"levee/cmd/levee/control"
)

// statusEvery is how often systemd's status line is renewed if there is no watchdog.
const statusEvery = 10 * time.Second

// supervisor is who has started levee and wants to know how it does: systemd, by the protocol of sd_notify(3). Where $NOTIFY_SOCKET isn't set there is none, and telling it
// anything does nothing.
type supervisor struct{ log *slog.Logger }

// tell sends assignments such as READY=1, all at once.
func (s supervisor) tell(assignments ...string) {
	if _, err := sd.SdNotify(false, strings.Join(assignments, "\n")); err != nil {
		s.log.Warn("the supervisor was not told", "what", strings.Join(assignments, " "), "error", err)
	}
}

// reloading tells that what follows, until ready, is a change of configuration or of the program.
func (s supervisor) reloading() {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // which every kernel has
	s.tell(sd.SdNotifyReloading, fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/1000))
}

func (s supervisor) ready(status string) { s.tell(sd.SdNotifyReady, "STATUS="+status) }
func (s supervisor) stopping()           { s.tell(sd.SdNotifyStopping) }

// watch renews the status line, and feeds the watchdog while every worker moves, until ctx is done.
func (s supervisor) watch(ctx context.Context, lively func() bool, status func() string) {
	interval, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("the supervisor's watchdog is not fed", "error", err)
	}
	every := statusEvery
	if interval > 0 {
		every = min(every, interval/3) // so that one that comes late is no harm
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		told := []string{"STATUS=" + status()}
		if interval > 0 && lively() {
			told = append(told, sd.SdNotifyWatchdog)
		}
		s.tell(told...)
	}
}

// summary is one line about the daemon.
func summary(s control.Status) string {
	connections := s.Flows.Open + s.Flows.Closing
	line := fmt.Sprintf("%s, %s", plural(len(s.Services), "service"), plural(connections, "connection"))
	for _, v := range s.Services {
		if v.FloodSeconds > 0 {
			line += fmt.Sprintf("; FLOOD on %s: %.0f SYNs a second, %.0f of %.0f clients connected", v.Name, v.Rates.Syn, v.Rates.Opened, v.Rates.CookieValid)
		}
	}
	if s.Drain != nil {
		line += "; draining"
	}
	if !s.Configuration.LastReloadSuccessful {
		line += "; the latest reload failed"
	}
	return line
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
