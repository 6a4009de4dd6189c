package proxy

import (
	"errors"
	"fmt"
	"hash/crc32"
	"time"
	"unsafe"
)

// FlowState is memory in which the flow table outlives its process: a file that is mapped shared, so that what was written stays however
// the process ends. Only the records are in it. What leads to them, the index, the lists and the wheel, is made anew from
// them by the next process.
//
//	┌──────────────────────┬────────────────────────┬───────────────────────────────
//	│ stateHeader, layout  │ stateMark, one a stripe│ flow, the stripes one after the other
//	└──────────────────────┴────────────────────────┴───────────────────────────────
//	0                      4096                     8192
//
// It is written in the machine's own byte order: it never leaves the machine. Another version of levee, or one for another number of flows,
// goes on with a copy that it makes with Convert.
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

// stateVersion counts changes of the header, and in what a record means that its layout doesn't show. Who raises it has Convert make what
// records mean now of what they meant in every former version. Version 1 had the same header but no layout: its records were always those
// of layout1. What is of a later version is never touched.
const stateVersion = 2

// stateHeader says what the records are. It is written once, before the first record.
type stateHeader struct {
	Magic   [16]byte
	Version uint32
	Stripes uint32
	// Capacity is the number of records of a stripe.
	Capacity uint64
	// Layout is a hash of the layout.
	Layout uint64
	Boot   [16]byte
	// Zero is what the kernel's monotonic clock showed at tick 0. Unlike its other clocks it goes on as Go's does: it
	// knows neither steps nor time asleep.
	Zero time.Duration
	// Hash0 and Hash1 are the key of the table's hash, which says in which stripe a record is.
	Hash0, Hash1 uint64
	// Checksum is the CRC-32 (IEEE) of all before it, and of the layout with the zeros that follow it.
	Checksum uint32
	_        uint32
}

// stateMark names the record that a stripe is rewriting, plus one, while it is neither what it was nor what it will be. 0 is none.
type stateMark struct {
	record uint32
	// Each has a cache line of its own, as the stripes have.
	_ [60]byte
}

// FlowStateBytes is the size of FlowState.Memory for a table of so many flows.
func FlowStateBytes(capacity int) int {
	n, each := shape(capacity)
	return stateRecordsAt + n*carved[flow](each)
}

// Reasons why a flow file can't be used as it is. Whoever has one in the way that is damaged or foreign sets it aside.
var (
	// ErrStateDamaged: it is no flow file, or not a whole one.
	ErrStateDamaged = errors.New("damaged")
	// ErrStateForeign: it is of a later version of levee, of records that this one knows nothing of, or of another boot.
	ErrStateForeign = errors.New("foreign")
	// ErrStateDiffers: it is of another version of levee or for another number of flows, and Convert makes one of it that can be used.
	ErrStateDiffers = errors.New("different")
)

func (s *FlowState) header() *stateHeader { return (*stateHeader)(unsafe.Pointer(&s.Memory[0])) }

// marks and records are parts of Memory.
func (s *FlowState) marks() []stateMark {
	return unsafe.Slice((*stateMark)(unsafe.Pointer(&s.Memory[stateMarksAt])), stripesWanted)
}

// described is where the layout is, as text with zeros behind it.
func (s *FlowState) described() []byte { return s.Memory[unsafe.Sizeof(stateHeader{}):stateMarksAt] }

// sum is what the header's Checksum has to be.
func (s *FlowState) sum() uint32 {
	sum := crc32.ChecksumIEEE(s.Memory[:unsafe.Offsetof(stateHeader{}.Checksum)])
	if s.header().Version == 1 {
		return sum
	}
	return crc32.Update(sum, crc32.IEEETable, s.described())
}

// Fresh says that no Proxy has used the memory.
func (s *FlowState) Fresh() bool { return *s.header() == stateHeader{} }

// Check says whether a Proxy of this capacity can go on with what is in Memory, and changes nothing. Its errors match ErrStateDamaged,
// ErrStateForeign or ErrStateDiffers, and don't name the file.
func (s *FlowState) Check(capacity int) error {
	if len(s.Memory) < stateRecordsAt {
		return fmt.Errorf("%w: it is %d bytes long, shorter than its header", ErrStateDamaged, len(s.Memory))
	}
	if whole := FlowStateBytes(capacity); s.Fresh() && len(s.Memory) != whole {
		// As of a process that was killed before its first record, and was configured for another number.
		return fmt.Errorf("%w: it is empty and %d bytes long, not %d", ErrStateDamaged, len(s.Memory), whole)
	}
	if s.Fresh() {
		return nil
	}
	if _, err := s.records(); err != nil {
		return err
	}
	h := s.header()
	n, each := shape(capacity)
	switch {
	case h.Version != stateVersion:
		return fmt.Errorf("%w: it is of version %d, this levee's are of %d", ErrStateDiffers, h.Version, stateVersion)
	case h.Layout != ownLayout.hash():
		return fmt.Errorf("%w: its records are of another version of levee", ErrStateDiffers)
	case h.Stripes != uint32(n) || h.Capacity != uint64(each):
		return fmt.Errorf("%w: it is for %d flows, not for %d", ErrStateDiffers, uint64(h.Stripes)*h.Capacity, n*each)
	}
	return nil
}

// begin writes the header of fresh memory, for records whose tick 0 was at a time of the kernel's monotonic clock.
func (s *FlowState) begin(capacity int, key hasher, zero time.Duration) {
	n, each := shape(capacity)
	*s.header() = stateHeader{
		Magic: stateMagic, Version: stateVersion, Stripes: uint32(n), Capacity: uint64(each), Layout: ownLayout.hash(),
		Boot: s.Boot, Zero: zero, Hash0: key.k0, Hash1: key.k1,
	}
	copy(s.described(), ownLayout.String())
	s.header().Checksum = s.sum()
}
