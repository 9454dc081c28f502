package command

import (
	"strings"
)

// Options says what options a command understands. It is the one description used
// before the build (Check) and when the command runs (Parse).
type Options struct {
	// Short are the one-letter options; a letter followed by ":" takes a value,
	// such as "rfm:".
	Short string
	// Long are the long options without dashes; a name that ends in "=" takes a
	// value (--name=value or --name value), one that ends in "=?" takes one only
	// after an equals sign.
	Long []string
	// Same maps a long option to the short one that means the same.
	Same map[string]string
	// StopAtArgument ends the options at the first argument that is none, as for
	// env and xargs, where the rest is another command. Else options and arguments
	// may be mixed, as GNU's getopt does.
	StopAtArgument bool
	// Plain, if not nil, recognises arguments that begin with a dash but are no
	// options, such as chmod -x or head -5.
	Plain func(arg string) bool
}

// Parsed is what Parse found.
type Parsed struct {
	Has    map[string]bool   // by short letter, or long name if it has no short one
	Values map[string]string // the last value
	All    map[string][]string
	// Order lists the options as they came, for commands where order matters.
	Order []Option
	Args  []string
}

// Option is one option as it was given.
type Option struct{ Name, Value string }

// Parse reads arguments (without the command's name). An option that the command
// doesn't know is an *Unsupported; a missing value a message for the user.
func (o Options) Parse(name string, args []string) (*Parsed, error) {
	pointers := make([]*string, len(args))
	for i := range args {
		pointers[i] = &args[i]
	}
	return o.parse(name, pointers, true)
}

// Check is for Command.Check: nil arguments are not known yet.
func (o Options) Check(name string) func([]*string) *Unsupported {
	return func(args []*string) *Unsupported {
		_, err := o.parse(name, args, false)
		if u, ok := err.(*Unsupported); ok {
			return u
		}
		return nil
	}
}

// missing is an option without its value: the tool itself would complain too.
type missing struct{ option string }

func (m *missing) Error() string { return "option requires an argument: " + m.option }

func (o Options) parse(name string, args []*string, running bool) (*Parsed, error) {
	p := &Parsed{Has: map[string]bool{}, Values: map[string]string{}, All: map[string][]string{}}
	add := func(option, value string) {
		if s, ok := o.Same[option]; ok {
			option = s
		}
		p.Has[option] = true
		p.Values[option] = value
		p.All[option] = append(p.All[option], value)
		p.Order = append(p.Order, Option{option, value})
	}
	for i := 0; i < len(args); i++ {
		if args[i] == nil {
			if o.StopAtArgument {
				return p, nil // nothing can be said about what follows
			}
			continue
		}
		arg := *args[i]
		switch {
		case arg == "--":
			for _, a := range args[i+1:] {
				if a != nil {
					p.Args = append(p.Args, *a)
				}
			}
			return p, nil
		case arg == "-" || !strings.HasPrefix(arg, "-") || o.Plain != nil && o.Plain(arg):
			if o.StopAtArgument {
				for _, a := range args[i:] {
					if a == nil {
						return p, nil
					}
					p.Args = append(p.Args, *a)
				}
				return p, nil
			}
			p.Args = append(p.Args, arg)
		case strings.HasPrefix(arg, "--"):
			option, value, hasValue := strings.Cut(arg[2:], "=")
			takes, optional, ok := o.long(option)
			switch {
			case !ok:
				return nil, &Unsupported{Command: name, What: "option --" + option}
			case !takes && hasValue && !optional:
				return nil, &Unsupported{Command: name, What: "option --" + option + " with a value"}
			case takes && !hasValue && !optional:
				if i++; i >= len(args) {
					if running {
						return nil, &missing{"--" + option}
					}
					return p, nil
				}
				if args[i] != nil {
					value = *args[i]
				}
			}
			add(option, value)
		default:
			letters := arg[1:]
			for j := 0; j < len(letters); j++ {
				letter := letters[j : j+1]
				at := strings.Index(o.Short, letter)
				if at < 0 || letter == ":" {
					return nil, &Unsupported{Command: name, What: "option -" + letter}
				}
				if at+1 >= len(o.Short) || o.Short[at+1] != ':' {
					add(letter, "")
					continue
				}
				value := letters[j+1:]
				if value == "" {
					if i++; i >= len(args) {
						if running {
							return nil, &missing{"-" + letter}
						}
						return p, nil
					}
					if args[i] != nil {
						value = *args[i]
					}
				}
				add(letter, value)
				break
			}
		}
	}
	return p, nil
}

func (o Options) long(name string) (takes, optional, ok bool) {
	for _, l := range o.Long {
		switch {
		case strings.TrimSuffix(l, "=?") == name && strings.HasSuffix(l, "=?"):
			return false, true, true
		case strings.TrimSuffix(l, "=") == name && strings.HasSuffix(l, "="):
			return true, false, true
		case l == name:
			return false, false, true
		}
	}
	return false, false, false
}

// Failed turns an error of [Options.Parse] into what a Func returns.
func (p *Proc) Failed(err error) (int, error) {
	if u, ok := err.(*Unsupported); ok {
		return 2, u
	}
	return p.Errorf("%v", err)
}
