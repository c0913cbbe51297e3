package chain

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/config"
	cmtstate "github.com/cometbft/cometbft/proto/tendermint/state"
	sm "github.com/cometbft/cometbft/state"
	"github.com/cometbft/cometbft/types"
	"github.com/cometbft/cometbft/version"

	"top/lib/api"
	"top/lib/home"
	"top/lib/mesh"
	"top/lib/sock"
	"top/lib/top"
)

// A node that joins late need not replay the chain: it takes a snapshot of the state
// from its peers, a chunk at a time, and believes it when its root is that of a
// header which it verified itself, as a light client does (CometBFT's state sync,
// with headers over the mesh instead of an RPC listener).
const (
	snapshotFormat = 1
	snapshotChunk  = 8 << 20 // bytes
	maxSnapshot    = 8 << 30 // bytes of a peer's snapshot
	syncWait       = time.Minute
)

// ListSnapshots offers the snapshots that are on disk.
func (a *app) ListSnapshots(context.Context, *abci.RequestListSnapshots) (*abci.ResponseListSnapshots, error) {
	names, err := snapshots(a.snaps)
	if err != nil {
		return nil, err
	}
	r := &abci.ResponseListSnapshots{}
	for _, name := range names {
		height, err := snapshotHeight(name)
		if err != nil {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil || len(b) == 0 {
			continue // it was just replaced by a newer one
		}
		sum := sha256.Sum256(b)
		r.Snapshots = append(r.Snapshots, &abci.Snapshot{
			Height: uint64(height), Format: snapshotFormat, Chunks: uint32((len(b) + snapshotChunk - 1) / snapshotChunk), Hash: sum[:],
		})
	}
	return r, nil
}

// snapshotHeight is the height in a snapshot's name.
func snapshotHeight(path string) (h top.Height, err error) {
	name := strings.TrimLeft(strings.TrimSuffix(filepath.Base(path), snapshotSuffix), "0")
	return h, h.UnmarshalText([]byte(name))
}

// LoadSnapshotChunk gives a part of a snapshot; nothing when it is gone.
func (a *app) LoadSnapshotChunk(_ context.Context, q *abci.RequestLoadSnapshotChunk) (*abci.ResponseLoadSnapshotChunk, error) {
	r := &abci.ResponseLoadSnapshotChunk{}
	if q.Format != snapshotFormat {
		return r, nil
	}
	f, err := os.Open(snapshotPath(a.snaps, top.Height(q.Height)))
	if err != nil {
		return r, nil
	}
	defer f.Close()
	b := make([]byte, snapshotChunk)
	n, err := f.ReadAt(b, int64(q.Chunk)*snapshotChunk)
	if err == nil || errors.Is(err, io.EOF) {
		r.Chunk = b[:n]
	}
	return r, nil
}

// An offered is a snapshot that is being taken from peers.
type offered struct {
	snapshot *abci.Snapshot
	root     top.ID // that a verified header shows
	have     bytes.Buffer
}

// OfferSnapshot takes a peer's snapshot, while this node has no state.
func (a *app) OfferSnapshot(_ context.Context, q *abci.RequestOfferSnapshot) (*abci.ResponseOfferSnapshot, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := q.Snapshot
	switch {
	case a.state != nil:
		return &abci.ResponseOfferSnapshot{Result: abci.ResponseOfferSnapshot_ABORT}, nil
	case s == nil || s.Format != snapshotFormat:
		return &abci.ResponseOfferSnapshot{Result: abci.ResponseOfferSnapshot_REJECT_FORMAT}, nil
	case len(s.Hash) != sha256.Size || s.Chunks == 0 || s.Chunks > maxSnapshot/snapshotChunk || len(q.AppHash) != 32:
		return &abci.ResponseOfferSnapshot{Result: abci.ResponseOfferSnapshot_REJECT}, nil
	}
	a.offered = &offered{snapshot: s, root: top.ID(q.AppHash)}
	return &abci.ResponseOfferSnapshot{Result: abci.ResponseOfferSnapshot_ACCEPT}, nil
}

// ApplySnapshotChunk adds a chunk; after the last one the state stands, or the
// snapshot is refused.
func (a *app) ApplySnapshotChunk(_ context.Context, q *abci.RequestApplySnapshotChunk) (*abci.ResponseApplySnapshotChunk, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.offered
	if o == nil || len(q.Chunk) > snapshotChunk {
		return &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_REJECT_SNAPSHOT, RejectSenders: []string{q.Sender}}, nil
	}
	o.have.Write(q.Chunk)
	if q.Index+1 < o.snapshot.Chunks {
		return &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_ACCEPT}, nil
	}
	a.offered = nil
	if err := a.adoptLocked(o); err != nil {
		a.log.Warn("snapshot of a peer refused", "height", o.snapshot.Height, "err", err)
		return &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_REJECT_SNAPSHOT}, nil
	}
	return &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_ACCEPT}, nil
}

// adoptLocked makes a snapshot the state, on disk too.
func (a *app) adoptLocked(o *offered) error {
	b := o.have.Bytes()
	if sum := sha256.Sum256(b); !bytes.Equal(sum[:], o.snapshot.Hash) {
		return fmt.Errorf("the chunks are not those that were offered: %w", top.ErrInvalid)
	}
	height, state, err := decodeSnapshot(b)
	if err != nil {
		return err
	}
	switch {
	case uint64(height) != o.snapshot.Height:
		return fmt.Errorf("a snapshot of block %s as that of %d: %w", height, o.snapshot.Height, top.ErrInvalid)
	case state.Root() != o.root:
		return fmt.Errorf("its root is not that of block %s: %w", height, top.ErrInvalid)
	case state.Params().Chain != a.chain:
		return fmt.Errorf("a snapshot of chain %s: %w", state.Params().Chain, top.ErrInvalid)
	}
	if err := a.index.skip(height); err != nil {
		return err
	}
	if err := saveSnapshotFile(a.snaps, height, b); err != nil {
		return err
	}
	a.state, a.root = state, o.root
	a.applied, a.final, a.savedAt = height, height, height
	return nil
}

// skip begins an empty index after a height.
func (x *index) skip(height top.Height) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.begun {
		return fmt.Errorf("the index has blocks already: %w", top.ErrFailed)
	}
	batch := x.db.NewBatch()
	defer batch.Close()
	err := errors.Join(batch.Set(key("f"), be64(uint64(height)+1)), batch.Set(key("m"), indexMark(height, 0, height+1)), batch.WriteSync())
	if err != nil {
		return fmt.Errorf("begin index: %w", err)
	}
	x.last, x.begun, x.from, x.begin = height, true, height+1, height+1
	return nil
}

// restart begins anew when a snapshot was being taken as the node ended: CometBFT's
// stores and the state may not fit then, and nothing is lost.
func (n *Node) restart() error {
	_, err := os.Stat(n.files.syncing())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, dir := range []string{n.files.data(), n.files.state()} {
		err = errors.Join(err, os.RemoveAll(dir), os.MkdirAll(dir, 0o700))
	}
	if err != nil {
		return fmt.Errorf("begin anew: %w", err)
	}
	return os.Remove(n.files.syncing())
}

// mark notes on disk that a snapshot is being taken, until the first block after it
// is final.
func (n *Node) mark() error {
	n.app.synced = func() error { return os.Remove(n.files.syncing()) }
	return home.WriteFile(n.files.syncing(), nil, 0o600)
}

// syncing says whether this node is to take its state from peers: it was asked to,
// and has none.
func (n *Node) syncing() bool {
	return len(n.cfg.Sync) > 0 && n.app.state == nil && !n.index.begun
}

// syncConfig switches CometBFT's state sync on. The RPC servers are what its
// configuration insists on; headers come from stateProvider.
func syncConfig(c *config.Config) {
	c.StateSync.Enable = true
	c.StateSync.RPCServers = []string{"unused", "unused"}
	c.StateSync.TrustHeight, c.StateSync.TrustHash, c.StateSync.TrustPeriod = 1, "00", trustingPeriod
	c.StateSync.DiscoveryTime = 5 * time.Second
}

// A stateProvider shows CometBFT's state sync what a light client verified.
type stateProvider struct {
	n       *Node
	headers *headers
	peers   []*peer
	trust   string
}

func (n *Node) newStateProvider() (*stateProvider, error) {
	p := &stateProvider{n: n, trust: n.cfg.Trust}
	p.headers = &headers{chain: n.genesis.Chain.String(), genesis: n.genesis, now: time.Now, byH: map[int64]*types.LightBlock{}}
	if p.trust != "" {
		if _, _, err := parseTrust(p.trust); err != nil {
			return nil, err
		}
	}
	for _, addr := range n.cfg.Sync {
		if err := mesh.CheckAddr(addr); err != nil {
			return nil, err
		}
		c := sock.DialFunc(func(ctx context.Context) (net.Conn, error) { return n.host.Dial(ctx, Protocol, addr) }, "no answer from "+addr)
		c.Limit(maxPeerAnswer, maxPeerRecord)
		p.peers = append(p.peers, &peer{addr: addr, api: api.NewChain(c), sock: c})
	}
	return p, nil
}

// block is a verified light block, from the first peer that shows one. When two
// peers show headers that contradict each other, there is none.
func (p *stateProvider) block(ctx context.Context, height uint64) (*types.LightBlock, error) {
	ctx, cancel := context.WithTimeout(ctx, syncWait)
	defer cancel()
	var lb *types.LightBlock
	var errs []error
	for _, from := range p.peers {
		if _, ok := p.headers.head(); !ok {
			if err := p.headers.begin(ctx, from, p.trust); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", from.addr, err))
				continue
			}
		}
		got, err := p.headers.verified(ctx, from, top.Height(height), headerWait)
		var c *conflict
		if errors.As(err, &c) {
			return nil, top.Errorf(top.Failed, "peers show headers that contradict each other at block %d (ask others which chain stands)", height)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", from.addr, err))
		} else if lb == nil {
			lb = got
		}
	}
	if lb == nil {
		return nil, errors.Join(errs...)
	}
	return lb, nil
}

// AppHash is for CometBFT: the root after a block, which the next header shows. The
// one after that must be there too, for State.
func (p *stateProvider) AppHash(ctx context.Context, height uint64) ([]byte, error) {
	next, err := p.block(ctx, height+1)
	if err != nil {
		return nil, err
	}
	if _, err := p.block(ctx, height+2); err != nil {
		return nil, err
	}
	return next.AppHash, nil
}

// Commit is for CometBFT.
func (p *stateProvider) Commit(ctx context.Context, height uint64) (*types.Commit, error) {
	lb, err := p.block(ctx, height)
	if err != nil {
		return nil, err
	}
	return lb.Commit, nil
}

// State is for CometBFT: what consensus goes on from after a block.
func (p *stateProvider) State(ctx context.Context, height uint64) (s sm.State, err error) {
	var at [3]*types.LightBlock
	for i := range at {
		if at[i], err = p.block(ctx, height+uint64(i)); err != nil {
			return s, err
		}
	}
	last, current, next := at[0], at[1], at[2]
	params := *p.n.genesis.Doc.ConsensusParams
	if !bytes.Equal(params.Hash(), current.ConsensusHash) {
		return s, top.Errorf(top.Failed, "the consensus parameters at block %d are not those of the genesis", current.Height)
	}
	return sm.State{
		ChainID: p.n.genesis.Chain.String(), InitialHeight: 1,
		Version:         cmtstate.Version{Consensus: current.Version, Software: version.TMCoreSemVer},
		LastBlockHeight: last.Height, LastBlockTime: last.Time, LastBlockID: last.Commit.BlockID,
		AppHash: current.AppHash, LastResultsHash: current.LastResultsHash,
		LastValidators: last.ValidatorSet, Validators: current.ValidatorSet, NextValidators: next.ValidatorSet,
		LastHeightValidatorsChanged: next.Height,
		ConsensusParams:             params, LastHeightConsensusParamsChanged: current.Height,
	}, nil
}
