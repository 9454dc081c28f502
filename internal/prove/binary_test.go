package prove_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/prove"
)

// makeELF writes a little-endian 64-bit ELF file with what a dynamic loader
// reads: one loaded segment that holds the interpreter's name, the dynamic
// section and its strings.
func makeELF(kind elf.Type, machine elf.Machine, interpreter string, tags map[elf.DynTag][]string) []byte {
	const base, header, entry = 0x10000, 64, 56
	le := binary.LittleEndian
	names := []byte{0}
	var dynamic []byte
	add := func(tag elf.DynTag, v uint64) { dynamic = le.AppendUint64(le.AppendUint64(dynamic, uint64(tag)), v) }
	for _, tag := range []elf.DynTag{elf.DT_NEEDED, elf.DT_RPATH, elf.DT_RUNPATH, elf.DT_SONAME} {
		for _, text := range tags[tag] {
			add(tag, uint64(len(names)))
			names = append(append(names, text...), 0)
		}
	}
	programs := 2
	if interpreter != "" {
		programs = 3
	}
	start := uint64(header + programs*entry)
	interpAt := start
	namesAt := interpAt + uint64(len(interpreter)) + 1
	add(elf.DT_STRTAB, base+namesAt)
	add(elf.DT_NULL, 0)
	dynamicAt := namesAt + uint64(len(names))
	end := dynamicAt + uint64(len(dynamic))

	out := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	out = le.AppendUint16(out, uint16(kind))
	out = le.AppendUint16(out, uint16(machine))
	out = le.AppendUint32(out, 1)
	out = le.AppendUint64(out, base+start) // entry
	out = le.AppendUint64(out, header)     // program headers
	out = le.AppendUint64(out, 0)          // section headers
	out = le.AppendUint32(out, 0)
	for _, v := range []int{header, entry, programs, 64, 0, 0} {
		out = le.AppendUint16(out, uint16(v))
	}
	segment := func(kind elf.ProgType, at, size uint64) {
		out = le.AppendUint32(le.AppendUint32(out, uint32(kind)), 5)
		for _, v := range []uint64{at, base + at, base + at, size, size, 1} {
			out = le.AppendUint64(out, v)
		}
	}
	segment(elf.PT_LOAD, 0, end)
	if interpreter != "" {
		segment(elf.PT_INTERP, interpAt, uint64(len(interpreter))+1)
	}
	segment(elf.PT_DYNAMIC, dynamicAt, uint64(len(dynamic)))
	out = append(append(out, interpreter...), 0)
	return append(append(out, names...), dynamic...)
}

func read(t testing.TB, data []byte) *prove.Binary {
	t.Helper()
	b, err := prove.ReadBinary(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestProgramsOfEveryMachine(t *testing.T) {
	t.Parallel()
	platforms := []struct{ platform, machine string }{
		{"linux/amd64", "x86-64"}, {"linux/arm64", "AArch64"}, {"linux/386", "i386"}, {"linux/arm/v7", "ARM"},
		{"linux/riscv64", "RISC-V"}, {"linux/s390x", "IBM Z"}, {"windows/amd64", "x86-64"}, {"darwin/arm64", "AArch64"},
	}
	for _, made := range platforms {
		t.Run(made.platform, func(t *testing.T) {
			t.Parallel()
			p := parse(t, made.platform)
			b := read(t, compile(t, small, p.OS+"/"+p.Architecture))
			if b == nil || b.Machine != made.machine || b.Architecture != p.Architecture || b.GoOS != p.OS || b.GoArch != p.Architecture || b.Kind != "program" || b.TLS {
				t.Fatalf("%+v", b)
			}
			if b.Static != (b.Format == prove.ELF) || !strings.HasPrefix(b.GoVersion, "go1.") {
				t.Errorf("%+v", b)
			}
			if b.Format == prove.ELF && b.BuildID == "" {
				t.Error("no build ID")
			}
			for _, other := range platforms {
				found := prove.CheckBinary(b, parse(t, other.platform), "/app")
				if (len(found) == 0) != (other == made) {
					t.Errorf("on %s: %v", other.platform, found)
				}
			}
		})
	}
}

func TestLevels(t *testing.T) {
	t.Parallel()
	tests := []struct {
		made, env string
		runs      []string
		not       []string
	}{
		{"linux/amd64", "GOAMD64=v1", []string{"linux/amd64", "linux/amd64/v2", "linux/amd64/v4"}, nil},
		{"linux/amd64", "GOAMD64=v3", []string{"linux/amd64/v3", "linux/amd64/v4"}, []string{"linux/amd64", "linux/amd64/v2"}},
		{"linux/arm64", "GOARM64=v8.2", []string{"linux/arm64/v8.2", "linux/arm64/v9"}, []string{"linux/arm64", "linux/arm64/v8.1"}},
		{"linux/arm64", "GOARM64=v8.0,lse", []string{"linux/arm64/v8.1"}, []string{"linux/arm64"}},
		{"linux/arm", "GOARM=6", []string{"linux/arm/v6", "linux/arm/v7"}, []string{"linux/arm/v5"}},
		{"linux/arm", "GOARM=7,softfloat", []string{"linux/arm"}, []string{"linux/arm/v6"}},
	}
	for _, test := range tests {
		t.Run(test.env, func(t *testing.T) {
			t.Parallel()
			if testing.Short() && test.env != "GOAMD64=v3" {
				t.Skip("compiles the runtime")
			}
			b := read(t, compile(t, small, test.made, test.env))
			for _, p := range test.runs {
				if found := prove.CheckBinary(b, ofVariant(t, p), "/app"); len(found) > 0 {
					t.Errorf("%s: %v", p, found)
				}
			}
			for _, p := range test.not {
				found := prove.CheckBinary(b, ofVariant(t, p), "/app")
				if len(found) != 1 || found[0].Severity != prove.Error || found[0].Rule != prove.RuleEntrypoint {
					t.Errorf("%s: %v", p, found)
				}
			}
		})
	}
	// A variant that this program hasn't heard of isn't compared.
	p := parse(t, "linux/arm64")
	p.Variant = "v12"
	if found := prove.CheckBinary(read(t, compile(t, small, "linux/arm64")), p, "/app"); len(found) > 0 {
		t.Error(found)
	}
}

// ofVariant takes a platform with its variant as an index has it.
func ofVariant(t *testing.T, text string) platform.Platform {
	parts := append(strings.Split(text, "/"), "")
	p := platform.FromOCI(&ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]})
	if p.IsZero() {
		t.Fatal(text)
	}
	return p
}

func TestTLSIsFound(t *testing.T) {
	t.Parallel()
	if b := read(t, compile(t, client, "linux/amd64")); !b.TLS {
		t.Errorf("%+v", b)
	}
	if b := read(t, compile(t, client, "linux/amd64", "PIE=1")); !b.TLS || b.Static || b.Interpreter != "/lib64/ld-linux-x86-64.so.2" || b.Kind != "program" {
		t.Errorf("%+v", b)
	}
	fallback := "package main\n\nimport (\n\t\"crypto/tls\"\n\t\"crypto/x509\"\n)\n\nfunc main() { x509.SetFallbackRoots(x509.NewCertPool()); c, err := tls.Dial(\"tcp\", \"localhost:1\", nil); println(c, err) }\n"
	if b := read(t, compile(t, fallback, "linux/amd64")); b.TLS {
		t.Error("it brings its own roots")
	}
}

func TestOtherFiles(t *testing.T) {
	t.Parallel()
	be := binary.BigEndian
	macho := func(cpu uint32) []byte {
		b := binary.LittleEndian.AppendUint32([]byte("\xcf\xfa\xed\xfe"), cpu)
		return append(binary.LittleEndian.AppendUint32(append(b, make([]byte, 4)...), 2), make([]byte, 48)...)
	}
	universal := be.AppendUint32(be.AppendUint32(nil, 0xcafebabe), 2)
	for _, cpu := range []uint32{0x01000007, 0x0100000c} {
		universal = append(be.AppendUint32(universal, cpu), make([]byte, 16)...)
	}
	pe := func(machine, subsystem uint16, managed bool) []byte {
		le := binary.LittleEndian
		b := append([]byte("MZ"), make([]byte, 62)...)
		le.PutUint32(b[60:], 64)
		b = append(b, "PE\x00\x00"...)
		b = le.AppendUint16(b, machine)
		b = append(b, make([]byte, 14)...)
		b = append(le.AppendUint16(b, 240), 0, 0)
		o := make([]byte, 240)
		le.PutUint16(o, 0x20b)
		le.PutUint16(o[68:], subsystem)
		le.PutUint32(o[108:], 16)
		if managed {
			le.PutUint32(o[112+14*8:], 0x2000)
		}
		return append(b, o...)
	}
	tests := []struct {
		name    string
		data    []byte
		machine string // empty if it is no program
		arch    string
		kind    string
		bad     bool
	}{
		{name: "empty"},
		{name: "text", data: []byte("hello, world, hello, world")},
		{name: "Java class", data: []byte("\xca\xfe\xba\xbe\x00\x00\x00\x41\x00\x10\x0a\x00")},
		{name: "DOS program", data: append([]byte("MZ"), make([]byte, 100)...)},
		{name: "ELF magic only", data: []byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00"), bad: true},
		{name: "ELF of no class", data: append([]byte("\x7fELF\x07\x01\x01"), make([]byte, 80)...), bad: true},
		{name: "universal", data: universal, machine: "universal (x86-64, AArch64)", kind: "program"},
		{name: "universal, cut", data: universal[:20], bad: true},
		{name: "Mach-O", data: macho(0x01000007), machine: "x86-64", arch: "amd64", kind: "program"},
		{name: "WebAssembly", data: []byte("\x00asm\x01\x00\x00\x00\x01\x02\x03"), machine: "WebAssembly", arch: "wasm", kind: "program"},
		{name: "PE", data: pe(0x8664, 3, false), machine: "x86-64", arch: "amd64", kind: "program"},
		{name: ".NET", data: pe(0x14c, 3, true), machine: ".NET", kind: "program"},
		{name: "EFI", data: pe(0xaa64, 10, false), machine: "AArch64 (EFI)", arch: "arm64", kind: "program"},
		{name: "kernel module", data: makeELF(elf.ET_REL, elf.EM_AARCH64, "", nil), machine: "AArch64", arch: "arm64", kind: "object"},
		{name: "eBPF", data: makeELF(elf.ET_REL, 247, "", nil), machine: "eBPF", kind: "object"},
		{name: "library", data: makeELF(elf.ET_DYN, elf.EM_X86_64, "", map[elf.DynTag][]string{elf.DT_SONAME: {"libx.so.1"}}), machine: "x86-64", arch: "amd64", kind: "library"},
		{name: "dynamic", data: makeELF(elf.ET_DYN, elf.EM_RISCV, "/lib/ld-linux-riscv64-lp64d.so.1", map[elf.DynTag][]string{elf.DT_NEEDED: {"libc.so.6"}}), machine: "RISC-V", arch: "riscv64", kind: "program"},
		{name: "unknown machine", data: makeELF(elf.ET_EXEC, elf.EM_XTENSA, "", nil), machine: "XTENSA", kind: "program"},
		{name: "interpreter without end", data: func() []byte {
			b := makeELF(elf.ET_DYN, elf.EM_X86_64, "/lib/ld.so", nil)
			binary.LittleEndian.PutUint64(b[64+56+32:], 3)
			return b
		}(), machine: "x86-64", arch: "amd64", bad: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b, err := prove.ReadBinary(bytes.NewReader(test.data), int64(len(test.data)))
			if (err != nil) != test.bad {
				t.Fatal(err)
			}
			if (b == nil) != (test.machine == "") {
				t.Fatalf("%+v", b)
			}
			if b != nil && (b.Machine != test.machine || b.Architecture != test.arch || b.Kind != test.kind) {
				t.Errorf("%+v", b)
			}
		})
	}
}

func TestDynamicSection(t *testing.T) {
	t.Parallel()
	b := read(t, makeELF(elf.ET_EXEC, elf.EM_X86_64, "/lib64/ld-linux-x86-64.so.2", map[elf.DynTag][]string{
		elf.DT_NEEDED: {"libm.so.6", "libc.so.6"}, elf.DT_RPATH: {"/a:/b"}, elf.DT_RUNPATH: {"$ORIGIN/lib"},
	}))
	if strings.Join(b.Needed, " ") != "libm.so.6 libc.so.6" || strings.Join(b.RPath, " ") != "/a /b" || strings.Join(b.RunPath, " ") != "$ORIGIN/lib" || b.Static || b.Interpreter != "/lib64/ld-linux-x86-64.so.2" {
		t.Errorf("%+v", b)
	}
}

func TestLibraries(t *testing.T) {
	t.Parallel()
	const interpreter, musl = "/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1"
	needs := func(interpreter string, names ...string) []byte {
		return makeELF(elf.ET_DYN, elf.EM_X86_64, interpreter, map[elf.DynTag][]string{elf.DT_NEEDED: names})
	}
	lib := func(name string, needed ...string) []byte {
		return makeELF(elf.ET_DYN, elf.EM_X86_64, "", map[elf.DynTag][]string{elf.DT_SONAME: {name}, elf.DT_NEEDED: needed})
	}
	glibc := []entry{dir("usr/lib/x86_64-linux-gnu"), link("lib64", "usr/lib64"), link("lib", "usr/lib"),
		exe("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", lib("ld-linux-x86-64.so.2")),
		link("usr/lib64/ld-linux-x86-64.so.2", "../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
		exe("usr/lib/x86_64-linux-gnu/libc.so.6", lib("libc.so.6", "ld-linux-x86-64.so.2"))}
	tests := []struct {
		name  string
		app   []byte
		env   []string
		files []entry
		want  []string
	}{
		{name: "complete", app: needs(interpreter, "libc.so.6"), files: glibc},
		{name: "no interpreter", app: needs(interpreter, "libc.so.6"), want: []string{"PA209 error linux/amd64"}},
		{name: "no library", app: needs(interpreter, "libc.so.6", "libssl.so.3"), files: glibc, want: []string{"PA209 warning linux/amd64"}},
		{name: "a library's library", app: needs(interpreter, "libx.so"), files: append(glibc, exe("usr/lib/libx.so", lib("libx.so", "liby.so"))), want: []string{"PA209 warning linux/amd64"}},
		{name: "ld.so.conf", app: needs(interpreter, "libx.so"), files: append(glibc, file("etc/ld.so.conf.d/x.conf", "# x\n/opt/x\n"), exe("opt/x/libx.so", lib("libx.so")))},
		{name: "LD_LIBRARY_PATH", app: needs(interpreter, "libx.so"), env: []string{"LD_LIBRARY_PATH=/opt/x"}, files: append(glibc, exe("opt/x/libx.so", lib("libx.so")))},
		{name: "origin", app: makeELF(elf.ET_DYN, elf.EM_X86_64, interpreter, map[elf.DynTag][]string{elf.DT_NEEDED: {"libx.so"}, elf.DT_RUNPATH: {"${ORIGIN}/../$LIB"}}),
			files: append(glibc, exe("usr/lib/x86_64-linux-gnu/libx.so", lib("libx.so")))},
		{name: "a library of another machine", app: needs(interpreter, "libx.so"),
			files: append(glibc, exe("usr/lib/libx.so", makeELF(elf.ET_DYN, elf.EM_AARCH64, "", map[elf.DynTag][]string{elf.DT_SONAME: {"libx.so"}}))),
			want:  []string{"PA202 error linux/amd64", "PA209 warning linux/amd64"}},
		{name: "musl", app: needs(musl, "libc.musl-x86_64.so.1", "libx.so"), files: []entry{exe("lib/ld-musl-x86_64.so.1", lib("libc.so")), exe("usr/local/lib/libx.so", lib("libx.so"))}},
		{name: "another program without interpreter", app: needs(interpreter, "libc.so.6"), files: append(glibc, exe("usr/bin/m", needs(musl))), want: []string{"PA209 warning linux/amd64"}},
		{name: "another program without library", app: needs(interpreter), files: append(glibc, exe("usr/bin/m", needs(interpreter, "libgone.so"))), want: []string{"PA209 warning linux/amd64"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			base := f.layer(append(test.files, file("etc/base", ""))...)
			index := f.index(f.manifest(shape{platform: "linux/amd64", entrypoint: []string{"/usr/bin/app"}, env: test.env, layers: []layer{base, f.layer(exe("usr/bin/app", test.app))}}))
			r := f.verify(index, prove.Options{})
			expect(t, r, test.want...)
			if strings.Contains(test.name, "another") {
				return
			}
			// The base is read for a dynamic entrypoint at the lesser depth, too.
			expect(t, f.verify(index, prove.Options{Depth: prove.DepthEntrypoint}), test.want...)
		})
	}
}

func TestDamagedProgramsAreReadSafely(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"linux/amd64", "linux/386", "linux/s390x", "windows/amd64", "darwin/arm64"} {
		t.Run(p, func(t *testing.T) {
			t.Parallel()
			data := compile(t, small, p)
			for _, n := range []int{1, 4, 8, 19, 52, 63, 64, 65, 100, 200, 1000, 4096, 10_000, len(data) / 2, len(data) - 1} {
				_, _ = prove.ReadBinary(bytes.NewReader(data[:n]), int64(n))
				_, _ = prove.ReadBinary(bytes.NewReader(data[:n]), int64(len(data))) // the size lies
			}
			damaged := bytes.Clone(data[:min(len(data), 1<<20)])
			for i := range 600 {
				for _, v := range []byte{0, 0xff} {
					old := damaged[i]
					damaged[i] = v
					_, _ = prove.ReadBinary(bytes.NewReader(damaged), int64(len(damaged)))
					damaged[i] = old
				}
			}
		})
	}
}

func FuzzReadBinary(f *testing.F) {
	f.Add(makeELF(elf.ET_DYN, elf.EM_X86_64, "/lib/ld.so", map[elf.DynTag][]string{elf.DT_NEEDED: {"libc.so.6"}, elf.DT_RPATH: {"/x:/y"}}))
	f.Add([]byte("MZ"))
	f.Add([]byte("\xca\xfe\xba\xbe\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\xcf\xfa\xed\xfe\x0c\x00\x00\x01\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := prove.ReadBinary(bytes.NewReader(data), int64(len(data)))
		if b == nil {
			return
		}
		if err == nil && (b.Machine == "" || b.Kind == "" || b.Format == "") {
			t.Errorf("%+v", b)
		}
		prove.CheckBinary(b, parse(t, "linux/amd64"), "/app")
	})
}
