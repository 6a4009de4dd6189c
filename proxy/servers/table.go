package servers

import (
	"hash/maphash"
	"sync"
	"time"
)

// Config is what a Table needs to know.
type Config struct {
	// Capacity is how many servers it remembers, 1 to MaxCapacity; the sets round it up.
	Capacity int
	// WScale is what clients are promised for servers that aren't known.
	WScale uint8
	// ClosedFor is how long a refusal lasts; then the next client's SYN finds out.
	ClosedFor time.Duration
	// Probes says that Answered and Refused may ask for one.
	Probes bool
}

// Defaults and bounds of Config.
const (
	DefaultCapacity  = 1 << 16
	MaxCapacity      = 1 << 20
	DefaultClosedFor = 10 * time.Second
)

// Ages, in seconds.
const (
	// keep is how long a server is known after its last SYN-ACK.
	keep = 24 * 3600
	// hold is how long a promised window scale stays at least: longer than any cookie lives, so that at most two
	// promises are out.
	hold = 130
	// again is after how long a server in use is probed again, for what its clients' connections don't show.
	again = 10 * 60
	// retry is how long a request for a probe stands, which takes less: nobody asks for another meanwhile.
	retry = 5
	// denied is for how long nothing is promised that a server in traffic refused, whatever probes say.
	denied = 3600
	// doubt is how long a client's refusal stands that nobody was answered after: for so long a probe's may confirm it.
	doubt = 60
	// quiet is how long a server must not have answered before a client's word closes it where there are no probes, or it never answers one.
	quiet = 60
)

// ways is how many servers a set holds.
const ways = 8

// Table is what is known of all servers. It may be used by many goroutines at once.
type Table struct {
	seed maphash.Seed
	cfg  Config
	sets []set
}

// set is where servers whose hashes agree lie.
type set struct {
	// mu guards the rest.
	mu sync.Mutex
	// tags are bits of the hashes, 0 for a free record: they spare most look-ups the records.
	tags    [ways]uint16
	records [ways]record
}

// record is one server. Times are Unix seconds, 0 for never.
type record struct {
	key         Key
	state       State // Alive, Closed or Silent; Unknown if a client was refused and no probe has said yet if others are
	suspicion   State // how the client was refused at suspected
	source      Source
	knows, does Features
	deny        Features
	mss, window uint16
	wscale      uint8
	told, was   uint8
	repeats     bool
	// deny is what is not promised until a time, though the server seems to do it.
	until uint32
	// answered is the last SYN-ACK, refused the last refusal; probed is the last SYN-ACK to a probe, failed the last probe since without
	// one, asked when one was asked for last, suspected when a client was refused whom nobody was answered after.
	answered, refused, probed, failed, asked, suspected uint32
	// changed is when told became what it is, after was; 0 if it is what is promised for unknown servers.
	changed uint32
}

// New makes a Table. It allocates everything at once.
func New(cfg Config) *Table {
	n := 1
	for n*ways < min(max(cfg.Capacity, 1), MaxCapacity) {
		n *= 2
	}
	return &Table{seed: maphash.MakeSeed(), cfg: cfg, sets: make([]set, n)}
}

// Capacity is how many servers fit.
func (t *Table) Capacity() int { return len(t.sets) * ways }

// locate returns the set of a key, and its tag.
func (t *Table) locate(k *Key) (*set, uint16) {
	h := maphash.Comparable(t.seed, *k)
	return &t.sets[h&uint64(len(t.sets)-1)], uint16(h>>48) | 1
}

// find returns the record of a key, or nil. The set is locked.
func (s *set) find(k *Key, tag uint16) *record {
	for i, other := range s.tags {
		if other == tag && s.records[i].key == *k {
			return &s.records[i]
		}
	}
	return nil
}

// Find returns what is known of a server.
func (t *Table) Find(k *Key, now int64) Known {
	s, tag := t.locate(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.find(k, tag); r != nil {
		return t.known(r, stamp(now))
	}
	return t.unknown()
}

func (t *Table) unknown() Known { return Known{Told: t.cfg.WScale, Before: t.cfg.WScale} }

func (t *Table) known(r *record, now uint32) Known {
	k := t.unknown()
	if r.fresh(now) {
		k = Known{
			State: Alive, Knows: r.knows, Does: r.does, MSS: r.mss, Window: r.window,
			Told: r.told, Before: r.told, Repeats: r.repeats,
		}
		if since(r.until, now) < 0 {
			k.Does &^= r.deny
			k.Knows |= r.deny
		}
		if s := since(r.changed, now); 0 <= s && s < hold {
			k.Before = r.was
		}
	} else if r.answered != 0 {
		k.Before = r.told // promised until it was too old
	}
	if t.refuses(r, now) {
		k.State = r.state
	}
	return k
}

// fresh says whether what its SYN-ACKs showed still counts.
func (r *record) fresh(now uint32) bool {
	return r.answered != 0 && since(r.answered, now) < keep
}

// refuses says whether a refusal still counts. A clock that was set back ends it.
func (t *Table) refuses(r *record, now uint32) bool {
	s := since(r.refused, now)
	return r.state.refuses() && s >= 0 && time.Duration(s)*time.Second < t.cfg.ClosedFor
}

// Answered notes a SYN-ACK and says whether a probe should find out the rest.
func (t *Table) Answered(k *Key, now int64, a *Answer, from Source) (probe bool) {
	s, tag := t.locate(k)
	at := stamp(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.find(k, tag)
	if r == nil {
		r = s.make(k, tag, at, true)
	}
	if !r.fresh(at) {
		*r = record{key: r.key, told: t.cfg.WScale, window: a.Window, asked: r.asked, failed: r.failed}
	}
	r.state, r.source, r.answered, r.suspected = Alive, from, at, 0
	r.probed = min(r.probed, at) // the clock may have been set back
	r.mss, r.window = a.MSS, NextWindow(r.window, a.Window)
	asked, does := a.Asked|MSS, a.Does&^MSS
	if a.MSS != 0 {
		does |= MSS
	}
	if kept := WScale | SACK; asked.Has(kept) && !asked.Has(Timestamps) && does&kept == 0 && r.does&kept != 0 {
		// A SYN cookie without timestamps has no room for either (Linux, tcp_conn_request()): the server does them still.
		asked &^= kept
	}
	r.knows |= asked
	r.does = r.does&^asked | does&asked
	if asked.Has(WScale) {
		r.wscale = a.WScale
		if s := since(r.changed, at); r.wscale != r.told && (r.changed == 0 || s < 0 || s >= hold) {
			r.was, r.told, r.changed = r.told, r.wscale, at
		}
	}
	if from == Probe {
		r.probed, r.failed = at, 0
		return false
	}
	return since(r.probed, at) >= again && since(r.failed, at) >= again && t.ask(r, at)
}

// ask says whether to ask for a probe now: there are some, and none is under way.
func (t *Table) ask(r *record, at uint32) bool {
	if s := since(r.asked, at); !t.cfg.Probes || 0 <= s && s < retry {
		return false
	}
	r.asked = at
	return true
}

// Refused notes that a client's SYN was refused (Closed) or not answered (Silent), and says whether a probe should find out if that
// holds for others, which ProbeFailed or Answered then tells.
func (t *Table) Refused(k *Key, now int64, how State) (probe bool) {
	s, tag := t.locate(k)
	at := stamp(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.find(k, tag)
	if r == nil {
		if r = s.make(k, tag, at, false); r == nil {
			return false
		}
	}
	fresh := r.fresh(at)
	// A server that answers clients and no probe is closed by clients alone.
	unprobed := !t.cfg.Probes || fresh && r.probed == 0 && r.failed != 0
	switch busy := fresh && since(r.answered, at) < quiet && !t.refuses(r, at); {
	case !unprobed || t.cfg.Probes && busy:
		r.suspected, r.suspicion = at, how
		return t.ask(r, at)
	case !busy:
		r.refuse(at, how, Traffic)
	}
	return false
}

func (r *record) refuse(at uint32, how State, from Source) {
	r.state, r.refused, r.source = how, at, from
}

// ProbeFailed notes what a probe met instead of a SYN-ACK; Unknown says that it could not be sent. By itself it means little, because the
// server may answer others: it counts where a client was refused too and nobody has been answered since. A server that answers clients has
// to have answered probes before. Where nothing ever answered and no probe can be sent, the client's word has to do.
func (t *Table) ProbeFailed(k *Key, now int64, how State) {
	s, tag := t.locate(k)
	at := stamp(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.find(k, tag)
	if r == nil {
		return
	}
	r.failed = at
	suspected := since(r.suspected, at)
	switch fresh := r.fresh(at); {
	case suspected < 0 || suspected >= doubt:
	case fresh && (r.probed == 0 || how == Unknown):
	case how == Unknown:
		r.refuse(at, r.suspicion, Traffic)
	default:
		r.refuse(at, how, Probe)
		r.failed = 0 // clients fare no better: once it answers them, it may answer probes
	}
	r.suspected = 0
}

// Repeats notes whether a server that has answered repeats its SYN-ACK when the SYN comes again at once.
func (t *Table) Repeats(k *Key, yes bool) {
	s, tag := t.locate(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.find(k, tag); r != nil {
		r.repeats = yes
	}
}

// Denied notes that a server did not do what clients were promised for it.
func (t *Table) Denied(k *Key, now int64, what Features) {
	s, tag := t.locate(k)
	at := stamp(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.find(k, tag)
	if r == nil {
		return
	}
	if since(r.until, at) >= 0 {
		r.deny = 0
	}
	r.deny |= what
	r.until = at + denied
}

// make returns an empty record for a key: a free one, or the one that is missed least. There may be none for a port that does not
// answer.
func (s *set) make(k *Key, tag uint16, now uint32, alive bool) *record {
	best := -1
	for i := range s.records {
		r := &s.records[i]
		if s.tags[i] == 0 {
			best = i
			break
		}
		if r.fresh(now) && !alive {
			continue
		}
		if best < 0 || r.missedLess(&s.records[best], now) {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	s.tags[best] = tag
	s.records[best] = record{key: *k}
	return &s.records[best]
}

func (r *record) missedLess(o *record, now uint32) bool {
	if a, b := r.fresh(now), o.fresh(now); a != b {
		return b
	}
	return max(r.last(), r.suspected) < max(o.last(), o.suspected)
}

// last is when something was learned last.
func (r *record) last() uint32 { return max(r.answered, r.refused) }

// stamp is the Unix time in as many bits as a record has for it; it ends in 2106.
func stamp(unix int64) uint32 { return uint32(min(max(unix, 1), 1<<32-1)) }

// since is how many seconds ago a time was, below 0 if it is yet to come.
func since(then, now uint32) int64 { return int64(now) - int64(then) }

// All calls yield for every server of which something is known until it returns false. It holds no lock meanwhile.
func (t *Table) All(now int64, yield func(Info) bool) {
	at := stamp(now)
	for i := range t.sets {
		var found [ways]Info
		n := 0
		s := &t.sets[i]
		s.mu.Lock()
		for j, tag := range s.tags {
			if tag == 0 {
				continue
			}
			r := &s.records[j]
			if known := t.known(r, at); known.State != Unknown {
				found[n] = Info{
					Server: r.key.AddrPort(), Known: known, WScale: r.wscale, Source: r.source,
					Age: time.Duration(max(since(r.last(), at), 0)) * time.Second,
				}
				n++
			}
		}
		s.mu.Unlock()
		for _, info := range found[:n] {
			if !yield(info) {
				return
			}
		}
	}
}

// Counts is how many servers are in each state; of Unknown there are none.
func (t *Table) Counts(now int64) (n [NumStates]int) {
	t.All(now, func(i Info) bool {
		n[i.State]++
		return true
	})
	return n
}
