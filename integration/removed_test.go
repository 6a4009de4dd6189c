package integration

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"levee/integration/lab"
)

// TestRemovedServiceSurvives: an open connection whose service the configuration has no longer goes on when levee is killed, or upgraded, whether or not
// that configuration was in force before, and though its rules are gone.
func TestRemovedServiceSurvives(t *testing.T) {
	both := config(nil)
	other := strings.Replace(both, fmt.Sprint(lab.ServerPrefix4, ", "), "", 1)
	kill := func(p *protected) error { return errors.Join(p.levee.Kill(), p.levee.Start(t.Context())) }
	upgrade := func(p *protected) error { return p.levee.Upgrade(t.Context()) }
	for _, tt := range []struct {
		name   string
		reload bool
		again  func(*protected) error
	}{
		{"reloaded and killed", true, kill},
		{"reloaded and upgraded", true, upgrade},
		{"killed", false, kill},
		{"upgraded", false, upgrade},
		{"killed, and rules flushed", false, func(p *protected) error {
			if err := p.levee.Kill(); err != nil {
				return err
			}
			run(t, p.Gateway, patience, "ip", "rule", "flush", "protocol", "108")
			return p.levee.Start(t.Context())
		}},
		{"killed, where levee would not begin", false, func(p *protected) error {
			if err := p.levee.Kill(); err != nil {
				return err
			}
			run(t, p.Gateway, patience, "sh", "-c", "ip rule del priority 7305 2>/dev/null; ip rule add priority 7305 to 203.0.113.7 lookup 99")
			return p.levee.Start(t.Context())
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := protectYAML(t, lab.Config{}, both)
			addr := p.server.AddrPort(false, 80)
			startEcho(t, p.server, addr)
			listening(t, p.server.Namespace, addr)
			c := (&traffic{t: t, from: p.client, to: addr}).dial()
			p.spliced(t, 1)
			goesOn := func(when string) {
				t.Helper()
				if _, err := exchange(c, []byte("are you there"), make([]byte, 13)); err != nil {
					t.Errorf("%s: %v", when, err)
				}
			}
			goesOn("at first")
			yaml, err := os.ReadFile(p.levee.Config)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p.levee.Config, []byte(strings.Replace(string(yaml), both, other, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			if tt.reload {
				if err := p.levee.Command(t.Context(), "reload").Run(); err != nil {
					t.Fatal(err)
				}
				goesOn("after the reload")
			}
			if err := tt.again(p); err != nil {
				t.Fatal(err)
			}
			goesOn("with no service")
			if err := tt.again(p); err != nil {
				t.Fatal(err)
			}
			goesOn("once more")
		})
	}
}
