package routes

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// maxRuleset bounds how many rules are looked at: with more, connections may as well be tracked.
const maxRuleset = 10000

// What in an nftables ruleset has the kernel track connections (nf_ct_netns_get): expressions, the matches and targets of iptables-nft, and objects.
var (
	trackingExpressions = []string{"ct", "nat", "masq", "redir", "synproxy", "flow_offload", "connlimit"}
	trackingMatches     = []string{"conntrack", "state", "connmark", "connbytes", "connlabel", "connlimit", "helper", "cluster"}
	trackingTargets     = []string{"CT", "CONNMARK", "CONNSECMARK", "SNAT", "DNAT", "MASQUERADE", "REDIRECT", "NETMAP", "SYNPROXY", "FLOWOFFLOAD"}
	trackingObjects     = []uint32{unix.NFT_OBJECT_CT_HELPER, unix.NFT_OBJECT_CT_TIMEOUT, unix.NFT_OBJECT_CT_EXPECT, unix.NFT_OBJECT_CONNLIMIT, unix.NFT_OBJECT_SYNPROXY}
)

// legacyTables list the tables of iptables from before nftables, one file for each family.
var legacyTables = []string{"/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"}

// rulesetTracks says whether rules of nftables or iptables have the kernel track connections in the namespace of the calling thread. The tables of iptables
// from before nftables aren't read: that there is one is enough, as hardly any does without. Without privilege nothing is seen.
func rulesetTracks() (bool, error) {
	for _, path := range legacyTables {
		names, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return false, err
		}
		if len(names) > 0 {
			return true, nil
		}
	}
	tracks, err := dumpHas(unix.NFT_MSG_GETRULE, ruleTracks)
	if !tracks && err == nil {
		tracks, err = dumpHas(unix.NFT_MSG_GETOBJ, objectTracks)
	}
	if unknown(err) {
		return false, nil
	}
	return tracks, err
}

// dumpHas says whether one of the rules or objects of all tables is such that is says so, or there are more than it looks at. It stops at the first.
func dumpHas(message int, is func(attributes []byte) bool) (bool, error) {
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|message, unix.NLM_F_DUMP)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: unix.NFPROTO_UNSPEC, Version: nl.NFNETLINK_V0})
	s, err := nl.Subscribe(unix.NETLINK_NETFILTER) // to no group: a socket
	if err != nil {
		return false, err
	}
	defer s.Close()
	timeout := unix.NsecToTimeval(int64(netlinkTimeout))
	if err := errors.Join(s.SetReceiveTimeout(&timeout), s.Send(request)); err != nil {
		return false, err
	}
	for seen := 0; ; {
		messages, _, err := s.Receive()
		if err != nil {
			return false, err
		}
		for _, m := range messages {
			switch {
			case m.Header.Type == unix.NLMSG_DONE:
				return false, nil
			case m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4:
				return false, unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
			case len(m.Data) < nl.SizeofNfgenmsg:
			default:
				if seen++; seen > maxRuleset || is(m.Data[nl.SizeofNfgenmsg:]) {
					return true, nil
				}
			}
		}
	}
}

// ruleTracks looks at the expressions of a rule.
func ruleTracks(rule []byte) bool {
	expressions, _ := attribute(rule, unix.NFTA_RULE_EXPRESSIONS)
	list, err := nl.ParseRouteAttr(expressions)
	return err == nil && slices.ContainsFunc(list, func(e syscall.NetlinkRouteAttr) bool { return expressionTracks(e.Value) })
}

func expressionTracks(e []byte) bool {
	name, _ := attribute(e, unix.NFTA_EXPR_NAME)
	data, _ := attribute(e, unix.NFTA_EXPR_DATA)
	switch word := text(name); word {
	case "match":
		match, _ := attribute(data, unix.NFTA_MATCH_NAME)
		return slices.Contains(trackingMatches, text(match))
	case "target":
		target, _ := attribute(data, unix.NFTA_TARGET_NAME)
		return slices.Contains(trackingTargets, text(target))
	case "dynset": // which has expressions of its own, of which only this one tracks
		return bytes.Contains(data, []byte("connlimit\x00"))
	default:
		return slices.Contains(trackingExpressions, word)
	}
}

func objectTracks(object []byte) bool {
	kind, ok := attribute(object, unix.NFTA_OBJ_TYPE)
	return ok && len(kind) >= 4 && slices.Contains(trackingObjects, binary.BigEndian.Uint32(kind))
}

// attribute is the value of the first netlink attribute of a kind.
func attribute(attributes []byte, kind uint16) (value []byte, ok bool) {
	all, err := nl.ParseRouteAttr(attributes)
	if err != nil {
		return nil, false
	}
	for _, a := range all {
		if a.Attr.Type&nl.NLA_TYPE_MASK == kind {
			return a.Value, true
		}
	}
	return nil, false
}

// text is a string of the kernel's.
func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }
