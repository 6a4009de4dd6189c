package daemon

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// checkPrivilege says at once, and before anything is touched, what would fail at every later step.
func checkPrivilege() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // one for each 32 capabilities
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read the capabilities of this process: %w", err)
	}
	if data[unix.CAP_NET_ADMIN/32].Effective&(1<<(unix.CAP_NET_ADMIN%32)) == 0 {
		return errors.New("this needs CAP_NET_ADMIN, to make a TUN and rules: run it as root")
	}
	return nil
}
