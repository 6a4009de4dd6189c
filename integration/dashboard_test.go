package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"levee/integration/lab"
)

const (
	dashboardFile = "../docs/grafana-dashboard.json"
	rulesFile     = "../docs/prometheus-rules.yaml"
)

// expression is a query of the dashboard or the rules, by the title of what it is for.
type expression struct{ title, expr string }

// dashboardExpressions are the dashboard's, with Grafana's variables filled in.
func dashboardExpressions(t *testing.T) (out []expression) {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Annotations struct {
			List []struct{ Name, Expr string }
		}
	}
	text, err := os.ReadFile(dashboardFile)
	if err == nil {
		err = json.Unmarshal(text, &dashboard)
	}
	if err != nil {
		t.Fatal(err)
	}
	add := func(title, expr string) {
		expr = strings.NewReplacer("$__rate_interval", "10s", "$instance", ".+").Replace(expr)
		if strings.Contains(expr, "$") {
			t.Errorf("%s: a variable that this test doesn't know: %s", title, expr)
		}
		out = append(out, expression{title, expr})
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			add(p.Title, target.Expr)
		}
	}
	for _, a := range dashboard.Annotations.List {
		add(a.Name, a.Expr)
	}
	if len(out) < 40 {
		t.Fatalf("only %d queries in the dashboard", len(out))
	}
	return out
}

func ruleExpressions(t *testing.T) (out []expression) {
	t.Helper()
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	text, err := os.ReadFile(rulesFile)
	if err == nil {
		err = yaml.Unmarshal(text, &rules)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			out = append(out, expression{r.Alert, r.Expr})
		}
	}
	if len(out) < 12 {
		t.Fatalf("only %d rules", len(out))
	}
	return out
}

// observable is a lab with levee's metrics on, and a port each of the modes always, auto and monitor.
func observable(t *testing.T) *protected {
	t.Helper()
	yaml := strings.NewReplacer(`metrics: {listen: ""}`, "metrics: {listen: 127.0.0.1:9742}", "mode: always", "mode: always\n    ports: [80]").Replace(config(nil))
	for port, mode := range map[int]string{autoPort: "auto", monitorPort: "monitor"} {
		yaml += fmt.Sprintf(`  - name: %s
    prefixes: [%s, "%s"]
    ports: [%d]
    mode: %s
    engage: {half_open: 100, syn_rate: 300, hold: 30s}
`, mode, lab.ServerPrefix4, lab.ServerPrefix6, port, mode)
	}
	return protectYAML(t, lab.Config{Attacker: true}, yaml)
}

const autoPort, monitorPort = 81, 82

// ask gets a page from inside the gateway.
func ask(t *testing.T, n *lab.Namespace, page string) string {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: n.DialContext, DisableKeepAlives: true}}
	resp, err := client.Get(page)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestMetricsNamed: promtool finds nothing to say about a scrape of a running daemon, and every metric in the dashboard and the rules is in it.
func TestMetricsNamed(t *testing.T) {
	p := observable(t)
	scrape := ask(t, p.Gateway, "http://127.0.0.1:9742/metrics")
	lint := exec.Command("promtool", "check", "metrics")
	lint.Stdin = strings.NewReader(scrape)
	if out, err := lint.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
	there := map[string]bool{"up": true} // Prometheus' own
	for line := range strings.Lines(scrape) {
		if line[0] != '#' {
			there[strings.FieldsFunc(line, func(r rune) bool { return r == '{' || r == ' ' })[0]] = true
		}
	}
	name := regexp.MustCompile(`\b(levee|process|go|up)(_[a-z_]+)?\b`)
	label := regexp.MustCompile(`\{[^}]*\}|by \([^)]*\)|on \([^)]*\)`)
	used := 0
	for _, e := range append(dashboardExpressions(t), ruleExpressions(t)...) {
		for _, n := range name.FindAllString(label.ReplaceAllString(e.expr, " "), -1) {
			used++
			if !there[n] {
				t.Errorf("%s: there is no %s in a scrape", e.title, n)
			}
		}
	}
	if used < 40 {
		t.Errorf("only %d names were looked at", used)
	}
}

// TestAlerts: promtool accepts the rules, and each alert fires and doesn't fire as testdata/rules-test.yaml says.
func TestAlerts(t *testing.T) {
	for _, args := range [][]string{{"check", "rules", rulesFile}, {"test", "rules", "testdata/rules-test.yaml"}} {
		if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	text, err := os.ReadFile("testdata/rules-test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	manual, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range ruleExpressions(t) {
		if !strings.Contains(string(text), "alertname: "+r.title+"\n") {
			t.Errorf("%s is not tested", r.title)
		}
		if !strings.Contains(string(manual), "| "+r.title+" |") {
			t.Errorf("docs/operations.md doesn't say what to do about %s", r.title)
		}
	}
}

// TestPrometheus scrapes a daemon under a flood and under honest connections with a real Prometheus, which has the rules too: every query of the dashboard has an
// answer, but for those that list what isn't 0, and every rule can be evaluated.
func TestPrometheus(t *testing.T) {
	p := observable(t)
	dir := t.TempDir()
	rules, err := filepath.Abs(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	cfg := write(t, dir, "prometheus.yml", fmt.Sprintf(
		"global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs: [{job_name: levee, static_configs: [{targets: [127.0.0.1:9742]}]}]\n", rules))
	start(t, p.Gateway, "prometheus", "--config.file="+cfg, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:9090", "--log.level=warn")
	web, err := p.server.StartWeb(128, p.server.AddrPort(false, 80))
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	flood, err := p.Attacker.Link.StartFlood(t.Context(), lab.FloodConfig{Target: p.server.AddrPort(false, 80), Rate: 2000, Count: 60_000, Duration: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	// Smaller ones of the services that are watched.
	for _, port := range []uint16{autoPort, monitorPort} {
		watched, err := p.Attacker.Link.StartFlood(t.Context(), lab.FloodConfig{Target: p.server.AddrPort(false, port), Rate: 500, Count: 15_000, Duration: 30 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if _, err := watched.Stop(); err != nil {
				t.Error(err)
			}
		}()
	}
	load := make(chan error, 1)
	go func() {
		_, err := lab.Load{URLs: []string{lab.URL(p.server.AddrPort(false, 80), "/bytes/100")}, Attempts: 400, Rate: 40, Timeout: 10 * time.Second}.Run(context.Background(), p.client.Namespace)
		load <- err
	}()
	if err := <-load; err != nil {
		t.Fatal(err)
	}
	api := func(path string, into any) {
		t.Helper()
		if err := json.Unmarshal([]byte(ask(t, p.Gateway, "http://127.0.0.1:9090/api/v1/"+path)), into); err != nil {
			t.Fatal(err)
		}
	}
	listing := regexp.MustCompile(`^(topk|changes)\(.* > 0\)?$`) // queries that list what there is, which may be nothing
	for _, e := range dashboardExpressions(t) {
		var answer struct {
			Status, Error string
			Data          struct{ Result []json.RawMessage }
		}
		api("query?query="+url.QueryEscape(e.expr), &answer)
		if answer.Status != "success" || len(answer.Data.Result) == 0 && !listing.MatchString(e.expr) {
			t.Errorf("%s: %s %s, %d series: %s", e.title, answer.Status, answer.Error, len(answer.Data.Result), e.expr)
		}
	}
	var evaluated struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, State, LastError string }
			}
		}
	}
	api("rules", &evaluated)
	seen := 0
	for _, g := range evaluated.Data.Groups {
		for _, r := range g.Rules {
			seen++
			if r.Health != "ok" {
				t.Errorf("rule %s: %s %s", r.Name, r.Health, r.LastError)
			}
			// The rates are of the last minute, so whether these fire already depends on how fast the machine is.
			if quiet := !strings.HasPrefix(r.Name, "LeveeFlood"); quiet && r.State != "inactive" {
				t.Errorf("alert %s is %s", r.Name, r.State)
			}
		}
	}
	if seen != len(ruleExpressions(t)) {
		t.Errorf("%d rules were evaluated", seen)
	}
	if _, err := flood.Stop(); err != nil {
		t.Error(err)
	}
	if out := os.Getenv("LEVEE_PANELS"); out != "" {
		keepPanels(t, p, out)
	}
}

// keepPanels writes the answers to the dashboard's queries over the last half minute, to be drawn.
func keepPanels(t *testing.T, p *protected, file string) {
	t.Helper()
	now := time.Now().Unix()
	panels := map[string][]json.RawMessage{}
	for _, e := range dashboardExpressions(t) {
		page := fmt.Sprintf("http://127.0.0.1:9090/api/v1/query_range?query=%s&start=%d&end=%d&step=1", url.QueryEscape(e.expr), now-30, now)
		panels[e.title] = append(panels[e.title], json.RawMessage(ask(t, p.Gateway, page)))
	}
	text, err := json.Marshal(panels)
	if err == nil {
		err = os.WriteFile(file, text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
