// Package chain is a node of the chain: CometBFT in this process with the ledger
// as its application, an index beside it, and the routes of chain.sock. A
// validator, a full node and a light client (light.go) answer the same routes.
//
// It is not for rules of money: those are lib/ledger, and what this room adds to
// them must not matter to any result.
//
//	C1  after kill -9 at any moment the node comes back to the root that it had
//	C2  an answer with a proof names a final header whose root proves it
//	C3  a proposal is refused only for what any node finds wrong without state
//	C4  a block replayed changes nothing in the index
//	C5  when the disk or the consensus fails, Run ends with an error that names
//	    the remedy: it never hangs and never goes on half alive
//	C6  a stranger reaches the Public routes alone, over a bounded number of streams
//	C7  what a light client says of a header, an account, a channel, a node or a
//	    transaction is signed by the validators, or proven under what is
//	C8  the newest header that a light client verified never goes back
package chain

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"time"

	"github.com/cometbft/cometbft/config"
	"github.com/cometbft/cometbft/node"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/proxy"
	sm "github.com/cometbft/cometbft/state"
	"github.com/cometbft/cometbft/types"
	"golang.org/x/sync/errgroup"

	dbm "github.com/cometbft/cometbft-db"

	"top/lib/api"
	"top/lib/home"
	"top/lib/mesh"
	"top/lib/sock"
	"top/lib/top"
)

// Config says how a node runs. Home must have been made by Setup.
type Config struct {
	Home        home.Dir
	Sock        string        // path of chain.sock; "" is where Home has it
	Listen      string        // host:port for validators and full nodes; "" takes a free port on every interface
	External    string        // host:port that others dial, when it differs from Listen
	Peers       []string      // ID@HOST:PORT
	Discover    bool          // asks peers for more peers
	EmptyBlocks time.Duration // between blocks while nothing happens; 0 is 500 ms
	Snapshots   top.Height    // blocks between snapshots; 0 is 2,000
	Keep        top.Height    // newest blocks whose transactions are kept, 100 at least; 0 keeps all
	MinFree     uint64        // bytes of disk below which the node stops; 0 is 64 MiB
	Sync        []string      // multiaddresses of full nodes by whose headers a snapshot is checked; none replays the chain
	Trust       string        // HEIGHT:HASH from which those headers are verified; "" is the genesis
	Mesh        string        // multiaddress where light clients are answered; "" answers none
	Ready       func() error  // called once the socket answers; may be nil
	Log         *slog.Logger  // nil is silent

	propose func(waiting [][]byte) [][]byte               // what a test has this node propose; nil is all that waits
	sign    func(types.PrivValidator) types.PrivValidator // what a test has this node vote by; nil is as it is
	voteAs  *[32]byte                                     // seed of another node, with whose key a test has this one vote
}

// Node is a validator or a full node.
type Node struct {
	cfg     Config
	files   files
	genesis *Genesis
	raw     []byte // the genesis file
	seed    [32]byte
	fault   *fault
	release func()
	server  *sock.Server
	app     *app
	index   *index
	archive *archive
	start   time.Time
	host    *mesh.Host // nil when light clients are not answered

	comet  *node.Node // set once by Run before the routes are served
	states sm.Store   // CometBFT's, to read validators from
}

// defaultMinFree is Config.MinFree when it is 0.
const defaultMinFree = 64 << 20

// New claims the home and the socket. A home or socket that another node holds
// is top.ErrBusy.
func New(cfg Config) (*Node, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.EmptyBlocks == 0 {
		cfg.EmptyBlocks = emptyBlocks
	}
	if cfg.Snapshots == 0 {
		cfg.Snapshots = snapshotBlocks
	}
	if cfg.MinFree == 0 {
		cfg.MinFree = defaultMinFree
	}
	n := &Node{cfg: cfg, files: files{cfg.Home}, fault: newFault(), start: time.Now()}
	var err error
	if n.raw, err = LoadGenesis(cfg.Home); err != nil {
		return nil, err
	}
	if n.genesis, err = ParseGenesis(n.raw); err != nil {
		return nil, err
	}
	if n.seed, err = Seed(cfg.Home, rand.Reader); err != nil {
		return nil, err
	}
	if n.cfg.Sock, err = cfg.Home.SockOr(cfg.Sock, "chain"); err != nil {
		return nil, err
	}
	if n.cfg.Listen == "" {
		port, err := DrawPorts(1)
		if err != nil {
			return nil, err
		}
		n.cfg.Listen = fmt.Sprintf("0.0.0.0:%d", port)
	}
	if n.release, err = home.Lock(n.files.lock()); err != nil {
		return nil, fmt.Errorf("another node runs on %s: %w", cfg.Home, err)
	}
	if err = n.claim(); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// claim takes the socket and the mesh address.
func (n *Node) claim() (err error) {
	n.server, err = sock.New(sock.Config{
		Name: "top-chain", Sock: n.cfg.Sock, Routes: n.routes(), Log: n.cfg.Log, Metrics: n.metrics, Health: n.health,
	})
	if err != nil || n.cfg.Mesh == "" && len(n.cfg.Sync) == 0 {
		return err
	}
	var listen []string
	if n.cfg.Mesh != "" {
		listen = []string{n.cfg.Mesh}
	}
	n.host, err = mesh.New(mesh.Config{Key: meshKey(n.seed), Listen: listen, Log: n.cfg.Log})
	return err
}

// close gives up what New claimed.
func (n *Node) close() {
	if n.host != nil {
		n.host.Close()
	}
	if n.server != nil {
		n.server.Close()
	}
	n.release()
}

// Ports that DrawPorts takes: below those that systems hand out for outgoing
// connections (Linux: 32768 up), so that a port stays free until it is used.
const (
	firstPort = 20_000
	lastPort  = 32_000
)

// DrawPorts is the first of n TCP ports in a row that nobody listens on. In a row, since
// others who draw then meet them less often.
func DrawPorts(n int) (int, error) {
	for range 100 {
		first := firstPort + mathrand.IntN(lastPort-firstPort-n)
		if free(first, n) {
			return first, nil
		}
	}
	return 0, top.Errorf(top.Failed, "found no %d free ports in a row between %d and %d (name one: --listen HOST:PORT)", n, firstPort, lastPort)
}

func free(first, n int) bool {
	for port := first; port < first+n; port++ {
		ln, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return false
		}
		ln.Close()
	}
	return true
}

// Run is the node until ctx ends, which it survives with nil, or until its disk
// or its consensus fails (C5). It may be called once.
func (n *Node) Run(ctx context.Context) (err error) {
	defer n.close()
	if err := n.checkSpace(); err != nil {
		return err
	}
	if err := n.launch(ctx); err != nil {
		return n.because(ctx, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		select {
		case <-n.fault.gone:
			return n.fault.err
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error { return n.dial(ctx, n.comet.Switch()) })
	g.Go(func() error { return n.watchSpace(ctx) })
	g.Go(func() error {
		n.app.pool.Run(ctx)
		return nil
	})
	g.Go(func() error { return n.server.Run(ctx) })
	if n.host != nil {
		g.Go(func() error { return n.server.ServePublic(ctx, n.host.Listen(Protocol)) })
	}
	if n.cfg.Ready != nil {
		if err := n.cfg.Ready(); err != nil {
			g.Go(func() error { return fmt.Errorf("say ready: %w", err) })
		}
	}
	<-ctx.Done()
	n.stop()
	return g.Wait()
}

// because is the error that ended the start: the fault, if one was reported.
func (n *Node) because(ctx context.Context, err error) error {
	select {
	case <-n.fault.gone:
		return n.fault.err
	default:
	}
	if ctx.Err() != nil {
		return nil // asked to stop while still starting
	}
	return err
}

// launch opens the stores, lets CometBFT replay what the state is behind, and
// starts it. A panic of CometBFT in here is an error.
func (n *Node) launch(ctx context.Context) error {
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- remedy(fmt.Errorf("start: %v", p))
			}
		}()
		done <- n.begin(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-n.fault.gone:
		return n.fault.err
	}
}

func (n *Node) begin(ctx context.Context) error {
	if err := n.restart(); err != nil {
		return err
	}
	db, err := n.open("index")
	if err != nil {
		return err
	}
	if n.index, err = openIndex(db); err != nil {
		return err
	}
	n.index.raw = n.rawAt
	n.app = newApp(n.genesis.Chain, n.index, n.files.state(), n.fault, n.cfg.Log)
	adb, err := n.open("archive")
	if err != nil {
		return err
	}
	n.archive, n.app.prune = &archive{adb}, n.prune
	n.app.hand, n.app.every, n.app.propose = n.hand, n.cfg.Snapshots, n.cfg.propose
	n.app.gossip = newGossip(n.app.pool, n.cfg.Log)
	if err := n.app.load(); err != nil {
		return err
	}
	voter := n.seed
	if n.cfg.voteAs != nil {
		voter = *n.cfg.voteAs
	}
	signer, err := loadSigner(roleKey(voter, roleConsensus), n.files.sign())
	if err != nil {
		return err
	}
	var voice types.PrivValidator = signer
	if n.cfg.sign != nil {
		voice = n.cfg.sign(signer)
	}
	cfg := n.cometConfig()
	if err := cfg.ValidateBasic(); err != nil {
		return fmt.Errorf("configure: %v: %w", err, top.ErrInvalid)
	}
	options := []node.Option{node.CustomReactors(map[string]p2p.Reactor{"MEMPOOL": n.app.gossip}), n.app.calmly}
	if n.syncing() {
		syncConfig(cfg)
		from, err := n.newStateProvider()
		if err == nil {
			err = n.mark()
		}
		if err != nil {
			return err
		}
		options = append(options, node.StateProvider(from))
	}
	n.comet, err = node.NewNodeWithContext(ctx, cfg, voice, n.peerKey(),
		proxy.NewConnSyncLocalClientCreator(n.app),
		func() (*types.GenesisDoc, error) { return n.genesis.Doc, nil },
		n.provide, node.DefaultMetricsProvider(cfg.Instrumentation), cometLog{n.cfg.Log, n.fault},
		options...)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	n.app.resume(n.comet.BlockStore())
	if err := n.comet.Start(); err != nil {
		return top.Errorf(top.Failed, "start: %v (is %s taken? choose another --listen)", err, n.cfg.Listen)
	}
	return nil
}

// provide opens one of CometBFT's stores.
func (n *Node) provide(c *config.DBContext) (dbm.DB, error) {
	db, err := n.open(c.ID)
	if err == nil && c.ID == "state" {
		n.states = sm.NewStore(db, sm.StoreOptions{DiscardABCIResponses: true})
	}
	return db, err
}

// stop ends CometBFT, keeps the state and closes the stores. When a fault
// parked a goroutine inside CometBFT it cannot be waited for: the process is
// about to end.
func (n *Node) stop() {
	n.fault.stop()
	n.app.leaving.Store(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.comet.Stop(); err != nil {
			n.cfg.Log.Debug("stop", "err", err)
		}
		n.app.close()
		n.index.db.Close()
		n.archive.db.Close()
	}()
	patience := time.NewTimer(stopPatience)
	defer patience.Stop()
	select {
	case <-done:
	case <-n.fault.gone:
	case <-patience.C:
		n.cfg.Log.Warn("stopped without waiting for the consensus to end")
	}
}

// checkSpace refuses to go on with a disk that is nearly full: a consensus that
// cannot write its log stops the hard way.
func (n *Node) checkSpace() error {
	free, err := home.Free(n.files.root())
	if err != nil {
		return err
	}
	if free < n.cfg.MinFree {
		return top.Errorf(top.Failed, "the disk is nearly full: %d MiB are free at %s, the node keeps %d (free some space, or lower --min-free)",
			free>>20, n.files.root(), n.cfg.MinFree>>20)
	}
	return nil
}

const spacePause = 2 * time.Second

func (n *Node) watchSpace(ctx context.Context) error {
	tick := time.NewTicker(spacePause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := n.checkSpace(); err != nil {
				return err
			}
		}
	}
}

// health is nil while the node follows its chain.
func (n *Node) health() error {
	if n.comet.ConsensusReactor().WaitSync() {
		return errors.New("it is catching up with its peers")
	}
	if age := time.Since(n.app.lastHead().Time.Time); age > staleAfter {
		return fmt.Errorf("the last block is %s old", age.Round(time.Second))
	}
	return nil
}

func (n *Node) metrics(w io.Writer) {
	h := n.app.lastHead()
	fmt.Fprintf(w, "# TYPE top_chain_height gauge\ntop_chain_height %d\n", h.Height)
	fmt.Fprintf(w, "# TYPE top_chain_peers gauge\ntop_chain_peers %d\n", n.comet.Switch().Peers().Size())
	fmt.Fprintf(w, "# TYPE top_chain_pending gauge\ntop_chain_pending %d\n", n.app.pool.Waiting())
}

// lastHead is the last header that is final.
func (a *app) lastHead() api.Header {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.head
}
