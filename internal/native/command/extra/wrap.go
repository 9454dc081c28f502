package extra

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/anyarch/anyarch/internal/native/command"
)

// run runs another command.
func run(ctx context.Context, p *command.Proc, args []string) (int, error) {
	q := *p
	q.Args = args
	return p.Run(ctx, &q)
}

// duration reads the times of timeout: 1.5, 10s, 2m.
func duration(text string) (time.Duration, bool) {
	unit := time.Second
	if text != "" {
		if u := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}[text[len(text)-1]]; u != 0 {
			unit, text = u, text[:len(text)-1]
		}
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || n < 0 || math.IsNaN(n) || strings.Trim(text, "0123456789.") != "" {
		return 0, false
	}
	return time.Duration(math.Min(n*float64(unit), math.MaxInt64/2)), true
}

// timeout runs a command. That it takes too long depends on the machine, so that it
// is no answer, as it would be otherwise.
func timeout(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	if len(opt.Args) < 2 {
		_, _ = p.Errorf("missing operand")
		return map[command.Dialect]int{command.GNU: 125, command.Busybox: 1}[p.Dialect], nil
	}
	limit, ok := duration(opt.Args[0])
	if !ok {
		_, _ = p.Errorf("invalid time interval '%s'", opt.Args[0])
		return map[command.Dialect]int{command.GNU: 125, command.Busybox: 1}[p.Dialect], nil
	}
	if limit == 0 {
		return run(ctx, p, opt.Args[1:])
	}
	late := &command.Unsupported{Command: "timeout", What: "a command that takes longer than " + opt.Args[0] + " (another machine may be faster or slower)", Fix: "a longer time"}
	inner, cancel := context.WithTimeoutCause(ctx, limit, late)
	defer cancel()
	exit, err := run(inner, p, opt.Args[1:])
	if inner.Err() != nil && ctx.Err() == nil {
		return 0, late
	}
	return exit, err
}

// nice runs a command: which one is more important than others means nothing here.
func nice(ctx context.Context, p *command.Proc) (int, error) {
	args := p.Args[1:]
	if len(args) == 0 {
		_, _ = fmt.Fprintln(p.Stdout, 0)
		return 0, nil
	}
	if option := args[0]; strings.HasPrefix(option, "-") {
		value := strings.TrimPrefix(option, "-")
		args = args[1:]
		switch {
		case option == "--":
			value = "0"
		case option == "-n" || option == "--adjustment":
			if len(args) == 0 {
				return p.Errorf("option requires an argument -- 'n'")
			}
			value, args = args[0], args[1:]
		case strings.HasPrefix(option, "--adjustment="):
			value = strings.TrimPrefix(option, "--adjustment=")
		case strings.HasPrefix(option, "-n"):
			value = option[2:]
		}
		if _, err := strconv.Atoi(value); err != nil {
			return refuse(p, "option %s", option)
		}
		if len(args) == 0 {
			return p.Errorf("a command must be given with an adjustment")
		}
	}
	return run(ctx, p, args)
}

// nohup runs a command: there is no terminal that could hang up.
func nohup(ctx context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	if len(opt.Args) == 0 {
		_, _ = p.Errorf("missing operand")
		return map[command.Dialect]int{command.GNU: 125, command.Busybox: 127}[p.Dialect], nil
	}
	return run(ctx, p, opt.Args)
}

// yes writes a line again and again, until nobody reads it.
func yes(ctx context.Context, p *command.Proc) (int, error) {
	words := p.Args[1:]
	if len(words) > 0 && p.Dialect == command.GNU && strings.HasPrefix(words[0], "-") {
		if words[0] != "--" {
			return refuse(p, "option %s", words[0])
		}
		words = words[1:]
	}
	if len(words) == 0 {
		words = []string{"y"}
	}
	line := strings.Join(words, " ") + "\n"
	block := strings.Repeat(line, max(1, 4096/len(line)))
	for ctx.Err() == nil {
		if _, err := p.Stdout.Write([]byte(block)); err != nil {
			return 1, nil //nolint:nilerr // nobody reads it
		}
	}
	return 0, context.Cause(ctx)
}
