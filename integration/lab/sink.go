package lab

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Sink counts the packets that come into an interface and drops them at its door, before the kernel looks at
// what they are. Packet sockets, a Capture's for example, see them all the same.
type Sink struct {
	namespace *Namespace
	chain     *nftables.Chain
}

// StartSink drops what comes into the end's interface until Stop: every packet if port is 0, otherwise the TCP
// packets from or to that port. One sink for each port fits on an interface.
func (e *End) StartSink(port uint16) (*Sink, error) {
	c, err := e.Namespace.nft()
	if err != nil {
		return nil, fmt.Errorf("drop what comes into %s: %w", e, err)
	}
	table := c.AddTable(&nftables.Table{
		Family: nftables.TableFamilyNetdev, Name: fmt.Sprintf("levee_lab_sink_%s_%d", e.Name, port),
	})
	chain := c.AddChain(&nftables.Chain{
		Name: "ingress", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityFilter, Device: e.Name,
	})
	matches := [][]expr.Any{nil}
	if port != 0 {
		matches = [][]expr.Any{tcpPort(tcpSrcPortAt, port), tcpPort(tcpDstPortAt, port)}
	}
	for _, m := range matches {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(m,
			&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})})
	}
	if err := c.Flush(); err != nil {
		return nil, fmt.Errorf("drop what comes into %s: %w", e, err)
	}
	return &Sink{namespace: e.Namespace, chain: chain}, nil
}

// Offsets of the ports in the TCP header.
const (
	tcpSrcPortAt = 0
	tcpDstPortAt = 2
)

// tcpPort matches TCP packets with the port at the offset.
func tcpPort(offset uint32, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protoTCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
	}
}

// Packets is how many were dropped so far.
func (s *Sink) Packets() (int, error) {
	packets, err := s.namespace.ruleCounters(s.chain)
	if err != nil {
		return 0, fmt.Errorf("read what was dropped at %s: %w", s.chain.Device, err)
	}
	sum := 0
	for _, n := range packets {
		sum += n
	}
	return sum, nil
}

// Stop lets packets in again.
func (s *Sink) Stop() error {
	c, err := s.namespace.nft()
	if err == nil {
		c.DelTable(s.chain.Table)
		err = c.Flush()
	}
	if err != nil {
		return fmt.Errorf("stop dropping at %s: %w", s.chain.Device, err)
	}
	return nil
}

// ruleCounters are the packets that the counters of a chain have counted, in the order of its rules.
func (n *Namespace) ruleCounters(chain *nftables.Chain) (packets []int, err error) {
	c, err := n.nft()
	if err != nil {
		return nil, err
	}
	rules, err := c.GetRules(chain.Table, chain)
	if err != nil {
		return nil, err
	}
	for _, r := range rules {
		for _, x := range r.Exprs {
			if counter, ok := x.(*expr.Counter); ok {
				packets = append(packets, int(counter.Packets))
			}
		}
	}
	return packets, nil
}
