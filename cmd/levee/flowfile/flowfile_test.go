package flowfile

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"levee/proxy"
)

const capacity = 1000

// volatileDir is a folder on a tmpfs.
func volatileDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("levee-test", dir, "tmpfs", 0, "size=8m,mode=0700"); err != nil {
		t.Fatalf("mount a tmpfs: %v: this test needs root", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// write makes a flow file as a Proxy would leave it: with a header, of which only its own package knows more.
func write(t *testing.T, dir string) []byte {
	t.Helper()
	state, note, err := Open(dir, capacity)
	if err != nil || note != (Note{}) || !state.Fresh() {
		t.Fatalf("open a new one: %v, %+v", err, note)
	}
	use(t, state)
	b, err := os.ReadFile(Path(dir))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGoesOn(t *testing.T) {
	dir := volatileDir(t)
	write(t, dir)
	if converts, err := Check(dir, capacity); err != nil || converts {
		t.Errorf("Check: %t, %v", converts, err)
	}
	state, note, err := Open(dir, capacity)
	if err != nil || note != (Note{}) || state.Fresh() {
		t.Errorf("open again: %v, %+v", err, note)
	}
	fi, err := os.Stat(Path(dir))
	must(t, err)
	if fi.Mode() != 0o600 || fi.Size() != int64(proxy.FlowStateBytes(capacity)) {
		t.Errorf("mode %v, %d bytes", fi.Mode(), fi.Size())
	}
}

// TestUnusable: whatever else is in the place of the flow file is set aside, with a word why, and not written to.
func TestUnusable(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, path, outside string)
		want  string
	}{
		{"empty", func(t *testing.T, path, _ string) { must(t, os.Truncate(path, 0)) }, "damaged: it is 0 bytes long"},
		{"truncated", func(t *testing.T, path, _ string) { must(t, os.Truncate(path, 20000)) }, "damaged: it is 20000 bytes long"},
		{"truncated in its header", func(t *testing.T, path, _ string) { must(t, os.Truncate(path, 50)) }, "damaged: it is 50 bytes long"},
		{"longer", func(t *testing.T, path, _ string) { must(t, os.Truncate(path, 1<<20)) }, "damaged: it is 1048576 bytes long"},
		{"oversized", func(t *testing.T, path, _ string) { must(t, os.Truncate(path, 1<<40)) }, "damaged: it is 1099511627776 bytes long"},
		{"damaged", func(t *testing.T, path, _ string) { overwrite(t, path, 40) }, "damaged: its header doesn't match its checksum"},
		{"something else", func(t *testing.T, path, _ string) {
			must(t, os.WriteFile(path, bytes.Repeat([]byte("text\n"), 10000), 0o600))
		}, "damaged: it doesn't begin as a flow file does"},
		{"of a later version", func(t *testing.T, path, _ string) { setVersion(t, path, 3) }, "foreign: its version is 3, this levee knows those up to 2"},
		{"of no version", func(t *testing.T, path, _ string) { setVersion(t, path, 0) }, "foreign: its version is 0"},
		{"of another boot", func(t *testing.T, path, _ string) { setByte(t, path, 40) }, "foreign: it is from before the machine's start"},
		{"a symbolic link", func(t *testing.T, path, outside string) {
			must(t, os.Remove(path))
			must(t, os.Symlink(outside, path))
		}, "foreign: it is a symbolic link"},
		{"a symbolic link to nowhere", func(t *testing.T, path, outside string) {
			must(t, os.Remove(path))
			must(t, os.Symlink(outside+"-gone", path))
		}, "foreign: it is a symbolic link"},
		{"a hard link", func(t *testing.T, path, _ string) { must(t, os.Link(path, path+"-too")) }, "foreign: it has another name"},
		{"a folder", func(t *testing.T, path, _ string) {
			must(t, os.Remove(path))
			must(t, os.Mkdir(path, 0o700))
		}, "foreign: it is not a regular file"},
		{"a FIFO", func(t *testing.T, path, _ string) {
			must(t, os.Remove(path))
			must(t, unix.Mkfifo(path, 0o600))
		}, "foreign: it is not a regular file"},
		{"another user's", func(t *testing.T, path, _ string) { must(t, os.Chown(path, 65534, 65534)) }, "foreign: it belongs to user 65534"},
		{"open to others", func(t *testing.T, path, _ string) { must(t, os.Chmod(path, 0o644)) }, "foreign: its mode 0644 lets others use it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := volatileDir(t)
			write(t, dir)
			outside := filepath.Join(t.TempDir(), "outside")
			must(t, os.WriteFile(outside, []byte("not levee's"), 0o600))
			tt.spoil(t, Path(dir), outside)

			if _, err := Check(dir, capacity); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Check: %v, want %q", err, tt.want)
			}
			state, note, err := Open(dir, capacity)
			if err != nil {
				t.Fatal(err)
			}
			if !state.Fresh() || !strings.Contains(note.Aside, tt.want) || strings.Contains(note.Aside, "\n") || note.Converted != "" {
				t.Errorf("fresh %t, %+v; want %q", state.Fresh(), note, tt.want)
			}
			use(t, state)
			if _, err := os.Lstat(filepath.Join(dir, asideName)); err != nil {
				t.Errorf("not kept: %v", err)
			}
			if b, err := os.ReadFile(outside); err != nil || string(b) != "not levee's" {
				t.Errorf("outside is now %q, %v", b, err)
			}
			if _, err := os.Stat(outside + "-gone"); err == nil {
				t.Error("the target of a link was made")
			}
			if state, note, err = Open(dir, capacity); err != nil || note != (Note{}) || state.Fresh() {
				t.Errorf("the new one can't be used: %v, %+v", err, note)
			}
		})
	}
}

// TestNoRoom: a file for which there is no memory is refused before the first store, and nothing is left.
func TestNoRoom(t *testing.T) {
	dir := volatileDir(t)
	_, _, err := Open(dir, 100_000)
	if err == nil || !strings.Contains(err.Error(), "it needs 12 MB, and "+dir+" has 8 MB free") {
		t.Errorf("got %v", err)
	}
	if names, _ := os.ReadDir(dir); len(names) != 0 {
		t.Errorf("left %v", names)
	}
}

// TestAsideMakesRoom: what was set aside before is no reason to have no flow file now.
func TestAsideMakesRoom(t *testing.T) {
	dir := volatileDir(t)
	const half = 50_000 // of what there is room for
	state, _, err := Open(dir, half)
	must(t, err)
	use(t, state)
	must(t, unix.Munmap(state.Memory)) // as the end of a process does
	must(t, os.Truncate(Path(dir), int64(proxy.FlowStateBytes(half)-1)))
	state, note, err := Open(dir, half)
	if err != nil || !state.Fresh() || !strings.HasSuffix(note.Aside, ": removed, for want of room for another, all connections begin anew") {
		t.Fatalf("%v, %+v", err, note)
	}
	use(t, state)
	// The same for one that is converted.
	must(t, os.WriteFile(filepath.Join(dir, asideName), make([]byte, 1<<20), 0o600))
	if converts, err := Check(dir, half/4); err != nil || !converts {
		t.Errorf("Check: %t, %v", converts, err)
	}
	if _, note, err := Open(dir, half/4); err != nil || note.Converted == "" {
		t.Errorf("%v, %+v", err, note)
	}
}

// TestHoles: a file into which somebody has punched holes gets its memory back, or is refused.
func TestHoles(t *testing.T) {
	dir := volatileDir(t)
	size := int64(len(write(t, dir)))
	f, err := os.OpenFile(Path(dir), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 8192, size-8192))
	if _, note, err := Open(dir, capacity); err != nil || note != (Note{}) {
		t.Errorf("%v, %+v", err, note)
	}
	var st unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &st))
	if st.Blocks*512 < size {
		t.Errorf("%d of %d bytes have memory", st.Blocks*512, size)
	}
}

func TestNotVolatile(t *testing.T) {
	// A ramfs is no tmpfs: it can't say how much room there is.
	dir := t.TempDir()
	must(t, unix.Mount("levee-test", dir, "ramfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	if _, _, err := Open(dir, capacity); err == nil || !strings.Contains(err.Error(), "is not on a tmpfs") {
		t.Errorf("got %v", err)
	}
}

func TestRemove(t *testing.T) {
	dir := volatileDir(t)
	write(t, dir)
	must(t, os.WriteFile(filepath.Join(dir, asideName), nil, 0o600))
	removed, err := Remove(dir)
	if err != nil || len(removed) != 2 {
		t.Errorf("%v, %v", removed, err)
	}
	if removed, err := Remove(dir); err != nil || len(removed) != 0 {
		t.Errorf("again: %v, %v", removed, err)
	}
}

// TestFolderInPlace: whoever makes a folder of the flow file's name keeps what is in it, and levee starts and stops.
func TestFolderInPlace(t *testing.T) {
	dir := volatileDir(t)
	inside := func(name string) string { return filepath.Join(dir, name, "somebody's") }
	must(t, os.Mkdir(Path(dir), 0o700))
	must(t, os.WriteFile(inside(fileName), nil, 0o600))
	_, note, err := Open(dir, 10)
	if err != nil || !strings.Contains(note.Aside, asideName) {
		t.Fatalf("%+v, %v", note, err)
	}
	removed, err := Remove(dir)
	if err != nil || len(removed) != 1 || removed[0] != Path(dir) {
		t.Errorf("%v, %v", removed, err)
	}
	if _, err := os.Stat(inside(asideName)); err != nil {
		t.Error(err)
	}
	// Where there is one already, another gets another name, and so does a file. A third folder can't be set aside.
	for _, spoil := range []func(){
		func() { must(t, os.WriteFile(Path(dir), []byte("damaged"), 0o600)) },
		func() { must(t, os.Mkdir(Path(dir), 0o700)); must(t, os.WriteFile(inside(fileName), nil, 0o600)) },
	} {
		spoil()
		if _, note, err := Open(dir, 10); err != nil || !strings.Contains(note.Aside, "kept as "+filepath.Join(dir, asideElse)) {
			t.Errorf("a second one: %+v, %v", note, err)
		}
		must(t, os.Remove(Path(dir)))
	}
	must(t, os.Mkdir(Path(dir), 0o700))
	must(t, os.WriteFile(inside(fileName), nil, 0o600))
	if _, _, err := Open(dir, 10); err == nil || !strings.Contains(err.Error(), "can't be set aside as flows.unusable: ") || !strings.HasSuffix(err.Error(), ": remove both") {
		t.Errorf("a third one: %v", err)
	}
	if removed, err := Remove(dir); err != nil || len(removed) != 0 {
		t.Errorf("%v, %v", removed, err)
	}
}

// use has a Proxy use the memory.
func use(t *testing.T, state *proxy.FlowState) {
	t.Helper()
	records := (len(state.Memory) - proxy.FlowStateBytes(0)) / (proxy.FlowStateBytes(2) - proxy.FlowStateBytes(1))
	_, err := proxy.New(proxy.Config{
		Services:    []proxy.Service{{Name: "web", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Mode: proxy.ModeAlways}},
		IdleTimeout: time.Hour, TransitoryTimeout: time.Minute, MTU: 1500, Capacity: records, State: state,
	}, time.Now())
	must(t, err)
}

// reseal changes a header and makes it match its checksum again, as another levee would have written it.
func reseal(t *testing.T, path string, change func(header []byte)) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	header := make([]byte, 4096)
	_, err = f.ReadAt(header, 0)
	must(t, err)
	change(header)
	const checksumAt, describedAt = 80, 88
	sum := crc32.Update(crc32.ChecksumIEEE(header[:checksumAt]), crc32.IEEETable, header[describedAt:])
	binary.NativeEndian.PutUint32(header[checksumAt:], sum)
	_, err = f.WriteAt(header, 0)
	must(t, err)
}

func setVersion(t *testing.T, path string, version uint32) {
	t.Helper()
	reseal(t, path, func(header []byte) { binary.NativeEndian.PutUint32(header[16:], version) })
}

func setByte(t *testing.T, path string, at int) {
	t.Helper()
	reseal(t, path, func(header []byte) { header[at] ^= 0x10 })
}

// TestConverts: a file for another number of flows is replaced, whole, by one that fits; one for more flows than there is memory for
// stays as it is.
func TestConverts(t *testing.T) {
	dir := volatileDir(t)
	was := write(t, dir)
	if converts, err := Check(dir, 2*capacity); err != nil || !converts {
		t.Errorf("Check: %t, %v", converts, err)
	}
	for _, ask := range []func(int) error{
		func(n int) error { _, err := Check(dir, n); return err },
		func(n int) error { _, _, err := Open(dir, n); return err },
	} {
		const much = 100_000
		if err := ask(much); err == nil || !strings.Contains(err.Error(), "it needs 12 MB, and "+dir+" has 7 MB free: make room") {
			t.Errorf("without room: %v", err)
		}
		if b, err := os.ReadFile(Path(dir)); err != nil || !bytes.Equal(b, was) {
			t.Errorf("the file has changed: %v", err)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
			t.Errorf("left %v", names)
		}
	}
	state, note, err := Open(dir, 2*capacity)
	if err != nil || note.Aside != "" || note.Converted != "different: it is for 1000 flows, not for 2000" {
		t.Fatalf("%v, %+v", err, note)
	}
	if err := state.Check(2 * capacity); err != nil || state.Fresh() {
		t.Errorf("the new one: fresh %t, %v", state.Fresh(), err)
	}
	use(t, state)
	fi, err := os.Stat(Path(dir))
	must(t, err)
	if fi.Mode() != 0o600 || fi.Size() != int64(proxy.FlowStateBytes(2*capacity)) {
		t.Errorf("mode %v, %d bytes", fi.Mode(), fi.Size())
	}
	if _, note, err := Open(dir, 2*capacity); err != nil || note != (Note{}) {
		t.Errorf("again: %v, %+v", err, note)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("left %v", names)
	}
}

// TestConvertsTooMany: an upgrade that would lose connections is refused; a start does what it can.
func TestConvertsTooMany(t *testing.T) {
	dir := volatileDir(t)
	write(t, dir)
	const records, size, stateAt, open = 8192, 128, 37, 2
	f, err := os.OpenFile(Path(dir), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	for i := range 20 {
		_, err := f.WriteAt([]byte{open}, int64(records+i*size+stateAt))
		must(t, err)
	}
	if _, err := Check(dir, 20); err != nil {
		t.Errorf("with room for all: %v", err)
	}
	if _, err := Check(dir, 19); err == nil || !strings.Contains(err.Error(), "has 20 connections: there is no room for 1 of them in flows.capacity 19") {
		t.Errorf("got %v", err)
	}
	_, note, err := Open(dir, 19)
	if want := (proxy.Conversion{Flows: 19, NoRoom: 1}); err != nil || note.Conversion != want {
		t.Errorf("%v, %+v", err, note)
	}
}

// overwrite changes a byte of a file.
func overwrite(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	must(t, err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b, at)
	must(t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
