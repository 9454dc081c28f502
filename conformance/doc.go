// Package conformance holds anyarch against the field: the OCI's own tests for
// registries against the embedded one, and images that anyarch publishes against
// the CNCF's registry and the tools that people pull with. It is a module of its
// own, so that what the tests need is no dependency of the program.
//
//	cd conformance && go test -v ./...
package conformance
