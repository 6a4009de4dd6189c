package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// bundle reads the bundle in a file, which is its owner's alone.
func bundle(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.Mode() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	return unpacked(t, f)
}

// unpacked reads a bundle, by the names of its files, and checks that they are in one folder.
func unpacked(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	zip, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(zip); ; {
		h, err := archive.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		folder, name, _ := strings.Cut(h.Name, "/")
		if !strings.HasPrefix(folder, "levee-debug-") || h.Mode != 0o600 {
			t.Errorf("%s has mode %o", h.Name, h.Mode)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(text)
	}
}

// A bundle of a gateway at work has what the verbs say and what the kernel knows, and nowhere the secret, not even where somebody has written it.
func TestBundle(t *testing.T) {
	g := newGateway(t, services)
	const secret = "0123456789abcdef00112233445566778899aabbccddeeff0f1e2d3c4b5a6978"
	raw, err := hex.DecodeString(secret)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.dir+"/cookie.key", []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.rewrite(services + "# do not lose it: " + secret + "\n")
	g.start()
	open := g.connect(false, 80)
	client, _ := open.ends()
	links := []string{g.lab.Clients[0].Link.Gateway.Name, g.lab.Servers[0].Link.Gateway.Name}
	written := []string{secret, strings.ToUpper(secret), base64.StdEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw)}
	for i, text := range []string{"hex " + written[0] + " " + written[1], "base64 " + written[2] + " " + written[3]} {
		if code, _, stderr := g.run(g.lab.Gateway.Command(t.Context(), "ip", "link", "set", "dev", links[i], "alias", text)); code != 0 {
			t.Fatal(stderr)
		}
	}
	before := g.snapshot()
	path := g.dir + "/bundle.tar.gz"
	code, stdout, stderr := g.levee("debug", "bundle", "-w", path)
	if code != 0 || stderr != "" || !strings.HasPrefix(stdout, path+": ") {
		t.Fatalf("%d %s %s", code, stdout, stderr)
	}
	g.same(before, "after a bundle")
	files := bundle(t, path)
	for name, text := range files {
		for _, s := range append(written, string(raw)) {
			if strings.Contains(text, s) || strings.Contains(name, s) {
				t.Errorf("%s has the secret", name)
			}
		}
	}
	// Whatever this machine lacks, these are there.
	for name, want := range map[string]string{
		"README":              "\nstatus.json ",
		"version.txt":         "levee " + versionNow().Version,
		"check.txt":           g.config + ": ok\n",
		"status.txt":          "flows  1 open, ",
		"status.json":         `"ready": true`,
		"plan.txt":            "\nip tuntap add dev tun0 ",
		"difference.txt":      ": nothing differs from the plan.\n",
		"flows.txt":           client + "  ",
		"servers.txt":         "  alive  ",
		"configuration.yaml":  "    capacity: 1000\n",
		"goroutines.txt":      "\nlevee/cmd/levee/daemon.Run(...)\n",
		"metrics.txt":         "\nlevee_flows{state=\"open\"} 1\n",
		"readyz.txt":          "ready\n",
		"process.txt":         "/limits\nLimit ",
		"state_dir.txt":       " control.sock\n",
		"crash.txt":           "levee " + versionNow().Version + ", started ",
		"host/links.txt":      "alias base64 [redacted]",
		"host/addresses.txt":  "192.0.2.1/",
		"host/rules4.txt":     "7301:",
		"host/rules6.txt":     "7301:",
		"host/routes4.txt":    "table 7332",
		"host/routes6.txt":    "table 7332",
		"host/kernel.txt":     "== /proc/version\nLinux version ",
		"host/counters.txt":   "TcpExt:",
		"host/offloads.txt":   "generic-segmentation-offload: ",
		"host/sysctls.txt":    "/proc/sys/net/ipv4/ip_forward = 1\n",
		"host/memory.txt":     "MemTotal:",
		"host/interrupts.txt": "== /proc/net/softnet_stat\n",
	} {
		if text, there := files[name]; !there || !strings.Contains(text, want) {
			t.Errorf("%s (there: %v) lacks %q:\n%.2000s", name, there, want, text)
		}
	}
	if text := files["host/sysctls.txt"]; !strings.Contains(text, "/tcp_fastopen_key = [redacted]\n") {
		t.Error("the key of TCP Fast Open is not redacted, or not there")
	}
	if strings.Contains(files["configuration.yaml"], "#") {
		t.Error("comments of the configuration are there")
	}

	// It is there already: nothing happens to it.
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if code, stdout, stderr := g.levee("debug", "bundle", "-w", path); code != 1 || stdout != "" || stderr != "levee: "+path+" is there already: remove it, or name another file with -w\n" {
		t.Errorf("again: %d %q %q", code, stdout, stderr)
	}
	if again, err := os.ReadFile(path); err != nil || !bytes.Equal(content, again) {
		t.Errorf("it is another one now: %v", err)
	}

	// Interrupted, it leaves nothing.
	path = g.dir + "/interrupted.tar.gz"
	c, _ := g.background("debug", "bundle", "-w", path)
	g.until("it has begun", func() bool { return exists(path) })
	if err := c.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := g.end(c); code != 1 || c.Output() != "levee: interrupted: nothing is written\n" || exists(path) {
		t.Errorf("interrupted: %d %q, there: %v", code, c.Output(), exists(path))
	}
}

// Without a daemon, a secret and a good configuration there is the rest, and what is missing is named.
func TestBundleOfNothing(t *testing.T) {
	dir := t.TempDir()
	config := writeConfig(t, "state_dir: "+dir+"/state\nsecret_file: "+dir+"/cookie.key\nmetrics: {listen: none}\ncolour: red\n"+web)
	path := filepath.Join(dir, "b.tar.gz")
	code, stdout, stderr := levee("debug", "bundle", "-c", config, "-w", path)
	if code != 0 || stderr != "" {
		t.Fatalf("%d %s %s", code, stdout, stderr)
	}
	files := bundle(t, path)
	const noDaemon = "no daemon on "
	for name, why := range map[string]string{
		"status.txt": noDaemon, "status.json": noDaemon, "flows.txt": noDaemon, "servers.txt": noDaemon, "observe.txt": noDaemon, "goroutines.txt": noDaemon,
		"process.txt": noDaemon, "metrics.txt": "metrics.listen is none", "readyz.txt": "metrics.listen is none", "plan.txt": "colour: unknown key", "state_dir.txt": "no such file",
	} {
		if _, there := files[name]; there {
			t.Errorf("%s:\n%s", name, files[name])
		}
		if !strings.Contains(stdout, "missing "+name+": ") || !strings.Contains(files["README"], "; MISSING: ") || !strings.Contains(stdout, why) {
			t.Errorf("nothing says that %s is missing because of %q:\n%s\n%s", name, why, stdout, files["README"])
		}
	}
	for name, want := range map[string]string{
		"configuration.yaml": "name: web\n", "README": "colour: unknown key", "host/sysctls.txt": "/proc/sys/net/", "version.txt": "levee ",
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s lacks %q:\n%s", name, want, files[name])
		}
	}
	// The same to a pipe.
	code, stdout, stderr = levee("debug", "bundle", "-c", config, "-w", "-")
	if code != 0 || !strings.HasPrefix(stderr, "standard output: ") || exists("-") {
		t.Errorf("to a pipe: %d %s", code, stderr)
	}
	if piped := unpacked(t, strings.NewReader(stdout)); len(piped) != len(files) || piped["version.txt"] != files["version.txt"] {
		t.Errorf("%d files in the pipe, not %d", len(piped), len(files))
	}
	if exists(dir+"/cookie.key") || exists(dir+"/state") {
		t.Error("a secret or a state_dir was made")
	}
}

// A bundle that doesn't fit is none.
func TestBundleFullDisk(t *testing.T) {
	dir := t.TempDir()
	mount(t, dir, "tmpfs", "size=4k")
	config := writeConfig(t, "state_dir: "+dir+"/state\n"+web)
	if code, stdout, stderr := levee("debug", "bundle", "-c", config, "-w", dir+"/b.tar.gz"); code != 1 || stdout != "" || !strings.Contains(stderr, syscall.ENOSPC.Error()) {
		t.Errorf("%d %q %q", code, stdout, stderr)
	}
	if exists(dir + "/b.tar.gz") {
		t.Error("half a bundle is left")
	}
}

// What is too long is cut off, never in a secret, and what fails is told.
func TestCollectParts(t *testing.T) {
	key := []byte("0123456789abcdef0123456789abcdef")
	long := bytes.Repeat([]byte("x"), maxPart-5)
	writes := func(err error, texts ...[]byte) func(context.Context, io.Writer) error {
		return func(_ context.Context, w io.Writer) error {
			for _, text := range texts {
				if n, e := w.Write(text); n != len(text) || e != nil {
					t.Errorf("%d %v", n, e)
				}
			}
			return err
		}
	}
	failed := errors.New("it is\ngone, " + string(key))
	parts := collectParts(t.Context(), []source{
		{"whole", "", false, writes(nil, []byte("a "), key, []byte(" b"))},
		{"long", "", false, writes(nil, long, key, long)},
		{"longest", "", false, writes(nil, long, long, key)},
		{"failed", "", false, writes(failed)},
		{"half", "", false, writes(failed, []byte("a"))},
		{"slow", "", false, func(ctx context.Context, _ io.Writer) error {
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("nothing ends it")
			}
			return nil
		}},
	}, [][]byte{key})
	for i, want := range []struct {
		length        int
		cut           bool
		missing, note string
	}{
		{len("a [redacted] b"), false, "", ""}, {maxPart, true, "", ""}, {maxPart, true, "", ""}, {0, false, "it is gone, [redacted]", ""}, {1, false, "", "it is gone, [redacted]"}, {0, false, "", ""},
	} {
		p := parts[i]
		if len(p.content) != want.length || p.cut != want.cut || p.missing != want.missing || p.note != want.note || bytes.Contains(p.content, key[:8]) {
			t.Errorf("%s: %d bytes, cut %v, missing %q, note %q, want %+v", p.name, len(p.content), p.cut, p.missing, p.note, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if parts := collectParts(ctx, []source{{"never", "", false, nil}}, nil); len(parts) != 0 {
		t.Errorf("interrupted: %v", parts)
	}
}
