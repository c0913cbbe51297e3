package chain

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cometbft/cometbft/types"

	"top/lib/api"
	"top/lib/sock"
	"top/lib/top"
)

// events follows a peer's stream and proves each record of it: every block is a
// verified header, and its transactions are all there. When the peer fails, lies
// or keeps back blocks that others show, the next one goes on where it stopped.
func (l *Light) events(c *sock.Call) error {
	since, err := c.Count("since")
	if err != nil {
		return err
	}
	if c.Query("since") == "" {
		head, ok := l.headers.head()
		if !ok {
			return top.Errorf(top.Offline, "no header is verified yet (do the peers answer? top-chain status)")
		}
		since = uint64(head.Height)
	}
	c.Begin()
	e := &eventCheck{l: l, c: c, last: top.Height(since)}
	e.since.Store(since)
	return l.eachPeer(c.Context(), func(ctx context.Context, p *peer) error {
		ctx, touch, stop := patient(ctx, l.cfg.patience, func() bool {
			head, _ := l.headers.head()
			return uint64(head.Height) <= e.since.Load()+lag
		})
		defer stop()
		e.p, e.cur, e.left, e.held = p, 0, 0, nil
		err := p.api.Events(ctx, e.from(), func(raw json.RawMessage) error {
			touch()
			return e.take(ctx, raw)
		})
		if err == nil && c.Context().Err() == nil {
			err = top.Errorf(top.Offline, "%s ended the stream", p.addr)
		}
		return cmp.Or(silent(ctx), err)
	})
}

// silent is errSilent when that is why ctx ended.
func silent(ctx context.Context) error {
	if err := context.Cause(ctx); errors.Is(err, errSilent) {
		return err
	}
	return nil
}

// eventCheck proves the streams of peers, one after the other, and passes them
// on as one.
type eventCheck struct {
	l     *Light
	p     *peer
	c     *sock.Call
	since atomic.Uint64 // last, for who watches
	last  top.Height    // the last block of which the header was passed on
	next  uint32        // transactions of it that were passed on
	part  bool          // some of its transactions are still to be passed on

	cur  top.Height // the block that this peer's stream is in; 0 before the first
	at   uint32     // transactions of it that this peer has shown
	left int        // those still to come
	held *api.Event // of cur, until a transaction proves how many there are
}

// from is the block after which a peer's stream is to begin.
func (e *eventCheck) from() top.Height {
	if e.part {
		return e.last - 1
	}
	return e.last
}

func (e *eventCheck) take(ctx context.Context, raw json.RawMessage) error {
	var t struct{ Type string }
	if err := json.Unmarshal(raw, &t); err != nil {
		return fmt.Errorf("event: %v: %w", err, top.ErrInvalid)
	}
	if t.Type != "tx" && e.left > 0 {
		return fmt.Errorf("%d transactions of block %s are missing: %w", e.left, e.cur, top.ErrFailed)
	}
	switch t.Type {
	case "block":
		return e.block(ctx, raw)
	case "tx":
		return e.tx(ctx, raw)
	case "gap":
		return e.gap(raw)
	}
	return nil
}

// gap passes on that blocks are not kept any more: what is lost is below the
// newest header.
func (e *eventCheck) gap(raw json.RawMessage) error {
	var g struct{ Lost top.Count }
	if err := json.Unmarshal(raw, &g); err != nil {
		return fmt.Errorf("event: %v: %w", err, top.ErrInvalid)
	}
	head, _ := e.l.headers.head()
	if e.part || e.last >= head.Height || uint64(g.Lost) > uint64(head.Height-e.last) {
		return fmt.Errorf("a gap of %s blocks after block %s: %w", g.Lost, e.last, top.ErrFailed)
	}
	e.last += top.Height(g.Lost)
	e.since.Store(uint64(e.last))
	return e.c.Record(map[string]any{"type": "gap", "lost": g.Lost})
}

func (e *eventCheck) block(ctx context.Context, raw json.RawMessage) error {
	var b api.Event
	if err := json.Unmarshal(raw, &b); err != nil {
		return fmt.Errorf("event: %v: %w", err, top.ErrInvalid)
	}
	want := e.from() + 1
	if b.Height != want {
		return fmt.Errorf("block %s where %s follows: %w", b.Height, want, top.ErrFailed)
	}
	lb, err := e.l.headers.verified(ctx, e.p, b.Height, 0)
	if err != nil {
		return err
	}
	if b.Txs < 0 || (b.Txs == 0) != bytes.Equal(lb.DataHash, types.Txs(nil).Hash()) {
		return fmt.Errorf("block %s does not hold %d transactions: %w", b.Height, b.Txs, top.ErrFailed)
	}
	e.cur, e.at, e.left = b.Height, 0, b.Txs
	if e.part {
		return nil // a peer before showed its header and failed in the middle of it
	}
	h := headerOf(lb)
	e.held = &api.Event{Type: "block", Height: h.Height, Time: h.Time, Hash: h.Hash, Root: h.Root, Txs: b.Txs}
	if b.Txs > 0 {
		return nil
	}
	return e.pass()
}

// pass passes on the header of the block that the stream is in.
func (e *eventCheck) pass() error {
	if e.held == nil {
		return nil
	}
	r := *e.held
	e.last, e.next, e.part, e.held = r.Height, 0, r.Txs > 0, nil
	e.since.Store(uint64(e.last))
	return e.c.Record(r)
}

func (e *eventCheck) tx(ctx context.Context, raw json.RawMessage) error {
	var told api.Tx
	if err := json.Unmarshal(raw, &told); err != nil {
		return fmt.Errorf("event: %v: %w", err, top.ErrInvalid)
	}
	// By its place: the same may have been in an earlier block, too.
	r, err := e.l.finalAt(ctx, e.p, told.ID, place{e.cur, e.at})
	if err != nil {
		return err
	}
	proof, err := DecodeTxProof(r.Proof)
	if err != nil {
		return err
	}
	if uint64(proof.Total) != uint64(e.at)+uint64(e.left) {
		return fmt.Errorf("transaction %s is number %d of %d in block %s: %w", r.ID.Short(), e.at, proof.Total, e.cur, top.ErrFailed)
	}
	if err := e.pass(); err != nil {
		return err
	}
	e.at, e.left = e.at+1, e.left-1
	if e.at <= e.next {
		return nil // a peer before showed it
	}
	e.next, e.part = e.at, e.left > 0
	r.Proof, r.Raw = nil, nil
	return e.c.Record(r)
}
