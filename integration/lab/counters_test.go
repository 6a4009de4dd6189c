package lab

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseTable(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       map[string]uint64
	}{
		{"two groups", "Ip: A B\nIp: 1 2\nTcp: MaxConn C\nTcp: -1 18446744073709551615\n",
			map[string]uint64{"IpA": 1, "IpB": 2, "TcpC": 1<<64 - 1}},
		{"odd lines", "Ip: A\nIp: 1\nTcp: B\n", nil},
		{"other group", "Ip: A\nTcp: 1\n", nil},
		{"too few values", "Ip: A B\nIp: 1\n", nil},
		{"empty line", "Ip: A\nIp: 1\n\n\nTcp: B\nTcp: 1\n", nil},
	} {
		got := map[string]uint64{}
		err := parseTable(tc.text, got)
		if (err != nil) != (tc.want == nil) {
			t.Errorf("%s: error %v", tc.name, err)
		}
		if diff := cmp.Diff(tc.want, got); tc.want != nil && diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

func TestParseList(t *testing.T) {
	got := map[string]uint64{}
	if err := parseList("Ip6InReceives  \t7\nIp6InHdrErrors 0\n", got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]uint64{"Ip6InReceives": 7, "Ip6InHdrErrors": 0}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := parseList("Ip6InReceives\n", got); err == nil {
		t.Error("a line without a value was accepted")
	}
}
