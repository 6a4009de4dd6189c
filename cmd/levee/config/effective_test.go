package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// What Effective writes is the same configuration, and needs neither the environment nor the defaults.
func TestEffective(t *testing.T) {
	example, err := os.ReadFile("../../../docs/levee.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"example": string(example),
		"small":   "# nobody's business\ntun: {name: \"007\"}\nservices: [{name: web, prefixes: 192.0.2.0/24, ports: [80, 8000-8100]}]\n",
	} {
		t.Run(name, func(t *testing.T) {
			path, again := filepath.Join(t.TempDir(), "levee.yaml"), filepath.Join(t.TempDir(), "again.yaml")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("LEVEE_LOG_LEVEL", "debug")
			want, err := Load(path)
			if err != nil {
				t.Fatal(err)
			}
			written, err := Effective(path)
			if err != nil || strings.Contains(written, "#") || !strings.Contains(written, "\n    table: 7332\n") {
				t.Errorf("%v\n%s", err, written)
			}
			t.Setenv("LEVEE_LOG_LEVEL", "")
			if err := os.WriteFile(again, []byte(written), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := Load(again)
			if err != nil {
				t.Fatalf("%v\n%s", err, written)
			}
			if !reflect.DeepEqual(want, got) {
				t.Errorf("another configuration: %+v, want %+v\n%s", got, want, written)
			}
		})
	}
}

// Of a broken file there is what was understood, and what is wrong.
func TestEffectiveBroken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "levee.yaml")
	for text, want := range map[string]string{
		"tun: {mtu: 7}\ncolour: red\nservices: [{name: web, prefixes: [192.0.2.0/24]}]\n": "mtu: 7\n",
		"services: [\n": "table: 7332\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if written, err := Effective(path); err == nil || !strings.Contains(written, want) || strings.Contains(written, "colour") {
			t.Errorf("%q: %v\n%s", text, err, written)
		}
	}
}
