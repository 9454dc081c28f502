package gobuild

import (
	"bytes"
	"context"
	"os/exec"
	"strings"

	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/trace"
)

// maxOutput bounds what is kept of the go command's messages, in bytes.
const maxOutput = 256 << 10

// run runs go and collects what it prints; of messages only the first and last part.
func (b *Builder) run(ctx context.Context, dir string, env []string, p platform.Platform, args ...string) (stdout, stderr []byte, err error) {
	cmd := b.Toolchain.Command(ctx, dir, env, args...)
	var out bytes.Buffer
	var messages headTail
	cmd.Stdout, cmd.Stderr = &out, &messages
	err = traced(ctx, "go "+args[0], p, cmd, args)
	return out.Bytes(), messages.bytes(), err
}

// traced runs a program of the toolchain for a platform; args are what the trace says of
// it besides its name.
func traced(ctx context.Context, name string, p platform.Platform, cmd *exec.Cmd, args []string) error {
	end := trace.Start(ctx, trace.Process, name+" "+p.String())
	defer func() { end("args", strings.Join(args, " "), "dir", cmd.Dir) }()
	return cmd.Run()
}

// headTail keeps the beginning and the end of what is written to it.
type headTail struct{ head, tail []byte }

func (h *headTail) Write(p []byte) (int, error) {
	n := len(p)
	if room := maxOutput/2 - len(h.head); room > 0 {
		take := min(room, len(p))
		h.head = append(h.head, p[:take]...)
		p = p[take:]
	}
	h.tail = append(h.tail, p...)
	if over := len(h.tail) - maxOutput/2; over > 0 {
		h.tail = append(h.tail[:0], h.tail[over:]...)
	}
	return n, nil
}

func (h *headTail) bytes() []byte { return append(h.head, h.tail...) }
