package config

import (
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"levee/proxy"
	"levee/proxy/flood"
	"levee/proxy/servers"
)

const exampleFile = "../../../docs/levee.example.yaml"

// The example is the reference: what it says is what levee does without it.
func TestExampleFileIsTheDefaults(t *testing.T) {
	got, err := Load(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	want := standard()
	want.Services[0].Prefixes = append(want.Services[0].Prefixes, netip.MustParsePrefix("2001:db8:1::/64"))
	want.Services[0].Ports = []proxy.PortRange{{First: 80, Last: 80}, {First: 443, Last: 443}, {First: 8000, Last: 8100}}
	if diff := cmp.Diff(want, got, compare); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestExampleFileHasEveryKey(t *testing.T) {
	data, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := parseTree(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range missing(tree, reflect.TypeFor[raw](), "") {
		t.Errorf("the example lacks %s", key)
	}
}

// missing returns the keys of want that tree doesn't have.
func missing(tree any, want reflect.Type, path string) []string {
	if want.Kind() == reflect.Slice && want.Elem().Kind() == reflect.Struct {
		list, _ := tree.([]any)
		if len(list) == 0 {
			return []string{path + "[0]"}
		}
		tree, want, path = list[0], want.Elem(), path+"[0]"
	}
	if want.Kind() != reflect.Struct {
		return nil
	}
	section, _ := tree.(map[string]any)
	var keys []string
	for i := range want.NumField() {
		f := want.Field(i)
		tag := f.Tag.Get("mapstructure")
		value, ok := section[tag]
		if !ok {
			keys = append(keys, join(path, tag))
			continue
		}
		keys = append(keys, missing(value, f.Type, join(path, tag))...)
	}
	return keys
}

// The lists of defaults and the raw struct must have the same keys.
func TestEveryKeyHasADefault(t *testing.T) {
	have := map[string]bool{"services": true}
	for _, d := range defaults {
		have[d.key] = true
	}
	for _, name := range leaves(reflect.TypeFor[raw](), "") {
		if !have[name] {
			t.Errorf("no default for %s", name)
		}
		delete(have, name)
	}
	for name := range have {
		t.Errorf("a default for %s, which is no key", name)
	}
}

// leaves are the keys of a section that aren't sections themselves, by their whole names.
func leaves(section reflect.Type, prefix string) (names []string) {
	for i := range section.NumField() {
		f := section.Field(i)
		if name := prefix + f.Tag.Get("mapstructure"); f.Type.Kind() == reflect.Struct {
			names = append(names, leaves(f.Type, name+".")...)
		} else {
			names = append(names, name)
		}
	}
	return names
}

// The bounds in the comments are those in the code.
func TestExampleFileNamesItsBounds(t *testing.T) {
	data, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		fmt.Sprintf("bytes, %d to %d", proxy.MinMTU, proxy.MaxMTU),
		fmt.Sprintf("at most %d", MaxQueues),
		fmt.Sprintf("%d to %d", MinTxQueueLen, MaxTxQueueLen),
		fmt.Sprintf("bytes, %d to %d", minMSS, maxMSS),
		fmt.Sprintf("1 to %d", MaxProbeRate),
		fmt.Sprintf("1 to %d", flood.MaxHalfOpen),
		fmt.Sprintf("1 to %d", flood.MaxSYNRate),
		fmt.Sprintf("1 to %d", servers.MaxCapacity),
	} {
		if !regexp.MustCompile(regexp.QuoteMeta(want)).Match(data) {
			t.Errorf("the example doesn't say %q", want)
		}
	}
}

// The natural edit of what the package installs is to take the # away.
func TestInstalledFile(t *testing.T) {
	data, err := os.ReadFile("../package/debian/postinst")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "<<'YAML'\n")
	installed, _, found := strings.Cut(rest, "YAML\n")
	if !found {
		t.Fatal("postinst writes no YAML")
	}
	if _, err := Load(write(t, installed)); err == nil || !strings.HasSuffix(err.Error(), ": services: there are none, so nothing would be protected: add one with a name and prefixes") {
		t.Errorf("as installed: %v", err)
	}
	if cfg, err := Load(write(t, strings.ReplaceAll(installed, "\n#  ", "\n  "))); err != nil || len(cfg.Services) != 1 {
		t.Errorf("with its example: %+v, %v", cfg.Services, err)
	}
}
