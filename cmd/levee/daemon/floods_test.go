package daemon

import (
	"os"
	"strings"
	"testing"
	"time"

	"levee/proxy"
	"levee/proxy/flood"
)

// Each flood is news once when it begins and once when it ends, also if both were between two looks.
func TestFloodNews(t *testing.T) {
	var n floodNews
	at := time.Unix(1e9, 0)
	look := func(floods ...proxy.Flood) string {
		began, ended := n.take(floods)
		var words []string
		for _, f := range began {
			words = append(words, "began "+f.Service)
		}
		for _, f := range ended {
			words = append(words, "ended "+f.Service)
		}
		return strings.Join(words, ", ")
	}
	one, two, three := proxy.Flood{ID: 1, Service: "one", Start: at}, proxy.Flood{ID: 2, Service: "two", Start: at}, proxy.Flood{ID: 3, Service: "three", Start: at, End: at}
	for i, step := range []struct {
		floods []proxy.Flood
		want   string
	}{
		{nil, ""},
		{[]proxy.Flood{one}, "began one"},
		{[]proxy.Flood{one}, ""},
		{[]proxy.Flood{one, two, three}, "began two, began three, ended three"},
		{[]proxy.Flood{one, two, three}, ""},
		{[]proxy.Flood{{ID: 1, Service: "one", Start: at, End: at}, two, three}, "ended one"},
		{[]proxy.Flood{{ID: 1, Service: "one", Start: at, End: at}, two, three}, ""},
		{[]proxy.Flood{three}, ""}, // the second is forgotten
	} {
		if got := look(step.floods...); got != step.want {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
}

// A baseline that is damaged, or a link, is refused as a whole; none at all is none.
func TestLoadBaseline(t *testing.T) {
	dir := t.TempDir()
	path := baselineFile(dir)
	if learned, err := loadBaseline(path); err != nil || learned != nil {
		t.Errorf("no file: %v, %v", learned, err)
	}
	if err := os.WriteFile(path, []byte(`{"version":1,"services":[`), 0o600); err != nil {
		t.Fatal(err)
	}
	if learned, err := loadBaseline(path); err == nil || learned != nil {
		t.Errorf("half a file: %v, %v", learned, err)
	}
	var b strings.Builder
	var l flood.Learned
	l.Total.Observe(1e9, 77)
	if err := flood.Save(&b, map[string]flood.Learned{"web": l}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if learned, err := loadBaseline(path); err != nil || learned["web"] != l {
		t.Errorf("%v, %v", learned, err)
	}
	link := path + ".link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := loadBaseline(link); err == nil {
		t.Error("a link is followed")
	}
}
