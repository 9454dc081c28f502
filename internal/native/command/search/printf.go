package search

import (
	"strconv"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
)

// printf does -printf with the directives that say the same on every file system.
func (p *parser) printf(_, format string) (maker, error) {
	p.acts = true
	var parts []func(f *finder, v *visit) (string, error)
	text := func(s string) {
		parts = append(parts, func(*finder, *visit) (string, error) { return s, nil })
	}
	for i := 0; i < len(format); i++ {
		c := format[i]
		if c != '\\' && c != '%' {
			text(format[i : i+1])
			continue
		}
		if i++; i == len(format) {
			return nil, p.unsupported("-printf with " + string(c) + " at its end")
		}
		if c == '\\' {
			at := strings.IndexByte(`ntr0\abfv`, format[i])
			if at < 0 || format[i] == '0' && i+1 < len(format) && format[i+1] >= '0' && format[i+1] <= '7' {
				return nil, p.unsupported(`-printf with \` + format[i:i+1])
			}
			text("\n\t\r\x00\\\a\b\f\v"[at : at+1])
			continue
		}
		d := directives[format[i]]
		if d == nil {
			return nil, p.unsupported("-printf with %" + format[i:i+1])
		}
		parts = append(parts, d)
	}
	return acting(func(f *finder, v *visit) (bool, error) {
		var out strings.Builder
		for _, part := range parts {
			s, err := part(f, v)
			if err != nil {
				return false, err
			}
			out.WriteString(s)
		}
		return true, f.print(out.String())
	}), nil
}

var directives = map[byte]func(f *finder, v *visit) (string, error){
	'%': func(*finder, *visit) (string, error) { return "%", nil },
	'p': func(_ *finder, v *visit) (string, error) { return v.name, nil },
	'f': func(_ *finder, v *visit) (string, error) {
		name := base(v.name)
		if name == "/" {
			return name, nil
		}
		return name + v.name[len(strings.TrimRight(v.name, "/")):], nil
	},
	'H': func(_ *finder, v *visit) (string, error) { return v.start, nil },
	'P': func(_ *finder, v *visit) (string, error) {
		return strings.TrimPrefix(strings.TrimPrefix(v.name, v.start), "/"), nil
	},
	'h': func(_ *finder, v *visit) (string, error) {
		if i := strings.LastIndexByte(v.name, '/'); i >= 0 {
			return v.name[:i], nil
		}
		return ".", nil
	},
	'd': func(_ *finder, v *visit) (string, error) { return strconv.Itoa(v.depth), nil },
	'm': func(_ *finder, v *visit) (string, error) { return strconv.FormatUint(uint64(bits(v.Mode)), 8), nil },
	'U': func(_ *finder, v *visit) (string, error) { return strconv.Itoa(v.UID), nil },
	'G': func(_ *finder, v *visit) (string, error) { return strconv.Itoa(v.GID), nil },
	'u': func(f *finder, v *visit) (string, error) {
		return orNumber(v.UID)(command.UserName(f.p.Tree, v.UID))
	},
	'g': func(f *finder, v *visit) (string, error) {
		return orNumber(v.GID)(command.GroupName(f.p.Tree, v.GID))
	},
	'l': func(_ *finder, v *visit) (string, error) { return v.Link, nil },
	's': func(_ *finder, v *visit) (string, error) {
		size, known := sizeOf(v)
		if !known {
			return "", &command.Unsupported{Command: "find", What: "-printf %s of a directory (which every file system has another size of)", Fix: "find … -type f -printf …"}
		}
		return strconv.FormatInt(size, 10), nil
	},
	'y': func(_ *finder, v *visit) (string, error) {
		switch {
		case v.IsDir():
			return "d", nil
		case v.IsSymlink():
			return "l", nil
		case v.IsRegular():
			return "f", nil
		}
		return "", &command.Unsupported{Command: "find", What: "-printf %y of a device or pipe"}
	},
}

func orNumber(id int) func(string, error) (string, error) {
	return func(name string, err error) (string, error) {
		if name == "" {
			name = strconv.Itoa(id)
		}
		return name, err
	}
}
