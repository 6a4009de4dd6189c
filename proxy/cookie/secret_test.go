package cookie

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// loadEnv makes the test binary a process that does nothing but load the secret at this path and print it.
const loadEnv = "COOKIE_TEST_LOAD_SECRET"

func TestMain(m *testing.M) {
	if path := os.Getenv(loadEnv); path != "" {
		s, err := LoadSecret(path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		_, _ = os.Stdout.Write(formatSecret(s))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const goodFile = "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f\n"

func TestLoadSecretMakes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	path := filepath.Join(dir, "cookie.key")
	old := syscall.Umask(0) // whatever the umask
	first, err := LoadSecret(path)
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	if first == (Secret{}) {
		t.Error("a secret of zeros")
	}
	for _, want := range []struct {
		path string
		mode fs.FileMode
	}{{path, 0o600}, {dir, fs.ModeDir | 0o700}, {filepath.Dir(dir), fs.ModeDir | 0o700}} {
		fi, err := os.Lstat(want.path)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode() != want.mode {
			t.Errorf("%s: mode %v, want %v", want.path, fi.Mode(), want.mode)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%x\n", [32]byte(first)); string(b) != want {
		t.Errorf("the file holds %q, want %q", b, want)
	}
	assertAlone(t, path)

	second, err := LoadSecret(path)
	if err != nil || second != first {
		t.Errorf("loaded again: same = %v, %v", second == first, err)
	}
	other, err := LoadSecret(filepath.Join(dir, "other"))
	if err != nil || other == first {
		t.Errorf("another file: same = %v, %v", other == first, err)
	}
}

// assertAlone checks that no temporary file stays behind.
func assertAlone(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != filepath.Base(path) {
		t.Errorf("beside the file: %v", entries)
	}
}

func TestLoadSecretReads(t *testing.T) {
	for _, mode := range []fs.FileMode{0o600, 0o400} {
		t.Run(mode.String(), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cookie.key")
			writeFile(t, path, goodFile, mode)
			s, err := LoadSecret(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(formatSecret(s)); got != goodFile {
				t.Errorf("got %q", got)
			}
		})
	}
}

func writeFile(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestLoadSecretRefuses(t *testing.T) {
	content := func(content string) func(*testing.T, string) {
		return func(t *testing.T, path string) { writeFile(t, path, content, 0o600) }
	}
	mode := func(mode fs.FileMode) func(*testing.T, string) {
		return func(t *testing.T, path string) { writeFile(t, path, goodFile, mode) }
	}
	tests := []struct {
		name  string
		setup func(t *testing.T, path string)
		want  []string // in the error, beside the path
	}{
		{"group reads", mode(0o640), []string{"mode 0640", "chmod 600"}},
		{"group writes", mode(0o620), []string{"mode 0620", "chmod 600"}},
		{"group executes", mode(0o610), []string{"mode 0610", "chmod 600"}},
		{"others read", mode(0o604), []string{"mode 0604", "chmod 600"}},
		{"others write", mode(0o602), []string{"mode 0602", "chmod 600"}},
		{"others execute", mode(0o601), []string{"mode 0601", "chmod 600"}},
		{"empty", content(""), []string{"holds 0 bytes", "remove it"}},
		{"no newline", content(goodFile[:64]), []string{"holds 64 bytes", "newline", "remove it"}},
		{"CRLF", content(goodFile[:64] + "\r\n"), []string{"holds more than 65 bytes", "remove it"}},
		{"two lines", content(goodFile + goodFile), []string{"holds more", "remove it"}},
		{"short by one digit", content(goodFile[1:]), []string{"holds 64 bytes", "remove it"}},
		{"long by one digit", content("0" + goodFile), []string{"holds more", "remove it"}},
		{"digit for newline", content(goodFile[:64] + "0"), []string{"hexadecimal", "remove it"}},
		{"not hexadecimal", content("g" + goodFile[1:]), []string{"hexadecimal", "remove it"}},
		{"upper case", content(strings.ToUpper(goodFile)), []string{"lower-case", "remove it"}},
		{"binary", content(strings.Repeat("\x00", 65)), []string{"hexadecimal", "remove it"}},
		{"zeros", content(strings.Repeat("0", 64) + "\n"), []string{"zeros", "remove it"}},
		{"folder", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, []string{"not a regular file", "put the file itself there"}},
		{"FIFO", func(t *testing.T, path string) {
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{"not a regular file", "put the file itself there"}},
		{"socket", func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
		}, []string{"not a regular file", "put the file itself there"}},
		{"symbolic link", func(t *testing.T, path string) {
			writeFile(t, path+".real", goodFile, 0o600)
			if err := os.Symlink(path+".real", path); err != nil {
				t.Fatal(err)
			}
		}, []string{"symbolic link", "put the file itself there"}},
		{"dangling symbolic link", func(t *testing.T, path string) {
			if err := os.Symlink(path+".nowhere", path); err != nil {
				t.Fatal(err)
			}
		}, []string{"symbolic link", "put the file itself there"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cookie.key")
			tt.setup(t, path)
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			assertRefused(t, path, tt.want...)
			after, err := os.Lstat(path)
			if err != nil || !os.SameFile(before, after) || before.Mode() != after.Mode() || !before.ModTime().Equal(after.ModTime()) {
				t.Errorf("the refused file was changed: %v", err)
			}
			if _, err := os.Lstat(path + ".nowhere"); err == nil {
				t.Error("the link's target was made")
			}
		})
	}
}

// assertRefused loads path, in bounded time, and checks the error: one line, the path, the wanted words, no secret.
func assertRefused(t *testing.T, path string, want ...string) {
	t.Helper()
	type result struct {
		s   Secret
		err error
	}
	done := make(chan result, 1)
	go func() {
		s, err := LoadSecret(path)
		done <- result{s, err}
	}()
	var r result
	select {
	case r = <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("LoadSecret hangs")
	}
	if r.err == nil {
		t.Fatal("accepted")
	}
	if r.s != (Secret{}) {
		t.Error("an error and a secret")
	}
	msg := r.err.Error()
	for _, w := range append(want, path) {
		if !strings.Contains(msg, w) {
			t.Errorf("the error lacks %q: %s", w, msg)
		}
	}
	if strings.Contains(msg, "\n") || strings.Contains(msg, goodFile[8:32]) {
		t.Errorf("more than a line, or the secret in it: %s", msg)
	}
	t.Log(msg)
}

func TestLoadSecretCantMake(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "file"), "", 0o600)
	assertRefused(t, filepath.Join(dir, "file", "cookie.key"), "not a directory", "check the path")
	assertRefused(t, filepath.Join(dir, strings.Repeat("x", 300)), "file name too long", "check the path")
	assertRefused(t, "/proc/levee-no-such-folder/cookie.key", "can't be made", "copy the file")
	if _, err := LoadSecret(""); err == nil || !strings.Contains(err.Error(), "path is empty") {
		t.Errorf("no path: %v", err)
	}
}

func TestLoadSecretWrongOwner(t *testing.T) {
	if os.Getuid() != 0 {
		const reason = "giving a file to someone else takes root"
		if os.Getenv("LEVEE_REQUIRE_ROOT") == "1" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	path := filepath.Join(t.TempDir(), "cookie.key")
	writeFile(t, path, goodFile, 0o600)
	if err := os.Chown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	assertRefused(t, path, "belongs to user 65534", "remove it")
}

// fileInfo is what Stat would say of a regular file of mode 0600.
type fileInfo struct {
	fs.FileInfo
	uid uint32
}

func (fileInfo) Mode() fs.FileMode { return 0o600 }
func (f fileInfo) Sys() any        { return &syscall.Stat_t{Uid: f.uid} }

func TestOwner(t *testing.T) {
	for _, tt := range []struct {
		name  string
		owner uint32
		euid  int
		want  bool
	}{
		{"own", 1000, 1000, true},
		{"root's, read by a user", 0, 1000, true},
		{"root's, read by root", 0, 0, true},
		{"another user's", 1001, 1000, false},
		{"a user's, read by root", 1000, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := checkMeta("p", fileInfo{uid: tt.owner}, tt.euid); (err == nil) != tt.want {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestLoadSecretAtOnce(t *testing.T) {
	for round := range 20 {
		path := filepath.Join(t.TempDir(), "state", "cookie.key")
		var wg sync.WaitGroup
		secrets := make([]Secret, 16)
		errs := make([]error, len(secrets))
		start := make(chan struct{})
		for i := range secrets {
			wg.Go(func() {
				<-start
				secrets[i], errs[i] = LoadSecret(path)
			})
		}
		close(start)
		wg.Wait()
		for i := range secrets {
			if errs[i] != nil || secrets[i] != secrets[0] {
				t.Fatalf("round %d, loader %d: same = %v, %v", round, i, secrets[i] == secrets[0], errs[i])
			}
		}
		assertAlone(t, path)
	}
}

func TestLoadSecretProcessesAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "cookie.key")
	cmds := make([]*exec.Cmd, 6)
	outs := make([]bytes.Buffer, len(cmds))
	for i := range cmds {
		cmds[i] = exec.CommandContext(t.Context(), os.Args[0])
		cmds[i].Env = append(os.Environ(), loadEnv+"="+path)
		cmds[i].Stdout, cmds[i].Stderr = &outs[i], os.Stderr
		if err := cmds[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Errorf("process %d: %v", i, err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range outs {
		if !bytes.Equal(outs[i].Bytes(), want) {
			t.Errorf("process %d has another secret than the file", i)
		}
	}
	assertAlone(t, path)
}

func TestSecretIsRedacted(t *testing.T) {
	s := Secret{0xab, 0xcd, 31: 0xef}
	type config struct{ Secret Secret }
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%d", "%q", "%08b", "%t"} {
		if got := fmt.Sprintf(verb, s); got != redacted {
			t.Errorf("%s: %s", verb, got)
		}
		if got := fmt.Sprintf(verb, &s); got != redacted {
			t.Errorf("%s of a pointer: %s", verb, got)
		}
		if got := fmt.Sprintf(verb, config{s}); !strings.Contains(got, redacted) {
			t.Errorf("%s of a struct: %s", verb, got)
		}
	}
	if s.String() != redacted || s.GoString() != redacted {
		t.Error("String or GoString")
	}
	if got, err := json.Marshal(config{s}); err != nil || string(got) != `{"Secret":"[redacted]"}` {
		t.Errorf("JSON: %s, %v", got, err)
	}
	// Without the time, whose digits could be anything.
	timeless := &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}
	for name, h := range map[string]func(*bytes.Buffer) slog.Handler{
		"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, timeless) },
		"JSON": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, timeless) },
	} {
		var b bytes.Buffer
		slog.New(h(&b)).Info("starting", "secret", s, "config", config{s})
		if got := b.String(); strings.Count(got, redacted) != 2 || strings.Contains(got, "171") || strings.Contains(got, "abcd") {
			t.Errorf("slog, %s: %s", name, got)
		}
	}
}
