package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A pipe is read as far as somebody writes, and waited for no longer: neither a reload nor the shell's completion may hang on one.
func TestPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "levee.yaml")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	load := func() error {
		outcome := make(chan error, 1)
		go func() { _, err := Load(path); outcome <- err }()
		select {
		case err := <-outcome:
			return err
		case <-time.After(2 * pipeTimeout):
			w, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0) // which frees the goroutine
			if err == nil {
				_ = w.Close()
			}
			t.Fatal("Load hangs")
			return nil
		}
	}
	if err := load(); err == nil || !strings.Contains(err.Error(), "a pipe with nothing in it") {
		t.Errorf("nobody writes: %v", err)
	}
	reader, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = reader.Close()
	began := time.Now()
	if err := load(); err == nil || time.Since(began) < pipeTimeout/2 {
		t.Errorf("a writer that is silent: %v after %v", err, time.Since(began))
	}
	go func() {
		time.Sleep(50 * time.Millisecond)
		_, _ = writer.WriteString("services: [{name: web, prefixes: [192.0.2.0/24]}]\n")
		_ = writer.Close()
	}()
	if err := load(); err != nil {
		t.Errorf("what is written: %v", err)
	}
}
