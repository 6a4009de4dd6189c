package script

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// parseText parses a script whose steps are the text.
func parseText(t testing.TB, text string) (*Script, error) {
	t.Helper()
	return Parse(fstest.MapFS{
		"a.txt":            {Data: []byte(text)},
		"include/some.txt": {Data: []byte("# a comment of its own\nclient > S seq=1\nclient < SA seq=K ack=2\n")},
		"include/bad.txt":  {Data: []byte("\n# x\nclient > S seq=1\nclient > Z seq=1\n")},
		"include/loop.txt": {Data: []byte("include loop\n")},
	}, "a.txt")
}

func TestParse(t *testing.T) {
	_, err := parseText(t, `
# What it shows,
# on two lines.
config: timestamps=true ecn=false
config: mss=1200
only: IPv6
tolerance: 250ms
mtu: 9000

# A comment that is no summary.
include some
let N = 0x10 + 0   # wrong on purpose
`)
	if err == nil || !strings.Contains(err.Error(), "a.txt:12: let takes") {
		t.Errorf("spaces in a sum: %v", err)
	}
	s, err := parseText(t, `# What it shows,
# on two lines.
config: timestamps=true ecn=false
config: mss=1200
only: IPv6
tolerance: 250ms
mtu: 9000

# A comment that is no summary.
include some
let N = K+0x10-1
client > A seq=2 ack=N opts=sack:N..N+1,opt:9:aabb ip=hop  # trailing
wait 20ms
known IPv6: a fault
nothing both 1s
`)
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "a" || s.Summary != "What it shows, on two lines." {
		t.Errorf("name %q, summary %q", s.Name, s.Summary)
	}
	if got := fmt.Sprint(s.Config, s.Families, s.Known, s.MTU, s.tolerance); got != "[{timestamps true} {ecn false} {mss 1200}] [IPv6] map[IPv6:{a.txt:15 a fault}] 9000 250ms" {
		t.Error(got)
	}
	if len(s.steps) != 6 || s.steps[0].where() != "include/some.txt:2" || s.steps[3].where() != "a.txt:12" {
		t.Errorf("steps: %+v", s.steps)
	}
}

// TestParseRefuses checks that everything that isn't understood is an error with its line.
func TestParseRefuses(t *testing.T) {
	for line, why := range map[string]string{
		"client":                                "after the side",
		"router > S seq=1":                      `"router" means nothing`,
		"client = S seq=1":                      "after the side",
		"client > X seq=1":                      "not flags",
		"client > SS seq=1":                     "not flags",
		"client > ANN seq=1":                    "not flags",
		"client > S":                            "seq is missing",
		"client > S win=1":                      "seq is missing",
		"client > S seq=":                       "not key=value",
		"client > S seq":                        "not key=value",
		"client > S land=1 seq=1":               "not key=value",
		"client > S seq=1 seq=2":                "twice",
		"client > S seq=1 colour=2":             "no such word",
		"client > S seq=*":                      "not a number",
		"client > S seq=1..2":                   "not a number",
		"client > S seq=K":                      "K is not bound",
		"client > S seq=1+":                     "not a number",
		"client > S seq=0x1ffffffff":            "not a number",
		"client > S seq=1 win=65536":            "the most is 65535",
		"client > S seq=1 label=0x100000":       "the most is",
		"client > S seq=1 opts=foo":             "no such option",
		"client > S seq=1 opts=mss":             `option "mss"`,
		"client > S seq=1 opts=mss:1:2":         "takes 1 numbers",
		"client > S seq=1 opts=ts:1":            "takes 2 numbers",
		"client > S seq=1 opts=sack:1":          "A..B",
		"client > S seq=1 opts=opt:256:":        "out of range",
		"client > S seq=1 opts=opt:7:0":         "odd length",
		"client > S seq=1 opts=md5,md5,md5":     "more than 40 bytes",
		"client > S seq=1 opts=none exact=none": "only one of",
		"client > S seq=1 ip=mystery":           "over IPv4",
		"client > S seq=1 ip=hop":               "over IPv4",
		"client > S seq=1 frag=7+":              "multiples of 8",
		"client > S seq=1 frag=8":               "is written: rest",
		"client > S seq=1 bad=luck":             "can't be",
		"client > S seq=1 conn=5":               "the most is 4",
		"client > S seq=1 after=1s":             "only in what is to come",
		"client > S seq=1 mtu=5":                "only of ICMP errors",
		"client > S seq=1 flags=A":              "they come first",
		"client < S win=1":                      "seq and",
		"client < SA seq=1":                     "seq and",
		"client < S seq=1 land":                 "only in what is sent",
		"client < S seq=1 after=soon":           "not a duration",
		"client < S seq=1 opts=eol":             "up to there",
		"client > icmp seq=1":                   "the kind of error",
		"client > icmp port":                    "seq of the segment",
		"client > icmp port seq=1 dscp=3":       "not of what an error quotes",
		"client < icmp port seq=*":              "numbers only",
		"client > rest len=8":                   "frag with an offset",
		"client > rest frag=8 seq=1":            "a later fragment has none",
		"wait":                                  "takes a duration",
		"wait -1s":                              "not a duration",
		"wait 2h":                               "not a duration",
		"nothing client":                        "a side and a duration",
		"nothing everywhere 1s":                 "means nothing",
		"let K = ":                              "let takes",
		"let 2 = 3":                             "let takes",
		"include":                               "the name of a file",
		"include ../../etc/passwd":              "the name of a file",
		"include nowhere":                       "include/nowhere.txt",
		"include loop":                          "too deep",
		"include bad":                           "include/bad.txt:4:",
		"only: IPv4":                            "the head ends",
		"client < S seq=K\nlet K = 1":           "new name",
		"known:":                                "why?",
		"known: a\nknown: b":                    "before the step that fails",
		"known: a\nwait 1s":                     "a step that can fail",
		"known IPX: a":                          "neither IPv4 nor IPv6",
		"known: a\nnothing both 1s\nknown: b":   "ends where it fails first",
	} {
		_, err := parseText(t, "# Summary.\nclient > S seq=1\n"+line+"\n")
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %q", line, err, why)
			continue
		}
		if n := strings.Count(line, "\n") + 3; !strings.Contains(err.Error(), fmt.Sprintf("a.txt:%d: ", n)) && !strings.Contains(err.Error(), "include/") {
			t.Errorf("%q: the line is missing: %v", line, err)
		}
	}
	for text, why := range map[string]string{
		"":                         "a script has a comment",
		"client > S seq=1":         "a script has a comment",
		"# Only a comment.":        "a script has a comment",
		"# S.\ncolour: red\n":      `"colour:" means nothing`,
		"# S.\nconfig: a\n":        "not key=value",
		"# S.\nconfig:\n":          "what is it?",
		"# S.\nonly: IPX\n":        "neither IPv4 nor IPv6",
		"# S.\ntolerance: never\n": "not a duration",
		"# S.\nonly: IPv4\nclient > S seq=1 ip=hop": "over IPv4",
	} {
		if _, err := parseText(t, text); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %q", text, err, why)
		}
	}
}

// TestScriptsParse checks the ones that the integration tests run, without root.
func TestScriptsParse(t *testing.T) {
	list, err := Load(os.DirFS("../testdata/scripts"))
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 100 {
		t.Errorf("only %d scripts", len(list))
	}
}

func TestLoadTellsAllErrors(t *testing.T) {
	_, err := Load(fstest.MapFS{
		"a.txt": {Data: []byte("# A.\nclient > X seq=1\n")}, "b.txt": {Data: []byte("# B.\nclient > Y seq=1\n")}, "c.md": {},
	})
	if err == nil || !strings.Contains(err.Error(), "a.txt:2") || !strings.Contains(err.Error(), "b.txt:2") {
		t.Error(err)
	}
}
