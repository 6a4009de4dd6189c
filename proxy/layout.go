package proxy

import (
	"fmt"
	"hash/fnv"
	"reflect"
	"strconv"
	"strings"
	"unsafe"
)

// layout is how records lie in a flow file, which carries it, so that another version of levee can go on with them: it takes field by field
// those that it knows. A flow file's layout is text:
//
//	128
//	key.low uint8x16 0
//	key.lowPort uint16 32
//
// its first line the size of a record in bytes, then a line for each field with its type and its offset.
type layout struct {
	// size of a record in bytes.
	size   int
	fields []layoutField
}

// layoutField is one field of a record that has no parts of its own.
type layoutField struct {
	// name is the path to it: "half[1].end".
	name string
	// kind is its type as the machine has it, "uint32" or "uint8x16", whatever Go calls it.
	kind   string
	offset int
	// bytes is its size.
	bytes int
}

// ownLayout is that of this levee's records.
var ownLayout = layoutOf(reflect.TypeFor[flow]())

// absent lists the fields that a record of an earlier layout may lack, because zero is right for it: what is added to flow later and
// isn't listed here makes files of former layouts unusable. So does a field that has another type or name.
var absent = map[string]bool{}

// kinds are the types of fields.
var kinds = map[string]int{"uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8, "int8": 1, "int16": 2, "int32": 4, "int64": 8}

func layoutOf(t reflect.Type) layout {
	l := layout{size: int(t.Size())}
	l.add(t, "", 0)
	return l
}

func (l *layout) add(t reflect.Type, name string, offset uintptr) {
	field := func(kind string) {
		l.fields = append(l.fields, layoutField{name, kind, int(offset), int(t.Size())})
	}
	switch k := t.Kind(); {
	case k == reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			path := f.Name
			if name != "" {
				path = name + "." + f.Name
			}
			l.add(f.Type, path, offset+f.Offset)
		}
	case k == reflect.Array && t.Elem().Kind() == reflect.Struct:
		for i := range t.Len() {
			l.add(t.Elem(), fmt.Sprintf("%s[%d]", name, i), offset+uintptr(i)*t.Elem().Size())
		}
	case k == reflect.Array && kinds[t.Elem().Kind().String()] > 0:
		field(fmt.Sprintf("%sx%d", t.Elem().Kind(), t.Len()))
	case kinds[k.String()] > 0:
		field(k.String())
	default:
		panic("proxy: a record can't hold " + t.String())
	}
}

// String is the text that parseLayout reads.
func (l layout) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d\n", l.size)
	for _, f := range l.fields {
		fmt.Fprintf(&b, "%s %s %d\n", f.name, f.kind, f.offset)
	}
	return b.String()
}

// hash is the same for the same layout.
func (l layout) hash() uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(l.String()))
	return h.Sum64()
}

// maxRecord bounds the records of other layouts, in bytes.
const maxRecord = 1024

// parseLayout reads a layout of any origin: every field that it returns lies within the record.
func parseLayout(text string) (layout, error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	size, err := strconv.Atoi(lines[0])
	if err != nil || size < 1 || size > maxRecord {
		return layout{}, fmt.Errorf("%w: its records have no size", ErrStateDamaged)
	}
	l := layout{size: size}
	for _, line := range lines[1:] {
		words := strings.Split(line, " ")
		if len(words) != 3 {
			return layout{}, fmt.Errorf("%w: its layout makes no sense", ErrStateDamaged)
		}
		f := layoutField{name: words[0], kind: words[1]}
		element, times, array := strings.Cut(f.kind, "x")
		n := 1
		if array {
			if n, err = strconv.Atoi(times); err != nil || n < 1 || n > maxRecord {
				return layout{}, fmt.Errorf("%w: its layout makes no sense", ErrStateDamaged)
			}
		}
		f.bytes = kinds[element] * n
		if f.offset, err = strconv.Atoi(words[2]); err != nil || f.bytes == 0 || f.offset < 0 || f.offset > size-f.bytes {
			return layout{}, fmt.Errorf("%w: its layout makes no sense", ErrStateDamaged)
		}
		l.fields = append(l.fields, f)
	}
	return l, nil
}

// move is a piece of a record that goes from one layout to another.
type move struct{ from, to, bytes int }

// moves is how records of another layout become this levee's.
func (l layout) moves() ([]move, error) {
	known := make(map[string]layoutField, len(l.fields))
	for _, f := range l.fields {
		known[f.name] = f
	}
	var moves []move
	for _, f := range ownLayout.fields {
		was, ok := known[f.name]
		switch {
		case !ok && absent[f.name]:
		case !ok:
			return nil, fmt.Errorf("%w: its records have no %s", ErrStateForeign, f.name)
		case was.kind != f.kind:
			return nil, fmt.Errorf("%w: in its records %s is %s, not %s", ErrStateForeign, f.name, was.kind, f.kind)
		default:
			moves = append(moves, move{was.offset, f.offset, f.bytes})
		}
	}
	return moves, nil
}

// record is the flow that the bytes of another layout are.
func record(bytes []byte, moves []move) (f flow) {
	own := (*[unsafe.Sizeof(flow{})]byte)(unsafe.Pointer(&f))
	for _, m := range moves {
		copy(own[m.to:m.to+m.bytes], bytes[m.from:])
	}
	return f
}
