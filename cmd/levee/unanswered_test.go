package main

import (
	"os"
	"strings"
	"testing"
)

// Without a daemon no answer is begun: neither is there half an object, nor is an older capture emptied or a new one made.
func TestNothingBegunWithoutDaemon(t *testing.T) {
	dir := t.TempDir()
	config := writeConfig(t, "state_dir: "+dir+"/state\nsecret_file: "+dir+"/cookie.key\n"+web)
	old := dir + "/old.pcapng"
	if err := os.WriteFile(old, []byte("evidence"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"flows", "-o", "json"}, {"servers", "-o", "json"}, {"capture", "-w", "-"}, {"capture", "-w", old}, {"capture", "-w", dir + "/new.pcapng"},
	} {
		code, stdout, stderr := levee(append(args, "-c", config)...)
		if code != 1 || stdout != "" || !strings.HasPrefix(stderr, "levee: no daemon on ") {
			t.Errorf("%v: %d %q %q", args, code, stdout, stderr)
		}
	}
	if text, err := os.ReadFile(old); err != nil || string(text) != "evidence" {
		t.Errorf("the older capture is %q now, %v", text, err)
	}
	if exists(dir + "/new.pcapng") {
		t.Error("a capture of nothing was made")
	}
}
