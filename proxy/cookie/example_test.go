package cookie_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"levee/proxy/cookie"
)

// A server's side of two handshakes: one client with timestamps, one without.
func Example() {
	// A program takes its secret from LoadSecret and its time from the clock, once per batch of packets.
	maker := cookie.NewMaker(cookie.Secret{1, 2, 3})
	var unix int64 = 1_790_000_000

	// A SYN comes in.
	tuple := cookie.Tuple{
		Client:     netip.MustParseAddr("192.0.2.1").As16(),
		Server:     netip.MustParseAddr("198.51.100.1").As16(),
		ClientPort: 49152,
		ServerPort: 443,
	}
	const clientISN = 1000
	options := cookie.Options{MSS: 1412, WScale: 9, SACK: true, ECN: true}

	// Answer it with SEQ = isn, ACK = clientISN + 1, TSval = tsval, and forget it.
	isn, tsval := maker.IssueTS(unix, &tuple, clientISN, options)

	// 20 s later the client's ACK comes in.
	ack := cookie.Ack{Seq: clientISN + 1, Ack: isn + 1, Timestamps: true, TSEcr: tsval}
	if v, ok := maker.Check(unix+20, &tuple, ack); ok {
		fmt.Printf("client ISN %d, %+v\n", v.ClientISN, v.Options)
	}

	// Without timestamps there is room for less.
	isn = maker.Issue(unix, &tuple, clientISN, options)
	if v, ok := maker.Check(unix+20, &tuple, cookie.Ack{Seq: clientISN + 1, Ack: isn + 1}); ok {
		fmt.Printf("client ISN %d, %+v\n", v.ClientISN, v.Options)
	}

	// A guess is refused.
	_, ok := maker.Check(unix+20, &tuple, cookie.Ack{Seq: clientISN + 1, Ack: isn + 2})
	fmt.Println(ok)
	// Output:
	// client ISN 1000, {MSS:1400 WScale:9 SACK:true ECN:true}
	// client ISN 1000, {MSS:1400 WScale:8 SACK:true ECN:false}
	// false
}

func ExampleMaker_Check_probe() {
	maker := cookie.NewMaker(cookie.Secret{1, 2, 3})
	tuple := cookie.Tuple{
		Client:     netip.MustParseAddr("2001:db8::1").As16(),
		Server:     netip.MustParseAddr("2001:db8:1::1").As16(),
		ClientPort: 49152,
		ServerPort: 22,
	}
	isn := maker.Issue(0, &tuple, 1000, cookie.Options{MSS: 1440, WScale: cookie.WScaleNone})

	// The ACK was lost; a keep-alive, which repeats the sequence number of the SYN, serves as well.
	v, ok := maker.Check(75, &tuple, cookie.Ack{Seq: 1000, Ack: isn + 1})
	fmt.Println(ok, v.Probe, v.ClientISN)

	// 128 s after the start of its epoch the cookie is no good.
	_, ok = maker.Check(128, &tuple, cookie.Ack{Seq: 1000, Ack: isn + 1})
	fmt.Println(ok)
	// Output:
	// true true 1000
	// false
}

// Tell beforehand what a cookie will give back.
func ExampleRoundMSS() {
	fmt.Println(cookie.RoundMSS(false, 1459), cookie.RoundWScale(false, 9))
	// An MSS below the table is the one value that grows: look before you answer.
	const v6, mss = false, 400
	fmt.Println(cookie.RoundMSS(v6, mss) > mss)
	// Output:
	// 1452 8
	// true
}

func ExampleLoadSecret() {
	dir, err := os.MkdirTemp("", "cookie")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "state", "cookie.key")

	first, err := cookie.LoadSecret(path) // makes it
	if err != nil {
		fmt.Println(err)
		return
	}
	second, err := cookie.LoadSecret(path) // reads it
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(first == second, first)
	// Output: true [redacted]
}

func ExampleGate() {
	var gate cookie.Gate
	fmt.Println(gate.Open(1000)) // no SYN yet, so no ACK can be good
	gate.Issued(1000)
	fmt.Println(gate.Open(1030), gate.Open(1128))
	// Output:
	// false
	// true false
}
