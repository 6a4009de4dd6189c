package lab_test

import (
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"levee/integration/lab"
	"levee/integration/lab/labtest"
)

func TestSetLoss(t *testing.T) {
	const sent = 2000
	l := labtest.New(t, lab.Config{})
	for _, f := range families {
		for _, tc := range []struct{ percent, least, most int }{
			{100, 0, 0}, {0, sent, sent},
			// Eight standard deviations around 1600.
			{20, 1457, 1743},
		} {
			if err := l.Servers[0].SetLoss(tc.percent); err != nil {
				t.Fatal(err)
			}
			if got := datagrams(t, l, f.v6, sent); got < tc.least || got > tc.most {
				t.Errorf("%s: %d of %d datagrams arrived at %d %% loss", f.name, got, sent, tc.percent)
			}
		}
	}
	for _, bad := range []int{-1, 101} {
		if err := l.Servers[0].SetLoss(bad); err == nil {
			t.Errorf("a loss of %d %% was accepted", bad)
		}
	}
}

// datagrams sends UDP datagrams from the client to the server and returns how many arrive.
func datagrams(t *testing.T, l *lab.Lab, v6 bool, n int) (arrived int) {
	t.Helper()
	to := net.UDPAddrFromAddrPort(l.Servers[0].AddrPort(v6, 9))
	var in, out *net.UDPConn
	if err := l.Servers[0].Do(func() (err error) { in, err = net.ListenUDP("udp", to); return err }); err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	raw, err := in.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	// Room for all of them.
	var roomErr error
	err = raw.Control(func(fd uintptr) {
		roomErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	})
	if err := errors.Join(err, roomErr); err != nil {
		t.Fatal(err)
	}
	if err := l.Clients[0].Do(func() (err error) { out, err = net.DialUDP("udp", nil, to); return err }); err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	buf := make([]byte, 16)
	for range n {
		if _, err := out.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	// A veth delivers before or soon after send returns.
	for {
		if err := in.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := in.Read(buf); err != nil {
			return arrived
		}
		arrived++
	}
}
