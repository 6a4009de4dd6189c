package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"levee/proxy"
	"levee/proxy/servers"
)

// Source is what the daemon tells about itself. Its methods may be called at any time, at once.
type Source interface {
	Status() Status
	// Flows calls yield for every flow until it returns false.
	Flows(yield func(proxy.FlowInfo) bool)
	// Servers calls yield for every server of which something is known until it returns false.
	Servers(yield func(servers.Info) bool)
	// Services are the names of the services.
	Services() []string
	// Reload reads the configuration again and says what has changed, or changes nothing and says what is wrong.
	Reload() (changes []string, err error)
	// Upgrade asks the program in a file, or that which is now in the daemon's own if the path is empty, whether it could go on, and returns
	// what has it do so at last, after which the daemon is gone. An error leaves everything as it is.
	Upgrade(program string) (u Upgrade, begin func(), err error)
	// Drain begins to drain, and to stop after that, or gives the drain that goes on another time-out; 0 is none.
	Drain(timeout time.Duration) error
	// DrainProgress is how far the latest drain is.
	DrainProgress() Drain
	// CancelDrain protects again, or says why it is too late.
	CancelDrain() error
	// Explain says what becomes of a SYN. The error is about the question, in one line.
	Explain(q Question) (Explanation, error)
	// Kill ends the flow between two ends, see proxy.Proxy.Kill.
	Kill(ctx context.Context, a, b netip.AddrPort) (bool, error)
	// Observe begins to look at decisions; the caller closes it.
	Observe(proxy.Interest) (*proxy.Observer, error)
}

// Time limits of the server: nobody keeps it busy by being slow.
const (
	requestTimeout = 5 * time.Second
	// chunkTimeout is for the client to take one chunk of a long answer.
	chunkTimeout = 10 * time.Second
	chunkItems   = 256
)

// Server answers on the control socket.
type Server struct {
	path     string
	listener *net.UnixListener
	http     *http.Server
}

// Listen makes the socket at path, for its owner only, in a folder that exists. A socket that is already there is
// replaced: the caller holds the lock that says no daemon lives.
func Listen(path string, source Source, log *slog.Logger) (*Server, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// The mask makes the socket private from its first moment on.
	old := syscall.Umask(0o177)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w: check state_dir", path, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { serveStatus(w, source) })
	mux.HandleFunc("GET /v1/flows", func(w http.ResponseWriter, r *http.Request) { serveFlows(w, r, source) })
	mux.HandleFunc("POST /v1/flows/kill", waited(func(w http.ResponseWriter, r *http.Request) { serveKill(w, r, source) }))
	mux.HandleFunc("GET /v1/servers", func(w http.ResponseWriter, _ *http.Request) { serveServers(w, source) })
	mux.HandleFunc("POST /v1/reload", waited(func(w http.ResponseWriter, _ *http.Request) { serveReload(w, source) }))
	mux.HandleFunc("POST /v1/upgrade", waited(func(w http.ResponseWriter, r *http.Request) { serveUpgrade(w, r, source) }))
	mux.HandleFunc("POST /v1/drain", waited(func(w http.ResponseWriter, r *http.Request) { serveDrain(w, r, source) }))
	mux.HandleFunc("DELETE /v1/drain", waited(func(w http.ResponseWriter, _ *http.Request) { serveCancelDrain(w, source) }))
	mux.HandleFunc("GET /v1/explain", func(w http.ResponseWriter, r *http.Request) { serveExplain(w, r, source) })
	mux.HandleFunc("GET /v1/observe", func(w http.ResponseWriter, r *http.Request) { serveObserve(w, r, source) })
	mux.HandleFunc("GET /v1/goroutines", func(w http.ResponseWriter, _ *http.Request) { serveGoroutines(w) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, fmt.Errorf("there is no %s %s in version 1 of this interface: use the levee that the daemon runs", r.Method, r.URL.Path))
	})
	return &Server{path: path, listener: listener, http: &http.Server{
		Handler:        mux,
		ReadTimeout:    requestTimeout,
		WriteTimeout:   chunkTimeout,
		IdleTimeout:    requestTimeout,
		MaxHeaderBytes: 16 << 10,
		ConnContext:    keepConnection,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}}, nil
}

// CheckSocket refuses what is in the place of the control socket, unless it is one.
func CheckSocket(path string) error {
	if fi, err := os.Lstat(path); err == nil && fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("control socket %s: something else is there: remove it or set another state_dir", path)
	}
	return nil
}

func removeStale(path string) error {
	if err := CheckSocket(path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("control socket %s: %w: check state_dir", path, err)
	}
	return nil
}

// Serve answers until Close, and then returns nil.
func (s *Server) Serve() error {
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control socket %s: %w", s.path, err)
	}
	return nil
}

// Close ends Serve, cuts off whoever is still being answered, and removes the socket.
func (s *Server) Close() error {
	// The listener unlinks the path; it is closed here too in case Serve was never called.
	return errors.Join(s.http.Close(), ignoreClosed(s.listener.Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func serveStatus(w http.ResponseWriter, source Source) { serveOne(w, source.Status()) }

func serveOne(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	// The client has gone if this fails; nobody is left to tell.
	_ = json.NewEncoder(w).Encode(v)
}

func serveFlows(w http.ResponseWriter, r *http.Request, source Source) {
	filter, err := parseFilter(r.URL.Query(), source.Services())
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	serveArray(w, func(yield func(any) bool) {
		count := 0
		source.Flows(func(info proxy.FlowInfo) bool {
			if !filter.match(info) {
				return true
			}
			count++
			return yield(newFlow(info)) && count != filter.Limit // which is never 0 here
		})
	})
}

func serveServers(w http.ResponseWriter, source Source) {
	serveArray(w, func(yield func(any) bool) {
		source.Servers(func(info servers.Info) bool { return yield(newLearned(info)) })
	})
}

func serveArray(w http.ResponseWriter, all func(yield func(any) bool)) {
	w.Header().Set("Content-Type", "application/json")
	if err := writeArray(w, all); err != nil {
		panic(http.ErrAbortHandler) // so that the client sees that its array is not whole
	}
}

// writeArray streams: an array of a million flows is never in memory.
func writeArray(w http.ResponseWriter, all func(yield func(any) bool)) error {
	deadline := http.NewResponseController(w)
	buffer := bufio.NewWriterSize(w, 64<<10)
	count := 0
	var failed error
	all(func(v any) bool {
		if count%chunkItems == 0 {
			if failed = deadline.SetWriteDeadline(time.Now().Add(chunkTimeout)); failed != nil {
				return false
			}
		}
		text, err := json.Marshal(v)
		if err != nil {
			failed = err
			return false
		}
		separator := ",\n"
		if count == 0 {
			separator = "[\n"
		}
		_, _ = buffer.WriteString(separator) // bufio keeps its first error
		_, failed = buffer.Write(text)
		count++
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	end := "\n]\n"
	if count == 0 {
		end = "[]\n"
	}
	_, _ = buffer.WriteString(end)
	return buffer.Flush()
}

// checkService refuses the name of a service that isn't there; an empty one means any.
func checkService(name string, services []string) error {
	if name != "" && !slices.Contains(services, name) {
		return fmt.Errorf("there is no service %q: use one of %s", name, strings.Join(services, ", "))
	}
	return nil
}

// failure is the body of every answer that isn't 200.
type failure struct {
	Error string `json:"error"`
}

func refuse(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(failure{err.Error()})
}
