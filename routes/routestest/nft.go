package routestest

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
)

// nftTables lists the tables, the chains with how many rules they have, and the sets.
func nftTables() (out []string, err error) {
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.CloseLasting()) }()
	tables, err := c.ListTables()
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		out = append(out, fmt.Sprintf("nft table %d %s", t.Family, t.Name))
		sets, err := c.GetSets(t)
		if err != nil {
			return nil, err
		}
		for _, s := range sets {
			elements, err := c.GetSetElements(s)
			if err != nil {
				return nil, err
			}
			out = append(out, fmt.Sprintf("nft set %d %s %s with %d elements", t.Family, t.Name, s.Name, len(elements)))
		}
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, err
	}
	for _, chain := range chains {
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			return nil, err
		}
		out = append(out, fmt.Sprintf("nft chain %d %s %s with %d rules", chain.Table.Family, chain.Table.Name, chain.Name, len(rules)))
	}
	return out, nil
}
