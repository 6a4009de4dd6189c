package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"levee/cmd/levee/config"
	"levee/cmd/levee/control"
)

// gather collects everything for a bundle. file is the configuration, which may be broken.
func gather(ctx context.Context, file string) []part {
	cfg, _ := config.Load(file) // what is good of it; check.txt has what isn't
	secrets, err := secretsIn(cfg.SecretFile)
	if err != nil { // who may not read it can't put it anywhere
		secrets = nil
	}
	return collectParts(ctx, slices.Concat(leveeSources(file), daemonSources(cfg), hostSources()), secrets)
}

// leveeSources are what levee's own verbs say.
func leveeSources(file string) (out []source) {
	for _, v := range []struct {
		name string
		asks bool
		args []string
	}{
		{"version.txt", false, []string{"version"}},
		{"check.txt", false, []string{"check"}},
		{"status.txt", true, []string{"status"}},
		{"status.json", true, []string{"status", "-o", "json"}},
		{"plan.txt", false, []string{"plan"}},
		{"difference.txt", false, []string{"plan", "--diff"}},
		{"flows.txt", true, []string{"flows", "list", "--limit", "1000"}},
		{"servers.txt", true, []string{"servers"}},
		{"observe.txt", true, []string{"observe", "--for", "3s", "-n", "1000", "--rate", "1000"}},
	} {
		out = append(out, source{v.name, "levee " + strings.Join(v.args, " "), v.asks, func(ctx context.Context, w io.Writer) error {
			return runVerb(ctx, w, append(v.args, "--config", file))
		}})
	}
	return append(out, source{"configuration.yaml", "the configuration with the environment and the defaults, without comments", false, func(_ context.Context, w io.Writer) error {
		text, err := config.Effective(file)
		_, failed := io.WriteString(w, text)
		return errors.Join(err, failed)
	}})
}

// runVerb runs one of levee's verbs in this process; whatever it says goes to w.
func runVerb(ctx context.Context, w io.Writer, args []string) error {
	var errs bounded
	errs.left = maxPart
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(w)
	root.SetErr(&errs)
	code := exit(root.ExecuteContext(ctx), &errs)
	said := strings.TrimSpace(errs.kept.String())
	if code != exitGood && !strings.Contains(said, "\n") && said != "" {
		return errors.New(strings.TrimPrefix(said, "levee: "))
	}
	if said != "" {
		if _, err := fmt.Fprintln(w, said); err != nil {
			return err
		}
	}
	if code != exitGood {
		return fmt.Errorf("exit code %d", code)
	}
	return nil
}

// daemonSources are what the daemon is asked for, and what it leaves.
func daemonSources(cfg config.Config) []source {
	client := control.NewClient(cfg.SocketPath())
	out := []source{
		{"goroutines.txt", "where the daemon's goroutines are, without arguments of functions", true, func(ctx context.Context, w io.Writer) error {
			stacks, err := client.Goroutines(ctx)
			if err == nil {
				_, err = w.Write(stacks)
			}
			return err
		}},
		{"metrics.txt", "/metrics", true, func(ctx context.Context, w io.Writer) error { return scrape(ctx, w, cfg.Metrics, "/metrics") }},
		{"readyz.txt", "/readyz", true, func(ctx context.Context, w io.Writer) error { return scrape(ctx, w, cfg.Metrics, "/readyz") }},
		{"process.txt", "the daemon's status, limits and threads in /proc", false, func(ctx context.Context, w io.Writer) error {
			pid, err := client.PID(ctx)
			if err == nil && pid == 0 {
				err = errors.New("it is in another PID namespace")
			}
			if err != nil {
				return err
			}
			return copyFiles(w, fmt.Sprintf("/proc/%d/status", pid), fmt.Sprintf("/proc/%d/limits", pid), fmt.Sprintf("/proc/%d/task/*/stat", pid))
		}},
		{"state_dir.txt", "what is in state_dir", false, func(_ context.Context, w io.Writer) error { return listFolder(w, cfg.StateDir) }},
	}
	for _, name := range []string{"crash", "crash.previous"} {
		path := filepath.Join(cfg.StateDir, name)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue // and nobody misses it
		}
		out = append(out, source{name + ".txt", "a crash report, without arguments of functions", false, func(_ context.Context, w io.Writer) error {
			text, err := readSome(path)
			if err == nil {
				_, err = w.Write(control.WithoutArguments(text))
			}
			return err
		}})
	}
	return out
}

// scrape asks the metrics port; proxies of the environment are not for it.
func scrape(ctx context.Context, w io.Writer, to netip.AddrPort, path string) error {
	if !to.IsValid() {
		return errors.New("metrics.listen is none")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+to.String()+path, nil)
	if err != nil {
		return err
	}
	answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	var failed *url.Error
	if errors.As(err, &failed) && failed.Timeout() {
		return fmt.Errorf("%s does not answer", to)
	}
	if errors.As(err, &failed) {
		return failed.Err // the address is in it
	}
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(w, io.LimitReader(answer.Body, maxPart+maxSecret+1)); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}

// hostSources are what there is to know about the machine.
func hostSources() (out []source) {
	for _, c := range []struct {
		name string
		args []string
	}{
		{"host/log.txt", []string{"journalctl", "--unit", "levee.service", "--lines", "2000", "--no-pager", "--output", "short-iso-precise"}},
		{"host/unit.txt", []string{"systemctl", "status", "levee.service", "--no-pager", "--lines", "0"}},
		{"host/links.txt", []string{"ip", "-details", "-statistics", "link"}},
		{"host/addresses.txt", []string{"ip", "address"}},
		{"host/neighbours.txt", []string{"ip", "-statistics", "neighbour"}},
		{"host/rules4.txt", []string{"ip", "-4", "rule"}},
		{"host/rules6.txt", []string{"ip", "-6", "rule"}},
		{"host/routes4.txt", []string{"ip", "-4", "route", "show", "table", "all"}},
		{"host/routes6.txt", []string{"ip", "-6", "route", "show", "table", "all"}},
		{"host/nftables.txt", []string{"nft", "list", "ruleset"}},
		{"host/qdiscs.txt", []string{"tc", "-statistics", "qdisc"}},
		{"host/cpus.txt", []string{"lscpu"}},
	} {
		out = append(out, source{c.name, strings.Join(c.args, " "), false, func(ctx context.Context, w io.Writer) error { return runProgram(ctx, w, c.args...) }})
	}
	for _, f := range []struct {
		name  string
		paths []string
	}{
		{"host/kernel.txt", []string{"/proc/version", "/etc/os-release", "/proc/uptime", "/proc/loadavg", "/proc/modules"}},
		{"host/memory.txt", []string{"/proc/meminfo", "/proc/pressure/*"}},
		{"host/interrupts.txt", []string{"/proc/interrupts", "/proc/softirqs", "/proc/net/softnet_stat"}},
		{"host/counters.txt", []string{"/proc/net/snmp", "/proc/net/snmp6", "/proc/net/netstat", "/proc/net/dev", "/proc/net/sockstat", "/proc/net/stat/nf_conntrack", "/proc/net/stat/synproxy"}},
	} {
		out = append(out, source{f.name, strings.Join(f.paths, " "), false, func(_ context.Context, w io.Writer) error { return copyFiles(w, f.paths...) }})
	}
	return append(out,
		source{"host/offloads.txt", "ethtool --show-features, of every interface", false, writeOffloads},
		source{"host/sysctls.txt", "/proc/sys/net, without keys", false, func(ctx context.Context, w io.Writer) error { return writeSysctls(ctx, w, "/proc/sys/net") }})
}

// runProgram runs a program of the machine; whatever it says goes to w.
func runProgram(ctx context.Context, w io.Writer, args ...string) error {
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Env = append(os.Environ(), "LC_ALL=C")
	c.Stdout, c.Stderr = w, w
	c.WaitDelay = time.Second
	err := c.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("there is no %s here", args[0])
	}
	return err
}

// writeOffloads asks for at most 64 interfaces.
func writeOffloads(ctx context.Context, w io.Writer) error {
	links, err := net.Interfaces()
	if err != nil {
		return err
	}
	const most = 64
	var failed error
	for _, l := range links[:min(len(links), most)] {
		if err := runProgram(ctx, w, "ethtool", "--show-features", l.Name); err != nil {
			failed = fmt.Errorf("%s: %w", l.Name, err)
		}
	}
	return failed
}

// readSome reads a file that is a regular one, or pretends to be, and not more of it than a part has room for.
func readSome(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxPart+maxSecret+1))
}

// copyFiles writes files, each behind its name. Patterns are those of path/filepath.
func copyFiles(w io.Writer, patterns ...string) error {
	var failed error
	for _, pattern := range patterns {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, path := range paths { // none of what this kernel doesn't have
			text, err := readSome(path)
			if err != nil {
				failed = errors.Join(failed, err)
				continue
			}
			if _, err := fmt.Fprintf(w, "== %s\n%s\n", path, text); err != nil {
				return err
			}
		}
	}
	return failed
}

func listFolder(w io.Writer, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil { // it is gone
			continue
		}
		if _, err := fmt.Fprintf(w, "%v %12d %s %s\n", fi.Mode(), fi.Size(), fi.ModTime().UTC().Format(time.RFC3339), e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// secretSysctls are keys, of TCP Fast Open and of IPv6's stable addresses (RFC 7217).
var secretSysctls = []string{"tcp_fastopen_key", "stable_secret"}

// writeSysctls writes what can be read below dir.
func writeSysctls(ctx context.Context, w io.Writer, dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return ctx.Err() // an interface has gone, or it is a folder
		}
		if slices.Contains(secretSysctls, e.Name()) {
			_, err := fmt.Fprintf(w, "%s = [redacted]\n", path)
			return err
		}
		if value, err := os.ReadFile(path); err == nil {
			if _, err := fmt.Fprintf(w, "%s = %s\n", path, strings.Join(strings.Fields(string(value)), " ")); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
}
