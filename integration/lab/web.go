package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// Web is a small web server. It runs in this process on the kernel's TCP inside a namespace, and
// knows
//
//	GET  /bytes/N   N bytes of a fixed pattern
//	POST /sha256    the SHA-256 of the request's body, in hexadecimal
type Web struct {
	server    *http.Server
	listeners []net.Listener
	served    chan error
	close     func() error
}

// maxBytes bounds GET /bytes/N.
const maxBytes = 1 << 30

// StartWeb starts a web server on every address. backlog is explained at Listen. It ends with Close or
// with the lab.
func (n *Namespace) StartWeb(backlog int, addrs ...netip.AddrPort) (*Web, error) {
	w := &Web{
		server: &http.Server{
			Handler:           webHandler(),
			ReadHeaderTimeout: 10 * time.Second,
			ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		},
		served: make(chan error, len(addrs)),
	}
	for _, a := range addrs {
		ln, err := n.Listen(a, backlog)
		if err != nil {
			w.server.Close()
			w.closeListeners()
			return nil, err
		}
		w.listeners = append(w.listeners, ln)
	}
	for _, ln := range w.listeners {
		go func() { w.served <- w.server.Serve(ln) }()
	}
	w.close = sync.OnceValue(w.closeOnce)
	n.started.add(w.close)
	return w, nil
}

func (w *Web) closeListeners() {
	for _, ln := range w.listeners {
		ln.Close()
	}
}

// Close ends the server and its connections. It may be called again.
func (w *Web) Close() error { return w.close() }

func (w *Web) closeOnce() error {
	err := w.server.Close()
	// A listener that Serve had not yet reached is not known to the server.
	w.closeListeners()
	for range w.listeners {
		if e := <-w.served; !errors.Is(e, http.ErrServerClosed) && !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	return err
}

func webHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /bytes/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
		if err != nil || n < 0 || n > maxBytes {
			http.Error(w, fmt.Sprintf("from 0 to %d bytes", maxBytes), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		w.Header().Set("Content-Type", "application/octet-stream")
		io.Copy(w, io.LimitReader(new(pattern), n))
	})
	mux.HandleFunc("POST /sha256", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		if _, err := io.Copy(h, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		io.WriteString(w, hex.EncodeToString(h.Sum(nil)))
	})
	return mux
}

// Pattern returns the endless bytes of which GET /bytes/N sends the first N. They repeat after
// 251 bytes, which no buffer or segment size divides, so that a lost, doubled or moved piece shows.
func Pattern() io.Reader { return new(pattern) }

type pattern struct{ at int }

// period is prime.
const period = 251

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(p.at)
		p.at = (p.at + 1) % period
	}
	return len(b), nil
}

// URL is the address of a page of a Web at addr.
func URL(addr netip.AddrPort, path string) string { return fmt.Sprintf("http://%s%s", addr, path) }

// Client makes web requests from inside the namespace, each on its own connection. It doesn't ask for compression, whose buffers are
// a tenth of all the memory of a daemon that is asked for its metrics.
func (n *Namespace) Client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: n.DialContext, DisableKeepAlives: true, DisableCompression: true}}
}

// Get fetches a page from inside the namespace on a connection of its own and returns the length of
// its body in bytes. A status other than 200 is an error.
func (n *Namespace) Get(ctx context.Context, url string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := n.Client().Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return io.Copy(io.Discard, resp.Body)
}
