package main

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"levee/cmd/levee/control"
)

// process watches for the end of the daemon's process. Where that can't be seen, from another PID namespace, the end of
// its control socket has to do.
type process struct {
	client *control.Client
	fd     int // a pidfd, or -1
}

// watchProcess begins. The caller closes it.
func watchProcess(ctx context.Context, client *control.Client) (process, error) {
	pid, err := client.PID(ctx)
	if err != nil {
		return process{}, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		fd = -1
	}
	return process{client, fd}, nil
}

// socketLook is how often the control socket is looked at where the process can't be.
const socketLook = 50 * time.Millisecond

// ended says whether the process has ended, after waiting for it so long at most.
func (p process) ended(wait time.Duration) bool {
	deadline := time.Now().Add(wait)
	for p.fd >= 0 {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, int(max(time.Until(deadline), 0).Milliseconds()))
		if err != unix.EINTR {
			return n > 0 && err == nil
		}
	}
	for {
		if _, err := p.client.PID(context.Background()); err != nil {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(socketLook)
	}
}

func (p process) close() {
	if p.fd >= 0 {
		_ = unix.Close(p.fd)
	}
}
