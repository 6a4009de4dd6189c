package lab

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// nft changes the namespace's nftables. They go with the namespace.
func (n *Namespace) nft() (*nftables.Conn, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.closed {
		return nil, errClosed
	}
	return nftables.New(nftables.WithNetNSFd(int(n.handle)))
}

// lossTable is the nftables table of SetLoss.
const lossTable = "levee_lab_loss"

// SetLoss drops percent of all packets that come into the namespace from any interface but lo, at
// random, before they are routed; 0 ends it. A packet that crosses a TUN in the namespace comes in
// twice. A superpacket of an interface with offloads counts, and is lost, as one packet.
func (n *Namespace) SetLoss(percent int) error {
	if percent < 0 || percent > 100 {
		return fmt.Errorf("loss of %d %% in %s: use 0 to 100", percent, n.Name)
	}
	c, err := n.nft()
	if err != nil {
		return fmt.Errorf("set loss in %s: %w", n.Name, err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: lossTable}
	// Adding a table that exists changes nothing, so that deleting it always works.
	c.AddTable(table)
	c.DelTable(table)
	if percent > 0 {
		c.AddTable(table)
		chain := c.AddChain(&nftables.Chain{
			Name: "prerouting", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
		})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte("lo\x00")},
			&expr.Numgen{Register: 1, Modulus: 100, Type: unix.NFT_NG_RANDOM},
			// The kernel compares bytes, so the number has to be big-endian.
			&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
			&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binaryutil.BigEndian.PutUint32(uint32(percent))},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("set loss of %d %% in %s: %w", percent, n.Name, err)
	}
	return nil
}

// SYNCounter counts handshake packets that come into an interface.
type SYNCounter struct {
	namespace *Namespace
	chain     *nftables.Chain
}

const (
	flagACK = 0x10
	// tcpFlagsAt is the offset of the flags in the TCP header.
	tcpFlagsAt = 13
)

// CountSYNs counts the SYNs and SYN-ACKs that come into the end's interface, whatever their addresses. If
// swallow is set, the SYN-ACKs go no further: a flood's answers then cost its sender's namespace next to
// nothing. One counter fits on an interface.
func (e *End) CountSYNs(swallow bool) (*SYNCounter, error) {
	c, err := e.Namespace.nft()
	if err != nil {
		return nil, fmt.Errorf("count SYNs of %s: %w", e, err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyNetdev, Name: "levee_lab_syns_" + e.Name})
	chain := c.AddChain(&nftables.Chain{
		Name: "ingress", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityFilter, Device: e.Name,
	})
	verdict := map[bool]expr.VerdictKind{true: expr.VerdictDrop, false: expr.VerdictAccept}
	for _, r := range []struct {
		flags byte
		drop  bool
	}{{flagSYN, false}, {flagSYN | flagACK, swallow}} {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protoTCP}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlagsAt, Len: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{flagSYN | flagACK}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{r.flags}},
			&expr.Counter{},
			&expr.Verdict{Kind: verdict[r.drop]},
		}})
	}
	if err := c.Flush(); err != nil {
		return nil, fmt.Errorf("count SYNs of %s: %w", e, err)
	}
	return &SYNCounter{namespace: e.Namespace, chain: chain}, nil
}

// Read returns how many packets came in so far.
func (s *SYNCounter) Read() (syns, synAcks int, err error) {
	packets, err := s.namespace.ruleCounters(s.chain)
	if err == nil && len(packets) != 2 {
		err = fmt.Errorf("%d counters instead of 2", len(packets))
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read SYN counter of %s: %w", s.chain.Device, err)
	}
	return packets[0], packets[1], nil
}
