package text

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

// FuzzSed: no script and no text make sed panic or run for ever.
func FuzzSed(f *testing.F) {
	f.Add("s/a/b/g;1,/x/d;$p", "a\nb\n", true)
	f.Add(":a;N;$!ba;s/\\n/,/g", "a\nb\nc", false)
	f.Add("0,/a/{/b/!d;y/ab/ba/};$a\\", "", false)
	f.Add("2{h;x;G;D;P;=;i\\\nx\n}", "1\n2\n3", true)
	f.Fuzz(func(t *testing.T, script, text string, busybox bool) {
		dialect := command.GNU
		if busybox {
			dialect = command.Busybox
		}
		checkSed([]*string{&script})
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		var out bytes.Buffer
		_, _ = sed(ctx, &command.Proc{Tree: filetree.New(), Dir: "/", Args: []string{"sed", script}, Stdin: strings.NewReader(text), Stdout: &out, Stderr: &out, Dialect: dialect}, t.TempDir())
	})
}
