//go:build !linux

package daemon

import (
	"context"
	"runtime"

	"github.com/anyarch/anyarch/internal/refusal"
)

// errNotHere is the refusal on systems that run no containers of Linux.
func errNotHere() error {
	return &refusal.Error{Code: "PA146", Kind: refusal.Usage, Place: "anyarch builder start", Summary: runtime.GOOS + " can't run buildkitd",
		Fix: []string{"--builder ssh://user@linux-host", "--builder docker-container://buildkitd"}}
}

// Start refuses.
func Start(context.Context, Options) (started bool, err error) { return false, errNotHere() }

// Await refuses.
func Await(context.Context, Options) error { return errNotHere() }

// Supervise refuses.
func Supervise(context.Context, Options) error { return errNotHere() }

// Stop finds nothing to end.
func Stop(context.Context, Options) (stopped bool, err error) { return false, nil }

func private(string) error { return nil }
