package chain

import (
	"context"
	"time"

	"top/lib/api"
	"top/lib/ledger"
	"top/lib/top"
)

// readPatience is how long a read waits for the header that proves what it
// answers. A chain that makes blocks needs a fraction of it.
const readPatience = 10 * time.Second

// read calls f with the state and a final header that carries its root (C2). On
// a chain where nothing changes the last header does, and f is called at once.
// Right after a change the next header will: f is called when it comes. f must
// be quick and keep nothing of the state.
func (a *app) read(ctx context.Context, f func(*ledger.State, api.Header)) error {
	a.mu.Lock()
	if a.state != nil && a.head.Height > 0 && a.head.Root == a.root {
		defer a.mu.Unlock()
		f(a.state, a.head)
		return nil
	}
	if len(a.readers) >= maxReaders {
		a.mu.Unlock()
		return &top.Error{Kind: top.Busy, Message: "too many readers wait for the next block", RetryAfter: commitPause}
	}
	r := &reader{read: f, done: make(chan struct{})}
	a.readers = append(a.readers, r)
	last := a.head.Height
	a.mu.Unlock()

	patience := time.NewTimer(readPatience)
	defer patience.Stop()
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
	case <-patience.C:
	}
	a.mu.Lock()
	r.gone = true
	a.mu.Unlock()
	select {
	case <-r.done: // it came in the same moment
		return nil
	default:
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return top.Errorf(top.Offline, "the chain made no block for %s, so nothing after block %d can be proven (are two thirds of the validators up? top-chain status)", readPatience, last)
}

// answerReaders calls every reader that waits, with the header just begun.
func (a *app) answerReaders() {
	for _, r := range a.readers {
		if !r.gone {
			r.read(a.state, a.head)
			close(r.done)
		}
	}
	a.readers = nil
}

// wait returns once a block above height is final, or ctx ends.
func (a *app) wait(ctx context.Context, height top.Height) (final top.Height, err error) {
	for {
		a.mu.Lock()
		final, changed := a.final, a.changed
		a.mu.Unlock()
		if final > height {
			return final, nil
		}
		select {
		case <-ctx.Done():
			return final, ctx.Err()
		case <-changed:
		}
	}
}

// indexOf is the index of an address.
func (a *app) indexOf(address top.Address) (uint32, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state == nil {
		return 0, false
	}
	return a.state.Index(address)
}

// address is the address of an account's index; zero when there is none.
func (a *app) addresses() func(uint32) top.Address {
	known := map[uint32]top.Address{}
	return func(i uint32) top.Address {
		if k, ok := known[i]; ok {
			return k
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.state == nil || int(i) >= a.state.Accounts() {
			return top.Address{}
		}
		known[i] = a.state.Account(i).Key
		return known[i]
	}
}
