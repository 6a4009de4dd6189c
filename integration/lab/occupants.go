package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// waitEmpty waits until no other process is in any of the namespaces, or returns an error that
// names those that are.
func waitEmpty(namespaces []*Namespace, wait time.Duration) error {
	deadline := time.Now().Add(wait)
	for {
		found := occupants(namespaces)
		if len(found) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("still in the lab, end them to free it: %s", strings.Join(found, ", "))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// occupants describes the processes, other than this one, that are in one of the namespaces.
func occupants(namespaces []*Namespace) []string {
	names := make(map[uint64]string, len(namespaces))
	for _, n := range namespaces {
		names[n.inode] = n.Name
	}
	paths, _ := filepath.Glob("/proc/[0-9]*/ns/net") // the pattern is well-formed
	var found []string
	for _, p := range paths {
		// A process that ends meanwhile has no namespace any more.
		info, err := os.Stat(p)
		if err != nil {
			continue
		}
		name, ours := names[info.Sys().(*syscall.Stat_t).Ino]
		pid := strings.Split(p, "/")[2]
		if !ours || pid == fmt.Sprint(os.Getpid()) {
			continue
		}
		comm, err := os.ReadFile("/proc/" + pid + "/comm")
		if err != nil {
			continue
		}
		found = append(found, fmt.Sprintf("process %s (%s) in %s", pid, strings.TrimSpace(string(comm)), name))
	}
	return found
}
