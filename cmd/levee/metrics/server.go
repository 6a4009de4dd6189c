package metrics

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Limits of the server: scrapes are small, few and quick.
const (
	timeout     = 10 * time.Second
	maxRequests = 4
)

// Server serves /metrics, /healthz (the process lives) and /readyz (traffic is protected).
type Server struct {
	listener net.Listener
	http     *http.Server
}

// Check says whether Listen could open the port now.
func Check(address netip.AddrPort) error {
	l, err := listen(address)
	if err != nil {
		return err
	}
	return l.Close()
}

func listen(address netip.AddrPort) (net.Listener, error) {
	listener, err := net.Listen("tcp", address.String())
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("metrics.listen %v is in use: stop what listens there or choose another port", address)
	}
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		return nil, fmt.Errorf("metrics.listen %v is no address of this machine: choose one that is, such as 127.0.0.1", address)
	}
	if err != nil {
		return nil, fmt.Errorf("metrics.listen %v: %w", address, err)
	}
	return listener, nil
}

// Listen opens the port. The error is one line that names it.
func Listen(address netip.AddrPort, version string, source Source, log *slog.Logger) (*Server, error) {
	listener, err := listen(address)
	if err != nil {
		return nil, err
	}
	errorLog := slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	return &Server{listener: listener, http: &http.Server{
		Handler:        handler(registry(version, source), source, errorLog),
		ReadTimeout:    timeout,
		WriteTimeout:   timeout,
		IdleTimeout:    time.Minute,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       errorLog,
	}}, nil
}

// Address is where the server listens.
func (s *Server) Address() net.Addr { return s.listener.Addr() }

// Serve answers until Close, and then returns nil.
func (s *Server) Serve() error {
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics on %v: %w", s.listener.Addr(), err)
	}
	return nil
}

// Close ends Serve and cuts off whoever is still being answered.
func (s *Server) Close() error {
	err := s.http.Close()
	// In case Serve was never called.
	if e := s.listener.Close(); e != nil && !errors.Is(e, net.ErrClosed) {
		err = errors.Join(err, e)
	}
	return err
}

// pauses are how long the world stood still, and of that how long it took to stop it: on a busy machine until every thread
// that was at work has had a processor again.
var pauses = collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/sched/pauses/`)}

func registry(version string, source Source) *prometheus.Registry {
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(
		&collector{version: version, source: source},
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(pauses)),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return r
}

func handler(r *prometheus.Registry, source Source, errorLog promhttp.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{
		ErrorLog: errorLog, ErrorHandling: promhttp.HTTPErrorOnError, MaxRequestsInFlight: maxRequests, Timeout: timeout / 2,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if why := source.NotReady(); len(why) > 0 {
			http.Error(w, "not ready: "+strings.Join(why, ", "), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ready\n")
	})
	return mux
}
