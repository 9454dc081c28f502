package prove

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// readPE reads a Windows program (PE format, "COFF File Header" and "Optional
// Header"). What has only the header of DOS isn't a program.
func readPE(r *io.SectionReader, head []byte) (*Binary, error) {
	if len(head) < 64 {
		return nil, nil
	}
	at := uint64(binary.LittleEndian.Uint32(head[60:]))
	header := bytesAt(r, at, 24)
	if header == nil || string(header[:4]) != "PE\x00\x00" {
		return nil, nil
	}
	b := &Binary{Format: PE, OS: "windows", Kind: kindProgram}
	machine := binary.LittleEndian.Uint16(header[4:])
	switch machine {
	case 0x14c:
		b.Machine, b.Architecture = "i386", "386"
	case 0x8664:
		b.Machine, b.Architecture = "x86-64", "amd64"
	case 0xaa64:
		b.Machine, b.Architecture = "AArch64", "arm64"
	case 0xa641, 0xa64e: // ARM64EC and ARM64X, which only such machines run
		b.Machine, b.Architecture = "AArch64 (ARM64EC)", "arm64"
	case 0x1c0, 0x1c2, 0x1c4:
		b.Machine, b.Architecture = "ARM", "arm"
	case 0x5064:
		b.Machine, b.Architecture = "RISC-V", "riscv64"
	case 0x6264:
		b.Machine, b.Architecture = "LoongArch", "loong64"
	default:
		b.Machine = fmt.Sprintf("PE machine 0x%x", machine)
	}
	const isLibrary = 0x2000 // IMAGE_FILE_DLL
	if binary.LittleEndian.Uint16(header[22:])&isLibrary != 0 {
		b.Kind = kindLibrary
	}
	size := int(binary.LittleEndian.Uint16(header[20:]))
	if size == 0 {
		b.Kind = kindObject
		return b, nil
	}
	optional := bytesAt(r, at+24, size)
	if len(optional) < 70 {
		return b, errors.New("its optional header lies behind its end")
	}
	directories := 96
	if binary.LittleEndian.Uint16(optional) == 0x20b { // PE32+
		directories = 112
	}
	switch subsystem := binary.LittleEndian.Uint16(optional[68:]); subsystem {
	case 10, 11, 12, 13:
		b.OS, b.Portable = "", true
		b.Machine += " (EFI)"
		return b, nil
	}
	// The 15th data directory is that of the common language runtime. A managed
	// assembly runs on every machine, whatever its header says.
	const managed = 14
	if d := directories + managed*8; len(optional) >= d+8 &&
		binary.LittleEndian.Uint32(optional[directories-4:]) > managed &&
		binary.LittleEndian.Uint32(optional[d:]) != 0 {
		b.OS, b.Architecture, b.Machine, b.Portable = "", "", ".NET", true
		return b, nil
	}
	// debug/pe would read the symbols, which may be large and aren't needed.
	readGo(patched{r, int64(at) + 12, make([]byte, 8)}, b)
	return b, nil
}

// patched reads r with some bytes at an offset replaced.
type patched struct {
	io.ReaderAt
	at   int64
	with []byte
}

func (p patched) ReadAt(data []byte, off int64) (int, error) {
	n, err := p.ReaderAt.ReadAt(data, off)
	for i, b := range p.with {
		if at := p.at + int64(i) - off; at >= 0 && at < int64(n) {
			data[at] = b
		}
	}
	return n, err
}
