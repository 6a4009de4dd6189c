package integration

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

const unitFile = "../cmd/levee/package/levee.service"

// TestUnitExposure has systemd judge the unit: 0 is no exposure to anything, 10 all. It works on the file, without a systemd that runs.
func TestUnitExposure(t *testing.T) {
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=24", unitFile).CombinedOutput()
	last := lastLines(string(out), 1)
	if err != nil {
		t.Errorf("%v: an exposure of less than 2.5 was to be: %s", err, last)
	}
	t.Log(last)
}

// TestSandboxed runs the daemon under what the unit allows, as far as that can be had without systemd: its capabilities and no new ones, its system calls
// and address families, no writable and executable memory, no new namespaces, and a file system that can't be written to but for the folders that
// the unit names. All that the daemon does has to work there: steering, notrack, probes, reload, a restart after a crash, an upgrade in place, an orderly end.
func TestSandboxed(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		l := labtest.New(t, lab.Config{})
		binary, err := labtest.Binary()
		if err != nil {
			t.Fatal(err)
		}
		firewall(t, l.Gateway, "")
		p := &protected{Lab: l, levee: labtest.StartLevee(t, l, sandboxed(t, binary), config(nil)), client: l.Clients[0], server: l.Servers[0]}
		p.exempt(t)
		client, server := connect(t, p.client, p.server, v6, 7777)
		pass := func(when string) {
			t.Helper()
			for _, way := range ways(client, server) {
				if _, err := transfer(way.from, way.to, 1<<20, 20*time.Second); err != nil {
					t.Errorf("%s, %s: %v", when, way.name, err)
				}
			}
		}
		pass("at first")
		var s struct {
			TUN struct{ Steering string }
		}
		if p.status(t, &s); s.TUN.Steering != "ebpf" {
			t.Errorf("steering: %s", s.TUN.Steering)
		}
		if log := p.levee.Log(); strings.Contains(log, "level=ERROR") || strings.Contains(log, "probe") && strings.Contains(log, "not permitted") {
			t.Errorf("its log:\n%s", log)
		}
		if out, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.levee.Process().Pid())); err != nil || !regexp.MustCompile(`CapBnd:\s+0000008000003000\nCapAmb:\s+0+\nNoNewPrivs:\s+1\nSeccomp:\s+2\n`).Match(out) {
			t.Errorf("it is not confined (%v):\n%s", err, out)
		}
		if err := p.levee.Command(t.Context(), "reload").Run(); err != nil {
			t.Errorf("reload: %v", err)
		}
		if err := p.levee.Upgrade(t.Context()); err != nil {
			t.Fatal(err)
		}
		pass("after an upgrade")
		if err := p.levee.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := p.levee.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		pass("after a crash")
		p.spliced(t, 0)
		if err := p.levee.Stop(); err != nil {
			t.Errorf("its end: %v", err)
		}
		for _, look := range [][]string{{"ip", "rule"}, {"ip", "-6", "rule"}, {"ip", "link"}, {"nft", "list", "tables"}} {
			if out := run(t, l.Gateway, 10*time.Second, look[0], look[1:]...); strings.Contains(out, "levee") {
				t.Errorf("left behind: %s", out)
			}
		}
	})
}

// confine, in the environment, has this binary execute its arguments confined; it holds the folders that stay writable.
const confine = "LEVEE_TEST_CONFINE"

// sandboxed returns a program that is levee, confined.
func sandboxed(t *testing.T, binary string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	filter := filepath.Join(dir, "seccomp")
	if err := os.WriteFile(filter, seccompProgram(t), 0o600); err != nil {
		t.Fatal(err)
	}
	// The lab keeps what a daemon would have in /run and /var/lib in a folder of /dev/shm.
	script := fmt.Sprintf("#!/bin/sh\n%s=/dev/shm:/proc/sys/net exec %q %q %q \"$@\"\n", confine, self, filter, binary)
	path := filepath.Join(dir, "levee")
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// executeConfined gives up what the unit doesn't grant and becomes the program. It returns only on error.
func executeConfined(writable []string, filter, program string, args []string) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, dir := range writable {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", dir, err)
		}
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("make mounts read-only: %w", err)
	}
	for _, dir := range writable {
		if err := unix.MountSetattr(unix.AT_FDCWD, dir, 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("make %s writable: %w", dir, err)
		}
	}
	unix.Umask(0o077)
	keep := uint64(0)
	for _, c := range unitCapabilities {
		keep |= 1 << c
	}
	for c := range uint(64) {
		if keep>>c&1 == 0 {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("drop capability %d: %w", c, err)
			}
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program64, err := os.ReadFile(filter)
	if err != nil {
		return err
	}
	instructions := unsafe.Slice((*unix.SockFilter)(unsafe.Pointer(&program64[0])), len(program64)/8)
	fprog := unix.SockFprog{Len: uint16(len(instructions)), Filter: &instructions[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&fprog)), 0, 0); err != nil {
		return fmt.Errorf("install the system call filter: %w", err)
	}
	return syscall.Exec(program, append([]string{program}, args...), os.Environ())
}

// unitCapabilities are those of CapabilityBoundingSet; readUnit sees to it that they are the unit's.
var unitCapabilities = []uint{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_BPF}

// readUnit returns the values of a key of the unit, in order.
func readUnit(t *testing.T, key string) (values []string) {
	t.Helper()
	text, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), key+"="); ok {
			values = append(values, v)
		}
	}
	return values
}

// seccompProgram is the unit's system call filter for this machine, as struct sock_filter in memory.
func seccompProgram(t *testing.T) []byte {
	t.Helper()
	if got := readUnit(t, "CapabilityBoundingSet"); !slices.Equal(got, []string{"CAP_NET_ADMIN CAP_NET_RAW CAP_BPF"}) {
		t.Fatalf("unitCapabilities is not what the unit says: %q", got)
	}
	for key, want := range map[string]string{"NoNewPrivileges": "yes", "MemoryDenyWriteExecute": "yes", "RestrictNamespaces": "yes", "ProtectSystem": "strict",
		"RestrictAddressFamilies": "AF_UNIX AF_NETLINK AF_INET AF_INET6", "ReadWritePaths": "/proc/sys/net", "SystemCallErrorNumber": "EPERM", "UMask": "0077"} {
		if got := readUnit(t, key); !slices.Equal(got, []string{want}) {
			t.Fatalf("%s of the unit is %q, and this test has %q", key, got, want)
		}
	}
	numbers := syscallNumbers(t)
	allowed := map[string]bool{}
	for _, list := range readUnit(t, "SystemCallFilter") {
		list, deny := strings.CutPrefix(list, "~")
		for _, name := range strings.Fields(list) {
			for _, call := range expandCalls(t, name) {
				allowed[call] = !deny
			}
		}
	}
	allow, eperm := bpfReturn(unix.SECCOMP_RET_ALLOW), bpfReturn(unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM))
	load := func(offset uint32) unix.SockFilter { return bpf(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, 0, 0) }
	argument := func(i uint32) unix.SockFilter { return load(16 + 8*i) } // the low half of seccomp_data.args[i]
	equal := func(k uint32, no uint8) unix.SockFilter { return bpf(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, k, 0, no) }
	anyBit := func(k uint32, no uint8) unix.SockFilter { return bpf(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, k, 0, no) }
	program := []unix.SockFilter{load(4), bpf(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, unix.AUDIT_ARCH_X86_64, 1, 0), eperm, load(0)}
	special := map[string][]unix.SockFilter{
		"socket": {argument(0), equal(unix.AF_UNIX, 1), allow, equal(unix.AF_NETLINK, 1), allow, equal(unix.AF_INET, 1), allow, equal(unix.AF_INET6, 1), allow, eperm},
		"mmap": {argument(2), bpf(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, unix.PROT_WRITE|unix.PROT_EXEC, 0, 0),
			equal(unix.PROT_WRITE|unix.PROT_EXEC, 1), eperm, allow},
		"mprotect": {argument(2), anyBit(unix.PROT_EXEC, 1), eperm, allow},
		"clone":    {argument(0), anyBit(unix.CLONE_NEWNS|unix.CLONE_NEWNET|unix.CLONE_NEWPID|unix.CLONE_NEWUSER|unix.CLONE_NEWUTS|unix.CLONE_NEWIPC|unix.CLONE_NEWCGROUP, 1), eperm, allow},
		"clone3":   {bpfReturn(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))},
		"unshare":  {eperm},
		"setns":    {eperm},
	}
	calls := 0
	for name, number := range numbers {
		if !allowed[name] {
			continue
		}
		calls++
		then, ok := special[name]
		if !ok {
			then = []unix.SockFilter{allow}
		}
		program = append(append(program, equal(number, uint8(len(then)))), then...)
	}
	if calls < 200 || calls > 330 {
		t.Fatalf("%d system calls are allowed", calls)
	}
	program = append(program, eperm)
	var b bytes.Buffer
	if err := binary.Write(&b, binary.NativeEndian, program); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func bpf(code uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: code, K: k, Jt: yes, Jf: no}
}

func bpfReturn(k uint32) unix.SockFilter { return bpf(unix.BPF_RET|unix.BPF_K, k, 0, 0) }

// expandCalls are the system calls of a name or a group's, as systemd has it.
func expandCalls(t *testing.T, name string) (calls []string) {
	t.Helper()
	if !strings.HasPrefix(name, "@") {
		return []string{name}
	}
	out, err := exec.Command("systemd-analyze", "--no-pager", "syscall-filter", name).Output()
	if err != nil {
		t.Fatalf("systemd-analyze syscall-filter %s: %v", name, err)
	}
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != name && line != "" && line[0] != '#' {
			calls = append(calls, expandCalls(t, line)...)
		}
	}
	return calls
}

// syscallNumbers are those of this machine's architecture, from the kernel's header.
func syscallNumbers(t *testing.T) map[string]uint32 {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Fatalf("this test has the numbers of system calls for amd64, not for %s", runtime.GOARCH)
	}
	f, err := os.Open("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
	if err != nil {
		t.Fatalf("%v: install linux-libc-dev", err)
	}
	defer f.Close()
	numbers := map[string]uint32{}
	for s := bufio.NewScanner(f); s.Scan(); {
		if words := strings.Fields(s.Text()); len(words) == 3 && words[0] == "#define" {
			if name, ok := strings.CutPrefix(words[1], "__NR_"); ok {
				if n, err := strconv.ParseUint(words[2], 10, 32); err == nil {
					numbers[name] = uint32(n)
				}
			}
		}
	}
	return numbers
}
