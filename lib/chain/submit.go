package chain

import (
	"context"
	"errors"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/mempool"
	"github.com/cometbft/cometbft/types"

	"top/lib/api"
	"top/lib/ledger"
	"top/lib/sock"
	"top/lib/top"
)

// poolPause is when a full pool may have room again: about a block later.
const poolPause = 200 * time.Millisecond

// maxSubmit bounds the body of a submit: a transaction of maxTx bytes in JSON.
const maxSubmit = 2 * maxTx

// submit takes a transaction into the pool. One that waits or is final already
// is no error: a client that lost an answer may ask again.
func (n *Node) submit(c *sock.Call) error {
	var q struct {
		Tx api.Bytes `json:"tx"`
	}
	if err := c.Decode(&q); err != nil {
		return err
	}
	id := ledger.ID(q.Tx)
	if err := n.enter(id, q.Tx); err != nil {
		return err
	}
	return c.JSON(api.Submitted{Type: "submitted", ID: id})
}

func (n *Node) enter(id top.ID, raw []byte) error {
	if _, _, final, err := n.index.find(id); err != nil || final {
		return err
	}
	if len(raw) > maxTx {
		return top.Errorf(top.Invalid, "the transaction has %d bytes, a block takes at most %d", len(raw), maxTx)
	}
	var verdict *abci.ResponseCheckTx
	err := n.comet.Mempool().CheckTx(raw, func(r *abci.ResponseCheckTx) { verdict = r }, mempool.TxInfo{})
	var full mempool.ErrMempoolIsFull
	switch {
	case errors.Is(err, mempool.ErrTxInCache):
		return nil
	case errors.As(err, &full), errors.Is(err, mempool.ErrRecheckFull):
		if n.app.waits(id) {
			return nil
		}
		return &top.Error{Kind: top.Busy, Message: "the pool of waiting transactions is full", RetryAfter: poolPause}
	case err != nil:
		return top.Errorf(top.Failed, "the pool did not take the transaction: %v", err)
	case verdict == nil:
		return top.Errorf(top.Failed, "the pool gave no answer")
	case verdict.Code != abci.CodeTypeOK:
		return top.Errorf(top.Kind(verdict.Codespace), "%s", plain(verdict.Log, verdict.Codespace))
	}
	return nil
}

// plain is a message without the kind at its end: the kind travels beside it.
func plain(msg, kind string) string {
	if s := ": " + kind; len(msg) > len(s) && msg[len(msg)-len(s):] == s {
		return msg[:len(msg)-len(s)]
	}
	return msg
}

// waits says whether a transaction is in the pool, as far as this node knows.
func (a *app) waits(id top.ID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.pending[id]
	return ok
}

// maxWait bounds how long one call waits for a transaction.
const maxWait = 5 * time.Minute

// tx answers what became of a transaction, with the proof that it stands in its
// block and that this was its result.
func (n *Node) tx(c *sock.Call) error {
	id, wait, err := txArg(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context(), wait)
	defer cancel()
	height, at, err := n.await(ctx, id)
	if err != nil {
		if c.Context().Err() != nil {
			return c.Context().Err()
		}
		return err
	}
	r, err := n.finalTx(height, at)
	if err != nil {
		return err
	}
	return c.JSON(r)
}

// txArg is the transaction that a call names and how long it would wait.
func txArg(c *sock.Call) (id top.ID, wait time.Duration, err error) {
	if id, err = top.ParseID(c.Arg("id")); err != nil {
		return id, 0, err
	}
	wait, err = waitArg(c)
	return id, wait, err
}

func waitArg(c *sock.Call) (time.Duration, error) {
	v := c.Query("wait")
	if v == "" {
		return 0, nil
	}
	wait, err := time.ParseDuration(v)
	if err != nil || wait < 0 {
		return 0, top.Errorf(top.Invalid, "wait=%q: want a duration as in 5s", v)
	}
	return min(wait, maxWait), nil
}

// await returns where a transaction stands once it is final.
func (n *Node) await(ctx context.Context, id top.ID) (height top.Height, at int, err error) {
	for {
		n.app.mu.Lock()
		changed := n.app.changed
		n.app.mu.Unlock()
		height, at, final, err := n.index.find(id)
		if err != nil || final {
			return height, at, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if n.app.waits(id) {
				return 0, 0, top.Errorf(top.NotFound, "transaction %s waits for a block", id)
			}
			return 0, 0, top.Errorf(top.NotFound, "no transaction %s is final, and none waits on this node", id)
		}
	}
}

// finalTx is the transaction at a place, with its bytes and its proof.
func (n *Node) finalTx(height top.Height, at int) (r api.Tx, err error) {
	rows, err := n.index.rows(height)
	if err != nil {
		return r, err
	}
	block := n.comet.BlockStore().LoadBlock(int64(height))
	if block == nil || at >= len(rows) || at >= len(block.Txs) {
		return r, top.Errorf(top.NotFound, "block %d is not kept here any more", height)
	}
	p, err := proveTx(block, at, outcomes(rows))
	if err != nil {
		return r, err
	}
	r = txRecord(rows[at], height, at, top.TimeOf(block.Time))
	r.Proof = p.Encode()
	r.Raw = api.Bytes(types.Tx(block.Txs[at]))
	return r, nil
}

func outcomes(rows []row) []Outcome {
	os := make([]Outcome, len(rows))
	for i, r := range rows {
		os[i] = r.Outcome
	}
	return os
}
