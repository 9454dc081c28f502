package gobuild

import (
	"context"
	"sync"
)

// Jobs is one budget for all go commands of a run. Compiling keeps all cores busy
// from within one go command, linking doesn't: so two builds at once are the least, and
// half as many as there are cores the most. Links are also the peak of memory, which
// this bounds. It is safe for concurrent use.
type Jobs struct {
	cores int
	slots chan struct{}

	mu   sync.Mutex // guards left
	left int        // builds that are expected to start or are running
}

// NewJobs is a budget for a number of cores and an expected number of builds.
func NewJobs(cores, builds int) *Jobs {
	return &Jobs{cores: cores, slots: make(chan struct{}, max(2, cores/2)), left: builds}
}

// start waits for a turn. It gives how many compilers the go command may run at once,
// 0 for as many as it likes.
func (j *Jobs) start(ctx context.Context) (parallel int, done func(), err error) {
	if j == nil {
		return 0, func() {}, nil
	}
	select {
	case j.slots <- struct{}{}:
	case <-ctx.Done():
		return 0, nil, context.Cause(ctx)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	// Together half as many again as there are cores, since some of them wait for one
	// another or link. The last build has all cores.
	beside := max(1, min(cap(j.slots), j.left))
	if parallel = (j.cores*3/2 + beside - 1) / beside; parallel >= j.cores {
		parallel = 0
	}
	return parallel, func() {
		j.Spare()
		<-j.slots
	}, nil
}

// Spare says that a build that was expected isn't needed, or is over.
func (j *Jobs) Spare() {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.left = max(0, j.left-1)
}
