package proxy

import (
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"reflect"
	"time"
	"unsafe"
)

// FlowState is memory in which the flow table outlives its process: a file that is mapped shared, so that what was written stays however
// the process ends. Only the records are in it. What leads to them, the index, the lists and the wheel, is made anew from
// them by the next process.
//
//	┌──────────────┬────────────────────────┬───────────────────────────────
//	│ stateHeader  │ stateMark, one a stripe│ flow, the stripes one after the other
//	└──────────────┴────────────────────────┴───────────────────────────────
//	0              4096                     8192
//
// It is written in the machine's own byte order: it never leaves the machine.
type FlowState struct {
	// Memory is FlowStateBytes long and aligned to a page: all zero, or as an earlier Proxy left it. It has to be there for as long as
	// the Proxy, and belongs to nobody else.
	Memory []byte
	// Boot names the kernel's present run, whose monotonic clock showed Monotonic when the time that New is given was read.
	Boot      [16]byte
	Monotonic time.Duration
}

const (
	stateMarksAt   = 4096
	stateRecordsAt = 8192
)

// The marks have room for every stripe, or this does not compile.
const _ = uint((stateRecordsAt-stateMarksAt)/int(unsafe.Sizeof(stateMark{})) - stripesWanted)

// stateMagic begins every flow file.
var stateMagic = [16]byte{'l', 'e', 'v', 'e', 'e', ' ', 'f', 'l', 'o', 'w', 's', '\n'}

// stateVersion counts changes in what a record means that its fields, which layoutHash covers, don't show.
const stateVersion = 1

// stateHeader says what the records are. It is written once, before the first record.
type stateHeader struct {
	Magic   [16]byte
	Version uint32
	Stripes uint32
	// Capacity is the number of records of a stripe.
	Capacity uint64
	Layout   uint64
	Boot     [16]byte
	// Zero is what the kernel's monotonic clock showed at tick 0. Unlike its other clocks it goes on as Go's does: it
	// knows neither steps nor time asleep.
	Zero time.Duration
	// Hash0 and Hash1 are the key of the table's hash, which says in which stripe a record is.
	Hash0, Hash1 uint64
	// Checksum is the CRC-32 (IEEE) of all before it.
	Checksum uint32
	_        uint32
}

// stateMark names the record that a stripe is rewriting, plus one, while it is neither what it was nor what it will be. 0 is none.
type stateMark struct {
	record uint32
	// Each has a cache line of its own, as the stripes have.
	_ [60]byte
}

// layoutHash changes with every field of a record.
var layoutHash = hashLayout(reflect.TypeFor[flow]())

func hashLayout(t reflect.Type) uint64 {
	h := fnv.New64a()
	var add func(t reflect.Type)
	add = func(t reflect.Type) {
		fmt.Fprintf(h, "%v %d;", t.Kind(), t.Size())
		switch t.Kind() {
		case reflect.Struct:
			for i := range t.NumField() {
				f := t.Field(i)
				fmt.Fprintf(h, "%s %d:", f.Name, f.Offset)
				add(f.Type)
			}
		case reflect.Array:
			add(t.Elem())
		}
	}
	add(t)
	return h.Sum64()
}

// FlowStateBytes is the size of FlowState.Memory for a table of so many flows.
func FlowStateBytes(capacity int) int {
	n, each := shape(capacity)
	return stateRecordsAt + n*carved[flow](each)
}

// Reasons why a flow file can't be used. Whoever has one in the way sets it aside.
var (
	// ErrStateDamaged: it is no flow file, or not a whole one.
	ErrStateDamaged = errors.New("damaged")
	// ErrStateForeign: it is of another version of levee, another capacity or another boot.
	ErrStateForeign = errors.New("foreign")
)

func (s *FlowState) header() *stateHeader { return (*stateHeader)(unsafe.Pointer(&s.Memory[0])) }

// marks and records are parts of Memory.
func (s *FlowState) marks() []stateMark {
	return unsafe.Slice((*stateMark)(unsafe.Pointer(&s.Memory[stateMarksAt])), stripesWanted)
}

func (h *stateHeader) sum() uint32 {
	return crc32.ChecksumIEEE(unsafe.Slice((*byte)(unsafe.Pointer(h)), unsafe.Offsetof(h.Checksum)))
}

// Fresh says that no Proxy has used the memory.
func (s *FlowState) Fresh() bool { return *s.header() == stateHeader{} }

// Check says whether a Proxy of this capacity can go on with what is in Memory, and changes nothing. Its errors match ErrStateDamaged or
// ErrStateForeign, and don't name the file.
func (s *FlowState) Check(capacity int) error {
	if len(s.Memory) < stateRecordsAt {
		return fmt.Errorf("%w: it is %d bytes long, shorter than its header", ErrStateDamaged, len(s.Memory))
	}
	if s.Fresh() {
		return nil
	}
	h := s.header()
	n, each := shape(capacity)
	switch {
	case h.Magic != stateMagic:
		return fmt.Errorf("%w: it doesn't begin as a flow file does", ErrStateDamaged)
	case h.Checksum != h.sum():
		return fmt.Errorf("%w: its header doesn't match its checksum", ErrStateDamaged)
	case h.Version != stateVersion:
		return fmt.Errorf("%w: its version is %d, this levee's is %d", ErrStateForeign, h.Version, stateVersion)
	case h.Layout != layoutHash:
		return fmt.Errorf("%w: its records are of another build of levee", ErrStateForeign)
	case h.Boot != s.Boot || h.Zero > s.Monotonic:
		return fmt.Errorf("%w: it is from before the machine's start", ErrStateForeign)
	case h.Stripes != uint32(n) || h.Capacity != uint64(each):
		return fmt.Errorf("%w: it is for %d flows, not for %d", ErrStateForeign, uint64(h.Stripes)*h.Capacity, n*each)
	case len(s.Memory) != FlowStateBytes(capacity):
		return fmt.Errorf("%w: it is %d bytes long, not %d", ErrStateDamaged, len(s.Memory), FlowStateBytes(capacity))
	}
	return nil
}

// begin writes the header of fresh memory.
func (s *FlowState) begin(capacity int, key hasher) {
	n, each := shape(capacity)
	h := stateHeader{
		Magic: stateMagic, Version: stateVersion, Stripes: uint32(n), Capacity: uint64(each), Layout: layoutHash,
		Boot: s.Boot, Zero: s.Monotonic, Hash0: key.k0, Hash1: key.k1,
	}
	h.Checksum = h.sum()
	*s.header() = h
}
