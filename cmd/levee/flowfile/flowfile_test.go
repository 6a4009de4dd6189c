package flowfile

import (
	"bytes"
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
	state, aside, err := Open(dir, capacity)
	if err != nil || aside != "" || !state.Fresh() {
		t.Fatalf("open a new one: %v, %q", err, aside)
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
	if err := Check(dir, capacity); err != nil {
		t.Errorf("Check: %v", err)
	}
	state, aside, err := Open(dir, capacity)
	if err != nil || aside != "" || state.Fresh() {
		t.Errorf("open again: %v, %q", err, aside)
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
		{"of another capacity", func(t *testing.T, path, _ string) {
			must(t, os.Remove(path))
			state, _, err := Open(filepath.Dir(path), 2*capacity)
			must(t, err)
			use(t, state)
		}, "foreign: it is for 2000 flows, not for 1000"},
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

			if err := Check(dir, capacity); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Check: %v, want %q", err, tt.want)
			}
			state, aside, err := Open(dir, capacity)
			if err != nil {
				t.Fatal(err)
			}
			if !state.Fresh() || !strings.Contains(aside, tt.want) || strings.Contains(aside, "\n") {
				t.Errorf("fresh %t, %q; want %q", state.Fresh(), aside, tt.want)
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
			if state, aside, err = Open(dir, capacity); err != nil || aside != "" || state.Fresh() {
				t.Errorf("the new one can't be used: %v, %q", err, aside)
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

// TestHoles: a file into which somebody has punched holes gets its memory back, or is refused.
func TestHoles(t *testing.T) {
	dir := volatileDir(t)
	size := int64(len(write(t, dir)))
	f, err := os.OpenFile(Path(dir), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 8192, size-8192))
	if _, aside, err := Open(dir, capacity); err != nil || aside != "" {
		t.Errorf("%v, %q", err, aside)
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
