package chain

import (
	"context"

	"top/lib/api"
	"top/lib/pool"
	"top/lib/sock"
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
