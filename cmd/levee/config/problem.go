package config

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	// Source is the file, or the environment variable that overrides it.
	Source string `json:"source"`
	// Key is the path of the key, such as services[1].ports[0]; empty when the file as a whole is meant.
	Key string `json:"key"`
	// Text says what is wrong, with the value, and what to write instead.
	Text string `json:"text"`
	// cause is what opening the file returned, if that was the problem.
	cause error
	// stateDir says that it is known what the file says of state_dir, although the file as a whole is no YAML.
	stateDir bool
}

// Error is one line: source, key and text.
func (p Problem) Error() string {
	if p.Key == "" {
		return p.Source + ": " + p.Text
	}
	return p.Source + ": " + p.Key + ": " + p.Text
}

// Problems is everything that is wrong, in the order of the keys, at least one.
type Problems []Problem

// Error is one line: the first problem, and how many more there are.
func (ps Problems) Error() string {
	if len(ps) == 1 {
		return ps[0].Error()
	}
	return fmt.Sprintf("%v (and %d more: see levee check)", ps[0], len(ps)-1)
}

// Is lets errors.Is(err, fs.ErrNotExist) tell a missing file from a broken one.
func (ps Problems) Is(target error) bool {
	return target == fs.ErrNotExist && len(ps) == 1 && ps[0].cause == fs.ErrNotExist
}

// LostStateDir says whether the value of state_dir is among what is wrong, so that the Config has the default instead of what was meant.
func (ps Problems) LostStateDir() bool {
	whole := slices.ContainsFunc(ps, func(p Problem) bool { return p.Key == "" && !p.stateDir })
	return whole || ps.concern("state_dir")
}

// concern says whether a problem is with key or with what lies in it.
func (ps Problems) concern(key string) bool {
	for _, p := range ps {
		if rest, ok := strings.CutPrefix(p.Key, key); ok && (rest == "" || rest[0] == '[' || rest[0] == '.') {
			return true
		}
	}
	return false
}
