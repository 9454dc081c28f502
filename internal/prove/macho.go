package prove

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxSlices is how many architectures a universal file may have. Java classes
// share its magic number, and have at least 45 there.
const maxSlices = 16

// readMachO reads a Mach-O file, universal or not (mach-o/loader.h and fat.h).
func readMachO(r *io.SectionReader, head []byte) (*Binary, error) {
	magic := binary.BigEndian.Uint32(head)
	if magic == 0xcafebabe || magic == 0xcafebabf {
		return readUniversal(r, magic == 0xcafebabf, int(binary.BigEndian.Uint32(head[4:])))
	}
	b := &Binary{Format: MachO, OS: "darwin", Kind: kindLibrary}
	var order binary.ByteOrder = binary.BigEndian
	if magic == 0xcefaedfe || magic == 0xcffaedfe {
		order = binary.LittleEndian
	}
	if len(head) < 28 {
		return nil, errors.New("a Mach-O header of less than 28 bytes")
	}
	b.Machine, b.Architecture = machoMachine(order.Uint32(head[4:]))
	switch order.Uint32(head[12:]) {
	case 1, 10: // MH_OBJECT, MH_DSYM
		b.Kind = kindObject
	case 2: // MH_EXECUTE
		b.Kind = kindProgram
	case 4: // MH_CORE
		b.Kind = kindCore
	}
	if b.Kind == kindProgram {
		readGo(r, b)
	}
	return b, nil
}

func readUniversal(r *io.SectionReader, is64 bool, count int) (*Binary, error) {
	b := &Binary{Format: MachO, OS: "darwin", Kind: kindProgram}
	entry := 20
	if is64 {
		entry = 32
	}
	table := bytesAt(r, 8, count*entry)
	if table == nil {
		return nil, errors.New("the table of its architectures lies behind its end")
	}
	var machines []string
	for ; len(table) > 0; table = table[entry:] {
		machine, architecture := machoMachine(binary.BigEndian.Uint32(table))
		machines = append(machines, machine)
		if architecture != "" {
			b.Slices = append(b.Slices, architecture)
		}
	}
	b.Machine = "universal (" + strings.Join(machines, ", ") + ")"
	return b, nil
}

func machoMachine(cpu uint32) (machine, architecture string) {
	switch cpu {
	case 7:
		return "i386", "386"
	case 0x01000007:
		return "x86-64", "amd64"
	case 12:
		return "ARM", "arm"
	case 0x0100000c:
		return "AArch64", "arm64"
	case 18:
		return "PowerPC", ""
	case 0x01000012:
		return "PowerPC 64", ""
	}
	return fmt.Sprintf("Mach-O machine 0x%x", cpu), ""
}
