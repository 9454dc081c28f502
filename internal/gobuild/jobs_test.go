package gobuild

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The budget bounds how many go commands run at once and shares the cores among them.
func TestJobs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		cores, builds, atOnce, parallel int // parallel is what each of atOnce gets
	}{
		{cores: 1, builds: 4, atOnce: 2, parallel: 0},
		{cores: 2, builds: 2, atOnce: 2, parallel: 0},
		{cores: 2, builds: 6, atOnce: 2, parallel: 0},
		{cores: 4, builds: 6, atOnce: 2, parallel: 3},
		{cores: 8, builds: 6, atOnce: 4, parallel: 3},
		{cores: 8, builds: 2, atOnce: 4, parallel: 6},
		{cores: 16, builds: 1, atOnce: 8, parallel: 0},
		{cores: 32, builds: 80, atOnce: 16, parallel: 3},
	} {
		j := NewJobs(tt.cores, tt.builds)
		var ends []func()
		for range tt.atOnce {
			parallel, done, err := j.start(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if parallel != tt.parallel {
				t.Errorf("%d cores, %d builds: -p=%d, want %d", tt.cores, tt.builds, parallel, tt.parallel)
			}
			ends = append(ends, done)
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		reason := errors.New("enough")
		cancel(reason)
		if _, _, err := j.start(ctx); !errors.Is(err, reason) {
			t.Errorf("%d cores, %d builds: one more than %d starts: %v", tt.cores, tt.builds, tt.atOnce, err)
		}
		ends[0]()
		if _, _, err := j.start(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

// The last builds get the cores of those that are over or weren't needed.
func TestJobsAtTheEnd(t *testing.T) {
	t.Parallel()
	j := NewJobs(8, 4)
	for _, want := range []int{3, 4, 6, 0} {
		parallel, done, err := j.start(context.Background())
		if err != nil || parallel != want {
			t.Errorf("-p=%d, want %d: %v", parallel, want, err)
		}
		if want == 4 {
			<-j.slots // as done, but the build was spared
			j.Spare()
		} else {
			done()
		}
	}
	var none *Jobs
	if parallel, done, err := none.start(context.Background()); parallel != 0 || err != nil {
		t.Errorf("without a budget: %d, %v", parallel, err)
	} else {
		done()
	}
	none.Spare()
}

// Never more at once, whatever happens.
func TestJobsAtOnce(t *testing.T) {
	t.Parallel()
	j := NewJobs(6, 50)
	var running, most atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, done, err := j.start(context.Background())
			if err != nil {
				t.Error(err)
				return
			}
			n := running.Add(1)
			for {
				old := most.Load()
				if old >= n || most.CompareAndSwap(old, n) {
					break
				}
			}
			time.Sleep(time.Millisecond)
			running.Add(-1)
			done()
		})
	}
	wg.Wait()
	if most.Load() > 3 {
		t.Errorf("%d at once", most.Load())
	}
	if j.left != 0 || len(j.slots) != 0 {
		t.Errorf("%d are left, %d slots taken", j.left, len(j.slots))
	}
}
