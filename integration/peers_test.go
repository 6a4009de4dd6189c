package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"levee/integration/lab"
)

// nginx serves a folder of files on port 80 of both families, and keeps what is POSTed to /post in a file that it names.
func nginx(t *testing.T, host *lab.Host) (dir string) {
	t.Helper()
	dir = t.TempDir()
	// The workers of a root nginx run as another user, who must reach the folder.
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	conf := write(t, dir, "nginx.conf", fmt.Sprintf(`
user root;
daemon off;
pid %[1]s/pid;
error_log stderr warn;
worker_processes 2;
worker_rlimit_nofile 8192;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	client_max_body_size 200m;
	keepalive_requests 1000000;
	server {
		listen 80 backlog=4096;
		listen [::]:80 backlog=4096;
		root %[1]s;
		location = /hello { default_type text/plain; return 200 "hello\n"; }
		location /close { keepalive_timeout 0; default_type text/plain; return 200 "bye\n"; }
		location = /post {
			client_body_in_file_only on;
			proxy_pass http://127.0.0.1:81/;
			proxy_pass_request_body off;
			proxy_set_header Content-Length "";
			add_header X-Body-File $request_body_file;
		}
	}
	server { listen 127.0.0.1:81; return 204; }
}
`, dir))
	start(t, host.Namespace, "nginx", "-p", dir, "-e", "stderr", "-c", conf)
	listening(t, host.Namespace, host.AddrPort(false, 80))
	listening(t, host.Namespace, host.AddrPort(true, 80))
	return dir
}

// randomFile makes a file of random bytes and returns its SHA-256.
func randomFile(t *testing.T, path string, size int64) string {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	random, err := os.Open("/dev/urandom")
	if err != nil {
		t.Fatal(err)
	}
	defer random.Close()
	h := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(f, h), random, size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func fileSum(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// fetchAndStore GETs a file from nginx and POSTs it back with curl, and compares the bytes.
func fetchAndStore(t *testing.T, p *protected, v6 bool, size int64) {
	t.Helper()
	dir := nginx(t, p.server)
	sum := randomFile(t, filepath.Join(dir, "file"), size)
	local := t.TempDir()
	base := "http://" + p.server.AddrPort(v6, 80).String()

	got := filepath.Join(local, "got")
	run(t, p.client.Namespace, 2*time.Minute, "curl", "-sS", "--fail", "-o", got, base+"/file")
	if s := fileSum(t, got); s != sum {
		t.Errorf("GET of %d bytes: SHA-256 %s, want %s", size, s, sum)
	}
	headers := run(t, p.client.Namespace, 2*time.Minute, "curl", "-sS", "--fail", "-D", "-", "-H", "Expect:",
		"--data-binary", "@"+got, base+"/post")
	stored := regexp.MustCompile(`(?i)x-body-file: (\S+)`).FindStringSubmatch(headers)
	if stored == nil {
		t.Fatalf("no file named in %s", headers)
	}
	if s := fileSum(t, stored[1]); s != sum {
		t.Errorf("POST of %d bytes: SHA-256 %s, want %s", size, s, sum)
	}
}

// TestCurlNginx moves 100 MiB each way, with and without timestamps.
func TestCurlNginx(t *testing.T) {
	for _, o := range []options{{"timestamps": "true"}, {"timestamps": "false"}} {
		t.Run("timestamps "+o["timestamps"], func(t *testing.T) {
			families(t, func(t *testing.T, v6 bool) {
				p := protect(t, o)
				fetchAndStore(t, p, v6, 100<<20)
				p.spliced(t, 2)
			})
		})
	}
}

// TestNoOffload moves bytes on links without segmentation and checksum offload.
func TestNoOffload(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		p := protect(t, options{"timestamps": "true"})
		for _, h := range []*lab.Host{p.client, p.server} {
			if err := h.Link.SetOffload(false); err != nil {
				t.Fatal(err)
			}
		}
		fetchAndStore(t, p, v6, 20<<20)
		p.spliced(t, 2)
	})
}

func TestIperf(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		p := protect(t, options{"timestamps": "true"})
		start(t, p.server.Namespace, "iperf3", "-s")
		addr := p.server.AddrPort(v6, 5201)
		listening(t, p.server.Namespace, addr)
		for _, direction := range []string{"upload", "download"} {
			args := []string{"-c", addr.Addr().String(), "-t", "3", "-J"}
			if direction == "download" {
				args = append(args, "-R")
			}
			out := run(t, p.client.Namespace, time.Minute, "iperf3", args...)
			var result struct {
				End struct {
					Received struct {
						BitsPerSecond float64 `json:"bits_per_second"`
					} `json:"sum_received"`
				}
			}
			if err := json.Unmarshal([]byte(out), &result); err != nil {
				t.Fatalf("%v in %s", err, out)
			}
			rate := result.End.Received.BitsPerSecond
			t.Logf("%s: %.2f Gb/s", direction, rate/1e9)
			// Not a benchmark: only that data flows as over a working path.
			if rate < 100e6 {
				t.Errorf("%s at %.0f bit/s", direction, rate)
			}
		}
		p.spliced(t, 4)
	})
}

// sshd runs OpenSSH's server on port 22 and returns the options of a client that it lets in.
func sshd(t *testing.T, host *lab.Host) []string {
	t.Helper()
	dir := t.TempDir()
	key, hostKey := filepath.Join(dir, "key"), filepath.Join(dir, "host")
	for _, file := range []string{key, hostKey} {
		run(t, host.Namespace, 10*time.Second, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file)
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // privilege separation wants it
		t.Fatal(err)
	}
	conf := write(t, dir, "sshd_config", fmt.Sprintf(`
Port 22
HostKey %s
PidFile none
AuthorizedKeysFile %s.pub
StrictModes no
PermitRootLogin yes
UsePAM no
UseDNS no
MaxStartups 200
`, hostKey, key))
	start(t, host.Namespace, "/usr/sbin/sshd", "-D", "-e", "-f", conf)
	listening(t, host.Namespace, host.AddrPort(false, 22))
	return []string{
		"-F", "none", "-i", key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
	}
}

// banner connects and reads the line with which an SSH server speaks first.
func banner(ctx context.Context, n *lab.Namespace, addr netip.AddrPort) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	began := time.Now()
	conn, err := n.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(began.Add(5 * time.Second))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && !strings.HasPrefix(line, "SSH-2.0-") {
		err = fmt.Errorf("the banner is %q", line)
	}
	return time.Since(began), err
}

// TestSSH checks that a server that speaks first is heard at once: kernel SYNPROXY with timestamps costs each such
// connection a second, because it echoes a timestamp that the server has not sent.
func TestSSH(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		p := protect(t, options{"timestamps": "true"})
		p.capture(t)
		clientOptions := sshd(t, p.server)
		addr := p.server.AddrPort(v6, 22)

		// In turn, so that both meet the same machine, which may be busy with something else: a round that was disturbed is
		// repeated. What levee caused would be there each time.
		const tries, rounds = 50, 5
		for round := range rounds {
			var direct, through []time.Duration
			for range tries {
				for _, way := range []struct {
					from *lab.Namespace
					took *[]time.Duration
				}{{p.server.Namespace, &direct}, {p.client.Namespace, &through}} {
					took, err := banner(t.Context(), way.from, addr)
					if err != nil {
						t.Fatalf("from %s: %v", way.from.Name, err)
					}
					*way.took = append(*way.took, took)
				}
			}
			slices.Sort(direct)
			slices.Sort(through)
			// The slowest direct one is no measure if it is very slow: a second lost must show.
			limit := min(direct[tries-1], 250*time.Millisecond) + 20*time.Millisecond
			t.Logf("banner direct %s (at most %s), through levee %s (at most %s)",
				direct[tries/2], direct[tries-1], through[tries/2], through[tries-1])
			if through[tries-1] <= limit && through[tries/2] <= direct[tries/2]+20*time.Millisecond {
				break
			}
			if round == rounds-1 {
				t.Errorf("banners were late in each of %d rounds", rounds)
			}
		}
		counters, err := p.server.Counters()
		if err != nil {
			t.Fatal(err)
		}
		if n, known := counters["TcpExtTSEcrRejected"]; n != 0 || !known {
			t.Errorf("TcpExtTSEcrRejected = %d, known to this kernel: %t", n, known)
		}

		args := append(clientOptions, "root@"+addr.Addr().String(), "echo through")
		if out := run(t, p.client.Namespace, 30*time.Second, "ssh", args...); out != "through\n" {
			t.Errorf("ssh printed %q", out)
		}
		p.spliced(t, tries+1)
	})
}

// TestManyConnections holds 1,000 connections open at once.
func TestManyConnections(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		p := protect(t, options{"timestamps": "true"})
		nginx(t, p.server)
		url := fmt.Sprintf("http://%s/hello", p.server.AddrPort(v6, 80))
		most := make(chan int)
		done := make(chan struct{})
		go func() {
			open := 0
			for {
				select {
				case <-done:
					most <- open
					return
				case <-time.After(200 * time.Millisecond):
				}
				if status, err := p.levee.Status(t.Context()); err == nil {
					open = max(open, status.Flows.Open)
				}
			}
		}()
		out := run(t, p.client.Namespace, time.Minute, "wrk", "-t2", "-c1000", "-d5s", "--timeout", "5s", url)
		close(done)
		if open := <-most; open < 1000 {
			t.Errorf("at most %d connections were open at once", open)
		}
		t.Log(lastLines(out, 3))
		if strings.Contains(out, "Socket errors") || strings.Contains(out, "Non-2xx") {
			t.Error(out)
		}
		if n := requests(t, out); n < 1000 {
			t.Errorf("%d requests", n)
		}
		p.spliced(t, 1000)
	})
}

// requests is how many wrk completed.
func requests(t *testing.T, out string) int {
	m := regexp.MustCompile(`(\d+) requests in`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no result in %s", out)
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// TestPortsReused makes 20,000 connections from 2,000 ports of one address: each port ten times, at once after its last
// connection ended.
func TestPortsReused(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for _, timestamps := range []string{"true", "false"} {
			t.Run("timestamps "+timestamps, func(t *testing.T) {
				p := protect(t, options{"timestamps": timestamps})
				nginx(t, p.server)
				if err := p.client.SetSysctl("net.ipv4.ip_local_port_range", "40000 41999"); err != nil {
					t.Fatal(err)
				}
				const total, workers = 20_000, 32
				addr := p.server.AddrPort(v6, 80)
				jobs := make(chan struct{}, total)
				for range total {
					jobs <- struct{}{}
				}
				close(jobs)
				results := make(chan error, total)
				var slowest [workers]time.Duration
				began := time.Now()
				for i := range workers {
					go func() {
						for range jobs {
							at := time.Now()
							results <- getClose(t.Context(), p.client.Namespace, addr)
							slowest[i] = max(slowest[i], time.Since(at))
						}
					}()
				}
				failed := map[string]int{}
				for range total {
					if err := <-results; err != nil {
						failed[err.Error()]++
					}
				}
				var worst time.Duration
				for _, s := range slowest {
					worst = max(worst, s)
				}
				t.Logf("%.0f connections a second, the slowest took %s", total/time.Since(began).Seconds(), worst)
				if len(failed) > 0 {
					t.Errorf("failed: %v", failed)
				}
				p.spliced(t, total)
			})
		}
	})
}

// getClose makes one request on a connection that the server closes first, so that the client's port is free at once.
func getClose(ctx context.Context, n *lab.Namespace, addr netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := n.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, "GET /close HTTP/1.0\r\n\r\n"); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if !bytes.HasSuffix(answer, []byte("bye\n")) {
		return fmt.Errorf("the answer is %q", answer)
	}
	return nil
}
