package script

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"levee/stack/stacktest"
)

// The kinds of TCP options that have a name in scripts (IANA, TCP Option Kind Numbers).
const (
	kindEOL           = 0
	kindNOP           = 1
	kindMSS           = 2
	kindWScale        = 3
	kindSACKPermitted = 4
	kindSACK          = 5
	kindTimestamps    = 8
	kindMD5           = 19
	kindAO            = 29
	kindMPTCP         = 30
	kindTFO           = 34
	kindAccECN        = 174
)

// signature stands for what a signature or key would be: nobody checks it.
var signature = []byte("0123456789abcdef")

// fixedOptions are those that are always the same.
var fixedOptions = map[string]option{
	"nop": {kind: kindNOP},
	"eol": {kind: kindEOL},
	"md5": {kind: kindMD5, raw: signature},
	"ao":  {kind: kindAO, raw: append([]byte{1, 1}, signature[:12]...)},
	// Subtype and version, flags, sender's key (RFC 8684 §3.1).
	"mp_capable": {kind: kindMPTCP, raw: append([]byte{0x01, 0x81}, signature[:8]...)},
	// Subtype and backup bit, address identifier, token, nonce (RFC 8684 §3.2).
	"mp_join": {kind: kindMPTCP, raw: append([]byte{0x10, 1}, signature[:8]...)},
	// Three counters of 24 bits (RFC 9768 §3.2.3).
	"accecn": {kind: kindAccECN, raw: []byte{0, 0, 1, 0, 0, 2, 0, 0, 3}},
	"tfo":    {kind: kindTFO},
}

// option is a TCP option with what a step says about its numbers, or raw bytes.
type option struct {
	kind   uint8
	fields []optionField
	raw    []byte
}

type optionField struct {
	// width in bytes: 1, 2 or 4.
	width int
	number
}

// parseOptions reads a list of options.
func (p *parser) parseOptions(s string, comes bool) ([]option, error) {
	if s == "none" {
		return []option{}, nil
	}
	var list []option
	for _, word := range strings.Split(s, ",") {
		o, err := p.parseOption(word, comes)
		if err != nil {
			return nil, fmt.Errorf("option %q: %w", word, err)
		}
		list = append(list, o)
	}
	if !comes && len(encodeOptions(list, nil)) > maxOptions {
		return nil, fmt.Errorf("more than %d bytes of options", maxOptions)
	}
	return list, nil
}

// maxOptions is the most bytes of options that a TCP header has room for.
const maxOptions = 40

func (p *parser) parseOption(word string, comes bool) (option, error) {
	name, rest, more := strings.Cut(word, ":")
	if name == "eol" && comes {
		return option{}, errors.New("what comes is compared up to there")
	}
	if fixed, ok := fixedOptions[name]; ok && !more {
		return fixed, nil
	}
	args := strings.Split(rest, ":")
	fields := func(kind uint8, widths ...int) (option, error) {
		o := option{kind: kind}
		if len(args) != len(widths) {
			return o, fmt.Errorf("it takes %d numbers", len(widths))
		}
		for i, width := range widths {
			n, err := p.parseNumber(args[i], comes)
			if err != nil {
				return o, err
			}
			o.fields = append(o.fields, optionField{width, n})
		}
		return o, nil
	}
	switch name {
	case "mss":
		return fields(kindMSS, 2)
	case "ws":
		return fields(kindWScale, 1)
	case "ts":
		return fields(kindTimestamps, 4, 4)
	case "sack":
		if !more {
			return option{kind: kindSACKPermitted}, nil
		}
		var edges []string
		for _, block := range args {
			from, to, ok := strings.Cut(block, "..")
			if !ok {
				return option{}, errors.New("a block is A..B")
			}
			edges = append(edges, from, to)
		}
		args = edges
		return fields(kindSACK, slices.Repeat([]int{4}, len(edges))...)
	case "tfo":
		raw, err := hex.DecodeString(rest)
		return option{kind: kindTFO, raw: raw}, err
	case "opt":
		if len(args) != 2 {
			return option{}, errors.New("it takes a kind and bytes in hexadecimal, which may be none")
		}
		kind, err := strconv.ParseUint(args[0], 10, 8)
		if err != nil {
			return option{}, err
		}
		raw, err := hex.DecodeString(args[1])
		return option{kind: uint8(kind), raw: raw}, err
	}
	return option{}, errors.New("there is no such option")
}

// encodeOptions writes the options one after the other, without padding.
func encodeOptions(list []option, env names) []byte {
	var b []byte
	for _, o := range list {
		b = append(b, o.kind)
		if o.kind == kindNOP || o.kind == kindEOL {
			continue
		}
		data := slices.Clone(o.raw)
		for _, f := range o.fields {
			v := binary.BigEndian.AppendUint32(nil, f.low.in(env))
			data = append(data, v[4-f.width:]...)
		}
		b = append(append(b, byte(2+len(data))), data...)
	}
	return b
}

// matches compares with an option that came.
func (o *option) matches(got stacktest.Option, env names) bool {
	if o.kind != got.Kind {
		return false
	}
	if o.fields == nil {
		return slices.Equal(o.raw, got.Data)
	}
	width := 0
	for _, f := range o.fields {
		width += f.width
	}
	if len(got.Data) != width {
		return false
	}
	rest := got.Data
	for _, f := range o.fields {
		v := uint32(0)
		for _, c := range rest[:f.width] {
			v = v<<8 | uint32(c)
		}
		if rest = rest[f.width:]; !f.matches(v, env) {
			return false
		}
	}
	return true
}

// matchOptions compares a list with what came: as it is if exact, otherwise in any order and without NOP.
func matchOptions(list []option, exact bool, got []stacktest.Option, env names) bool {
	if !exact {
		got = slices.DeleteFunc(slices.Clone(got), func(o stacktest.Option) bool { return o.Kind == kindNOP })
	}
	if len(list) != len(got) {
		return false
	}
	for i := range list {
		at := 0
		if !exact {
			at = slices.IndexFunc(got, func(o stacktest.Option) bool { return list[i].matches(o, env) })
		} else if !list[i].matches(got[0], env) {
			at = -1
		}
		if at < 0 {
			return false
		}
		got = slices.Delete(slices.Clone(got), at, at+1)
	}
	return true
}

// describeOptions writes options as scripts do.
func describeOptions(list []stacktest.Option, env names) string {
	var words []string
	for _, o := range list {
		words = append(words, describeOption(o, env))
	}
	if words == nil {
		return "none"
	}
	return strings.Join(words, ",")
}

func describeOption(o stacktest.Option, env names) string {
	n32 := func(at int) string { return env.express(binary.BigEndian.Uint32(o.Data[at:])) }
	switch {
	case o.Kind == kindMSS && len(o.Data) == 2:
		return fmt.Sprintf("mss:%d", binary.BigEndian.Uint16(o.Data))
	case o.Kind == kindWScale && len(o.Data) == 1:
		return fmt.Sprintf("ws:%d", o.Data[0])
	case o.Kind == kindSACKPermitted && len(o.Data) == 0:
		return "sack"
	case o.Kind == kindTimestamps && len(o.Data) == 8:
		return "ts:" + n32(0) + ":" + n32(4)
	case o.Kind == kindSACK && len(o.Data) > 0 && len(o.Data)%8 == 0:
		s := "sack"
		for at := 0; at < len(o.Data); at += 8 {
			s += ":" + n32(at) + ".." + n32(at+4)
		}
		return s
	}
	for name, fixed := range fixedOptions {
		if o.Kind == fixed.kind && slices.Equal(o.Data, fixed.raw) {
			return name
		}
	}
	return fmt.Sprintf("opt:%d:%x", o.Kind, o.Data)
}
