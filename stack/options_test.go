package stack_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"levee/stack"
	"levee/stack/stacktest"
)

func TestOptions(t *testing.T) {
	none := stack.Options{WScale: stack.WScaleNone}
	// with is none with a change.
	with := func(change func(*stack.Options)) stack.Options {
		o := none
		change(&o)
		return o
	}
	ts := func(val, ecr uint32) stack.Options {
		return with(func(o *stack.Options) { o.Timestamps, o.TSVal, o.TSEcr = true, val, ecr })
	}
	mss := func(v uint16) stack.Options { return with(func(o *stack.Options) { o.MSS = v }) }
	wscale := func(v uint8) stack.Options { return with(func(o *stack.Options) { o.WScale = v }) }
	blocks := func(n uint8) stack.Options { return with(func(o *stack.Options) { o.SACKBlocks = n }) }
	signed := with(func(o *stack.Options) { o.Signed = true })
	join := with(func(o *stack.Options) { o.Join = true })

	for name, c := range map[string]struct {
		options []byte
		want    stack.Options
	}{
		"none":           {nil, none},
		"NOPs only":      {stacktest.NOP(40), none},
		"end of list":    {[]byte{0, 0, 0, 0}, none},
		"Linux SYN":      {synOptions(1460), stack.Options{MSS: 1460, WScale: 7, SACKPermitted: true, Timestamps: true, TSVal: 0xfffffffe}},
		"Linux bulk":     {bulkOptions(), ts(0x11223344, 0x55667788)},
		"bulk and more":  {opts(bulkOptions(), stacktest.NOP(1), stacktest.SACK(1, 2)), with(func(o *stack.Options) { *o = ts(0x11223344, 0x55667788); o.SACKBlocks = 1 })},
		"NOPs behind":    {opts(stacktest.Timestamps(1, 2), stacktest.NOP(2)), ts(1, 2)},
		"SACK permitted": {stacktest.SACKPermitted(), with(func(o *stack.Options) { o.SACKPermitted = true })},
		"MSS 0":          {stacktest.MSS(0), none},
		"MSS 65535":      {stacktest.MSS(65535), mss(65535)},
		"wscale 0":       {stacktest.WScale(0), wscale(0)},
		"wscale 14":      {stacktest.WScale(14), wscale(14)},
		"wscale 15":      {stacktest.WScale(15), wscale(14)},
		"wscale 255":     {stacktest.WScale(255), wscale(14)},
		"one block":      {stacktest.SACK(1, 2), blocks(1)},
		"four blocks":    {stacktest.SACK(1, 2, 3, 4, 5, 6, 7, 8), blocks(4)},
		"zeros, 4 bytes": {stacktest.Timestamps(0, 0), ts(0, 0)},

		"last MSS counts":        {opts(stacktest.MSS(1), stacktest.MSS(2)), mss(2)},
		"last wscale counts":     {opts(stacktest.WScale(1), stacktest.WScale(2)), wscale(2)},
		"last timestamps count":  {opts(stacktest.Timestamps(1, 2), stacktest.Timestamps(3, 4)), ts(3, 4)},
		"last SACK counts":       {opts(stacktest.SACK(1, 2, 3, 4), stacktest.SACK(5, 6)), blocks(1)},
		"a bad one doesn't":      {opts(stacktest.MSS(1), []byte{2, 3, 9}), mss(1)},
		"nothing after the end":  {opts(stacktest.MSS(7), []byte{0}, stacktest.MSS(8)), mss(7)},
		"garbage after the end":  {[]byte{1, 0, 2, 0, 2, 1, 2, 255}, none},
		"end before the padding": {opts(stacktest.WScale(3), []byte{0}), wscale(3)},

		"MSS of 3 bytes":             {[]byte{2, 3, 5}, none},
		"MSS of 5 bytes":             {[]byte{2, 5, 5, 5, 5}, none},
		"wscale of 2 bytes":          {[]byte{3, 2}, none},
		"wscale of 4 bytes":          {[]byte{3, 4, 7, 7}, none},
		"SACK permitted of 3 bytes":  {[]byte{4, 3, 0}, none},
		"timestamps of 9 bytes":      {[]byte{8, 9, 1, 1, 1, 1, 2, 2, 2}, none},
		"timestamps of 11 bytes":     {[]byte{8, 11, 1, 1, 1, 1, 2, 2, 2, 2, 3}, none},
		"SACK of no block":           {[]byte{5, 2}, none},
		"SACK of half a block":       {[]byte{5, 6, 0, 0, 0, 1}, none},
		"SACK of a block and a half": {stacktest.SACK(1, 2, 3), none},
		"AccECN, unknown":            {[]byte{172, 11, 1, 2, 3, 4, 5, 6, 7, 8, 9}, none},
		"fast open cookie":           {[]byte{34, 10, 1, 2, 3, 4, 5, 6, 7, 8}, none},
		"unknown up to the end":      {append([]byte{254, 40}, make([]byte, 38)...), none},
		"unknown without data":       {[]byte{253, 2}, none},

		"MD5":                     {append([]byte{19, 18}, make([]byte, 16)...), signed},
		"AO":                      {append([]byte{29, 16}, make([]byte, 14)...), signed},
		"MD5 of another length":   {[]byte{19, 2}, signed},
		"MP_CAPABLE":              {[]byte{30, 4, 0x01, 0x81}, none},
		"MP_JOIN":                 {append([]byte{30, 12, 0x10}, make([]byte, 9)...), join},
		"MP_JOIN, backup":         {append([]byte{30, 12, 0x11}, make([]byte, 9)...), join},
		"MPTCP without a subtype": {[]byte{30, 2}, none},
		"MPTCP, then a 0x10":      {[]byte{30, 2, 0x10, 2}, none},
		"DSS, low nibble 1":       {[]byte{30, 4, 0x21, 0x01}, none},
	} {
		t.Run(name, func(t *testing.T) {
			s := stacktest.Segment{Src: client4, Dst: server4, Flags: stacktest.SYN, Options: c.options}
			p := mustParse(t, s.Packet(), false)
			if diff := cmp.Diff(c.want, p.Options); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if diff := cmp.Diff(wantOptions(t, c.options), c.want); diff != "" {
				t.Errorf("the table and wantOptions disagree\n%s", diff)
			}
		})
	}
}

// badOptions are lists that Parse refuses; each fills its header, so that no zero padding follows.
func badOptions() map[string][]byte {
	return map[string][]byte{
		"length 0":                {2, 0, 1, 1},
		"length 1":                {2, 1, 1, 1},
		"unknown of length 0":     {254, 0, 1, 1},
		"unknown of length 1":     {254, 1, 1, 1},
		"no length byte":          {1, 1, 1, 8},
		"one byte too long":       {1, 8, 10, 1, 2, 3, 4, 1, 2, 3, 4, 8},
		"timestamps overrun":      {8, 10, 1, 1},
		"overrun by one":          {2, 5, 1, 1},
		"overrun after a good":    {2, 4, 5, 180, 1, 3, 4, 7},
		"length 255":              {5, 255, 1, 1},
		"a length that would end": {1, 1, 19, 18},
		"full header, overrun":    slices.Concat(stacktest.NOP(38), []byte{3, 3}),
		"length 0 at the end":     slices.Concat(stacktest.NOP(38), []byte{3, 0}),
	}
}

func TestBadOptions(t *testing.T) {
	for name, options := range badOptions() {
		for _, addrs := range []stacktest.Segment{{Src: client4, Dst: server4}, {Src: client6, Dst: server6}} {
			s := addrs
			// What follows the header must not be taken for the rest of the option.
			s.Options, s.Payload = options, make([]byte, 300)
			if _, kind := parse(s.Packet(), false); kind != stack.KindBadOptions {
				t.Errorf("%s: kind %d, want KindBadOptions", name, kind)
			}
		}
	}
}
