package routes

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// Cleanup undoes what any earlier run has left, however it ended: it deletes every rule and route with levee's
// tag, restores the sysctls from stateFile and deletes the TUN cfg.TUN if nobody has it open. Of cfg it takes
// only TUN. The report has one line for each thing done or left alone, and is empty if there was nothing.
// It goes on after an error, and may be called again.
//
// It must not run while levee does: the caller has to see to that.
func Cleanup(cfg Config, stateFile string) (report []string, err error) {
	k, err := openKernel()
	if err != nil {
		return nil, err
	}
	defer k.close()
	cfg.StateFile = stateFile
	w := withdrawAll(k, &cfg)
	if cfg.TUN != "" {
		done, kept, err := k.deleteTUN(cfg.TUN)
		w.done = append(w.done, done...)
		w.kept = append(w.kept, kept...)
		if err != nil {
			w.errs = append(w.errs, err)
		}
	}
	return append(w.done, w.kept...), oneError(w.errs)
}

// deleteTUN deletes the link of that name if it is one that levee left: a TUN with queues, as levee makes them,
// that outlives its opener and has none.
func (k *kernel) deleteTUN(name string) (done, kept []string, err error) {
	link, err := k.h.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("look for interface %s: %w", name, err)
	}
	leave := func(why string) (done, kept []string, err error) {
		return nil, []string{fmt.Sprintf("interface %s %s: left alone", name, why)}, nil
	}
	tun, ok := link.(*netlink.Tuntap)
	switch {
	case !ok, tun.Mode != netlink.TUNTAP_MODE_TUN:
		return leave("is not a TUN but of kind " + linkKind(link))
	case tun.NonPersist, tun.Queues+tun.DisabledQueues > 0:
		return leave("is in use by a running program")
	case tun.Flags&netlink.TUNTAP_MULTI_QUEUE == 0:
		return leave("has no queues, so it isn't levee's")
	}
	if err := k.h.LinkDel(link); err != nil && !gone(err) {
		return nil, nil, fmt.Errorf("delete interface %s: %w", name, err)
	}
	return []string{"ip link del dev " + quote(name)}, nil, nil
}

func (k *kernel) setUp(name string) error {
	link, err := k.h.LinkByName(name)
	if err == nil {
		err = k.h.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("bring interface %s up: %w", name, err)
	}
	return nil
}

func (k *kernel) setDown(name string) []error {
	link, err := k.h.LinkByName(name)
	if err == nil {
		err = k.h.LinkSetDown(link)
	}
	if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) && !gone(err) {
		return []error{fmt.Errorf("bring interface %s down: %w", name, err)}
	}
	return nil
}
