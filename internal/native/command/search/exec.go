package search

import (
	"context"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/native/command"
)

// maxBatch is how many bytes of names a command gets at once (GNU findutils,
// default of buildcmd.c).
const maxBatch = 128 << 10

// exec reads -exec COMMAND … ; or -exec COMMAND … {} +.
func (p *parser) exec() (maker, error) {
	p.acts, p.q.changes = true, true
	var words []string
	unknown := false
	for ; ; p.at++ {
		if p.at >= len(p.args) {
			if unknown {
				p.unknown = true
				return always, nil
			}
			return nil, &usage{"missing argument to `-exec'"}
		}
		if p.args[p.at] == nil {
			unknown = true
			words = append(words, "")
			continue
		}
		word := *p.args[p.at]
		if word == ";" || word == "+" && len(words) > 0 && (words[len(words)-1] == "{}" || p.dialect == command.Busybox) {
			break
		}
		words = append(words, word)
	}
	plus := *p.args[p.at] == "+"
	p.at++
	switch {
	case unknown:
		return always, nil
	case len(words) == 0:
		return nil, &usage{"missing argument to `-exec'"}
	case !plus:
		return func(f *finder) (node, error) {
			return nodeFunc(func(ctx context.Context, v *visit) (bool, error) {
				args := make([]string, len(words))
				for i, w := range words {
					args[i] = strings.ReplaceAll(w, "{}", v.name)
				}
				exit, err := f.run(ctx, args)
				return exit == 0, err
			}), nil
		}, nil
	}
	if places := strings.Count(strings.Join(words, " "), "{}"); places != 1 || words[len(words)-1] != "{}" || len(words) == 1 {
		return nil, p.unsupported("-exec … + with {} in another place than its end")
	}
	return func(f *finder) (node, error) {
		b := &batch{f: f, words: words[:len(words)-1]}
		f.batches = append(f.batches, b)
		return nodeFunc(func(ctx context.Context, v *visit) (bool, error) { return true, b.add(ctx, v.name) }), nil
	}, nil
}

func (f *finder) run(ctx context.Context, args []string) (int, error) {
	q := *f.p
	q.Args = args
	return f.p.Run(ctx, &q)
}

// batch collects the names that -exec … + passes on together.
type batch struct {
	f     *finder
	words []string
	names []string
	bytes int
}

func (b *batch) add(ctx context.Context, name string) error {
	if b.bytes == 0 {
		for _, w := range b.words {
			b.bytes += len(w) + 1
		}
	}
	if len(b.names) > 0 && b.bytes+len(name)+1 > maxBatch {
		if err := b.flush(ctx); err != nil {
			return err
		}
		return b.add(ctx, name)
	}
	b.names = append(b.names, name)
	b.bytes += len(name) + 1
	return nil
}

func (b *batch) flush(ctx context.Context) error {
	if len(b.names) == 0 {
		return nil
	}
	exit, err := b.f.run(ctx, slices.Concat(b.words, b.names))
	if exit != 0 {
		b.f.exit = 1
	}
	b.names, b.bytes = nil, 0
	return err
}
