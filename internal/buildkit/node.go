package buildkit

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	_ "github.com/moby/buildkit/client/connhelper/dockercontainer" // each registers a scheme
	_ "github.com/moby/buildkit/client/connhelper/kubepod"
	_ "github.com/moby/buildkit/client/connhelper/podmancontainer"
	_ "github.com/moby/buildkit/client/connhelper/ssh"

	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

// answerTime is how long a daemon may take to answer a question that costs it nothing.
const answerTime = 20 * time.Second

// Node is a daemon that answers.
type Node struct {
	Endpoint
	// Native are the platforms whose programs the machine runs by itself, Emulated
	// those that it runs through an emulator of its own.
	Native, Emulated []platform.Platform
	Version          string // of BuildKit

	client *client.Client
	dead   atomic.Bool
	busy   atomic.Int32 // platforms that it builds now
}

// Connect connects to an endpoint and asks what it can do. If it doesn't answer the
// error is a refusal.Error with code PA141; one that can't hand over images has PA144.
func Connect(ctx context.Context, e Endpoint) (*Node, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	c, err := dial(ctx, e)
	if err != nil {
		return nil, unreachable(e, err)
	}
	workers, err := c.ListWorkers(ctx)
	if err != nil || len(workers) == 0 {
		_ = c.Close()
		if err == nil {
			err = errors.New("it has no worker")
		}
		return nil, unreachable(e, err)
	}
	n := &Node{Endpoint: e, client: c, Version: workers[0].BuildkitVersion.Version}
	if e.engine() && workers[0].Labels["org.mobyproject.buildkit.worker.snapshotter"] == "" {
		_ = c.Close()
		return nil, &refusal.Error{Code: "PA144", Kind: refusal.Failed, Place: e.Address,
			Summary: "this Docker engine keeps images in a form of its own, and can't hand over what it builds",
			Fix:     []string{`{"features": {"containerd-snapshotter": true}}   # in /etc/docker/daemon.json, then restart docker`, "docker run -d --name buildkitd --privileged moby/buildkit && anyarch publish --builder docker-container://buildkitd …"}}
	}
	var all []platform.Platform
	for _, w := range workers {
		for _, p := range w.Platforms {
			if known := platform.FromOCI(&p); !slices.Contains(all, known) {
				all = append(all, known)
			}
		}
	}
	n.Native, n.Emulated = split(all, e.Platforms)
	return n, nil
}

func dial(ctx context.Context, e Endpoint) (*client.Client, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	var opts []client.ClientOpt
	if e.TLS.CA != "" {
		opts = append(opts, client.WithServerConfig(e.TLS.ServerName, e.TLS.CA))
	} else if e.TLS != (TLS{}) {
		opts = append(opts, client.WithServerConfigSystem(e.TLS.ServerName))
	}
	if e.TLS.Cert != "" {
		opts = append(opts, client.WithCredentials(e.TLS.Cert, e.TLS.Key))
	}
	if e.engine() {
		engine, err := dockerEngine(e.Address, os.Getenv)
		if err != nil {
			return nil, err
		}
		return client.New(ctx, "", client.WithContextDialer(engine.control), client.WithSessionDialer(engine.session))
	}
	if e.Program() != "" {
		dialer, err := throughProgram(e.Address)
		if err != nil {
			return nil, err
		}
		opts = append(opts, client.WithContextDialer(dialer))
	}
	return client.New(ctx, e.Address, opts...)
}

// split tells what a machine runs by itself from what it emulates. The first platform
// that a daemon names is that of its machine; of an x86-64 machine 386 is native too, of
// an arm64 one the 32-bit variants. Platforms that the user declared are native, and
// nothing else is.
func split(all, declared []platform.Platform) (native, emulated []platform.Platform) {
	family := func(p platform.Platform) string {
		switch p.Architecture {
		case "386":
			return p.OS + "/amd64"
		case "arm":
			return p.OS + "/arm64"
		}
		return p.OS + "/" + p.Architecture
	}
	if len(declared) > 0 {
		native = declared
	}
	for _, p := range all {
		switch {
		case len(declared) > 0:
			if !slices.Contains(declared, p) {
				emulated = append(emulated, p)
			}
		case family(p) == family(all[0]) && !(all[0].Architecture == "arm" && p.Architecture == "arm64") && !(all[0].Architecture == "386" && p.Architecture == "amd64"):
			native = append(native, p)
		default:
			emulated = append(emulated, p)
		}
	}
	return native, emulated
}

// runs reports whether the machine runs programs of a platform by itself.
func (n *Node) runs(p platform.Platform) bool { return oneRuns(n.Native, p) }

// emulates reports whether it runs them through an emulator.
func (n *Node) emulates(p platform.Platform) bool { return oneRuns(n.Emulated, p) }

func oneRuns(list []platform.Platform, p platform.Platform) bool {
	return slices.ContainsFunc(list, func(m platform.Platform) bool { return m.Runs(p) })
}

// alive asks whether the daemon still answers, within a time.
func (n *Node) alive(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	_, err := n.client.ListWorkers(ctx)
	return err
}

// Close ends the connection.
func (n *Node) Close() error { return n.client.Close() }

// Busy reports whether the daemon builds something now, for whomever.
func (n *Node) Busy(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	stream, err := n.client.ControlClient().ListenBuildHistory(ctx, &controlapi.BuildHistoryRequest{ActiveOnly: true, EarlyExit: true})
	if err != nil {
		return false, err
	}
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if event.Type == controlapi.BuildHistoryEventType_STARTED && event.Record != nil {
			return true, nil
		}
	}
}
