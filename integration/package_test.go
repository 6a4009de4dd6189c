package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

// makePackage makes a package with `make package` in a copy of the source, whose files are those of the source as it is now.
func makePackage(t *testing.T, version string, env ...string) (deb, sbom string) {
	t.Helper()
	top := filepath.Join(t.TempDir(), "source")
	copying := exec.Command("sh", "-ec", `mkdir "$0"; git ls-files -z --cached --others --exclude-standard | tar --null -T - -c | tar -x -C "$0"`, top)
	copying.Dir = ".."
	if out, err := copying.CombinedOutput(); err != nil {
		t.Fatalf("copy the source: %v\n%s", err, out)
	}
	out := t.TempDir()
	c := exec.Command("make", "-C", top, "package", "VERSION="+version, "PACKAGES="+out)
	c.Env = append(append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000"), env...)
	if text, err := c.CombinedOutput(); err != nil {
		t.Fatalf("make package: %v\n%s", err, text)
	}
	one := func(pattern string) string {
		found, _ := filepath.Glob(filepath.Join(out, pattern))
		if len(found) != 1 {
			t.Fatalf("%d files %s", len(found), pattern)
		}
		return found[0]
	}
	return one("*.deb"), one("*.cdx.json")
}

// packageFiles are what makePackage has made.
type packageFiles struct{ deb, sbom string }

// first is version 1.0.0, made once for all tests that only want a package.
var first struct {
	sync.Once
	packageFiles
}

func firstPackage(t *testing.T) packageFiles {
	t.Helper()
	first.Do(func() {
		deb, sbom := makePackage(t, "v1.0.0")
		dir := labtest.KeptDir(t)
		first.deb, first.sbom = filepath.Join(dir, "levee.deb"), filepath.Join(dir, "levee.cdx.json")
		for from, to := range map[string]string{deb: first.deb, sbom: first.sbom} {
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
		}
	})
	if first.deb == "" {
		t.Fatal("no package could be made, see the test before")
	}
	return first.packageFiles
}

// TestPackageReproducible: another folder, another time zone, language and umask make the same bytes.
func TestPackageReproducible(t *testing.T) {
	read := func(paths ...string) (all []byte) {
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, b...)
		}
		return all
	}
	first := firstPackage(t)
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	otherDeb, otherSBOM := makePackage(t, "v1.0.0", "TZ=Asia/Kathmandu", "LC_ALL=C.UTF-8", "HOME="+t.TempDir(), "GOCACHE="+goEnv(t, "GOCACHE"), "GOMODCACHE="+goEnv(t, "GOMODCACHE"), "GOPATH="+goEnv(t, "GOPATH"))
	if !bytes.Equal(read(first.deb), read(otherDeb)) || !bytes.Equal(read(first.sbom), read(otherSBOM)) {
		t.Errorf("%s and %s differ, or their lists of parts", first.deb, otherDeb)
	}
	var bom struct {
		Format   string `json:"bomFormat"`
		Metadata struct {
			Component struct{ Name, Version, Purl string }
		}
		Components []struct{ Name, Version, Purl string }
	}
	if err := json.Unmarshal(read(first.sbom), &bom); err != nil || bom.Format != "CycloneDX" {
		t.Fatalf("the list of parts: %v, format %q", err, bom.Format)
	}
	if c := bom.Metadata.Component; c.Name != "levee" || c.Version != "v1.0.0" || c.Purl != "pkg:golang/levee@v1.0.0" {
		t.Errorf("the list of parts is of %+v", c)
	}
	parts := map[string]string{}
	for _, c := range bom.Components {
		parts[c.Name] = c.Version
	}
	for _, name := range []string{"std", "github.com/spf13/viper", "github.com/cilium/ebpf", "gvisor.dev/gvisor"} {
		if parts[name] == "" {
			t.Errorf("%s is not among the parts", name)
		}
	}
	if parts["pgregory.net/rapid"] != "" {
		t.Error("a library of the tests is among the parts")
	}
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// machine is a copy of this one's file system that can be written to, in a namespace of its own on the lab's gateway.
type machine struct {
	t   *testing.T
	net *lab.Namespace
	pid string
}

// newMachine makes one. systemctl there is a program that notes what it is asked to do, enables levee.service as the real one does, and says that
// it is active if there is a file /active.
func newMachine(t *testing.T, l *lab.Lab) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "levee-machine-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	holder := start(t, l.Gateway, "unshare", "--mount", "--propagation", "private", "sh", "-ec", `
		mount -t tmpfs tmpfs `+dir+`
		cd `+dir+`
		mkdir upper work root
		mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
		mount --rbind /proc root/proc
		mount --rbind /dev root/dev
		mount -t tmpfs tmpfs root/run
		mount -t tmpfs tmpfs root/tmp
		cat >root/usr/local/sbin/systemctl <<'SH'
#!/bin/sh
link=/etc/systemd/system/multi-user.target.wants/levee.service
words=
for word; do
	case $word in -*) ;; *) words="$words$word " ;; esac
done
case $words in
"is-active "*) exec test -e /active ;;
"is-enabled "*) [ -L $link ] && echo enabled || { echo disabled; exit 1; } ;;
*) echo "${words% }" >>/systemctl.log ;;
esac
case $words in
"preset "* | "enable "*) mkdir -p "${link%/*}" && ln -sf /lib/systemd/system/levee.service $link ;;
"disable "*) rm -f $link ;;
esac
SH
		chmod +x root/usr/local/sbin/systemctl
		rm -f root/usr/sbin/policy-rc.d
		touch root/tmp/is-ready
		exec chroot root sleep 600
	`)
	m := &machine{t: t, net: l.Gateway, pid: fmt.Sprint(holder.Pid())}
	deadline := time.Now().Add(10 * time.Second)
	for m.command("test", "-e", "/tmp/is-ready", "-a", "-e", "/usr/local/sbin/systemctl").Run() != nil {
		if time.Now().After(deadline) {
			t.Fatalf("no machine: %s", holder.Output())
		}
		time.Sleep(20 * time.Millisecond)
	}
	return m
}

func (m *machine) command(args ...string) *lab.Command {
	return m.net.Command(context.Background(), "nsenter", append([]string{"-t", m.pid, "--mount", "--root", "--wd", "--"}, args...)...)
}

// run runs a program there, which has to end well.
func (m *machine) run(args ...string) string {
	m.t.Helper()
	out, err := m.try(args...)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// try returns all that a program says.
func (m *machine) try(args ...string) (string, error) {
	var out strings.Builder
	c := m.command(args...)
	c.Stdout = &out
	err := c.Run()
	return out.String() + c.Output(), err
}

// TestPackage installs, runs, upgrades, removes and purges the package.
func TestPackage(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	m := newMachine(t, l)
	second, _ := makePackage(t, "v1.1.0-rc1")
	put(t, m, firstPackage(t).deb, "/tmp/1.deb")
	put(t, m, second, "/tmp/2.deb")
	if out := m.run("dpkg-deb", "--info", "/tmp/2.deb"); strings.Contains(out, "conffiles") {
		t.Errorf("upgrades may stop at a question:\n%s", out)
	}
	if out := m.run("dpkg-deb", "-f", "/tmp/2.deb", "Version"); out != "1.1.0~rc1\n" {
		t.Errorf("the version is %s", out)
	}
	m.run("dpkg", "--compare-versions", "1.1.0~rc1", "lt", "1.1.0")

	if out := m.run("dpkg", "-i", "/tmp/1.deb"); !strings.Contains(out, "levee is not started: systemd doesn't run here") {
		t.Errorf("the installation says:\n%s", out)
	}
	if out := m.run("levee", "version"); !strings.HasPrefix(out, "levee v1.0.0 ") {
		t.Errorf("version: %s", out)
	}
	if out := m.run("stat", "-c", "%a %u %s", "/var/lib/levee", "/var/lib/levee/cookie.key"); !strings.HasPrefix(out, "700 0 ") || !strings.HasSuffix(out, "\n600 0 65\n") {
		t.Errorf("the key: %s", out)
	}
	// As installed it protects nothing, and says what to do.
	if out, err := m.try("levee", "check"); err == nil || !strings.Contains(out, "/etc/levee/levee.yaml: services: ") {
		t.Errorf("check of the configuration as installed: %v\n%s", err, out)
	}
	for _, file := range []string{"/lib/systemd/system/levee.service", "/usr/share/doc/levee/copyright", "/usr/share/doc/levee/levee.cdx.json",
		"/usr/share/bash-completion/completions/levee", "/usr/share/doc/levee/grafana-dashboard.json", "/usr/share/doc/levee/levee.example.yaml",
		"/usr/share/man/man8/levee.8.gz", "/usr/share/man/man8/levee-flows-list.8.gz"} {
		m.run("test", "-s", file)
	}
	m.run("dpkg", "--verify", "levee")

	m.run("sh", "-c", "printf 'log: {level: debug}\\nservices: [{name: lab, prefixes: [192.0.2.0/24, \"2001:db8:1::/64\"], mode: always}]\\n' >/etc/levee/levee.yaml")
	if out := m.run("levee", "check"); !strings.HasPrefix(out, "/etc/levee/levee.yaml: ok\n") {
		t.Errorf("check: %s", out)
	}
	daemon := m.command("levee", "run")
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	status := func(version string) {
		t.Helper()
		deadline := time.Now().Add(15 * time.Second)
		for {
			out, err := m.try("levee", "status")
			if err == nil && strings.HasPrefix(out, "levee "+version+", ready, ") {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("no levee %s that is ready: %v\n%s\nits log:\n%s", version, err, out, daemon.Output())
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	status("v1.0.0")
	client, server := connect(t, l.Clients[0], l.Servers[0], false, 7777)

	// The upgrade keeps the configuration, and replaces the program under its connections.
	if out := m.run("dpkg", "-i", "/tmp/2.deb"); !strings.Contains(out, "upgraded from v1.0.0 to v1.1.0-rc1 in ") || !strings.Contains(out, " 1 connections went on, 0 are lost") {
		t.Errorf("the upgrade says:\n%s", out)
	}
	if out := m.run("grep", "-c", "name: lab", "/etc/levee/levee.yaml"); out != "1\n" {
		t.Error("the configuration has changed")
	}
	status("v1.1.0-rc1")
	if _, err := transfer(client, server, 1<<20, 20*time.Second); err != nil {
		t.Errorf("after the upgrade: %v", err)
	}

	// Not while it runs without systemd.
	if out, err := m.try("dpkg", "-r", "levee"); err == nil || !strings.Contains(out, "another levee (pid ") {
		t.Errorf("removed under a daemon: %v\n%s", err, out)
	}
	status("v1.1.0-rc1")
	if err := daemon.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := daemon.Wait(); err != nil {
		t.Errorf("the daemon: %v\n%s", err, daemon.Output())
	}
	m.run("dpkg", "-r", "levee")
	m.run("test", "-e", "/etc/levee/levee.yaml", "-a", "-e", "/var/lib/levee/cookie.key")
	m.run("dpkg", "-P", "levee")
	if out := m.run("find", "/", "-xdev", "-name", "*levee*", "-newer", "/usr/local/sbin/systemctl", "-not", "-path", "/tmp/*", "-not", "-path", "/root/*", "-not", "-path", "/home/*"); out != "" {
		t.Errorf("left behind:\n%s", out)
	}
	if out := m.run("cat", "/var/lib/dpkg/status"); strings.Contains(out, "Package: levee\n") {
		t.Error("dpkg remembers it")
	}
}

// TestPackageUnderSystemd: what the scripts ask of systemd. It is not there; something else answers in its place.
func TestPackageUnderSystemd(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	m := newMachine(t, l)
	put(t, m, firstPackage(t).deb, "/tmp/1.deb")
	m.run("mkdir", "-p", "/run/systemd/system", "/etc/levee")
	asked := func() string {
		t.Helper()
		out := m.run("sh", "-c", "cat /systemctl.log; : >/systemctl.log")
		return strings.ReplaceAll(out, "\n", "; ")
	}
	good := "printf 'services: [{name: lab, prefixes: [192.0.2.0/24]}]\\n' >/etc/levee/levee.yaml"
	forbid := "printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d"
	install := "dpkg -i /tmp/1.deb"
	for _, step := range []struct{ name, before, do, want, says string }{
		{"first, nothing to protect", "", install,
			"preset levee.service; daemon-reload; ", "levee is not started: say in /etc/levee/levee.yaml what to protect"},
		{"purged", "", "dpkg -P levee", "stop levee.service; daemon-reload; daemon-reload; ", ""},
		{"first, nothing is to be started", "mkdir -p /etc/levee && " + good + " && " + forbid, install,
			"preset levee.service; daemon-reload; ", "policy-rc.d"},
		{"purged again", "rm /usr/sbin/policy-rc.d", "dpkg -P levee", "stop levee.service; daemon-reload; daemon-reload; ", ""},
		{"first, to be started", "mkdir -p /etc/levee && " + good, install,
			"preset levee.service; daemon-reload; start levee.service; ", ""},
		{"again, stopped", "", install,
			"daemon-reload; ", "levee is not started, for it didn't run: systemctl start levee"},
		{"again, running", "touch /active", install,
			"daemon-reload; ", "is levee running?"}, // levee upgrade, which finds no daemon here
		{"again, running, not to be replaced", forbid, install,
			"daemon-reload; ", "levee runs on as it was: /usr/sbin/policy-rc.d"},
		{"again, stopped and disabled", "rm /usr/sbin/policy-rc.d /active && systemctl disable levee.service && rm /systemctl.log", install,
			"daemon-reload; ", "levee is not started, for it didn't run: systemctl start levee"},
		{"removed", "", "dpkg -r levee", "stop levee.service; daemon-reload; ", ""},
	} {
		if step.before != "" {
			m.run("sh", "-c", step.before)
		}
		out := m.run("sh", "-c", step.do+" 2>&1")
		if got := asked(); got != step.want {
			t.Errorf("%s: systemctl was asked\n%s\nwant\n%s", step.name, got, step.want)
		}
		if !strings.Contains(out, step.says) {
			t.Errorf("%s: no %q in\n%s", step.name, step.says, out)
		}
	}
	if out, err := m.try("systemctl", "is-enabled", "levee.service"); err == nil || out != "disabled\n" {
		t.Errorf("what was disabled is %s", out)
	}
}

// put copies a file into the machine, whose /tmp is not this one's.
func put(t *testing.T, m *machine, from, to string) {
	t.Helper()
	f, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := exec.Command("nsenter", "-t", m.pid, "--mount", "--root", "--wd", "--", "sh", "-c", "cat >"+to)
	c.Stdin = f
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v\n%s", from, err, out)
	}
}

// TestContainerImage: the image holds the program and nothing else, so it has to work in an empty root.
func TestContainerImage(t *testing.T) {
	recipe, err := os.ReadFile("../cmd/levee/package/Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"FROM scratch\n", "COPY bin/levee /levee\n", "ENTRYPOINT [\"/levee\"]\n"} {
		if !strings.Contains(string(recipe), line) {
			t.Errorf("the recipe has no line %q, and this test stands for it", line)
		}
	}
	l := labtest.New(t, lab.Config{})
	root := t.TempDir()
	// Static, as make build makes it.
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(root, "levee"), "levee/cmd/levee")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	write(t, root, "levee.yaml", "services: [{name: lab, prefixes: [192.0.2.0/24, \"2001:db8:1::/64\"], mode: always}]\n")
	daemon := start(t, l.Gateway, "unshare", "--mount", "--propagation", "private", "sh", "-ec", `
		cd `+root+`
		mkdir -p proc dev/net run/levee var/lib/levee
		mount --rbind /proc proc
		touch dev/net/tun
		mount --bind /dev/net/tun dev/net/tun
		mount -t tmpfs tmpfs run/levee
		chmod 700 run/levee
		exec chroot . /levee run -c /levee.yaml`)
	deadline := time.Now().Add(15 * time.Second)
	for !strings.Contains(daemon.Output(), "msg=ready") {
		if time.Now().After(deadline) {
			t.Fatalf("not ready:\n%s", daemon.Output())
		}
		time.Sleep(20 * time.Millisecond)
	}
	client, server := connect(t, l.Clients[0], l.Servers[0], true, 7777)
	if _, err := transfer(client, server, 1<<20, 20*time.Second); err != nil {
		t.Error(err)
	}
	if err := daemon.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := daemon.Wait(); err != nil {
		t.Errorf("its end: %v\n%s", err, daemon.Output())
	}
}
