package main

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestLogUnread: a log that nobody reads loses lines and keeps nobody waiting, and says how many when it is read again.
func TestLogUnread(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	log := newLogger(nil, false, logTo(write))
	const lines = 2000 // more than a pipe takes
	begin := time.Now()
	for range lines {
		log.Info(strings.Repeat("a line ", 30))
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	got := make([]byte, 1<<20)
	n, err := read.Read(got)
	if err != nil {
		t.Fatal(err)
	}
	kept := bytes.Count(got[:n], []byte("\n"))
	if kept == 0 || kept >= lines || got[n-1] != '\n' {
		t.Errorf("%d of %d lines, which end in %q", kept, lines, got[max(n-10, 0):n])
	}
	log.Info(strings.Repeat("a long line ", 1000)) // more than is written at once
	n, err = read.Read(got)
	if err != nil {
		t.Fatal(err)
	}
	for text := string(got[:n]); !strings.HasSuffix(text, "\n"); text = string(got[:n]) {
		more, err := read.Read(got[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += more
	}
	text := string(got[:n])
	if want := "levee: nobody has read the log: " + strconv.Itoa(lines-kept) + " lines are lost\n"; !strings.HasPrefix(text, want) || strings.Count(text, "a long line") != 1000 {
		t.Errorf("then %.200s, want %s", text, want)
	}
}
