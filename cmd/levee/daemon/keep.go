package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// openState opens a file that an earlier run may have left in the state folder; nil without an error means that there is none. No link is
// followed.
func openState(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, withoutPath(err)
}

// keepFile saves what write writes every minute and at the end, if it has changed. Errors are reported once until it goes well again.
func keepFile(ctx context.Context, path string, write func(io.Writer) error, report func(error)) {
	every := time.NewTicker(saveEvery)
	defer every.Stop()
	var saved []byte
	failed := false
	save := func() {
		var b bytes.Buffer
		err := write(&b)
		if err == nil && !bytes.Equal(b.Bytes(), saved) {
			if err = replaceFile(path, b.Bytes()); err == nil {
				saved = b.Bytes()
			}
		}
		if err != nil && !failed {
			report(err)
		}
		failed = err != nil
	}
	for {
		select {
		case <-ctx.Done():
			save()
			return
		case <-every.C:
			save()
		}
	}
}
