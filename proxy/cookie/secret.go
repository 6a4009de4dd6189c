package cookie

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Secret is the master secret from which the keys of all epochs are derived. Nodes that share it
// accept each other's cookies. It has to be random: anyone who knows it can forge ACKs.
//
// It never prints itself: fmt, slog and encoding/json get "[redacted]". The one exception is a Secret
// in an unexported field of a struct that is printed: there fmt calls no methods.
type Secret [32]byte

const redacted = "[redacted]"

// String returns "[redacted]".
func (Secret) String() string { return redacted }

// GoString returns "[redacted]".
func (Secret) GoString() string { return redacted }

// Format writes "[redacted]", whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue returns "[redacted]".
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns "[redacted]".
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// secretFileSize is 64 hexadecimal digits and a newline.
const secretFileSize = 2*len(Secret{}) + 1

// LoadSecret reads the secret file at path, and makes it first if there is none: 32 random bytes as
// 64 lower-case hexadecimal digits and a newline, mode 0600, in a folder that is made (0700) if need
// be. Of several processes that do so at once one wins and all return its secret.
//
// A file is refused if it isn't a regular one (symbolic links included), belongs to neither the
// current user nor root, grants anything to group or others, or holds anything but a secret other than
// zero. Errors are one line that names the path and the remedy. It needs a Unix system.
func LoadSecret(path string) (Secret, error) {
	if path == "" {
		return Secret{}, errors.New("secret file: the path is empty; set one")
	}
	s, err := readSecret(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	if err := createSecret(path); err != nil {
		return Secret{}, fmt.Errorf("secret file %s: can't be made: %w; "+
			"let this user write to the folder, or copy the file from another node", path, err)
	}
	// Also what we made ourselves is read back: the file decides.
	return readSecret(path)
}

// CheckSecret says whether LoadSecret would accept what is at path now, and changes nothing. Nothing at all is accepted: LoadSecret would
// make a file.
func CheckSecret(path string) error {
	if _, err := readSecret(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func readSecret(path string) (Secret, error) {
	// O_NONBLOCK: a FIFO would make us wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		if fi, e := os.Lstat(path); e == nil && !fi.Mode().IsRegular() {
			return Secret{}, notRegular(path, fi.Mode())
		}
		return Secret{}, fmt.Errorf("secret file %s: can't be opened: %w; "+
			"check the path and that this user may read it", path, err)
	}
	defer func() { _ = f.Close() }()
	fi, err := f.Stat()
	if err != nil {
		return Secret{}, fmt.Errorf("secret file %s: can't be examined: %w; check the file system", path, err)
	}
	if err := checkMeta(path, fi, os.Geteuid()); err != nil {
		return Secret{}, err
	}
	b, err := io.ReadAll(io.LimitReader(f, int64(secretFileSize)+1))
	if err != nil {
		return Secret{}, fmt.Errorf("secret file %s: can't be read: %w; check the file system", path, err)
	}
	s, err := parseSecret(b)
	if err != nil {
		return Secret{}, fmt.Errorf("secret file %s: %w; "+
			"copy it from another node again, or remove it to have a new one made", path, err)
	}
	return s, nil
}

func notRegular(path string, m fs.FileMode) error {
	what := "not a regular file"
	if m&fs.ModeSymlink != 0 {
		what = "a symbolic link, which isn't followed"
	}
	return fmt.Errorf("secret file %s: is %s; "+
		"put the file itself there, or set the path to where it is", path, what)
}

// checkMeta refuses files that someone else may have written or read. euid is the user that wants it.
func checkMeta(path string, fi fs.FileInfo, euid int) error {
	if !fi.Mode().IsRegular() {
		return notRegular(path, fi.Mode())
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Uid != uint32(euid) && st.Uid != 0 {
		return fmt.Errorf("secret file %s: belongs to user %d, not to this user (%d) or root; "+
			"remove it, or chown it if you trust what it holds", path, st.Uid, euid)
	}
	if p := fi.Mode().Perm(); p&0o077 != 0 {
		return fmt.Errorf("secret file %s: mode %04o lets others use it; "+
			"chmod 600 it, or remove it to have a new one made if others may have read it", path, p)
	}
	return nil
}

// parseSecret reads the contents of a secret file. Its errors don't show them.
func parseSecret(b []byte) (Secret, error) {
	if len(b) != secretFileSize {
		size := strconv.Itoa(len(b))
		if len(b) > secretFileSize {
			size = "more than 65" // readSecret stops there
		}
		return Secret{}, fmt.Errorf("holds %s bytes, want 64 hexadecimal digits and a newline", size)
	}
	digits := b[:secretFileSize-1]
	var s Secret
	_, err := hex.Decode(s[:], digits)
	// One spelling only, so that the files of two nodes can be compared.
	if err != nil || b[secretFileSize-1] != '\n' || bytes.ContainsAny(digits, "ABCDEF") {
		return Secret{}, errors.New("holds something else than 64 lower-case hexadecimal digits and a newline")
	}
	if s == (Secret{}) {
		return Secret{}, errors.New("holds only zeros, which anyone can guess")
	}
	return s, nil
}

func formatSecret(s Secret) []byte {
	return append(hex.AppendEncode(make([]byte, 0, secretFileSize), s[:]), '\n')
}

// createSecret puts a new secret at path, unless something is there by then. The file appears whole
// or not at all.
func createSecret(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".cookie-secret-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	var s Secret
	_, _ = rand.Read(s[:]) // can't fail since Go 1.24
	if err := writeAndSync(f, formatSecret(s)); err != nil {
		return err
	}
	// link, unlike rename, doesn't replace the file of a process that was faster.
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(dir)
}

// writeAndSync writes all of an owner-only file to the disk, and closes it.
func writeAndSync(f *os.File, b []byte) error {
	_, err := f.Write(b)
	return cmp.Or(err, f.Chmod(0o600), f.Sync(), f.Close())
}

// syncDir writes the names in a folder to the disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return cmp.Or(d.Sync(), d.Close())
}
