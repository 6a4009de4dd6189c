package lab

import (
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is one network namespace that the lab made.
type Namespace struct {
	// Name tells the namespaces of one or several labs apart in messages, as in "lv3f09c2-client0".
	Name string

	// nl makes netlink calls inside the namespace.
	nl *netlink.Handle
	// inode is the namespace's identity.
	inode uint64
	// started holds what Close has to end; it belongs to the lab.
	started *cleanups
	// tasks run on the keeper's thread.
	tasks chan func()
	// gone is closed when the keeper has ended.
	gone chan struct{}

	// mu guards handle and closed, so that nobody enters through a descriptor that was closed and
	// given to something else.
	mu     sync.RWMutex
	handle netns.NsHandle
	closed bool
}

// made holds the namespaces that this process made and still holds, by inode: the only ones that may
// be flooded.
var made sync.Map

// newNamespace makes a namespace with lo up. The caller closes it.
func newNamespace(name string, started *cleanups) (*Namespace, error) {
	n := &Namespace{Name: name, started: started, tasks: make(chan func()), gone: make(chan struct{})}
	ready := make(chan error, 1)
	go n.keep(ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("make network namespace %s: %w", name, err)
	}
	err := n.prepare()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare network namespace %s: %w", name, err), n.close())
	}
	return n, nil
}

// keep makes the namespace on a thread of its own and runs tasks there until close. Processes are
// started from this thread because the kernel delivers their parent-death signal when the thread
// that started them ends, and this one lives as long as the namespace.
func (n *Namespace) keep(ready chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		// /proc/self is the main thread: keep it out of the lab. While it is locked here, another
		// goroutine can't land on it.
		inner := make(chan error)
		go n.keep(inner)
		ready <- <-inner
		runtime.UnlockOSThread()
		return
	}
	// The thread is never unlocked, so it ends with this goroutine and takes no namespace back
	// to the runtime's pool.
	defer close(n.gone)
	var st unix.Stat_t
	h, err := netns.New()
	if err == nil {
		err = unix.Fstat(int(h), &st)
	}
	n.handle, n.inode = h, st.Ino
	if err == nil {
		made.Store(n.inode, n)
	}
	ready <- err
	if err != nil {
		return
	}
	for task := range n.tasks {
		task()
	}
}

func (n *Namespace) prepare() error {
	var err error
	if n.nl, err = netlink.NewHandleAt(n.handle); err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	lo, err := n.nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := n.nl.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	// Addresses of links made later are usable at once, and nobody asks for routers.
	for _, s := range [][2]string{
		{"net.ipv6.conf.all.disable_ipv6", "0"},
		{"net.ipv6.conf.default.disable_ipv6", "0"},
		{"net.ipv6.conf.default.accept_dad", "0"},
		{"net.ipv6.conf.default.accept_ra", "0"},
		{"net.ipv6.conf.default.router_solicitations", "0"},
		{"net.ipv4.conf.all.rp_filter", "0"},
		{"net.ipv4.conf.default.rp_filter", "0"},
	} {
		if err := n.SetSysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
}

// close lets go of the namespace. The kernel removes it when nobody else uses it either.
func (n *Namespace) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	close(n.tasks)
	<-n.gone
	made.Delete(n.inode)
	if n.nl != nil {
		n.nl.Close()
	}
	if err := n.handle.Close(); err != nil {
		return fmt.Errorf("close network namespace %s: %w", n.Name, err)
	}
	return nil
}

// errClosed is what everything returns once the lab was closed.
var errClosed = errors.New("the lab is closed")

// enter moves the calling goroutine, which it locks to its thread, into the namespace. leave moves
// it back; call it once, on the same goroutine. If that fails the goroutine stays locked, so that
// its thread, which is in the wrong namespace, is never used for another.
func (n *Namespace) enter() (leave func() error, err error) {
	runtime.LockOSThread()
	defer func() {
		if err != nil {
			runtime.UnlockOSThread()
			err = fmt.Errorf("enter network namespace %s: %w", n.Name, err)
		}
	}()
	before, err := netns.Get()
	if err != nil {
		return nil, err
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.closed {
		err = errClosed
	} else {
		err = netns.Set(n.handle)
	}
	if err != nil {
		return nil, errors.Join(err, before.Close())
	}
	return func() error {
		if err := netns.Set(before); err != nil {
			return fmt.Errorf("leave network namespace %s: %w", n.Name, err)
		}
		runtime.UnlockOSThread()
		return before.Close()
	}, nil
}

// Do runs fn inside the namespace, on the calling goroutine. Sockets and processes that fn makes
// belong to the namespace and stay there; goroutines that it starts don't run inside.
func (n *Namespace) Do(fn func() error) (err error) {
	leave, err := n.enter()
	if err != nil {
		return err
	}
	defer func() {
		if e := leave(); e != nil {
			err = errors.Join(err, e)
		}
	}()
	return fn()
}

// onKeeper runs fn on the thread that lives as long as the namespace.
func (n *Namespace) onKeeper(fn func() error) error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.closed {
		return fmt.Errorf("network namespace %s: %w", n.Name, errClosed)
	}
	result := make(chan error)
	n.tasks <- func() { result <- fn() }
	return <-result
}

// Path is the namespace in the file system while the lab is open, for example for nsenter --net=PATH.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.handle) }

// Netlink makes netlink calls inside the namespace. It belongs to the Namespace.
func (n *Namespace) Netlink() *netlink.Handle { return n.nl }

// sysctlPath turns net.ipv4.ip_forward, or net/ipv4/conf/eth0.7/rp_filter where a name holds a dot,
// into the file of it.
func sysctlPath(name string) string {
	if !strings.Contains(name, "/") {
		name = strings.ReplaceAll(name, ".", "/")
	}
	return path.Join("/proc/sys", name)
}

// SetSysctl sets a sysctl below net inside the namespace.
func (n *Namespace) SetSysctl(name, value string) error {
	// Others belong to the whole machine.
	if !strings.HasPrefix(sysctlPath(name), "/proc/sys/net/") {
		return fmt.Errorf("sysctl %s is not one of a network namespace", name)
	}
	err := n.Do(func() error { return os.WriteFile(sysctlPath(name), []byte(value), 0) })
	if err != nil {
		return fmt.Errorf("set sysctl %s=%s in %s: %w", name, value, n.Name, err)
	}
	return nil
}

// Sysctl reads a sysctl inside the namespace.
func (n *Namespace) Sysctl(name string) (string, error) {
	var value []byte
	err := n.Do(func() (err error) {
		value, err = os.ReadFile(sysctlPath(name))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read sysctl %s in %s: %w", name, n.Name, err)
	}
	return strings.TrimSpace(string(value)), nil
}
