// Command sbom lists what a Go program is built from, in CycloneDX's format (https://cyclonedx.org/docs/1.5/json/): the modules
// that the program itself names, with the sums that go.sum has of them. Only its own version it is told.
package main

import (
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
)

type bom struct {
	Format       string      `json:"bomFormat"`
	SpecVersion  string      `json:"specVersion"`
	Version      int         `json:"version"`
	Metadata     metadata    `json:"metadata"`
	Components   []component `json:"components"`
	Dependencies []depends   `json:"dependencies"`
}

type metadata struct {
	Component component `json:"component"`
}

type component struct {
	Type    string `json:"type"`
	Ref     string `json:"bom-ref"`
	Name    string `json:"name"`
	Version string `json:"version"`
	URL     string `json:"purl"`
	Hashes  []hash `json:"hashes,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type depends struct {
	Ref string   `json:"ref"`
	On  []string `json:"dependsOn"`
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "sbom: name a program, and its version")
		os.Exit(2)
	}
	info, err := buildinfo.ReadFile(os.Args[1])
	if err == nil {
		err = write(os.Stdout, filepath.Base(os.Args[1]), os.Args[2], info)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func write(w io.Writer, program, version string, info *buildinfo.BuildInfo) error {
	// Go knows no version of what it builds from a working tree.
	main := moduleOf(&debug.Module{Path: info.Main.Path, Version: version})
	main.Type, main.Name = "application", program
	b := bom{Format: "CycloneDX", SpecVersion: "1.5", Version: 1, Metadata: metadata{main}}
	deps := depends{Ref: main.Ref}
	// The toolchain's library is in the program too.
	goVersion := strings.TrimPrefix(info.GoVersion, "go")
	modules := []component{moduleOf(&debug.Module{Path: "std", Version: goVersion})}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		modules = append(modules, moduleOf(m))
	}
	for _, m := range modules {
		b.Components = append(b.Components, m)
		deps.On = append(deps.On, m.Ref)
	}
	b.Dependencies = []depends{deps}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(b)
}

// moduleOf describes a module by its package URL (https://github.com/package-url/purl-spec). A sum of go.sum is a SHA-256 over the module's files in base64.
func moduleOf(m *debug.Module) component {
	version := m.Version
	if version == "" || version == "(devel)" {
		version = "unknown"
	}
	url := "pkg:golang/" + m.Path + "@" + strings.ReplaceAll(version, "+", "%2B")
	c := component{Type: "library", Ref: url, Name: m.Path, Version: version, URL: url}
	if sum, ok := strings.CutPrefix(m.Sum, "h1:"); ok {
		if b, err := base64.StdEncoding.DecodeString(sum); err == nil {
			c.Hashes = []hash{{"SHA-256", hex.EncodeToString(b)}}
		}
	}
	return c
}
