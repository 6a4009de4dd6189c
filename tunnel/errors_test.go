package tunnel

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Each error of Open is one line with the remedy, and leaves nothing behind.
func TestOpenErrors(t *testing.T) {
	ns := newNamespace(t)
	cfg := Config{Name: "levee0", MTU: 1500, Queues: 4}
	plain := func(open func() error) error { return open() }
	tests := []struct {
		name    string
		prepare func(t *testing.T)
		on      func(open func() error) error // calls open in some bad circumstance
		want    []string
	}{
		{"taken by a multi-queue TUN", func(t *testing.T) { ns.open(t, cfg) }, plain,
			[]string{"interface levee0", "taken", "choose another name"}},
		{"taken by another kind of interface", func(t *testing.T) {
			l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "levee0"}, PeerName: "other"}
			if err := ns.link.LinkAdd(l); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { ns.link.LinkDel(l) })
		}, plain, []string{"interface levee0", "taken", "choose another name"}},
		{"no capability", nil, withoutNetAdmin,
			[]string{"interface levee0", "operation not permitted", "CAP_NET_ADMIN"}},
		{"no descriptors at all", nil, leavingDescriptors(0), []string{"levee0", "too many open files"}},
		{"no descriptors for queues", nil, leavingDescriptors(4),
			[]string{"open " + cloneDevice, "too many open files", "ulimit -n"}},
		{"no descriptors to hand queues over", nil, leavingDescriptors(7), []string{"levee0", "too many open files"}},
		{"no device node", nil, func(open func() error) error { return withoutDeviceNode(ns.NsHandle, open) },
			[]string{"open " + cloneDevice, "no such file", "modprobe tun", "--device " + cloneDevice}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.prepare != nil {
				tt.prepare(t)
			}
			var err error
			ns.do(t, func() error {
				links, before := ns.names(t), descriptors(t)
				err = tt.on(func() error {
					d, err := Open(cfg)
					if err == nil {
						d.Close()
					}
					return err
				})
				if after := descriptors(t); after != before {
					t.Errorf("%d descriptors after the error, %d before", after, before)
				}
				if after := ns.names(t); after != links {
					t.Errorf("links after the error %s, before %s", after, links)
				}
				return nil
			})
			wantOneLine(t, err, tt.want...)
		})
	}
}

func TestExplain(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{explainOpen(unix.ENODEV), "modprobe tun"},
		{explainOpen(unix.EACCES), "run as root"},
		{explainOpen(unix.ENFILE), "ulimit -n"},
		{explainOpen(unix.EIO), "open /dev/net/tun: input/output error"},
		{explainAttach("tun0", unix.E2BIG), "fewer queues"},
		{explainAttach("tun0", unix.EINVAL), "Linux 3.8"},
		{explainAttach("tun0", unix.ENOMEM), "make interface tun0: cannot allocate memory"},
	} {
		wantOneLine(t, tt.err, tt.want)
	}
}

// TestOpenWithoutBPF: a device is opened all the same, and says in a few words why it doesn't steer.
func TestOpenWithoutBPF(t *testing.T) {
	ns := newNamespace(t)
	ns.do(t, func() error {
		return without(func() error {
			d, err := Open(Config{Name: "levee0", MTU: 1500, Queues: 3, Steering: true})
			if err != nil {
				return err
			}
			defer d.Close()
			wantOneLine(t, d.Steering(), "BPF: operation not permitted: run as root or with CAP_BPF")
			if rings, err := d.Rings(); rings != nil || err != nil {
				t.Errorf("rings %v, %v without steering", rings, err)
			}
			return nil
		}, unix.CAP_BPF, unix.CAP_SYS_ADMIN)
	})
}

// withoutNetAdmin calls f on a thread that may do everything but CAP_NET_ADMIN.
func withoutNetAdmin(f func() error) error { return without(f, unix.CAP_NET_ADMIN) }

// without calls f on a thread that may do everything but what takes these capabilities.
func without(f func() error, capabilities ...int) error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData
	if err := unix.Capget(&head, &had[0]); err != nil {
		return fmt.Errorf("prepare: capget: %w", err)
	}
	less := had
	for _, c := range capabilities {
		less[c/32].Effective &^= 1 << (c % 32)
	}
	if err := unix.Capset(&head, &less[0]); err != nil {
		return fmt.Errorf("prepare: capset: %w", err)
	}
	defer unix.Capset(&head, &had[0])
	return f()
}

// leavingDescriptors makes a function that calls f while the process can open
// only so many more files.
func leavingDescriptors(n int) func(f func() error) error {
	return func(f func() error) error {
		// The limit is on the number of a descriptor. Find the free ones in their order.
		var free []int
		for range n + 1 {
			fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
			if err != nil {
				return fmt.Errorf("prepare: eventfd: %w", err)
			}
			defer unix.Close(fd) // in case of an early return; closed below otherwise
			free = append(free, fd)
		}
		var had unix.Rlimit
		if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &had); err != nil {
			return fmt.Errorf("prepare: getrlimit: %w", err)
		}
		less := unix.Rlimit{Cur: uint64(free[n]), Max: had.Max}
		for _, fd := range free {
			unix.Close(fd)
		}
		if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &less, nil); err != nil {
			return fmt.Errorf("prepare: setrlimit: %w", err)
		}
		defer unix.Prlimit(0, unix.RLIMIT_NOFILE, &had, nil)
		return f()
	}
}

// withoutDeviceNode calls f in the namespace on a thread that has an empty /dev/net.
func withoutDeviceNode(ns netns.NsHandle, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with its mounts
		done <- func() error {
			if err := netns.Set(ns); err != nil {
				return fmt.Errorf("prepare: setns: %w", err)
			}
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("prepare: unshare: %w", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return fmt.Errorf("prepare: make mounts private: %w", err)
			}
			if err := unix.Mount("none", "/dev/net", "tmpfs", 0, ""); err != nil {
				return fmt.Errorf("prepare: mount over /dev/net: %w", err)
			}
			return f()
		}()
	}()
	return <-done
}
