package archive

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anyarch/anyarch/internal/native/command"
)

// operand is a file that tar was called with, or, with create, a -C before it.
type operand struct {
	name  string
	chdir bool // the name is that of a directory to go to
	list  bool // the name is that of a file with names (-T)
}

// tarCall is what tar was asked for.
type tarCall struct {
	mode        byte // c, x or t
	file        string
	compression compression
	byName      bool // -a
	verbose     int
	operands    []operand
	exclude     []string
	excludeFrom []string
	strip       int
	has         map[string]bool // the other options, by their long names
	owner       string          // of --owner
	group       string
	mtime       *time.Time
	ustar       bool
}

// tarFlags and tarValues are the options by their long names: those without a value
// and those with one. The option that they mean has the name on the right.
var (
	tarFlags = map[string]string{
		"c": "create", "x": "extract", "t": "list", "get": "extract", "z": "gzip", "gunzip": "gzip", "ungzip": "gzip", "j": "bzip2", "J": "xz", "a": "auto-compress", "v": "verbose",
		"p": "same-permissions", "preserve-permissions": "same-permissions", "o": "no-same-owner", "m": "touch", "k": "keep-old-files", "h": "dereference", "O": "to-stdout",
		"create": "", "extract": "", "list": "", "gzip": "", "bzip2": "", "xz": "", "zstd": "", "auto-compress": "", "verbose": "", "same-permissions": "", "no-same-permissions": "", "same-owner": "", "no-same-owner": "",
		"numeric-owner": "", "touch": "", "keep-old-files": "", "skip-old-files": "", "keep-directory-symlink": "", "dereference": "", "to-stdout": "", "wildcards": "", "no-wildcards": "", "no-recursion": "", "recursion": "",
		"no-acls": "", "no-selinux": "", "no-xattrs": "",
	}
	tarValues = map[string]string{
		"f": "file", "C": "directory", "T": "files-from", "X": "exclude-from", "strip": "strip-components",
		"file": "", "directory": "", "files-from": "", "exclude-from": "", "exclude": "", "strip-components": "", "owner": "", "group": "", "mtime": "", "sort": "", "format": "",
	}
	// onlyGNU are those that busybox hasn't.
	onlyGNU = []string{"get", "gunzip", "ungzip", "preserve-permissions", "strip", "zstd", "same-owner", "keep-old-files", "skip-old-files", "keep-directory-symlink", "wildcards", "no-wildcards", "recursion",
		"no-acls", "no-selinux", "no-xattrs", "owner", "group", "mtime", "sort", "format"}
)

// mistake is a call that tar itself would complain about.
type mistake struct {
	text   string
	getopt bool // found before tar itself looks at it
}

func (m *mistake) Error() string { return m.text }

func mistaken(text string) error { return &mistake{text: text} }

func noTar(what string) error { return &command.Unsupported{Command: "tar", What: what} }

func checkTar(args []*string) *command.Unsupported {
	_, err := parseTar(args, command.GNU)
	if u := (*command.Unsupported)(nil); errors.As(err, &u) {
		return u
	}
	return nil
}

// parseTar reads the arguments, of which those that are nil aren't known yet. The
// dialect of a call that isn't made yet is GNU's, which has every option.
func parseTar(args []*string, dialect command.Dialect) (*tarCall, error) {
	c := &tarCall{file: "-", has: map[string]bool{}}
	unknown := false
	set := func(given, value string, known bool) error {
		name := given
		if to := tarFlags[name] + tarValues[name]; to != "" {
			name = to
		}
		if dialect == command.Busybox && (slices.Contains(onlyGNU, given) || slices.Contains(onlyGNU, name)) {
			return noTar(dashed(given) + " with busybox")
		}
		if !known {
			return nil
		}
		return c.option(name, value)
	}
	// rest takes the value of an option from the following arguments.
	rest := args
	next := func(option string, old bool) (string, bool, error) {
		if len(rest) == 0 {
			return "", false, &mistake{"option requires an argument -- '" + option + "'", !old}
		}
		value := rest[0]
		rest = rest[1:]
		if value == nil {
			return "", false, nil
		}
		return *value, true, nil
	}
	letters := func(text string, old bool) error {
		for i := range len(text) {
			name := text[i : i+1]
			_, flag := tarFlags[name]
			_, valued := tarValues[name]
			switch {
			case flag:
				if err := set(name, "", true); err != nil {
					return err
				}
				continue
			case !valued:
				return noTar("option -" + name)
			}
			value, known, err := text[i+1:], true, error(nil)
			if old || value == "" {
				value, known, err = next(name, old)
			}
			if err == nil {
				err = set(name, value, known)
			}
			if err != nil || !old {
				return err
			}
		}
		return nil
	}
	if len(rest) > 0 && rest[0] != nil && *rest[0] != "" && !strings.HasPrefix(*rest[0], "-") {
		text := *rest[0]
		rest = rest[1:]
		if i := strings.IndexByte(text, 'f'); i >= 0 && dialect == command.Busybox {
			text = text[:i] + text[i+1:] + "f" // its value is the last there
		}
		if err := letters(text, true); err != nil {
			return nil, err
		}
	}
	for len(rest) > 0 {
		arg := rest[0]
		rest = rest[1:]
		switch {
		case arg == nil:
			unknown = true
		case *arg == "--":
			for _, a := range rest {
				if a == nil {
					unknown = true
				} else {
					c.operands = append(c.operands, operand{name: *a})
				}
			}
			rest = nil
		case strings.HasPrefix(*arg, "--"):
			name, value, has := strings.Cut((*arg)[2:], "=")
			_, flag := tarFlags[name]
			_, valued := tarValues[name]
			known, err := true, error(nil)
			switch {
			case len(name) < 2 || !flag && !valued:
				return nil, noTar("option --" + name)
			case flag && has:
				return nil, &mistake{"option '--" + name + "' doesn't allow an argument", true}
			case valued && !has:
				value, known, err = next("-"+name, false)
			}
			if err == nil {
				err = set(name, value, known)
			}
			if err != nil {
				return nil, err
			}
		case len(*arg) > 1 && (*arg)[0] == '-':
			if err := letters((*arg)[1:], false); err != nil {
				return nil, err
			}
		default:
			c.operands = append(c.operands, operand{name: *arg})
		}
	}
	return c, c.validate(dialect, unknown)
}

func dashed(name string) string {
	if len(name) == 1 {
		return "option -" + name
	}
	return "option --" + name
}

func (c *tarCall) option(name, value string) error {
	kinds := map[string]compression{"gzip": gzipped, "bzip2": bzipped, "xz": xzed, "zstd": zstded}
	switch name {
	case "create", "extract", "list":
		letter := map[string]byte{"create": 'c', "extract": 'x', "list": 't'}[name]
		if c.mode != 0 && c.mode != letter {
			return mistaken("You may not specify more than one '-Acdtrux', '--delete' or  '--test-label' option")
		}
		c.mode = letter
	case "gzip", "bzip2", "xz", "zstd":
		if c.compression != none && c.compression != kinds[name] {
			return mistaken("Conflicting compression options")
		}
		c.compression = kinds[name]
	case "auto-compress":
		c.byName = true
	case "verbose":
		c.verbose++
	case "file":
		if strings.Contains(value, ":") {
			return noTar("an archive on another host (" + value + ")")
		}
		c.file = value
	case "directory":
		c.operands = append(c.operands, operand{name: value, chdir: true})
	case "files-from":
		c.operands = append(c.operands, operand{name: value, list: true})
	case "exclude":
		c.exclude = append(c.exclude, value)
	case "exclude-from":
		c.excludeFrom = append(c.excludeFrom, value)
	case "strip-components":
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return mistaken(value + ": Invalid number of elements")
		}
		c.strip = n
	case "owner":
		c.owner = value
	case "group":
		c.group = value
	case "mtime":
		at, err := parseTime(value)
		if err != nil {
			return err
		}
		c.mtime = &at
	case "sort":
		if value != "name" && value != "none" {
			return noTar("--sort=" + value)
		}
	case "format":
		if value != "gnu" && value != "ustar" {
			return noTar("--format=" + value)
		}
		c.ustar = value == "ustar"
	default:
		c.has[name] = true
	}
	return nil
}

// parseTime reads the times of --mtime that say the same in every time zone but for
// its own.
func parseTime(text string) (time.Time, error) {
	if seconds, ok := strings.CutPrefix(text, "@"); ok {
		if n, err := strconv.ParseInt(seconds, 10, 40); err == nil {
			return time.Unix(n, 0), nil
		}
	}
	for _, layout := range []string{"2006-01-02", "2006-01-02 15:04", "2006-01-02 15:04:05", "2006-01-02T15:04:05Z", "2006-01-02 15:04:05Z", "2006-01-02 15:04Z", "2006-01-02T15:04:05Z07:00"} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, noTar("--mtime=" + text)
}

// validate looks at the options together.
func (c *tarCall) validate(dialect command.Dialect, unknown bool) error {
	switch {
	case c.mode == 0 && unknown:
		return nil
	case c.mode == 0:
		return mistaken("You must specify one of the '-Acdtrux', '--delete' or '--test-label' options")
	case c.mode == 'c' && c.compression != none && c.compression != gzipped:
		return &command.Unsupported{Command: "tar", What: "compressing with " + string(c.compression), Fix: "tar -czf"}
	case c.mode == 'c' && c.has["no-same-owner"]:
		return noTar("option -o when an archive is made")
	case c.verbose > 1 && c.mode != 't', c.verbose > 0 && c.mode == 'x' && c.has["to-stdout"]:
		return noTar("option -v of this kind")
	case c.mode != 'c' && (c.owner != "" || c.group != "" || c.mtime != nil):
		return noTar("--owner, --group or --mtime without -c")
	case c.mode == 'c' && c.has["wildcards"]:
		return noTar("--wildcards with -c")
	case dialect == command.Busybox && (c.has["keep-old-files"]):
		return noTar("option -k with busybox")
	case c.mode != 'c' && c.has["dereference"]:
		return noTar("option -h without -c")
	}
	member := false
	for _, o := range c.operands {
		if o.chdir && member && c.mode != 'c' && dialect == command.GNU {
			return noTar("-C after a member (which only members after it are for)")
		}
		member = member || !o.chdir
	}
	return nil
}
