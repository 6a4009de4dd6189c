package daemon

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// linkUp brings an interface up where package routes doesn't.
func linkUp(name string) error {
	err := func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, request); err != nil {
			return err
		}
		request.SetUint16(request.Uint16() | unix.IFF_UP)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
	}()
	if err != nil {
		return fmt.Errorf("bring interface %s up: %w", name, err)
	}
	return nil
}
