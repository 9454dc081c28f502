//go:build linux

package e2e

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/anyarch/anyarch/internal/buildkit/buildkittest"
)

// crossTool stands for a cross compiler: it reports to the test that it ran, waits until
// it is answered, and leaves files of all kinds.
const crossTool = `package main

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

func check(errs ...error) {
	for _, err := range errs {
		if err != nil {
			println(err.Error())
			os.Exit(1)
		}
	}
}

func main() {
	arch := os.Getenv("TARGETARCH")
	conn, err := net.Dial("tcp", os.Args[1])
	check(err)
	_, err = conn.Write([]byte(arch + " " + os.Getenv("CASE") + "\n"))
	check(err)
	_, err = io.ReadAll(conn)
	check(err)
	program, err := os.ReadFile("/tools/tool-" + arch)
	check(err)
	old := time.Unix(1000000000, 0)
	check(os.MkdirAll("/out/tree/deep", 0o755), os.WriteFile("/out/app", program, 0o755),
		os.WriteFile("/out/tree/a", []byte("a"), 0o640), os.Chmod("/out/tree/a", 0o4755), os.Chown("/out/tree/a", 12, 34), os.Chmod("/out/tree/a", 0o4755),
		os.Link("/out/tree/a", "/out/tree/deep/b"), os.Symlink("../a", "/out/tree/deep/link"), os.Symlink("/nowhere", "/out/tree/dangling"),
		syscall.Mkfifo("/out/tree/fifo", 0o600),
		os.Chtimes("/out/tree/a", old, old), os.Chmod("/out/tree/deep", 0o2700), os.Chtimes("/out/tree/deep", old, old),
		os.WriteFile("/out/one.txt", []byte(arch), 0o644), os.WriteFile("/out/two.txt", []byte("2"), 0o600), os.Symlink("tree/a", "/out/three.txt"),
		os.Mkdir("/out/empty", 0o1777), os.WriteFile("/out/capable", []byte("c"), 0o755),
		syscall.Setxattr("/out/capable", "security.capability", []byte{1, 0, 0, 2, 0, 4, 18: 0, 19: 0}, 0),
		os.WriteFile("/out/odd [name]!", []byte("odd"), 0o644), os.Symlink("out", "/lnk"))
}
`

const splitDockerfile = `FROM --platform=$BUILDPLATFORM REGISTRY/kit/cross:1 AS cross
COPY tool-* ballast /tools/
COPY --from=more note /more/
ARG TARGETARCH CASE
RUN --mount=type=secret,id=s,required=true,target=/secret --mount=type=cache,target=/cache ["/bin/cross", "ADDRESS"]

FROM scratch AS unused
COPY ballast /

FROM scratch
COPY --from=cross /lnk/app /bin/app
COPY --from=0 --chown=7:8 /out/tree /opt/tree/
COPY --from=cross --chmod=0750 /out/t*.txt /out/one.txt /texts/
COPY --from=cross --link /out/tree/deep /srv/deep
COPY --from=cross ["/out/odd [[]name]!", "/odd"]
COPY --from=cross --exclude=deep /out/tree/ /some
COPY --from=cross --parents /out/./tree/deep/b /out/one.txt /parents/
COPY --from=more note /more
COPY --from=layout /bin/tool /layout
COPY <<EOF /here
here
EOF
WORKDIR /work
RUN --mount=from=cross,source=/out/tree,target=/mnt ["/bin/app", "/made"]
ENTRYPOINT ["/bin/app", "/tmp/x"]
`

// splitCopies are ways to take files from a stage, each from one of its own.
const splitCopies = `COPY --from=cross /lnk /c1
COPY --from=cross /lnk/ /c2/
COPY --from=cross /lnk/tree /c3
COPY --from=cross /lnk/tree/deep/link /c4
COPY --from=cross /lnk/three.txt /c5/
COPY --from=cross /out/*/deep /c6/
COPY --from=cross /lnk/*/deep/* /c7/
COPY --from=cross --chown=3:4 --chmod=u=rwX,go=rX /out/tree/deep/ /c8/d/
COPY --from=cross --link /lnk/t* /c9/
COPY --from=cross --link --chown=5:6 /out/tree /c10/
COPY --from=cross --parents /out/**/b /c11/
COPY --from=cross --parents /out/tree/./deep /c12/
COPY --from=cross --parents /out/./nothing* /c12/
COPY --from=cross --exclude=*.txt /out /c13/
COPY --from=cross /out/tree/deep/b /out/tree/a /c14/
COPY --from=cross /out/tree/deep/nothing* /c15/
COPY --from=cross out/one.txt ./rel/../c16
COPY --from=cross /out/../out/./tree/ /c17
COPY --from=cross ["/out/odd [[]name]!", "/c18/"]
COPY --from=cross /o*/odd* /c19/
COPY --from=cross /out/empty /c20/
COPY --from=cross /out/empty /out/capable /c21/
WORKDIR /c22
COPY --from=cross /out/tree /c3
RUN --mount=from=cross,source=/lnk/tree,target=/mnt --mount=type=bind,from=cross,source=/out/one.txt,target=/one,rw --mount=type=cache,from=cross,source=/out/empty,target=/cache ["/bin/app", "/cache/made"]
`

// split is what the tests of builds on several nodes share.
type split struct {
	*kit
	more    string // a directory
	mu      sync.Mutex
	crossed map[string][]string                    // what was cross-compiled for, by case
	during  map[string]func(arch string, time int) // is called while it is
}

func newSplit(t *testing.T) *split {
	t.Helper()
	s := &split{kit: newKit(t), more: t.TempDir(), crossed: map[string][]string{}, during: map[string]func(string, int){}}
	source := filepath.Join(t.TempDir(), "cross.go")
	check(t, os.WriteFile(source, []byte(crossTool), 0o644))
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(s.dir, "cross"), source)
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ballast := make([]byte, 4<<20)
	_, err := rand.Read(ballast)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(s.dir, "ballast"), ballast, 0o644))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				line, err := bufio.NewReader(conn).ReadString('\n')
				if err != nil {
					return
				}
				arch, name, _ := strings.Cut(strings.TrimSpace(line), " ")
				s.mu.Lock()
				s.crossed[name] = append(s.crossed[name], arch)
				during, n := s.during[name], len(s.crossed[name])
				s.mu.Unlock()
				if during != nil {
					during(arch, n)
				}
			}()
		}
	}()
	s.file(t, "Base", "FROM scratch\nCOPY cross /bin/cross\nCOPY ballast /lib/ballast\n")
	s.run(t, true, "publish", "-f", "Base", "--engine", "native", "--platform", "linux/amd64", "-t", s.registry+"/kit/cross:1", ".")
	s.file(t, "Layout", "FROM scratch\nARG TARGETARCH\nCOPY tool-$TARGETARCH /bin/tool\n")
	s.run(t, true, "build", "-f", "Layout", "--engine", "native", "--platform", "linux/amd64,linux/386", "--output", "oci:base", ".")
	s.file(t, "note", "a note")
	check(t, os.WriteFile(filepath.Join(s.more, "note"), []byte("another"), 0o644)) // nothing else is written there while it is read
	s.file(t, "Split", strings.NewReplacer("REGISTRY", s.registry, "ADDRESS", listener.Addr().String()).Replace(splitDockerfile))
	return s
}

// start starts a daemon.
func (s *split) start(t *testing.T) *buildkittest.Daemon {
	t.Helper()
	return buildkittest.Start(t, s.registry)
}

// contexts are the arguments for what else the Dockerfile reads.
func (s *split) contexts() []string {
	return []string{"--build-context", "more=" + s.more, "--build-context", "layout=oci-layout://base", "--secret", "id=s,src=note"}
}

// crosses gives what was cross-compiled for in a case since the last time, sorted.
func (s *split) crosses(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.crossed[name]
	delete(s.crossed, name)
	slices.Sort(list)
	return strings.Join(list, " ")
}

// build builds both platforms with a cache of its own, and gives the digest, what was
// reported, and how large the largest blob is that came to this machine. The case is what
// cross compilers report as; each has a result of its own. As soon as the program of the
// image runs for linux/386, started is called, if there is one.
func (s *split) build(t *testing.T, name string, started func(), args ...string) (digest, log string, largest int64) {
	t.Helper()
	cache := filepath.Join(t.TempDir(), "cache")
	cmd := s.command(append([]string{"build", "--engine", "buildkit", "--platform", "linux/amd64,linux/386", "--progress", "rawjson",
		"--output", "oci:" + name, "--build-arg", "CASE=" + name, "."}, append(s.contexts(), args...)...)...)
	cmd.Env = append(cmd.Env, "ANYARCH_CACHE="+cache, "SOURCE_DATE_EPOCH=1700000000")
	var stdout, all strings.Builder
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	check(t, err)
	check(t, cmd.Start())
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		all.WriteString(lines.Text() + "\n")
		var event struct{ Platform, State, Message string }
		if json.Unmarshal(lines.Bytes(), &event) == nil && event.Platform == "linux/386" && event.State == "started" && strings.Contains(event.Message, "/bin/app") && strings.Contains(event.Message, "RUN") && started != nil {
			started()
			started = nil
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, all.String())
	}
	check(t, filepath.WalkDir(cache, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			largest = max(largest, info.Size())
		}
		return err
	}))
	_, digest, _ = strings.Cut(stdout.String(), "@")
	return strings.TrimSpace(digest), all.String(), largest
}

// ran gives the instructions that were finished for a platform, by node.
func ran(log, platform string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(log) {
		var event struct{ Platform, State, Message string }
		if json.Unmarshal([]byte(line), &event) == nil && event.Platform == platform && event.State == "done" {
			name, node, _ := strings.Cut(event.Message, "  on ")
			out[node] += name + "\n"
		}
	}
	return out
}

// TestBuildKitSplit builds one image on two daemons: the stage that cross-compiles on the
// first, and what runs programs of the image on the other. The image is that of one
// daemon. Then daemons are lost, one way or another, and the image is still the same.
func TestBuildKitSplit(t *testing.T) {
	peers(t)
	s := newSplit(t)
	alone := s.start(t)
	want, log, _ := s.build(t, "alone", nil, "-f", "Split", "--builder", alone.Address)
	if got := s.crosses("alone"); got != "386 amd64" {
		t.Errorf("on one node it was cross-compiled for %s\n%s", got, log)
	}
	text, err := os.ReadFile(filepath.Join(s.dir, "Split"))
	check(t, err)
	s.file(t, "Slow", strings.Replace(string(text), `"/made"`, `"/made", "5s"`, 1))
	slow, log, _ := s.build(t, "slow", nil, "-f", "Slow", "--builder", alone.Address)
	if s.crosses("slow") != "386 amd64" {
		t.Error(log)
	}
	for _, c := range []struct {
		name string
		lose func(*buildkittest.Daemon)
		fast bool // the node that cross-compiles is lost, else the other one
	}{
		{"fast silent", (*buildkittest.Daemon).Freeze, true},
		{"other silent", (*buildkittest.Daemon).Freeze, false},
		{"fast killed", (*buildkittest.Daemon).Kill, true},
		{"other killed", (*buildkittest.Daemon).Kill, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // a silent daemon is waited for: those are first
			name := strings.ReplaceAll(c.name, " ", "-")
			first, second := s.start(t), s.start(t)
			args := []string{"--builder", first.Address + "=linux/amd64", "--builder", second.Address + "=linux/386"}
			file, same, crossed := "Split", want, "386 386 amd64"
			var started func()
			if c.fast {
				args = append(args, "--builder", s.start(t).Address+"=linux/amd64")
				s.mu.Lock()
				s.during[name] = func(arch string, n int) {
					if arch == "386" && n < 3 {
						c.lose(first)
					}
				}
				s.mu.Unlock()
			} else {
				file, same, crossed = "Slow", slow, "386 amd64"
				args = append(args, "--builder", s.start(t).Address+"=linux/386")
				started = func() { c.lose(second) }
			}
			got, log, _ := s.build(t, name, started, append(args, "-f", file)...)
			if got != same || !strings.Contains(log, "PA143") {
				t.Errorf("the image is %s, want %s\n%s", got, same, log)
			}
			// linux/amd64 is on the first node, too: it may have to be built again.
			if got := s.crosses(name); got != crossed && !(c.fast && got == "386 386 amd64 amd64") {
				t.Errorf("it was cross-compiled for %s, want %s", got, crossed)
			}
		})
	}
	t.Run("none left", func(t *testing.T) {
		t.Parallel()
		first, second := s.start(t), s.start(t)
		s.mu.Lock()
		s.during["none"] = func(arch string, _ int) {
			if arch == "386" {
				first.Kill()
				second.Kill()
			}
		}
		s.mu.Unlock()
		_, log := s.run(t, false, append([]string{"publish", "--engine", "buildkit", "--platform", "linux/amd64,linux/386", "-f", "Split", "--build-arg", "CASE=none", "-t", s.registry + "/kit/none:1",
			"--builder", first.Address + "=linux/amd64", "--builder", second.Address + "=linux/386", "."}, s.contexts()...)...)
		if !strings.Contains(log, "PA143") || s.tagged(t, "kit/none", "1") {
			t.Error(log)
		}
	})
	t.Run("two", func(t *testing.T) {
		t.Parallel()
		first, second := s.start(t), s.start(t)
		kept := filepath.Join(s.dir, "kept")
		got, log, largest := s.build(t, "two", nil, "-f", "Split", "--builder", first.Address+"=linux/amd64", "--builder", second.Address+"=linux/386", "--cache-to", "type=local,mode=max,dest="+kept)
		if got != want {
			diff, _ := s.run(t, false, "diff", "alone", "two")
			t.Errorf("on two nodes the image is %s, on one %s\n%s\n%s", got, want, diff, log)
		}
		if got := s.crosses("two"); got != "386 amd64" {
			t.Errorf("on two nodes it was cross-compiled for %s", got)
		}
		if largest > 3<<20 {
			t.Errorf("a blob of %d bytes was handed over, which is more than what is read of the stage", largest)
		}
		by := ran(log, "linux/386")
		if !strings.Contains(by[first.Address], "/bin/cross") || strings.Contains(by[second.Address], "/bin/cross") || !strings.Contains(by[second.Address], "/bin/app") {
			t.Errorf("what ran where for linux/386: %q", by)
		}
		if !strings.Contains(log, "handed over") || strings.Contains(log, `"state":"warning"`) {
			t.Errorf("it isn't said, or something is warned about:\n%s", log)
		}
		again, log, _ := s.build(t, "two", nil, "-f", "Split", "--builder", first.Address+"=linux/amd64", "--builder", second.Address+"=linux/386", "--no-cache")
		if crossed := s.crosses("two"); again != want || crossed != "386 amd64" {
			t.Errorf("without caches the image is %s, want %s, and it was cross-compiled for %s\n%s", again, want, crossed, log)
		}
		// Others begin with what these have kept.
		got, log, _ = s.build(t, "two", nil, "-f", "Split", "--builder", s.start(t).Address+"=linux/amd64", "--builder", s.start(t).Address+"=linux/386", "--cache-from", "type=local,src="+kept)
		if crossed := s.crosses("two"); got != want || crossed != "" {
			t.Errorf("with the caches of other nodes the image is %s, want %s, and it was cross-compiled for %q\n%s", got, want, crossed, log)
		}
	})
	t.Run("another machine's stage", func(t *testing.T) {
		t.Parallel()
		s.run(t, true, "publish", "-f", "Layout", "--engine", "native", "--platform", "linux/amd64,linux/386", "-t", s.registry+"/kit/tool:1", ".")
		s.file(t, "Pinned", strings.ReplaceAll(`FROM --platform=linux/386 TOOL AS x86
RUN ["/bin/tool", "/out"]
FROM TOOL
COPY --from=x86 /out /out
RUN ["/bin/tool", "/made"]
ENTRYPOINT ["/bin/tool", "/tmp/x"]
`, "TOOL", s.registry+"/kit/tool:1"))
		one, _, _ := s.build(t, "pinned", nil, "-f", "Pinned", "--builder", alone.Address)
		first, second := s.start(t), s.start(t)
		two, log, _ := s.build(t, "pinned", nil, "-f", "Pinned", "--builder", first.Address+"=linux/amd64", "--builder", second.Address+"=linux/386")
		if by := ran(log, "linux/amd64"); one != two || !strings.Contains(by[second.Address], "/out") || !strings.Contains(by[first.Address], "/made") || strings.Contains(by[second.Address], "/made") {
			t.Errorf("on one node the image is %s, on two %s\n%s", one, two, log)
		}
	})
	t.Run("copies", func(t *testing.T) {
		t.Parallel()
		stages, count := "", 0
		copies := regexp.MustCompile(`from=cross\b`).ReplaceAllStringFunc(splitCopies, func(string) string {
			count++
			stages += fmt.Sprintf("FROM cross AS cross%d\nCOPY note /cross%d/\n", count, count)
			return fmt.Sprintf("from=cross%d", count)
		})
		s.file(t, "Copies", strings.NewReplacer("FROM scratch AS unused\n", stages+"FROM scratch AS unused\n", "WORKDIR /work\n", copies+"WORKDIR /work\n").Replace(string(text)))
		one, _, _ := s.build(t, "copies", nil, "-f", "Copies", "--builder", alone.Address)
		two, log, _ := s.build(t, "copies", nil, "-f", "Copies", "--builder", s.start(t).Address+"=linux/amd64", "--builder", s.start(t).Address+"=linux/386")
		if one != two || strings.Count(log, "handed over") <= count {
			t.Errorf("on one node the image is %s, on two %s\n%s", one, two, log)
		}
	})
	t.Run("failures", func(t *testing.T) {
		t.Parallel()
		first, second := s.start(t), s.start(t)
		for name, c := range map[string]struct{ old, new, code, place string }{
			"Fails":   {`"/bin/cross", "`, `"/bin/cross", "no`, "PA145", "Fails:5"},
			"Missing": {"/out/tree/deep /srv/deep", "/out/no /srv/deep", "PA145", "Missing:14"},
			"Wrong":   {"--from=more note /more\n", "--from=cross /tools/tool-amd64 /wrong\n", "PA202", "Wrong:18 /wrong"},
		} {
			s.file(t, name, strings.Replace(string(text), c.old, c.new, 1))
			_, log := s.run(t, false, append([]string{"build", "--engine", "buildkit", "--platform", "linux/386", "-f", name, "--output", "oci:" + name,
				"--builder", first.Address + "=linux/amd64", "--builder", second.Address + "=linux/386", "."}, s.contexts()...)...)
			if !strings.Contains(log, c.code) || !strings.Contains(log, c.place) || strings.Contains(log, "PA143") {
				t.Errorf("%s: the line isn't named:\n%s", name, log)
			}
		}
	})
}
