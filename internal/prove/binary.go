package prove

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
)

// Format is the format of a program file.
type Format string

// The formats of programs that are told apart.
const (
	ELF   Format = "elf"
	PE    Format = "pe"
	MachO Format = "macho"
	Wasm  Format = "wasm"
)

// Binary is what the file of a program, library or object says about itself.
type Binary struct {
	Path   string `json:"path,omitempty"` // in the image, symbolic links resolved
	Format Format `json:"format"`
	// Kind is program, library, object (also a kernel module) or core.
	Kind string `json:"kind"`
	// Machine is the machine for people, such as x86-64 or AArch64.
	Machine string `json:"machine"`
	// OS and Architecture are those of an OCI platform as far as the header
	// says: most ELF files name no OS. Architecture is empty if no OCI platform
	// has such a machine.
	OS           string `json:"os,omitempty"`
	Architecture string `json:"architecture,omitempty"`
	// Slices lists the architectures of a universal Mach-O file, which has no
	// Architecture.
	Slices []string `json:"slices,omitempty"`
	// Portable is set for what the header gives a machine but no processor
	// runs: .NET assemblies, eBPF and GPU code, EFI applications.
	Portable bool `json:"portable,omitempty"`

	Static      bool     `json:"static"`                // an ELF program that needs no interpreter and no library
	Interpreter string   `json:"interpreter,omitempty"` // of a dynamic ELF program
	Needed      []string `json:"needed,omitempty"`      // names of the shared libraries it asks for
	RPath       []string `json:"rpath,omitempty"`       // DT_RPATH, where its libraries and theirs are looked for
	RunPath     []string `json:"runpath,omitempty"`     // DT_RUNPATH, where its libraries are looked for

	GoVersion  string   `json:"goVersion,omitempty"` // such as go1.26.8; empty if it isn't a Go program
	GoOS       string   `json:"goOS,omitempty"`
	GoArch     string   `json:"goArch,omitempty"`
	GoLevel    *GoLevel `json:"goLevel,omitempty"`
	ModulePath string   `json:"modulePath,omitempty"`
	// TLS is set if the Go program can open TLS connections and takes the roots
	// it trusts from the system.
	TLS bool `json:"tls,omitempty"`

	BuildID string        `json:"buildID,omitempty"` // Go's build ID, else GNU's in hexadecimal
	Size    int64         `json:"size"`              // bytes
	Mode    uint32        `json:"mode,omitempty"`    // permission bits in the image
	Digest  digest.Digest `json:"digest,omitempty"`  // of the file, if all of it was read
	Problem string        `json:"problem,omitempty"` // why no system would run it, although it begins like a program
}

// GoLevel is Go's variable for the instruction set that a program needs, such
// as GOAMD64=v3.
type GoLevel struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// The kinds of Binary.
const (
	kindProgram = "program"
	kindLibrary = "library"
	kindObject  = "object"
	kindCore    = "core"
)

// maxProgram is how many bytes of one file are looked at, at most. What lies
// behind counts as absent.
const maxProgram = 1 << 30

// looksLikeProgram says whether the beginning of a file may be that of a
// program, so that ReadBinary is worth a try.
func looksLikeProgram(head []byte) bool {
	if len(head) < 8 {
		return false
	}
	switch {
	case string(head[:4]) == "\x7fELF", string(head[:2]) == "MZ", string(head[:8]) == "\x00asm\x01\x00\x00\x00":
		return true
	}
	switch binary.BigEndian.Uint32(head) {
	case 0xfeedface, 0xfeedfacf, 0xcefaedfe, 0xcffaedfe:
		return true
	case 0xcafebabe, 0xcafebabf:
		// Java classes begin so, too, and go on with a version above 44.
		slices := binary.BigEndian.Uint32(head[4:])
		return slices > 0 && slices <= maxSlices
	}
	return false
}

// ReadBinary reads what the program of size bytes in r says about itself: from
// the headers of ELF, PE, Mach-O or WebAssembly, and from Go's build
// information. It is nil without an error for what isn't a program. An error
// means that it begins like one and goes on in a way that no system would run;
// what could be read is returned with it.
// Any bytes are safe: it never panics, and needs a few megabytes at most.
func ReadBinary(r io.ReaderAt, size int64) (b *Binary, err error) {
	defer func() {
		// The parsers below check their bounds; the promise doesn't hang on it.
		if p := recover(); p != nil {
			b, err = nil, fmt.Errorf("unreadable program: %v", p)
		}
	}()
	section := io.NewSectionReader(r, 0, min(size, maxProgram))
	head := make([]byte, 64)
	n, err := section.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	head, err = head[:n], nil
	if !looksLikeProgram(head) {
		return nil, nil
	}
	switch {
	case string(head[:4]) == "\x7fELF":
		b, err = readELF(section, head)
	case string(head[:2]) == "MZ":
		b, err = readPE(section, head)
	case head[0] == 0:
		b = &Binary{Format: Wasm, Kind: kindProgram, Machine: "WebAssembly", Architecture: "wasm"}
	default:
		b, err = readMachO(section, head)
	}
	if b != nil {
		b.Size = size
	}
	return b, err
}

// bytesAt reads exactly n bytes at off; nil if the file doesn't have them.
func bytesAt(r *io.SectionReader, off uint64, n int) []byte {
	if n < 0 || off > uint64(r.Size()) || uint64(n) > uint64(r.Size())-off {
		return nil
	}
	data := make([]byte, n)
	if _, err := r.ReadAt(data, int64(off)); err != nil {
		return nil
	}
	return data
}

// stringAt reads a NUL-terminated string of at most limit bytes at off.
func stringAt(r *io.SectionReader, off uint64, limit int) (string, bool) {
	if off >= uint64(r.Size()) {
		return "", false
	}
	data := make([]byte, min(uint64(limit)+1, uint64(r.Size())-off))
	n, err := r.ReadAt(data, int64(off))
	if err != nil && err != io.EOF {
		return "", false
	}
	end := bytes.IndexByte(data[:n], 0)
	if end < 0 {
		return "", false
	}
	return string(data[:end]), true
}
