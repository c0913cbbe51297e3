package chain

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"top/lib/api"
	"top/lib/home"
	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/sock"
	"top/lib/top"
)

// A network is validators in this process, each in a home of its own.
type network struct {
	t       *testing.T
	chain   top.ChainID
	genesis []byte
	homes   []home.Dir
	joins   []Join
	rich    keys.Private // owns a million TOP
	nodes   []*running
	edit    func(i int, c *Config) // before a node starts; may be nil
}

// running is one node that runs.
type running struct {
	*Node
	api  *api.Chain
	stop func() error
	wait func() error // until it ends by itself
}

// newNetwork makes homes for validators and a genesis, and starts nothing.
func newNetwork(t *testing.T, validators int) *network {
	t.Helper()
	return newNetworkOf(t, validators, func(*ledger.Genesis, [][32]byte) {})
}

// newNetworkOf is newNetwork with a genesis that set may change.
func newNetworkOf(t *testing.T, validators int, set func(*ledger.Genesis, [][32]byte)) *network {
	t.Helper()
	n := &network{t: t, nodes: make([]*running, validators)}
	var err error
	if n.chain, err = DrawChainID(rand.Reader); err != nil {
		t.Fatal(err)
	}
	if n.rich, err = keys.Generate(rand.Reader); err != nil {
		t.Fatal(err)
	}
	var vals [][32]byte
	for range validators {
		dir := shortDir(t)
		k, err := ConsensusKey(dir, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		n.homes, vals = append(n.homes, dir), append(vals, k)
	}
	p := ledger.DefaultParams(n.chain)
	p.DeadlineSec, p.DeadlineBlocks = 5, 20
	g := ledger.Genesis{
		Params: p, Time: uint64(time.Now().Unix()),
		Accounts: []ledger.GenesisAccount{{Address: n.rich.Public(), Balance: 1_000_000 * top.One}},
	}
	set(&g, vals)
	n.genesis, err = NewGenesis(g, vals)
	if err != nil {
		t.Fatal(err)
	}
	var peers []string
	port, err := DrawPorts(len(n.homes))
	if err != nil {
		t.Fatal(err)
	}
	for i, dir := range n.homes {
		id, err := PeerID(dir, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port+i)
		peers = append(peers, id+"@"+addr)
		n.joins = append(n.joins, Join{Listen: addr})
	}
	for i, dir := range n.homes {
		for j, p := range peers {
			if j != i {
				n.joins[i].Peers = append(n.joins[i].Peers, p)
			}
		}
		if err := Setup(dir, n.genesis, n.joins[i], rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// shortDir is a home whose socket path fits.
func shortDir(t *testing.T) home.Dir {
	d, err := os.MkdirTemp("", "top")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return home.Dir(d)
}

func freeLoopback(t testing.TB) string {
	t.Helper()
	port, err := DrawPorts(1)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

func TestPortsInARow(t *testing.T) {
	first, err := DrawPorts(8)
	if err != nil || first < firstPort || first+8 > lastPort {
		t.Fatal(first, err)
	}
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+7))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if !free(first, 7) || free(first, 8) || free(first+7, 1) {
		t.Error("a port that is taken is free, or others are not")
	}
}

// start runs node i until stop or the test's end.
func (n *network) start(i int) *running {
	n.t.Helper()
	ready := make(chan struct{})
	cfg := Config{
		Home: n.homes[i], Listen: n.joins[i].Listen, Peers: n.joins[i].Peers,
		EmptyBlocks: 100 * time.Millisecond, Ready: func() error { close(ready); return nil },
	}
	if n.edit != nil {
		n.edit(i, &cfg)
	}
	node, err := New(cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- node.Run(ctx) }()
	stopped := false
	r := &running{Node: node, stop: func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}, wait: func() error {
		stopped = true
		defer cancel()
		return <-done
	}}
	n.t.Cleanup(func() { r.stop() })
	select {
	case <-ready:
	case err := <-done:
		stopped = true
		n.t.Fatalf("node %d ended: %v", i, err)
	case <-time.After(20 * time.Second):
		n.t.Fatalf("node %d is not ready", i)
	}
	path, err := n.homes[i].Sock("chain")
	if err != nil {
		n.t.Fatal(err)
	}
	r.api = api.NewChain(sock.Dial(path, "top-chain serve"))
	n.nodes[i] = r
	return r
}

func (n *network) startAll() {
	for i := range n.homes {
		n.start(i)
	}
}

// eventually polls a condition until it holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(90 * time.Second) // all packages' tests share two cores
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

// reach waits until a node has a block at height.
func (r *running) reach(t *testing.T, height top.Height) {
	t.Helper()
	eventually(t, fmt.Sprintf("block %d", height), func() bool {
		s, err := r.api.Status(t.Context())
		return err == nil && s.Height >= height
	})
}

// transfer is a signed payment from the rich account.
func (n *network) transfer(nonce uint64, to top.Address, amount top.Amount) []byte {
	n.t.Helper()
	return n.signed(nonce, &ledger.Transfer{To: ledger.ToAddress(to), Amount: amount})
}

// signed is a transaction of the rich account.
func (n *network) signed(nonce uint64, body ledger.Body) []byte {
	n.t.Helper()
	tx := &ledger.Tx{Chain: n.chain, Nonce: nonce, Expiry: uint64(time.Now().Add(time.Hour).Unix()), Body: body}
	if err := tx.Sign(n.rich.Signer()); err != nil {
		n.t.Fatal(err)
	}
	return tx.Encode()
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func someone(b byte) (a top.Address) {
	k := keys.FromSeed([32]byte{b})
	return k.Public()
}

// pay submits a payment to node i and waits until it is final.
func (n *network) pay(i int, nonce uint64, to top.Address, amount top.Amount) api.Tx {
	n.t.Helper()
	return n.do(i, n.transfer(nonce, to, amount))
}

// do submits a transaction to node i and waits until it is final.
func (n *network) do(i int, raw []byte) api.Tx {
	n.t.Helper()
	s, err := n.nodes[i].api.Submit(n.t.Context(), raw)
	if err != nil {
		n.t.Fatal(err)
	}
	return n.final(i, s.ID)
}

// final waits at node i until a transaction is final.
func (n *network) final(i int, id top.ID) api.Tx {
	n.t.Helper()
	tx, err := n.nodes[i].api.Tx(n.t.Context(), id, 20*time.Second)
	if err != nil {
		n.t.Fatal(err)
	}
	return tx
}

func TestFourValidatorsPayAndProve(t *testing.T) {
	n := newNetwork(t, 4)
	n.startAll()
	bob := someone(1)
	tx := n.pay(0, 1, bob, 3*top.One)
	if !tx.OK || tx.Kind != "transfer" || tx.Height == 0 {
		t.Fatalf("transaction %+v", tx)
	}
	for i := range n.nodes {
		n.nodes[i].reach(t, tx.Height)
		a, err := n.nodes[i].api.Account(t.Context(), bob)
		if err != nil {
			t.Fatal(err)
		}
		var p ledger.AccountProof
		if err := p.Decode(a.Proof); err != nil {
			t.Fatal(err)
		}
		acc, _, exists, err := p.Verify(a.At.Root)
		if err != nil || !exists || acc.Balance != 3*top.One-ledger.DefaultParams(n.chain).AccountFee || acc.Balance != a.Balance {
			t.Fatalf("node %d: account %+v, proven %+v, %v", i, a, acc, err)
		}
	}
	if _, err := n.nodes[1].api.Account(t.Context(), someone(2)); err != nil {
		t.Fatalf("absence: %v", err)
	}
	if _, err := n.nodes[1].api.Tx(t.Context(), top.ID{1}, 0); !errors.Is(err, top.ErrNotFound) {
		t.Fatalf("unknown transaction: %v", err)
	}
}

// contextWith is a context that ends by itself at last.
func contextWith(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(context.Background(), d)
}
