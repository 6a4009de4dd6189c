package tunnel

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// MaxQueues is the most queues that a TUN has (MAX_TAP_QUEUES in drivers/net/tun.c).
	MaxQueues = 256

	// DefaultTxQueueLen is the ring of each queue, in packets, when Config leaves it 0.
	// The kernel's default of 500 overflows within one TCP window at an MTU of 1500,
	// and a packet that finds the ring full is dropped.
	DefaultTxQueueLen = 4096

	// MaxTxQueueLen bounds the ring of a queue, in packets. Each may be a superpacket of 64 KB
	// that stays in kernel memory until it is read.
	MaxTxQueueLen = 65536

	// MinMTU and MaxMTU are what the kernel takes for a TUN, in bytes (MIN_MTU in
	// drivers/net/tun.c). IPv6 does not work below 1280 (RFC 8200 section 5).
	MinMTU = 68
	MaxMTU = 65535
)

// Config says what device to make.
type Config struct {
	// Name of the interface: at most 15 bytes, none of them a space, '/', ':' or '%', and not taken.
	Name string
	// MTU of the interface in bytes, MinMTU to MaxMTU.
	MTU int
	// Queues is how many queues to open, 1 to MaxQueues.
	Queues int
	// TxQueueLen is the ring of each queue in packets, at most MaxTxQueueLen; 0 means DefaultTxQueueLen.
	TxQueueLen int
	// Steering asks for queues of their own for SYNs (see SYNQueue). It takes at least 2 queues; with fewer, or where the
	// kernel doesn't allow it, the kernel's hash of a connection chooses among all queues.
	Steering bool
	// Persist makes the interface outlive the process unless Close is called, and with it the routes
	// that lead there. Open then takes the one that an earlier process has left, if nobody has it open.
	Persist bool
	// Descriptors are what HandOver has returned in the program before this one, if any. Open owns them. If they aren't queues of this device, or not as
	// many as Queues, it closes them and opens others.
	Descriptors []int
}

// Validate checks everything that can be checked without touching the system. Open calls it.
func (c Config) Validate() error {
	if err := validateName(c.Name); err != nil {
		return fmt.Errorf("interface name %q: %w", c.Name, err)
	}
	if c.MTU < MinMTU || c.MTU > MaxMTU {
		return fmt.Errorf("interface %s: MTU %d is out of range: choose %d to %d", c.Name, c.MTU, MinMTU, MaxMTU)
	}
	if c.Queues < 1 || c.Queues > MaxQueues {
		return fmt.Errorf("interface %s: %d queues is out of range: choose 1 to %d", c.Name, c.Queues, MaxQueues)
	}
	if c.TxQueueLen < 0 || c.TxQueueLen > MaxTxQueueLen {
		return fmt.Errorf("interface %s: queue length %d is out of range: choose 1 to %d packets, or 0 for %d",
			c.Name, c.TxQueueLen, MaxTxQueueLen, DefaultTxQueueLen)
	}
	return nil
}

// validateName follows the kernel's dev_valid_name, and refuses '%' too, with which the
// kernel would make up a name of its own.
func validateName(name string) error {
	switch {
	case name == "":
		return errors.New("is empty: choose one such as tun0")
	case name == "." || name == "..":
		return errors.New("is reserved: choose one such as tun0")
	case len(name) >= unix.IFNAMSIZ:
		return fmt.Errorf("is longer than %d bytes: choose a shorter one", unix.IFNAMSIZ-1)
	}
	bad := func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("/:%", r) }
	if i := strings.IndexFunc(name, bad); i >= 0 {
		return errors.New("may hold only printable ASCII without space, '/', ':' and '%': choose one such as tun0")
	}
	return nil
}
