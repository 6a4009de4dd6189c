package tunnel

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// A client whose SYN gets no answer sends it again, with the same addresses, ports and sequence number, after a second (RFC 6298 §2) and
// then at ever longer intervals; a flood of forged SYNs has no reason to. So the steering program remembers the SYNs that it has seen, and those that come
// again have a queue of their own. When more SYNs arrive than levee can answer, and the ring of first SYNs overflows, that
// of the others is nearly empty: a client waits for one retransmission, not for one that happens to find room.
//
// The memory is a Bloom filter whose cells hold when, instead of whether: nothing has to be cleared, and it never fills up. A SYN has
// two cells in one cache line. Other SYNs that hit one of its cells make it look younger than it is, so the older of the two counts.
//
//	cell   0 never, or 1 + (clock / 2^28 ns) mod 255
//	SYN    seen before, if both cells are at most 16 units old (4.3 s), and one of them at least 2 (0.27 to 0.54 s)
//
// A SYN that comes again at once is no retransmission: it may be one that a flood sends twice. One that a flood sends again and
// again is never old enough. A flood that waits as clients do does get to the other queue, and leaves this one to the clients' first SYNs.
//
// Measured with 300,000 SYNs a second: one in eighty forged ones is mistaken for one sent again, one in some thousands of those sent again is
// overlooked. With 3 million it is one in ten after two seconds and, by calculation, more than half after four; and one in fifty.
const (
	repeatBlocks    = 1 << 18
	repeatBlockSize = 64 // a cache line
	repeatUnitShift = 28 // of nanoseconds
	repeatUnits     = 255
	// repeatYoungest and repeatOldest are the ages, in units, between which a SYN is one that was sent again. Retransmissions come
	// after 1, 2 and 4 s: 3 to 15 units.
	repeatYoungest = 2
	repeatOldest   = 16
)

// newRepeats makes the memory of SYNs, 16 MiB.
func newRepeats() (*ebpf.Map, error) {
	return ebpf.NewMap(&ebpf.MapSpec{
		Name: "levee_syns", Type: ebpf.Array, KeySize: 4, ValueSize: repeatBlocks * repeatBlockSize, MaxEntries: 1,
	})
}

// repeatClock is the kernel's monotonic clock in nanoseconds, in R0.
var repeatClock = asm.Instructions{asm.FnKtimeGetNs.Call()}

// repeatProgram sets R0 to RepeatQueue if the SYN in work was seen before, otherwise to SYNQueue, and remembers it. It begins at the
// label syn, with the packet in R6, the exclusive or of all words of its addresses in R7, and the offset of its TCP header in R8, and
// uses up R7 to R9. The checked loads change R1 to R5.
func repeatProgram(seen int, seed int64, clock asm.Instructions) asm.Instructions {
	const (
		hash   = asm.R7
		offset = asm.R8
		work   = asm.R9
		// odd is 2^64 divided by the golden ratio, as an odd number.
		odd = -0x61c8864680b583eb
	)
	mix := asm.Instructions{
		asm.LoadImm(asm.R1, odd, asm.DWord),
		asm.Mul.Reg(hash, asm.R1),
		asm.Mov.Reg(work, hash),
		asm.RSh.Imm(work, 32),
		asm.Xor.Reg(hash, work),
	}
	program := asm.Instructions{
		asm.LoadInd(asm.R0, offset, 0, asm.Word).WithSymbol("syn"), // both ports
		asm.LSh.Imm(asm.R0, 32),
		asm.Xor.Reg(hash, asm.R0),
		asm.LoadImm(asm.R1, seed, asm.DWord),
		asm.Xor.Reg(hash, asm.R1),
	}
	program = append(program, mix...)
	program = append(program,
		asm.LoadInd(asm.R0, offset, 4, asm.Word), // sequence number
		asm.Add.Reg(hash, asm.R0),
	)
	program = append(program, mix...)
	program = append(program, mix...)

	// now, in R8.
	program = append(program, clock...)
	program = append(program,
		asm.RSh.Imm(asm.R0, repeatUnitShift),
		asm.Mod.Imm(asm.R0, repeatUnits),
		asm.Add.Imm(asm.R0, 1),
		asm.Mov.Reg(offset, asm.R0),

		// The two cells, in R1 and R2.
		asm.LoadMapValue(asm.R1, seen, 0),
		asm.Mov.Reg(asm.R3, hash),
		asm.And.Imm(asm.R3, repeatBlocks-1),
		asm.Mul.Imm(asm.R3, repeatBlockSize),
		asm.Add.Reg(asm.R1, asm.R3),
		asm.Mov.Reg(asm.R2, asm.R1),
		asm.Mov.Reg(asm.R3, hash),
		asm.RSh.Imm(asm.R3, 40),
		asm.And.Imm(asm.R3, repeatBlockSize-1),
		asm.Add.Reg(asm.R1, asm.R3),
		asm.RSh.Imm(hash, 50),
		asm.And.Imm(hash, repeatBlockSize-1),
		asm.Add.Reg(asm.R2, hash),

		// Their times, in R3 and R4, and then ages.
		asm.LoadMem(asm.R3, asm.R1, 0, asm.Byte),
		asm.LoadMem(asm.R4, asm.R2, 0, asm.Byte),
		asm.StoreMem(asm.R1, 0, offset, asm.Byte),
		asm.StoreMem(asm.R2, 0, offset, asm.Byte),
		asm.Mov.Imm(asm.R0, SYNQueue),
		asm.JEq.Imm(asm.R3, 0, "count"),
		asm.JEq.Imm(asm.R4, 0, "count"),
	)
	for _, age := range []asm.Register{asm.R3, asm.R4} {
		program = append(program,
			asm.Mov.Reg(asm.R5, offset),
			asm.Add.Imm(asm.R5, repeatUnits),
			asm.Sub.Reg(asm.R5, age),
			asm.Mod.Imm(asm.R5, repeatUnits),
			asm.JGT.Imm(asm.R5, repeatOldest, "count"),
			asm.Mov.Reg(age, asm.R5),
		)
	}
	return append(program,
		asm.JGE.Imm(asm.R3, repeatYoungest, "again"),
		asm.JLT.Imm(asm.R4, repeatYoungest, "count"),
		asm.Mov.Imm(asm.R0, RepeatQueue).WithSymbol("again"),
	)
}
