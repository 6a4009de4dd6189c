package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Time limits of the client: a daemon that hangs is an error, not a wait.
const (
	dialTimeout = 5 * time.Second
	readTimeout = 10 * time.Second
	maxStatus   = 64 << 20 // bytes, of an answer that is read whole
)

// Client asks the daemon behind one socket.
type Client struct {
	path string
	http *http.Client
}

// NewClient prepares; nothing is asked yet.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", path)
		if err != nil {
			return nil, err
		}
		return patient{conn}, nil
	}
	return &Client{path: path, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// patient bounds each wait for the daemon, not the whole answer, which may be long.
type patient struct{ net.Conn }

func (p patient) Read(b []byte) (int, error) {
	if err := p.SetReadDeadline(time.Now().Add(readTimeout)); err != nil {
		return 0, err
	}
	return p.Conn.Read(b)
}

// Status asks for the daemon's status.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return one[Status](ctx, c, "/v1/status")
}

// PID asks the kernel which process listens on the socket. It is 0 if that is not in this process's PID namespace.
func (c *Client) PID(ctx context.Context) (int, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", c.path)
	if err != nil {
		return 0, c.explain(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, failed
	}
	return int(peer.Pid), nil
}

// Explain asks what becomes of a SYN.
func (c *Client) Explain(ctx context.Context, q Question) (Explanation, error) {
	return one[Explanation](ctx, c, "/v1/explain?"+q.query().Encode())
}

// one reads an answer that is one object.
func one[T any](ctx context.Context, c *Client, path string) (v T, err error) {
	return decoded[T](ctx, c, http.MethodGet, path)
}

// decoded is one for any method.
func decoded[T any](ctx context.Context, c *Client, method, path string) (v T, err error) {
	body, err := c.ask(ctx, method, path)
	if err != nil {
		return v, err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, maxStatus)).Decode(&v); err != nil {
		return v, c.explain(err)
	}
	return v, nil
}

// Flows asks for flows and calls yield for each as it arrives; an error of yield ends it and is returned.
func (c *Client) Flows(ctx context.Context, f Filter, yield func(Flow) error) error {
	return list(ctx, c, "/v1/flows?"+f.query().Encode(), yield)
}

// Servers asks for what is known of servers and calls yield for each as it arrives; an error of yield ends it and is returned.
func (c *Client) Servers(ctx context.Context, yield func(Learned) error) error {
	return list(ctx, c, "/v1/servers", yield)
}

// list calls yield for each element of an array.
func list[T any](ctx context.Context, c *Client, path string, yield func(T) error) error {
	body, err := c.get(ctx, path)
	if err != nil {
		return err
	}
	defer body.Close()
	dec := json.NewDecoder(body)
	if _, err := dec.Token(); err != nil { // the opening bracket
		return c.explain(err)
	}
	for dec.More() {
		var v T
		if err := dec.Decode(&v); err != nil {
			return c.explain(err)
		}
		if err := yield(v); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil { // the closing one: without it some are missing
		return c.explain(err)
	}
	return nil
}

func (c *Client) get(ctx context.Context, path string) (io.ReadCloser, error) {
	return c.ask(ctx, http.MethodGet, path)
}

func (c *Client) ask(ctx context.Context, method, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://levee"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	var f failure
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxStatus)).Decode(&f); err != nil || f.Error == "" {
		return nil, fmt.Errorf("the daemon on %s answers %s: is it another version?", c.path, resp.Status)
	}
	if resp.StatusCode == http.StatusBadRequest {
		return nil, BadRequest(f.Error)
	}
	return nil, errors.New(f.Error)
}

// BadRequest is the error about a question that makes no sense to the daemon.
type BadRequest string

// Error implements error.
func (e BadRequest) Error() string { return string(e) }

// Forbidden is the error about a socket that this user may not use: whether there is a daemon isn't known.
type Forbidden string

// Error implements error.
func (e Forbidden) Error() string { return string(e) }

// NoAnswer is the error about a daemon that was asked and has not answered to the end: what it was asked for may be done, or be done still.
type NoAnswer struct {
	text  string
	cause error
}

// Error implements error.
func (e *NoAnswer) Error() string { return e.text }

// Unwrap returns what ended the waiting.
func (e *NoAnswer) Unwrap() error { return e.cause }

// explain makes one line with a remedy of what went wrong on the socket.
func (c *Client) explain(err error) error {
	var timeout net.Error
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no daemon on %s: is levee running?", c.path)
	case errors.Is(err, fs.ErrPermission):
		return Forbidden(fmt.Sprintf("may not talk to the daemon on %s: use the user that runs it, usually root", c.path))
	case errors.As(err, &timeout) && timeout.Timeout():
		return &NoAnswer{fmt.Sprintf("the daemon on %s does not answer: its log may say why", c.path), err}
	case errors.Is(err, context.Canceled):
		return &NoAnswer{fmt.Sprintf("interrupted before the daemon on %s had answered", c.path), err}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return &NoAnswer{fmt.Sprintf("the daemon on %s stopped in the middle of its answer: is it ending?", c.path), err}
	}
	return fmt.Errorf("the answer of the daemon on %s makes no sense (%w): is it another version?", c.path, err)
}
