package buildkit

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

// failed is the error of a build, with what the failed instruction wrote last.
type failed struct {
	err error
	log []string
}

func (f *failed) Error() string { return f.err.Error() }
func (f *failed) Unwrap() error { return f.err }

// isLost tells a daemon that was lost from an instruction that failed, and marks it.
func (b *Build) isLost(ctx context.Context, n *Node, err error) bool {
	var own *refusal.Error
	if errors.As(err, &own) || len(errdefs.Sources(err)) > 0 {
		return false // it is about the Dockerfile, or about this machine
	}
	if errors.Is(err, errSilent) || n.alive(ctx, answerTime) != nil {
		n.dead.Store(true)
		_ = n.Close()
		return true
	}
	switch grpcerrors.Code(err) {
	case codes.Unavailable, codes.Canceled, codes.Aborted:
		return true // it was restarted
	}
	return false
}

// failure turns an error of BuildKit into a refusal with the line of the Dockerfile.
func (b *Build) failure(n *Node, p platform.Platform, err error) error {
	if list := refusal.All(err); len(list) > 0 {
		return err
	}
	r := &refusal.Error{Code: "PA145", Platform: p.String(), Place: b.o.Dockerfile, Summary: plain(err), Err: err}
	for _, s := range errdefs.Sources(err) {
		if s.Info != nil && len(s.Ranges) > 0 {
			r.Place = fmt.Sprintf("%s:%d", b.o.Dockerfile, s.Ranges[0].Start.Line)
		}
	}
	var f *failed
	if errors.As(err, &f) {
		r.Seen = f.log
	}
	r.Seen = append(r.Seen, "on "+n.Address)
	switch text := err.Error(); {
	case strings.Contains(text, "exec format error"):
		r.Fix = []string{"--pin-builders", "--builder ssh://user@host=" + p.String()}
	case strings.Contains(text, "not allowed by build daemon configuration"):
		r.Fix = []string{`insecure-entitlements = ["network.host", "security.insecure"]   # at the top of that daemon's buildkitd.toml`}
	case strings.Contains(text, "network.host is not allowed"):
		r.Fix = []string{"--allow network.host"}
	case strings.Contains(text, "security.insecure is not allowed"):
		r.Fix = []string{"--allow security.insecure"}
	}
	return r
}

// plain is an error without the wrapping that gRPC and BuildKit put around it.
func plain(err error) string {
	text := err.Error()
	if s, ok := status.FromError(err); ok && s.Code() != codes.Unknown && s.Message() != "" && !strings.Contains(s.Message(), "rpc error") {
		text = s.Message()
	}
	for _, prefix := range []string{"failed to solve: ", "failed to run Build function: ", "failed to list workers: ", "rpc error: code = Unknown desc = ", "rpc error: code = Unavailable desc = ", "failed to compute cache key: ", "failed to receive status: "} {
		text = strings.ReplaceAll(text, prefix, "")
	}
	first, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return first
}
