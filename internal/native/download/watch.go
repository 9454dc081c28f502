package download

import (
	"context"
	"sync"
)

// Asked is what was asked for as it is now, and what it was.
type Asked struct {
	mu   sync.Mutex
	list map[string]string
}

type watching struct{}

// Watch gives a context in which [Session.Latest] notes what it gave.
func Watch(ctx context.Context) (context.Context, *Asked) {
	list := &Asked{list: map[string]string{}}
	return context.WithValue(ctx, watching{}, list), list
}

func (a *Asked) add(address, sha256 string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list[address] = sha256
}

// All calls do with each address and the SHA-256 of what it had.
func (a *Asked) All(do func(address, sha256 string)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for address, sum := range a.list {
		do(address, sum)
	}
}
