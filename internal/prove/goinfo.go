package prove

import (
	"debug/buildinfo"
	"errors"
	"io"
	"strings"
)

// maxBuildInfo is how many bytes debug/buildinfo may read of one file, and so
// also what it can be made to keep in memory. The information of large programs
// has a few tens of kilobytes and lies in a section or at the beginning of the
// data. Of Mach-O files the symbols are read as well.
const (
	maxBuildInfo      = 4 << 20
	maxBuildInfoMachO = 32 << 20
)

// readGo fills in what Go's build information says. A program without it, or
// with some that isn't readable, isn't known to be a Go program.
func readGo(r io.ReaderAt, b *Binary) {
	defer func() { _ = recover() }() // debug/elf and friends on hostile bytes
	limited := &budget{r: r, left: maxBuildInfo}
	if b.Format == MachO {
		limited.left = maxBuildInfoMachO
	}
	info, err := buildinfo.Read(limited)
	if err != nil || info == nil {
		return
	}
	b.GoVersion, b.ModulePath = info.GoVersion, info.Main.Path
	for _, s := range info.Settings {
		switch {
		case s.Key == "GOOS":
			b.GoOS = s.Value
		case s.Key == "GOARCH":
			b.GoArch = s.Value
		case s.Value != "" && (strings.HasPrefix(s.Key, "GOAMD64") || s.Key == "GO386" || strings.HasPrefix(s.Key, "GOARM") ||
			strings.HasPrefix(s.Key, "GOMIPS") || s.Key == "GOPPC64" || s.Key == "GORISCV64"):
			b.GoLevel = &GoLevel{s.Key, s.Value}
		}
	}
}

// budget fails once more than left bytes have been read.
type budget struct {
	r    io.ReaderAt
	left int64
}

var errBudget = errors.New("more would have to be read than is allowed")

func (b *budget) ReadAt(p []byte, off int64) (int, error) {
	b.left -= int64(len(p))
	if b.left < 0 {
		return 0, errBudget
	}
	return b.r.ReadAt(p, off)
}
