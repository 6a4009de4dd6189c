package cookie

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"

	"github.com/dchest/siphash"
)

// EpochSeconds is how long one key makes cookies. A cookie lives for one to two epochs.
const EpochSeconds = 64

// Epoch returns the epoch of a Unix time in seconds, the floor of unix / EpochSeconds.
func Epoch(unix int64) int64 {
	// An arithmetic shift rounds down before 1970 too, where a division would round up.
	const shift = 6
	return unix >> shift
}

// epochKey is the SipHash key of one epoch.
type epochKey struct {
	epoch  int64
	ready  bool // the zero value is no key of any epoch
	k0, k1 uint64
}

func deriveKey(secret *Secret, epoch int64) epochKey {
	b, err := hkdf.Key(sha256.New, secret[:], nil, "levee cookie v1 epoch "+strconv.FormatInt(epoch, 10), 16)
	if err != nil {
		panic("cookie: HKDF-SHA256 refuses to make 16 bytes: " + err.Error())
	}
	return epochKey{
		epoch: epoch,
		ready: true,
		k0:    binary.LittleEndian.Uint64(b[:8]),
		k1:    binary.LittleEndian.Uint64(b[8:]),
	}
}

// Maker makes and checks cookies. It holds the secret and the keys of the last epochs, one of
// each parity. Use one for each goroutine: it is not safe for concurrent use.
//
// Its methods take the time in Unix seconds. They derive a key once per epoch and allocate only then;
// any time is fine, also before 1970 or far from the last one.
type Maker struct {
	secret Secret
	keys   [2]epochKey // by parity of the epoch
}

// NewMaker returns a Maker for a secret, which has to be unknown to outsiders: take it from
// LoadSecret or crypto/rand.
func NewMaker(s Secret) *Maker { return &Maker{secret: s} }

// Format writes "[redacted]", whatever the verb: without it fmt would print the secret's bytes.
func (Maker) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

func (m *Maker) key(epoch int64) *epochKey {
	k := &m.keys[epoch&1]
	if !k.ready || k.epoch != epoch {
		*k = deriveKey(&m.secret, epoch)
	}
	return k
}

// Issue returns the ISN of the SYN-ACK for a SYN whose client does not use timestamps, or whose
// timestamps the SYN-ACK does not accept. clientISN is the SYN's SEG.SEQ.
//
// For want of bits it does not carry o.ECN, so the SYN-ACK must not accept ECN, and it rounds MSS and
// window scale (RoundMSS, RoundWScale).
func (m *Maker) Issue(unix int64, t *Tuple, clientISN uint32, o Options) (isn uint32) {
	isn, _ = m.issue(plain, unix, t, clientISN, o)
	return isn
}

// IssueTS is Issue for a client whose timestamps the SYN-ACK accepts: it also returns the SYN-ACK's
// TSval, and carries ECN and the exact window scale.
//
// The TSval is a cookie, not a clock: the caller has to shift the TSvals that follow on the connection
// so that they go on from it (RFC 7323 §5.3), and TSecr back.
func (m *Maker) IssueTS(unix int64, t *Tuple, clientISN uint32, o Options) (isn, tsval uint32) {
	return m.issue(stamped, unix, t, clientISN, o)
}

func (m *Maker) issue(l layout, unix int64, t *Tuple, clientISN uint32, o Options) (isn, tsval uint32) {
	k := m.key(Epoch(unix))
	c := encode(l, t.isV6(), o)
	var buf [maxMessage]byte
	msg := message(&buf, l, t, c)
	setClientISN(msg, clientISN)
	return pack(l, k.epoch, c, siphash.Hash(k.k0, k.k1, msg))
}

// Ack is what Check needs of a segment from the client with the ACK bit set.
type Ack struct {
	// Seq and Ack are SEG.SEQ and SEG.ACK.
	Seq, Ack uint32
	// Timestamps: the segment has the timestamps option; TSEcr is its echo, ignored otherwise.
	Timestamps bool
	TSEcr      uint32
}

// Valid is what a good cookie tells.
type Valid struct {
	// ClientISN is the SEG.SEQ of the client's SYN.
	ClientISN uint32
	// ISN is the cookie, SEG.ACK-1.
	ISN uint32
	// TSVal is the TSval of the SYN-ACK, or 0 if the segment has no timestamps.
	TSVal uint32
	// Options of the client's SYN, as the cookie carried them.
	Options Options
	// Probe: the segment's SEQ was ClientISN and not ClientISN+1: a keep-alive (RFC 9293 §3.8.4)
	// or a window probe, which wants an answer but acknowledges the SYN-ACK all the same.
	Probe bool
}

// Check says whether a segment acknowledges a cookie that a Maker with the same secret made for the
// same connection in the epoch of unix or the one before, and what the cookie carries. The segment may
// be the handshake's ACK or the client's first data (SEQ = client ISN + 1), or a probe (SEQ = client
// ISN).
//
// A segment with timestamps is checked against IssueTS only, one without against Issue only: once
// negotiated, timestamps are on every segment (RFC 7323 §3.2).
func (m *Maker) Check(unix int64, t *Tuple, a Ack) (Valid, bool) {
	v := Valid{ISN: a.Ack - 1}
	l := plain
	if a.Timestamps {
		l = stamped
		v.TSVal = a.TSEcr
	}
	epoch := Epoch(unix)
	if uint32(epoch&1) != v.ISN>>keyShift {
		epoch--
	}
	k := m.key(epoch)
	c, mac := unpack(l, v.ISN, v.TSVal)
	mask := l.macMask()
	var buf [maxMessage]byte
	msg := message(&buf, l, t, c)
	// Two hashes for a bad ACK, one for most good ones: a bare ACK may be the handshake's or a keep-alive, and nothing but its number, which
	// the hash is to prove, tells them apart. Less than two bytes of data don't either (RFC 9293 §3.8.4). The second costs some 20 to 50 ns
	// (BenchmarkCheckInvalid less BenchmarkCheckValid).
	for _, v.ClientISN = range [...]uint32{a.Seq - 1, a.Seq} {
		setClientISN(msg, v.ClientISN)
		if siphash.Hash(k.k0, k.k1, msg)&mask == mac {
			v.Options = decode(l, t.isV6(), c)
			v.Probe = v.ClientISN == a.Seq
			return v, true
		}
	}
	return Valid{}, false
}

// The hashed message, see the package comment.
const (
	messageISN   = 4
	messagePorts = 8
	messageAddrs = 12
	maxMessage   = messageAddrs + 32
)

// message builds the hashed message in buf, but for the client ISN, and returns the part of buf that
// it fills.
func message(buf *[maxMessage]byte, l layout, t *Tuple, c code) []byte {
	buf[0], buf[1], buf[2], buf[3] = byte(l), c.mss, c.rest, t.Context
	binary.BigEndian.PutUint16(buf[messagePorts:], t.ClientPort)
	binary.BigEndian.PutUint16(buf[messagePorts+2:], t.ServerPort)
	if t.isV6() {
		buf[0] |= ipv6
		copy(buf[messageAddrs:], t.Client[:])
		copy(buf[messageAddrs+16:], t.Server[:])
		return buf[:]
	}
	copy(buf[messageAddrs:], t.Client[12:])
	copy(buf[messageAddrs+4:], t.Server[12:])
	return buf[:messageAddrs+8]
}

func setClientISN(msg []byte, isn uint32) { binary.BigEndian.PutUint32(msg[messageISN:], isn) }
