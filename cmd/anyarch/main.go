// Anyarch makes multi-architecture container images of Go programs and proves
// them right on every platform before any tag moves.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/anyarch/anyarch/internal/cli"
	"github.com/anyarch/anyarch/internal/gocache"
	"github.com/anyarch/anyarch/internal/native/sandbox"
)

func main() {
	if sandbox.Main() || gocache.Main() {
		return // this process was the inside of a sandbox, or a go command's helper
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second ctrl-C ends at once
	}()
	code := cli.Main(ctx, cli.Arguments(os.Args), cli.Process())
	stop()
	os.Exit(code)
}
