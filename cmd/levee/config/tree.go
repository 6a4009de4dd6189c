package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
)

// readTree reads the file as one YAML document. The problem, if any, concerns the file as a whole; then the tree has no more than what could be salvaged.
func readTree(path string) (map[string]any, *Problem) {
	data, err := readFile(path)
	if err != nil {
		p := &Problem{Source: path, Text: reason(err) + ": give levee a file that it can read with --config"}
		if errors.Is(err, fs.ErrNotExist) {
			p.Text = "no such file: write one (levee.example.yaml has every key) or name another with --config"
			p.cause = fs.ErrNotExist
		}
		return nil, p
	}
	tree, err := parseTree(data)
	if err != nil {
		tree, known := salvage(data)
		return tree, &Problem{Source: path, Text: yamlText(data, err), stateDir: known}
	}
	return tree, nil
}

// pipeTimeout is how long whoever writes to a pipe, as a shell's <(command) is, may take.
const pipeTimeout = 5 * time.Second

func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe must not hold up whoever asks, least of all a reload
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_ = f.SetReadDeadline(time.Now().Add(pipeTimeout)) // a file has none
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && len(data) == 0 && info.Mode().Type() == fs.ModeNamedPipe {
		return nil, errors.New("a pipe with nothing in it: who writes to it has to come first")
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("longer than %d bytes", maxFileBytes)
	}
	return data, nil
}

// reason is the error without the path, which the message names already.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// errNoSections refuses a list, or a single word.
var errNoSections = errors.New("no section: begin with one, such as \"services:\"")

// parseTree parses a document, or none, of nested sections.
func parseTree(data []byte) (map[string]any, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var document yaml.Node
	if err := dec.Decode(&document); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for _, top := range document.Content {
		if top.Kind != yaml.MappingNode && top.ShortTag() != "!!null" {
			return nil, errNoSections
		}
	}
	var tree map[string]any
	if err := document.Decode(&tree); err != nil {
		return nil, err
	}
	// A second document would be read by nobody: what it says would silently not hold.
	var rest any
	if err := dec.Decode(&rest); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, err
		}
		return nil, errors.New("a second document after ---: put everything into one")
	}
	return tree, nil
}

// yamlText makes one line of an error of the parser, which has one for each duplicate key.
func yamlText(data []byte, err error) string {
	var te *yaml.TypeError
	if errors.As(err, &te) {
		return "not a valid configuration: " + strings.Join(te.Errors, "; ")
	}
	if errors.Is(err, errNoSections) {
		return "not a valid configuration: " + err.Error()
	}
	return faultText(data, err)
}
