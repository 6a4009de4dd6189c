package flood

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
)

// fileVersion is that of the format below. A file of another version is not read.
const fileVersion = 1

// file is what Save writes.
type file struct {
	Version  int           `json:"version"`
	Services []fileService `json:"services"`
}

type fileService struct {
	Name    string       `json:"name"`
	Busiest fileBaseline `json:"busiest"`
	Total   fileBaseline `json:"total"`
}

// fileBaseline is a Baseline whose hours are counted before they are believed.
type fileBaseline struct {
	Hour  int64    `json:"hour"`
	Peaks []uint32 `json:"peaks"`
}

// Save writes what has been learned, by the names of services, as JSON.
func Save(w io.Writer, learned map[string]Learned) error {
	f := file{Version: fileVersion, Services: []fileService{}}
	for _, name := range slices.Sorted(maps.Keys(learned)) {
		l := learned[name]
		f.Services = append(f.Services, fileService{
			Name:    name,
			Busiest: fileBaseline{l.Busiest.Hour, l.Busiest.Peaks[:]},
			Total:   fileBaseline{l.Total.Hour, l.Total.Peaks[:]},
		})
	}
	if err := json.NewEncoder(w).Encode(&f); err != nil {
		return fmt.Errorf("write what is usual: %w", err)
	}
	return nil
}

// Load reads what Save wrote. Nothing in a damaged file is believed.
func Load(r io.Reader) (map[string]Learned, error) {
	var f file
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("it is damaged: there is more behind its end")
	}
	if f.Version != fileVersion {
		return nil, fmt.Errorf("it has version %d, not %d", f.Version, fileVersion)
	}
	learned := make(map[string]Learned)
	for i := range f.Services {
		s := &f.Services[i]
		busiest, err := s.Busiest.baseline()
		if err != nil {
			return nil, fmt.Errorf("it is damaged: service %d: %w", i, err)
		}
		total, err := s.Total.baseline()
		if err != nil {
			return nil, fmt.Errorf("it is damaged: service %d: %w", i, err)
		}
		if _, twice := learned[s.Name]; twice || s.Name == "" {
			return nil, fmt.Errorf("it is damaged: service %d has no name of its own", i)
		}
		learned[s.Name] = Learned{Busiest: busiest, Total: total}
	}
	return learned, nil
}

func (f *fileBaseline) baseline() (Baseline, error) {
	b := Baseline{Hour: f.Hour}
	switch {
	case len(f.Peaks) != Hours:
		return b, fmt.Errorf("%d hours, not %d", len(f.Peaks), Hours)
	case f.Hour < 0 || f.Hour > maxHour:
		return b, fmt.Errorf("hour %d", f.Hour)
	case slices.Max(f.Peaks) > MaxSYNRate+1:
		return b, fmt.Errorf("%d handshakes in a second", slices.Max(f.Peaks)-1)
	}
	copy(b.Peaks[:], f.Peaks)
	return b, nil
}

// maxHour is in the year 3000: a later one would keep the baseline from learning anything.
const maxHour = 1030 * 365 * 24
