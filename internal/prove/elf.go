package prove

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Bounds on what is read of one ELF file. The kernel itself takes at most
// 64 KiB of program headers and 4 KiB of interpreter name.
const (
	maxProgramHeaders = 64 << 10
	maxSectionHeaders = 4 << 20
	maxDynamic        = 64 << 10
	maxNote           = 64 << 10
	maxName           = 4096
	maxNeeded         = 1024
)

// Machines that debug/elf has no name for in every version of Go.
const (
	machineBPF       = 247
	machineLoongArch = 258
	machineCUDA      = 190
	machineAMDGPU    = 224
)

// machineX32 is x86-64 with pointers of 32 bits.
const machineX32 = "x86-64 (x32)"

// elfFile is the little of an ELF file that decides where it runs. It follows
// the program headers, as the kernel does; sections, which may be missing or
// lie, are only used to find what has no program header.
type elfFile struct {
	r        *io.SectionReader
	order    binary.ByteOrder
	is64     bool
	kind     elf.Type
	machine  elf.Machine
	flags    uint32
	entry    uint64
	programs []elfProgram
	sections map[string]elfSection
}

type elfProgram struct {
	kind               elf.ProgType
	offset, addr, size uint64
	alignment          uint64
}

type elfSection struct{ offset, size uint64 }

// readELF reads an ELF file (System V gABI, chapters 4 and 5).
func readELF(r *io.SectionReader, head []byte) (*Binary, error) {
	f, err := parseELF(r, head)
	if err != nil {
		return nil, err
	}
	b := &Binary{Format: ELF}
	b.Machine, b.Architecture, b.Portable = f.describe()
	switch elf.OSABI(head[elf.EI_OSABI]) {
	case elf.ELFOSABI_LINUX:
		b.OS = "linux"
	case elf.ELFOSABI_FREEBSD:
		b.OS = "freebsd"
	case elf.ELFOSABI_NETBSD:
		b.OS = "netbsd"
	case elf.ELFOSABI_OPENBSD:
		b.OS = "openbsd"
	case elf.ELFOSABI_SOLARIS:
		b.OS = "solaris"
	}
	if p, ok := f.program(elf.PT_INTERP); ok {
		// Without a NUL at its end the kernel refuses to run the file.
		name, ok := stringAt(f.r, p.offset, maxName)
		if !ok || p.size > maxName || uint64(len(name)) >= p.size {
			return b, errors.New("the name of its interpreter isn't readable")
		}
		b.Interpreter = name
	}
	soname, pie := f.dynamic(b)
	switch f.kind {
	case elf.ET_REL:
		b.Kind = kindObject
	case elf.ET_CORE:
		b.Kind = kindCore
	case elf.ET_EXEC:
		b.Kind = kindProgram
	default:
		b.Kind = kindLibrary
		if b.Interpreter != "" && !soname || pie || !soname && f.entry != 0 && len(b.Needed) == 0 {
			b.Kind = kindProgram
		}
	}
	b.Static = b.Kind == kindProgram && b.Interpreter == "" && len(b.Needed) == 0
	f.buildID(b)
	if _, ok := f.sections[".go.buildinfo"]; ok || len(f.sections) == 0 && len(f.programs) > 0 {
		readGo(r, b)
	}
	if b.GoVersion != "" {
		b.TLS = f.usesTLS()
	}
	return b, nil
}

func parseELF(r *io.SectionReader, head []byte) (*elfFile, error) {
	f := &elfFile{r: r, order: binary.LittleEndian, sections: map[string]elfSection{}}
	if len(head) < 52 {
		return nil, errors.New("an ELF header of less than 52 bytes")
	}
	switch elf.Class(head[elf.EI_CLASS]) {
	case elf.ELFCLASS32:
	case elf.ELFCLASS64:
		f.is64 = true
		if len(head) < 64 {
			return nil, errors.New("an ELF header of less than 64 bytes")
		}
	default:
		return nil, fmt.Errorf("an ELF file of class %d", head[elf.EI_CLASS])
	}
	switch elf.Data(head[elf.EI_DATA]) {
	case elf.ELFDATA2LSB:
	case elf.ELFDATA2MSB:
		f.order = binary.BigEndian
	default:
		return nil, fmt.Errorf("an ELF file of byte order %d", head[elf.EI_DATA])
	}
	f.kind = elf.Type(f.order.Uint16(head[16:]))
	f.machine = elf.Machine(f.order.Uint16(head[18:]))
	var phoff, shoff uint64
	var rest []byte // e_flags onwards
	if f.is64 {
		f.entry = f.order.Uint64(head[24:])
		phoff, shoff = f.order.Uint64(head[32:]), f.order.Uint64(head[40:])
		rest = head[48:]
	} else {
		f.entry = uint64(f.order.Uint32(head[24:]))
		phoff, shoff = uint64(f.order.Uint32(head[28:])), uint64(f.order.Uint32(head[32:]))
		rest = head[36:]
	}
	f.flags = f.order.Uint32(rest)
	phentsize, phnum := int(f.order.Uint16(rest[6:])), int(f.order.Uint16(rest[8:]))
	shentsize, shnum, shstrndx := int(f.order.Uint16(rest[10:])), int(f.order.Uint16(rest[12:])), int(f.order.Uint16(rest[14:]))
	if f.kind == elf.ET_EXEC || f.kind == elf.ET_DYN {
		if err := f.readPrograms(phoff, phentsize, phnum); err != nil {
			return nil, err
		}
	}
	f.readSections(shoff, shentsize, shnum, shstrndx)
	return f, nil
}

func (f *elfFile) readPrograms(offset uint64, entry, count int) error {
	want := 32
	if f.is64 {
		want = 56
	}
	if count == 0 {
		return nil
	}
	if entry != want || entry*count > maxProgramHeaders {
		return fmt.Errorf("%d program headers of %d bytes", count, entry)
	}
	table := bytesAt(f.r, offset, entry*count)
	if table == nil {
		return errors.New("its program headers lie behind its end")
	}
	for ; len(table) > 0; table = table[entry:] {
		p := elfProgram{kind: elf.ProgType(f.order.Uint32(table))}
		if f.is64 {
			p.offset, p.addr, p.size = f.order.Uint64(table[8:]), f.order.Uint64(table[16:]), f.order.Uint64(table[32:])
			p.alignment = f.order.Uint64(table[48:])
		} else {
			p.offset, p.addr, p.size = uint64(f.order.Uint32(table[4:])), uint64(f.order.Uint32(table[8:])), uint64(f.order.Uint32(table[16:]))
			p.alignment = uint64(f.order.Uint32(table[28:]))
		}
		f.programs = append(f.programs, p)
	}
	return nil
}

// readSections finds the sections by name. No system needs them to run a
// program, so nothing in them is an error.
func (f *elfFile) readSections(offset uint64, entry, count, names int) {
	want := 40
	if f.is64 {
		want = 64
	}
	if offset == 0 || entry != want || count == 0 || entry*count > maxSectionHeaders || names >= count {
		return
	}
	table := bytesAt(f.r, offset, entry*count)
	if table == nil {
		return
	}
	section := func(i int) elfSection {
		h := table[i*entry:]
		if f.is64 {
			return elfSection{f.order.Uint64(h[24:]), f.order.Uint64(h[32:])}
		}
		return elfSection{uint64(f.order.Uint32(h[16:])), uint64(f.order.Uint32(h[20:]))}
	}
	nameTable := section(names)
	if nameTable.size > maxSectionHeaders {
		return
	}
	texts := bytesAt(f.r, nameTable.offset, int(nameTable.size))
	for i := range count {
		start := uint64(f.order.Uint32(table[i*entry:]))
		if start >= uint64(len(texts)) {
			continue
		}
		name, _, _ := bytes.Cut(texts[start:min(start+64, uint64(len(texts)))], []byte{0})
		switch s := string(name); s {
		case ".go.buildinfo", ".gopclntab", ".data.rel.ro.gopclntab", ".note.go.buildid":
			f.sections[s] = section(i)
		default:
			f.sections["*"] = elfSection{} // there are sections
		}
	}
}

func (f *elfFile) program(kind elf.ProgType) (elfProgram, bool) {
	i := slices.IndexFunc(f.programs, func(p elfProgram) bool { return p.kind == kind })
	if i < 0 {
		return elfProgram{}, false
	}
	return f.programs[i], true
}

// fileOffset is where in the file an address is loaded from.
func (f *elfFile) fileOffset(addr uint64) (uint64, bool) {
	for _, p := range f.programs {
		if p.kind == elf.PT_LOAD && addr >= p.addr && addr-p.addr < p.size {
			return p.offset + (addr - p.addr), true
		}
	}
	return 0, false
}

// dynamic reads what the dynamic loader reads: needed libraries and where to
// look for them. It reports whether the file has the name of a library and
// whether it is marked as a program.
func (f *elfFile) dynamic(b *Binary) (soname, pie bool) {
	p, ok := f.program(elf.PT_DYNAMIC)
	if !ok {
		return false, false
	}
	data := bytesAt(f.r, p.offset, int(min(p.size, maxDynamic)))
	width := 4
	if f.is64 {
		width = 8
	}
	word := func(d []byte) uint64 {
		if f.is64 {
			return f.order.Uint64(d)
		}
		return uint64(f.order.Uint32(d))
	}
	type value struct {
		tag elf.DynTag
		at  uint64
	}
	var (
		table uint64
		found bool
		names []value
	)
	for ; len(data) >= 2*width; data = data[2*width:] {
		tag, v := elf.DynTag(int64(word(data))), word(data[width:])
		if tag == elf.DT_NULL {
			break
		}
		switch tag {
		case elf.DT_STRTAB:
			table, found = f.fileOffset(v)
		case elf.DT_NEEDED, elf.DT_RPATH, elf.DT_RUNPATH:
			if len(names) < maxNeeded {
				names = append(names, value{tag, v})
			}
		case elf.DT_SONAME:
			soname = true
		case elf.DT_FLAGS_1:
			pie = pie || v&uint64(elf.DF_1_PIE) != 0
		}
	}
	if !found {
		return soname, pie
	}
	for _, name := range names {
		text, ok := stringAt(f.r, table+name.at, maxName)
		if !ok || name.at > uint64(f.r.Size()) {
			continue
		}
		switch name.tag {
		case elf.DT_NEEDED:
			b.Needed = append(b.Needed, text)
		case elf.DT_RPATH:
			b.RPath = append(b.RPath, strings.Split(text, ":")...)
		case elf.DT_RUNPATH:
			b.RunPath = append(b.RunPath, strings.Split(text, ":")...)
		}
	}
	return soname, pie
}

// buildID takes Go's build ID, else GNU's, from the notes.
func (f *elfFile) buildID(b *Binary) {
	for _, p := range f.programs {
		if p.kind != elf.PT_NOTE || p.size > maxNote {
			continue
		}
		align := uint64(4)
		if p.alignment == 8 {
			align = 8
		}
		data := bytesAt(f.r, p.offset, int(p.size))
		for len(data) >= 12 {
			nameSize, size, kind := uint64(f.order.Uint32(data)), uint64(f.order.Uint32(data[4:])), f.order.Uint32(data[8:])
			start := 12 + (nameSize+align-1)/align*align
			if start > uint64(len(data)) || size > uint64(len(data))-start {
				break
			}
			name, content := string(data[12:min(12+nameSize, start)]), data[start:start+size]
			switch {
			case name == "Go\x00\x00" && kind == 4:
				b.BuildID = string(content)
				return
			case name == "GNU\x00" && kind == 3 && len(content) <= 64:
				b.BuildID = hex.EncodeToString(content)
			}
			data = data[min(start+(size+align-1)/align*align, uint64(len(data))):]
		}
	}
}

// usesTLS looks for Go's TLS client among the names of functions, which are
// there in stripped programs too: the runtime prints them. A program that
// brings its own roots with crypto/x509.SetFallbackRoots doesn't count.
func (f *elfFile) usesTLS() bool {
	names := cmp.Or(f.sections[".gopclntab"], f.sections[".data.rel.ro.gopclntab"])
	if names.size == 0 {
		names = elfSection{0, uint64(f.r.Size())}
	}
	found := search(f.r, names, "crypto/tls.(*Conn).clientHandshake\x00", "crypto/x509.SetFallbackRoots\x00")
	return found[0] && !found[1]
}

// search reports for each text whether it is in a section, reading it once.
func search(r *io.SectionReader, s elfSection, texts ...string) []bool {
	found := make([]bool, len(texts))
	if s.offset > uint64(r.Size()) {
		return found
	}
	longest := 0
	for _, t := range texts {
		longest = max(longest, len(t))
	}
	section := io.NewSectionReader(r, int64(s.offset), int64(min(s.size, uint64(r.Size())-s.offset)))
	buffer, kept := make([]byte, 64<<10), 0
	for {
		n, err := section.Read(buffer[kept:])
		for i, t := range texts {
			found[i] = found[i] || bytes.Contains(buffer[:kept+n], []byte(t))
		}
		if err != nil || !slices.Contains(found, false) {
			return found
		}
		kept = copy(buffer, buffer[max(0, kept+n-longest+1):kept+n])
	}
}

// describe names the machine and gives the OCI architecture that runs it.
func (f *elfFile) describe() (machine, architecture string, portable bool) {
	little := f.order == binary.LittleEndian
	endian := func(name, littleName, bigName string) (string, string, bool) {
		if little {
			return name, littleName, false
		}
		return name + " (big-endian)", bigName, false
	}
	switch f.machine {
	case elf.EM_X86_64:
		if !f.is64 {
			return machineX32, "", false
		}
		return endian("x86-64", "amd64", "")
	case elf.EM_386, elf.EM_486:
		return endian("i386", "386", "")
	case elf.EM_AARCH64:
		if !f.is64 {
			return "AArch64 (ILP32)", "", false
		}
		return endian("AArch64", "arm64", "")
	case elf.EM_ARM:
		return endian("ARM", "arm", "")
	case elf.EM_RISCV:
		if !f.is64 {
			return "RISC-V (32-bit)", "", false
		}
		return "RISC-V", "riscv64", false
	case elf.EM_PPC64:
		if little {
			return "POWER (little-endian)", "ppc64le", false
		}
		return "POWER", "ppc64", false
	case elf.EM_S390:
		if !f.is64 {
			return "S/390 (31-bit)", "", false
		}
		return "IBM Z", "s390x", false
	case elf.EM_MIPS, elf.EM_MIPS_RS3_LE:
		const n32 = 0x20 // EF_MIPS_ABI2: 64-bit registers in a 32-bit file
		switch {
		case f.is64 && little:
			return "MIPS64 (little-endian)", "mips64le", false
		case f.is64:
			return "MIPS64", "mips64", false
		case f.flags&n32 != 0:
			return "MIPS (n32)", "", false
		case little:
			return "MIPS (little-endian)", "mipsle", false
		}
		return "MIPS", "mips", false
	case machineLoongArch:
		if f.is64 {
			return "LoongArch", "loong64", false
		}
		return "LoongArch (32-bit)", "", false
	case machineBPF:
		return "eBPF", "", true
	case machineCUDA:
		return "CUDA", "", true
	case machineAMDGPU:
		return "AMD GPU", "", true
	}
	return strings.TrimPrefix(f.machine.String(), "EM_"), "", false
}
