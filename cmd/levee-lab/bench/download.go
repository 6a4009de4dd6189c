package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"levee/integration/lab"
)

// downloadTimeout bounds every call of a download's peers: a server whose congestion control has gone wrong still gets there.
const downloadTimeout = 60 * time.Second

// download is a kind of transfer to a far client, that it asks for.
type download struct {
	id, name string
	// control is the server's congestion control, as the kernel calls it.
	control string
	bytes   int
}

// downloads are all kinds: a transfer that is over while the sender still finds out how fast it may go, and one that goes on.
var downloads = []download{
	{"download-bbr-1", "download of 1 MiB, 50 ms away, BBR", "bbr", 1 << 20},
	{"download-cubic-1", "download of 1 MiB, 50 ms away, CUBIC", "cubic", 1 << 20},
	{"download-bbr-20", "download of 20 MiB, 50 ms away, BBR", "bbr", 20 << 20},
	{"download-cubic-20", "download of 20 MiB, 50 ms away, CUBIC", "cubic", 20 << 20},
}

// downloadFigures are what downloads are reported as.
func downloadFigures() (f []figure) {
	for _, d := range downloads {
		f = append(f, figure{d.id, "download", d.name, "ms", 1, false})
	}
	return f
}

// runDownload measures the time from connect to the last byte of downloads, one at a time.
func (b *bench) runDownload(ctx context.Context, id contenderID) (expect seen, err error) {
	medians := make([]float64, len(downloads))
	for i, d := range downloads {
		t, err := b.farDownloads(ctx, d)
		if err != nil {
			return expect, fmt.Errorf("%s: %w", d.id, err)
		}
		expect.connections += uint64(len(t.completed))
		medians[i] = milliseconds(percentile(t.sorted(func(t times) time.Duration { return t.last }), 0.5))
	}
	for i, d := range downloads {
		b.report.add(d.id, id, medians[i])
	}
	return expect, nil
}

func (b *bench) farDownloads(ctx context.Context, d download) (t *tally, err error) {
	server, err := startDownloads(b.server.Namespace, b.nextPort(), d)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.close()) }()
	t = &tally{}
	err = inside(b.far.Namespace, 1, func() {
		for range b.length.downloads {
			if ctx.Err() == nil {
				t.add(fetch(server.addr, d.bytes))
			}
		}
	})
	return t, errors.Join(err, t.err(), ctx.Err())
}

// startDownloads serves one download at a time.
func startDownloads(n *lab.Namespace, addr netip.AddrPort, d download) (*responder, error) {
	r := &responder{addr: addr, page: d.bytes}
	err := n.Do(func() (err error) {
		if r.listener, err = listen(addr, downloadTimeout); err != nil {
			return err
		}
		// What a listener has, its connections get.
		if err = unix.SetsockoptString(r.listener, unix.IPPROTO_TCP, unix.TCP_CONGESTION, d.control); err != nil {
			return errors.Join(fmt.Errorf("choose the congestion control %s: %w", d.control, err), unix.Close(r.listener))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("start a server in %s: %w", n.Name, err)
	}
	r.workers.Go(r.serve)
	return r, nil
}

// fetch asks for a download from the calling thread's namespace.
func fetch(to netip.AddrPort, bytes int) (t times, err error) {
	var buf [64 << 10]byte
	begin := time.Now()
	fd, err := dial(to, downloadTimeout)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	t.connected = time.Since(begin)
	if err := writeFull(fd, buf[:requestSize]); err != nil {
		return t, fmt.Errorf("ask %s: %w", to, err)
	}
	for got := 0; got < bytes; {
		n, err := unix.Read(fd, buf[:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil || n == 0:
			return t, fmt.Errorf("%d of %d bytes from %s, then: %w", got, bytes, to, errors.Join(failure(err), unix.ECONNRESET))
		case got == 0:
			t.first = time.Since(begin)
		}
		got += n
	}
	t.last = time.Since(begin)
	return t, nil
}
