package script

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"levee/stack/stacktest"
)

// wire is a Network that carries packets from one side to the other, after edit.
type wire struct {
	box  [2]chan Arrival
	edit func(packet []byte) [][]byte
}

func newWire(edit func([]byte) [][]byte) *wire {
	w := &wire{edit: edit}
	for i := range w.box {
		w.box[i] = make(chan Arrival, 64)
	}
	return w
}

func (w *wire) Send(from Side, packet []byte) error {
	for _, p := range w.edit(append([]byte(nil), packet...)) {
		w.box[from.peer()] <- Arrival{p, time.Now()}
	}
	return nil
}

func (w *wire) Next(to Side, deadline time.Time) (Arrival, bool) {
	select {
	case a := <-w.box[to]:
		return a, true
	default:
	}
	select {
	case a := <-w.box[to]:
		return a, true
	case <-time.After(time.Until(deadline)):
		return Arrival{}, false
	}
}

func same(p []byte) [][]byte { return [][]byte{p} }

// testAddresses are any of the family.
func testAddresses(f Family) Addresses {
	if f == IPv4 {
		return Addresses{
			Host:   [2]netip.Addr{netip.MustParseAddr("198.51.100.129"), netip.MustParseAddr("192.0.2.129")},
			Router: [2]netip.Addr{netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("192.0.2.10")},
		}
	}
	return Addresses{
		Host:   [2]netip.Addr{netip.MustParseAddr("2001:db8:2::1:1"), netip.MustParseAddr("2001:db8:1::1:1")},
		Router: [2]netip.Addr{netip.MustParseAddr("2001:db8:2::a"), netip.MustParseAddr("2001:db8:1::a")},
	}
}

// play runs steps over both families and a network.
func play(t *testing.T, steps string, edit func([]byte) [][]byte) map[Family]error {
	t.Helper()
	s, err := parseText(t, "# Summary.\n"+steps)
	if err != nil {
		t.Fatal(err)
	}
	out := map[Family]error{}
	for _, f := range s.Families {
		out[f] = s.Run(newWire(edit), testAddresses(f))
	}
	return out
}

// TestRunPasses checks that what is sent matches itself, in all its shapes.
func TestRunPasses(t *testing.T) {
	for name, steps := range map[string]string{
		"a handshake": `client > S seq=1000 opts=mss:1460,sack,ts:100:0,ws:7
server < S seq=1000 ack=0 win=64240 opts=ws:7,mss:1460,ts:100:0,sack
server > SA seq=0xfffffff0 ack=1001 opts=nop,ts:0xfffffffe:100
client < SA seq=K ack=1001 opts=ts:T:100
client > A seq=1001 ack=K+1 opts=sack:K+0x20..K+33:1..2
server < A seq=1001 ack=K+1 exact=sack:16..17:1..2
client > A seq=K+0x11 ack=T+3
server < A seq=1 ack=1`,
		"numbers": `let N = 5
client > A seq=N+0x10-1 ack=0 win=7
server < A seq=20 ack=* win=5..9
client > A seq=3 ack=0xffffffff
server < A seq=0xfffffff0..4 ack=X
server > A seq=X+2 ack=0
client < A seq=1 ack=0`,
		"every flag": `client > SFRPAUECN seq=1
server < NCEUAPRFS seq=1 ack=0
client > - seq=1
server < - seq=1`,
		"fields": `client > PAU seq=1 ack=2 win=3 len=1000 urg=4 res=5 dscp=6 ecn=1 label=8 ttl=9
server < PAU seq=1 ack=2 win=3 len=1000 urg=4 res=5 dscp=6 ecn=1 label=8 ttl=9
client > A seq=1 bad=checksum
server < A seq=1 ack=0 bad=checksum
client > A seq=1 conn=4
server < A seq=1 ack=0 conn=4`,
		"options": `client > A seq=1 opts=nop,tfo:0102,md5,nop
server < A seq=1 ack=0 opts=md5,tfo:0102
client > A seq=1 opts=ao,mp_join,nop,nop
server < A seq=1 ack=0 exact=ao,mp_join,nop,nop
client > A seq=1 opts=mp_capable,accecn,opt:253:,tfo,nop
server < A seq=1 ack=0 exact=mp_capable,accecn,opt:253:,tfo,nop
client > A seq=1
server < A seq=1 ack=0 opts=none`,
		"headers": `client > A seq=1 ip=options
server < A seq=1 ack=0 ip=options
client > A seq=1 len=1004 frag=0+
server < A seq=1 ack=0 len=1004 frag=0+
client > rest frag=1024+ len=16 dscp=1
server < rest frag=1024+ len=16
client > rest frag=1040 len=9
server < rest frag=1040 len=9`,
		"ICMP": `client > icmp toobig mtu=1280 seq=5 ack=6 len=1000 win=7 quote=8
server < icmp toobig mtu=1280 seq=5 ack=6 len=1000 win=7 quote=8
server > icmp port seq=9 flags=S opts=mss:1460 quote=60
client < icmp port seq=9 flags=S opts=mss:1460 quote=60`,
		"silence": `nothing both 20ms
wait 10ms`,
	} {
		for f, err := range play(t, steps, same) {
			if err != nil {
				t.Errorf("%s, %s: %v", name, f, err)
			}
		}
	}
	for name, steps := range map[string]string{
		"IPv4": "only: IPv4\nclient > A seq=1 ip=router-alert,options\nserver < A seq=1 ack=0 ip=router-alert,options",
		"IPv6": "only: IPv6\nclient > A seq=1 ip=hop,route,ah,dst\nserver < A seq=1 ack=0 ip=hop,route,ah,dst",
	} {
		for _, err := range play(t, steps, same) {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestRunFails checks that every difference is seen and named.
func TestRunFails(t *testing.T) {
	for steps, why := range map[string]string{
		"client > A seq=1\nserver < A seq=2 ack=0":                                        "different: seq",
		"client > A seq=1\nserver < A seq=2..1000 ack=0":                                  "different: seq",
		"client > A seq=1 ack=3\nserver < A seq=K ack=K+1":                                "different: ack",
		"client > S seq=1 ack=3\nserver < S seq=1 ack=0":                                  "different: ack",
		"client > A seq=1\nserver < S seq=1":                                              "different: flags",
		"client > A seq=1\nserver < AN seq=1 ack=0":                                       "different: flags",
		"client > A seq=1 win=1\nserver < A seq=1 ack=0 win=2":                            "different: win",
		"client > A seq=1 len=1\nserver < A seq=1 ack=0":                                  "different: len",
		"client > A seq=1 urg=1\nserver < A seq=1 ack=0":                                  "different: urg",
		"client > A seq=1 res=1\nserver < A seq=1 ack=0":                                  "different: res",
		"client > A seq=1 dscp=1\nserver < A seq=1 ack=0":                                 "different: dscp",
		"client > A seq=1 ecn=1\nserver < A seq=1 ack=0":                                  "different: ecn",
		"client > A seq=1 ttl=9\nserver < A seq=1 ack=0 ttl=8":                            "different: ttl",
		"only: IPv6\nclient > A seq=1 label=9\nserver < A seq=1 ack=0 label=8":            "different: label",
		"client > A seq=1 ip=options\nserver < A seq=1 ack=0":                             "different: ip or frag",
		"client > A seq=1 frag=0+\nserver < A seq=1 ack=0":                                "different: ip or frag",
		"client > A seq=1 bad=checksum\nserver < A seq=1 ack=0":                           "different: TCP checksum",
		"client > A seq=1 conn=2\nserver < A seq=1 ack=0":                                 "different: address or port",
		"client > A seq=1 opts=mss:9\nserver < A seq=1 ack=0 opts=mss:8":                  "different: opts",
		"client > A seq=1 opts=mss:9\nserver < A seq=1 ack=0 opts=none":                   "different: opts",
		"client > A seq=1\nserver < A seq=1 ack=0 opts=mss:9":                             "different: opts",
		"client > A seq=1 opts=sack,sack\nserver < A seq=1 ack=0 opts=sack":               "different: opts",
		"client > A seq=1 opts=sack,mss:9\nserver < A seq=1 ack=0 exact=mss:9,sack":       "different: opts",
		"client > A seq=1 opts=sack,nop,nop\nserver < A seq=1 ack=0 exact=nop,sack,nop":   "different: opts",
		"client > A seq=1 opts=sack:1..2\nserver < A seq=1 ack=0 opts=sack:1..3":          "different: opts",
		"client > A seq=1 opts=sack:1..2\nserver < A seq=1 ack=0 opts=sack:1..2:3..4":     "different: opts",
		"client > A seq=1 opts=opt:9:01\nserver < A seq=1 ack=0 opts=opt:9:02":            "different: opts",
		"client > A seq=1\nserver < rest frag=8":                                          "not a later fragment",
		"client > A seq=1\nserver < icmp port seq=1":                                      "not an ICMP error",
		"client > rest frag=8 len=8\nserver < A seq=1 ack=0":                              "not a TCP segment",
		"client > rest frag=8 len=8\nserver < rest frag=16 len=8":                         "different: frag",
		"client > rest frag=8+ len=8\nserver < rest frag=8 len=8":                         "different: frag",
		"client > rest frag=8 len=8\nserver < rest frag=8 len=9":                          "different: payload",
		"client > icmp port seq=1\nserver < icmp host seq=1":                              "different: type or code",
		"client > icmp toobig mtu=1 seq=1\nserver < icmp toobig mtu=2 seq=1":              "different: mtu",
		"client > icmp port seq=1\nserver < icmp port seq=2":                              "different: what it quotes",
		"client > icmp port seq=1 quote=8\nserver < icmp port seq=1 quote=9":              "different: what it quotes",
		"client > A seq=1\nnothing server 50ms":                                           "no step asks for",
		"client > A seq=1":                                                                "no step asks for",
		"client > A seq=1\nnothing client 20ms\nserver < A seq=1 ack=0\nserver > A seq=1": "no step asks for",
		"client > A seq=1\nserver < A seq=1 ack=0 after=1s":                               "time: it came after",
		"tolerance: 10ms\nclient > A seq=1\nclient < A seq=1 ack=0 after=30ms":            "nothing came to the client in 40ms",
	} {
		for f, err := range play(t, steps, same) {
			var failure *Failure
			if !errors.As(err, &failure) || !strings.Contains(failure.Why, why) {
				t.Errorf("%q over %s: %v, want %q", steps, f, err, why)
			}
		}
	}
}

// TestRunSeesDamage checks that a network that changes any bit of a segment is found out.
func TestRunSeesDamage(t *testing.T) {
	const steps = "client > PA seq=1 ack=2 win=3 len=20 opts=ts:1:2,nop,nop ttl=64 label=0\nserver < PA seq=1 ack=2 win=3 len=20 exact=ts:1:2,nop,nop ttl=64 label=0"
	a := map[Family]Addresses{IPv4: testAddresses(IPv4), IPv6: testAddresses(IPv6)}
	for _, f := range Families {
		s, err := parseText(t, "# Summary.\n"+steps)
		if err != nil {
			t.Fatal(err)
		}
		env, addresses := names{}, a[f]
		whole := s.steps[0].packet.bytes(env, &addresses, Client)
		if got := read(whole); s.steps[1].packet.differences(&got, env, &addresses, Server) != nil {
			t.Fatal("it doesn't match itself")
		}
		for bit := range len(whole) * 8 {
			damaged := append([]byte(nil), whole...)
			damaged[bit/8] ^= 1 << (bit % 8)
			got := read(damaged)
			if s.steps[1].packet.differences(&got, env, &addresses, Server) == nil {
				// The identification of IPv4 means nothing here, and DF isn't compared; the header checksum tells.
				t.Errorf("%s: bit %d of byte %d is not seen", f, bit%8, bit/8)
			}
		}
	}
}

// TestFailureTells checks that a failure has the line, what was wanted, what came, and everything before.
func TestFailureTells(t *testing.T) {
	err := play(t, `only: IPv4
client > S seq=1
server < S seq=1
server > SA seq=4000000000 ack=2 opts=mss:1460,sack,ts:7:8
client < SA seq=K ack=2
client > A seq=2 ack=K+1
server < A seq=2 ack=K+2
`, same)[IPv4]
	if err == nil {
		t.Fatal("it passes")
	}
	for _, want := range []string{
		"a.txt:8: different: ack", "want server < A seq=2 ack=K+2", "seen server < A seq=2 ack=K+1 win=64240",
		"client > S seq=1 win=64240", "client < SA seq=4000000000 ack=2 win=64240 opts=mss:1460,sack,ts:7:8",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in\n%v", want, err)
		}
	}
}

// TestDescribe checks that packets are shown in the words of scripts.
func TestDescribe(t *testing.T) {
	for _, f := range Families {
		for steps, want := range map[string]string{
			"client > SFRPAUECN seq=1 ack=2 win=3 len=4 urg=5 res=6 dscp=7 ecn=1 conn=2": "FSRPAUECN seq=1 ack=2 win=3 len=4 urg=5 res=6 dscp=7 ecn=1 conn=2",
			"client > A seq=1 bad=checksum opts=sack:1..2:3..4,opt:9:0a,tfo,nop":         "A seq=1 ack=0 win=64240 opts=sack:1..2:3..4,opt:9:0a,tfo,nop bad=checksum",
			"client > A seq=1 frag=0+ len=1004":                                          "frag=0+",
			"client > rest frag=1024 len=7":                                              "rest frag=1024 len=7",
			"client > icmp toobig mtu=1280 seq=77 quote=8":                               "icmp toobig mtu=1280 quote=8 seq=77",
		} {
			s, err := parseText(t, "# Summary.\n"+steps)
			if err != nil {
				t.Fatal(err)
			}
			a := testAddresses(f)
			got := read(s.steps[0].packet.bytes(names{}, &a, Client))
			if text := got.describe(names{}, &a); !strings.Contains(text, want) && !(f == IPv6 && want == "frag=0+" && strings.Contains(text, "ip=44:")) {
				t.Errorf("%s over %s is described as %s", steps, f, text)
			}
		}
	}
	env := names{"K": 4_000_000_000, "small": 5}
	for n, want := range map[uint32]string{4_000_000_000: "K", 4_000_000_001: "K+1", 3_999_999_999: "K-1", 5: "5", 3_000_000_000: "3000000000"} {
		if got := env.express(n); got != want {
			t.Errorf("%d is written %s", n, got)
		}
	}
}

// TestPacketsAreSound checks what scripts send against the second opinion of package stacktest.
func TestPacketsAreSound(t *testing.T) {
	for _, f := range Families {
		s, err := parseText(t, "# Summary.\nclient > PA seq=1 ack=2 len=33 ip=options opts=ts:1:2\nclient > A seq=1 land\n")
		if err != nil {
			t.Fatal(err)
		}
		a := testAddresses(f)
		for i := range s.steps {
			if raw := s.steps[i].packet.bytes(names{}, &a, Client); !stacktest.FullChecksumOK(raw) {
				t.Errorf("%s: wrong checksum: %x", f, raw)
			}
		}
		land := read(s.steps[1].packet.bytes(names{}, &a, Client)).segment
		if land.Src != land.Dst || land.Src != a.end(Server, 1) {
			t.Error(fmt.Sprint("land from ", land.Src, " to ", land.Dst))
		}
	}
}
