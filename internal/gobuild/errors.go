package gobuild

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

var (
	positionLine = regexp.MustCompile(`^(.+?\.(?:go|s|work|mod|sum)):(\d+)(?::(\d+))?: (.*)$`)
	needsGo      = regexp.MustCompile(`requires go >= ([0-9a-z.]+)`)
	noToolchain  = regexp.MustCompile(`download (go[0-9a-z.]+) for|invalid toolchain|toolchain not available`)
	excluded     = regexp.MustCompile(`build constraints exclude all Go files in (\S+)`)
)

// maxSeen is how many lines of a compiler's messages are shown.
const maxSeen = 12

// explain turns what the go command printed into a refusal.
func (b *Builder) explain(p platform.Platform, root string, stderr []byte, cause error) error {
	text := strings.TrimSpace(string(stderr))
	lines := messageLines(text)
	e := &refusal.Error{Code: "PA112", Platform: p.String(), Summary: "does not compile", Seen: lines, Err: cause}
	if len(lines) == 0 {
		e.Seen = []string{cause.Error()}
	}
	for i, line := range lines {
		if m := positionLine.FindStringSubmatch(line); m != nil {
			e.Place = relative(b.Dir, root, m[1]) + ":" + m[2]
			if m[3] != "" {
				e.Place += ":" + m[3]
			}
			e.Summary = "does not compile: " + m[4]
			e.Seen = append(lines[:i:i], lines[i+1:]...)
			break
		}
	}
	switch {
	case errors.Is(cause, syscall.ENOSPC) || strings.Contains(text, "no space left on device"):
		e.Code, e.Platform, e.Summary, e.Fix = "PA601", "", "the disk is full", []string{"go clean -cache", "anyarch cache prune"}
	case needsGo.MatchString(text) && strings.Contains(text, "GOTOOLCHAIN="), noToolchain.MatchString(text):
		e.Code, e.Platform, e.Place, e.Summary = "PA121", "", filepath.Join(relative(b.Dir, root, root), "go.mod"), "the Go version that go.mod asks for can't be had"
		if m := needsGo.FindStringSubmatch(text); m != nil {
			e.Fix = []string{"GOTOOLCHAIN=auto, which downloads it", "go install golang.org/dl/go" + m[1] + "@latest"}
		} else {
			e.Fix = []string{"check the go and toolchain lines of go.mod, and GOPROXY"}
		}
		e.Seen = lines
	case excluded.MatchString(text):
		return b.explainExcluded(p, excluded.FindStringSubmatch(text)[1], lines, cause)
	case strings.Contains(text, "GOVCS disallows"):
		e.Code, e.Summary = "PA119", "a module must come straight from version control"
		e.Platform, e.Seen, e.Fix = "", lines, []string{"go mod download", "go mod vendor"}
	case strings.Contains(text, "no required module provides package"), strings.Contains(text, "missing go.sum entry"),
		strings.Contains(text, "updates to go.mod needed"), strings.Contains(text, "inconsistent vendoring"):
		e.Code, e.Platform, e.Summary, e.Fix = "PA119", "", "go.mod or go.sum isn't complete", []string{"go mod tidy"}
		if strings.Contains(text, "inconsistent vendoring") {
			e.Summary, e.Fix = "vendor/modules.txt doesn't agree with go.mod", []string{"go mod vendor"}
		}
		e.Seen = lines
	case strings.Contains(text, "dial tcp"), strings.Contains(text, "module lookup disabled by GOPROXY=off"), strings.Contains(text, "no such host"),
		strings.Contains(text, "reading https://"), strings.Contains(text, "verifying module"):
		e.Code, e.Kind, e.Platform, e.Summary = "PA119", refusal.Unavailable, "", "a module can't be had"
		e.Seen, e.Fix = lines, []string{"go mod download, where there is a network, or set GOPROXY"}
	case strings.Contains(text, "requires external (cgo) linking"):
		e.Code, e.Summary = "PA111", "needs cgo: this platform or build mode links with a C linker"
		e.Fix = []string{"--cc " + p.String() + "=" + CrossCompiler(p)}
	default:
		e.Fix = guardFix(e.Place, p)
	}
	return e
}

// guardFix proposes how code for some platforms is kept from the others.
func guardFix(place string, p platform.Platform) []string {
	file, _, found := strings.Cut(place, ":")
	if !found || strings.HasSuffix(file, "_"+p.Architecture+".go") || !strings.HasSuffix(file, ".go") {
		return nil
	}
	return []string{"see the same message with: " + strings.Join(p.GoEnv(), " ") + " go build " + goDir(file)}
}

func goDir(file string) string {
	dir := filepath.ToSlash(filepath.Dir(file))
	if dir == "." || strings.HasPrefix(dir, "../") || filepath.IsAbs(dir) {
		return dir
	}
	return "./" + strings.TrimPrefix(dir, "./")
}

// messageLines drops headings and download notices.
func messageLines(text string) []string {
	var lines []string
	for scanner := bufio.NewScanner(strings.NewReader(text)); scanner.Scan(); {
		line := strings.TrimRight(scanner.Text(), " \t\r")
		if line == "" || strings.HasPrefix(line, "# ") || strings.HasPrefix(line, "go: downloading ") {
			continue
		}
		if len(lines) == maxSeen {
			return append(lines, "…")
		}
		lines = append(lines, strings.ReplaceAll(line, "\t", "    "))
	}
	return lines
}

// relative writes a file as seen from the user's directory. The go command
// writes it as seen from root.
func relative(base, root, file string) string {
	if !filepath.IsAbs(file) {
		file = filepath.Join(root, file)
	}
	rel, err := filepath.Rel(base, file)
	if err != nil || strings.HasPrefix(rel, ".."+string(filepath.Separator)+"..") {
		return file
	}
	return filepath.ToSlash(rel)
}

// explainExcluded tells apart the two reasons for which all files of a package
// are excluded: import "C" without cgo, and files made for other platforms.
func (b *Builder) explainExcluded(p platform.Platform, dir string, lines []string, cause error) error {
	if place := findCgo(dir); place != "" {
		return &refusal.Error{
			Code: "PA111", Platform: p.String(), Place: relative(b.Dir, dir, place), Summary: "needs cgo", Seen: lines, Err: cause,
			Fix: []string{
				"build without it: --go-tags netgo,osusergo, or a module in pure Go (for SQLite: modernc.org/sqlite)",
				"or name a cross compiler: --cc " + p.String() + "=" + CrossCompiler(p),
			},
		}
	}
	return &refusal.Error{
		Code: "PA112", Platform: p.String(), Place: relative(b.Dir, dir, dir), Summary: "does not compile: no Go file is for this platform", Seen: lines, Err: cause,
		Fix: []string{"add a file for " + p.String() + " to the package, or drop " + p.String() + " from --platform"},
	}
}

// CrossCompiler is the usual name of a C compiler for p.
func CrossCompiler(p platform.Platform) string {
	triple := map[string]string{
		"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu", "arm": "arm-linux-gnueabihf", "386": "i686-linux-gnu",
		"ppc64le": "powerpc64le-linux-gnu", "s390x": "s390x-linux-gnu", "riscv64": "riscv64-linux-gnu",
		"mips": "mips-linux-gnu", "mipsle": "mipsel-linux-gnu", "mips64le": "mips64el-linux-gnuabi64",
	}[p.Architecture]
	if triple == "" {
		return "gcc"
	}
	return triple + "-gcc"
}

var importC = regexp.MustCompile(`^\s*(?:import\s+)?"C"\s*(?://.*)?$`)

// findCgo finds the line that imports "C" in a package's directory.
func findCgo(dir string) string {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return ""
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		if n := lineOf(file, importC); n > 0 {
			return fmt.Sprintf("%s:%d", file, n)
		}
	}
	return ""
}

func lineOf(file string, pattern *regexp.Regexp) int {
	f, err := os.Open(file)
	if err != nil {
		return 0
	}
	defer f.Close()
	for scanner, n := bufio.NewScanner(f), 1; scanner.Scan(); n++ {
		if pattern.MatchString(scanner.Text()) {
			return n
		}
	}
	return 0
}

// explainList turns an error of `go list -e` into a refusal.
func (b *Builder) explainList(pkg listed) error {
	text := strings.TrimSpace(pkg.Error.Err)
	place := pkg.ImportPath
	if pkg.Error.Pos != "" {
		place = pkg.Error.Pos
	}
	switch {
	case strings.Contains(text, "no required module provides package"), strings.Contains(text, "is not in std"),
		strings.Contains(text, "cannot find module providing"), strings.Contains(text, "does not contain package"):
		return &refusal.Error{Code: "PA115", Kind: refusal.Usage, Place: place, Summary: "no package to build", Seen: messageLines(text),
			Fix: []string{"a directory is written with ./, as in ./cmd/" + filepath.Base(pkg.ImportPath)}}
	case strings.Contains(text, "no Go files"):
		return &refusal.Error{Code: "PA115", Kind: refusal.Usage, Place: place, Summary: "no package to build: no Go files in " + dotted(b.Dir, pkg.Dir)}
	case excluded.MatchString(text):
		return &refusal.Error{Code: "PA114", Kind: refusal.Usage, Place: place, Summary: "not a main package", Seen: messageLines(text)}
	}
	return &refusal.Error{Code: "PA112", Place: place, Summary: "the package can't be read", Seen: messageLines(text)}
}

func diskError(dir string, err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return &refusal.Error{Code: "PA601", Place: dir, Summary: "the disk is full", Err: err, Fix: []string{"go clean -cache"}}
	}
	return &refusal.Error{Code: "PA602", Place: dir, Summary: "can't write here", Seen: []string{err.Error()}, Err: err, Fix: []string{"ANYARCH_CACHE=DIR puts the cache elsewhere"}}
}
