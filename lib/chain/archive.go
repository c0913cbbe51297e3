package chain

import (
	"fmt"

	dbm "github.com/cometbft/cometbft-db"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	"github.com/cometbft/cometbft/types"

	"top/lib/ledger"
	"top/lib/top"
	"top/lib/wire"
)

// A node that keeps the transactions of the last blocks alone (Config.Keep) archives
// what proofs need of those before: headers, votes and validators, by which an old
// header and the outcome of any old transaction are proven still, and batches, which
// alone say how much each of their payments was.
//
//	h HEIGHT         bundles in the block, header and votes
//	v HASH           validators
//	t HEIGHT PLACE   a batch
type archive struct{ db dbm.DB }

// pruneStep is how many blocks are let go at once.
const pruneStep = 50

// A kept is what remains of a block.
type kept struct {
	bundles int
	signed  *types.SignedHeader
}

// prune archives the blocks that are not to be kept and gives the first that is; 0
// when it is not worth it yet. Blocks after the older snapshot stay: a node begins
// again from there.
func (n *Node) prune(final top.Height) (retain top.Height, err error) {
	if n.cfg.Keep == 0 || n.comet == nil { // without: what it was behind is replayed
		return 0, nil
	}
	base := top.Height(n.comet.BlockStore().Base())
	if final < base+n.cfg.Keep+pruneStep {
		return 0, nil
	}
	names, err := snapshots(n.files.state())
	if err != nil || len(names) < keepSnapshots {
		return 0, err
	}
	oldest, err := snapshotHeight(names[len(names)-1])
	if err != nil {
		return 0, err
	}
	if retain = min(final-n.cfg.Keep, oldest+1); retain < base+pruneStep {
		return 0, nil
	}
	batch := n.archive.db.NewBatch()
	defer batch.Close()
	for h := base; h < retain; h++ {
		if err := n.keep(batch, h); err != nil {
			return 0, fmt.Errorf("archive block %s: %w", h, err)
		}
	}
	return retain, batch.WriteSync()
}

// keep archives one block.
func (n *Node) keep(batch dbm.Batch, h top.Height) error {
	lb, err := n.lightBlock(h)
	if err != nil {
		return err
	}
	block := n.comet.BlockStore().LoadBlock(int64(h))
	if block == nil {
		return top.Errorf(top.Failed, "it is not complete here")
	}
	sh, err := lb.SignedHeader.ToProto().Marshal()
	if err != nil {
		return err
	}
	var e wire.Encoder
	e.Uint(uint64(len(block.Txs)))
	e.Raw(sh)
	if err := batch.Set(key("h", be64(uint64(h))), e.Out()); err != nil {
		return err
	}
	vals, err := lb.ValidatorSet.ToProto()
	if err != nil {
		return err
	}
	v, err := vals.Marshal()
	if err != nil {
		return err
	}
	if err := batch.Set(key("v", lb.ValidatorsHash), v); err != nil {
		return err
	}
	at := uint32(0)
	for _, raw := range block.Txs {
		b, err := ledger.DecodeBundle(raw, n.genesis.Chain)
		if err != nil {
			continue // nothing of it was carried out
		}
		for _, s := range b {
			if s.Body.Kind() == ledger.KindBatch {
				if err := batch.Set(key("t", be64(uint64(h)), be32(at)), s.Raw); err != nil {
					return err
				}
			}
			at++
		}
	}
	return nil
}

// block is what remains of a block; top.ErrNotFound when nothing does.
func (a *archive) block(h top.Height) (k kept, err error) {
	v, err := a.db.Get(key("h", be64(uint64(h))))
	if err != nil {
		return k, fmt.Errorf("block %s in the archive: %w", h, err)
	}
	if v == nil {
		return k, top.Errorf(top.NotFound, "block %s is not kept here any more", h)
	}
	d := wire.Decode(v, len(v))
	k.bundles = int(d.Uint())
	var p cmtproto.SignedHeader
	if err := p.Unmarshal(d.Rest()); err != nil {
		return k, fmt.Errorf("block %s in the archive: %w", h, err)
	}
	k.signed, err = types.SignedHeaderFromProto(&p)
	return k, err
}

// lightBlock is a block's header with its votes and validators.
func (a *archive) lightBlock(h top.Height) (*types.LightBlock, error) {
	k, err := a.block(h)
	if err != nil {
		return nil, err
	}
	v, err := a.db.Get(key("v", k.signed.ValidatorsHash))
	if err != nil {
		return nil, fmt.Errorf("validators of block %s in the archive: %w", h, err)
	}
	var p cmtproto.ValidatorSet
	if err := p.Unmarshal(v); err != nil {
		return nil, fmt.Errorf("validators of block %s in the archive: %w", h, err)
	}
	vals, err := types.ValidatorSetFromProto(&p)
	if err != nil {
		return nil, fmt.Errorf("validators of block %s in the archive: %w", h, err)
	}
	return &types.LightBlock{SignedHeader: k.signed, ValidatorSet: vals}, nil
}

// batch is the bytes of a batch; nil when none stands there.
func (a *archive) batch(h top.Height, at uint32) ([]byte, error) {
	return a.db.Get(key("t", be64(uint64(h)), be32(at)))
}
