package chain

import (
	"github.com/cometbft/cometbft/types"

	"top/lib/api"
	"top/lib/sock"
	"top/lib/top"
)

// events streams every block after since, each followed by its transactions,
// and goes on with new ones. It reads them from disk at the reader's pace: a slow
// reader delays nobody and misses nothing, and may resume from any height. Only
// blocks that are not kept any more are a gap.
func (n *Node) events(c *sock.Call) error {
	s, err := c.Count("since")
	if err != nil {
		return err
	}
	since := top.Height(s)
	if c.Query("since") == "" {
		since = n.app.lastHead().Height
	}
	c.Begin()
	if first := n.index.first(); since+1 < first {
		lost := first - since - 1
		if err := c.Record(map[string]any{"type": "gap", "lost": top.Count(lost)}); err != nil {
			return err
		}
		since += lost
	}
	for {
		final, err := n.app.wait(c.Context(), since)
		if err != nil {
			return nil // the reader left, or the node stops
		}
		for since < final {
			since++
			if err := n.event(c, since); err != nil {
				return err
			}
		}
	}
}

// event writes one block and its transactions.
func (n *Node) event(c *sock.Call, h top.Height) error {
	header, err := n.headerAt(h)
	if err != nil {
		return c.Record(map[string]any{"type": "gap", "lost": top.Count(1)})
	}
	at := top.TimeOf(header.Time)
	rows, err := n.index.rows(h)
	if err != nil {
		return err
	}
	err = c.Record(api.Event{
		Type: "block", Height: h, Time: at, Hash: top.ID(header.Hash()), Root: top.ID(header.AppHash), Txs: len(rows),
	})
	if err != nil {
		return err
	}
	for i, r := range rows {
		if err := c.Record(txRecord(r, h, i, at)); err != nil {
			return err
		}
	}
	return nil
}

// headerAt is the header of a block, from the blocks that are kept or the archive.
func (n *Node) headerAt(h top.Height) (*types.Header, error) {
	if meta := n.comet.BlockStore().LoadBlockMeta(int64(h)); meta != nil {
		return &meta.Header, nil
	}
	k, err := n.archive.block(h)
	if err != nil {
		return nil, err
	}
	return k.signed.Header, nil
}
