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

// BenchmarkKVStore is what four validators of CometBFT's own kvstore settle on this
// machine, with the settings of our nodes: transactions of 118 bytes without a
// signature, handed in within the process, as many as their pools take. It is what
// scripts/rates sets beside `top-chain bench`.
func BenchmarkKVStore(b *testing.B) {
	const validators, seconds = 4, 10
	var keys []cometed.PrivKey
	doc := &types.GenesisDoc{GenesisTime: time.Now(), ChainID: "kvstore", InitialHeight: 1, ConsensusParams: types.DefaultConsensusParams()}
	for range validators {
		k := cometed.GenPrivKey()
		keys = append(keys, k)
		doc.Validators = append(doc.Validators, types.GenesisValidator{Address: k.PubKey().Address(), PubKey: k.PubKey(), Power: 10})
	}
	var nodes []*node.Node
	var final atomic.Int64
	var peers string
	for i, k := range keys {
		n := &Node{cfg: Config{Listen: freeLoopback(b), EmptyBlocks: emptyBlocks}, files: files{home.Dir(b.TempDir())}}
		cfg := n.cometConfig()
		cfg.SetRoot(b.TempDir())
		config.EnsureRoot(cfg.RootDir)
		cfg.Mempool.Size, cfg.Mempool.CacheSize = 20_000, 100_000
		cfg.P2P.PersistentPeers = peers
		peer := &p2p.NodeKey{PrivKey: cometed.GenPrivKey()}
		app := counted{kvstore.NewInMemoryApplication(), new(atomic.Int64)}
		if i == 0 {
			app.final = &final
		}
		one, err := node.NewNodeWithContext(b.Context(), cfg, privval.NewFilePV(k, cfg.PrivValidatorKeyFile(), cfg.PrivValidatorStateFile()), peer,
			proxy.NewLocalClientCreator(app), func() (*types.GenesisDoc, error) { return doc, nil },
			func(*config.DBContext) (dbm.DB, error) { return dbm.NewMemDB(), nil }, node.DefaultMetricsProvider(cfg.Instrumentation), log.NewNopLogger())
		if err != nil {
			b.Fatal(err)
		}
		if err := one.Start(); err != nil {
			b.Fatal(err)
		}
		defer one.Stop()
		nodes = append(nodes, one)
		if peers != "" {
			peers += ","
		}
		peers += string(peer.ID()) + "@" + n.cfg.Listen
	}
	for b.Loop() {
		stop := time.After(seconds * time.Second)
		began, before := time.Now(), final.Load()
		for open := true; open; {
			select {
			case <-stop:
				open = false
			default:
				raw := make([]byte, 50)
				if _, err := io.ReadFull(rand.Reader, raw); err != nil {
					b.Fatal(err)
				}
				tx := []byte(fmt.Sprintf("%s=%s", hex.EncodeToString(raw), "0123456789abcdefg"))
				err := nodes[int(raw[0])%validators].Mempool().CheckTx(tx, nil, mempool.TxInfo{})
				if err != nil { // its pool is full: a block will make room
					<-time.After(time.Millisecond)
				}
			}
		}
		b.ReportMetric(float64(final.Load()-before)/time.Since(began).Seconds(), "tx/s")
	}
}
