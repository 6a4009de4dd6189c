package proxytest

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// HostConfig says how a host differs from others. The zero value is an ordinary one.
type HostConfig struct {
	// ReceiveBuffer and SendBuffer in bytes, 1 MiB if 0. gVisor takes the window scale from the first, the smallest that
	// can express it (ReceiveBufferFor), and offers half of it as the window.
	ReceiveBuffer, SendBuffer int
	// MTU in bytes, 1500 if 0.
	MTU uint32
	// GSO: the host sends superpackets and leaves checksums to its network card.
	GSO bool
	// NoSACK: the host does not do selective acknowledgements.
	NoSACK bool
	// Stubborn: the host never gives up a connection for want of an answer, and never waits longer than 8 s to try again.
	Stubborn bool
	// TimeWait is how long the host remembers connections that it closed first, 60 s if 0.
	TimeWait time.Duration
}

// ReceiveBufferFor is a receive buffer, in bytes, with which a host asks for a window scale of 0 to 14.
func ReceiveBufferFor(wscale int) int { return 0xffff << wscale }

// Host is an end host: a gVisor stack with one address of each family.
type Host struct {
	net   *Network
	cfg   HostConfig
	out   Hop
	addrs []netip.Addr
	link  *channel.Endpoint
	stack *gstack.Stack

	listeners []*Listener
	// ready are the connections whose applications may have something to do.
	ready []*Conn
}

const nicID = 1

// endless is how often a stubborn host tries.
const endless = 200

// sendQueue is the most packets a stack can send at one instant; more would be lost.
const sendQueue = 1 << 14

func newHost(n *Network, out Hop, seed uint64, cfg HostConfig, addrs ...netip.Addr) *Host {
	h := &Host{net: n, cfg: cfg, out: out, addrs: addrs}
	h.link = channel.New(sendQueue, cmp.Or(cfg.MTU, 1500), "")
	if cfg.GSO {
		h.link.SupportedGSOKind = gstack.HostGSOSupported
	}
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	key[8] = byte(out)
	h.stack = newStack(gstack.Options{
		NetworkProtocols:   []gstack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []gstack.TransportProtocolFactory{tcp.NewProtocol},
		Clock:              n.Clock,
		SecureRNG:          rand.NewChaCha8(key),
	})

	must := func(what string, err tcpip.Error) {
		if err != nil {
			n.tb.Fatalf("proxytest: %s: %s", what, err)
		}
	}
	setting := func(o tcpip.SettableTransportProtocolOption) {
		must(fmt.Sprintf("%T", o), h.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o))
	}
	receive, send := cmp.Or(cfg.ReceiveBuffer, 1<<20), cmp.Or(cfg.SendBuffer, 1<<20)
	setting(&tcpip.TCPReceiveBufferSizeRangeOption{Min: 1, Default: receive, Max: receive})
	setting(&tcpip.TCPSendBufferSizeRangeOption{Min: 1, Default: send, Max: send})
	sack, moderate := tcpip.TCPSACKEnabled(!cfg.NoSACK), tcpip.TCPModerateReceiveBufferOption(false)
	setting(&sack)
	setting(&moderate)
	// Without RACK and its tail loss probe: when the probe is lost, gVisor may forget its retransmission timer, and the
	// connection hangs for good, with or without levee.
	noRACK := tcpip.TCPRecovery(0)
	setting(&noRACK)
	if cfg.Stubborn {
		longest, retries, syns := tcpip.TCPMaxRTOOption(8*time.Second), tcpip.TCPMaxRetriesOption(endless), tcpip.TCPSynRetriesOption(endless)
		setting(&longest)
		setting(&retries)
		setting(&syns)
	}
	if cfg.TimeWait != 0 {
		timeWait := tcpip.TCPTimeWaitTimeoutOption(cfg.TimeWait)
		setting(&timeWait)
	}

	must("NIC", h.stack.CreateNIC(nicID, h.link))
	for _, a := range addrs {
		proto := protocolOf(a)
		must(a.String(), h.stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
			Protocol:          proto,
			AddressWithPrefix: tcpip.AddrFromSlice(a.AsSlice()).WithPrefix(),
		}, gstack.AddressProperties{}))
	}
	h.stack.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	h.stack.Pause()
	return h
}

// procs guards GOMAXPROCS in newStack.
var procs sync.Mutex

// newStack makes a stack whose TCP has one goroutine. gVisor starts one for each of GOMAXPROCS, and one of them can
// give work to another that Host.work has stopped already.
func newStack(o gstack.Options) *gstack.Stack {
	procs.Lock()
	defer procs.Unlock()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	return gstack.New(o)
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

// Addr is the host's first address of a family.
func (h *Host) Addr(v6 bool) netip.Addr {
	for _, a := range h.addrs {
		if a.Is6() == v6 {
			return a
		}
	}
	panic("proxytest: host without an address of this family")
}

// Stats are the stack's counters.
func (h *Host) Stats() tcpip.Stats { return h.stack.Stats() }

// inject hands the host a packet and lets it work it off.
func (h *Host) inject(ip []byte) {
	pkt := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: buffer.MakeWithData(ip)})
	proto := ipv4.ProtocolNumber
	if ip[0]>>4 == header.IPv6Version {
		proto = ipv6.ProtocolNumber
	}
	h.link.InjectInbound(proto, pkt)
	pkt.DecRef()
	h.work()
}

// work lets gVisor's goroutines run until every segment that has come is processed. At all other times they stand still.
func (h *Host) work() {
	h.stack.Resume()
	h.stack.Pause()
}

// pump lets the applications run and puts what the host has sent on the wire. It says whether anything happened.
func (h *Host) pump() bool {
	busy := false
	for _, l := range h.listeners {
		busy = l.poll() || busy
	}
	for ready := h.ready; len(ready) > 0; ready = h.ready {
		h.ready = nil
		for _, c := range ready {
			c.ready = false
			busy = c.poll() || busy
		}
	}
	for pkt := h.link.Read(); pkt != nil; pkt = h.link.Read() {
		h.net.transmit(h.out, frameOf(pkt))
		pkt.DecRef()
		busy = true
	}
	return busy
}

// close ends the stack and its goroutines.
func (h *Host) close() {
	h.stack.Resume()
	h.stack.Close()
	h.link.Close()
	h.stack.Wait()
}
