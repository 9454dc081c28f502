package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// anyarchIn runs the program as a script does, and may be called by several goroutines.
func anyarchIn(ctx context.Context, ts *testscript.TestScript, env []string, args ...string) (stdout string, err error) {
	cmd := exec.CommandContext(ctx, filepath.Join(ts.Getenv("BIN"), "anyarch"), args...)
	cmd.Dir, cmd.Env = ts.MkAbs("."), env
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("anyarch %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), said.String())
	}
	return out.String(), nil
}

// environOf is the environment of a script.
func environOf(ts *testscript.TestScript) []string {
	env := os.Environ()
	for _, key := range []string{"REGISTRY", "HOME", "USERPROFILE", "LOCALAPPDATA", "ANYARCH_CACHE", "GOCACHE", "GOFLAGS", "GOPROXY", "GOENV", "GOTOOLCHAIN", "GOARCH", "GOOS", "NO_COLOR", "CI", "GITHUB_ACTIONS", "MIRROR", "ANYARCH_PACKAGE_MIRROR", "PATH"} {
		env = append(env, key+"="+ts.Getenv(key))
	}
	return env
}

// hammer builds Go packages and a Dockerfile at the same time, again and again, while
// another process removes everything from the cache that it can: hammer N. No build may
// fail, and each comes to the same every time.
func hammer(ts *testscript.TestScript, _ bool, args []string) {
	rounds, err := strconv.Atoi(args[0])
	ts.Check(err)
	if more := os.Getenv("ANYARCH_TEST_EDITS"); more != "" {
		rounds, err = strconv.Atoi(more)
		ts.Check(err)
	}
	env := environOf(ts)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var pruner sync.WaitGroup
	var prunings, freed int
	var pruneErr error
	pruner.Go(func() {
		for ctx.Err() == nil {
			out, err := anyarchIn(context.WithoutCancel(ctx), ts, env, "cache", "prune", "--all")
			if err != nil {
				pruneErr = err
				return
			}
			if prunings++; !strings.HasPrefix(out, "0 B freed") {
				freed++
			}
		}
	})
	builds := [][]string{
		{"build", "-q", "./cmd/hello", "-p", "linux/amd64,linux/arm64", "--output", "oci:packages"},
		{"build", "-q", "-f", "docker/Dockerfile", "--build-arg", "REG=" + ts.Getenv("REGISTRY"), "--output", "oci:image", "context"},
	}
	first := make([]string, len(builds))
	errs := make([]error, len(builds))
	for round := range rounds {
		var wg sync.WaitGroup
		for i, build := range builds {
			wg.Go(func() {
				var out string
				if out, errs[i] = anyarchIn(ctx, ts, env, build...); errs[i] != nil {
					return
				}
				if first[i] == "" {
					first[i] = out
				} else if out != first[i] {
					errs[i] = fmt.Errorf("round %d came to %s, the first one to %s", round, out, first[i])
				}
			})
		}
		wg.Wait()
		for _, err := range errs {
			ts.Check(err)
		}
	}
	stop()
	pruner.Wait()
	ts.Check(pruneErr)
	if freed == 0 {
		ts.Fatalf("nothing was ever pruned: this shows nothing")
	}
	ts.Logf("%d rounds, %d prunings, %d of which freed something", rounds, prunings, freed)
}

// flip changes one byte of every file of some parts of the cache and says in FLIPPED how
// many there are: flip PART….
func flip(ts *testscript.TestScript, _ bool, parts []string) {
	n := 0
	for _, part := range parts {
		err := filepath.WalkDir(filepath.Join(ts.Getenv("ANYARCH_CACHE"), filepath.FromSlash(part)), func(path string, d fs.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil
			}
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil || len(data) == 0 {
				return err
			}
			data[n%len(data)] ^= 1 << (n % 8) // another byte of each
			n++
			return os.WriteFile(path, data, 0o644)
		})
		ts.Check(err)
	}
	if n == 0 {
		ts.Fatalf("only %d files are there", n)
	}
	ts.Setenv("FLIPPED", strconv.Itoa(n))
}
