package tunnel

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtoolValue is struct ethtool_value, ethtoolRequest struct ifreq with ifr_data (include/uapi/linux/ethtool.h, net/if.h).
type ethtoolValue struct{ cmd, data uint32 }

type ethtoolRequest struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte
}

// Ethtool gets or sets one value of an interface by SIOCETHTOOL, in the network namespace of fd, which is any socket. cmd is ETHTOOL_GTSO or another
// that takes a struct ethtool_value; value is for those that set. What the device doesn't know is an error.
func Ethtool(fd int, name string, cmd, value uint32) (uint32, error) {
	data := &ethtoolValue{cmd: cmd, data: value}
	request := ethtoolRequest{data: unsafe.Pointer(data)}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(data)
	if errno != 0 {
		return 0, errno
	}
	return data.data, nil
}

// mendOffloads switches on again what somebody has switched off of what was granted, and returns its names as ethtool(8) has them. Without it
// the kernel splits superpackets, after the steering program has counted them, so that RingStats no longer sees what is lost.
func (d *Device) mendOffloads() (off []string, err error) {
	for _, f := range []struct {
		name     string
		granted  bool
		get, set uint32
	}{ // in the order in which the kernel lets one depend on the other
		{"tx", d.offload.Checksum, unix.ETHTOOL_GTXCSUM, unix.ETHTOOL_STXCSUM},
		{"sg", d.offload.TSO4 || d.offload.TSO6, unix.ETHTOOL_GSG, unix.ETHTOOL_SSG},
		{"tso", d.offload.TSO4 || d.offload.TSO6, unix.ETHTOOL_GTSO, unix.ETHTOOL_STSO},
	} {
		if !f.granted {
			continue
		}
		on, err := Ethtool(d.control, d.name, f.get, 0)
		if err == nil && on == 0 {
			off = append(off, f.name)
			_, err = Ethtool(d.control, d.name, f.set, 1)
		}
		if err != nil {
			return off, fmt.Errorf("interface %s: switch its offload %s on again: %w", d.name, f.name, err)
		}
	}
	return off, nil
}
