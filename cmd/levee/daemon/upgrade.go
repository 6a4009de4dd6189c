package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"levee/cmd/levee/config"
	"levee/cmd/levee/control"
	"levee/cmd/levee/flowfile"
	"levee/cmd/levee/metrics"
	"levee/proxy/cookie"
)

const (
	// descriptorsEnv tells the next program which descriptors are queues of the TUN. It is none of the configuration's.
	descriptorsEnv = "_LEVEE_TUN_DESCRIPTORS"
	// stopEnv tells it that it was asked to stop while it took over.
	stopEnv = "_LEVEE_STOP"
	// failureEnv tells the program that is executed again why the next one could not be.
	failureEnv = "_LEVEE_NOT_UPGRADED"
	// checkFlag has `levee run` only look whether it could go on here.
	checkFlag = "--check-upgrade"
	// checkTimeout bounds that: less than a client waits for an answer.
	checkTimeout = 8 * time.Second
)

// errUpgrade ends a run for another program to go on.
var errUpgrade = errors.New("upgrade")

// upgrades is how the program is replaced.
type upgrades struct {
	// program is the file that this one was started from, by the name that it was started by: a link may lead elsewhere by now.
	program string
	// to is the program that goes on after this run, nil if none does; descriptors are then those of the TUN.
	to          atomic.Pointer[string]
	descriptors []int

	// mu lets one program at a time be asked.
	mu sync.Mutex
}

// Candidate is what a levee says of itself when it is asked whether it could go on in the place of one that runs: as JSON on its
// standard output. A program that says nothing is none.
type Candidate struct {
	// Levee is its version.
	Levee string `json:"levee"`
	// Converts says that it has to convert the flow file.
	Converts bool `json:"converts"`
	// Metrics is where it would serve metrics: only the one that runs knows whether it could. Not valid is nowhere.
	Metrics netip.AddrPort `json:"metrics,omitzero"`
	// Place is what it must have in common with the one that runs.
	Place place `json:"place"`
}

// place is where a levee leaves what the next one goes on with. A levee of another place would leave it there for good.
type place struct {
	StateDir string `json:"state_dir"`
	TUN      string `json:"tun"`
	Manage   bool   `json:"manage"`
	Table    int    `json:"table"`
	Priority int    `json:"priority"`
}

func placeOf(cfg *config.Config) place {
	return place{StateDir: cfg.StateDir, TUN: cfg.TUN.Name, Manage: cfg.Routing.Manage, Table: cfg.Routing.Table, Priority: cfg.Routing.Priority}
}

// differs names the first key in which another place differs.
func (p place) differs(o place) error {
	for _, x := range []struct {
		key     string
		was, is any
	}{
		{"state_dir", p.StateDir, o.StateDir},
		{"tun.name", p.TUN, o.TUN},
		{"routing.manage", p.Manage, o.Manage},
		{"routing.table", p.Table, o.Table},
		{"routing.priority", p.Priority, o.Priority},
	} {
		if x.was != x.is {
			return fmt.Errorf("%s is %v now, and was %v: it can't change in an upgrade, restart levee", x.key, x.is, x.was)
		}
	}
	return nil
}

// CheckUpgrade says whether a daemon of this version with this configuration could go on in the place of the one that runs. It changes nothing.
func CheckUpgrade(cfg config.Config, version string) (Candidate, error) {
	c := Candidate{Levee: version, Metrics: cfg.Metrics, Place: placeOf(&cfg)}
	if _, err := NewLayout(cfg); err != nil {
		return c, err
	}
	if err := checkState(cfg.StateDir); err != nil {
		return c, err
	}
	if err := cookie.CheckSecret(cfg.SecretFile); err != nil {
		return c, err
	}
	var err error
	c.Converts, err = flowfile.Check(cfg.StateDir, cfg.Flows.Capacity)
	return c, err
}

// listenUpgrade has SIGUSR2 replace the program by what is now in the file that it was started from. If that can't go on
// with the connections, it says so and this one runs on.
func (d *daemon) listenUpgrade() (err error) {
	if d.upgrades.program, err = ownProgram(os.Args[0]); err != nil {
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
			if _, begin, err := d.Upgrade(""); err == nil { // which logs
				begin()
			}
		}
	})
	return nil
}

// ownProgram is the file that this program was started from: as name, if that is a whole path and leads to it.
func ownProgram(name string) (string, error) {
	path, err := os.Executable() // without links
	if err != nil || !filepath.IsAbs(name) {
		return path, err
	}
	named, err := os.Stat(name)
	own, ownErr := os.Stat(path)
	if err == nil && ownErr == nil && os.SameFile(named, own) {
		return name, nil
	}
	return path, nil
}

// Upgrade implements control.Source.
func (d *daemon) Upgrade(program string) (u control.Upgrade, begin func(), err error) {
	if program == "" {
		program = d.upgrades.program
	}
	c, err := d.checkUpgrade(program)
	if err != nil {
		d.log.Error("upgrade refused, running on", "program", program, "error", err)
		return u, nil, err
	}
	begin = func() {
		d.upgrades.to.Store(&program)
		d.fail(errUpgrade)
	}
	return control.Upgrade{Program: program, Version: c.Levee, Converts: c.Converts}, begin, nil
}

// checkUpgrade asks a program whether it could go on.
func (d *daemon) checkUpgrade(program string) (c Candidate, err error) {
	if !d.upgrades.mu.TryLock() {
		return c, errors.New("another program is being asked: try again")
	}
	defer d.upgrades.mu.Unlock()
	switch {
	case !d.Ready():
		return c, errors.New("levee is starting, draining or stopping: try again, or levee drain --cancel first")
	case d.flowState == nil:
		return c, fmt.Errorf("connections would be lost: %s", d.notKept)
	}
	if err := d.checkFlowFile(); err != nil {
		return c, err
	}
	if err := checkProgram(program); err != nil {
		return c, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append(os.Args[1:], checkFlag)...)
	// It ends with its children, whatever it is.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for those that have left its group and keep its output open
	var answer, said head
	cmd.Stdout, cmd.Stderr = &answer, &said
	switch err := cmd.Run(); {
	case ctx.Err() != nil:
		return c, fmt.Errorf("%s has not answered %s in %v: is it levee?", program, checkFlag, checkTimeout)
	case err != nil:
		lines := strings.Split(strings.TrimSpace(string(said.kept)), "\n")
		return c, fmt.Errorf("%s says: %s (%w)", program, strings.TrimPrefix(lines[len(lines)-1], "levee: "), err)
	}
	if err := json.Unmarshal(answer.kept, &c); err != nil || c.Levee == "" {
		return c, fmt.Errorf("%s doesn't answer %s: it is no levee, or one that is too old", program, checkFlag)
	}
	if !d.Ready() {
		return c, errors.New("levee has begun to drain or to stop meanwhile, or what it needs of the kernel is missing: see levee status")
	}
	if err := d.checkMetrics(c.Metrics); err != nil {
		return c, err
	}
	return c, placeOf(&d.cfg).differs(c.Place)
}

// checkMetrics says whether the next program could serve metrics at an address: it is free, or in the way is only what this program gives up before.
func (d *daemon) checkMetrics(address netip.AddrPort) error {
	own := d.cfg.Metrics
	meets := address.Addr() == own.Addr() || address.Addr().IsUnspecified() || own.Addr().IsUnspecified()
	if !address.IsValid() || own.IsValid() && address.Port() == own.Port() && meets {
		return nil
	}
	return metrics.Check(address)
}

// head keeps the first bytes of what is written to it.
type head struct{ kept []byte }

// headBytes is more than a levee says of itself.
const headBytes = 16 << 10

// Write implements io.Writer. It takes everything.
func (h *head) Write(b []byte) (int, error) {
	h.kept = append(h.kept, b[:min(len(b), headBytes-len(h.kept))]...)
	return len(b), nil
}

// checkProgram refuses files that root had better not execute.
func checkProgram(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("program %s: %w", path, withoutPath(err))
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case !filepath.IsAbs(path):
		return fmt.Errorf("program %s: name it by its whole path", path)
	case !fi.Mode().IsRegular() || fi.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("program %s is not an executable file", path)
	case fi.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("program %s can be written to by others (%v): chmod go-w it", path, fi.Mode())
	case ok && st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("program %s belongs to another user (uid %d): install it as root", path, st.Uid)
	}
	return nil
}

// leaveTUN is for the end of a run after which there may be connections.
func (d *daemon) leaveTUN() error {
	if d.upgrades.to.Load() == nil {
		return d.device.Leave()
	}
	fds, err := d.device.HandOver()
	d.upgrades.descriptors = fds
	return err
}

// upgrade executes the next program, with the queues of the TUN, when everything else has ended: if that file can't be executed after all, this
// program again. It returns only if that fails too. A daemon that was asked to stop meanwhile has the next one stop.
func (d *daemon) upgrade(ctx context.Context) error {
	// What asks the next program for what it does anyway must not end it before it listens: what is ignored stays so until then.
	signal.Ignore(syscall.SIGHUP, syscall.SIGUSR2)
	environment := d.upgrades.environment(ctx)
	var err error
	next := *d.upgrades.to.Load()
	for _, try := range []struct{ program, name string }{{next, next}, {"/proc/self/exe", d.upgrades.program}} {
		d.log.Info("upgrading", "program", try.program)
		err = syscall.Exec(try.program, append([]string{try.name}, os.Args[1:]...), environment)
		d.log.Error("not upgraded", "program", try.program, "error", err)
		environment = append(environment, failureEnv+"="+fmt.Sprintf("%s could not be executed: %v", try.program, err))
	}
	return fmt.Errorf("upgrade: %w: start levee again, it goes on with the connections", err)
}

// environment is that of the next program.
func (u *upgrades) environment(ctx context.Context) []string {
	var list []string
	for _, fd := range u.descriptors {
		list = append(list, strconv.Itoa(fd))
	}
	env := append(os.Environ(), descriptorsEnv+"="+strings.Join(list, ","))
	if ctx.Err() != nil {
		env = append(env, stopEnv+"=1")
	}
	return env
}

// takeEnv returns what a program before this one has left in the environment, and takes it out, so that no program after it inherits it.
func takeEnv(name string) string {
	value := os.Getenv(name)
	_ = os.Unsetenv(name)
	return value
}

// inherited are the descriptors that a program before this one has left, if any.
func inherited() []int {
	var fds []int
	for text := range strings.SplitSeq(takeEnv(descriptorsEnv), ",") {
		if fd, err := strconv.Atoi(text); err == nil && fd > 2 {
			fds = append(fds, fd)
		}
	}
	return fds
}

// inheritFailure is why the program before this one, which is this one, could not be replaced, or empty.
func inheritFailure() string { return takeEnv(failureEnv) }

// inheritStop returns a context that is done from the beginning if a program before this one was asked to stop.
func inheritStop(parent context.Context) (ctx context.Context, cancel context.CancelFunc) {
	ctx, cancel = context.WithCancel(parent)
	if takeEnv(stopEnv) != "" {
		cancel()
	}
	return ctx, cancel
}
