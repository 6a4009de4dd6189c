//go:build !levee_hang

package daemon

import (
	"levee/proxy"
	"levee/tunnel"
)

// linkOf is what a worker works on. Only the build that the watchdog is tested with has another (see link_hang.go).
func linkOf(queue *tunnel.Queue) proxy.Link { return queue }
