package sandbox

import (
	"path"
	"slices"
	"strings"
)

// What mapped does with the value of a flag of the go command.
type flagKind int

const (
	unknownFlag  flagKind = iota
	switchFlag            // takes no value, or one after =
	valueFlag             // its value means the same everywhere
	pathFlag              // its value is a file or directory
	toolFlags             // its value are flags of the compiler, the assembler or the linker
	foreignFlag           // runs a program
	outsideFlag           // reads or writes where its file says: can't be mapped
	imitatedFlag          // would show or keep what is only so here
	cgoFlag               // needs a C compiler
)

func flags(kind flagKind, names string, more ...map[string]flagKind) map[string]flagKind {
	all := map[string]flagKind{}
	for _, name := range strings.Fields(names) {
		all[name] = kind
	}
	for _, m := range more {
		for name, k := range m {
			all[name] = k
		}
	}
	return all
}

// buildFlags are those of `go help build`, shared by most commands.
func buildFlags() map[string]flagKind {
	return flags(switchFlag, "a v x json buildvcs modcacherw trimpath cover",
		flags(valueFlag, "p covermode coverpkg buildmode compiler installsuffix mod tags"),
		flags(pathFlag, "C modfile pgo"),
		flags(toolFlags, "asmflags gcflags ldflags"),
		flags(foreignFlag, "toolexec"),
		flags(outsideFlag, "overlay pkgdir gccgoflags linkshared"),
		flags(imitatedFlag, "n work"),
		flags(cgoFlag, "race msan asan"))
}

// moduleFlags are those of `go help mod` and the like.
func moduleFlags(more ...map[string]flagKind) map[string]flagKind {
	return flags(switchFlag, "v x e json modcacherw", append(more, flags(valueFlag, "mod"), flags(pathFlag, "C modfile"), flags(outsideFlag, "overlay"))...)
}

// How the arguments of a command that are no flags are meant.
type argKind int

const (
	packageArgs argKind = iota // packages: paths if they look like some
	fileArgs                   // all are files
	wordArgs                   // none is a path
	insideArgs                 // directories that end up in a file: relative ones only
)

type goVerb struct {
	flags map[string]flagKind
	args  argKind
}

// verb gives what mapped knows of a command such as "build" or "mod tidy".
func verb(name string) (goVerb, bool) {
	switch name {
	case "build", "install":
		return goVerb{flags(pathFlag, "o", buildFlags()), packageArgs}, true
	case "list":
		return goVerb{flags(switchFlag, "compiled deps e export find m u retracted test versions", flags(valueFlag, "f"), flags(pathFlag, "reuse"), buildFlags()), packageArgs}, true
	case "vet":
		return goVerb{flags(switchFlag, "diff fix", flags(valueFlag, "c"), flags(foreignFlag, "vettool"), buildFlags()), packageArgs}, true
	case "get":
		return goVerb{flags(switchFlag, "d t tool u", buildFlags()), packageArgs}, true
	case "clean":
		return goVerb{flags(switchFlag, "cache fuzzcache i modcache r testcache", buildFlags()), packageArgs}, true
	case "fmt":
		return goVerb{moduleFlags(flags(imitatedFlag, "n")), packageArgs}, true
	case "env":
		return goVerb{flags(switchFlag, "changed json u w x", flags(pathFlag, "C")), wordArgs}, true
	case "version":
		return goVerb{flags(switchFlag, "json m v", flags(pathFlag, "C")), fileArgs}, true
	case "mod download":
		return goVerb{moduleFlags(flags(pathFlag, "reuse")), wordArgs}, true
	case "mod tidy":
		return goVerb{moduleFlags(flags(switchFlag, "diff"), flags(valueFlag, "go compat")), wordArgs}, true
	case "mod vendor":
		return goVerb{moduleFlags(flags(pathFlag, "o")), wordArgs}, true
	case "mod verify", "mod init":
		return goVerb{moduleFlags(), wordArgs}, true
	case "mod graph":
		return goVerb{moduleFlags(flags(valueFlag, "go")), wordArgs}, true
	case "mod why":
		return goVerb{moduleFlags(flags(switchFlag, "m vendor")), packageArgs}, true
	case "mod edit":
		return goVerb{moduleFlags(flags(switchFlag, "fmt print", flags(valueFlag,
			"module go toolchain godebug dropgodebug require droprequire exclude dropexclude replace dropreplace retract dropretract tool droptool ignore dropignore"))), fileArgs}, true
	case "work edit":
		return goVerb{moduleFlags(flags(switchFlag, "fmt print", flags(valueFlag, "go toolchain godebug dropgodebug use dropuse replace dropreplace"))), fileArgs}, true
	case "work init":
		return goVerb{moduleFlags(), insideArgs}, true
	case "work use":
		return goVerb{moduleFlags(flags(switchFlag, "r")), insideArgs}, true
	case "work sync":
		return goVerb{moduleFlags(), wordArgs}, true
	case "work vendor":
		return goVerb{moduleFlags(flags(pathFlag, "o")), wordArgs}, true
	}
	return goVerb{}, false
}

// goLine is a go command line, read as the go command does. Words that aren't
// known yet are nil.
type goLine struct {
	verb  string // "build", "mod tidy"; empty if it isn't known
	flags []goFlag
	rest  []int // indices of the arguments that are no flags
	open  bool  // a word that isn't known yet may change the meaning of those after it
}

type goFlag struct {
	name  string
	value *string
	at    int // index of the flag
	in    int // index of the value: at if it is joined by =, -1 if there is none
}

// readGo reads the words after "go".
func readGo(args []*string) goLine {
	var l goLine
	i := 1
	known := func() bool { return i < len(args) && args[i] != nil }
	// `go -C dir build` is the same as `go build -C dir`.
	if known() && (*args[i] == "-C" || *args[i] == "--C") {
		f := goFlag{name: "C", at: i, in: -1}
		if i+1 < len(args) {
			f.value, f.in = args[i+1], i+1
		}
		l.flags = append(l.flags, f)
		i += 2
	} else if known() && (strings.HasPrefix(*args[i], "-C=") || strings.HasPrefix(*args[i], "--C=")) {
		_, value, _ := strings.Cut(*args[i], "=")
		l.flags = append(l.flags, goFlag{name: "C", value: &value, at: i, in: i})
		i++
	}
	if i >= len(args) {
		return l
	}
	if !known() {
		l.open = true
		return l
	}
	l.verb = *args[i]
	i++
	if l.verb == "mod" || l.verb == "work" {
		if i < len(args) && !known() {
			l.verb, l.open = "", true
			return l
		}
		if i < len(args) {
			l.verb += " " + *args[i]
			i++
		}
	}
	v, ok := verb(l.verb)
	if !ok {
		v.flags = flags(valueFlag, "o exec run count cpu timeout", buildFlags()) // of run, test, generate: to find what they name
	}
	for ; i < len(args); i++ {
		if args[i] == nil {
			// It may be a flag that takes the next word, or no flag at all.
			l.open = true
			return l
		}
		arg := *args[i]
		if len(arg) < 2 || arg[0] != '-' || arg == "--" {
			if arg == "--" {
				i++
			}
			break
		}
		name, value, joined := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
		f := goFlag{name: name, at: i, in: -1}
		switch kind := v.flags[name]; {
		case joined:
			f.value, f.in = &value, i
		case kind == switchFlag || kind == imitatedFlag || kind == cgoFlag || kind == unknownFlag || name == "linkshared":
		default:
			if i++; i < len(args) {
				f.value, f.in = args[i], i
			}
		}
		l.flags = append(l.flags, f)
	}
	for ; i < len(args); i++ {
		l.rest = append(l.rest, i)
	}
	return l
}

// flag gives the last use of a flag.
func (l *goLine) flag(name string) (goFlag, bool) {
	for _, f := range slices.Backward(l.flags) {
		if f.name == name {
			return f, true
		}
	}
	return goFlag{}, false
}

// on tells whether a switch is given.
func (l *goLine) on(name string) bool {
	f, ok := l.flag(name)
	return ok && (f.value == nil || *f.value != "false" && *f.value != "0")
}

// isPathArg tells whether the go command takes a package argument as a path.
func isPathArg(arg string) bool {
	return strings.HasPrefix(arg, "/") || arg == "." || arg == ".." || strings.HasPrefix(arg, "./") || strings.HasPrefix(arg, "../") || strings.HasSuffix(arg, ".go")
}

// splitQuoted splits as the go command does: words may be quoted as a whole, with
// nothing to escape (cmd/internal/quoted).
func splitQuoted(s string) []string {
	var words []string
	for s = strings.TrimLeft(s, " \t\n\r"); s != ""; s = strings.TrimLeft(s, " \t\n\r") {
		if s[0] == '"' || s[0] == '\'' {
			if end := strings.IndexByte(s[1:], s[0]); end >= 0 {
				words = append(words, s[1:1+end])
				s = s[2+end:]
				continue
			}
		}
		end := strings.IndexAny(s, " \t\n\r")
		if end < 0 {
			end = len(s)
		}
		words = append(words, s[:end])
		s = s[end:]
	}
	return words
}

// perPackage cuts the pattern off a value such as all=-N -l.
func perPackage(value string) string {
	value = strings.TrimLeft(value, " \t")
	if !strings.HasPrefix(value, "-") {
		if _, rest, ok := strings.Cut(value, "="); ok {
			return rest
		}
	}
	return value
}

// strangeToolFlag finds what in -ldflags, -gcflags or -asmflags may start a program
// or name a file: everything that isn't known to do neither.
func strangeToolFlag(flag, value string) (found string, foreign bool) {
	words := splitQuoted(perPackage(value))
	harmless := "N l m e S B C E K W d c lang dwarf shared smallframes spectre v std complete dynlink race lowerv"
	if flag == "ldflags" {
		harmless = "s w X extldflags buildid compressdwarf checklinkname H B c d n v V dumpdep f R T E k aslr linkmode"
	}
	for i := 0; i < len(words); i++ {
		name, val, joined := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(words[i], "-"), "-"), "=")
		if !strings.HasPrefix(words[i], "-") {
			continue // what the tool makes of it concerns nobody else
		}
		switch {
		case flag == "ldflags" && (name == "extld" || name == "extar"):
			return "-" + name, true
		case flag == "ldflags" && name == "linkmode":
			if !joined && i+1 < len(words) {
				val = words[i+1]
			}
			if val != "internal" && val != "auto" {
				return "-linkmode " + val, true
			}
		case flag == "gcflags" && strings.HasPrefix(name, "m") && strings.Trim(name, "m") == "":
		case !slices.Contains(strings.Fields(harmless), name):
			return "-" + name, false
		}
		if flag == "ldflags" && !joined && slices.Contains([]string{"X", "extldflags", "buildid", "linkmode", "H", "B", "R", "T", "E"}, name) {
			i++
		}
	}
	return "", false
}

// Foreign tells whether a command line would, or could, start programs that aren't
// part of the Go toolchain. Such a command gets caches of its own, for it might put
// anything into them. env is the environment of the command, with what `go env -w`
// has set in the stage: see [Environ].
func Foreign(args []string, env map[string]string) bool {
	if len(args) == 0 || path.Base(args[0]) != "go" {
		return true
	}
	if env["GOCACHEPROG"] != "" || authCommand(env["GOAUTH"]) {
		return true
	}
	// Without CGO_ENABLED the caller decides that there is none; a CC is a decision.
	if env["CGO_ENABLED"] == "1" || env["CGO_ENABLED"] != "0" && env["CC"]+env["CXX"] != "" {
		return true
	}
	words := make([]*string, len(args))
	for i := range args {
		words[i] = &args[i]
	}
	l := readGo(words)
	switch l.verb {
	case "run", "generate", "tool", "bug", "doc", "telemetry", "fix":
		return true
	case "test":
		if !testOnlyCompiles(args) {
			return true
		}
	case "", "help":
	default:
		if _, ok := verb(l.verb); !ok {
			return true
		}
	}
	if toolchain := env["GOTOOLCHAIN"]; toolchain == "path" || strings.HasSuffix(toolchain, "+path") {
		return true
	}
	// Also among the arguments: go vet and go test take flags there.
	for _, word := range append(splitQuoted(env["GOFLAGS"]), args[1:]...) {
		name, _, _ := strings.Cut(strings.TrimPrefix(word, "-"), "=")
		switch strings.TrimPrefix(name, "-") {
		case "toolexec", "exec", "vettool":
			if strings.HasPrefix(word, "-") {
				return true
			}
		}
	}
	flags := l.flags
	for _, word := range splitQuoted(env["GOFLAGS"]) {
		if name, value, ok := strings.Cut(strings.TrimLeft(word, "-"), "="); ok {
			flags = append(flags, goFlag{name: name, value: &value})
		}
	}
	for _, f := range flags {
		if f.name == "ldflags" && f.value != nil {
			if _, foreign := strangeToolFlag(f.name, *f.value); foreign {
				return true
			}
		}
	}
	return false
}

// testOnlyCompiles tells whether `go test` has -c, before anything that would be
// passed to the test.
func testOnlyCompiles(args []string) bool {
	for _, arg := range args {
		switch arg {
		case "-args", "--args":
			return false
		case "-c", "--c", "-c=true", "--c=true":
			return true
		}
	}
	return false
}

// authCommand tells whether a GOAUTH runs a program (go help goauth).
func authCommand(value string) bool {
	for part := range strings.SplitSeq(value, ";") {
		if part = strings.TrimSpace(part); part != "" && part != "off" && part != "netrc" {
			return true
		}
	}
	return false
}
