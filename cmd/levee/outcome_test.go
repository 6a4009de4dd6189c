package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/cmd/levee/control"
)

// deaf is a daemon that knows its status and answers nothing that changes something: after asked it hangs up, or waits until the test is over.
func deaf(t *testing.T, path string, hangsUp bool, asked func()) {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") })
	mux.HandleFunc("POST /v1/", func(http.ResponseWriter, *http.Request) {
		asked()
		if !hangsUp {
			<-over
		}
		panic(http.ErrAbortHandler)
	})
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { close(over); _ = server.Close() })
}

// TestOutcomeUnknown: who asked and has no answer is not told that nothing was done.
func TestOutcomeUnknown(t *testing.T) {
	for _, verb := range []string{"reload", "upgrade"} {
		for _, tt := range []struct {
			name    string
			hangsUp bool
			want    string
		}{
			{"the daemon hangs up", true, "stopped in the middle of its answer"},
			{"interrupted", false, "interrupted before the daemon on"},
		} {
			t.Run(verb+", "+tt.name, func(t *testing.T) {
				dir := t.TempDir()
				file := filepath.Join(dir, "levee.yaml")
				yaml := fmt.Sprintf("state_dir: %s\nservices: [{name: web, prefixes: [192.0.2.0/24]}]\n", dir)
				if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
					t.Fatal(err)
				}
				ctx, interrupt := context.WithCancel(t.Context())
				defer interrupt()
				deaf(t, filepath.Join(dir, "control.sock"), tt.hangsUp, func() {
					if !tt.hangsUp {
						interrupt()
					}
				})
				root := newRoot()
				root.SetArgs([]string{verb, "-c", file})
				root.SetOut(io.Discard)
				root.SetErr(io.Discard)
				err := root.ExecuteContext(ctx)
				if err == nil || !strings.HasPrefix(err.Error(), "outcome unknown, levee status will have it: ") || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v", err)
				}
			})
		}
	}
}

// TestUpgradeInterrupted: the daemon has agreed, and nobody waits for the next one to be ready.
func TestUpgradeInterrupted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") })
	mux.HandleFunc("POST /v1/upgrade", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"program": "/next"}`)
		time.AfterFunc(50*time.Millisecond, interrupt)
	})
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	_, err = upgrade(ctx, control.NewClient(path), "/next")
	if want := "outcome unknown, levee status will have it: interrupted before /next was ready"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestScrapeUnanswered: a metrics port that is open and silent is named.
func TestScrapeUnanswered(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	to := netip.MustParseAddrPort(listener.Addr().String())
	if err := scrape(ctx, io.Discard, to, "/metrics"); err == nil || err.Error() != to.String()+" does not answer" {
		t.Errorf("%v", err)
	}
}
