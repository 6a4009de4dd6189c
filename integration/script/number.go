package script

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// names are the numbers that a run of a script has named so far.
type names map[string]uint32

// term is a number or a name, added or taken away.
type term struct {
	minus bool
	name  string
	n     uint32
}

// sum is a sum of terms, modulo 2^32.
type sum []term

// number is what a step says about a field.
type number struct {
	any bool
	// low is the number itself unless there is a high, which makes it a range.
	low, high sum
	// binds says that low is a name that takes the number that comes.
	binds bool
}

// parseSum reads a sum whose names are bound.
func (p *parser) parseSum(s string) (sum, error) {
	var out sum
	for rest := s; ; {
		t := term{}
		if len(out) > 0 {
			t.minus, rest = rest[0] == '-', rest[1:]
		}
		word := rest
		if i := strings.IndexAny(rest, "+-"); i >= 0 {
			word = rest[:i]
		}
		rest = rest[len(word):]
		switch {
		case word == "":
			return nil, fmt.Errorf("%q is not a number", s)
		case isName(word):
			if !p.bound[word] {
				return nil, fmt.Errorf("%s is not bound here", word)
			}
			t.name = word
		default:
			n, err := strconv.ParseUint(word, 0, 32)
			if err != nil {
				return nil, fmt.Errorf("%q is not a number", s)
			}
			t.n = uint32(n)
		}
		if out = append(out, t); rest == "" {
			return out, nil
		}
	}
}

// parseNumber reads a number of a packet to send, or if it comes also "*", ranges and names to bind.
func (p *parser) parseNumber(s string, comes bool) (number, error) {
	if !comes {
		low, err := p.parseSum(s)
		return number{low: low}, err
	}
	if s == "*" {
		return number{any: true}, nil
	}
	if isName(s) && !p.bound[s] {
		p.bound[s] = true
		return number{low: sum{{name: s}}, binds: true}, nil
	}
	first, last, isRange := strings.Cut(s, "..")
	low, err := p.parseSum(first)
	if err != nil || !isRange {
		return number{low: low}, err
	}
	high, err := p.parseSum(last)
	return number{low: low, high: high}, err
}

func isName(s string) bool {
	for i, c := range s {
		letter := c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

func exactly(n uint32) number { return number{low: sum{{n: n}}} }

// in is the value of the sum. The parser has seen to it that the names are bound.
func (s sum) in(env names) (n uint32) {
	for _, t := range s {
		v := t.n
		if t.name != "" {
			v = env[t.name]
		}
		if t.minus {
			v = -v
		}
		n += v
	}
	return n
}

// matches compares with what came, and binds the name that is to be bound.
func (n number) matches(got uint32, env names) bool {
	switch {
	case n.any:
		return true
	case n.binds:
		env[n.low[0].name] = got
		return true
	case n.high != nil:
		low := n.low.in(env)
		return got-low <= n.high.in(env)-low
	}
	return got == n.low.in(env)
}

// near is how far from a named number a number is still written as a sum with it.
const near = 70_000

// express writes a number as the scripts do: what is near a named number as a sum with it, if that number isn't small, that is
// probably chosen by the proxy.
func (env names) express(n uint32) string {
	best, distance := "", int64(near)
	keys := make([]string, 0, len(env))
	for name := range env {
		keys = append(keys, name)
	}
	slices.Sort(keys)
	for _, name := range keys {
		d := int64(int32(n - env[name]))
		if env[name] >= near && max(d, -d) < max(distance, -distance) {
			best, distance = name, d
		}
	}
	switch {
	case best == "" || n < near:
		return strconv.FormatUint(uint64(n), 10)
	case distance == 0:
		return best
	}
	return fmt.Sprintf("%s%+d", best, distance)
}
