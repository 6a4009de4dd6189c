package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"levee/cmd/levee/config"
)

const exampleFile = "../../docs/levee.example.yaml"

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "levee.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const web = "services: [{name: web, prefixes: [192.0.2.0/24]}]\n"

func TestCommandLine(t *testing.T) {
	good := writeConfig(t, web)
	broken := writeConfig(t, "tun: {mtu: 7}\nlog: {colour: x}\n"+web)
	gone := filepath.Join(t.TempDir(), "gone.yaml")
	state := t.TempDir()
	idle := writeConfig(t, "state_dir: "+state+"\n"+web)
	const verbs = "apply, capture, check, cleanup, completion, debug, drain, explain, flows, observe, plan, reload, run, servers, status, top, upgrade, version"
	const states = "opening, open, client_closed, server_closed, time_wait, reset"
	for _, tt := range []struct {
		name   string
		args   []string
		code   int
		stdout string
		stderr string // without "levee: " and the line end
	}{
		{"no verb", nil, 2, "", "no verb: use one of " + verbs},
		{"unknown verb", []string{"start"}, 2, "", `unknown verb "start": use one of ` + verbs},
		{"verb of others", []string{"restart"}, 2, "", `unknown verb "restart": use one of ` + verbs},
		{"unknown flag", []string{"status", "--frobnicate"}, 2, "", "unknown flag: --frobnicate: see levee status --help"},
		{"unknown short flag", []string{"-x"}, 2, "", "unknown shorthand flag: 'x' in -x: see levee --help"},
		{"flag without value", []string{"check", "-c"}, 2, "", "flag needs an argument: 'c' in -c: see levee check --help"},
		{"argument too many", []string{"check", good}, 2, "", `levee check takes no argument "` + good + `": see levee check --help`},
		{"unknown format", []string{"status", "-o", "yaml"}, 2, "", `invalid argument "yaml" for "-o, --output" flag: use text or json: see levee status --help`},
		{"limit is no number", []string{"flows", "--limit", "x"}, 2, "", `invalid argument "x" for "--limit" flag: use a whole number: see levee flows --help`},
		{"limit below 0", []string{"flows", "--limit", "-1"}, 2, "", "--limit -1: use 1 or more, or 0 for all"},
		{"unknown state", []string{"flows", "--state", "x"}, 2, "", `--state "x": use one of ` + states},

		{"unknown verb of flows", []string{"flows", "end"}, 2, "", `unknown verb "end" of flows: use one of kill, list, watch`},
		{"half a tuple", []string{"flows", "list", "tcp", "192.0.2.1:1"}, 2, "", "say tcp, the client and the server: levee flows list tcp 203.0.113.7:40000 192.0.2.10:443"},
		{"tuple without a port", []string{"flows", "kill", "tcp", "192.0.2.1:1", "192.0.2.2"}, 2, "", `"192.0.2.2" is no address and port: write 192.0.2.10:443 or [2001:db8:1::10]:443`},
		{"tuple and a port", []string{"flows", "kill", "--port", "7", "tcp", "192.0.2.1:1", "192.0.2.2:2"}, 2, "", `--port: the arguments name both ends already: leave it out`},
		{"kill everything", []string{"flows", "kill", "-c", idle}, 2, "", "say which: name one of --service, --state, --client, --server and --port, or tcp and both ends"},
		{"kill of no service", []string{"flows", "kill", "--client", "198.51.100.0/24", "--service", ""}, 2, "", `invalid argument "" for "--service" flag: it is empty: say which, or leave the flag out: see levee flows kill --help`},
		{"kill in no state", []string{"flows", "kill", "--port", "80", "--state="}, 2, "", `invalid argument "" for "--state" flag: it is empty: say which, or leave the flag out: see levee flows kill --help`},
		{"kill of port 0", []string{"flows", "kill", "--client", "198.51.100.0/24", "--port", "0"}, 2, "", `invalid argument "0" for "--port" flag: use one port, 1 to 65535: see levee flows kill --help`},
		{"ports", []string{"flows", "list", "--port", "80,443"}, 2, "", `invalid argument "80,443" for "--port" flag: use one port, 1 to 65535: see levee flows list --help`},
		{"port too high", []string{"flows", "list", "--port", "99999"}, 2, "", `invalid argument "99999" for "--port" flag: use one port, 1 to 65535: see levee flows list --help`},
		{"kill without daemon", []string{"flows", "kill", "--port", "80", "-c", idle}, 1, "", "no daemon on " + state + "/control.sock: is levee running?"},
		{"watch too often", []string{"flows", "watch", "--every", "1ms", "-c", idle}, 2, "", "--every and --for: use positive values, for --every 100ms or more"},
		{"explain nothing", []string{"explain"}, 2, "", "say tcp, the client and the server: levee explain tcp 203.0.113.7:40000 192.0.2.10:443"},
		{"explain udp", []string{"explain", "udp", "192.0.2.1:1", "192.0.2.2:2"}, 2, "", "say tcp, the client and the server: levee explain tcp 203.0.113.7:40000 192.0.2.10:443"},
		{"explain a name", []string{"explain", "tcp", "example.org", "192.0.2.2:2"}, 2, "", `client "example.org" is no address: write 203.0.113.7, 203.0.113.7:40000, 2001:db8::7 or [2001:db8::7]:40000`},
		{"explain port 0", []string{"explain", "tcp", "192.0.2.1", "192.0.2.2:0"}, 2, "", `server "192.0.2.2:0" is no address and port: write 192.0.2.10:443 or [2001:db8:1::10]:443`},
		{"explain from port 0", []string{"explain", "tcp", "192.0.2.1:0", "192.0.2.2:80"}, 2, "", `client "192.0.2.1:0" is no address: write 203.0.113.7, 203.0.113.7:40000, 2001:db8::7 or [2001:db8::7]:40000`},
		{"explain no port", []string{"explain", "tcp", "192.0.2.1", "192.0.2.2"}, 2, "", `server "192.0.2.2" is no address and port: write 192.0.2.10:443 or [2001:db8:1::10]:443`},

		{"observe no verdict", []string{"observe", "--verdict", "lost"}, 2, "", `"lost" is not a verdict: use one of forward, pass, drop, answer, refuse, open, splice, hold, reply, take`},
		{"upgrade to two programs", []string{"upgrade", "a", "b"}, 2, "", "levee upgrade takes one program: see levee upgrade --help"},
		{"drain and cancel", []string{"drain", "--cancel", "--timeout", "1s"}, 2, "", "--timeout and --cancel: use one of them"},
		{"drain in the past", []string{"drain", "--timeout", "-1s"}, 2, "", "--timeout: use a positive time"},
		{"observe no prefix", []string{"observe", "--prefix", "x"}, 2, "", `invalid argument "x" for "--prefix" flag: write an address or a prefix, such as 192.0.2.0/24 or 2001:db8::/64: see levee observe --help`},
		{"observe backwards", []string{"observe", "-n", "-1"}, 2, "", "--count and --for: use positive values, or 0 for no end"},
		{"observe too much", []string{"observe", "--rate", "0"}, 2, "", "--rate 0: use 1 to 20000"},
		{"observe for no time", []string{"observe", "--for", "soon"}, 2, "", `invalid argument "soon" for "--for" flag: write a time such as 500ms, 10s or 5m: see levee observe --help`},
		{"observe no reason", []string{"observe", "--reason="}, 2, "", `invalid argument "" for "--reason" flag: it is empty: say which, or leave the flag out: see levee observe --help`},
		{"observe without daemon", []string{"observe", "-c", idle}, 1, "", "no daemon on " + state + "/control.sock: is levee running?"},
		{"capture to nowhere", []string{"capture"}, 2, "", "name the file to write: levee capture -w FILE, or -w - for the standard output"},
		{"capture without end", []string{"capture", "-w", "-", "--for", "0s"}, 2, "", "--count and --for: use positive values, a capture is bounded"},

		{"debug nothing", []string{"debug"}, 2, "", "say what: levee debug bundle"},
		{"debug something", []string{"debug", "heap"}, 2, "", `unknown verb "heap" of debug: use one of bundle`},
		{"bundle to a folder that isn't there", []string{"debug", "bundle", "-w", filepath.Join(gone, "b.tar.gz")}, 1, "", "open " + filepath.Join(gone, "b.tar.gz") + ": no such file or directory"},

		{"check good", []string{"check", "--config-only", "-c", good}, 0, good + ": ok\n", ""},
		{"check example", []string{"check", "--config-only", "--config", exampleFile}, 0, exampleFile + ": ok\n", ""},
		{"check broken", []string{"check", "-c", broken}, 1, "", broken + ": log.colour: unknown key: use one of level, format\n" +
			"levee: " + broken + `: tun.mtu: "7" is neither auto nor a whole number from 1280 to 65535`},
		{"check missing", []string{"check", "-c", gone}, 1, "", gone + ": no such file: write one (levee.example.yaml has every key) or name another with --config"},

		{"run broken", []string{"run", "-c", broken}, 1, "", broken + ": log.colour: unknown key: use one of level, format (and 1 more: see levee check)"},
		{"plan broken", []string{"plan", "-c", broken}, 1, "", broken + ": log.colour: unknown key: use one of level, format (and 1 more: see levee check)"},
		{"apply broken", []string{"apply", "-c", broken}, 1, "", broken + ": log.colour: unknown key: use one of level, format (and 1 more: see levee check)"},
		{"cleanup with a file that isn't there", []string{"cleanup", "-c", gone}, 1, "", gone + ": no such file: write one (levee.example.yaml has every key) or name another with --config"},

		{"status without daemon", []string{"status", "-c", idle}, 1, "", "no daemon on " + state + "/control.sock: is levee running?"},
		{"flows without daemon", []string{"flows", "-c", idle}, 1, "", "no daemon on " + state + "/control.sock: is levee running?"},
		{"servers without daemon", []string{"servers", "-c", idle}, 1, "", "no daemon on " + state + "/control.sock: is levee running?"},
		{"status finds no file", []string{"status", "-c", gone}, 1, "", gone + ": no such file: write one (levee.example.yaml has every key) or name another with --config"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := ""
			if tt.stderr != "" {
				want = "levee: " + tt.stderr + "\n"
			}
			if code, stdout, stderr := levee(tt.args...); code != tt.code || stdout != tt.stdout || stderr != want {
				t.Errorf("levee %s\ngot  %d %q %q\nwant %d %q %q", strings.Join(tt.args, " "), code, stdout, stderr, tt.code, tt.stdout, want)
			}
		})
	}
}

// A file that became broken since the daemon read it must not hide the daemon, unless nobody can tell where it is.
func TestBrokenFileAndStatus(t *testing.T) {
	state := t.TempDir()
	file := writeConfig(t, "state_dir: "+state+"\ntun: {mut: 7}\n"+web)
	if code, _, stderr := levee("status", "-c", file); code != 1 || stderr != "levee: no daemon on "+state+"/control.sock: is levee running?\n" {
		t.Errorf("another key is broken: %d %q", code, stderr)
	}
	file = writeConfig(t, "state_dir: "+state+"\n"+web+"\ngarbage: [\n")
	for _, verb := range []string{"status", "servers", "reload"} {
		if code, _, stderr := levee(verb, "-c", file); code != 1 || !strings.HasSuffix(stderr, "no daemon on "+state+"/control.sock: is levee running?\n") {
			t.Errorf("%s of a file that is no YAML: %d %q", verb, code, stderr)
		}
	}
	file = writeConfig(t, "state_dir: [x]\n"+web)
	if code, _, stderr := levee("status", "-c", file); code != 1 || stderr != "levee: "+file+": state_dir: a list where one value is due\n" {
		t.Errorf("state_dir itself is broken: %d %q", code, stderr)
	}
}

func TestCheckJSON(t *testing.T) {
	broken := writeConfig(t, "tun: {mtu: 7}\n"+web)
	code, stdout, stderr := levee("check", "-o", "json", "-c", broken)
	var got checked
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 1 || stderr != "" {
		t.Fatalf("%d %q %q: %v", code, stdout, stderr, err)
	}
	want := config.Problem{Source: broken, Key: "tun.mtu", Text: `"7" is neither auto nor a whole number from 1280 to 65535`}
	if got.OK || got.File != broken || len(got.Problems) != 1 || got.Problems[0] != want {
		t.Errorf("got %+v, want one problem %+v", got, want)
	}
	if code, stdout, _ := levee("check", "--config-only", "-o", "json", "-c", writeConfig(t, web)); code != 0 || !strings.Contains(stdout, `"problems": []`) {
		t.Errorf("good file: %d %s", code, stdout)
	}
}

func TestVersion(t *testing.T) {
	old := version
	defer func() { version = old }()
	version = "v9.8.7"
	if code, stdout, stderr := levee("version"); code != 0 || !strings.HasPrefix(stdout, "levee v9.8.7 (go") || stderr != "" {
		t.Errorf("%d %q %q", code, stdout, stderr)
	}
	code, stdout, _ := levee("version", "-o", "json")
	var b build
	if err := json.Unmarshal([]byte(stdout), &b); err != nil || code != 0 || b.Version != "v9.8.7" {
		t.Errorf("%d %q: %v", code, stdout, err)
	}
	version = ""
	if v := versionNow().Version; v == "" {
		t.Error("no version without one set at link time")
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"help"}, {"run", "--help"}, {"help", "flows"}} {
		if code, stdout, stderr := levee(args...); code != 0 || !strings.Contains(stdout, "Usage:") || stderr != "" {
			t.Errorf("levee %s: %d %q", strings.Join(args, " "), code, stderr)
		}
	}
}

// What can't be written is an error, not a short answer.
func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range [][]string{{"version"}, {"version", "-o", "json"}, {"check", "--config-only", "-c", exampleFile}} {
		var stderr strings.Builder
		if code := execute(args, full, &stderr); code != 1 || !strings.Contains(stderr.String(), "no space left") {
			t.Errorf("levee %s: %d %q", strings.Join(args, " "), code, stderr.String())
		}
	}
}
