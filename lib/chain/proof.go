package chain

import (
	"bytes"
	"fmt"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/crypto/merkle"
	"github.com/cometbft/cometbft/types"

	"top/lib/top"
	"top/lib/wire"
)

// A TxProof proves that a transaction stands in the block at Height and what
// became of it, against two headers: the block's (DataHash) and the next one's
// (LastResultsHash). docs/wire.md, "Transaction proof".
type TxProof struct {
	ID      top.ID // of the transaction
	Height  top.Height
	Index   uint32 // within the block
	Total   uint32 // transactions in the block
	Outcome Outcome
	InBlock [][]byte // from the transaction up to DataHash
	InNext  [][]byte // from the outcome up to the next header's LastResultsHash
}

// An Outcome is the part of a transaction's result that the validators agree
// upon.
type Outcome struct {
	Code    uint32 // the exit code of the kind; 0 is done
	Fee     top.Amount
	Free    bool       // paid from the allowance
	Paid    top.Amount // by a claim or a close, to the provider
	Channel *top.ID    // opened, claimed or closed
}

const (
	maxAunts   = 40 // levels of a Merkle tree of any block
	maxOutcome = 128
	maxTxProof = 8 << 10
)

// data is the outcome without its code, which ABCI carries beside it.
func (o Outcome) data() []byte {
	var e wire.Encoder
	e.Amount(o.Fee)
	e.Bool(o.Free)
	e.Amount(o.Paid)
	e.Bool(o.Channel != nil)
	if o.Channel != nil {
		e.Raw(o.Channel[:])
	}
	return e.Out()
}

func decodeOutcome(code uint32, data []byte) (Outcome, error) {
	d := wire.Decode(data, maxOutcome)
	o := Outcome{Code: code, Fee: d.Amount(), Free: d.Bool(), Paid: d.Amount()}
	if d.Bool() {
		id := d.ID()
		o.Channel = &id
	}
	return o, d.End()
}

// result is the outcome as ABCI hashes it.
func (o Outcome) result() *abci.ExecTxResult {
	return &abci.ExecTxResult{Code: o.Code, Data: o.data()}
}

// Encode is the canonical form.
func (p TxProof) Encode() []byte {
	var e wire.Encoder
	e.Raw(p.ID[:])
	e.Uint(uint64(p.Height))
	e.Uint(uint64(p.Index))
	e.Uint(uint64(p.Total))
	e.Uint(uint64(p.Outcome.Code))
	e.Bytes(p.Outcome.data())
	for _, path := range [][][]byte{p.InBlock, p.InNext} {
		e.Uint(uint64(len(path)))
		for _, h := range path {
			e.Raw(h)
		}
	}
	return e.Out()
}

// DecodeTxProof reads the canonical form.
func DecodeTxProof(b []byte) (p TxProof, err error) {
	d := wire.Decode(b, maxTxProof)
	p.ID = d.ID()
	p.Height = top.Height(d.Uint())
	p.Index, p.Total = d.Uint32(), d.Uint32()
	code, data := d.Uint32(), d.Bytes(maxOutcome)
	for _, path := range []*[][]byte{&p.InBlock, &p.InNext} {
		for range d.Count(maxAunts, 32) {
			*path = append(*path, d.Raw(32))
		}
	}
	if p.Index >= p.Total {
		d.Fail("index %d of %d", p.Index, p.Total)
	}
	if err := d.End(); err != nil {
		return TxProof{}, err
	}
	if p.Outcome, err = decodeOutcome(code, data); err != nil {
		return TxProof{}, err
	}
	return p, nil
}

// Verify checks the proof against the header at p.Height and the one after it,
// which the caller has verified.
func (p TxProof) Verify(at, next *types.Header) error {
	if at.Height != int64(p.Height) || next.Height != at.Height+1 {
		return fmt.Errorf("transaction %s: headers %d and %d for height %d: %w", p.ID.Short(), at.Height, next.Height, p.Height, top.ErrFailed)
	}
	if err := p.proof(p.InBlock).Verify(at.DataHash, p.ID[:]); err != nil {
		return fmt.Errorf("transaction %s is not in block %d: %v: %w", p.ID.Short(), p.Height, err, top.ErrFailed)
	}
	leaf, err := p.Outcome.result().Marshal()
	if err != nil {
		return fmt.Errorf("transaction %s: %w", p.ID.Short(), err)
	}
	sp := p.proof(p.InNext)
	sp.LeafHash = merkle.HashFromByteSlices([][]byte{leaf})
	if err := sp.Verify(next.LastResultsHash, leaf); err != nil {
		return fmt.Errorf("transaction %s: its result is not that of block %d: %v: %w", p.ID.Short(), p.Height, err, top.ErrFailed)
	}
	return nil
}

// proof is a path in CometBFT's form, for the leaf p.ID.
func (p TxProof) proof(path [][]byte) *merkle.Proof {
	return &merkle.Proof{
		Total: int64(p.Total), Index: int64(p.Index), Aunts: path,
		LeafHash: merkle.HashFromByteSlices([][]byte{p.ID[:]}),
	}
}

// proveTx builds the proof of transaction index of a block.
func proveTx(block *types.Block, index int, outcomes []Outcome) (TxProof, error) {
	if len(outcomes) != len(block.Txs) || index >= len(outcomes) {
		return TxProof{}, fmt.Errorf("prove transaction %d of block %d: %d results for %d transactions: %w",
			index, block.Height, len(outcomes), len(block.Txs), top.ErrFailed)
	}
	results := make(types.ABCIResults, len(outcomes))
	for i, o := range outcomes {
		results[i] = o.result()
	}
	in := block.Txs.Proof(index)
	if !bytes.Equal(in.RootHash, block.DataHash) {
		return TxProof{}, fmt.Errorf("prove transaction %d of block %d: the block's data hash differs: %w", index, block.Height, top.ErrFailed)
	}
	next := results.ProveResult(index)
	return TxProof{
		ID: top.ID(block.Txs[index].Hash()), Height: top.Height(block.Height),
		Index: uint32(index), Total: uint32(len(block.Txs)), Outcome: outcomes[index],
		InBlock: in.Proof.Aunts, InNext: next.Aunts,
	}, nil
}
