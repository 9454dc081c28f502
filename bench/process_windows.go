package main

import "os/exec"

// ownGroup leaves the default: only the command itself is ended.
func ownGroup(*exec.Cmd) {}

func exe(name string) string { return name + ".exe" }
