package stacktest

import (
	"encoding/binary"
	"errors"
)

// Option is one TCP option. Data is what follows the length byte, borrowed from the options it was read from:
// writing to it changes them. Kinds 0 and 1, the end of the list and the no-operation, have none.
type Option struct {
	Kind uint8
	Data []byte
}

// MSS is the maximum segment size option.
func MSS(bytes uint16) []byte { return binary.BigEndian.AppendUint16([]byte{2, 4}, bytes) }

// WScale is the window scale option.
func WScale(shift uint8) []byte { return []byte{3, 3, shift} }

// SACKPermitted is the option of that name.
func SACKPermitted() []byte { return []byte{4, 2} }

// SACK is a SACK option whose blocks lie between each two of edges.
func SACK(edges ...uint32) []byte {
	b := []byte{5, byte(2 + 4*len(edges))}
	for _, e := range edges {
		b = binary.BigEndian.AppendUint32(b, e)
	}
	return b
}

// Timestamps is the timestamps option.
func Timestamps(val, ecr uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte{8, 10}, val)
	return binary.BigEndian.AppendUint32(b, ecr)
}

// NOP is n no-operation options, for alignment and misalignment.
func NOP(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 1
	}
	return b
}

// ParseOptions lists the options in b up to and without the end-of-list option (RFC 9293 §3.1).
func ParseOptions(b []byte) ([]Option, error) {
	var list []Option
	for len(b) > 0 {
		kind := b[0]
		switch {
		case kind == 0:
			return list, nil
		case kind == 1:
			list = append(list, Option{Kind: kind})
			b = b[1:]
		case len(b) == 1:
			return nil, errors.New("TCP option without a length byte")
		case b[1] < 2:
			return nil, errors.New("TCP option shorter than its own head")
		case int(b[1]) > len(b):
			return nil, errors.New("TCP option beyond the header")
		default:
			list = append(list, Option{kind, b[2:b[1]]})
			b = b[b[1]:]
		}
	}
	return list, nil
}
