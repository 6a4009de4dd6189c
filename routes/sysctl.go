package routes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	keyForward4 = "net/ipv4/ip_forward"
	keyForward6 = "net/ipv6/conf/all/forwarding"
)

// Settings of one interface that plans read or write.
var confNames = map[Family][]string{
	V4: {"forwarding", "rp_filter", "accept_local", "send_redirects", "accept_redirects", ignoreLinkdown},
	V6: {"forwarding", "accept_ra", "addr_gen_mode", "disable_ipv6", ignoreLinkdown},
}

// ignoreLinkdown is the setting of an interface that has routes over it skipped while it has no carrier, as a TUN has none without a
// reader.
const ignoreLinkdown = "ignore_routes_with_linkdown"

// sysctl is one value that the plan wants.
type sysctl struct {
	key, value string
	why        string
	// ofTUN values go with the device, so nobody saves them.
	ofTUN bool
	// optional values are skipped if the kernel doesn't have the key, as when an interface has gone.
	optional bool
}

// command returns the `sysctl` command that sets it.
func (s sysctl) command() string { return "sysctl -w " + quote(sysctlName(s.key)+"="+s.value) }

// confKey returns the key of a setting in net/<family>/conf: rest is "all/forwarding", for instance.
func confKey(f Family, rest string) string { return "net/" + f.sysctl() + "/conf/" + rest }

// sysctlName returns the dotted form of a key. Dots inside a part, which VLAN interfaces have, become
// slashes: so sysctl(8) wants it.
func sysctlName(key string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '/':
			return '.'
		case '.':
			return '/'
		}
		return r
	}, key)
}

// sysctlPath refuses keys that a plan can't have made: they may come out of a file.
func sysctlPath(key string) (string, error) {
	if !filepath.IsLocal(key) || filepath.Clean(key) != key ||
		(!strings.HasPrefix(key, "net/ipv4/") && !strings.HasPrefix(key, "net/ipv6/")) {
		return "", fmt.Errorf("%q is not a sysctl of levee's", key)
	}
	return "/proc/sys/" + key, nil
}

// readSysctl returns ok = false if the kernel has no such key, as when the interface is gone.
func readSysctl(key string) (value string, ok bool, err error) {
	path, err := sysctlPath(key)
	if err != nil {
		return "", false, err
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("read sysctl %s: %w", sysctlName(key), err)
	}
	return strings.TrimSpace(string(b)), true, nil
}

func writeSysctl(key, value string) error {
	path, err := sysctlPath(key)
	if err != nil {
		return err
	}
	// No O_CREATE: an absent key must not turn into something else.
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set sysctl %s=%s: %w", sysctlName(key), value, err)
	}
	_, err = f.WriteString(value)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("set sysctl %s=%s: %w", sysctlName(key), value, err)
	}
	return nil
}

// SysctlsChanged says whether somebody has changed a sysctl that the plan wants, from a look at these only.
func (p *Plan) SysctlsChanged() bool {
	for _, s := range p.sysctls {
		if value, ok, err := readSysctl(s.key); err == nil && ok && value != s.value {
			return true
		}
	}
	return false
}

// readSysctls returns everything a plan may depend on.
func readSysctls() (map[string]string, error) {
	values := map[string]string{}
	add := func(key string) error {
		v, ok, err := readSysctl(key)
		if ok {
			values[key] = v
		}
		return err
	}
	if err := add(keyForward4); err != nil {
		return nil, err
	}
	for _, f := range []Family{V4, V6} {
		folder, err := os.ReadDir("/proc/sys/" + confKey(f, ""))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list the interfaces in sysctl: %w", err)
		}
		for _, device := range folder {
			for _, name := range confNames[f] {
				if err := add(confKey(f, device.Name()+"/"+name)); err != nil {
					return nil, err
				}
			}
		}
	}
	return values, nil
}
