package tunnel

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestNegotiateOffload(t *testing.T) {
	const csum, tso4, tso6, ecn = unix.TUN_F_CSUM, unix.TUN_F_TSO4, unix.TUN_F_TSO6, unix.TUN_F_TSO_ECN
	tests := []struct {
		name  string
		knows int // the bits that the kernel takes
		want  string
	}{
		{"all", csum | tso4 | tso6 | ecn, "csum,tso4,tso6,ecn"},
		{"no ECN", csum | tso4 | tso6, "csum,tso4,tso6"},
		{"no IPv6", csum | tso4 | ecn, "csum,tso4,ecn"},
		{"checksums only", csum, "csum"},
		{"nothing", 0, "none"},
		{"nothing without checksums", tso4 | tso6, "none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			mask := -1
			got := negotiateOffload(func(m int) error {
				if m&^tt.knows != 0 || m&csum == 0 {
					return unix.EINVAL
				}
				mask = m
				return nil
			})
			if got.String() != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if tt.want != "none" && mask != tt.knows {
				t.Errorf("the mask set last is %#x, want %#x", mask, tt.knows)
			}
		})
	}
}
