package lab

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Counters reads the kernel's network counters of the namespace, named as nstat names them:
// "TcpExtListenDrops", "TcpActiveOpens", "Ip6InReceives". A name that this kernel doesn't count is
// missing. Negative values, which a few settings among them have, are left out.
func (n *Namespace) Counters() (map[string]uint64, error) {
	all := map[string]uint64{}
	err := n.Do(func() error {
		for _, f := range []struct {
			name  string
			parse func(string, map[string]uint64) error
		}{{"snmp", parseTable}, {"netstat", parseTable}, {"snmp6", parseList}} {
			// /proc/net would be the main thread's.
			text, err := os.ReadFile("/proc/thread-self/net/" + f.name)
			if err != nil {
				return err
			}
			if err := f.parse(string(text), all); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read counters of %s: %w", n.Name, err)
	}
	return all, nil
}

// parseTable reads pairs of lines: "Tcp: A B" names the values of "Tcp: 1 2".
func parseTable(text string, into map[string]uint64) error {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines)%2 != 0 {
		return fmt.Errorf("%d lines, not pairs", len(lines))
	}
	for i := 0; i < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		if len(names) != len(values) || len(names) == 0 || names[0] != values[0] {
			return fmt.Errorf("lines %d and %d don't match", i+1, i+2)
		}
		group := strings.TrimSuffix(names[0], ":")
		for j := 1; j < len(names); j++ {
			if v, err := strconv.ParseUint(values[j], 10, 64); err == nil {
				into[group+names[j]] = v
			}
		}
	}
	return nil
}

// parseList reads lines of a name and a value.
func parseList(text string, into map[string]uint64) error {
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		f := strings.Fields(line)
		if len(f) != 2 {
			return fmt.Errorf("line %d is not a name and a value", i+1)
		}
		if v, err := strconv.ParseUint(f[1], 10, 64); err == nil {
			into[f[0]] = v
		}
	}
	return nil
}
