package control

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"runtime"
)

// maxStacks bounds a dump of goroutines, in bytes.
const maxStacks = 1 << 20

// serveGoroutines tells where every goroutine is. The process stands still for that, as it does for the garbage collector.
func serveGoroutines(w http.ResponseWriter) {
	buffer := make([]byte, maxStacks)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	// The client has gone if this fails; nobody is left to tell.
	_, _ = w.Write(WithoutArguments(buffer[:runtime.Stack(buffer, true)]))
}

// Goroutines returns where every goroutine of the daemon is, without the arguments of functions.
func (c *Client) Goroutines(ctx context.Context) ([]byte, error) {
	body, err := c.get(ctx, "/v1/goroutines")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	stacks, err := io.ReadAll(io.LimitReader(body, maxStacks))
	if err != nil {
		return nil, c.explain(err)
	}
	return stacks, nil
}

// arguments of a call in a stack of Go's runtime; the line of the file begins with a tab.
var arguments = regexp.MustCompile(`(?m)^([^\t\n].*[^\t\n ])\([^()\n]*\)$`)

// WithoutArguments takes the arguments of functions, which may be words of keys, out of what Go's runtime says about goroutines. It keeps nothing of stacks.
func WithoutArguments(stacks []byte) []byte {
	return arguments.ReplaceAll(stacks, []byte("$1(...)"))
}
