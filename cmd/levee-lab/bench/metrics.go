package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"levee/integration/lab"
)

// longestPauseName is the longest of the latest 256 pauses of the daemon's garbage collector, in seconds.
const longestPauseName = `go_gc_duration_seconds{quantile="1"}`

// maxMetrics bounds what is read of the metrics, in bytes.
const maxMetrics = 1 << 20

// scrape reads the daemon's metrics from inside the gateway.
func scrape(ctx context.Context, l *lab.Lab) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+metricsAddr+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := l.Gateway.Client().Do(req)
	if err != nil {
		return nil, fmt.Errorf("read levee's metrics: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read levee's metrics: %s", resp.Status)
	}
	return readMetrics(io.LimitReader(resp.Body, maxMetrics))
}

// readMetrics reads Prometheus's text format: values by name and labels, as they are written.
func readMetrics(r io.Reader) (map[string]float64, error) {
	series := map[string]float64{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		// Labels may hold spaces, values none.
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("levee's metrics: %s: %w", line[:at], err)
		}
		series[line[:at]] = value
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read levee's metrics: %w", err)
	}
	return series, nil
}
