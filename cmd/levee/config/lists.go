package config

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"levee/proxy"
)

// Bounds of a list of sources: of all its files and lines together, and of one line.
const (
	MaxListed    = 1 << 20
	maxListLine  = 256 // bytes, comment included
	maxListBytes = 64 << 20
	listFileMark = "@"
)

// byteOrderMark is what some editors begin a file with.
const byteOrderMark = "\ufeff"

// sources reads a list of prefixes and addresses. An element such as @/etc/levee/deny.txt stands for a file of them, one on a line.
func (c checker) sources(key string, list words) []netip.Prefix {
	var all []netip.Prefix
	for i, t := range list {
		at := index(key, i)
		path, isFile := strings.CutPrefix(string(t), listFileMark)
		if !isFile {
			p, err := parseSource(string(t))
			if err != nil {
				c.report(at, "%s %v", shown(t), err)
				continue
			}
			all = append(all, p)
			continue
		}
		if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
			c.report(at, "%s is not a file: write @ and an absolute path, such as @/etc/levee/deny.txt", shown(t))
			continue
		}
		more, err := readSources(path)
		if err != nil {
			c.report(at, "%v", err)
			continue
		}
		all = append(all, more...)
	}
	if len(all) > MaxListed {
		c.report(key, "%d prefixes are too many: at most %d", len(all), MaxListed)
		return nil
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}

// readSources reads a file with one prefix or address on a line; what follows a # doesn't count. The error names file and line.
func readSources(path string) ([]netip.Prefix, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe must not hold up the start
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, fmt.Errorf("%s: %v: make it readable, or take it off the list", path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file: write the prefixes into one", path)
	}
	if info.Size() > maxListBytes {
		return nil, fmt.Errorf("%s: longer than %d bytes: leave comments out", path, maxListBytes)
	}
	// Nobody reads the TUN while the next program after an upgrade reads its lists: that long every connection waits.
	const usualLine = 20 // bytes
	all := make([]netip.Prefix, 0, min(int(info.Size())/usualLine, MaxListed))
	lines := bufio.NewScanner(bufio.NewReaderSize(io.LimitReader(f, maxListBytes), 64<<10))
	lines.Buffer(make([]byte, maxListLine), maxListLine)
	for n := 1; lines.Scan(); n++ {
		word, _, _ := strings.Cut(lines.Text(), "#")
		if n == 1 {
			word = strings.TrimPrefix(word, byteOrderMark)
		}
		if word = strings.TrimSpace(word); word == "" {
			continue
		}
		p, err := parseSource(word)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %s %v", path, n, shown(text(word)), err)
		}
		if all = append(all, p); len(all) > MaxListed {
			return nil, fmt.Errorf("%s:%d: too many prefixes: at most %d", path, n, MaxListed)
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("%s: a line is longer than %d bytes: write one prefix on each", path, maxListLine)
	} else if err != nil {
		return nil, fmt.Errorf("%s: %v", path, err)
	}
	return all, nil
}

// parseSource parses a prefix of sources, or an address, which is a prefix of its own.
func parseSource(s string) (netip.Prefix, error) {
	parse := netip.ParsePrefix
	if !strings.Contains(s, "/") { // an error for each address of a long list would cost more than all else
		parse = parseHost
	}
	p, err := parse(s)
	switch {
	case err != nil:
		return p, errors.New("is neither a prefix nor an address: write it like 203.0.113.0/24, 2001:db8:5::/48 or 203.0.113.7")
	case p.Addr().Is4In6():
		return p, errors.New("is IPv4 written as IPv6: write it as IPv4")
	case p != p.Masked():
		return p, fmt.Errorf("has bits set behind its length: %v is meant, or %v for this one address", p.Masked(), p.Addr())
	}
	return p, nil
}

// parseHost parses an address.
func parseHost(s string) (netip.Prefix, error) {
	a, err := netip.ParseAddr(s)
	if err == nil && a.Zone() != "" {
		err = errors.New("zone")
	}
	return netip.PrefixFrom(a, a.BitLen()), err
}

// compareLists finds a prefix that is on both lists of a service.
func (c checker) compareLists(key string, s *proxy.Service) {
	for _, p := range s.Deny { // both are sorted
		if _, both := slices.BinarySearchFunc(s.Allow, p, netip.Prefix.Compare); both {
			c.report(join(key, "deny"), "%v is also on the list allow: take it off one", p)
			return
		}
	}
}
