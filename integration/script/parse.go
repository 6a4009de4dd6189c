package script

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"
)

// defaultTolerance is how far "after" may be off: levee looks after its time-outs four times a second, and a busy machine adds
// to that. It still tells the steps of a back-off apart.
const defaultTolerance = 700 * time.Millisecond

// defaultMTU is Ethernet's.
const defaultMTU = 1500

// maxDuration bounds waits: a script takes no longer than its author meant.
const maxDuration = time.Minute

// maxConn is how many connections a script may have.
const maxConn = 4

// parser reads one script with what it includes.
type parser struct {
	files  fs.FS
	script *Script
	// bound are the names that have a number at the line in work.
	bound map[string]bool
	// depth of includes.
	depth int
	// fault is that of the next step, over the families faulty.
	fault  *Fault
	faulty []Family
}

// Load reads all scripts of a folder, files that end in ".txt", in the order of their names.
func Load(files fs.FS) ([]*Script, error) {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return nil, fmt.Errorf("list scripts: %w", err)
	}
	var list []*Script
	var all error
	for _, e := range entries {
		if e.IsDir() || path.Ext(e.Name()) != ".txt" {
			continue
		}
		s, err := Parse(files, e.Name())
		all = errors.Join(all, err)
		list = append(list, s)
	}
	return list, all
}

// Parse reads one script and what it includes. The error names the file and line.
func Parse(files fs.FS, file string) (*Script, error) {
	p := &parser{
		files: files, bound: map[string]bool{},
		script: &Script{
			Name: strings.TrimSuffix(file, ".txt"), Families: Families, Known: map[Family]Fault{},
			MTU: defaultMTU, tolerance: defaultTolerance,
		},
	}
	if err := p.file(file); err != nil {
		return nil, err
	}
	if p.fault != nil {
		return nil, fmt.Errorf("%s: known stands before the step that fails", file)
	}
	if p.script.Summary == "" || len(p.script.steps) == 0 {
		return nil, fmt.Errorf("%s: a script has a comment that says what it shows, and steps", file)
	}
	return p.script, nil
}

func (p *parser) file(file string) error {
	text, err := fs.ReadFile(p.files, file)
	if err != nil {
		return fmt.Errorf("read script: %w", err)
	}
	inSummary := p.script.Summary == "" && p.depth == 0
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if comment, ok := strings.CutPrefix(line, "#"); ok && inSummary {
			p.script.Summary = strings.TrimSpace(p.script.Summary + " " + strings.TrimSpace(comment))
			continue
		}
		// Comments may follow a step, too.
		text, _, _ := strings.Cut(line, "#")
		if text = strings.TrimSpace(text); text == "" {
			inSummary = inSummary && p.script.Summary == ""
			continue
		}
		inSummary = false
		if err := p.line(file, i+1, text); err != nil {
			var inner *lineError
			if errors.As(err, &inner) {
				return err // of an included file
			}
			return &lineError{fmt.Errorf("%s:%d: %w: %s", file, i+1, err, text)}
		}
	}
	return nil
}

// lineError already says where.
type lineError struct{ error }

func (e *lineError) Unwrap() error { return e.error }

func (p *parser) line(file string, number int, text string) error {
	words := strings.Fields(text)
	if words[0] == "known:" || words[0] == "known" {
		return p.known(text)
	}
	if strings.HasSuffix(words[0], ":") {
		return p.head(text)
	}
	s := step{file: file, line: number, text: strings.Join(words, " ")}
	switch words[0] {
	case "include":
		return p.include(words[1:])
	case "wait":
		s.kind = stepWait
		if len(words) != 2 {
			return errors.New("wait takes a duration")
		}
		d, err := duration(words[1])
		if err != nil {
			return err
		}
		s.duration = d
	case "nothing":
		s.kind = stepNothing
		if len(words) != 3 {
			return errors.New("nothing takes a side and a duration")
		}
		sides, err := parseSides(words[1], true)
		if err != nil {
			return err
		}
		d, err := duration(words[2])
		if err != nil {
			return err
		}
		s.sides, s.duration = sides, d
	case "let":
		s.kind = stepLet
		if len(words) != 4 || words[2] != "=" || !isName(words[1]) || p.bound[words[1]] {
			return errors.New("let takes a new name, = and a number")
		}
		value, err := p.parseSum(words[3])
		if err != nil {
			return err
		}
		s.name, s.value = words[1], value
		p.bound[s.name] = true
	default:
		sides, err := parseSides(words[0], false)
		if err != nil {
			return err
		}
		if len(words) < 3 || words[1] != "<" && words[1] != ">" {
			return errors.New("after the side comes > or <, and what")
		}
		s.sides = sides
		if words[1] == "<" {
			s.kind = stepExpect
		}
		if s.packet, err = p.packet(words[2:], s.kind == stepExpect); err != nil {
			return err
		}
	}
	if p.fault != nil {
		if s.kind != stepExpect && s.kind != stepNothing {
			return errors.New("known stands before a step that can fail")
		}
		p.fault.Where = s.where()
		for _, f := range p.faulty {
			p.script.Known[f] = *p.fault
		}
		p.fault = nil
	}
	p.script.steps = append(p.script.steps, s)
	return nil
}

// known reads that the next step must fail, and over which family.
func (p *parser) known(text string) error {
	key, reason, _ := strings.Cut(text, ":")
	reason = strings.TrimSpace(reason)
	p.faulty = p.script.Families
	if name := strings.TrimSpace(strings.TrimPrefix(key, "known")); name != "" {
		f, err := parseFamily(name)
		if err != nil {
			return err
		}
		p.faulty = []Family{f}
	}
	switch {
	case reason == "":
		return errors.New("why?")
	case p.fault != nil:
		return errors.New("known stands before the step that fails")
	}
	for _, f := range p.faulty {
		if _, twice := p.script.Known[f]; twice {
			return errors.New("a script ends where it fails first")
		}
	}
	p.fault = &Fault{Reason: reason}
	return nil
}

func (p *parser) include(names []string) error {
	if len(names) != 1 || !isName(strings.ReplaceAll(names[0], "-", "")) {
		return errors.New("include takes the name of a file")
	}
	if p.depth == 4 {
		return errors.New("includes too deep")
	}
	p.depth++
	defer func() { p.depth-- }()
	return p.file("include/" + names[0] + ".txt")
}

func (p *parser) head(text string) error {
	if len(p.script.steps) > 0 {
		return errors.New("the head ends where the steps begin")
	}
	key, value, _ := strings.Cut(text, ":")
	if value = strings.TrimSpace(value); value == "" {
		return errors.New("what is it?")
	}
	switch key {
	case "config":
		for _, word := range strings.Fields(value) {
			k, v, ok := strings.Cut(word, "=")
			if !ok || k == "" || v == "" {
				return fmt.Errorf("%q is not key=value", word)
			}
			p.script.Config = append(p.script.Config, Setting{k, v})
		}
	case "only":
		f, err := parseFamily(value)
		if err != nil {
			return err
		}
		p.script.Families = []Family{f}
	case "tolerance":
		d, err := duration(value)
		if err != nil {
			return err
		}
		p.script.tolerance = d
	case "mtu":
		n, err := strconv.Atoi(value)
		if err != nil || n < 1280 || n > 9000 {
			return errors.New("it takes 1280 to 9000 bytes")
		}
		p.script.MTU = n
	default:
		return fmt.Errorf("%q means nothing here", key+":")
	}
	return nil
}

func parseFamily(s string) (Family, error) {
	for _, f := range Families {
		if s == f.String() {
			return f, nil
		}
	}
	return 0, fmt.Errorf("%q is neither IPv4 nor IPv6", s)
}

func parseSides(s string, both bool) ([]Side, error) {
	switch {
	case s == "client":
		return []Side{Client}, nil
	case s == "server":
		return []Side{Server}, nil
	case s == "both" && both:
		return []Side{Client, Server}, nil
	}
	return nil, fmt.Errorf("%q means nothing here", s)
}

func duration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 || d > maxDuration {
		return 0, fmt.Errorf("%q is not a duration of up to %s", s, maxDuration)
	}
	return d, nil
}
