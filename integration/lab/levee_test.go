package lab_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

// The daemon is not tested here: this program plays it when it is called like it.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "run" && os.Args[2] == "--config" {
		if err := playLevee(os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// playLevee does as a word in its configuration says.
func playLevee(config string) error {
	text, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	fmt.Fprintln(os.Stderr, "playing levee")
	if strings.Contains(string(text), "fail") {
		return fmt.Errorf("told to fail")
	}
	state := regexp.MustCompile(`(?m)^state_dir: "(.*)"$`).FindSubmatch(text)
	if state == nil {
		return fmt.Errorf("no state_dir")
	}
	if err := os.MkdirAll(string(state[1]), 0o700); err != nil {
		return err
	}
	socket := filepath.Join(string(state[1]), "control.sock")
	os.Remove(socket)
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	status := map[string]any{"version": "v0", "uptime_seconds": 1.5, "ready": !strings.Contains(string(text), "never"),
		"flows": map[string]any{"open": 1, "opening": 2, "capacity": 3}, "drops": map[string]any{"land": 4},
		"services": []any{map[string]any{"name": "web", "mode": "always", "syn_received": 5, "cookie_valid": 6}},
		"tun":      map[string]any{"name": "tun0", "queues": 2, "offload": true}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(status) })
	go http.Serve(ln, mux)
	<-stop
	if strings.Contains(string(text), "unclean") {
		return fmt.Errorf("ending badly")
	}
	return nil
}

func startPlayed(t *testing.T, l *lab.Lab, ctx context.Context, yaml string) (*lab.Levee, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return l.StartLevee(ctx, self, yaml)
}

func TestLevee(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	lv, err := startPlayed(t, l, t.Context(), "services: []\n")
	if err != nil {
		t.Fatal(err)
	}
	s, err := lv.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Flows.Capacity != 3 || s.Drops["land"] != 4 || len(s.Services) != 1 || s.Services[0].SynReceived != 5 || s.Tun.Queues != 2 {
		t.Errorf("status %+v", s)
	}
	first := lv.Process().Pid()
	if err := lv.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := lv.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if second := lv.Process().Pid(); second == first || exists(first) || !exists(second) {
		t.Errorf("process %d after %d was killed", second, first)
	}
	if err := lv.Stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(lv.Log(), "playing levee") {
		t.Errorf("log: %q", lv.Log())
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(lv.Dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there after Close: %v", lv.Dir, err)
	}
}

func TestLeveeThatFails(t *testing.T) {
	l := labtest.New(t, lab.Config{})
	for _, tc := range []struct{ name, yaml, want string }{
		{"exits", "# fail\n", "told to fail"},
		{"is never ready", "# never\n", "playing levee"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := startPlayed(t, l, ctx, tc.yaml); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v lacks %q", err, tc.want)
			}
		})
	}
	t.Run("ends badly", func(t *testing.T) {
		lv, err := startPlayed(t, l, t.Context(), "# unclean\n")
		if err != nil {
			t.Fatal(err)
		}
		if err := lv.Stop(); err == nil || !strings.Contains(err.Error(), "ending badly") {
			t.Errorf("Stop says %v", err)
		}
	})
}
