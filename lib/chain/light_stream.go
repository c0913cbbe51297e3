package chain

import (
	"context"
	"sync"
	"time"

	"top/lib/api"
	"top/lib/ledger"
	"top/lib/pool"
	"top/lib/sock"
	"top/lib/top"
)

// lightStreams bounds the transactions of one stream that a light client has under
// way at once.
const lightStreams = 32

// stream hands each transaction over as submit does, and proves what became of it.
func (l *Light) stream(c *sock.Call) error {
	under := make(chan struct{}, lightStreams)
	return streamTxs(c, l.genesis.Chain, func(ctx context.Context, all []pool.Item, w pool.Watcher) {
		for _, it := range all {
			select {
			case under <- struct{}{}:
			case <-ctx.Done():
				return
			}
			go func() {
				defer func() { <-under }()
				err := l.pass(ctx, it.Signed)
				if w.Taken(it.Seq, err); err != nil {
					return
				}
				for ctx.Err() == nil {
					r, err := ask(ctx, l, maxWait, func(ctx context.Context, p *peer) (r api.Tx, err error) { return l.finalOf(ctx, p, it.ID, maxWait) })
					if err == nil {
						w.Final(it.Seq, r.Height, r.Code)
						return
					}
				}
			}()
		}
	})
}

// submit hands a transaction to every peer: one that drops it is not enough to
// keep it from the chain. What a peer says of it proves nothing; that it is
// final, and with what result, tx proves.
func (l *Light) submit(c *sock.Call) error {
	var q struct {
		Tx api.Bytes `json:"tx"`
	}
	if err := c.Decode(&q); err != nil {
		return err
	}
	s, err := ledger.Read(q.Tx)
	if err != nil {
		return err
	}
	if err := l.pass(c.Context(), s); err != nil {
		return err
	}
	return c.JSON(api.Submitted{Type: "submitted", ID: s.ID})
}

// pass hands a transaction over once it is seen to be for this chain and signed.
func (l *Light) pass(ctx context.Context, s ledger.Signed) error {
	if s.Chain != l.genesis.Chain {
		return top.Errorf(top.Denied, "the transaction is for chain %s, this one is %s", s.Chain, l.genesis.Chain)
	}
	if err := s.Verify(); err != nil {
		return err
	}
	if err := l.sound(); err != nil {
		return err
	}
	return l.handOver(ctx, s.Raw)
}

// handOver gives every peer the transaction at once. When one took it, the
// others have a moment more.
func (l *Light) handOver(ctx context.Context, raw []byte) error {
	ctx, cancel := context.WithTimeout(ctx, peerWait)
	defer cancel()
	errs := make([]error, len(l.peers))
	var wg sync.WaitGroup
	taken := false
	var mu sync.Mutex // guards taken
	for i, p := range l.peers {
		wg.Go(func() {
			_, err := p.api.Submit(ctx, raw)
			if errs[i] = err; err != nil {
				errs[i] = l.refusal(ctx, p, peerWait, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			taken = true
			time.AfterFunc(hedge, cancel)
		})
	}
	wg.Wait()
	if taken {
		return nil
	}
	return worst(errs)
}
