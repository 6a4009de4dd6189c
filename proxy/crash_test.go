package proxy

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/stack"
)

// crashCapacity is small: flows must make room for others.
const crashCapacity = 300

// crashState maps the file in which one process works on flows until it is killed, and another looks at them. Each process begins a minute
// after the one before.
func crashState(path string, generation int) (*FlowState, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(int64(FlowStateBytes(crashCapacity))); err != nil {
		return nil, err
	}
	memory, err := unix.Mmap(int(f.Fd()), 0, FlowStateBytes(crashCapacity), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return &FlowState{Memory: memory, Boot: [16]byte{1}, Monotonic: time.Hour + time.Duration(generation)*time.Minute}, err
}

func newCrashRig(t *testing.T, path string, generation int) *rig {
	o := DefaultOptions()
	o.Timestamps = true
	r := newRig(t, o)
	cfg := r.proxy.cfg
	cfg.Capacity, cfg.EarlyPool = crashCapacity, 1<<20
	cfg.Services[0].EarlyData = 4096
	var err error
	if cfg.State, err = crashState(path, generation); err != nil {
		t.Fatal(err)
	}
	r.now = r.now.Add(time.Duration(generation) * time.Minute)
	r.start(cfg)
	return r
}

// serverISN is the number that the server of a connection begins with: whoever sees a record knows what its difference has to be.
func serverISN(port uint16, isn seqnum.Value) seqnum.Value {
	return isn*2654435761 + seqnum.Value(port)*40503
}

// hammer opens, uses, reopens and ends connections of many clients until the process is killed.
func hammer(t *testing.T, path string, generation int) {
	r := newCrashRig(t, path, generation)
	rng := rand.New(rand.NewPCG(uint64(generation), 1))
	link := &keepLink{}
	r.worker.link, r.worker.out.link = link, link
	give := func(frames ...[]byte) {
		link.in, link.out = frames, link.out[:0]
		if _, err := r.worker.Step(r.clock, 0); err != nil {
			t.Fatal(err)
		}
	}
	for fmt.Println("working"); ; r.now = r.now.Add(time.Millisecond) {
		port := uint16(1000 + rng.IntN(2*crashCapacity))
		segment := func(from side, seq, ack seqnum.Value, flags header.TCPFlags, tsval uint32) stack.Segment {
			s := stack.Segment{
				Src: rigClient, Dst: rigServer, SrcPort: port, DstPort: 80, Seq: seq, Ack: ack, Flags: flags, Window: 500,
				WScale: WScaleNone, Timestamps: port%2 == 0, TSVal: 12, TSEcr: tsval,
			}
			if from == server {
				s.Src, s.Dst, s.SrcPort, s.DstPort = s.Dst, s.Src, s.DstPort, s.SrcPort
				s.TSVal, s.TSEcr = 7777, 12
			}
			return s
		}
		build := func(s stack.Segment) []byte { return s.Build(make([]byte, stack.MaxBuilt)) }
		isn := seqnum.Value(rng.Uint32())
		syn := segment(client, isn, 0, flagSYN, 0)
		syn.MSS, syn.WScale, syn.SACKPermitted = 1460, 7, true
		give(build(syn))
		var answer stack.Packet
		if len(link.out) != 1 || answer.Parse(link.out[0][stack.VirtioLen:], true) != stack.KindTCP {
			t.Fatal("no SYN-ACK")
		}
		k, tsval := answer.Seq, answer.Options.TSVal
		data := segment(client, isn+1, k+1, flagACK|flagPSH, tsval)
		early, _ := data.BuildData(make([]byte, stack.MaxBuilt+100), 100, 1000)
		give(early)
		s := serverISN(port, isn)
		synAck := segment(server, s, isn+1, flagSYN|flagACK, 0)
		synAck.MSS, synAck.WScale, synAck.SACKPermitted = 1460, 9, true
		if rng.IntN(8) == 0 { // it refuses
			synAck = segment(server, 0, isn+1, flagRST|flagACK, 0)
		}
		give(build(synAck))
		give(build(segment(server, s+1, isn+101, flagACK, 0)), build(segment(client, isn+101, k+1, flagACK, tsval)))
		switch rng.IntN(4) {
		case 0:
			give(build(segment(client, isn+101, k+1, flagFIN|flagACK, tsval)), build(segment(server, s+1, isn+102, flagFIN|flagACK, 0)))
		case 1:
			give(build(segment(client, isn+101, k+1, flagRST, tsval)))
		}
	}
}

// checkCrashed verifies that a table which another process has left makes sense.
func checkCrashed(t *testing.T, p *Proxy) {
	t.Helper()
	live, opening := 0, 0
	for i := range p.table.stripes {
		s := &p.table.stripes[i]
		checkStripe(t, s)
		for j := range s.flows {
			f := &s.flows[j]
			if f.state == StateFree {
				continue
			}
			if !f.state.Ended() {
				live++
			}
			if f.state == StateOpening {
				opening++
				if *f.early() != 0 || f.delta != 0 || f.has(opened) {
					t.Errorf("opening: early data %d, flow label %d, opened %t", *f.early(), f.delta, f.has(opened))
				}
			}
			port := f.key.lowPort
			if !f.has(clientLow) {
				port = f.key.highPort
			}
			isn := serverISN(port, f.clientISN)
			if f.has(opened) {
				if f.delta != uint32(f.cookie-isn) {
					t.Errorf("state %s: the difference is %#x, not %#x", f.state, f.delta, uint32(f.cookie-isn))
				}
				if c, v := &f.half[client], &f.half[server]; c.scale != 7 || c.promised != 7 || v.scale != 9 || c.end-f.clientISN > 200 || v.end-isn > 200 || v.ack-f.clientISN > 200 {
					t.Errorf("state %s: halves %+v", f.state, f.half)
				}
			}
			if f.has(timestamps) != (port%2 == 0) || f.service != 0 || f.wscale != 7 {
				t.Errorf("state %s: record %+v", f.state, *f)
			}
		}
	}
	if got := p.Snapshot().Services[0].Flows; got != live || p.Openings() != opening {
		t.Errorf("%d flows and %d openings counted, not %d and %d", got, p.Openings(), live, opening)
	}
}

// TestCrashes kills a process at random moments while it works on the table: what it leaves always makes sense.
func TestCrashes(t *testing.T) {
	if path := os.Getenv("LEVEE_CRASH_FILE"); path != "" {
		generation, _ := strconv.Atoi(os.Getenv("LEVEE_CRASH_GENERATION"))
		hammer(t, path, generation)
	}
	crashes := 200
	if text := os.Getenv("LEVEE_CRASHES"); text != "" {
		var err error
		if crashes, err = strconv.Atoi(text); err != nil || crashes < 1 {
			t.Fatalf("LEVEE_CRASHES=%q is no number of crashes", text)
		}
	}
	path := filepath.Join(t.TempDir(), "flows")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var sum Restored
	for i := range crashes {
		child := exec.Command(self, "-test.run=^TestCrashes$")
		child.Env = append(os.Environ(), "LEVEE_CRASH_FILE="+path, fmt.Sprintf("LEVEE_CRASH_GENERATION=%d", 2*i))
		out, err := child.StdoutPipe()
		if err == nil {
			err = child.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 8)
		if _, err := out.Read(line); err != nil || string(line) != "working\n" {
			rest := make([]byte, 4096)
			n, _ := out.Read(rest)
			t.Fatalf("the process says %q (%v): %s", line, err, rest[:n])
		}
		time.Sleep(rand.N(5 * time.Millisecond))
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait()
		r := newCrashRig(t, path, 2*i+1)
		checkCrashed(t, r.proxy)
		got := r.proxy.Restored()
		if got.Senseless != 0 || got.Unserved != 0 {
			t.Errorf("crash %d: restored %+v", i, got)
		}
		sum.Flows += got.Flows
		sum.Rewritten += got.Rewritten
		if err := unix.Munmap(r.proxy.cfg.State.Memory); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			t.Fatalf("after crash %d", i)
		}
	}
	t.Logf("%d crashes, %d flows restored, %d records were being rewritten", crashes, sum.Flows, sum.Rewritten)
	if sum.Flows == 0 {
		t.Error("there never was a flow")
	}
}
