package e2e

import (
	"os"
	"testing"
)

// atExit is what tests that share something leave to be done after all of them.
var atExit []func()

func TestMain(m *testing.M) {
	code := m.Run()
	for _, f := range atExit {
		f()
	}
	os.Exit(code)
}

// peers skips a test that holds what is built against the real tools of this machine,
// unless ANYARCH_PEERS is set: together they take a quarter of an hour, and what isn't
// installed is skipped.
func peers(t *testing.T) {
	t.Helper()
	if testing.Short() || os.Getenv("ANYARCH_PEERS") == "" {
		t.Skip("ANYARCH_PEERS=1 compares with the real tools of this machine (CONTRIBUTING.md)")
	}
}
