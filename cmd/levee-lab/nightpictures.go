package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"

	"levee/cmd/levee-lab/picture"
)

const (
	// nightColumns and nightRows are the size of the terminal that top is drawn on.
	nightColumns, nightRows = 80, 24
	// nightScrape is how often Prometheus looks at levee, and nightRate over how long its rates are: Grafana's $__rate_interval, four scrapes.
	nightScrape = time.Second
	nightRate   = 4 * nightScrape
	// nightMetrics is where levee tells Prometheus, nightPrometheus where that listens, both in the gateway's own network.
	nightMetrics, nightPrometheus = "127.0.0.1:9742", "127.0.0.1:9090"
)

// topScreen is levee top on a terminal of its own, 80 columns wide.
type topScreen struct {
	end     context.CancelFunc
	top     *exec.Cmd
	pty     *os.File
	mu      sync.Mutex // guards term
	term    *vt.Emulator
	copying sync.WaitGroup
}

func (n *night) openTop(ctx context.Context) (*topScreen, error) {
	ctx, cancel := context.WithCancel(ctx)
	// The control socket is a file, which is the same in every network namespace.
	s := &topScreen{end: cancel, top: exec.CommandContext(ctx, n.levee.Binary, "top", "--config", n.levee.Config), term: vt.NewEmulator(nightColumns, nightRows)}
	s.top.Env = append(os.Environ(), "TERM=xterm-256color", "COLORTERM=", "NO_COLOR=")
	var err error
	if s.pty, err = pty.StartWithSize(s.top, &pty.Winsize{Cols: nightColumns, Rows: nightRows}); err != nil {
		cancel()
		return nil, fmt.Errorf("levee top on a terminal: %w", err)
	}
	s.copying.Go(func() {
		buffer := make([]byte, 4096)
		for {
			read, err := s.pty.Read(buffer)
			s.mu.Lock()
			_, _ = s.term.Write(buffer[:read])
			s.mu.Unlock()
			if err != nil {
				_ = s.term.InputPipe().(io.Closer).Close() // which ends the other direction
				return
			}
		}
	})
	s.copying.Go(func() { _, _ = io.Copy(s.pty, s.term) }) // what a terminal answers when it is asked
	return s, nil
}

// draw draws the screen as it is.
func (s *topScreen) draw() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if text := s.term.String(); !strings.Contains(text, "q quit") {
		return nil, fmt.Errorf("levee top shows no frame:\n%s", text)
	}
	var drawn bytes.Buffer
	err := picture.Screen(&drawn, s.term)
	return drawn.Bytes(), err
}

func (s *topScreen) close() {
	s.end()
	_ = s.top.Wait() // it was ended
	_ = s.pty.Close()
	s.copying.Wait()
}

// watch starts a Prometheus on the gateway, which scrapes levee until the night is over.
func (n *night) watch(ctx context.Context) error {
	file := filepath.Join(n.levee.Dir, "prometheus.yml")
	text := fmt.Sprintf("global: {scrape_interval: %v}\nscrape_configs: [{job_name: levee, static_configs: [{targets: [%q]}]}]\n", nightScrape, nightMetrics)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("configure prometheus: %w", err)
	}
	if err := n.lab.Gateway.Command(ctx, "prometheus", "--config.file="+file, "--storage.tsdb.path="+filepath.Join(n.levee.Dir, "prometheus"),
		"--web.listen-address="+nightPrometheus, "--log.level=error").Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(nightPatience); ; {
		now := time.Now()
		series, err := n.query(ctx, "rate(levee_syn_passed_total[$__rate_interval])", now, now)
		if err == nil && len(series) > 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("prometheus has not scraped levee within %v: %w", nightPatience, err)
		}
		if err := sleepFor(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// query asks Prometheus for each second between two times. Variables of Grafana's are filled in.
func (n *night) query(ctx context.Context, query string, from, to time.Time) ([]picture.Series, error) {
	query = strings.NewReplacer("$__rate_interval", nightRate.String(), "$instance", ".+").Replace(query)
	page := fmt.Sprintf("http://%s/api/v1/query_range?query=%s&start=%d&end=%d&step=1", nightPrometheus, url.QueryEscape(query), from.Unix(), to.Unix())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: n.lab.Gateway.DialContext, DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask prometheus: %w", err)
	}
	defer response.Body.Close()
	return prometheusSeries(response.Body)
}

// dashboard draws one with what Prometheus has seen since from.
func (n *night) dashboard(ctx context.Context, file string, from, to time.Time) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the dashboard: %w", err)
	}
	var drawn bytes.Buffer
	err = picture.Dashboard(&drawn, text, from, to, func(query string) ([]picture.Series, error) { return n.query(ctx, query, from, to) })
	return drawn.Bytes(), err
}

// prometheusSeries reads an answer of Prometheus' to query_range.
func prometheusSeries(body io.Reader) (all []picture.Series, err error) {
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	if err := json.NewDecoder(body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("read the answer of prometheus: %w", err)
	}
	if answer.Status != "success" {
		return nil, fmt.Errorf("prometheus says %s", answer.Error)
	}
	for _, r := range answer.Data.Result {
		s := picture.Series{Labels: r.Metric}
		for _, v := range r.Values {
			at, isTime := v[0].(float64)
			text, isText := v[1].(string)
			value, err := strconv.ParseFloat(text, 64)
			if !isTime || !isText || err != nil {
				return nil, fmt.Errorf("prometheus has an answer that is not a time and a value: %v", v)
			}
			s.Samples = append(s.Samples, picture.Sample{At: time.UnixMilli(int64(at * 1000)), V: value})
		}
		all = append(all, s)
	}
	return all, nil
}

// show adds a picture to the recording, as a file beside it. Without a file for the recording there is nowhere to put it.
func (n *night) show(name, title string, draw func() ([]byte, error)) error {
	if n.out == "" {
		return nil
	}
	drawn, err := draw()
	if err != nil {
		return err
	}
	base := strings.TrimSuffix(filepath.Base(n.out), filepath.Ext(n.out)) + "-" + name + ".png"
	if err := os.WriteFile(filepath.Join(filepath.Dir(n.out), base), drawn, 0o644); err != nil {
		return fmt.Errorf("write a picture: %w", err)
	}
	fmt.Fprintf(&n.text, "\n![%s](%s)\n", title, base)
	return nil
}
