package tunnel

import (
	"strings"
	"testing"
)

func TestConfigValidate(t *testing.T) {
	good := Config{Name: "tun0", MTU: 1500, Queues: 2}
	tests := []struct {
		name   string
		change func(*Config)
		want   string // part of the error; "" is no error
	}{
		{"good", func(c *Config) {}, ""},
		{"longest name", func(c *Config) { c.Name = strings.Repeat("a", 15) }, ""},
		{"smallest numbers", func(c *Config) { c.MTU, c.Queues, c.TxQueueLen = 68, 1, 1 }, ""},
		{"largest numbers", func(c *Config) { c.MTU, c.Queues, c.TxQueueLen = 65535, 256, 65536 }, ""},
		{"no name", func(c *Config) { c.Name = "" }, `"": is empty`},
		{"name too long", func(c *Config) { c.Name = strings.Repeat("a", 16) }, "longer than 15 bytes"},
		{"dot", func(c *Config) { c.Name = "." }, "reserved"},
		{"dots", func(c *Config) { c.Name = ".." }, "reserved"},
		{"slash", func(c *Config) { c.Name = "a/b" }, `"a/b": may hold only`},
		{"colon", func(c *Config) { c.Name = "a:b" }, "may hold only"},
		{"pattern", func(c *Config) { c.Name = "tun%d" }, "may hold only"},
		{"space", func(c *Config) { c.Name = "a b" }, "may hold only"},
		{"newline", func(c *Config) { c.Name = "a\n" }, `"a\n": may hold only`},
		{"zero byte", func(c *Config) { c.Name = "a\x00" }, "may hold only"},
		{"no-break space", func(c *Config) { c.Name = "a\u00a0b" }, "may hold only"},
		{"MTU too small", func(c *Config) { c.MTU = 67 }, "MTU 67 is out of range: choose 68 to 65535"},
		{"MTU too large", func(c *Config) { c.MTU = 65536 }, "MTU 65536"},
		{"no queues", func(c *Config) { c.Queues = 0 }, "0 queues is out of range: choose 1 to 256"},
		{"too many queues", func(c *Config) { c.Queues = 257 }, "257 queues"},
		{"negative queue length", func(c *Config) { c.TxQueueLen = -1 }, "queue length -1"},
		{"huge queue length", func(c *Config) { c.TxQueueLen = 65537 }, "queue length 65537"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := good
			tt.change(&cfg)
			err := cfg.Validate()
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantOneLine(t, err, tt.want)
		})
	}
}

// wantOneLine checks an error that an operator is to read.
func wantOneLine(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("%q is more than one line", err)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q lacks %q", err, part)
		}
	}
}
