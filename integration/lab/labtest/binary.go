package labtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// built is the folder of what Binary has built, if it has; folders are others that go when the tests are over.
var (
	built   string
	folders []string
)

// KeptDir makes a folder for what several tests of a run share. The test's package must end by Main.
func KeptDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "levee-test-")
	if err != nil {
		t.Fatal(err)
	}
	folders = append(folders, dir)
	return dir
}

// Binary returns the levee to test: what LEVEE_BINARY names, or one built once for this run. The test's package must end by Main.
var Binary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("LEVEE_BINARY"); path != "" {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "levee-test-")
	if err != nil {
		return "", err
	}
	built = dir
	path := filepath.Join(dir, "levee")
	if out, err := exec.Command("go", "build", "-o", path, "levee/cmd/levee").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build levee: %w\n%s", err, out)
	}
	return path, nil
})

// Main is TestMain of a package that uses Binary: it runs the tests, removes what was built and exits.
func Main(m *testing.M) {
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	for _, dir := range folders {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}
