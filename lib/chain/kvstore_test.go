package chain

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	dbm "github.com/cometbft/cometbft-db"
	"github.com/cometbft/cometbft/abci/example/kvstore"
	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/config"
	cometed "github.com/cometbft/cometbft/crypto/ed25519"
	"github.com/cometbft/cometbft/libs/log"
	"github.com/cometbft/cometbft/node"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/privval"
	"github.com/cometbft/cometbft/proxy"
	"github.com/cometbft/cometbft/rpc/jsonrpc/client"
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
	rpc   []string     // where each takes transactions
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
		cfg.P2P.PersistentPeers, cfg.FilterPeers = peers, false
		rpc := freeLoopback(b)
		cfg.RPC.ListenAddress, net.rpc = "tcp://"+rpc, append(net.rpc, rpc)
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

// settles is what the network makes final, a second, while it is offered a rate by a
// process beside.
func (n *kvNet) settles(b *testing.B, rate int) float64 {
	const before, seconds = 2 * time.Second, 8 * time.Second // the first are not counted
	cmd := exec.Command(os.Args[0], "-test.run=^$", "-test.bench=KVStore$", "-test.benchtime=1x")
	cmd.Env = append(os.Environ(), kvLoad+"="+strings.Join(append([]string{strconv.Itoa(rate)}, n.rpc...), " "))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	for n.final.Load() == 0 {
		<-time.After(time.Millisecond)
	}
	<-time.After(before)
	from, at := n.final.Load(), time.Now()
	<-time.After(seconds)
	return float64(n.final.Load()-from) / time.Since(at).Seconds()
}

// kvLoad is the variable that makes BenchmarkKVStore the process that offers: a rate, and
// the nodes.
const kvLoad = "TOP_KV_LOAD"

// offerKV hands transactions to the nodes in turn, by CometBFT's way for many: a
// websocket for each, on which none is waited for. It ends by a signal.
func offerKV(b *testing.B, spec []string) {
	rate, err := strconv.Atoi(spec[0])
	if err != nil {
		b.Fatal(err)
	}
	var all []*client.WSClient
	for _, at := range spec[1:] {
		ws, err := client.NewWS("tcp://"+at, "/websocket")
		if err == nil {
			err = ws.Start()
		}
		if err != nil {
			b.Fatal(err)
		}
		go func() {
			for range ws.ResponsesCh { // what a full pool refuses was offered all the same
			}
		}()
		all = append(all, ws)
	}
	began, sent := time.Now(), 0
	for range time.Tick(time.Millisecond) {
		for due := int(time.Since(began).Seconds() * float64(rate)); sent < due; sent++ {
			raw := make([]byte, 50)
			if _, err := io.ReadFull(rand.Reader, raw); err != nil {
				b.Fatal(err)
			}
			tx := []byte(fmt.Sprintf("%s=%s", hex.EncodeToString(raw), "0123456789abcdefg"))
			if err := all[sent%len(all)].Call(b.Context(), "broadcast_tx_async", map[string]any{"tx": tx}); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkKVStore is the most that four validators of CometBFT's own kvstore settle
// on this machine, in one process: transactions of 118 bytes without a signature, handed
// in by a process beside, as ours are, at several rates, each on a fresh network, since
// one that is offered more than it can do does less. It is what scripts/rates sets beside
// `top-chain bench`.
func BenchmarkKVStore(b *testing.B) {
	if spec := strings.Fields(os.Getenv(kvLoad)); len(spec) > 1 {
		offerKV(b, spec)
		return
	}
	for b.Loop() {
		best, at := 0.0, 0
		for _, rate := range []int{6_000, 8_000, 10_000, 11_000, 12_000, 13_000, 15_000} {
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
