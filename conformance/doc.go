// Package conformance runs the OCI's own tests for registries against the
// embedded registry. It is a module of its own, so that what the tests need is
// no dependency of the program.
//
//	cd conformance && go test -v ./...
package conformance
