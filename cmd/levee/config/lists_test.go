package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// listFile writes a list, and returns a configuration that denies it.
func listFile(t *testing.T, text string) (path, configuration string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "deny.txt")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, service("deny: [198.51.100.7, '@" + path + "']")
}

func TestListFile(t *testing.T) {
	_, text := listFile(t, "\ufeff# from the abuse desk\n203.0.113.0/24 # all of it\n\n  2001:db8:5::/48\r\n198.51.100.7\n203.0.113.0/24\n203.0.113.9")
	got := load(t, text).Services[0].Deny
	var want []netip.Prefix
	for _, p := range []string{"198.51.100.7/32", "203.0.113.0/24", "203.0.113.9/32", "2001:db8:5::/48"} {
		want = append(want, netip.MustParsePrefix(p))
	}
	if diff := cmp.Diff(want, got, compare); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Every fault of a list names the file and, where there is one, the line.
func TestBrokenListFile(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"host name", "203.0.113.0/24\n\nexample.com\n", `LIST:3: "example.com" is neither a prefix nor an address: write it like 203.0.113.0/24, 2001:db8:5::/48 or 203.0.113.7`},
		{"two on a line", "203.0.113.0/24, 203.0.114.0/24\n", `LIST:1: "203.0.113.0/24, 203.0.114.0/24" is neither a prefix nor an address: write it like 203.0.113.0/24, 2001:db8:5::/48 or 203.0.113.7`},
		{"bits behind the length", "203.0.113.1/24\n", `LIST:1: "203.0.113.1/24" has bits set behind its length: 203.0.113.0/24 is meant, or 203.0.113.1 for this one address`},
		{"zone", "fe80::1%eth0\n", `LIST:1: "fe80::1%eth0" is neither a prefix nor an address: write it like 203.0.113.0/24, 2001:db8:5::/48 or 203.0.113.7`},
		{"IPv4 as IPv6", "::ffff:203.0.113.7\n", `LIST:1: "::ffff:203.0.113.7" is IPv4 written as IPv6: write it as IPv4`},
		{"IPv4 prefix as IPv6", "::ffff:203.0.113.0/120\n", `LIST:1: "::ffff:203.0.113.0/120" is IPv4 written as IPv6: write it as IPv4`},
		{"too long", strings.Repeat(strings.Repeat("#", 63)+"\n", maxListBytes/64) + "203.0.113.0/24", `LIST: longer than 67108864 bytes: leave comments out`},
		{"no end of line", strings.Repeat("1", maxListLine+1), `LIST: a line is longer than 256 bytes: write one prefix on each`},
		{"too many", strings.Repeat("::\n", MaxListed+1), `LIST:1048577: too many prefixes: at most 1048576`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path, text := listFile(t, tt.text)
			file := filepath.Join(t.TempDir(), "levee.yaml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(file)
			want := file + ": services[0].deny[1]: " + strings.Replace(tt.want, "LIST", path, 1)
			if err == nil || err.Error() != want {
				t.Errorf("got\n%v\nwant\n%s", err, want)
			}
		})
	}
}
