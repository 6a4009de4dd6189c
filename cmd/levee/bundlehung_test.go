package main

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// A daemon that hangs costs a bundle one time-out and not one for each question; what needs no answer of it is there.
func TestBundleOfHungDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := func(ctx context.Context, _ io.Writer) error { <-ctx.Done(); return ctx.Err() }
		var sources []source
		for _, name := range []string{"status", "flows", "servers", "metrics"} {
			sources = append(sources, source{name: name, asks: true, collect: hangs})
		}
		sources = append(sources, source{name: "kernel", collect: func(ctx context.Context, w io.Writer) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			_, err := io.WriteString(w, "Linux")
			return err
		}})
		began := time.Now()
		parts := collectParts(t.Context(), sources, nil)
		if took := time.Since(began); took > daemonTimeout {
			t.Errorf("it took %v", took)
		}
		if len(parts) != len(sources) {
			t.Fatalf("%d parts of %d", len(parts), len(sources))
		}
		for i, p := range parts {
			if s := sources[i]; p.name != s.name || (p.missing != "") != s.asks {
				t.Errorf("%s: %q, missing: %q", s.name, p.content, p.missing)
			}
		}
	})
}
