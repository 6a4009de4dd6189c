package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// The test binary is also the levee that the tests run: with asLevee set in the environment it
// behaves as the real one, and with withoutTUN or withoutAdmin as on a machine that lacks something.
const (
	asLevee      = "LEVEE_TEST_AS_LEVEE"
	withoutTUN   = "LEVEE_TEST_WITHOUT_TUN"
	withoutAdmin = "LEVEE_TEST_WITHOUT_ADMIN"
	withoutBPF   = "LEVEE_TEST_WITHOUT_BPF"
)

func TestMain(m *testing.M) {
	if os.Getenv(asLevee) == "" {
		os.Exit(m.Run())
	}
	for name, hide := range map[string]func() error{withoutTUN: hideTUN, withoutAdmin: dropAdmin, withoutBPF: dropBPF} {
		if os.Getenv(name) == "" {
			continue
		}
		if err := hide(); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			os.Exit(99)
		}
	}
	main()
}

// hideTUN puts an empty folder over /dev/net, for this process only.
func hideTUN() error {
	// Mounts belong to a thread's file system attributes: the rest has to run on this one.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, "size=4k")
}

// dropAdmin gives up CAP_NET_ADMIN.
func dropAdmin() error { return drop(unix.CAP_NET_ADMIN) }

// dropBPF gives up what allows BPF.
func dropBPF() error { return drop(unix.CAP_BPF, unix.CAP_SYS_ADMIN) }

func drop(capabilities ...uint) error {
	runtime.LockOSThread() // capabilities belong to a thread
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	for _, c := range capabilities {
		data[c/32].Effective &^= 1 << (c % 32)
		data[c/32].Permitted &^= 1 << (c % 32)
	}
	return unix.Capset(&header, &data[0])
}

// levee runs a command line in this process.
func levee(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = execute(args, &out, &err)
	return code, out.String(), err.String()
}
