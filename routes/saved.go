package routes

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxStateFile bounds what is read of a state file: a few values for each interface.
const maxStateFile = 16 << 20

// saved is the state file: the sysctls that levee has changed, or is about to.
type saved struct {
	// BootID and Namespace say where the values belong. Another boot's or another network
	// namespace's must not be restored here.
	BootID    string       `json:"boot_id"`
	Namespace uint64       `json:"netns_cookie"`
	Values    []savedValue `json:"sysctls"`
}

// savedValue is one sysctl that was Old before levee and that levee made Set.
type savedValue struct {
	Key string `json:"key"`
	Old string `json:"old"`
	Set string `json:"set"`
	// Touched are the values that the kernel itself changes along with Key.
	Touched []savedValue `json:"touched,omitempty"`
}

// errElsewhere: the state file belongs to another network namespace of this boot.
var errElsewhere = errors.New("it belongs to another network namespace: run this in that one, use another state_dir, or delete the file")

// CheckStateFile says why Apply could not read a Config.StateFile: none that is there is no reason.
func CheckStateFile(path string) error {
	_, err := loadSaved(path)
	return err
}

// loadSaved reads the state file. No file, or one from before a reboot, gives an empty state.
func loadSaved(path string) (*saved, error) {
	now, err := here()
	if err != nil {
		return nil, err
	}
	// O_NONBLOCK: a FIFO would make us wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return now, nil
	}
	if err != nil {
		return nil, fmt.Errorf("saved sysctls: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("saved sysctls: %w", err)
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("saved sysctls: %s is not a file (%v): delete it", path, fi.Mode())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxStateFile))
	if err != nil {
		return nil, fmt.Errorf("saved sysctls: %w", err)
	}
	var s saved
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("saved sysctls in %s can't be read: set net.ipv4.ip_forward and net.ipv6.conf.all.forwarding as you want them, then delete the file: %w", path, err)
	}
	if s.BootID != now.BootID {
		return now, nil
	}
	if s.Namespace != now.Namespace {
		return nil, fmt.Errorf("saved sysctls in %s: %w", path, errElsewhere)
	}
	return &s, nil
}

// here returns an empty state for this boot and the calling thread's network namespace.
func here() (*saved, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("identify this boot: %w", err)
	}
	cookie, err := namespaceCookie()
	return &saved{BootID: strings.TrimSpace(string(boot)), Namespace: cookie}, err
}

// namespaceCookie returns the number that the kernel gives to no other namespace until the next boot, or 0
// before Linux 5.14, which has none.
func namespaceCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("identify the network namespace: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("identify the network namespace: %w", err)
	}
	return cookie, nil
}

// record notes that the sysctls that differ from live's are about to be set. What an earlier run of levee
// has set keeps its value from before that run.
func (s *saved) record(want []sysctl, live *Live, tun string) {
	for _, w := range want {
		current, ok := live.Sysctls[w.key]
		if w.ofTUN || !ok {
			continue
		}
		i := slices.IndexFunc(s.Values, func(v savedValue) bool { return v.Key == w.key })
		if i >= 0 && s.Values[i].Set == current {
			s.Values[i].Set = w.value
			continue
		}
		if i >= 0 {
			// Somebody has changed it since: it's theirs now.
			s.Values = slices.Delete(s.Values, i, i+1)
		}
		if current != w.value {
			s.Values = append(s.Values, savedValue{Key: w.key, Old: current, Set: w.value, Touched: touched(w.key, live, tun)})
		}
	}
}

// touched returns what the kernel changes when it starts to forward: the setting of each device and, in IPv4,
// accept_redirects of "all" (Documentation/networking/ip-sysctl.rst).
func touched(key string, live *Live, tun string) []savedValue {
	var out []savedValue
	add := func(key, set string) {
		if old, ok := live.Sysctls[key]; ok {
			out = append(out, savedValue{Key: key, Old: old, Set: set})
		}
	}
	f := V4
	switch key {
	case keyForward4:
		add(confKey(V4, "all/accept_redirects"), "0")
	case keyForward6:
		f = V6
	default:
		return nil
	}
	for _, device := range live.devices(f) {
		if device != "all" && device != tun {
			add(confKey(f, device+"/forwarding"), "1")
		}
	}
	return out
}

// write replaces the state file in one step, or deletes it if there is nothing to keep. A file that says the same already stays: on a file
// system that has become full since, levee can start again and go on with its connections.
func (s *saved) write(path string) error {
	if len(s.Values) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("saved sysctls: %w", err)
		}
		return nil
	}
	b, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		return fmt.Errorf("saved sysctls: %w", err)
	}
	b = append(b, '\n')
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, b) {
		return nil
	}
	// CreateTemp makes it 0600.
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return notSaved(path, err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return notSaved(path, err)
	}
	return nil
}

func notSaved(path string, err error) error {
	if errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("saved sysctls: no space left for %s: make room there, or set another state_dir", path)
	}
	return fmt.Errorf("saved sysctls: %w", err)
}

// restore puts the old values back, the last set first. It leaves alone what no longer has the value that
// levee set. What fails stays in s, for another try.
func (s *saved) restore() (restored, kept []string, errs []error) {
	var failed []savedValue
	for _, v := range slices.Backward(s.Values) {
		now, ok, err := readSysctl(v.Key)
		switch {
		case err == nil && (!ok || now == v.Old):
			continue
		case err == nil && now != v.Set:
			kept = append(kept, fmt.Sprintf("sysctl %s is %s, not the %s that levee set (it was %s before): left alone", sysctlName(v.Key), now, v.Set, v.Old))
			continue
		case err == nil:
			err = v.restore()
		}
		if err != nil {
			errs = append(errs, err)
			failed = append(failed, v)
			continue
		}
		restored = append(restored, sysctl{key: v.Key, value: v.Old}.command())
	}
	slices.Reverse(failed)
	s.Values = failed
	return restored, kept, errs
}

// restore writes the old value and then what the kernel changes along with it: the old values of those too,
// except where somebody else has set another since.
func (v *savedValue) restore() error {
	want := make(map[string]string, len(v.Touched))
	for _, t := range v.Touched {
		now, ok, err := readSysctl(t.Key)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if want[t.Key] = now; now == t.Set {
			want[t.Key] = t.Old
		}
	}
	if err := writeSysctl(v.Key, v.Old); err != nil {
		return err
	}
	for _, t := range v.Touched {
		value, ok := want[t.Key]
		if !ok {
			continue
		}
		now, ok, err := readSysctl(t.Key)
		if err != nil {
			return err
		}
		if !ok || now == value {
			continue
		}
		if err := writeSysctl(t.Key, value); err != nil {
			return err
		}
	}
	return nil
}
