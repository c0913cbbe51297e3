package chain

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	dbm "github.com/cometbft/cometbft-db"
	"github.com/cometbft/cometbft/abci/example/kvstore"
	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/config"
	cometed "github.com/cometbft/cometbft/crypto/ed25519"
	"github.com/cometbft/cometbft/libs/log"
	"github.com/cometbft/cometbft/mempool"
	"github.com/cometbft/cometbft/node"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/privval"
	"github.com/cometbft/cometbft/proxy"
	"github.com/cometbft/cometbft/types"

	"top/lib/home"
)

// counted is the kvstore that counts what becomes final.
type counted struct {
	*kvstore.Application
	final *atomic.Int64
}

// FinalizeBlock is for abci.Application.
func (c counted) FinalizeBlock(ctx context.Context, q *abci.RequestFinalizeBlock) (*abci.ResponseFinalizeBlock, error) {
	c.final.Add(int64(len(q.Txs)))
	return c.Application.FinalizeBlock(ctx, q)
}

// lasting is a database that a node which stops leaves open: its reactors read on for a
// moment, and would panic.
type lasting struct{ dbm.DB }

// Close is for dbm.DB.
func (lasting) Close() error { return nil }

// A kvNet is four validators of CometBFT's kvstore in this process.
type kvNet struct {
	nodes []*node.Node
	final atomic.Int64 // at the first
}

// startKV starts them with the settings of our nodes but a pool for more, smaller
// transactions, and their databases on disk, as ours are.
func startKV(b *testing.B) *kvNet {
	const validators = 4
	var keys []cometed.PrivKey
	doc := &types.GenesisDoc{GenesisTime: time.Now(), ChainID: "kvstore", InitialHeight: 1, ConsensusParams: types.DefaultConsensusParams()}
	for range validators {
		k := cometed.GenPrivKey()
		keys = append(keys, k)
		doc.Validators = append(doc.Validators, types.GenesisValidator{Address: k.PubKey().Address(), PubKey: k.PubKey(), Power: 10})
	}
	net, peers := new(kvNet), ""
	for i, k := range keys {
		n := &Node{cfg: Config{Listen: freeLoopback(b), EmptyBlocks: emptyBlocks}, files: files{home.Dir(b.TempDir())}}
		cfg := n.cometConfig()
		cfg.SetRoot(b.TempDir())
		config.EnsureRoot(cfg.RootDir)
		cfg.Mempool.Size, cfg.Mempool.CacheSize = 200_000, 400_000
		cfg.P2P.PersistentPeers = peers
		peer := &p2p.NodeKey{PrivKey: cometed.GenPrivKey()}
		app := counted{kvstore.NewPersistentApplication(cfg.RootDir), new(atomic.Int64)}
		if i == 0 {
			app.final = &net.final
		}
		one, err := node.NewNodeWithContext(b.Context(), cfg, privval.NewFilePV(k, cfg.PrivValidatorKeyFile(), cfg.PrivValidatorStateFile()), peer,
			proxy.NewLocalClientCreator(app), func() (*types.GenesisDoc, error) { return doc, nil },
			func(c *config.DBContext) (dbm.DB, error) {
				db, err := dbm.NewGoLevelDBWithOpts(c.ID, cfg.DBDir(), storeOptions(c.ID))
				if err == nil {
					b.Cleanup(func() { db.Close() })
				}
				return lasting{db}, err
			}, node.DefaultMetricsProvider(cfg.Instrumentation), log.NewNopLogger())
		if err != nil {
			b.Fatal(err)
		}
		if err := one.Start(); err != nil {
			b.Fatal(err)
		}
		net.nodes = append(net.nodes, one)
		if peers != "" {
			peers += ","
		}
		peers += string(peer.ID()) + "@" + n.cfg.Listen
	}
	for _, one := range net.nodes { // they dial when they please
		for one.BlockStore().Height() < 2 {
			<-time.After(10 * time.Millisecond)
		}
	}
	return net
}

// settles is what the network makes final, a second, while it is offered a rate.
func (n *kvNet) settles(b *testing.B, rate int) float64 {
	const before, seconds = 2, 8 // the first are not counted
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	from, at := int64(0), began
	for sent := 0; time.Since(began) < (before+seconds)*time.Second; <-tick.C {
		if from == 0 && time.Since(began) >= before*time.Second {
			from, at = n.final.Load(), time.Now()
		}
		for due := int(time.Since(began).Seconds() * float64(rate)); sent < due; sent++ {
			raw := make([]byte, 50)
			if _, err := io.ReadFull(rand.Reader, raw); err != nil {
				b.Fatal(err)
			}
			tx := []byte(fmt.Sprintf("%s=%s", hex.EncodeToString(raw), "0123456789abcdefg"))
			// What a full pool refuses was offered all the same.
			n.nodes[sent%len(n.nodes)].Mempool().CheckTx(tx, nil, mempool.TxInfo{})
		}
	}
	return float64(n.final.Load()-from) / time.Since(at).Seconds()
}

// BenchmarkKVStore is the most that four validators of CometBFT's own kvstore settle
// on this machine: transactions of 118 bytes without a signature, handed in within the
// process, at several rates, each on a fresh network, since one that is offered more
// than it can do does less. It is what scripts/rates sets beside `top-chain bench`.
func BenchmarkKVStore(b *testing.B) {
	for b.Loop() {
		best, at := 0.0, 0
		for _, rate := range []int{6_000, 9_000, 12_000, 15_000, 18_000} {
			net := startKV(b)
			got := net.settles(b, rate)
			b.Logf("%d offered a second: %.0f settled", rate, got)
			if got > best {
				best, at = got, rate
			}
			for _, one := range net.nodes {
				if err := one.Stop(); err != nil {
					b.Error(err)
				}
				one.Wait()
			}
		}
		b.ReportMetric(float64(at), "offered/s")
		b.ReportMetric(best, "tx/s")
	}
}
