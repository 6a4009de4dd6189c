package lab

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtoolValue is struct ethtool_value (include/uapi/linux/ethtool.h).
type ethtoolValue struct{ cmd, data uint32 }

// ethtoolIfreq is struct ifreq with ifr_data.
type ethtoolIfreq struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte
}

// offloads are what SetOffload switches, in an order in which none depends on a later one.
var offloads = []struct {
	name string
	cmd  uint32
}{
	{"gro", unix.ETHTOOL_SGRO}, {"tso", unix.ETHTOOL_STSO}, {"gso", unix.ETHTOOL_SGSO},
	{"sg", unix.ETHTOOL_SSG}, {"rx-checksum", unix.ETHTOOL_SRXCSUM}, {"tx-checksum", unix.ETHTOOL_STXCSUM},
}

// SetOffload switches segmentation, receive and checksum offload of both ends. Without them every
// packet on the link fits its MTU and has its full checksum, as on a simple network card; with
// them, which is how the lab starts, packets of up to 64 KB with partial checksums cross it.
func (l *Link) SetOffload(on bool) error {
	for _, e := range l.ends() {
		if err := e.Namespace.Do(func() error { return e.setOffload(on) }); err != nil {
			return err
		}
	}
	return nil
}

func (e *End) setOffload(on bool) error {
	for i := range offloads {
		o := offloads[i]
		if on {
			o = offloads[len(offloads)-1-i]
		}
		if err := e.setOne(o.name, o.cmd, on); err != nil {
			return err
		}
	}
	return nil
}

// setOne switches one offload. It runs inside.
func (e *End) setOne(name string, cmd uint32, on bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket for ethtool: %w", err)
	}
	defer unix.Close(fd)
	value := &ethtoolValue{cmd: cmd}
	if on {
		value.data = 1
	}
	req := ethtoolIfreq{data: unsafe.Pointer(value)}
	copy(req.name[:unix.IFNAMSIZ-1], e.Name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(value)
	if errno != 0 {
		return fmt.Errorf("set offload %s of %s to %t: %w", name, e, on, errno)
	}
	return nil
}
