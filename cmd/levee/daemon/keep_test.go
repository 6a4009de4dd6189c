package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestKeepFile: what has changed is saved every minute and at the end, what hasn't is not, and an error is told once until it goes well again.
func TestKeepFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kept")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex // guards what follows
		var content string
		var fails error
		var said []error
		write := func(text string, err error) {
			mu.Lock()
			defer mu.Unlock()
			content, fails = text, err
		}
		told := func(want int) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			if len(said) != want {
				t.Errorf("it said %v", said)
			}
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			keepFile(ctx, path, func(w io.Writer) error {
				mu.Lock()
				defer mu.Unlock()
				fmt.Fprint(w, content)
				return fails
			}, func(err error) {
				mu.Lock()
				defer mu.Unlock()
				said = append(said, err)
			})
		}()
		var last os.FileInfo
		expect := func(want string, written bool) {
			t.Helper()
			got, err := os.ReadFile(path)
			if err != nil || string(got) != want {
				t.Errorf("the file holds %q, want %q; error %v", got, want, err)
			}
			is, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if last != nil && os.SameFile(is, last) == written {
				t.Errorf("written is %v, want %v", !written, written)
			}
			last = is
		}
		later := func() {
			time.Sleep(saveEvery)
			synctest.Wait()
		}
		write("one", nil)
		time.Sleep(saveEvery / 2)
		synctest.Wait()
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("too early: %v", err)
		}
		later()
		expect("one", true)
		later()
		expect("one", false)
		write("two", nil)
		later()
		expect("two", true)
		write("three", errors.New("it fails"))
		later()
		later()
		expect("two", false)
		told(1)
		write("three", nil)
		later()
		expect("three", true)
		write("four", errors.New("it fails again"))
		later()
		told(2)
		write("five", nil)
		cancel()
		<-done
		expect("five", true)
	})
}
