package script

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"levee/stack/stacktest"
)

// packet reads what follows "client >".
func (p *parser) packet(words []string, comes bool) (*pattern, error) {
	out := &pattern{fields: map[string]number{}, conn: 1, after: -1}
	switch words[0] {
	case "icmp":
		out.form, out.flags = formICMP, stacktest.ACK
		if len(words) < 2 || !isICMPKind(words[1]) {
			return nil, errors.New("icmp takes the kind of error")
		}
		out.icmp, words = words[1], words[1:]
	case "rest":
		out.form = formRest
	default:
		flags, ae, err := parseFlags(words[0])
		if err != nil {
			return nil, err
		}
		out.flags, out.ae = flags, ae
	}
	seen := map[string]bool{}
	for _, word := range words[1:] {
		key, value, ok := strings.Cut(word, "=")
		if ok == (key == "land") || ok && value == "" {
			return nil, fmt.Errorf("%q is not key=value", word)
		}
		if seen[key] {
			return nil, fmt.Errorf("%s is there twice", key)
		}
		seen[key] = true
		if err := p.word(out, key, value, comes); err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	return out, out.check(seen, comes)
}

// word reads one word of a packet.
func (p *parser) word(out *pattern, key, value string, comes bool) (err error) {
	if limit, ok := limits[key]; ok {
		if out.fields[key], err = p.parseNumber(value, comes); err != nil {
			return err
		}
		if n := out.fields[key].low; len(n) == 1 && n[0].name == "" && n[0].n > limit {
			return fmt.Errorf("the most is %d", limit)
		}
		return nil
	}
	switch key {
	case "opts", "exact":
		out.exact = key == "exact"
		out.options, err = p.parseOptions(value, comes)
	case "ip":
		out.headers = strings.Split(value, ",")
		for _, h := range out.headers {
			for _, f := range p.script.Families {
				if _, ok := ipHeaders[ipHeader{f, h}]; !ok {
					return fmt.Errorf("there is no %q over %s", h, f)
				}
			}
		}
	case "frag":
		out.fragment, out.more = true, strings.HasSuffix(value, "+")
		var n uint64
		n, err = strconv.ParseUint(strings.TrimSuffix(value, "+"), 10, 16)
		if err == nil && n%8 != 0 {
			err = errors.New("offsets are multiples of 8")
		}
		out.offset = uint16(n)
	case "bad":
		if out.badChecksum = value == "checksum"; !out.badChecksum {
			err = fmt.Errorf("%q can't be", value)
		}
	case "land":
		out.land = true
	case "conn":
		out.conn, err = strconv.Atoi(value)
		if err == nil && (out.conn < 1 || out.conn > maxConn) {
			err = fmt.Errorf("the most is %d", maxConn)
		}
	case "flags":
		if out.form != formICMP {
			return errors.New("they come first")
		}
		out.flags, out.ae, err = parseFlags(value)
	case "after":
		out.after, err = duration(value)
	default:
		return errors.New("there is no such word")
	}
	return err
}

// check says what is missing or too much.
func (p *pattern) check(seen map[string]bool, comes bool) error {
	refuse := func(why string, keys ...string) error {
		for _, k := range keys {
			if seen[k] {
				return fmt.Errorf("%s: %s", k, why)
			}
		}
		return nil
	}
	err := refuse("only one of opts and exact", map[bool][]string{true: {"opts", "exact"}}[seen["opts"] && seen["exact"]]...)
	if comes {
		err = errors.Join(err, refuse("only in what is sent", "land"))
	} else {
		err = errors.Join(err, refuse("only in what is to come", "after"))
	}
	if p.form != formICMP {
		err = errors.Join(err, refuse("only of ICMP errors", "mtu", "quote", "flags"))
	}
	switch {
	case p.form == formICMP:
		err = errors.Join(err, refuse("not of what an error quotes", "ip", "frag", "bad", "land", "dscp", "ecn", "label", "ttl", "exact"))
		if !seen["seq"] {
			err = errors.Join(err, errors.New("seq of the segment that it quotes is missing"))
		}
		for _, n := range p.fields {
			if n.any || n.binds || n.high != nil {
				err = errors.Join(err, errors.New("an error is compared as a whole: numbers only"))
			}
		}
	case p.form == formRest:
		if !p.fragment || p.offset == 0 {
			err = errors.Join(err, errors.New("frag with an offset is missing"))
		}
		for k := range seen {
			if !slices.Contains([]string{"frag", "len", "dscp", "ecn", "ttl", "label", "after"}, k) {
				err = errors.Join(err, fmt.Errorf("%s: a later fragment has none", k))
			}
		}
	case p.fragment && p.offset != 0:
		err = errors.Join(err, errors.New("a later fragment is written: rest"))
	case comes:
		if !seen["seq"] || p.flags&stacktest.ACK != 0 && !seen["ack"] {
			err = errors.Join(err, errors.New("seq and, with A, ack are to be said; * is any"))
		}
	case !seen["seq"]:
		err = errors.Join(err, errors.New("seq is missing"))
	}
	return err
}

// flagLetters are in the order in which flags are written.
var flagLetters = []struct {
	letter byte
	flag   uint8
}{
	{'F', stacktest.FIN}, {'S', stacktest.SYN}, {'R', stacktest.RST}, {'P', stacktest.PSH}, {'A', stacktest.ACK},
	{'U', stacktest.URG}, {'E', stacktest.ECE}, {'C', stacktest.CWR},
}

func parseFlags(s string) (flags uint8, ae bool, err error) {
	if s == "-" {
		return 0, false, nil
	}
letters:
	for i := range len(s) {
		if s[i] == 'N' && !ae {
			ae = true
			continue
		}
		for _, f := range flagLetters {
			if s[i] == f.letter && flags&f.flag == 0 {
				flags |= f.flag
				continue letters
			}
		}
		return 0, false, fmt.Errorf("%q are not flags", s)
	}
	return flags, ae, nil
}

func describeFlags(flags uint8, ae bool) string {
	var s []byte
	for _, f := range flagLetters {
		if flags&f.flag != 0 {
			s = append(s, f.letter)
		}
	}
	if ae {
		s = append(s, 'N')
	}
	if s == nil {
		return "-"
	}
	return string(s)
}
