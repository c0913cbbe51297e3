package chain

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	dbm "github.com/cometbft/cometbft-db"
	sm "github.com/cometbft/cometbft/state"
	"github.com/cometbft/cometbft/store"
	"github.com/cometbft/cometbft/types"

	"top/lib/api"
	"top/lib/home"
	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/top"
)

// Verify replays the blocks that a home keeps, from the genesis or from the oldest
// snapshot that they follow on, and compares all that is said twice: each block with
// its hash and the one before it, its votes with its validators, its root and its
// results with what carrying it out gives, the last state with the invariants of the
// ledger. With signatures it checks those of every transaction too. The node must not
// run. each is called after every block.
func Verify(ctx context.Context, dir home.Dir, signatures bool, each func(at, last top.Height)) (r api.Verified, err error) {
	raw, err := LoadGenesis(dir)
	if err != nil {
		return r, err
	}
	g, err := ParseGenesis(raw)
	if err != nil {
		return r, err
	}
	f := files{dir}
	release, err := home.Lock(f.lock())
	if err != nil {
		return r, fmt.Errorf("a node runs on %s (stop it, or verify a copy): %w", dir, err)
	}
	defer release()
	blocks, err := dbm.NewDB("blockstore", dbm.GoLevelDBBackend, f.data())
	if err != nil {
		return r, fmt.Errorf("open blocks: %w", err)
	}
	defer blocks.Close()
	states, err := dbm.NewDB("state", dbm.GoLevelDBBackend, f.data())
	if err != nil {
		return r, fmt.Errorf("open validators: %w", err)
	}
	defer states.Close()
	v := &verifier{
		chain: g.Chain, signatures: signatures, blocks: store.NewBlockStore(blocks),
		states: sm.NewStore(states, sm.StoreOptions{}),
	}
	if err := v.begin(g.Ledger, f.state()); err != nil {
		return r, err
	}
	from, last := v.at+1, top.Height(v.blocks.Height())
	for v.at < last {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		if err := v.next(); err != nil {
			return r, fmt.Errorf("block %s: %w", v.at+1, err)
		}
		each(v.at, last)
	}
	if err := v.state.Check(); err != nil {
		return r, top.Errorf(top.Failed, "the state after block %s: %v", v.at, err)
	}
	return api.Verified{
		Type: "verified", Chain: g.Chain, From: from, Height: v.at, Root: v.state.Root(), Signatures: signatures,
		Txs: top.Count(v.txs), Failed: top.Count(v.failed), Supply: v.state.Supply(), Minted: v.state.Minted(), Burned: v.state.Burned(), Accounts: top.Count(v.state.Accounts()),
	}, nil
}

type verifier struct {
	chain      top.ChainID
	signatures bool
	blocks     *store.BlockStore
	states     sm.Store
	ring       keys.Ring

	at      top.Height // the block carried out last
	state   *ledger.State
	id      types.BlockID // of that block; zero when it is not kept
	results []byte        // hash of what became of its transactions; nil when it is not kept

	txs, failed uint64
}

// begin takes the state before the first block that is kept.
func (v *verifier) begin(g ledger.Genesis, snaps string) (err error) {
	base := top.Height(v.blocks.Base())
	if base == 0 {
		return top.Errorf(top.NotFound, "there is no block yet")
	}
	if base == 1 {
		v.state, err = ledger.New(g)
		v.results = types.ABCIResults(nil).Hash()
		return err
	}
	names, err := snapshots(snaps)
	if err != nil {
		return err
	}
	for _, name := range names {
		h, err := snapshotHeight(name)
		if err != nil || h+1 < base {
			continue
		}
		height, state, err := readSnapshot(name)
		if err != nil {
			return err
		}
		v.at, v.state = height, state // the names are newest first: the oldest that fits stays
	}
	if v.state == nil {
		return top.Errorf(top.NotFound, "blocks are kept from %s on, and no snapshot of the state before them", base)
	}
	return nil
}

// next carries out one block. CometBFT panics on what it cannot read.
func (v *verifier) next() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = top.Errorf(top.Failed, "it cannot be read: %v", p)
		}
	}()
	h := int64(v.at + 1)
	block, meta := v.blocks.LoadBlock(h), v.blocks.LoadBlockMeta(h)
	commit := v.blocks.LoadBlockCommit(h)
	if commit == nil {
		commit = v.blocks.LoadSeenCommit(h)
	}
	if block == nil || meta == nil || commit == nil {
		return top.Errorf(top.Failed, "it is not complete here")
	}
	if err := block.ValidateBasic(); err != nil {
		return top.Errorf(top.Failed, "it contradicts itself: %v", err)
	}
	root := v.state.Root()
	switch {
	case !bytes.Equal(block.Hash(), meta.BlockID.Hash) || !bytes.Equal(meta.Header.Hash(), block.Hash()):
		return top.Errorf(top.Failed, "its hash is %s, it was kept as %s", block.Hash(), meta.BlockID.Hash)
	case !v.id.IsZero() && !block.LastBlockID.Equals(v.id):
		return top.Errorf(top.Failed, "it follows another block than %s", v.at)
	case !bytes.Equal(block.AppHash, root[:]):
		return top.Errorf(top.Failed, "the validators signed root %s, carrying out the blocks gives %s", block.AppHash, root)
	case v.results != nil && !bytes.Equal(block.LastResultsHash, v.results):
		return top.Errorf(top.Failed, "the validators signed other results of block %s", v.at)
	}
	vals, err := v.states.LoadValidators(h)
	if err != nil {
		return fmt.Errorf("its validators: %w", err)
	}
	if !bytes.Equal(vals.Hash(), block.ValidatorsHash) {
		return top.Errorf(top.Failed, "its validators are not those that are kept here")
	}
	if err := vals.VerifyCommitLight(v.chain.String(), meta.BlockID, h, commit); err != nil {
		return top.Errorf(top.Failed, "its votes: %v", err)
	}
	if err := v.apply(block); err != nil {
		return err
	}
	v.at, v.id = v.at+1, meta.BlockID
	return nil
}

func (v *verifier) apply(block *types.Block) error {
	v.state.Begin(top.Height(block.Height), uint64(block.Time.UnixMilli()))
	observe(v.state, votesOf(block), block.ProposerAddress, block.Evidence.Evidence.ToABCI())
	var leaves leafList
	for _, raw := range block.Txs {
		b, err := ledger.DecodeBundle(raw, v.chain)
		if err != nil {
			continue // nothing of it is carried out
		}
		if v.signatures {
			if err := errors.Join(ledger.VerifyBatch(b, &v.ring)...); err != nil {
				return err
			}
		}
		for _, s := range b {
			r := v.state.Apply(s.Tx, len(s.Raw))
			leaves.add(s.ID, outcomeOf(r))
			v.txs++
			if r.Code != 0 {
				v.failed++
			}
		}
	}
	v.state.End()
	if next, err := v.states.LoadValidators(block.Height + 2); err == nil {
		if err := checkNext(v.state, next); err != nil {
			return err
		}
	}
	v.results = types.NewResults(results(len(block.Txs), leaves.all)).Hash()
	return nil
}
