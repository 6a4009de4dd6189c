package routes

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// stateUntracked is a packet's of no connection that is tracked, in the mask of a ct state (NF_CT_STATE_UNTRACKED_BIT).
const stateUntracked = 1 << 6

// InspectFirewall looks for a forward chain that drops protected traffic once it is exempt from connection tracking: its policy is to drop, and it goes by the
// state of connections, with no rule for what has none. What can't be read isn't found, such as the rules of iptables.
func InspectFirewall(live Live, plan *Plan) (out []Finding) {
	if plan == nil || !plan.wantsExemption(&live) {
		return nil
	}
	_ = withNFT(func(c *nftables.Conn) error {
		chains, err := c.ListChains()
		if err != nil {
			return err
		}
		for _, chain := range chains {
			if chain.Hooknum == nil || *chain.Hooknum != *nftables.ChainHookForward || chain.Policy == nil || *chain.Policy != nftables.ChainPolicyDrop {
				continue
			}
			if stateful, untracked, err := stateRules(c, chains, chain.Table); err != nil || !stateful || untracked {
				continue
			}
			out = append(out, Finding{What: "firewall",
				Text: fmt.Sprintf("the nftables chain %s of table %s drops what it doesn't accept, and accepts by the state of connections: protected traffic has none, as it is exempt from connection tracking",
					chain.Name, chain.Table.Name),
				Remedy: "accept it there by ct state untracked, as operations.md has it under Firewalls and connection tracking"})
		}
		return nil
	})
	return out
}

// stateRules says whether there are rules in a table that go by the state of connections, and whether one of them is for what isn't tracked, or may be.
func stateRules(c *nftables.Conn, chains []*nftables.Chain, table *nftables.Table) (stateful, untracked bool, err error) {
	for _, chain := range chains {
		if chain.Table.Name != table.Name || chain.Table.Family != table.Family {
			continue
		}
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			return false, false, err
		}
		for _, r := range rules {
			i := slices.IndexFunc(r.Exprs, func(e expr.Any) bool { ct, ok := e.(*expr.Ct); return ok && ct.Key == expr.CtKeySTATE })
			if i < 0 {
				continue
			}
			stateful = true
			states := uint32(stateUntracked) // of a set or a map, anything
			if i+1 < len(r.Exprs) {
				states = statesOf(r.Exprs[i+1])
			}
			untracked = untracked || states&stateUntracked != 0
		}
	}
	return stateful, untracked, nil
}

// statesOf are those that an expression behind a ct state asks for.
func statesOf(e expr.Any) uint32 {
	switch e := e.(type) {
	case *expr.Bitwise:
		if len(e.Mask) == 4 {
			return binary.NativeEndian.Uint32(e.Mask)
		}
	case *expr.Cmp:
		if len(e.Data) == 4 {
			return binary.NativeEndian.Uint32(e.Data)
		}
	}
	return stateUntracked
}
