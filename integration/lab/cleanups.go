package lab

import (
	"errors"
	"slices"
	"sync"
)

// cleanups are the things to end when the lab closes, the last one started first.
type cleanups struct {
	mu     sync.Mutex
	closed bool
	list   []*func() error
}

// add remembers fn and returns a function that forgets it. After run it calls fn at once.
func (c *cleanups) add(fn func() error) (forget func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		// A failure has nobody left to report to.
		go fn()
		return func() {}
	}
	c.list = append(c.list, &fn)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.list = slices.DeleteFunc(c.list, func(f *func() error) bool { return f == &fn })
	}
}

// run calls everything that was added and not forgotten, and returns all errors.
func (c *cleanups) run() error {
	c.mu.Lock()
	list := c.list
	c.list, c.closed = nil, true
	c.mu.Unlock()
	var all error
	for _, fn := range slices.Backward(list) {
		all = errors.Join(all, (*fn)())
	}
	return all
}
