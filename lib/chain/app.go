package chain

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/store"

	"top/lib/api"
	"top/lib/ledger"
	"top/lib/top"
)

// app is the ledger as CometBFT's application. CometBFT calls it from several
// goroutines; mu makes them one.
type app struct {
	abci.BaseApplication
	chain top.ChainID
	index index
	snaps string // folder of snapshots
	fault *fault
	log   *slog.Logger

	seen seenSet // transactions whose signature was found good

	saving sync.WaitGroup // snapshots under way

	mu      sync.Mutex
	state   *ledger.State // nil before InitChain
	root    top.ID        // of state
	applied top.Height    // last block applied to state
	final   top.Height    // last block committed: applied, or one less for a moment
	head    api.Header    // of the last block begun; its Root is the state before it
	rows    []row         // of the block applied and not yet committed
	entries []entry
	changed chan struct{}       // closed and replaced at every commit
	readers []*reader           // wait for a header that proves the state
	pending map[top.ID]struct{} // in the pool, as far as this node knows
	// the snapshot on disk or under way
	savedAt    top.Height
	savedBytes int // bytes of transactions applied since
	busySaving bool
}

// A reader waits for the header that proves the state as it is now.
type reader struct {
	read func(*ledger.State, api.Header)
	done chan struct{} // closed once read was called
	gone bool          // guarded by app.mu: nobody waits any more
}

// maxReaders bounds those that wait for one block.
const maxReaders = 1024

func newApp(chain top.ChainID, x index, snaps string, f *fault, log *slog.Logger) *app {
	return &app{
		chain: chain, index: x, snaps: snaps, fault: f, log: log,
		changed: make(chan struct{}), pending: map[top.ID]struct{}{},
	}
}

// load takes the newest snapshot that checks and that the index has reached.
// Without one CometBFT replays the chain from its genesis.
func (a *app) load() error {
	limit, err := a.index.height()
	if err != nil {
		return fmt.Errorf("open index: %w", err)
	}
	height, state, skipped, err := loadSnapshot(a.snaps, limit)
	for _, s := range skipped {
		a.log.Warn("snapshot passed over", "err", s)
	}
	if err != nil || state == nil {
		return err
	}
	if p := state.Params(); p.Chain != a.chain {
		return top.Errorf(top.Failed, "the snapshots in %s are of chain %s, the genesis is of %s (remove that folder)", a.snaps, p.Chain, a.chain)
	}
	a.state, a.root = state, state.Root()
	a.applied, a.final, a.savedAt = height, height, height
	return nil
}

// Info tells CometBFT from which block to replay.
func (a *app) Info(context.Context, *abci.RequestInfo) (*abci.ResponseInfo, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &abci.ResponseInfo{Data: "top", Version: top.Version, AppVersion: 1}
	if a.state != nil && a.applied > 0 {
		r.LastBlockHeight = int64(a.applied)
		r.LastBlockAppHash = a.root[:]
	}
	return r, nil
}

// InitChain makes the state of the genesis.
func (a *app) InitChain(_ context.Context, q *abci.RequestInitChain) (*abci.ResponseInitChain, error) {
	g, err := ledger.ParseGenesis(q.AppStateBytes)
	if err != nil {
		return nil, err
	}
	s, err := ledger.New(g)
	if err != nil {
		return nil, err
	}
	if q.ChainId != a.chain.String() || g.Params.Chain != a.chain {
		return nil, fmt.Errorf("genesis of chain %s for chain %s: %w", q.ChainId, a.chain, top.ErrInvalid)
	}
	if err := a.index.add(0, nil, genesisEntries(g), true); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state, a.root = s, s.Root()
	return &abci.ResponseInitChain{AppHash: a.root[:]}, nil
}

// CheckTx says whether a transaction may enter or stay in the pool.
func (a *app) CheckTx(_ context.Context, q *abci.RequestCheckTx) (*abci.ResponseCheckTx, error) {
	id := ledger.ID(q.Tx)
	err := a.check(id, q.Tx)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		delete(a.pending, id)
		k := top.KindOf(err)
		return &abci.ResponseCheckTx{Code: uint32(k.Exit()), Codespace: string(k), Log: err.Error()}, nil
	}
	if len(a.pending) > 2*poolTxs {
		clear(a.pending) // a hint only: it says what a full pool holds already
	}
	a.pending[id] = struct{}{}
	return &abci.ResponseCheckTx{}, nil
}

func (a *app) check(id top.ID, raw []byte) error {
	t, err := a.decode(raw)
	if err != nil {
		return err
	}
	if !a.seen.has(id) {
		if err := t.Verify(); err != nil {
			return err
		}
		a.seen.add(id)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state == nil {
		return top.Errorf(top.Busy, "the node is still starting")
	}
	return a.state.Admit(t, len(raw))
}

// decode checks what needs neither state nor a signature check.
func (a *app) decode(raw []byte) (*ledger.Tx, error) {
	if len(raw) > maxTx {
		return nil, fmt.Errorf("transaction: %d bytes, at most %d: %w", len(raw), maxTx, top.ErrInvalid)
	}
	t, err := ledger.Decode(raw)
	if err != nil {
		return nil, err
	}
	if t.Chain != a.chain {
		return nil, fmt.Errorf("the transaction is for chain %s, this is %s: %w", t.Chain, a.chain, top.ErrDenied)
	}
	return t, nil
}

// ProcessProposal refuses a block only for what any node finds wrong without
// the state: bytes, size, chain and signatures (C3). Nonces, balances and
// expiries are judged when the block is applied.
func (a *app) ProcessProposal(_ context.Context, q *abci.RequestProcessProposal) (*abci.ResponseProcessProposal, error) {
	if err := a.stateless(q.Txs); err != nil {
		a.log.Warn("proposal refused", "height", q.Height, "err", err)
		return &abci.ResponseProcessProposal{Status: abci.ResponseProcessProposal_REJECT}, nil
	}
	return &abci.ResponseProcessProposal{Status: abci.ResponseProcessProposal_ACCEPT}, nil
}

func (a *app) stateless(txs [][]byte) error {
	var unseen []*ledger.Tx
	var ids []top.ID
	for i, raw := range txs {
		t, err := a.decode(raw)
		if err != nil {
			return fmt.Errorf("transaction %d: %w", i, err)
		}
		if id := ledger.ID(raw); !a.seen.has(id) {
			unseen, ids = append(unseen, t), append(ids, id)
		}
	}
	for i, err := range ledger.VerifyBatch(unseen) {
		if err != nil {
			return fmt.Errorf("transaction %s: %w", ids[i].Short(), err)
		}
		a.seen.add(ids[i])
	}
	return nil
}

// FinalizeBlock applies a block that the validators agreed on. Before it does,
// the block's header proves the state as it stands: readers that wait are
// answered (C2).
func (a *app) FinalizeBlock(_ context.Context, q *abci.RequestFinalizeBlock) (*abci.ResponseFinalizeBlock, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.head = api.Header{
		Height: top.Height(q.Height), Time: top.TimeOf(q.Time), Hash: top.ID(q.Hash), Root: a.root,
	}
	a.answerReaders()
	ms := uint64(q.Time.UnixMilli())
	a.rows, a.entries = nil, nil
	a.entries = append(a.entries, unlockEntries(a.state.Begin(top.Height(q.Height), ms), a.head)...)
	results := make([]*abci.ExecTxResult, len(q.Txs))
	txs, errs := a.decodeAll(q.Txs)
	for i, raw := range q.Txs {
		if i%ledger.WarmTxs == 0 {
			a.state.Warm(txs[i:min(i+ledger.WarmTxs, len(txs))])
		}
		r := a.apply(raw, txs[i], errs[i])
		a.rows = append(a.rows, r)
		results[i] = r.Outcome.result()
		results[i].Log, results[i].Codespace = r.Message, r.Error
		a.savedBytes += len(raw)
	}
	a.root = a.state.Root()
	a.applied = top.Height(q.Height)
	return &abci.ResponseFinalizeBlock{TxResults: results, AppHash: a.root[:]}, nil
}

// decodeAll reads the transactions of a block. One that cannot be read is a
// transaction of nothing, and its error.
func (a *app) decodeAll(raws [][]byte) ([]*ledger.Tx, []error) {
	txs, errs := make([]*ledger.Tx, len(raws)), make([]error, len(raws))
	for i, raw := range raws {
		if txs[i], errs[i] = a.decode(raw); errs[i] != nil {
			txs[i] = new(ledger.Tx)
		}
	}
	return txs, errs
}

// apply carries out one transaction of the block.
func (a *app) apply(raw []byte, t *ledger.Tx, err error) row {
	id := ledger.ID(raw)
	delete(a.pending, id)
	if err != nil {
		// Two thirds of the validators let it pass: all the same it must have
		// one result on every node.
		k := top.KindOf(err)
		return row{ID: id, Outcome: Outcome{Code: uint32(k.Exit())}, Error: string(k), Message: err.Error(), Size: uint32(len(raw))}
	}
	r := a.state.Apply(t, len(raw))
	w := row{
		ID: id, Kind: t.Body.Kind().String(), Error: string(r.Kind), Message: r.Message, Size: uint32(len(raw)),
		Outcome: Outcome{Code: r.Code, Fee: r.Fee, Free: r.Free, Paid: r.Paid, Channel: r.Channel},
	}
	if int(t.From) < a.state.Accounts() {
		w.From = a.state.Account(t.From).Key
		a.entries = append(a.entries, txEntries(w, t.From, r.Moves, a.head)...)
	}
	return w
}

// Commit makes the block final for everybody who asks this node.
func (a *app) Commit(context.Context, *abci.RequestCommit) (*abci.ResponseCommit, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.index.add(a.applied, a.rows, a.entries, false); err != nil {
		return nil, err
	}
	a.rows, a.entries = nil, nil
	a.final = a.applied
	close(a.changed)
	a.changed = make(chan struct{})
	if a.final-a.savedAt >= snapshotBlocks || a.savedBytes >= snapshotBytes {
		a.saveLocked()
	}
	return &abci.ResponseCommit{}, nil
}

// saveLocked writes a snapshot in the background, unless one is being written.
func (a *app) saveLocked() {
	if a.busySaving {
		return
	}
	height, root, b := a.final, a.root, a.state.Encode()
	a.busySaving, a.savedBytes, a.savedAt = true, 0, height
	a.saving.Go(func() {
		err := a.index.sync()
		if err == nil {
			err = saveSnapshot(a.snaps, height, root, b)
		}
		if err != nil {
			a.fault.report(err)
		}
		a.mu.Lock()
		a.busySaving = false
		a.mu.Unlock()
	})
}

// close writes a last snapshot, so that the next start replays nothing. CometBFT
// has stopped.
func (a *app) close() {
	a.saving.Wait()
	a.mu.Lock()
	if a.state != nil && a.final == a.applied && a.final > a.savedAt {
		a.saveLocked()
	}
	a.mu.Unlock()
	a.saving.Wait()
}

// seenSet remembers transactions whose signature was found good, so that none
// is checked twice by one node. It forgets the older half when it is full.
type seenSet struct {
	mu       sync.Mutex
	new, old map[top.ID]struct{}
}

const maxSeen = 1 << 16

func (s *seenSet) has(id top.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, n := s.new[id]
	_, o := s.old[id]
	return n || o
}

func (s *seenSet) add(id top.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.new == nil || len(s.new) >= maxSeen {
		s.old, s.new = s.new, make(map[top.ID]struct{})
	}
	s.new[id] = struct{}{}
}

// resume takes the last header that is final from CometBFT's store, once what
// the state was behind is replayed.
func (a *app) resume(bs *store.BlockStore) {
	h := bs.Height()
	if h == 0 {
		return
	}
	meta := bs.LoadBlockMeta(h)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.head = api.Header{
		Height: top.Height(h), Time: top.TimeOf(meta.Header.Time),
		Hash: top.ID(meta.BlockID.Hash), Root: top.ID(meta.Header.AppHash),
	}
}
