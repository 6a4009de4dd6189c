package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopGrace is how long a process has to end after SIGTERM before it gets SIGKILL.
const stopGrace = 5 * time.Second

// Command is a program to run inside a namespace. Set its fields before Start. It sees the lab's
// network, but the machine's files, /sys/class/net included.
type Command struct {
	// Dir is the working directory; empty means this process's.
	Dir string
	// Env is the environment; nil means this process's.
	Env   []string
	Stdin io.Reader
	// Stdout gets the standard output; nil adds it to Output.
	Stdout io.Writer

	namespace *Namespace
	cmd       *exec.Cmd
	output    Tail
	// done is closed when the process has ended and was waited for; err is valid then.
	done chan struct{}
	err  error
}

// Command prepares a program, which is looked up in PATH unless it holds a slash. When ctx is done
// before the program ends, or when the lab closes, it is stopped.
func (n *Namespace) Command(ctx context.Context, name string, args ...string) *Command {
	c := &Command{namespace: n, cmd: exec.CommandContext(ctx, name, args...), done: make(chan struct{})}
	c.cmd.Cancel = func() error { return c.cmd.Process.Signal(syscall.SIGTERM) }
	// After that much time Wait kills the process, and stops reading from children that hold
	// its output open.
	c.cmd.WaitDelay = stopGrace
	c.cmd.SysProcAttr = &syscall.SysProcAttr{
		// Ctrl-C on a terminal concerns us; we stop the process in our own order.
		Setpgid: true,
		// Whatever ends us ends it.
		Pdeathsig: syscall.SIGKILL,
	}
	return c
}

// Start starts the program. The lab waits for its end, and then ends what is left of its process group;
// Wait tells the outcome.
func (c *Command) Start() error {
	c.cmd.Dir, c.cmd.Env, c.cmd.Stdin = c.Dir, c.Env, c.Stdin
	c.cmd.Stderr = &c.output
	c.cmd.Stdout = c.Stdout
	if c.Stdout == nil {
		c.cmd.Stdout = &c.output
	}
	if err := c.namespace.onKeeper(c.cmd.Start); err != nil {
		return fmt.Errorf("start %s in %s: %w", c.name(), c.namespace.Name, err)
	}
	forget := c.namespace.started.add(c.Stop)
	go func() {
		defer forget()
		defer close(c.done)
		c.err = c.wait()
	}()
	return nil
}

// wait waits for the end of the process, ends the children that share its process group, and reaps it.
func (c *Command) wait() error {
	// Before it is reaped its number can't belong to another process.
	for unix.Waitid(unix.P_PID, c.Pid(), nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	err := syscall.Kill(-c.Pid(), syscall.SIGKILL)
	if err := c.cmd.Wait(); err != nil {
		return err
	}
	if err != nil {
		return fmt.Errorf("end its process group: %w", err)
	}
	return nil
}

func (c *Command) name() string { return filepath.Base(c.cmd.Path) }

// Pid is the process's number, which is also its process group. Only after Start.
func (c *Command) Pid() int { return c.cmd.Process.Pid }

// Done is closed when the process has ended.
func (c *Command) Done() <-chan struct{} { return c.done }

// Wait waits for the end. The error of a program that failed holds the end of its output.
func (c *Command) Wait() error {
	<-c.done
	if c.err != nil {
		return fmt.Errorf("%s in %s: %w\n%s", c.name(), c.namespace.Name, c.err, c.Output())
	}
	return nil
}

// Run starts the program and waits for its end.
func (c *Command) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output is what the program has written so far, or the end of it (see Tail): its standard error
// and, unless Stdout is set, its standard output.
func (c *Command) Output() string { return c.output.String() }

// Signal sends a signal to the process. It does nothing once the process has ended.
func (c *Command) Signal(s syscall.Signal) error {
	// os.Process knows whether it was waited for, so that no other process is hit.
	if err := c.cmd.Process.Signal(s); err != nil && !c.ended() {
		return fmt.Errorf("signal %s in %s: %w", c.name(), c.namespace.Name, err)
	}
	return nil
}

func (c *Command) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// Stop ends the process with SIGTERM, or with SIGKILL if that takes more than 5 seconds, and waits
// for it. It returns an error if SIGKILL was needed. It may be called again.
func (c *Command) Stop() error {
	if err := c.Signal(syscall.SIGTERM); err != nil {
		return errors.Join(err, c.Kill())
	}
	select {
	case <-c.done:
		return nil
	case <-time.After(stopGrace):
	}
	return errors.Join(
		fmt.Errorf("%s in %s did not end within %v of SIGTERM\n%s", c.name(), c.namespace.Name, stopGrace, c.Output()),
		c.Kill())
}

// Kill ends the process with SIGKILL and waits for it.
func (c *Command) Kill() error {
	if err := c.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-c.done
	return nil
}
