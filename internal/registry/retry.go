package registry

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxTries      = 8                      // requests for one purpose
	firstBackoff  = 250 * time.Millisecond // doubled after every failure, with full jitter
	maxBackoff    = 30 * time.Second
	maxRetryAfter = 120 * time.Second // a registry that asks for more isn't waited for
	// outage is how long a host that has answered before may be unreachable,
	// as it is while it restarts. Attempts to connect reach nobody, so their
	// number is bounded by this and not by maxTries.
	outage = 60 * time.Second
	// maxStrangerTries bounds attempts to connect to a host that has never
	// answered: its name is probably misspelt.
	maxStrangerTries = 4
)

// clock tells the time and lets it pass.
type clock struct {
	wait    func(context.Context, time.Duration) error // nil: really wait
	skipped atomic.Int64                               // nanoseconds that wait didn't really last
}

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.skipped.Load())) }

func (c *clock) sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	if c.wait == nil {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	target := c.now().Add(d)
	if err := c.wait(ctx, d); err != nil {
		return err
	}
	for {
		skipped := c.skipped.Load()
		gap := target.Sub(time.Now().Add(time.Duration(skipped)))
		if gap <= 0 || c.skipped.CompareAndSwap(skipped, skipped+int64(gap)) {
			return ctx.Err()
		}
	}
}

// gate keeps requests to one host back until a time that the host has asked
// for. Its zero value is open.
type gate struct{ until atomic.Int64 } // nanoseconds since 1970; 0 if it was never closed

func (g *gate) pass(ctx context.Context, c *clock) error {
	for {
		until := g.until.Load()
		if until == 0 {
			return ctx.Err()
		}
		left := time.Duration(until - c.now().UnixNano())
		if left <= 0 {
			return ctx.Err()
		}
		if err := c.sleep(ctx, left); err != nil {
			return err
		}
	}
}

func (g *gate) shut(until time.Time) {
	for {
		old := g.until.Load()
		if old >= until.UnixNano() || g.until.CompareAndSwap(old, until.UnixNano()) {
			return
		}
	}
}

// retryAfter reads a Retry-After header (RFC 9110, section 10.2.3): seconds or
// a date. ok is false if there is none that makes sense.
func retryAfter(header http.Header, now time.Time) (d time.Duration, ok bool) {
	value := strings.TrimSpace(header.Get("Retry-After"))
	if value == "" {
		return 0, false
	}
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		if seconds < 0 {
			return 0, false
		}
		if seconds > int64(365*24*time.Hour/time.Second) {
			seconds = int64(365 * 24 * time.Hour / time.Second)
		}
		return time.Duration(seconds) * time.Second, true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	// The registry's clock decides what its date means, if it shows its clock.
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		now = date
	}
	return max(0, at.Sub(now)), true
}

// retry is the patience with one purpose, such as one request or one transfer.
// It isn't safe for concurrent use.
type retry struct {
	host  *host
	step  string // what is being done, for the message
	limit int    // of tries; 0 means the usual
	tries int    // failures in a row
	lost  time.Duration
}

// again is called after a failure. It waits and returns nil if there is to be
// another try, or returns the error that ends the matter.
func (r *retry) again(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f, ok := err.(*failure)
	if !ok || !f.temporary() {
		return r.host.refuse(err, r.step, r.tries+1)
	}
	r.tries++
	limit := maxTries
	if f.dial {
		limit = maxStrangerTries
		if r.host.answered.Load() {
			limit = maxTries
			if r.lost < outage {
				limit = r.tries + 1
			}
		}
	}
	if r.limit > 0 {
		limit = min(limit, r.limit)
	}
	if r.tries >= limit {
		return r.host.refuse(f, r.step, r.tries)
	}
	if f.retryAfter > maxRetryAfter {
		return r.host.refuse(f, r.step, r.tries)
	}
	wait := backoff(r.tries)
	if f.hasRetryAfter && f.retryAfter > 0 {
		wait = 0 // the gate of the host is shut; who passes it has waited
	}
	if f.dial {
		wait = min(max(wait, firstBackoff), 5*time.Second)
		r.lost += wait
	}
	return r.host.client.clock.sleep(ctx, wait)
}

// progress says that something was gained since the last failure.
func (r *retry) progress() { r.tries, r.lost = 0, 0 }

// backoff is exponential with full jitter.
func backoff(failures int) time.Duration {
	ceiling := maxBackoff
	if failures < 8 {
		ceiling = min(maxBackoff, firstBackoff<<(failures-1))
	}
	return rand.N(ceiling) + 1
}

// flight lets concurrent callers with the same key share one call. The zero
// value is ready to use.
type flight[T any] struct {
	mu    sync.Mutex
	calls map[string]*flightCall[T]
}

type flightCall[T any] struct {
	done      chan struct{}
	value     T
	err       error
	abandoned bool // its caller gave up, which says nothing to the others
}

func (f *flight[T]) do(ctx context.Context, key string, fn func() (T, error)) (T, error) {
	for {
		f.mu.Lock()
		if call := f.calls[key]; call != nil {
			f.mu.Unlock()
			select {
			case <-call.done:
			case <-ctx.Done():
				var none T
				return none, ctx.Err()
			}
			if call.abandoned && ctx.Err() == nil {
				continue
			}
			return call.value, call.err
		}
		call := &flightCall[T]{done: make(chan struct{}), abandoned: true}
		if f.calls == nil {
			f.calls = map[string]*flightCall[T]{}
		}
		f.calls[key] = call
		f.mu.Unlock()
		defer func() { // also if fn panics
			f.mu.Lock()
			delete(f.calls, key)
			f.mu.Unlock()
			close(call.done)
		}()
		call.value, call.err = fn()
		call.abandoned = call.err != nil && ctx.Err() != nil
		return call.value, call.err
	}
}
