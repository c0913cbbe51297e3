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
	"top/lib/pool"
	"top/lib/sock"
	"top/lib/top"
)

// maxSubmit bounds the body of a submit: a transaction of ledger.MaxTx bytes in JSON.
const maxSubmit = 2 * ledger.MaxTx

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
	if err := n.enter(c.Context(), id, q.Tx); err != nil {
		return err
	}
	return c.JSON(api.Submitted{Type: "submitted", ID: id})
}

func (n *Node) enter(ctx context.Context, id top.ID, raw []byte) error {
	s, err := ledger.Read(raw)
	if err != nil {
		return err
	}
	told := make(taken, 1)
	n.app.pool.Add([]pool.Item{{Signed: s}}, told)
	select {
	case err := <-told:
		if errors.Is(err, top.ErrDenied) { // its nonce may be used by itself
			if _, _, final, e := n.index.find(id); e == nil && final {
				return nil
			}
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// taken is a pool.Watcher of one transaction that asks whether it was taken.
type taken chan error

// Taken is for pool.
func (t taken) Taken(_ uint64, err error) { t <- err }

// Final is for pool.
func (taken) Final(uint64, top.Height, uint32) {}

// hand gives a bundle that the pool verified to CometBFT.
func (n *Node) hand(bundle []byte) error {
	var verdict *abci.ResponseCheckTx
	err := n.comet.Mempool().CheckTx(bundle, func(r *abci.ResponseCheckTx) { verdict = r }, mempool.TxInfo{})
	var full mempool.ErrMempoolIsFull
	switch {
	case errors.Is(err, mempool.ErrTxInCache):
		return nil
	case errors.As(err, &full):
		return top.Errorf(top.Busy, "the pool of bundles is full")
	case err != nil:
		return top.Errorf(top.Failed, "the pool did not take the bundle: %v", err)
	case verdict == nil:
		return top.Errorf(top.Failed, "the pool gave no answer")
	case verdict.Code != abci.CodeTypeOK:
		return top.Errorf(top.Kind(verdict.Codespace), "%s", verdict.Log)
	}
	return nil
}

// maxWait bounds how long one call waits for a transaction.
const maxWait = 5 * time.Minute

// tx answers what became of a transaction, with the proof that it stands in its
// block and that this was its result.
func (n *Node) tx(c *sock.Call) error {
	id, wait, at, err := txArg(c)
	if err != nil {
		return err
	}
	if at != (place{}) {
		r, err := n.finalTx(at.height, int(at.at))
		if err == nil && r.ID != id {
			err = top.Errorf(top.NotFound, "transaction %s is not number %d of block %s", id, at.at, at.height)
		}
		if err != nil {
			return err
		}
		return c.JSON(r)
	}
	ctx, cancel := context.WithTimeout(c.Context(), wait)
	defer cancel()
	height, index, err := n.await(ctx, id)
	if err != nil {
		if c.Context().Err() != nil {
			return c.Context().Err()
		}
		return err
	}
	r, err := n.finalTx(height, index)
	if err != nil {
		return err
	}
	return c.JSON(r)
}

// txArg is the transaction that a call names, how long it would wait, and where it is
// to stand when the call says it: a transaction may stand in several blocks, though it
// changes something in one at most.
func txArg(c *sock.Call) (id top.ID, wait time.Duration, at place, err error) {
	if id, err = top.ParseID(c.Arg("id")); err != nil {
		return id, 0, at, err
	}
	if wait, err = waitArg(c); err != nil {
		return id, 0, at, err
	}
	height, err := c.Count("height")
	if err != nil {
		return id, 0, at, err
	}
	index, err := c.Count("index")
	if err == nil && index > maxRows {
		err = top.Errorf(top.Invalid, "index=%d: no block has so many transactions", index)
	}
	return id, wait, place{top.Height(height), uint32(index)}, err
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
			if n.app.pool.Has(id) {
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
	block, k := n.comet.BlockStore().LoadBlock(int64(height)), kept{}
	if block != nil {
		k = kept{len(block.Txs), &types.SignedHeader{Header: &block.Header}}
	} else if k, err = n.archive.block(height); err != nil {
		return r, err
	}
	if at >= len(rows) {
		return r, top.Errorf(top.NotFound, "block %d is not in the index", height)
	}
	ids, outcomes := make([]top.ID, len(rows)), make([]Outcome, len(rows))
	for i, r := range rows {
		ids[i], outcomes[i] = r.ID, r.Outcome
	}
	p, err := proveTx(height, k.bundles, at, ids, outcomes)
	if err != nil {
		return r, err
	}
	r = txRecord(rows[at], height, at, top.TimeOf(k.signed.Time))
	r.Proof = p.Encode()
	if block == nil {
		raw, err := n.archive.batch(height, uint32(at))
		r.Raw = raw
		return r, err
	}
	r.Raw, err = n.rawTx(block, at)
	return r, err
}

// rawAt is the bytes of a transaction that is final.
func (n *Node) rawAt(height top.Height, at uint32) ([]byte, error) {
	block := n.comet.BlockStore().LoadBlock(int64(height))
	if block != nil {
		return n.rawTx(block, int(at))
	}
	raw, err := n.archive.batch(height, at)
	if err == nil && raw == nil {
		err = top.Errorf(top.NotFound, "block %d is not kept here any more", height)
	}
	return raw, err
}

// rawTx is the bytes of one transaction of a block.
func (n *Node) rawTx(block *types.Block, at int) (api.Bytes, error) {
	for _, raw := range block.Txs {
		b, err := ledger.DecodeBundle(raw, n.genesis.Chain)
		switch {
		case err != nil: // nothing of it was carried out
		case at < len(b):
			return api.Bytes(b[at].Raw), nil
		default:
			at -= len(b)
		}
	}
	return nil, top.Errorf(top.Failed, "block %d and the index differ", block.Height)
}
