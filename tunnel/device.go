package tunnel

import (
	"errors"
	"fmt"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Device is an open TUN interface. Its methods may be called at the same time; a Queue
// belongs to one worker.
type Device struct {
	name string
	cfg  Config // with TxQueueLen filled in
	// attached: the interface was there already. persistent: it stays when the queues are closed.
	attached, persistent bool
	queues               []*Queue // in the order of the kernel's queue index

	// control is a netlink socket. It stays in the network namespace that Open ran in,
	// so that the device can be asked about from any thread.
	control int
	// controlMu guards what follows, and the use of control.
	controlMu sync.Mutex
	sequence  uint32 // of the last netlink request
	closed    bool
	index     int // of the interface, in its network namespace
	offload   Offload
	// steering is nil if the kernel's own hash chooses the queues, and notSteered why.
	steering   *steering
	notSteered error
	dropped    []uint64 // by queue, the most that Rings has known to be lost

	// wake is an eventfd that every waiting Queue polls too. Close writes to it once and
	// nobody reads it, so it wakes all of them and stays readable.
	wake int

	// life lets one of Close, Leave, HandOver and Repair be at work. It is taken before any other lock.
	life sync.Mutex
	over bool // after any of the first three

	closeErr error
}

// Open makes the interface in the calling thread's network namespace and opens its queues.
// A name that is taken is an error, whoever has it, but for what Config.Persist says. A link that it made is left down. Every error is
// one line that names the thing and the remedy, and leaves nothing behind.
func Open(cfg Config) (*Device, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.TxQueueLen = cfg.queueLen()
	d := &Device{name: cfg.Name, cfg: cfg, control: -1, wake: -1}
	d.cfg.Descriptors = nil // used up by then
	if err := d.open(cfg); err != nil {
		_ = d.Leave() // nothing that an earlier process has left goes because of an error
		return nil, err
	}
	return d, nil
}

func (d *Device) open(cfg Config) error {
	var err error
	if d.control, err = openControl(); err != nil {
		return fmt.Errorf("open a netlink socket for interface %s: %w", d.name, err)
	}
	if d.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("make an eventfd for interface %s: %w", d.name, err)
	}
	fds := cfg.Descriptors
	if d.attached = inherit(&cfg); !d.attached {
		if cfg.Persist {
			if d.attached, err = leftOver(d.name); err != nil {
				return err
			}
		}
		fds, err = openQueues(d.name, cfg.Queues, d.attached)
	}
	if err != nil {
		return err
	}
	owned, err := handOver(d.name, fds)
	for i, h := range owned {
		d.queues = append(d.queues, newQueue(h.fd, d.wake, h.dev, fmt.Sprintf("%s queue %d", d.name, i)))
	}
	if err != nil {
		return err
	}
	return d.tune(d.queues[0].fd)
}

// tune sets what belongs to the whole device, of which fd is a queue. It comes after handOver because
// wireguard/tun sets offloads of its own.
func (d *Device) tune(fd int) error {
	d.controlMu.Lock()
	defer d.controlMu.Unlock()
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1); err != nil {
		return fmt.Errorf("interface %s: set the virtio header's byte order: %w", d.name, err)
	}
	d.offload = negotiateOffload(func(mask int) error { return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, mask) })

	if err := d.setLength(); err != nil {
		return err
	}
	var err error
	if d.index, err = d.linkIndex(); err != nil {
		return fmt.Errorf("interface %s: read its index: %w", d.name, err)
	}
	if err := d.withoutDiscipline(); err != nil {
		return err
	}
	if d.dropped == nil {
		d.dropped = make([]uint64, d.cfg.Queues)
	}
	if d.steering == nil {
		d.steering, d.notSteered = startSteering(d.cfg, fd)
	} else if err := d.steering.attach(fd); err != nil { // Repair: what it knows goes on
		return fmt.Errorf("interface %s: attach the steering program: %w", d.name, err)
	}
	if d.cfg.Persist {
		return d.persist(fd)
	}
	return nil
}

// setLength sets the MTU and the length of the queues.
func (d *Device) setLength() error {
	if err := d.setLink(unix.SIOCSIFMTU, d.cfg.MTU); err != nil {
		return fmt.Errorf("interface %s: set MTU %d: %w", d.name, d.cfg.MTU, err)
	}
	if err := d.setLink(unix.SIOCSIFTXQLEN, d.cfg.TxQueueLen); err != nil {
		return fmt.Errorf("interface %s: set queue length %d: %w", d.name, d.cfg.TxQueueLen, err)
	}
	return nil
}

// discipline is the TUN's queueing discipline.
const discipline = "noqueue"

// withoutDiscipline sets the queueing discipline noqueue: packets go straight into the ring of their queue. Any other
// only costs time, a fifth of that of answering a SYN: a TUN takes every packet at once, and drops what its
// ring has no room for, so that nothing ever waits in the discipline.
func (d *Device) withoutDiscipline() error {
	err := netlink.QdiscReplace(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: d.index, Parent: netlink.HANDLE_ROOT},
		QdiscType:  discipline,
	})
	if err != nil {
		return fmt.Errorf("interface %s: take away its queueing discipline: %w", d.name, err)
	}
	return nil
}

// startSteering makes the device of a queue's descriptor steer, or says why it doesn't.
func startSteering(cfg Config, fd int) (*steering, error) {
	switch {
	case !cfg.Steering:
		return nil, errors.New("switched off")
	case cfg.Queues < 2:
		return nil, errors.New("it takes 2 queues")
	}
	s, err := newSteering(cfg.Queues, repeatClock)
	if err != nil {
		return nil, err
	}
	if err := s.attach(fd); err != nil {
		_ = s.close()
		return nil, fmt.Errorf("attach the program: %w", err)
	}
	return s, nil
}

// Steering returns nil if SYNs have queues of their own, SYNQueue and RepeatQueue, and why not otherwise.
func (d *Device) Steering() error {
	d.controlMu.Lock()
	defer d.controlMu.Unlock()
	return d.notSteered
}

// Queues returns the queues; element i is the kernel's queue i. The slice is the Device's own.
func (d *Device) Queues() []*Queue { return d.queues }

// Name returns the name that the interface was made with.
func (d *Device) Name() string { return d.name }

// Offload returns what the kernel granted.
func (d *Device) Offload() Offload {
	d.controlMu.Lock()
	defer d.controlMu.Unlock()
	return d.offload
}

// Close wakes every Recv that waits, which then returns an error that matches
// os.ErrClosed, waits for calls of Recv and Send to return, and closes all queues; with the
// last one the kernel removes the interface, a persistent one too. Closing again does nothing more.
func (d *Device) Close() error {
	d.life.Lock()
	defer d.life.Unlock()
	if !d.over {
		d.over = true
		d.closeErr = errors.Join(d.forget(), d.close())
	}
	return d.closeErr
}

// forget makes a persistent interface go with its last queue.
func (d *Device) forget() error {
	if !d.persistent || d.queues[0].fd < 0 {
		return nil
	}
	err := unix.IoctlSetInt(d.queues[0].fd, unix.TUNSETPERSIST, 0)
	if errors.Is(err, unix.EBADFD) {
		err = nil // somebody has deleted it
	}
	return err
}

func (d *Device) close() error {
	var errs []error
	for _, q := range d.queues {
		q.closed.Store(true)
	}
	if d.wake >= 0 {
		one := [8]byte{1} // eventfd(2) takes a uint64; only that it isn't 0 matters
		if _, err := unix.Write(d.wake, one[:]); err != nil {
			errs = append(errs, fmt.Errorf("wake the readers of %s: %w", d.name, err))
		}
	}
	// The last queue first: closing any other makes the kernel give its index to the last one.
	for i := len(d.queues) - 1; i >= 0; i-- {
		errs = append(errs, d.queues[i].detach())
	}
	if d.wake >= 0 {
		errs = append(errs, unix.Close(d.wake))
	}
	d.controlMu.Lock()
	defer d.controlMu.Unlock()
	d.closed = true
	if d.steering != nil {
		errs = append(errs, d.steering.close())
	}
	if d.control >= 0 {
		errs = append(errs, unix.Close(d.control))
	}
	return errors.Join(errs...)
}
