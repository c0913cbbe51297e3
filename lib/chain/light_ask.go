package chain

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/cometbft/cometbft/types"

	"top/lib/api"
	"top/lib/sock"
	"top/lib/top"
)

// A peer is a full node that is asked and not believed.
type peer struct {
	addr  string
	api   *api.Chain
	sock  *sock.Client
	floor top.Height // answers proven by an older header are refused
}

const (
	peerWait = 10 * time.Second       // for one answer of a peer
	hedge    = 500 * time.Millisecond // before the next peer is asked the same
	maxRetry = 10 * time.Second       // that a peer may ask to wait

	maxPeerAnswer = 4 << 20 // bytes: a transaction of maxTx in JSON, and its proof
	maxPeerRecord = 1 << 20 // bytes
	maxList       = 10_000  // records of a list
)

// lightBlock asks the peer; 0 is the newest.
func (p *peer) lightBlock(ctx context.Context, h top.Height, wait time.Duration) (*types.LightBlock, error) {
	b, err := p.api.LightBlock(ctx, h, wait)
	if err != nil {
		return nil, err
	}
	return parseLightBlock(b.Block)
}

// ask gives the first answer that verifies. f asks one peer and verifies; when
// a peer is slow or its answer is refused, the next one is asked as well. When
// no answer verifies, the error is that of the first peer that gave one.
func ask[T any](ctx context.Context, l *Light, patience time.Duration, f func(context.Context, *peer) (T, error)) (none T, err error) {
	if err := l.sound(); err != nil {
		return none, err
	}
	type answer struct {
		from int
		v    T
		err  error
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	one, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answers := make(chan answer, len(l.peers)) // one of each: nobody waits to give it
	floor := l.headers.floor()
	next := time.NewTicker(hedge)
	defer next.Stop()
	asked := 0
	more := func() {
		if i := asked; i < len(l.peers) {
			asked++
			p := *l.peers[i]
			p.floor = floor
			wg.Go(func() {
				v, err := tryTwice(one, l, &p, f)
				answers <- answer{i, v, err}
			})
		}
	}
	errs := make([]error, len(l.peers))
	more()
	for range l.peers {
		var a answer
		for waits := true; waits; {
			select {
			case a = <-answers:
				waits = false
			case <-next.C:
				more()
			}
		}
		if a.err == nil {
			return a.v, nil
		}
		if fork := l.sound(); fork != nil {
			return none, fork
		}
		errs[a.from] = l.refusal(one, l.peers[a.from], patience, a.err)
		l.cfg.Log.Debug("no answer that verifies", "peer", l.peers[a.from].addr, "err", a.err)
		more()
	}
	if err := ctx.Err(); err != nil {
		return none, err
	}
	return none, worst(errs)
}

// worst is the first error that says more than that a peer did not answer.
func worst(errs []error) error {
	for _, err := range errs {
		if !errors.Is(err, top.ErrOffline) {
			return err
		}
	}
	return errs[0]
}

// tryTwice asks a peer once, and once more when it was behind, after it has had
// the time to catch up.
func tryTwice[T any](ctx context.Context, l *Light, p *peer, f func(context.Context, *peer) (T, error)) (v T, err error) {
	if err := l.begin(ctx, p); err != nil {
		return v, l.judge(err)
	}
	v, err = f(ctx, p)
	var b *behind
	if errors.As(err, &b) {
		if _, e := p.lightBlock(ctx, p.floor, peerWait); e != nil {
			return v, err
		}
		v, err = f(ctx, p)
	}
	return v, l.judge(err)
}

// refusal is a peer's error as it is passed on: its words are a stranger's.
func (l *Light) refusal(ctx context.Context, p *peer, patience time.Duration, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && errors.Is(err, top.ErrTimeout) {
		return top.Errorf(top.Offline, "no answer from %s within %s", p.addr, patience)
	}
	var e *top.Error
	if errors.As(err, &e) && error(e) == err {
		return &top.Error{Kind: e.Kind, Message: printable(e.Message), RetryAfter: min(e.RetryAfter, maxRetry)}
	}
	if errors.Is(err, top.ErrOffline) {
		return err
	}
	return fmt.Errorf("the answer of %s is refused: %v: %w", p.addr, err, top.ErrFailed)
}

// unproven is an error of a peer that was to prove a thing or its absence: it
// cannot just say that there is none.
func unproven(err error) error {
	if errors.Is(err, top.ErrNotFound) {
		return fmt.Errorf("%v, without a proof: %w", err, top.ErrFailed)
	}
	return err
}

// printable is a stranger's text without what could steer a terminal.
func printable(s string) string {
	return cut(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s), maxMessage)
}

// A behind is an answer proven by a header that is too old: it may hide what
// happened since.
type behind struct{ at, floor top.Height }

func (b *behind) Error() string {
	return fmt.Sprintf("the answer is of block %s, this light client has verified what follows block %s", b.at, b.floor)
}

func (b *behind) Unwrap() error { return top.ErrFailed }

// proven verifies the header that an answer names.
func (l *Light) proven(ctx context.Context, p *peer, at api.Header) (api.Header, error) {
	if at.Height < max(p.floor, 1) {
		return at, &behind{at.Height, p.floor}
	}
	lb, err := l.headers.verified(ctx, p, at.Height, 0)
	if err != nil {
		return at, unproven(err)
	}
	l.headers.tell(at.Height)
	return headerOf(lb), nil
}

// patient is a context that ends when nothing was touched for d, unless idle
// says that there is nothing to wait for.
func patient(ctx context.Context, d time.Duration, idle func() bool) (_ context.Context, touch, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var t *time.Timer
	ready := make(chan struct{})
	t = time.AfterFunc(d, func() {
		<-ready
		if idle() {
			t.Reset(d)
			return
		}
		cancel(errSilent)
	})
	close(ready)
	return ctx, func() { t.Reset(d) }, func() { t.Stop(); cancel(nil) }
}

var errSilent = fmt.Errorf("the peer keeps back what it has: %w", top.ErrOffline)

// eachPeer calls f with one peer after another until one sees it through. f may
// have passed on a part of the answer when it fails: the next goes on from there.
func (l *Light) eachPeer(ctx context.Context, f func(context.Context, *peer) error) error {
	if err := l.sound(); err != nil {
		return err
	}
	errs := make([]error, len(l.peers))
	for i, p := range l.peers {
		_, err := tryTwice(ctx, l, p, func(ctx context.Context, p *peer) (struct{}, error) {
			return struct{}{}, f(ctx, p)
		})
		if err == nil || ctx.Err() != nil {
			return err
		}
		if fork := l.sound(); fork != nil {
			return fork
		}
		l.cfg.Log.Debug("no answer that verifies", "peer", p.addr, "err", err)
		errs[i] = l.refusal(ctx, p, peerWait, err)
	}
	return worst(errs)
}
