package routes

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// conntrackCount is how many connections are tracked in the namespace. It is there in every one if the kernel can track.
const conntrackCount = "/proc/sys/net/netfilter/nf_conntrack_count"

// Messages of nfnetlink_hook (include/uapi/linux/netfilter/nfnetlink_hook.h), which lists the hooks of a namespace since Linux 5.14.
const (
	hookSubsystem    = 12 // NFNL_SUBSYS_HOOK
	hookGet          = 0  // NFNL_MSG_HOOK_GET
	hookNumber       = 1  // NFNLA_HOOK_HOOKNUM
	hookFunctionName = 4  // NFNLA_HOOK_FUNCTION_NAME
)

// conntrackFunctions are the names of the hooks that track.
var conntrackFunctions = map[Family]string{V4: "ipv4_conntrack_in", V6: "ipv6_conntrack_in"}

// Tracking says whether the kernel tracks connections in the namespace of the calling thread. Where it doesn't list its hooks (CONFIG_NETFILTER_NETLINK_HOOK,
// or a right of the caller's, is missing) that is told by the rulesets; what tracks without any, as Open vSwitch does, shows only once there is a connection.
func Tracking() (bool, error) {
	tracks, _, err := tracking()
	return tracks, err
}

// tracking is Tracking, and says whether the answer is sure: a no may be a guess.
func tracking() (tracks, sure bool, err error) {
	count, err := os.ReadFile(conntrackCount)
	if errors.Is(err, fs.ErrNotExist) {
		return false, true, nil
	}
	if err != nil {
		return false, false, fmt.Errorf("read how many connections are tracked: %w", err)
	}
	if strings.TrimSpace(string(count)) != "0" {
		return true, true, nil
	}
	for _, f := range []Family{V4, V6} {
		functions, err := hookFunctions(f)
		switch {
		case unknown(err):
			if tracks, err = rulesetTracks(); err != nil {
				err = fmt.Errorf("read nftables: %w", err)
			}
			return tracks, false, err
		case err != nil:
			return false, false, fmt.Errorf("list netfilter hooks: %w", err)
		case slices.Contains(functions, conntrackFunctions[f]):
			return true, true, nil
		}
	}
	return false, true, nil
}

// unknown says that the kernel doesn't know the question, or doesn't answer this caller.
func unknown(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT)
}

// hookFunctions are the names of what is called for packets that come in.
func hookFunctions(f Family) (names []string, err error) {
	request := nl.NewNetlinkRequest(hookSubsystem<<8|hookGet, unix.NLM_F_DUMP)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(f.netfilter()), Version: nl.NFNETLINK_V0})
	number := make([]byte, 4)
	binary.BigEndian.PutUint32(number, unix.NF_INET_PRE_ROUTING)
	request.AddData(nl.NewRtAttr(hookNumber, number))
	answers, err := request.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return nil, err
	}
	for _, a := range answers {
		if len(a) < nl.SizeofNfgenmsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(a[nl.SizeofNfgenmsg:])
		if err != nil {
			return nil, err
		}
		for _, attr := range attrs {
			if attr.Attr.Type&nl.NLA_TYPE_MASK == hookFunctionName {
				names = append(names, strings.TrimRight(string(attr.Value), "\x00"))
			}
		}
	}
	return names, nil
}

func (f Family) netfilter() int {
	if f == V6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func nativeUint32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// Exempt says whether levee's exemption from connection tracking is in force in the namespace of the calling thread, and whether connections are tracked
// there at all.
func Exempt() (exempt, tracking bool, err error) {
	var live Live
	err = readExemption(&live)
	return live.Exemption != nil && !live.foreignExemption, live.Tracking, err
}

// readExemption fills in what plans need to know of connection tracking. Without privilege the table can't be seen.
func readExemption(live *Live) error {
	var err error
	if live.Tracking, live.trackingSure, err = tracking(); err != nil {
		return err
	}
	if _, err := os.Stat(conntrackCount); err != nil {
		return nil // a table of ours would need it
	}
	err = withNFT(func(c *nftables.Conn) error {
		tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == exemptTable })
		if i < 0 {
			return nil
		}
		live.Exemption, live.foreignExemption, err = readTable(c, tables[i])
		return err
	})
	if errors.Is(err, unix.EPERM) {
		live.exemptionHidden = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("read nftables: %w", err)
	}
	return nil
}

// readTable returns the table in lines, in order, and whether there is a rule in it that isn't levee's.
func readTable(c *nftables.Conn, table *nftables.Table) (lines []string, foreign bool, err error) {
	lines = []string{}
	sets, err := c.GetSets(table)
	if err != nil {
		return nil, false, err
	}
	for _, s := range sets {
		elements, err := c.GetSetElements(s)
		if err != nil {
			return nil, false, err
		}
		// nft(8) begins a set of intervals with the end of one before the first address, which changes nothing.
		elements = slices.DeleteFunc(elements, func(e nftables.SetElement) bool { return e.IntervalEnd && strings.Trim(string(e.Key), "\x00") == "" })
		lines = append(lines, setLines(s.Name, elements)...)
	}
	chains, err := c.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return nil, false, err
	}
	for _, chain := range chains {
		if chain.Table.Name != table.Name {
			continue
		}
		if chain.Hooknum != nil && chain.Priority != nil {
			lines = append(lines, chainLine(chain.Name, *chain.Hooknum, int32(*chain.Priority)))
		}
		rules, err := c.GetRules(table, chain)
		if err != nil {
			return nil, false, err
		}
		for i, r := range rules {
			comment := commentOf(r.UserData)
			foreign = foreign || !strings.HasPrefix(comment, exemptTag)
			lines = append(lines, ruleLine(chain.Name, i, comment, len(r.Exprs)))
		}
	}
	slices.Sort(lines)
	return lines, foreign, nil
}

// The comment of a rule is user data of type 0 (NFTNL_UDATA_RULE_COMMENT): a byte of type, one of length, and the text with a final zero.
func commentData(text string) []byte { return append([]byte{0, byte(len(text) + 1)}, text+"\x00"...) }

func commentOf(data []byte) string {
	for len(data) >= 2 && len(data) >= 2+int(data[1]) {
		if data[0] == 0 {
			return strings.TrimRight(string(data[2:2+int(data[1])]), "\x00")
		}
		data = data[2+int(data[1]):]
	}
	return ""
}

// install replaces the table by this one, in one transaction.
func (e *exemption) install() error {
	err := withNFT(func(c *nftables.Conn) error {
		table := &nftables.Table{Family: nftables.TableFamilyINet, Name: exemptTable}
		// Adding a table that exists changes nothing, so that deleting it always works.
		c.AddTable(table)
		c.DelTable(table)
		c.AddTable(table)
		for i, s := range e.sets() {
			set := &nftables.Set{Table: table, ID: uint32(i + 1), Name: s.name, KeyType: s.kind, Interval: s.interval}
			if err := c.AddSet(set, s.elements); err != nil {
				return err
			}
		}
		chains := map[string]*nftables.Chain{}
		for _, chain := range exemptChains {
			chains[chain.name] = c.AddChain(&nftables.Chain{Name: chain.name, Table: table, Type: nftables.ChainTypeFilter,
				Hooknum: chain.hook, Priority: nftables.ChainPriorityRef(exemptPriority)})
		}
		for _, r := range e.rules() {
			c.AddRule(&nftables.Rule{Table: table, Chain: chains[r.chain], Exprs: r.exprs, UserData: commentData(r.comment)})
		}
		return c.Flush()
	})
	if err != nil {
		return fmt.Errorf("exempt protected traffic from connection tracking: %w: load nf_tables, nft_ct and nft_fib_inet, or set routing.notrack to off", err)
	}
	return nil
}

// deleteExemption deletes the table if it is levee's. What is gone already is no error.
func deleteExemption(live *Live) (deleted []string, errs []error) {
	if live.Exemption == nil || live.foreignExemption {
		return nil, nil
	}
	err := withNFT(func(c *nftables.Conn) error {
		c.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: exemptTable})
		return c.Flush()
	})
	switch {
	case err == nil:
		return []string{exemptDelete}, nil
	case gone(err):
		return nil, nil
	}
	return nil, []error{fmt.Errorf("%s: %w", exemptDelete, err)}
}

// withNFT works with the nftables of the calling thread's namespace.
func withNFT(do func(*nftables.Conn) error) error {
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return err
	}
	return errors.Join(do(c), c.CloseLasting())
}

// How often WatchTracking looks whether connections are tracked, as nothing tells: after any change of nftables, and without one.
const (
	trackingSoon  = 200 * time.Millisecond
	trackingWait  = 250 * time.Millisecond
	trackingEvery = 2 * time.Second
)

// WatchTracking calls changed whenever something happened that a plan's exemption from connection tracking may be about: levee's table was
// changed, or the kernel has begun or ceased to track. It works in the network namespace of the thread that calls it, and returns nil when ctx is done.
func WatchTracking(ctx context.Context, changed func()) error {
	// It fails where the kernel has no nftables, and then there is nothing to be told.
	s, err := nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err == nil {
		defer s.Close()
		defer context.AfterFunc(ctx, s.Close)() // which ends Receive
		wait := unix.NsecToTimeval(int64(trackingWait))
		if err := s.SetReceiveTimeout(&wait); err != nil {
			return fmt.Errorf("watch nftables: %w", err)
		}
	}
	was, err := Tracking()
	if err != nil {
		return err
	}
	looked, soon := time.Now(), false
	for ctx.Err() == nil {
		if ago := time.Since(looked); ago >= trackingEvery || soon && ago >= trackingSoon {
			looked, soon = time.Now(), false
			if is, err := Tracking(); err == nil && is != was {
				was = is
				changed()
			}
		}
		if s == nil {
			select {
			case <-ctx.Done():
			case <-time.After(trackingWait):
			}
			continue
		}
		switch messages, _, err := s.Receive(); {
		case ctx.Err() != nil:
		case err == nil:
			soon = true
			if slices.ContainsFunc(messages, func(m syscall.NetlinkMessage) bool { return concernsExemption(m.Data) }) {
				changed()
			}
		case errors.Is(err, unix.ENOBUFS): // there were too many to tell
			changed()
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		default:
			return fmt.Errorf("watch nftables: %w", err)
		}
	}
	return nil
}

// concernsExemption says whether a message of nftables is about the table or something in it: all of them have the table's name as attribute
// 1 (NFTA_TABLE_NAME, NFTA_RULE_TABLE and so on).
func concernsExemption(message []byte) bool {
	if len(message) < nl.SizeofNfgenmsg || message[0] != unix.NFPROTO_INET {
		return false
	}
	attrs, err := nl.ParseRouteAttr(message[nl.SizeofNfgenmsg:])
	if err != nil {
		return false
	}
	for _, a := range attrs {
		if a.Attr.Type&nl.NLA_TYPE_MASK == unix.NFTA_TABLE_NAME {
			return strings.TrimRight(string(a.Value), "\x00") == exemptTable
		}
	}
	return false
}
