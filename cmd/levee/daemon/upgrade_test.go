package daemon

import (
	"context"
	"os"
	"slices"
	"testing"
)

// TestStopInherited: a program that was asked to stop while it made room for the next one has that stop, and nobody after it.
func TestStopInherited(t *testing.T) {
	u := upgrades{descriptors: []int{7, 8}}
	if env := u.environment(t.Context()); !slices.Contains(env, descriptorsEnv+"=7,8") || slices.Contains(env, stopEnv+"=1") {
		t.Errorf("not asked: %v", env)
	}
	asked, cancel := context.WithCancel(t.Context())
	cancel()
	if env := u.environment(asked); !slices.Contains(env, stopEnv+"=1") {
		t.Errorf("asked: %v", env)
	}
	t.Setenv(stopEnv, "1")
	for _, want := range []bool{true, false} {
		ctx, cancel := inheritStop(t.Context())
		if done := ctx.Err() != nil; done != want {
			t.Errorf("done %t, want %t", done, want)
		}
		cancel()
	}
	if _, ok := os.LookupEnv(stopEnv); ok {
		t.Error("the one after it would stop too")
	}
}
