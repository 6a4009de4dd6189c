package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"levee/cmd/levee/config"
	"levee/cmd/levee/flowfile"
)

const (
	// descriptorsEnv tells the next program which descriptors are queues of the TUN. It is none of the configuration's.
	descriptorsEnv = "_LEVEE_TUN_DESCRIPTORS"
	// checkFlag has `levee run` only look whether it could go on here.
	checkFlag = "--check-upgrade"
	// checkTimeout bounds that.
	checkTimeout = 20 * time.Second
)

// errUpgrade ends a run for another program to go on.
var errUpgrade = errors.New("upgrade")

// CheckUpgrade says why a daemon with this configuration could not go on in the place of the one that runs. It changes nothing.
func CheckUpgrade(cfg config.Config) error {
	if _, err := NewLayout(cfg); err != nil {
		return err
	}
	return flowfile.Check(cfg.StateDir, cfg.Flows.Capacity)
}

// listenUpgrade has SIGUSR2 replace the program by what is now in the file that it was started from. If that can't go on
// with the connections, it says so and this one runs on.
func (d *daemon) listenUpgrade() error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find out which program this is: %w", err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR2)
	d.background("upgrades", func(ctx context.Context) {
		defer signal.Stop(signals)
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
			}
			if err := d.checkUpgrade(ctx, program); err != nil {
				d.log.Error("upgrade refused, running on", "program", program, "error", err)
				continue
			}
			d.upgradeTo.Store(&program)
			d.fail(errUpgrade)
			return
		}
	})
	return nil
}

// checkUpgrade asks a program whether it could go on.
func (d *daemon) checkUpgrade(ctx context.Context, program string) error {
	if d.flowState == nil {
		return fmt.Errorf("connections would be lost: %s", d.notKept)
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append(os.Args[1:], checkFlag)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		return fmt.Errorf("%w: %s", err, lines[len(lines)-1])
	}
	return nil
}

// leaveTUN is for the end of a run after which there may be connections.
func (d *daemon) leaveTUN() error {
	if d.upgradeTo.Load() == nil {
		return d.device.Leave()
	}
	fds, err := d.device.HandOver()
	d.descriptors = fds
	return err
}

// upgrade executes the next program, with the queues of the TUN, when everything else has ended. It returns only if that fails.
func (d *daemon) upgrade() error {
	var list []string
	for _, fd := range d.descriptors {
		list = append(list, strconv.Itoa(fd))
	}
	program := *d.upgradeTo.Load()
	d.log.Info("upgrading", "program", program)
	err := syscall.Exec(program, os.Args, append(os.Environ(), descriptorsEnv+"="+strings.Join(list, ",")))
	return fmt.Errorf("upgrade to %s: %w: start levee again, it goes on with the connections", program, err)
}

// inherited are the descriptors that a program before this one has left, if any.
func inherited() []int {
	list := os.Getenv(descriptorsEnv)
	_ = os.Unsetenv(descriptorsEnv)
	var fds []int
	for text := range strings.SplitSeq(list, ",") {
		if fd, err := strconv.Atoi(text); err == nil && fd > 2 {
			fds = append(fds, fd)
		}
	}
	return fds
}
