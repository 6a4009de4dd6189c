package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// readyTimeout is how long StartLevee waits for the daemon.
const readyTimeout = 10 * time.Second

// Levee is a levee daemon that runs in the gateway namespace, started from its binary.
type Levee struct {
	// Binary is the daemon's program, Config its configuration file, Dir a temporary folder that
	// holds the latter and everything the daemon keeps. Dir is removed when the lab closes.
	Binary, Config, Dir string

	gateway *Namespace
	cmd     *Command
	control *http.Client
}

// StartLevee starts the daemon in the gateway namespace and waits until it says that it is ready. yaml
// is its configuration without state_dir and secret_file, which are set here to be in Levee.Dir. If
// the daemon doesn't start, the error holds its log.
func (l *Lab) StartLevee(ctx context.Context, binary, yaml string) (*Levee, error) {
	// On a tmpfs, as /run is: the flow file is made nowhere else.
	dir, err := os.MkdirTemp("/dev/shm", l.Name+"-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for levee: %w", err)
	}
	l.started.add(func() error { return os.RemoveAll(dir) })
	lv := &Levee{Binary: binary, Config: filepath.Join(dir, "levee.yaml"), Dir: dir, gateway: l.Gateway}
	state := filepath.Join(dir, "state")
	lv.control = &http.Client{
		Timeout: 2 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", filepath.Join(state, "control.sock"))
			},
		},
	}
	config := fmt.Sprintf("state_dir: %q\nsecret_file: %q\n%s", state, filepath.Join(dir, "cookie.key"), yaml)
	if err := os.WriteFile(lv.Config, []byte(config), 0o600); err != nil {
		return nil, fmt.Errorf("write levee's configuration: %w", err)
	}
	if err := lv.Start(ctx); err != nil {
		return nil, err
	}
	return lv, nil
}

// Start starts the daemon again after Stop or Kill, with the same files, and waits until it is ready.
func (lv *Levee) Start(ctx context.Context) error {
	// ctx bounds the start only: the daemon ends by Stop, Kill or the end of the lab.
	cmd := lv.gateway.Command(context.WithoutCancel(ctx), lv.Binary, "run", "--config", lv.Config)
	if err := cmd.Start(); err != nil {
		return err
	}
	lv.cmd = cmd
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		status, err := lv.Status(ctx)
		if err == nil && status.Ready {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
			continue
		case <-cmd.Done():
			return fmt.Errorf("levee ended before it was ready: %w", cmd.Wait())
		case <-ctx.Done():
			err = errors.Join(fmt.Errorf("levee is not ready (%w)", context.Cause(ctx)), err)
		}
		return errors.Join(err, cmd.Stop(), fmt.Errorf("its log:\n%s", cmd.Output()))
	}
}

// Status is what the daemon answers to GET /v1/status.
type Status struct {
	Version       string  `json:"version"`
	UptimeSeconds float64 `json:"uptime_seconds"`
	Ready         bool    `json:"ready"`
	// Drain is nil unless levee drains.
	Drain *struct {
		State       string `json:"state"`
		Connections int    `json:"connections"`
	} `json:"drain"`
	Flows struct {
		Open       int `json:"open"`
		Opening    int `json:"opening"`
		Closing    int `json:"closing"`
		Remembered int `json:"remembered"`
		Capacity   int `json:"capacity"`
	} `json:"flows"`
	Kernel struct {
		Problems []string          `json:"problems"`
		Repairs  map[string]uint64 `json:"repairs"`
	} `json:"kernel"`
	Services []ServiceStatus   `json:"services"`
	Floods   []FloodStatus     `json:"floods"`
	Drops    map[string]uint64 `json:"drops"`
	Passed   map[string]uint64 `json:"passed"`
	Workers  []struct {
		Received uint64 `json:"received"`
		Sent     uint64 `json:"sent"`
	} `json:"workers"`
	Tun struct {
		Name   string `json:"name"`
		Queues int    `json:"queues"`
		// TxDrops are packets for levee that found their queue full.
		TxDrops uint64 `json:"tx_drops"`
		// Offload is left as the daemon writes it.
		Offload json.RawMessage `json:"offload"`
	} `json:"tun"`
}

// ServiceStatus is one service's part of Status.
type ServiceStatus struct {
	Name          string `json:"name"`
	Mode          string `json:"mode"`
	SynReceived   uint64 `json:"syn_received"`
	CookieValid   uint64 `json:"cookie_valid"`
	CookieInvalid uint64 `json:"cookie_invalid"`
	ServerCookies uint64 `json:"server_cookies"`
	HalfOpenReset uint64 `json:"half_open_reset"`
	Flows         int    `json:"flows"`
	SynPassed     uint64 `json:"syn_passed"`
	// Engagement is nil unless floods are looked for.
	Engagement *struct {
		Engaged      bool    `json:"engaged"`
		Destinations int     `json:"destinations"`
		HalfOpen     int     `json:"half_open"`
		SynRate      int     `json:"syn_rate"`
		HoldSeconds  float64 `json:"hold_seconds"`
		WouldAnswer  uint64  `json:"would_answer"`
		WouldDrop    uint64  `json:"would_drop"`
	} `json:"engagement"`
}

// FloodStatus is one flood in Status.
type FloodStatus struct {
	ID           uint64     `json:"id"`
	Service      string     `json:"service"`
	Monitored    bool       `json:"monitored"`
	Start        time.Time  `json:"start"`
	End          *time.Time `json:"end"`
	Cause        string     `json:"cause"`
	Destinations int        `json:"destinations"`
	Spread       bool       `json:"spread"`
	Top          string     `json:"top"`
	TopSynRate   int        `json:"top_syn_rate"`
	PeakSynRate  int        `json:"peak_syn_rate"`
}

// maxStatus bounds an answer of the daemon, in bytes.
const maxStatus = 16 << 20

// Status asks the daemon over its control socket.
func (lv *Levee) Status(ctx context.Context) (*Status, error) {
	s := new(Status)
	if err := lv.get(ctx, "/v1/status", s); err != nil {
		return nil, err
	}
	return s, nil
}

func (lv *Levee) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://levee"+path, nil)
	if err != nil {
		return fmt.Errorf("ask levee for %s: %w", path, err)
	}
	resp, err := lv.control.Do(req)
	if err != nil {
		return fmt.Errorf("ask levee: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask levee for %s: %s", path, resp.Status)
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, maxStatus)).Decode(into); err != nil {
		return fmt.Errorf("read levee's answer to %s: %w", path, err)
	}
	return nil
}

// Command prepares a run of the binary in the gateway namespace with this daemon's configuration:
// Command(ctx, "status", "-o", "json").
func (lv *Levee) Command(ctx context.Context, verb string, args ...string) *Command {
	return lv.gateway.Command(ctx, lv.Binary, append([]string{verb, "--config", lv.Config}, args...)...)
}

// Process is the running, or last, daemon.
func (lv *Levee) Process() *Command { return lv.cmd }

// Stop ends the daemon with SIGTERM and waits for it. The error is for a daemon that needed SIGKILL
// or whose exit code was not 0; it holds the log.
func (lv *Levee) Stop() error {
	if err := lv.cmd.Stop(); err != nil {
		return err
	}
	return lv.cmd.Wait()
}

// Kill ends the daemon with SIGKILL and waits for it.
func (lv *Levee) Kill() error { return lv.cmd.Kill() }

// Upgrade has the daemon execute its program again, in place, and waits until that is ready.
func (lv *Levee) Upgrade(ctx context.Context) error {
	signalled := time.Now()
	if err := lv.cmd.Signal(syscall.SIGUSR2); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		// Until then it is the socket of the one before.
		if fi, err := os.Stat(filepath.Join(lv.Dir, "state", "control.sock")); err == nil && fi.ModTime().After(signalled) {
			if status, err := lv.Status(ctx); err == nil && status.Ready {
				return nil
			}
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-lv.cmd.Done():
			return fmt.Errorf("levee ended in its upgrade: %w", lv.cmd.Wait())
		case <-ctx.Done():
			return fmt.Errorf("no upgrade (%w); its log:\n%s", context.Cause(ctx), lv.Log())
		}
	}
}

// Log is the end of what the daemon, or the last one that was started, has written.
func (lv *Levee) Log() string { return lv.cmd.Output() }
