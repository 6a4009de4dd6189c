package control

import (
	"strings"
	"testing"
)

// Where goroutines are is told, what they were called with is not.
func TestGoroutines(t *testing.T) {
	c, _ := serve(t, &fake{})
	stacks, err := c.Goroutines(t.Context())
	if err != nil || !strings.HasPrefix(string(stacks), "goroutine ") || !strings.Contains(string(stacks), "\nlevee/cmd/levee/control.serveGoroutines(...)\n\t/") ||
		!strings.Contains(string(stacks), "\nlevee/cmd/levee/control.TestGoroutines(...)\n") || strings.Contains(string(stacks), "(0x") {
		t.Errorf("%v\n%s", err, stacks)
	}
}

func TestWithoutArguments(t *testing.T) {
	const report = `panic: no (0x1)

goroutine 7 [running, locked to thread]:
levee/proxy/cookie.hash(0x6b65790102030405, {0xc000123400, 0x20, 0x20}, ...)
	/src/levee/proxy/cookie/hash.go:41 +0x1b
levee/proxy.(*worker).run(0xc0001, {{0x1, 0x2}, 0x3})
	/src/levee/proxy/worker.go:9 +0x2a fp=0xc1 sp=0xc0 pc=0x4
levee/proxy.F[...](0x1?)
	/src/f (1).go:9 +0x2a
main.main()
	/src/main.go:3
created by levee/proxy.(*Proxy).Run in goroutine 1
	/src/levee/proxy/proxy.go:77 +0x9c
`
	const want = `panic: no (0x1)

goroutine 7 [running, locked to thread]:
levee/proxy/cookie.hash(...)
	/src/levee/proxy/cookie/hash.go:41 +0x1b
levee/proxy.(*worker).run(...)
	/src/levee/proxy/worker.go:9 +0x2a fp=0xc1 sp=0xc0 pc=0x4
levee/proxy.F[...](...)
	/src/f (1).go:9 +0x2a
main.main(...)
	/src/main.go:3
created by levee/proxy.(*Proxy).Run in goroutine 1
	/src/levee/proxy/proxy.go:77 +0x9c
`
	if got := string(WithoutArguments([]byte(report))); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
