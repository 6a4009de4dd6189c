package routes

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// watchWait is how long, in microseconds, a watch waits for the kernel before it looks whether it is to end.
const watchWait = 250_000

// rtmProtocolAt is where a route's protocol is in its message (struct rtmsg).
const rtmProtocolAt = 5

// Watch calls changed whenever the kernel says that something happened which a plan may be about: a rule or one of levee's routes is gone, or
// an interface has changed. Several events may make one call. It works in the network namespace of the thread that calls it, and returns
// nil when ctx is done.
func Watch(ctx context.Context, changed func()) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return fmt.Errorf("watch rules and routes: %w", err)
	}
	defer s.Close()
	if err := s.SetReceiveTimeout(&unix.Timeval{Usec: watchWait}); err != nil {
		return fmt.Errorf("watch rules and routes: %w", err)
	}
	for ctx.Err() == nil {
		messages, _, err := s.Receive()
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS): // there were too many to tell
			changed()
			continue
		case err != nil:
			return fmt.Errorf("watch rules and routes: %w", err)
		}
		matters := false
		for _, m := range messages {
			switch m.Header.Type {
			case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_DELRULE:
				matters = true
			case unix.RTM_DELROUTE:
				matters = matters || len(m.Data) > rtmProtocolAt && m.Data[rtmProtocolAt] == Protocol
			}
		}
		if matters {
			changed()
		}
	}
	return nil
}

// Broken says that traffic doesn't get into the TUN as planned, and that Apply can put that right.
func (d Diff) Broken() bool {
	return !d.TUNMissing && len(d.Foreign) == 0 && (d.TUNDown || d.NotrackMissing || d.NotrackStale || len(d.MissingRules)+len(d.MissingRoutes) > 0)
}
