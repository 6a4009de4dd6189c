package tunnel

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// The queues of SYNs when the device is steered: a flood of them fills these queues' rings, and no packet of an open connection waits or is
// lost behind it. The others, from FlowQueue on, take everything else, both directions of a connection the same one.
const (
	// SYNQueue takes first SYNs.
	SYNQueue = 0
	// RepeatQueue takes those that were sent before (see repeats.go), if there are 3 queues or more. With 2, SYNQueue takes them too.
	RepeatQueue = 1
)

// FlowQueue is the first of the queues that take everything but SYNs when a device of so many queues, at least 2, is steered.
func FlowQueue(queues int) int { return min(queues-1, RepeatQueue+1) }

// steering is the program in the kernel that chooses the queue of each packet (TUNSETSTEERINGEBPF), and
// what it knows.
type steering struct {
	program *ebpf.Program
	// chosen counts packets by queue, for each processor.
	chosen *ebpf.Map
	// seen is the memory of SYNs, nil if there is no RepeatQueue.
	seen *ebpf.Map
}

// newSteering loads the program for a number of queues, at least 2; clock is repeatClock. An error says that this
// kernel or this process may not have it.
func newSteering(queues int, clock asm.Instructions) (*steering, error) {
	var seed [12]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, err
	}
	s := &steering{}
	var err error
	if s.chosen, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "levee_queues", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: uint32(queues),
	}); err != nil {
		return nil, explainBPF("make a BPF map", err)
	}
	syn := asm.Instructions{asm.Mov.Imm(asm.R0, SYNQueue).WithSymbol("syn")}
	if FlowQueue(queues) > RepeatQueue {
		if s.seen, err = newRepeats(); err != nil {
			_ = s.close()
			return nil, explainBPF("make a BPF map", err)
		}
		syn = repeatProgram(s.seen.FD(), int64(binary.LittleEndian.Uint64(seed[4:])), clock)
	}
	if s.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "levee_steering", Type: ebpf.SocketFilter, License: "Apache-2.0",
		Instructions: steeringProgram(queues, int32(binary.LittleEndian.Uint32(seed[:])), s.chosen.FD(), syn),
	}); err != nil {
		_ = s.close()
		return nil, explainBPF("load a BPF program", err)
	}
	return s, nil
}

// CheckSteering says why SYNs could not have queues of their own. It loads what steers them and lets go of it again.
func CheckSteering() error {
	s, err := newSteering(3, repeatClock)
	if err != nil {
		return err
	}
	return s.close()
}

// attach makes the device of a queue's descriptor use the program, which from then on it holds itself.
func (s *steering) attach(fd int) error {
	return unix.IoctlSetPointerInt(fd, unix.TUNSETSTEERINGEBPF, s.program.FD())
}

// counts is how many packets went to each queue.
func (s *steering) counts(queues int) ([]uint64, error) {
	totals := make([]uint64, queues)
	for i := range totals {
		var perCPU []uint64
		if err := s.chosen.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read the steering counters: %w", err)
		}
		for _, n := range perCPU {
			totals[i] += n
		}
	}
	return totals, nil
}

func (s *steering) close() error {
	var errs []error
	if s.program != nil {
		errs = append(errs, s.program.Close())
	}
	for _, m := range []*ebpf.Map{s.chosen, s.seen} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

// steeredExtensions is how many IPv6 extension headers the program looks behind. A SYN behind
// more shares a queue with others, which is all there is to gain by it.
const steeredExtensions = 4

// steeringProgram returns the program. It reads the packet, which begins with its IP header, by the
// checked loads of classic BPF: one beyond the end ends the program with 0, the SYN queue.
//
//	first SYN                            → as syn says
//	TCP, unfragmented or first fragment  → FlowQueue + hash(addresses, ports) mod (queues-FlowQueue)
//	anything else                        → FlowQueue + hash(addresses) mod (queues-FlowQueue)
//
// The hash takes the sum of both ends, so it is the same for both directions. syn begins with the label syn, puts a queue into R0, and
// leaves R6 alone.
func steeringProgram(queues int, seed int32, counters int, syn asm.Instructions) asm.Instructions {
	const (
		context = asm.R6 // where the checked loads expect it
		hash    = asm.R7
		offset  = asm.R8
		next    = asm.R9 // protocol after the headers walked so far

		tcp, synMask, synOnly = 6, 0x12, 0x02
	)
	program := asm.Instructions{
		asm.Mov.Reg(context, asm.R1),
		asm.Mov.Imm(hash, 0),
		asm.LoadAbs(0, asm.Byte),
		asm.RSh.Imm(asm.R0, 4),
		asm.JEq.Imm(asm.R0, 4, "ipv4"),
		asm.JEq.Imm(asm.R0, 6, "ipv6"),
		asm.Ja.Label("spread"),

		asm.LoadAbs(12, asm.Word).WithSymbol("ipv4"),
		asm.Xor.Reg(hash, asm.R0),
		asm.LoadAbs(16, asm.Word),
		asm.Xor.Reg(hash, asm.R0),
		asm.LoadAbs(9, asm.Byte),
		asm.JNE.Imm(asm.R0, tcp, "spread"),
		asm.LoadAbs(6, asm.Half),
		asm.And.Imm(asm.R0, 0x1fff), // fragment offset
		asm.JNE.Imm(asm.R0, 0, "spread"),
		asm.LoadAbs(0, asm.Byte),
		asm.And.Imm(asm.R0, 0x0f),
		asm.LSh.Imm(asm.R0, 2),
		asm.Mov.Reg(offset, asm.R0),
		asm.Ja.Label("tcp"),
	}

	program = append(program, asm.LoadAbs(6, asm.Byte).WithSymbol("ipv6"), asm.Mov.Reg(next, asm.R0))
	for word := int32(8); word < 40; word += 4 {
		program = append(program, asm.LoadAbs(word, asm.Word), asm.Xor.Reg(hash, asm.R0))
	}
	program = append(program, asm.Mov.Imm(offset, 40))
	for i := range steeredExtensions {
		label := func(name string) string { return fmt.Sprintf("%s%d", name, i) }
		program = append(program,
			asm.JEq.Imm(next, tcp, "tcp").WithSymbol(label("header")),
			asm.JEq.Imm(next, unix.IPPROTO_HOPOPTS, label("options")),
			asm.JEq.Imm(next, unix.IPPROTO_ROUTING, label("options")),
			asm.JEq.Imm(next, unix.IPPROTO_DSTOPTS, label("options")),
			asm.JEq.Imm(next, unix.IPPROTO_AH, label("auth")),
			asm.JNE.Imm(next, unix.IPPROTO_FRAGMENT, "spread"),

			asm.LoadInd(asm.R0, offset, 2, asm.Half),
			asm.And.Imm(asm.R0, 0xfff8), // fragment offset
			asm.JNE.Imm(asm.R0, 0, "spread"),
			asm.LoadInd(asm.R0, offset, 0, asm.Byte),
			asm.Mov.Reg(next, asm.R0),
			asm.Add.Imm(offset, 8),
			asm.Ja.Label(label("done")),

			asm.LoadInd(asm.R0, offset, 0, asm.Byte).WithSymbol(label("options")),
			asm.Mov.Reg(next, asm.R0),
			asm.LoadInd(asm.R0, offset, 1, asm.Byte),
			asm.Add.Imm(asm.R0, 1),
			asm.LSh.Imm(asm.R0, 3),
			asm.Add.Reg(offset, asm.R0),
			asm.Ja.Label(label("done")),

			asm.LoadInd(asm.R0, offset, 0, asm.Byte).WithSymbol(label("auth")),
			asm.Mov.Reg(next, asm.R0),
			asm.LoadInd(asm.R0, offset, 1, asm.Byte),
			asm.Add.Imm(asm.R0, 2),
			asm.LSh.Imm(asm.R0, 2),
			asm.Add.Reg(offset, asm.R0),

			asm.Mov.Reg(asm.R0, asm.R0).WithSymbol(label("done")),
		)
	}
	program = append(program,
		asm.JNE.Imm(next, tcp, "spread"),

		asm.LoadInd(asm.R0, offset, 13, asm.Byte).WithSymbol("tcp"),
		asm.And.Imm(asm.R0, synMask),
		asm.JEq.Imm(asm.R0, synOnly, "syn"),
		asm.LoadInd(asm.R0, offset, 0, asm.Word), // both ports
		asm.Xor.Reg(hash, asm.R0),
		asm.RSh.Imm(asm.R0, 16),
		asm.Xor.Reg(hash, asm.R0),
		// Now the low half has both ports in it; the high half has the first one only.
		asm.LSh.Imm(asm.R0, 16),
		asm.Xor.Reg(hash, asm.R0),

		asm.Xor.Imm32(hash, seed).WithSymbol("spread"),
		asm.Mul.Imm32(hash, -0x61c88647), // 2^32 divided by the golden ratio, odd
		asm.Mov.Reg(asm.R0, hash),
		asm.Mul.Imm(asm.R0, int32(queues-FlowQueue(queues))),
		asm.RSh.Imm(asm.R0, 32),
		asm.Add.Imm(asm.R0, int32(FlowQueue(queues))),
		asm.Ja.Label("count"),
	)
	program = append(program, syn...)
	return append(program,
		asm.Mov.Reg(next, asm.R0).WithSymbol("count"),
		asm.StoreMem(asm.RFP, -4, asm.R0, asm.Word),
		asm.LoadMapPtr(asm.R1, counters),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R0, next).WithSymbol("out"),
		asm.Return(),
	)
}
