//go:build !linux

package runner

import "context"

// run is never reached: Run has refused before.
func (j *job) run(context.Context, Options) (int, error) {
	return 0, refuse(Options{}.Platform, "not Linux")
}
