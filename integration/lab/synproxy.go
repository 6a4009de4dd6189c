package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
)

// SYNPROXYConfig is what the kernel's SYN proxy promises on behalf of all servers of the lab, the same for each.
type SYNPROXYConfig struct {
	// MSS in bytes.
	MSS uint16
	// WScale must be what the servers use: the kernel doesn't rescale windows.
	WScale uint8
	// SACK and Timestamps offer these options. Without timestamps the kernel offers neither window
	// scaling nor SACK, because its cookie has room for them only there.
	SACK, Timestamps bool
}

// SYNPROXY is netfilter's SYN proxy at work in the gateway, in front of all servers.
type SYNPROXY struct {
	lab     *Lab
	sysctls []sysctl
}

type sysctl struct{ name, value string }

const synproxyTable = "levee_lab_synproxy"

// StartSYNPROXY sets the kernel's SYN proxy up in the gateway as its manual says (nft(8), SYNPROXY STATEMENT): SYNs
// to the servers aren't tracked, what is untracked or invalid goes to the proxy, and what
// it leaves and is invalid is dropped. Over IPv6, Linux 6.18's drops SYNs whose checksum nobody has vouched for,
// such as those of a Flood.
func (l *Lab) StartSYNPROXY(cfg SYNPROXYConfig) (*SYNPROXY, error) {
	if cfg.WScale > 14 {
		return nil, fmt.Errorf("start SYNPROXY: a window scale of %d: the most is 14 (RFC 7323 §2.3)", cfg.WScale)
	}
	s := &SYNPROXY{lab: l}
	err := s.set([]sysctl{
		// A connection must begin with a handshake, or the client's ACK would make a flow by itself.
		{"net.netfilter.nf_conntrack_tcp_loose", "0"},
		{"net.ipv4.tcp_syncookies", "1"},
		{"net.ipv4.tcp_timestamps", "1"},
	})
	if err == nil {
		err = s.addRules(cfg)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start SYNPROXY: %w", err), s.restore())
	}
	return s, nil
}

// set changes sysctls of the gateway and remembers what they were.
func (s *SYNPROXY) set(wanted []sysctl) error {
	for _, w := range wanted {
		before, err := s.lab.Gateway.Sysctl(w.name)
		if err != nil {
			return err
		}
		if err := s.lab.Gateway.SetSysctl(w.name, w.value); err != nil {
			return err
		}
		s.sysctls = append(s.sysctls, sysctl{w.name, before})
	}
	return nil
}

func (s *SYNPROXY) restore() (err error) {
	for _, w := range s.sysctls {
		err = errors.Join(err, s.lab.Gateway.SetSysctl(w.name, w.value))
	}
	return err
}

func (s *SYNPROXY) addRules(cfg SYNPROXYConfig) error {
	c, err := s.lab.Gateway.nft()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: synproxyTable})
	raw := c.AddChain(&nftables.Chain{
		Name: "prerouting", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	forward := c.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	rule := func(chain *nftables.Chain, parts ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: slices.Concat(parts...)})
	}
	proxy := &expr.SynProxy{
		Mss: cfg.MSS, Wscale: cfg.WScale, SackPerm: cfg.SACK, Timestamp: cfg.Timestamps, WscaleValueSet: true,
	}
	for _, servers := range []netip.Prefix{ServerPrefix4, ServerPrefix6} {
		to := tcpTo(servers)
		rule(raw, to, pureSYN(), []expr.Any{&expr.Notrack{}})
		rule(forward, to, ctState(expr.CtStateBitINVALID|expr.CtStateBitUNTRACKED), []expr.Any{proxy})
	}
	rule(forward, ctState(expr.CtStateBitINVALID), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})
	return c.Flush()
}

// tcpTo matches TCP packets to a prefix.
func tcpTo(p netip.Prefix) []expr.Any {
	family, offset := byte(nftables.TableFamilyIPv4), uint32(16)
	if p.Addr().Is6() {
		family, offset = byte(nftables.TableFamilyIPv6), 24
	}
	bytes := uint32(p.Addr().BitLen() / 8)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protoTCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: bytes},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: bytes,
			Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()), Xor: make([]byte, bytes),
		},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Addr().AsSlice()},
	}
}

// pureSYN matches TCP packets with SYN of the flags FIN, SYN, RST and ACK.
func pureSYN() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlagsAt, Len: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 1,
			Mask: []byte{flagFIN | flagSYN | flagRST | flagACK}, Xor: []byte{0},
		},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{flagSYN}},
	}
}

// ctState matches packets in one of the connection tracking states.
func ctState(states uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(states), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// Stop takes the proxy away and forgets the connections that went through it, which stall.
func (s *SYNPROXY) Stop() error {
	c, err := s.lab.Gateway.nft()
	if err == nil {
		c.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: synproxyTable})
		err = c.Flush()
	}
	err = errors.Join(err, s.restore(), s.lab.Gateway.nl.ConntrackTableFlush(netlink.ConntrackTable))
	if err != nil {
		return fmt.Errorf("stop SYNPROXY: %w", err)
	}
	return nil
}

// SYNPROXYCounters are the kernel's, since the gateway was made.
type SYNPROXYCounters struct {
	// SYNs were answered with a cookie; Valid and Invalid ACKs came back.
	SYNs, Valid, Invalid uint64
}

// Counters reads /proc/net/stat/synproxy in the gateway.
func (s *SYNPROXY) Counters() (SYNPROXYCounters, error) {
	var text []byte
	err := s.lab.Gateway.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/stat/synproxy")
		return err
	})
	var sums map[string]uint64
	if err == nil {
		sums, err = parseStat(string(text))
	}
	if err != nil {
		return SYNPROXYCounters{}, fmt.Errorf("read SYNPROXY's counters: %w", err)
	}
	return SYNPROXYCounters{SYNs: sums["syn_received"], Valid: sums["cookie_valid"], Invalid: sums["cookie_invalid"]}, nil
}

// parseStat reads a table of /proc/net/stat: a line of names, then one of hexadecimal numbers for each CPU, which are
// added up. The kernel's counters have 32 bits.
func parseStat(text string) (map[string]uint64, error) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	names := strings.Fields(lines[0])
	sums := make(map[string]uint64, len(names))
	for i, line := range lines[1:] {
		values := strings.Fields(line)
		if len(values) != len(names) {
			return nil, fmt.Errorf("line %d has %d values, not %d", i+2, len(values), len(names))
		}
		for j, v := range values {
			n, err := strconv.ParseUint(v, 16, 64)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", i+2, err)
			}
			sums[names[j]] += n
		}
	}
	return sums, nil
}
