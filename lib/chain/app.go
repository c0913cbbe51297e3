package chain

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/store"

	"top/lib/api"
	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/pool"
	"top/lib/top"
)

// app is the ledger as CometBFT's application. CometBFT calls it from several
// goroutines; mu makes them one.
type app struct {
	abci.BaseApplication
	chain top.ChainID
	index *index
	snaps string // folder of snapshots
	fault *fault
	log   *slog.Logger

	pool    *pool.Pool
	hand    func([]byte) error      // gives a bundle to CometBFT; set before it starts
	gossip  *gossip                 // nil while nothing is told to peers
	propose func([][]byte) [][]byte // Config.propose
	between func()                  // called before each block; nil while CometBFT replays
	leaving atomic.Bool             // the node stops

	payers keys.Ring      // of claims
	saving sync.WaitGroup // snapshots under way

	mu      sync.Mutex
	state   *ledger.State // nil before InitChain
	root    top.ID        // of state
	applied top.Height    // last block applied to state
	final   top.Height    // last block committed: applied, or one less for a moment
	head    api.Header    // of the last block begun; its Root is the state before it
	block   blockRows     // applied and not yet committed
	changed chan struct{} // closed and replaced at every commit
	readers []*reader     // wait for a header that proves the state
	bundles []top.ID      // of the block applied and not yet committed
	offered *offered      // by peers, to a node without state
	synced  func() error  // called once a block after a peer's snapshot is final; nil otherwise
	every   top.Height
	prune   func(final top.Height) (retain top.Height, err error)
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

func newApp(chain top.ChainID, x *index, snaps string, f *fault, log *slog.Logger) *app {
	a := &app{chain: chain, index: x, snaps: snaps, fault: f, log: log, every: snapshotBlocks, prune: func(top.Height) (top.Height, error) { return 0, nil }, changed: make(chan struct{})}
	a.pool = pool.New(pool.Config{Chain: chain, Admit: a.admit, Hand: func(b []byte) error { return a.hand(b) }, Spread: a.spread, Log: log})
	return a
}

// load takes the newest snapshot that checks and that the index has reached.
// Without one CometBFT replays the chain from its genesis.
func (a *app) load() error {
	height, state, skipped, err := loadSnapshot(a.snaps, a.index.height())
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
	if err := a.index.add(0, blockRows{timeMs: g.Time * 1000, entries: genesisEntries(g)}, true); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state, a.root = s, s.Root()
	return &abci.ResponseInitChain{AppHash: a.root[:]}, nil
}

// Query is for CometBFT, which asks so whether a peer may connect. When the node stops
// nobody may: of a peer that comes then CometBFT keeps the connection, which nobody
// reads, and the peer refuses this node, come back, until it notices after a minute.
func (a *app) Query(context.Context, *abci.RequestQuery) (*abci.ResponseQuery, error) {
	r := &abci.ResponseQuery{}
	if a.leaving.Load() {
		r.Code, r.Log = 1, "the node stops"
	}
	return r, nil
}

// spread tells the peers of a bundle.
func (a *app) spread(id top.ID, own bool) {
	if a.gossip != nil {
		a.gossip.spread(id, own)
	}
}

// CheckTx says whether a bundle may wait for a block: one that the pool checked.
func (a *app) CheckTx(_ context.Context, q *abci.RequestCheckTx) (*abci.ResponseCheckTx, error) {
	if err := a.pool.Check(q.Tx); err != nil {
		k := top.KindOf(err)
		return &abci.ResponseCheckTx{Code: uint32(k.Exit()), Codespace: string(k), Log: err.Error()}, nil
	}
	return &abci.ResponseCheckTx{}, nil
}

// admit is what the state says of transactions that are to wait, for pool.Config.
func (a *app) admit(all []ledger.Signed, sizes []int) ([]error, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state == nil {
		return nil, top.Errorf(top.Busy, "the node is still starting")
	}
	if u := a.state.Unproven(all); !u.None() {
		a.mu.Unlock() // consensus does not wait for it
		u.Prove(&a.payers)
		a.mu.Lock()
		u.Note()
	}
	errs := make([]error, len(all))
	for i, s := range all {
		errs[i] = a.state.Admit(s.Tx, sizes[i])
	}
	return errs, nil
}

// PrepareProposal proposes what waits, as far as a block holds it.
func (a *app) PrepareProposal(ctx context.Context, q *abci.RequestPrepareProposal) (*abci.ResponsePrepareProposal, error) {
	if a.propose != nil {
		q.Txs = a.propose(q.Txs)
	}
	return a.BaseApplication.PrepareProposal(ctx, q)
}

// ProcessProposal refuses a block only for what any node finds wrong without
// the state: bytes, size, chain and signatures (C3). Nonces, balances and
// expiries are judged when the block is applied.
func (a *app) ProcessProposal(_ context.Context, q *abci.RequestProcessProposal) (*abci.ResponseProcessProposal, error) {
	if err := a.pool.Proposed(q.Txs); err != nil {
		a.log.Warn("proposal refused", "height", q.Height, "err", err)
		return &abci.ResponseProcessProposal{Status: abci.ResponseProcessProposal_REJECT}, nil
	}
	return &abci.ResponseProcessProposal{Status: abci.ResponseProcessProposal_ACCEPT}, nil
}

// FinalizeBlock applies a block that the validators agreed on. Before it does,
// the block's header proves the state as it stands: readers that wait are
// answered (C2).
func (a *app) FinalizeBlock(_ context.Context, q *abci.RequestFinalizeBlock) (*abci.ResponseFinalizeBlock, error) {
	if a.between != nil {
		a.between()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.head = api.Header{
		Height: top.Height(q.Height), Time: top.TimeOf(q.Time), Hash: top.ID(q.Hash), Root: a.root,
	}
	a.answerReaders()
	ms := uint64(q.Time.UnixMilli())
	a.block, a.bundles = blockRows{timeMs: ms}, nil
	a.block.entries = backEntries("unlocked", a.state.Begin(top.Height(q.Height), ms), a.head)
	taken := observe(a.state, q.DecidedLastCommit.Votes, q.ProposerAddress, q.Misbehavior)
	var leaves leafList
	for _, raw := range q.Txs {
		id, b, err := a.pool.Open(raw)
		a.bundles = append(a.bundles, id)
		a.savedBytes += len(raw)
		if err != nil {
			// Two thirds of the validators let it pass: nothing of it is carried out,
			// on any node.
			a.log.Warn("bundle in a block cannot be read", "height", q.Height, "err", err)
			continue
		}
		if u := a.state.Unproven(b); !u.None() { // those that came with the proposal
			u.Prove(&a.payers)
			u.Note()
		}
		for i, s := range b {
			if i%ledger.WarmTxs == 0 {
				a.state.Warm(b[i:min(i+ledger.WarmTxs, len(b))])
			}
			r := a.apply(s)
			a.block.rows = append(a.block.rows, r)
			leaves.add(r.ID, r.Outcome)
		}
	}
	day := a.state.End()
	a.block.entries = append(a.block.entries, backEntries("deposit", released(day.Back), a.head)...)
	a.elections(top.Height(q.Height), day, taken)
	a.root = a.state.Root()
	a.applied = top.Height(q.Height)
	return &abci.ResponseFinalizeBlock{
		TxResults: results(len(q.Txs), leaves.all), AppHash: a.root[:], ValidatorUpdates: updates(day.Powers),
	}, nil
}

// apply carries out one transaction of the block.
func (a *app) apply(s ledger.Signed) row {
	r := a.state.Apply(s.Tx, len(s.Raw))
	w := row{
		ID: s.ID, Kind: s.Body.Kind().String(), Error: string(r.Kind), Message: r.Message, Size: uint32(len(s.Raw)),
		Outcome: outcomeOf(r),
	}
	if int(s.From) < a.state.Accounts() {
		w.From = a.state.Account(s.From).Key
		w.entries, w.credits = txEntries(w, s.From, r.Moves, a.head)
	}
	return w
}

// Commit makes the block final for everybody who asks this node.
func (a *app) Commit(context.Context, *abci.RequestCommit) (*abci.ResponseCommit, error) {
	final, err := a.finish()
	if err != nil {
		return nil, err
	}
	retain, err := a.prune(final)
	return &abci.ResponseCommit{RetainHeight: int64(retain)}, err
}

// finish tells everybody of the block applied last.
func (a *app) finish() (final top.Height, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.index.add(a.applied, a.block, false); err != nil {
		return 0, err
	}
	if a.synced != nil {
		if err := a.synced(); err != nil {
			return 0, fmt.Errorf("end of the state sync: %w", err)
		}
		a.synced = nil
	}
	ids, codes := make([]top.ID, len(a.block.rows)), make([]uint32, len(a.block.rows))
	for i, r := range a.block.rows {
		ids[i], codes[i] = r.ID, r.Outcome.Code
	}
	a.pool.Final(a.applied, a.bundles, ids, codes)
	a.block, a.bundles = blockRows{}, nil
	a.final = a.applied
	close(a.changed)
	a.changed = make(chan struct{})
	if a.final-a.savedAt >= a.every || a.savedBytes >= snapshotBytes {
		a.saveLocked()
	}
	return a.final, nil
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
