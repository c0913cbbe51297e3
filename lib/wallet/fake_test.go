package wallet

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"top/lib/api"
	"top/lib/home"
	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/session"
	"top/lib/sock"
	"top/lib/top"
)

// fakeChain is a chain daemon in this process: a ledger behind the routes that a
// wallet asks, one block for each transaction.
type fakeChain struct {
	t    *testing.T
	path string

	mu     sync.Mutex
	s      *ledger.State
	txs    map[top.ID]api.Tx
	tried  map[top.ID]int         // submits
	stale  bool                   // shows channels as of the first block
	drop   bool                   // takes transactions and loses them
	refuse error                  // of every submit
	seen   func(raw []byte) error // called before a submit is taken
}

// The cast of every test here.
var (
	aliceWords  = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"
	providerKey = keys.FromSeed([32]byte{2})
	nodeKey     = keys.FromSeed([32]byte{3})
)

const (
	genesisTime = 1_800_000_000
	accountFee  = 100_000 // nano
)

func aliceKey(t *testing.T) keys.Private {
	t.Helper()
	k, _, err := derive(aliceWords)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newFakeChain(t *testing.T) *fakeChain {
	t.Helper()
	p := ledger.DefaultParams(top.ChainID{5})
	p.DeadlineSec, p.DeadlineBlocks = 5, 2
	s, err := ledger.New(ledger.Genesis{Params: p, Time: genesisTime, Accounts: []ledger.GenesisAccount{
		{Address: aliceKey(t).Public(), Balance: 1000 * top.One}, {Address: providerKey.Public(), Balance: 1000 * top.One},
	}})
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeChain{t: t, s: s, txs: map[top.ID]api.Tx{}, tried: map[top.ID]int{}}
	s.Begin(1, genesisTime*1000)
	dir, err := os.MkdirTemp("", "w")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f.path = filepath.Join(dir, "chain.sock")
	server, err := sock.New(sock.Config{Name: "fake", Sock: f.path, Routes: f.routes()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	f.apply(f.register())
	return f
}

func (f *fakeChain) client() *api.Chain { return api.NewChain(sock.Dial(f.path, "top-chain serve")) }

func (f *fakeChain) routes() []sock.Route {
	get := func(path string, h func(*sock.Call) error) sock.Route {
		return sock.Route{Method: http.MethodGet, Path: path, Handle: func(c *sock.Call) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			return h(c)
		}}
	}
	return []sock.Route{
		get("/v1/status", func(c *sock.Call) error {
			return c.JSON(api.ChainStatus{Type: "chain-status", Chain: f.s.Params().Chain, Height: f.s.Height()})
		}),
		get("/v1/params", func(c *sock.Call) error {
			p := f.s.Params()
			return c.JSON(api.Params{Type: "params", Chain: p.Chain, DeadlineSec: top.Count(p.DeadlineSec), At: f.head(), Proof: f.s.ProveMeta().Encode()})
		}),
		get("/v1/accounts/{address}", f.account),
		get("/v1/accounts/{address}/channels", f.channelsOf),
		get("/v1/channels/{id}", func(c *sock.Call) error {
			id, err := top.ParseID(c.Arg("id"))
			if err != nil {
				return err
			}
			if f.stale {
				return c.JSON(api.Channel{Type: "channel", Channel: id, At: api.Header{Height: 1}})
			}
			return c.JSON(f.channel(id))
		}),
		get("/v1/nodes/{id}", func(c *sock.Call) error {
			return c.JSON(api.Node{Exists: c.Arg("id") == top.NodeID(nodeKey.Public()).String(), Owner: providerKey.Public(), Offers: []api.Offer{{Service: "relay", Unit: "message", Price: top.One / 1000, Window: 64}}})
		}),
		get("/v1/txs/{id}", func(c *sock.Call) error {
			id, err := top.ParseID(c.Arg("id"))
			if err != nil {
				return err
			}
			t, ok := f.txs[id]
			if !ok {
				return top.Errorf(top.NotFound, "no such transaction")
			}
			return c.JSON(t)
		}),
		{Method: "POST", Path: "/v1/txs", MaxBody: 2 << 20, Handle: f.submit},
	}
}

func (f *fakeChain) head() api.Header {
	return api.Header{Height: f.s.Height(), Time: top.UnixMilli(int64(f.s.Now())), Root: f.s.Root()}
}

func (f *fakeChain) account(c *sock.Call) error {
	a, err := top.ParseAddress(c.Arg("address"))
	if err != nil {
		return err
	}
	return c.JSON(api.Account{Address: a, At: f.head(), Proof: f.s.ProveAccount(a).Encode()})
}

func (f *fakeChain) channel(id top.ID) api.Channel {
	ch, ok := f.s.Channel(id)
	r := api.Channel{Type: "channel", Channel: id, Exists: ok, At: f.head()}
	if ok {
		r.Payer, r.Provider, r.PayerIndex, r.ProvIndex = f.s.Account(ch.Payer).Key, f.s.Account(ch.Provider).Key, ch.Payer, ch.Provider
		r.Cap, r.Paid, r.Seq, r.Closing = ch.Cap, ch.Paid, top.Count(ch.Seq), ch.Closing
		r.Expiry, r.ExpiryHeight = top.UnixMilli(int64(ch.Expiry)*1000), ch.ExpiryHeight
		if n := f.s.Account(ch.Provider).Node; !n.IsZero() {
			r.Node = &n
		}
	}
	return r
}

func (f *fakeChain) channelsOf(c *sock.Call) error {
	a, err := top.ParseAddress(c.Arg("address"))
	if err != nil {
		return err
	}
	c.Begin()
	i, _ := f.s.Index(a)
	for _, id := range f.s.ChannelsOf(i) {
		if err := c.Record(f.channel(id)); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeChain) submit(c *sock.Call) error {
	var q struct {
		Tx api.Bytes `json:"tx"`
	}
	if err := c.Decode(&q); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	id := ledger.ID(q.Tx)
	f.tried[id]++
	if f.seen != nil {
		if err := f.seen(q.Tx); err != nil {
			f.t.Error(err)
		}
	}
	if _, final := f.txs[id]; !final && f.refuse == nil && !f.drop {
		if err := f.take(q.Tx); err != nil {
			return err
		}
	}
	if f.refuse != nil {
		return f.refuse
	}
	return c.JSON(api.Submitted{Type: "submitted", ID: id})
}

// take puts a transaction into a block of its own.
func (f *fakeChain) take(raw []byte) error {
	tx, err := ledger.Decode(raw)
	if err != nil {
		return err
	}
	if err := tx.Verify(); err != nil {
		return err
	}
	if err := f.s.Admit(tx, len(raw)); err != nil {
		return err
	}
	f.s.Begin(f.s.Height()+1, f.s.Now()+100)
	r := f.s.Apply(tx, len(raw))
	id := ledger.ID(raw)
	f.txs[id] = api.Tx{
		Type: "tx", ID: id, Kind: tx.Body.Kind().String(), Height: f.s.Height(), Time: f.head().Time, OK: r.Code == 0, Code: r.Code,
		Error: string(r.Kind), Message: r.Message, Fee: r.Fee, Free: r.Free, Channel: r.Channel, Paid: r.Paid,
	}
	return f.s.Check()
}

// apply is take for the tests' own transactions.
func (f *fakeChain) apply(tx *ledger.Tx) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.take(tx.Encode()); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fakeChain) register() *ledger.Tx {
	b := &ledger.Register{Name: "n", Offers: []session.Offer{{Service: "relay", Unit: "message", Price: top.One / 1000, Window: 64}}}
	if err := b.SignNode(nodeKey.Signer(), top.ChainID{5}, providerKey.Public()); err != nil {
		f.t.Fatal(err)
	}
	tx := &ledger.Tx{Chain: top.ChainID{5}, From: 1, Nonce: 1, Expiry: 1 << 40, Body: b}
	if err := tx.Sign(providerKey.Signer()); err != nil {
		f.t.Fatal(err)
	}
	return tx
}

// pass lets time go by on the chain.
func (f *fakeChain) pass(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.s.Begin(f.s.Height()+100, f.s.Now()+uint64(d.Milliseconds()))
}

func (f *fakeChain) set(g func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g()
}

func (f *fakeChain) balance(a top.Address) top.Amount {
	f.mu.Lock()
	defer f.mu.Unlock()
	i, ok := f.s.Index(a)
	if !ok {
		return 0
	}
	return f.s.Account(i).Balance
}

// bench is an agent of Alice on a fake chain; it is used without its socket.
type bench struct {
	*Agent
	t     *testing.T
	f     *fakeChain
	dir   home.Dir
	clock time.Time
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "w")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &bench{t: t, f: newFakeChain(t), dir: home.Dir(dir), clock: time.Unix(genesisTime, 0)}
	b.up()
	t.Cleanup(func() {
		if b.Agent != nil {
			b.close()
		}
	})
	return b
}

// up starts the agent on what is on disk.
func (b *bench) up() {
	b.t.Helper()
	a, err := New(Config{Home: b.dir, Key: aliceKey(b.t), Chain: b.f.client(), Now: func() time.Time { return b.clock }})
	if err != nil {
		b.t.Fatal(err)
	}
	b.Agent = a
}

// crash ends the agent as kill -9 does: nothing more is written.
func (b *bench) crash() {
	b.close()
	b.Agent = nil
	b.up()
}

// pay wants a payment to be final.
func (b *bench) pay(id string, to top.Address, amount top.Amount) api.Payment {
	b.t.Helper()
	r, err := b.Spend(b.t.Context(), api.Spend{ID: id, Kind: "transfer", To: to, Amount: amount})
	if err != nil || r.State != "final" {
		b.t.Fatalf("pay %s: %+v, %v", id, r, err)
	}
	return r
}

func wantKind(t *testing.T, err error, kind error, why string) {
	t.Helper()
	if !errors.Is(err, kind) || !contains(err, why) {
		t.Errorf("%v, want %v: %s", err, kind, why)
	}
}

func dialSock(path string) *sock.Client { return sock.Dial(path, "top-wallet agent") }
