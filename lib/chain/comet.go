package chain

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	dbm "github.com/cometbft/cometbft-db"
	"github.com/cometbft/cometbft/config"
	"github.com/cometbft/cometbft/crypto/ed25519"
	cmtjson "github.com/cometbft/cometbft/libs/json"
	"github.com/cometbft/cometbft/libs/log"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/privval"
	"github.com/syndtr/goleveldb/leveldb/opt"

	"top/lib/ledger"
	"top/lib/top"
)

// The limits of a block and of the pool. docs/decisions/0010-bundles.md.
const (
	maxBlock     = 4 << 20  // bytes of one block; larger ones are slower (economy.md)
	poolBundles  = 4_000    // bundles that wait
	poolBytes    = 64 << 20 // bytes that wait
	seenBundles  = 20_000   // ids that the pool remembers
	commitPause  = 100 * time.Millisecond
	emptyBlocks  = 500 * time.Millisecond
	proposeWait  = time.Second
	voteWait     = 300 * time.Millisecond
	linkRate     = 500 << 20 // bytes a second to and from each peer
	linkPacket   = 64 << 10
	gossipPause  = 10 * time.Millisecond
	redialPause  = 500 * time.Millisecond
	stopPatience = 4 * time.Second
	storeBuffer  = 16 << 20 // bytes of a busy store in memory, twice at most
)

// cometConfig is how CometBFT runs inside this node: no RPC listener, no
// indexer of its own, no pprof, no Prometheus listener.
func (n *Node) cometConfig() *config.Config {
	c := config.DefaultConfig()
	c.SetRoot(n.files.root())
	c.Moniker = "top"
	c.RPC.ListenAddress = ""
	c.RPC.GRPCListenAddress = ""
	c.RPC.PprofListenAddress = ""
	c.Instrumentation.Prometheus = false
	c.TxIndex.Indexer = "null"
	c.Storage.DiscardABCIResponses = true // the index keeps what proofs need

	c.FilterPeers = true // asks app.Query
	c.P2P.ListenAddress = "tcp://" + n.cfg.Listen
	c.P2P.ExternalAddress = n.cfg.External
	c.P2P.PersistentPeers = strings.Join(n.cfg.Peers, ",")
	c.P2P.AddrBook = "peers.json"
	c.P2P.AddrBookStrict = false
	c.P2P.AllowDuplicateIP = true
	c.P2P.PexReactor = n.cfg.Discover
	c.P2P.FlushThrottleTimeout = gossipPause
	c.P2P.MaxPacketMsgPayloadSize = linkPacket
	c.P2P.SendRate = linkRate
	c.P2P.RecvRate = linkRate

	c.Mempool.Type = config.MempoolTypeFlood
	c.Mempool.Recheck = false // what became bad meanwhile fails when it is applied
	c.Mempool.Size = poolBundles
	c.Mempool.MaxTxsBytes = poolBytes
	c.Mempool.CacheSize = seenBundles
	c.Mempool.MaxTxBytes = ledger.MaxBundle

	c.Consensus.TimeoutPropose = proposeWait
	c.Consensus.TimeoutProposeDelta = voteWait
	c.Consensus.TimeoutPrevote = voteWait
	c.Consensus.TimeoutPrevoteDelta = voteWait
	c.Consensus.TimeoutPrecommit = voteWait
	c.Consensus.TimeoutPrecommitDelta = voteWait
	c.Consensus.TimeoutCommit = commitPause
	c.Consensus.CreateEmptyBlocks = false
	c.Consensus.CreateEmptyBlocksInterval = n.cfg.EmptyBlocks
	c.Consensus.PeerGossipSleepDuration = gossipPause
	return c
}

// open is CometBFT's DBProvider: every store of this node, guarded.
func (n *Node) open(name string) (dbm.DB, error) {
	db, err := dbm.NewGoLevelDBWithOpts(name, n.files.data(), storeOptions(name))
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", name, err)
	}
	return guardedDB{db, n.fault}, nil
}

// storeOptions is how a store keeps what is written once and in order: in fewer, larger
// files, which are rarely merged, and as it is, since hashes and signatures do not
// become smaller.
func storeOptions(name string) *opt.Options {
	o := &opt.Options{
		Compression: opt.NoCompression, CompactionTableSize: 8 << 20, CompactionTotalSize: 64 << 20,
		CompactionL0Trigger: 8, WriteL0SlowdownTrigger: 16, WriteL0PauseTrigger: 24, DisableSeeksCompaction: true,
	}
	if name == "blockstore" || name == "index" {
		o.WriteBuffer = storeBuffer
	}
	return o
}

// A signState is what the validator signed last, on disk before the signature
// leaves: the guard against signing twice at one height.
func loadSigner(key ed25519.PrivKey, path string) (*privval.FilePV, error) {
	pv := privval.NewFilePV(key, "", path)
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, top.Errorf(top.Failed, "no record of what this node signed last: %v (never start a validator without it: restore %s, or join anew with another key: top-chain init)", err, path)
	}
	if err := cmtjson.Unmarshal(raw, &pv.LastSignState); err != nil {
		return nil, fmt.Errorf("read %s: %v: %w", path, err, top.ErrInvalid)
	}
	return pv, nil
}

// dial keeps trying the peers that are not connected. CometBFT's own dialling
// sleeps up to 3 s before the first try and 5 s between tries.
func (n *Node) dial(ctx context.Context, sw p2p.Switcher) error {
	addrs, errs := p2p.NewNetAddressStrings(n.cfg.Peers)
	for _, err := range errs {
		n.cfg.Log.Warn("peer", "err", err)
	}
	tick := time.NewTicker(redialPause)
	defer tick.Stop()
	for {
		for _, a := range addrs {
			if !sw.IsDialingOrExistingAddress(a) && a.ID != sw.NodeInfo().ID() {
				// An error is a peer that is not up: the next round tries again.
				if err := sw.DialPeerWithAddress(a); err != nil {
					n.cfg.Log.Debug("dial", "peer", a.String(), "err", err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// consensusFailure is what CometBFT logs when a panic ended its consensus; the
// process would go on without it.
const consensusFailure = "CONSENSUS FAILURE!!!"

// cometLog passes CometBFT's log on: errors as warnings, the rest at debug.
type cometLog struct {
	to *slog.Logger
	f  *fault
}

func (l cometLog) Debug(msg string, kv ...any) { l.log(slog.LevelDebug, msg, kv) }
func (l cometLog) Info(msg string, kv ...any)  { l.log(slog.LevelDebug, msg, kv) }
func (l cometLog) Warn(msg string, kv ...any)  { l.log(slog.LevelDebug, msg, kv) }

func (l cometLog) Error(msg string, kv ...any) {
	if msg == consensusFailure {
		l.f.report(consensusError(kv))
	}
	l.log(slog.LevelWarn, msg, kv)
}

func (l cometLog) With(kv ...any) log.Logger {
	return cometLog{l.to.With(kv...), l.f}
}

func (l cometLog) log(level slog.Level, msg string, kv []any) {
	ctx := context.Background()
	if l.to.Enabled(ctx, level) {
		l.to.Log(ctx, level, msg, kv...)
	}
}

// consensusError is the panic that stopped the consensus, without its stack.
func consensusError(kv []any) error {
	for i := 0; i+1 < len(kv); i += 2 {
		if kv[i] != "err" {
			continue
		}
		if err, ok := kv[i+1].(error); ok {
			return fmt.Errorf("consensus stopped: %w", err)
		}
		return fmt.Errorf("consensus stopped: %v", kv[i+1])
	}
	return fmt.Errorf("consensus stopped")
}
