package stack_test

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"levee/stack"
)

func TestVirtioBytes(t *testing.T) {
	for name, c := range map[string]struct {
		virtio stack.Virtio
		hex    string
	}{
		"nothing": {stack.Virtio{}, `00 00 0000 0000 0000 0000`},
		"checksum left to the kernel": {
			stack.Virtio{Flags: stack.VirtioNeedsCsum, HdrLen: 60, CsumStart: 20, CsumOffset: 16},
			`01 00 3c00 0000 1400 1000`,
		},
		"superpacket v4": {
			stack.Virtio{Flags: stack.VirtioNeedsCsum, GSOType: stack.GSOTCPv4, HdrLen: 52, GSOSize: 1448, CsumStart: 20, CsumOffset: 16},
			`01 01 3400 a805 1400 1000`,
		},
		"superpacket v6 with CWR": {
			stack.Virtio{Flags: stack.VirtioNeedsCsum, GSOType: stack.GSOTCPv6 | stack.GSOECN, HdrLen: 72, GSOSize: 1428, CsumStart: 40, CsumOffset: 16},
			`01 84 4800 9405 2800 1000`,
		},
		"verified": {stack.Virtio{Flags: stack.VirtioDataValid}, `02 00 0000 0000 0000 0000`},
		"every byte its own": {
			stack.Virtio{Flags: 1, GSOType: 2, HdrLen: 0x0403, GSOSize: 0x0605, CsumStart: 0x0807, CsumOffset: 0x0a09},
			`01 02 0304 0506 0708 090a`,
		},
	} {
		b := fromHex(t, c.hex)
		if got := stack.DecodeVirtio(b); got != c.virtio {
			t.Errorf("%s: decoded %+v, want %+v", name, got, c.virtio)
		}
		got := bytes.Repeat([]byte{0xa5}, stack.VirtioLen+2)
		c.virtio.Encode(got)
		if !bytes.Equal(got, append(b, 0xa5, 0xa5)) {
			t.Errorf("%s: encoded %x, want %x and nothing behind it", name, got, b)
		}
	}
}

func TestVirtioThereAndBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u8, u16 := rapid.Uint8(), rapid.Uint16()
		v := stack.Virtio{
			Flags: u8.Draw(t, "flags"), GSOType: u8.Draw(t, "type"), HdrLen: u16.Draw(t, "headers"), GSOSize: u16.Draw(t, "size"),
			CsumStart: u16.Draw(t, "start"), CsumOffset: u16.Draw(t, "offset"),
		}
		b := make([]byte, stack.VirtioLen)
		v.Encode(b)
		if got := stack.DecodeVirtio(b); got != v {
			t.Fatalf("%+v became %+v", v, got)
		}
	})
}
