package integration

import (
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	"levee/integration/lab"
)

// slowest is the longest that a request may take: a second is the first retransmission of a SYN.
const slowest = time.Second

// perRequest runs a load generator that makes a connection for each request, from one address, so that every port comes around again and
// again: 28,000 of them, at thousands a second.
var perRequest = []struct {
	name string
	run  func(t *testing.T, from *lab.Namespace, url string, d time.Duration) loadResult
}{
	{"wrk", runWrk},
	{"ab", runAB},
}

// loadResult is what a load generator says.
type loadResult struct {
	requests, errors float64
	longest          time.Duration
	output           string
}

// check fails the test if a request failed or was slow.
func (r loadResult) check(t *testing.T) {
	t.Helper()
	if r.errors != 0 || r.longest > slowest {
		t.Errorf("%.0f errors, the longest request %s:\n%s", r.errors, r.longest, r.output)
	}
}

// TestConnectionPerRequest loads levee with short connections: no error, and no request takes a second. The rates are in the log; to compare them with
// plain forwarding's see TestConnectionPerRequestRate (make measure).
func TestConnectionPerRequest(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for _, generator := range perRequest {
			t.Run(generator.name, func(t *testing.T) {
				p := protect(t, options{"timestamps": "true"})
				nginx(t, p.server)
				reusePorts(t, p.client)
				r := generator.run(t, p.client.Namespace, "http://"+p.server.AddrPort(v6, 80).String()+"/close", 2*time.Second)
				r.check(t)
				var packets uint64
				for _, w := range p.tun(t).Workers {
					packets += w.Received
				}
				t.Logf("%.0f requests a second, the longest %s; each %.1f packets into levee", r.requests/2, r.longest, float64(packets)/r.requests)
				p.spliced(t, uint64(r.requests))
			})
		}
	})
}

// reusePorts lets a client use a port in TIME-WAIT again after a second. Whoever closes first has the TIME-WAIT: both wrk and nginx
// close as soon as the answer is complete, so that it is a race, which the server wins over plain forwarding and loses in a fifth of connections when
// something on the way takes time. Without this the client then has no free port half a minute later.
func reusePorts(t *testing.T, client *lab.Host) {
	t.Helper()
	if err := client.SetSysctl("net.ipv4.tcp_tw_reuse", "1"); err != nil {
		t.Fatal(err)
	}
}

// runWrk runs wrk, which closes every connection after its request.
func runWrk(t *testing.T, from *lab.Namespace, url string, d time.Duration) loadResult {
	t.Helper()
	dir := t.TempDir()
	// wrk's own table rounds.
	script := write(t, dir, "report.lua", `
done = function(summary, latency, requests)
	local e = summary.errors
	io.write(string.format("REQUESTS %d ERRORS %d LONGEST %d us\n", summary.requests,
		e.connect + e.read + e.write + e.status + e.timeout, latency.max))
end
`)
	out := run(t, from, d+time.Minute, "wrk", "-t2", "-c32", fmt.Sprintf("-d%ds", int(d.Seconds())), "--timeout", "10s",
		"-H", "Connection: close", "-s", script, url)
	m := regexp.MustCompile(`REQUESTS (\d+) ERRORS (\d+) LONGEST (\d+) us`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no result in %s", out)
	}
	n, _ := strconv.ParseFloat(m[1], 64)
	failed, _ := strconv.ParseFloat(m[2], 64)
	us, _ := strconv.Atoi(m[3])
	return loadResult{n, failed, time.Duration(us) * time.Microsecond, out}
}

// runAB runs Apache's ab, which speaks HTTP/1.0: a connection for each request.
func runAB(t *testing.T, from *lab.Namespace, url string, d time.Duration) loadResult {
	t.Helper()
	out := run(t, from, d+time.Minute, "ab", "-q", "-r", "-c32", "-t", fmt.Sprint(int(d.Seconds())), "-n", "2000000", "-s", "10", url)
	number := func(pattern string) float64 {
		m := regexp.MustCompile(pattern).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("no %s in %s", pattern, out)
		}
		n, _ := strconv.ParseFloat(m[1], 64)
		return n
	}
	longest := time.Duration(number(`100% +(\d+) \(longest request\)`)) * time.Millisecond
	return loadResult{number(`Complete requests: +(\d+)`), number(`Failed requests: +(\d+)`), longest, out}
}
