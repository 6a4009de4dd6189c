package stack_test

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
)

// fromHex reads hexadecimal digits and skips white space; a dot stands for a digit that the test fills in.
func fromHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Join(strings.Fields(s), ""), ".", "0"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// be16 is the 16-bit field at the start of b.
func be16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }
