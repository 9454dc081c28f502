//go:build !linux

package sandbox

// Main runs the first process of a sandbox if this process was started as one, and
// doesn't return then. It has to be called first of all in main and TestMain, in
// every program that calls [New].
func Main() bool { return false }

func newSandbox() (Runner, error) { return nil, errSystem }

func unavailableFix() []string { return []string{"--sandbox auto"} }
