package integration

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestImports pins the direction of imports (DESIGN §3): who may import which of our packages, and who may import
// the libraries that touch the world.
func TestImports(t *testing.T) {
	// Of our own packages, these may be imported, themselves and what lies inside them apart.
	own := map[string][]string{
		"levee/stack":              {},
		"levee/proxy":              {"levee/stack"},
		"levee/tunnel":             {"levee/stack"},
		"levee/routes":             {},
		"levee/integration/lab":    {"levee/stack", "levee/routes/routestest"},
		"levee/integration/script": {"levee/stack/stacktest", "levee/integration/lab"},
		"levee/cmd/levee":          {"levee/stack", "levee/proxy", "levee/tunnel", "levee/routes"},
		"levee/cmd/levee-lab":      {"levee/integration/lab"},
	}
	// These libraries, with what lies inside them, only in these rooms (tests apart).
	only := map[string][]string{
		"github.com/spf13/viper":                    {"levee/cmd/levee/config"},
		"github.com/prometheus/client_golang":       {"levee/cmd/levee/metrics"},
		"github.com/vishvananda/netlink":            {"levee/routes", "levee/tunnel", "levee/integration"},
		"github.com/google/nftables":                {"levee/routes", "levee/integration"},
		"golang.zx2c4.com/wireguard":                {"levee/tunnel"},
		"github.com/cilium/ebpf":                    {"levee/tunnel"},
		"github.com/dchest/siphash":                 {"levee/proxy", "levee/proxy/cookie"},
		"gvisor.dev/gvisor/pkg/tcpip/stack":         {"levee/proxy/proxytest"},
		"gvisor.dev/gvisor/pkg/tcpip/transport/tcp": {"levee/proxy/proxytest"},
	}
	// The byte logic and the proxy do no I/O: these standard packages stay out of them.
	never := map[string][]string{
		"levee/stack": {"net", "os", "log/slog", "time", "golang.org/x/sys/unix", "net/http"},
		"levee/proxy": {"net", "log/slog", "golang.org/x/sys/unix", "net/http"},
	}

	inside := func(path, room string) bool { return path == room || strings.HasPrefix(path, room+"/") }
	roomOf := func(path string) string {
		best := ""
		for room := range own {
			if inside(path, room) && len(room) > len(best) {
				best = room
			}
		}
		return best
	}
	for _, p := range packages(t) {
		room := roomOf(p.ImportPath)
		if room == "" && p.ImportPath != "levee/integration" {
			t.Errorf("%s is in no room of DESIGN §3", p.ImportPath)
		}
		for _, imported := range p.Imports {
			if strings.HasPrefix(imported, "levee/") && !inside(imported, room) {
				allowed := false
				for _, other := range own[room] {
					allowed = allowed || inside(imported, other)
				}
				if !allowed {
					t.Errorf("%s must not import %s", p.ImportPath, imported)
				}
			}
			for library, rooms := range only {
				if !inside(imported, library) {
					continue
				}
				allowed := false
				for _, r := range rooms {
					allowed = allowed || inside(p.ImportPath, r) || strings.HasSuffix(p.ImportPath, "test")
				}
				if !allowed {
					t.Errorf("%s must not import %s: only %v may", p.ImportPath, imported, rooms)
				}
			}
			for room, banned := range never {
				if p.ImportPath != room {
					continue
				}
				for _, b := range banned {
					if imported == b {
						t.Errorf("%s must not import %s", p.ImportPath, b)
					}
				}
			}
		}
	}
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Dir, Name  string
	GoFiles    []string
}

// packages lists ours, without their tests.
func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Dir,Name,GoFiles", "levee/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

// TestPackageComments checks that every package says what it is once, in doc.go, and a program in doc.go or main.go.
func TestPackageComments(t *testing.T) {
	for _, p := range packages(t) {
		var in []string
		for _, name := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if file.Doc != nil {
				in = append(in, name)
			}
		}
		if len(p.GoFiles) > 0 && (len(in) != 1 || in[0] != "doc.go" && (p.Name != "main" || in[0] != "main.go")) {
			t.Errorf("%s has its package comment in %v", p.ImportPath, in)
		}
	}
}
