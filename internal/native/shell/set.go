package shell

import (
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"

	"github.com/anyarch/anyarch/internal/native/command"
)

const listing = "the list of variables or options"

// shellOptions are the options that a shell was started with, as flags for the
// interpreter and settings of our own.
func shellOptions(options []string, d Dialect) (flags, hidden []string, u *command.Unsupported) {
	if len(options) == 0 {
		return nil, nil, nil
	}
	flags, hidden, params, has, u := setArguments(options, d)
	if u == nil && has {
		u = &command.Unsupported{What: "the argument " + strings.Join(params, " ")}
	}
	if u != nil && u.Command == "" {
		u.Command = map[Dialect]string{Bash: "bash"}[d]
		if u.Command == "" {
			u.Command = "sh"
		}
	}
	return flags, hidden, u
}

// setArguments reads what set takes. has says that there are positional parameters,
// be it none (set --).
func setArguments(args []string, d Dialect) (flags, hidden, params []string, has bool, u *command.Unsupported) {
	if len(args) == 0 {
		return nil, nil, nil, false, &command.Unsupported{Command: "set", What: listing}
	}
	option := func(on bool, name string) *command.Unsupported {
		sign := "+"
		if on {
			sign = "-"
		}
		switch name {
		case "errexit", "nounset", "xtrace", "noglob", "noexec", "allexport":
			flags = append(flags, sign+"o", name)
			return nil
		case "pipefail":
			if d == Dash {
				return &command.Unsupported{Command: "set", What: "option -o pipefail (dash doesn't have it)", Fix: `SHELL ["/bin/bash", "-o", "pipefail", "-c"]`}
			}
			flags = append(flags, sign+"o", name)
			return nil
		case "noclobber":
			value := "0"
			if on {
				value = "1"
			}
			hidden = append(hidden, clobberOff+"="+value)
			return nil
		case "errtrace", "functrace", "hashall", "notify": // for what isn't there: traps of errors, jobs
			return nil
		case "monitor", "verbose", "histexpand", "history", "ignoreeof", "nolog":
			if !on {
				return nil
			}
		case "braceexpand", "interactive-comments":
			if on {
				return nil
			}
		}
		return &command.Unsupported{Command: "set", What: "option " + sign + "o " + name}
	}
	letters := map[rune]string{'e': "errexit", 'u': "nounset", 'x': "xtrace", 'f': "noglob", 'n': "noexec", 'a': "allexport", 'C': "noclobber",
		'E': "errtrace", 'T': "functrace", 'h': "hashall", 'b': "notify", 'm': "monitor", 'v': "verbose", 'H': "histexpand", 'B': "braceexpand"}
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			return flags, hidden, args[i+1:], true, nil
		case a == "-":
			flags = append(flags, "+x")
			return flags, hidden, args[i+1:], len(args) > i+1, nil
		case len(a) < 2 || a[0] != '-' && a[0] != '+':
			return flags, hidden, args[i:], true, nil
		}
		on := a[0] == '-'
		for _, l := range a[1:] {
			name := letters[l]
			if l == 'o' {
				if i++; i >= len(args) {
					return nil, nil, nil, false, &command.Unsupported{Command: "set", What: listing}
				}
				name = args[i]
			}
			if name == "" {
				name = string(l)
				return nil, nil, nil, false, &command.Unsupported{Command: "set", What: "option " + a[:1] + name}
			}
			if u := option(on, name); u != nil {
				return nil, nil, nil, false, u
			}
		}
	}
	return flags, hidden, nil, false, nil
}

// ignorable are signals that nobody sends in a build: what a trap does on them
// doesn't matter.
var ignorable = []string{"HUP", "INT", "QUIT", "TERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "1", "2", "3", "15"}

func trapIgnored(args []string) bool {
	out, u := trapArguments(args)
	return u == nil && len(out) == 0 && len(args) > 0
}

// trapArguments reads what trap takes. It gives what is left for the interpreter:
// the action and EXIT, or nothing.
func trapArguments(args []string) ([]string, *command.Unsupported) {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 || strings.HasPrefix(args[0], "-") && len(args[0]) > 1 {
		return nil, &command.Unsupported{Command: "trap", What: "the list of traps"}
	}
	action, signals := args[0], args[1:]
	if len(signals) == 0 {
		action, signals = "-", args
	}
	exit := false
	for _, s := range signals {
		switch u := strings.ToUpper(s); {
		case u == "EXIT" || u == "0":
			exit = true
		case slices.Contains(ignorable, u):
		default:
			return nil, &command.Unsupported{Command: "trap", What: "a trap of " + s, Fix: "trap … EXIT"}
		}
	}
	if !exit {
		return nil, nil
	}
	if file, err := syntax.NewParser().Parse(strings.NewReader(action), ""); err == nil {
		exits := false
		syntax.Walk(file, func(n syntax.Node) bool {
			if c, ok := n.(*syntax.CallExpr); ok && len(c.Args) > 0 && c.Args[0].Lit() == "exit" {
				exits = true
			}
			return true
		})
		if exits {
			return nil, &command.Unsupported{Command: "trap", What: "exit in a trap of EXIT"}
		}
	}
	return []string{action, "EXIT"}, nil
}

func shoptArguments(args []string) *command.Unsupported {
	if len(args) < 2 || args[0] != "-s" && args[0] != "-u" {
		return &command.Unsupported{Command: "shopt", What: "asking for options"}
	}
	for _, a := range args[1:] {
		switch a {
		case "dotglob", "extglob", "globstar", "nocaseglob", "nullglob":
		default:
			return &command.Unsupported{Command: "shopt", What: "option " + a}
		}
	}
	return nil
}
