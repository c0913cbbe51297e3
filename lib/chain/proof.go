package chain

import (
	"fmt"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/crypto/merkle"
	"github.com/cometbft/cometbft/types"

	"top/lib/ledger"
	"top/lib/top"
	"top/lib/wire"
)

// A TxProof proves what became of a transaction of the block at Height, against
// the next header's LastResultsHash: the validators signed there that a transaction
// of this name was carried out with this outcome. docs/wire.md, "Transaction proof".
type TxProof struct {
	ID      top.ID // of the transaction
	Height  top.Height
	Index   uint32 // within the block
	Total   uint32 // transactions in the block
	Bundles uint32 // in which they came
	Outcome Outcome
	Root    top.ID   // of the block's results
	InBlock [][]byte // from name and outcome up to Root
	InNext  [][]byte // from Root up to the next header's LastResultsHash
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

func outcomeOf(r ledger.Result) Outcome {
	return Outcome{Code: r.Code, Fee: r.Fee, Free: r.Free, Paid: r.Paid, Channel: r.Channel}
}

const (
	maxAunts   = 40 // levels of a Merkle tree of any block
	maxOutcome = 128
	maxTxProof = 8 << 10
)

// data is the outcome without its code, which ABCI carries beside it.
func (o Outcome) data() []byte {
	var e wire.Encoder
	o.put(&e)
	return e.Out()
}

func (o Outcome) put(e *wire.Encoder) {
	e.Amount(o.Fee)
	e.Bool(o.Free)
	e.Amount(o.Paid)
	e.Bool(o.Channel != nil)
	if o.Channel != nil {
		e.Raw(o.Channel[:])
	}
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

// leaf is one transaction's leaf in the tree of a block's results.
func leaf(id top.ID, o Outcome) []byte {
	var l leafList
	l.add(id, o)
	return l.all[0]
}

// A leafList is leaves that share their memory.
type leafList struct {
	all  [][]byte
	room []byte
}

func (l *leafList) add(id top.ID, o Outcome) {
	if cap(l.room)-len(l.room) < 32+maxOutcome {
		l.room = make([]byte, 0, 16<<10)
	}
	at := len(l.room)
	e := wire.To(l.room)
	e.Raw(id[:])
	e.Uint(uint64(o.Code))
	o.put(e)
	l.room = e.Out()
	l.all = append(l.all, l.room[at:len(l.room):len(l.room)])
}

// blockResult is what ABCI is told of a block's first bundle: how many transactions
// the block holds, and the root over what became of them (RFC 6962). Of the other
// bundles there is nothing to tell.
func blockResult(total uint32, root []byte) *abci.ExecTxResult {
	var e wire.Encoder
	e.Uint(uint64(total))
	e.Raw(root)
	return &abci.ExecTxResult{Data: e.Out()}
}

// results is what ABCI is told of the bundles of a block.
func results(bundles int, leaves [][]byte) []*abci.ExecTxResult {
	rs := make([]*abci.ExecTxResult, bundles)
	for i := range rs {
		rs[i] = &abci.ExecTxResult{}
	}
	if bundles > 0 {
		rs[0] = blockResult(uint32(len(leaves)), merkle.HashFromByteSlices(leaves))
	}
	return rs
}

// Encode is the canonical form.
func (p TxProof) Encode() []byte {
	var e wire.Encoder
	e.Raw(p.ID[:])
	e.Uint(uint64(p.Height))
	e.Uint(uint64(p.Index))
	e.Uint(uint64(p.Total))
	e.Uint(uint64(p.Bundles))
	e.Uint(uint64(p.Outcome.Code))
	e.Bytes(p.Outcome.data())
	e.Raw(p.Root[:])
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
	p.Index, p.Total, p.Bundles = d.Uint32(), d.Uint32(), d.Uint32()
	code, data := d.Uint32(), d.Bytes(maxOutcome)
	p.Root = d.ID()
	for _, path := range []*[][]byte{&p.InBlock, &p.InNext} {
		for range d.Count(maxAunts, 32) {
			*path = append(*path, d.Raw(32))
		}
	}
	if p.Index >= p.Total || p.Bundles == 0 || p.Bundles > p.Total {
		d.Fail("index %d of %d in %d bundles", p.Index, p.Total, p.Bundles)
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
	l := leaf(p.ID, p.Outcome)
	if err := path(p.InBlock, p.Index, p.Total, l).Verify(p.Root[:], l); err != nil {
		return fmt.Errorf("transaction %s: its result is not that of block %d: %v: %w", p.ID.Short(), p.Height, err, top.ErrFailed)
	}
	block, err := blockResult(p.Total, p.Root[:]).Marshal()
	if err != nil {
		return fmt.Errorf("transaction %s: %w", p.ID.Short(), err)
	}
	if err := path(p.InNext, 0, p.Bundles, block).Verify(next.LastResultsHash, block); err != nil {
		return fmt.Errorf("transaction %s: its result is not that of block %d: %v: %w", p.ID.Short(), p.Height, err, top.ErrFailed)
	}
	return nil
}

// path is a path in CometBFT's form.
func path(aunts [][]byte, index, total uint32, leaf []byte) *merkle.Proof {
	return &merkle.Proof{
		Total: int64(total), Index: int64(index), Aunts: aunts,
		LeafHash: merkle.HashFromByteSlices([][]byte{leaf}),
	}
}

// proveTx builds the proof of transaction index of a block that came in so many
// bundles.
func proveTx(height top.Height, bundles, index int, ids []top.ID, outcomes []Outcome) (TxProof, error) {
	if len(outcomes) != len(ids) || index >= len(outcomes) || bundles == 0 {
		return TxProof{}, fmt.Errorf("prove transaction %d of block %d: %d results for %d transactions: %w",
			index, height, len(outcomes), len(ids), top.ErrFailed)
	}
	leaves := make([][]byte, len(ids))
	for i, id := range ids {
		leaves[i] = leaf(id, outcomes[i])
	}
	root, in := merkle.ProofsFromByteSlices(leaves)
	next := types.NewResults(results(bundles, leaves)).ProveResult(0)
	return TxProof{
		ID: ids[index], Height: height, Index: uint32(index), Total: uint32(len(ids)), Bundles: uint32(bundles), Root: top.ID(root),
		Outcome: outcomes[index], InBlock: in[index].Aunts, InNext: next.Aunts,
	}, nil
}
