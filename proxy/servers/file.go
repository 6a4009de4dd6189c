package servers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"levee/stack"
)

// fileVersion is that of the format below. A file of another version is not read.
const fileVersion = 1

// file is what Save writes.
type file struct {
	Version int          `json:"version"`
	Servers []fileServer `json:"servers"`
}

// fileServer is a record of a server that has answered; refusals are too short to be kept. Times are Unix seconds.
type fileServer struct {
	Server   netip.AddrPort `json:"server"`
	Knows    Features       `json:"knows"`
	Does     Features       `json:"does"`
	MSS      uint16         `json:"mss"`
	WScale   uint8          `json:"wscale"` // 15 is none
	Window   uint16         `json:"window"`
	Source   Source         `json:"source"`
	Answered uint32         `json:"answered"`
	Probed   uint32         `json:"probed"`
}

var featureNames = []string{"mss", "wscale", "sack", "timestamps", "ecn"}

// String returns the words of the features with commas between.
func (f Features) String() string {
	var words []string
	for i, word := range featureNames {
		if f&(1<<i) != 0 {
			words = append(words, word)
		}
	}
	return strings.Join(words, ",")
}

// MarshalText is String.
func (f Features) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (f *Features) UnmarshalText(b []byte) error {
	*f = 0
	if len(b) == 0 {
		return nil
	}
	for word := range strings.SplitSeq(string(b), ",") {
		i := slices.Index(featureNames, word)
		if i < 0 {
			return fmt.Errorf("%q is no TCP feature", word)
		}
		*f |= 1 << i
	}
	return nil
}

// MarshalText is String.
func (s Source) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (s *Source) UnmarshalText(b []byte) error {
	i := slices.Index(sourceNames[:], string(b))
	if i < 0 {
		return fmt.Errorf("%q is no source", b)
	}
	*s = Source(i)
	return nil
}

// Save writes what is known of servers that have answered, as JSON.
func (t *Table) Save(w io.Writer, now int64) error {
	f := file{Version: fileVersion, Servers: []fileServer{}}
	at := stamp(now)
	for i := range t.sets {
		s := &t.sets[i]
		s.mu.Lock()
		for j, tag := range s.tags {
			if r := &s.records[j]; tag != 0 && r.fresh(at) {
				f.Servers = append(f.Servers, fileServer{
					Server: r.key.AddrPort(), Knows: r.knows, Does: r.does, MSS: r.mss, WScale: r.wscale, Window: r.window,
					Source: r.source, Answered: r.answered, Probed: r.probed,
				})
			}
		}
		s.mu.Unlock()
	}
	// The latest last: should fewer fit when they are read, those stay.
	slices.SortFunc(f.Servers, func(a, b fileServer) int {
		if a.Answered != b.Answered {
			return int(int64(a.Answered) - int64(b.Answered))
		}
		return a.Server.Compare(b.Server)
	})
	if err := json.NewEncoder(w).Encode(&f); err != nil {
		return fmt.Errorf("write what is known of servers: %w", err)
	}
	return nil
}

// Load reads what Save wrote into an empty Table and returns how many servers there were that are not too old. After an error the Table is
// still empty: nothing in a damaged file is believed.
func (t *Table) Load(r io.Reader, now int64) (int, error) {
	var whole json.RawMessage
	d := json.NewDecoder(r)
	if err := d.Decode(&whole); err != nil {
		return 0, fmt.Errorf("it is damaged: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return 0, errors.New("it is damaged: there is more behind its end")
	}
	// The version comes first: what else there is in another one is not known.
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(whole, &head); err != nil {
		return 0, fmt.Errorf("it is damaged: %w", err)
	}
	if head.Version != fileVersion {
		return 0, fmt.Errorf("it has version %d, not %d", head.Version, fileVersion)
	}
	var f file
	d = json.NewDecoder(bytes.NewReader(whole))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return 0, fmt.Errorf("it is damaged: %w", err)
	}
	for i := range f.Servers {
		if err := f.Servers[i].check(); err != nil {
			return 0, fmt.Errorf("it is damaged: server %d: %w", i, err)
		}
	}
	at, n := stamp(now), 0
	for i := range f.Servers {
		if v := &f.Servers[i]; since(v.Answered, at) >= 0 && since(v.Answered, at) < keep {
			t.restore(v, at)
			n++
		}
	}
	return n, nil
}

func (v *fileServer) check() error {
	switch {
	case !v.Server.Addr().IsValid() || v.Server.Port() == 0 || v.Server.Addr().Zone() != "":
		return fmt.Errorf("%v is no address and port", v.Server)
	case v.WScale > 14 && v.WScale != NoWScale:
		return fmt.Errorf("window scale %d", v.WScale)
	case v.Answered == 0 || v.Probed > v.Answered:
		return errors.New("its times make no sense")
	case v.Does&^v.Knows != 0:
		return errors.New("it does what it is not known to do")
	}
	return nil
}

func (t *Table) restore(v *fileServer, now uint32) {
	k := Key{Addr: stack.AddrFrom(v.Server.Addr()), Port: v.Server.Port()}
	s, tag := t.locate(&k)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.find(&k, tag)
	if r == nil {
		r = s.make(&k, tag, now, true)
	}
	*r = record{
		key: k, state: Alive, source: v.Source, knows: v.Knows, does: v.Does, mss: v.MSS, window: v.Window,
		wscale: v.WScale, told: t.cfg.WScale, was: t.cfg.WScale, answered: v.Answered, probed: v.Probed,
	}
	if v.Knows.Has(WScale) {
		r.told, r.changed = v.WScale, now
	}
}
