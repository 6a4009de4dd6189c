package flowfile

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"levee/proxy"
)

// ErrNotVolatile: the folder is on a file system that is no tmpfs. Writing back to a disk what changes with every packet would
// stall the workers, and flows don't outlive the machine anyway.
var ErrNotVolatile = errors.New("is not on a tmpfs")

// names in the folder.
const (
	fileName = "flows"
	// newName is a file that isn't complete yet; asideName one that could not be used, of which the latest is kept while there is room.
	newName   = "flows.new"
	asideName = "flows.unusable"
	// asideElse is for what can't have that name, because a folder has it.
	asideElse = "flows.unusable.2"
)

// asideNames are those of what was set aside, in the order in which they are tried.
var asideNames = []string{asideName, asideElse}

// Path is the flow file of a state_dir.
func Path(dir string) string { return filepath.Join(dir, fileName) }

// Note is what there is to say about a flow file that was opened.
type Note struct {
	// Aside says, in one line, why the file that was there could not be used and where it is kept. It is empty if none was set aside.
	Aside string
	// Converted says why the file that was there had to be converted, and Conversion what became of its flows. It is empty if none was.
	Converted  string
	Conversion proxy.Conversion
}

// Open maps the flow file of a folder that nobody else uses, for so many flows. If there is none it makes one; one of another version of levee,
// or for another number of flows, it replaces by a copy that is as it has to be. One that can't be used is set aside, and a new one made.
// Errors are one line with the remedy.
func Open(dir string, capacity int) (state *proxy.FlowState, note Note, err error) {
	if err := checkVolatile(dir); err != nil {
		return nil, note, err
	}
	state, err = open(dir, capacity, &note)
	var unusable *unusableError
	switch {
	case err == nil:
		return state, note, nil
	case errors.Is(err, os.ErrNotExist):
	case errors.As(err, &unusable):
		kept, failed := setAside(dir)
		if failed != nil {
			return nil, note, fmt.Errorf("flow file %s is %w, and can't be set aside as %s: %w: remove both", Path(dir), unusable.why, asideName, withoutPaths(failed))
		}
		defer func() { // when it is known whether there was room for both
			fate := "kept as " + kept
			if _, err := os.Lstat(kept); errors.Is(err, os.ErrNotExist) {
				fate = "removed, for want of room for another"
			}
			note.Aside = fmt.Sprintf("flow file %s is %v: %s, all connections begin anew", Path(dir), unusable.why, fate)
		}()
	default:
		return nil, note, fmt.Errorf("flow file %s: %w", Path(dir), err)
	}
	state, err = create(dir, capacity, nil)
	if err != nil {
		return nil, note, fmt.Errorf("flow file %s: %w", Path(dir), err)
	}
	return state, note, nil
}

// Check says why a levee of this capacity could not go on with the flow file of a folder and all of its connections, and whether it has to
// convert the file. It changes nothing, and may be called while another process uses the file. No file is no reason.
func Check(dir string, capacity int) (converts bool, err error) {
	fd, err := openFile(dir)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("flow file %s is %w", Path(dir), err)
	}
	defer unix.Close(fd)
	state, differs, err := read(fd, capacity)
	if err != nil {
		return false, fmt.Errorf("flow file %s is %w", Path(dir), err)
	}
	defer func() { _ = unix.Munmap(state.Memory) }()
	if differs == nil {
		return false, nil
	}
	if live, noRoom := state.Live(capacity); noRoom > 0 {
		return true, fmt.Errorf("flow file %s has %d connections: there is no room for %d of them in flows.capacity %d", Path(dir), live, noRoom, capacity)
	}
	if names, err := os.ReadDir(filepath.Join(dir, newName)); err == nil && len(names) > 0 {
		return true, fmt.Errorf("flow file %s has to be converted: %s is a folder, and not empty: remove it", Path(dir), filepath.Join(dir, newName))
	}
	free, err := room(dir)
	_, aside := setAsides(dir)
	if free += aside; err == nil && int64(proxy.FlowStateBytes(capacity)) > free {
		err = noRoom(dir, int64(proxy.FlowStateBytes(capacity)), free)
	}
	if err != nil {
		return true, fmt.Errorf("flow file %s has to be converted: %w", Path(dir), err)
	}
	return true, nil
}

// Remove removes the flow file of a folder, and what was set aside, and says what it has removed. A folder of somebody's in their place, with something
// in it, it leaves.
func Remove(dir string) (removed []string, err error) {
	for _, name := range append([]string{fileName, newName}, asideNames...) {
		path := filepath.Join(dir, name)
		switch e := os.Remove(path); {
		case e == nil:
			removed = append(removed, path)
		case !errors.Is(e, os.ErrNotExist) && !errors.Is(e, unix.ENOTEMPTY):
			err = errors.Join(err, e)
		}
	}
	return removed, err
}

// withoutPaths is the reason of an error of Rename's, whose paths are known.
func withoutPaths(err error) error {
	var link *os.LinkError
	if errors.As(err, &link) {
		return link.Err
	}
	return err
}

// unusableError is of a file that has to be set aside. why goes on after "is".
type unusableError struct{ why error }

func (e *unusableError) Error() string { return e.why.Error() }
func (e *unusableError) Unwrap() error { return e.why }

// foreign is a file that levee has not made.
func foreign(format string, args ...any) error {
	return &unusableError{fmt.Errorf("%w: "+format, append([]any{proxy.ErrStateForeign}, args...)...)}
}

// CheckFolder says whether flows can be kept in a folder: ErrNotVolatile if they can't. One that isn't there yet is judged by the folder it will be in.
func CheckFolder(dir string) error {
	for {
		var fs unix.Statfs_t
		err := unix.Statfs(dir, &fs)
		switch parent := filepath.Dir(dir); {
		case errors.Is(err, unix.ENOENT) && parent != dir:
			dir = parent
			continue
		case err != nil:
			return fmt.Errorf("%s: %w", dir, err)
		case fs.Type != unix.TMPFS_MAGIC:
			return fmt.Errorf("%s %w", dir, ErrNotVolatile)
		}
		return nil
	}
}

// checkVolatile says whether a folder is on a tmpfs.
func checkVolatile(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("state_dir %s: %w", dir, err)
	}
	if fs.Type != unix.TMPFS_MAGIC {
		return fmt.Errorf("state_dir %s %w: mount one there, or set another", dir, ErrNotVolatile)
	}
	return nil
}

func open(dir string, capacity int, note *Note) (*proxy.FlowState, error) {
	fd, err := openFile(dir)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	state, differs, err := read(fd, capacity)
	if err != nil {
		return nil, err
	}
	if differs != nil {
		defer func() { _ = unix.Munmap(state.Memory) }()
		// The old file is there, whole, until the new one is.
		return create(dir, capacity, func(converted *proxy.FlowState) (err error) {
			note.Converted = differs.Error()
			note.Conversion, err = converted.Convert(state, capacity)
			return err
		})
	}
	// Somebody may have punched holes into it: without room for them a store would end the process.
	if err := allocate(fd, dir, len(state.Memory)); err != nil {
		return nil, err
	}
	return state, nil
}

// openFile opens the flow file if it is levee's own.
func openFile(dir string) (fd int, err error) {
	// O_NONBLOCK: a FIFO would make us wait for its writer.
	fd, err = unix.Open(Path(dir), unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ELOOP):
		return -1, foreign("it is a symbolic link, which isn't followed")
	case errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENXIO):
		return -1, foreign("it is not a regular file")
	case err != nil:
		return -1, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		switch {
		case st.Mode&unix.S_IFMT != unix.S_IFREG:
			err = foreign("it is not a regular file")
		case int(st.Uid) != os.Geteuid():
			err = foreign("it belongs to user %d", st.Uid)
		case st.Mode&0o077 != 0:
			err = foreign("its mode %04o lets others use it", st.Mode&0o777)
		case st.Nlink > 1:
			err = foreign("it has another name")
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// read maps a file that exists and looks whether a Proxy can go on with it, or why it has to be converted for that.
func read(fd, capacity int) (state *proxy.FlowState, differs, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, nil, err
	}
	if largest := int64(proxy.FlowStateBytes(proxy.MaxCapacity)) * largestRecords; st.Size == 0 || st.Size > largest {
		return nil, nil, &unusableError{fmt.Errorf("%w: it is %d bytes long", proxy.ErrStateDamaged, st.Size)}
	}
	memory, err := mapShared(fd, int(st.Size))
	if err != nil {
		return nil, nil, err
	}
	state, err = stateOf(memory)
	if err == nil {
		switch why := state.Check(capacity); {
		case errors.Is(why, proxy.ErrStateDiffers):
			return state, why, nil
		case why != nil:
			err = &unusableError{why}
		}
	}
	if err != nil {
		_ = unix.Munmap(memory)
		return nil, nil, err
	}
	return state, nil, nil
}

// largestRecords is how much larger the records of other versions of levee may be.
const largestRecords = 2

// create makes a new file, which appears under its name when it is complete: empty, or as fill makes it.
func create(dir string, capacity int, fill func(*proxy.FlowState) error) (*proxy.FlowState, error) {
	temporary := filepath.Join(dir, newName)
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	fd, err := unix.Open(temporary, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	bytes := proxy.FlowStateBytes(capacity)
	err = allocate(fd, dir, bytes)
	var memory []byte
	if err == nil {
		memory, err = mapShared(fd, bytes)
	}
	var state *proxy.FlowState
	if err == nil {
		state, err = stateOf(memory)
	}
	if err == nil && fill != nil {
		err = fill(state)
	}
	if err == nil {
		err = os.Rename(temporary, Path(dir))
	}
	if err != nil {
		_ = os.Remove(temporary)
		return nil, err
	}
	return state, nil
}

// allocate sees to it that every byte of the file has memory: a store into a mapping that finds the tmpfs full ends the process.
func allocate(fd int, dir string, bytes int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	free, err := room(dir)
	if err != nil {
		return err
	}
	missing := int64(bytes) - st.Blocks*block
	if missing > free {
		// What was set aside is for whoever wants to know why. Connections are worth more.
		paths, aside := setAsides(dir)
		if missing <= free+aside {
			for _, path := range paths {
				_ = os.Remove(path)
			}
		}
		if free, err = room(dir); err != nil {
			return err
		}
	}
	err = unix.ENOSPC
	if missing <= free {
		err = unix.Fallocate(fd, 0, 0, int64(bytes))
	}
	if errors.Is(err, unix.ENOSPC) {
		return noRoom(dir, int64(bytes), free)
	}
	if err != nil {
		return fmt.Errorf("allocate %d MB: %w", bytes>>20, err)
	}
	return nil
}

// block is the unit of st_blocks.
const block = 512

// setAside gives the flow file another name, in the place of one that has it already. Folders, which may be somebody's, stay.
func setAside(dir string) (kept string, err error) {
	for _, name := range asideNames {
		kept = filepath.Join(dir, name)
		if fi, err := os.Lstat(kept); err == nil && !fi.IsDir() {
			_ = os.Remove(kept) // a folder can't take a file's place
		}
		if err = os.Rename(Path(dir), kept); err == nil {
			break
		}
	}
	return kept, err
}

// setAsides are the files that were set aside, and how many bytes of the tmpfs they take.
func setAsides(dir string) (paths []string, bytes int64) {
	for _, name := range asideNames {
		path := filepath.Join(dir, name)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1 {
			paths, bytes = append(paths, path), bytes+st.Blocks*block
		}
	}
	return paths, bytes
}

// room is how many bytes are free in the tmpfs of a folder.
func room(dir string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, err
	}
	if fs.Blocks == 0 { // it has no limit
		return math.MaxInt64, nil
	}
	return int64(fs.Bavail) * fs.Bsize, nil
}

func noRoom(dir string, bytes, free int64) error {
	return fmt.Errorf("it needs %d MB, and %s has %d MB free: make room, enlarge the tmpfs, or lower flows.capacity", bytes>>20, dir, free>>20)
}

// mapShared maps the first bytes of a file. What a Proxy uses of it is never unmapped: flows may be looked at until the process
// ends. Huge pages would be worth little here: of a lookup's memory accesses most are to the index.
func mapShared(fd, bytes int) ([]byte, error) {
	memory, err := unix.Mmap(fd, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %d MB: %w: lower flows.capacity", bytes>>20, err)
	}
	return memory, nil
}

// stateOf names the present run of the kernel.
func stateOf(memory []byte) (*proxy.FlowState, error) {
	state := &proxy.FlowState{Memory: memory}
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	digits := strings.ReplaceAll(strings.TrimSpace(string(text)), "-", "") // of a UUID
	if n, err := hex.Decode(state.Boot[:], []byte(digits)); err != nil || n != len(state.Boot) {
		return nil, fmt.Errorf("the kernel's boot_id is %q, not a UUID", text)
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return nil, err
	}
	state.Monotonic = time.Duration(syscall.TimespecToNsec(syscall.Timespec(ts)))
	return state, nil
}
