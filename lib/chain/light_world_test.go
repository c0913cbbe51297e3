package chain

import (
	"bytes"
	"context"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cometbft/cometbft/crypto"
	cometed "github.com/cometbft/cometbft/crypto/ed25519"
	"github.com/cometbft/cometbft/types"
	"github.com/cometbft/cometbft/version"

	"top/lib/api"
	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/session"
	"top/lib/sock"
	"top/lib/top"
)

// A world is a chain without consensus: its blocks are made and signed here, so
// that a test can sign whatever it likes.
type world struct {
	t       *testing.T
	chain   top.ChainID
	vals    []cometed.PrivKey
	genesis []byte
	state   *ledger.State // after the last block
	blocks  []*block      // blocks[0] is height 1
	rich    keys.Private
	nonce   uint64
	age     time.Duration     // of the genesis
	next    []cometed.PrivKey // validators from the next block on; nil are the same
}

// A block is a header with its votes, and what is proven against it.
type block struct {
	lb       *types.LightBlock
	state    []byte // the state that the header's root is of, encoded
	txs      types.Txs
	outcomes []Outcome
	rows     []row
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOf(t, time.Minute)
}

// newWorldOf is a world whose genesis has an age; its first block is half a
// minute younger.
func newWorldOf(t *testing.T, age time.Duration) *world {
	t.Helper()
	w := &world{t: t, age: age, chain: top.ChainID{1, 2, 3}, rich: keys.FromSeed([32]byte{0xaa})}
	var pubs [][32]byte
	for i := range 4 {
		k := cometed.GenPrivKeyFromSecret([]byte{byte(i)})
		w.vals, pubs = append(w.vals, k), append(pubs, [32]byte(k.PubKey().Bytes()))
	}
	sortKeys(w.vals)
	g := ledger.Genesis{
		Params: ledger.DefaultParams(w.chain), Time: uint64(time.Now().Add(-age).Unix()),
		Accounts: []ledger.GenesisAccount{{Address: w.rich.Public(), Balance: 1000 * top.One}, {Address: someone(1), Balance: top.One}},
	}
	g.Params.Stake.MinSelf = 10 * top.One
	for _, k := range pubs {
		g.Validators = append(g.Validators, ledger.GenesisValidator{ID: k, Owner: w.rich.Public(), Stake: 10 * top.One})
	}
	var err error
	if w.genesis, err = NewGenesis(g, pubs); err != nil {
		t.Fatal(err)
	}
	if w.state, err = ledger.New(g); err != nil {
		t.Fatal(err)
	}
	return w
}

// sortKeys puts validators of equal power into CometBFT's order.
func sortKeys(keys []cometed.PrivKey) {
	slices.SortFunc(keys, func(a, b cometed.PrivKey) int {
		return bytes.Compare(a.PubKey().Address(), b.PubKey().Address())
	})
}

// otherKeys are validators that no genesis names.
func otherKeys(n int) (keys []cometed.PrivKey) {
	for i := range n {
		keys = append(keys, cometed.GenPrivKeyFromSecret([]byte{0xff, byte(i)}))
	}
	sortKeys(keys)
	return keys
}

// fork is the same chain up to height, which goes on another way.
func (w *world) fork(height int) *world {
	f := *w
	f.blocks = slices.Clone(w.blocks[:height])
	f.state = w.load(w.blocks[height].state)
	return &f
}

func (w *world) load(b []byte) *ledger.State {
	s, err := ledger.Load(b)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) set() *types.ValidatorSet { return setOf(w.vals) }

func setOf(keys []cometed.PrivKey) *types.ValidatorSet {
	var vs []*types.Validator
	for _, k := range keys {
		vs = append(vs, types.NewValidator(k.PubKey(), 10))
	}
	return types.NewValidatorSet(vs)
}

// parsed is the genesis.
func (w *world) parsed() *Genesis {
	g, err := ParseGenesis(w.genesis)
	if err != nil {
		w.t.Fatal(err)
	}
	return g
}

// time is that of a block: four a second, since less than a minute ago.
func (w *world) time(height int) time.Time {
	g := w.parsed()
	return g.Doc.GenesisTime.Add(time.Duration(height)*250*time.Millisecond + 30*time.Second)
}

// bundles is what a block's header covers: its first transaction alone, the others
// together.
func (b *block) bundles() (all types.Txs) {
	var rest ledger.Bundle
	for i, raw := range b.txs {
		s := ledger.Signed{Raw: raw}
		if i == 0 {
			all = append(all, ledger.Bundle{s}.Encode())
		} else {
			rest = append(rest, s)
		}
	}
	if len(rest) > 0 {
		all = append(all, rest.Encode())
	}
	return all
}

// grow makes a block of transactions; each must be well formed.
func (w *world) grow(raws ...[]byte) *block {
	w.t.Helper()
	h := len(w.blocks) + 1
	at := w.time(h)
	b := &block{state: w.state.Encode()}
	root := w.state.Root()
	header := &types.Header{
		ChainID: w.chain.String(), Height: int64(h), Time: at, AppHash: root[:],
		ValidatorsHash: w.set().Hash(), NextValidatorsHash: w.set().Hash(),
		ConsensusHash: crypto.Sha256([]byte("params")), EvidenceHash: types.EvidenceList(nil).Hash(),
		LastResultsHash: types.ABCIResults(nil).Hash(), LastCommitHash: (&types.Commit{}).Hash(),
		ProposerAddress: w.vals[0].PubKey().Address(),
	}
	header.Version.Block = version.BlockProtocol
	if h > 1 {
		last := w.blocks[h-2]
		header.LastBlockID = last.lb.Commit.BlockID
		header.LastCommitHash = last.lb.Commit.Hash()
		var leaves [][]byte
		for i, r := range last.rows {
			leaves = append(leaves, leaf(r.ID, last.outcomes[i]))
		}
		header.LastResultsHash = types.NewResults(results(len(last.bundles()), leaves)).Hash()
	}
	w.state.Begin(top.Height(h), uint64(at.UnixMilli()))
	for _, raw := range raws {
		t, err := ledger.Decode(raw)
		if err != nil {
			w.t.Fatal(err)
		}
		r := w.state.Apply(t, len(raw))
		o := Outcome{Code: r.Code, Fee: r.Fee, Free: r.Free, Paid: r.Paid, Channel: r.Channel}
		b.txs, b.outcomes = append(b.txs, raw), append(b.outcomes, o)
		from := top.Address{}
		if int(t.From) < w.state.Accounts() {
			from = w.state.Account(t.From).Key
		}
		b.rows = append(b.rows, row{ID: ledger.ID(raw), Kind: t.Body.Kind().String(), From: from, Outcome: o, Error: string(r.Kind), Message: r.Message, Size: uint32(len(raw))})
	}
	header.DataHash = b.bundles().Hash()
	if w.next != nil {
		header.NextValidatorsHash = setOf(w.next).Hash()
	}
	b.lb = w.sign(header, len(w.vals))
	if w.next != nil {
		w.vals, w.next = w.next, nil
	}
	w.blocks = append(w.blocks, b)
	return b
}

// sign makes a light block of a header with the votes of the first n validators.
func (w *world) sign(h *types.Header, n int) *types.LightBlock {
	w.t.Helper()
	id := types.BlockID{Hash: h.Hash(), PartSetHeader: types.PartSetHeader{Total: 1, Hash: crypto.Sha256(h.Hash())}}
	c := &types.Commit{Height: h.Height, BlockID: id}
	for i, k := range w.vals {
		if i >= n {
			c.Signatures = append(c.Signatures, types.NewCommitSigAbsent())
			continue
		}
		c.Signatures = append(c.Signatures, types.CommitSig{
			BlockIDFlag: types.BlockIDFlagCommit, ValidatorAddress: k.PubKey().Address(), Timestamp: h.Time.Add(time.Millisecond),
		})
		sig, err := k.Sign(c.VoteSignBytes(h.ChainID, int32(i)))
		if err != nil {
			w.t.Fatal(err)
		}
		c.Signatures[i].Signature = sig
	}
	return &types.LightBlock{SignedHeader: &types.SignedHeader{Header: h, Commit: c}, ValidatorSet: w.set()}
}

// growTo makes empty blocks up to a height.
func (w *world) growTo(height int) *world {
	for len(w.blocks) < height {
		w.grow()
	}
	return w
}

// tx is a transaction of the rich account.
func (w *world) tx(body ledger.Body) []byte {
	w.t.Helper()
	w.nonce++
	t := &ledger.Tx{Chain: w.chain, Nonce: w.nonce, Expiry: uint64(time.Now().Add(time.Hour).Unix()), Body: body}
	if err := t.Sign(w.rich.Signer()); err != nil {
		w.t.Fatal(err)
	}
	return t.Encode()
}

func (w *world) pay(to top.Address, a top.Amount) []byte {
	return w.tx(&ledger.Transfer{To: ledger.ToAddress(to), Amount: a})
}

func (w *world) open(a top.Amount) []byte {
	return w.tx(&ledger.Open{Provider: 1, Cap: a, Expiry: uint64(time.Now().Add(24 * time.Hour).Unix())})
}

func (w *world) register(service string) []byte {
	w.t.Helper()
	r := &ledger.Register{Name: "n", Offers: []session.Offer{{Service: service, Unit: "1s", Price: 7, Window: 9}}}
	if err := r.SignNode(keys.FromSeed([32]byte{0xbb}).Signer(), w.chain, w.rich.Public()); err != nil {
		w.t.Fatal(err)
	}
	return w.tx(r)
}

// A liar is a full node of a world that answers what it is told to. The zero
// value of each lie is the truth.
type liar struct {
	*world
	height    int // of its head; 0 is the world's last
	header    func(h int) *types.LightBlock
	account   func(api.Account) api.Account
	channel   func(api.Channel) api.Channel
	channels  func([]api.Channel) []api.Channel
	node      func(api.Node) api.Node
	nodes     func([]api.Node) []api.Node
	validator func(api.Validator) api.Validator
	stakes    func([]api.Stake) []api.Stake
	params    func(api.Params) api.Params
	tx        func(api.Tx) (api.Tx, error)
	deaf      bool // it answers with a transaction's first place, whatever place was asked for
	submit    func([]byte) error
	events    func(*sock.Call, top.Height) error
	history   func(*sock.Call) error
}

func (f *liar) head() int {
	if f.height > 0 {
		return f.height
	}
	return len(f.blocks)
}

// at is the state that the head proves, and the head.
func (f *liar) at() (*ledger.State, api.Header) {
	b := f.blocks[f.head()-1]
	return f.load(b.state), headerOf(b.lb)
}

func lied[T any](lie func(T) T, v T) T {
	if lie != nil {
		return lie(v)
	}
	return v
}

// handler is the Public routes of the liar.
func (f *liar) handler() http.Handler {
	get := func(path string, h func(*sock.Call) error) sock.Route {
		return sock.Route{Method: "GET", Path: path, Public: true, Handle: h}
	}
	s, err := sock.New(sock.Config{Name: "top-chain", Sock: filepath.Join(string(shortDir(f.t)), "s"), Routes: []sock.Route{
		get("/v1/validators/{id}", func(c *sock.Call) error {
			id, err := top.ParseValidatorID(c.Arg("id"))
			if err != nil {
				return err
			}
			s, at := f.at()
			return c.JSON(lied(f.validator, validatorAt(s, id, at)))
		}),
		get("/v1/accounts/{address}/stakes", func(c *sock.Call) error {
			a, err := top.ParseAddress(c.Arg("address"))
			if err != nil {
				return err
			}
			s, at := f.at()
			return sock.Records(c, lied(f.stakes, stakesAt(s, a, at)))
		}),
		get("/v1/params", func(c *sock.Call) error {
			s, at := f.at()
			p := s.ProveMeta()
			m, err := p.Verify(at.Root)
			if err != nil {
				return err
			}
			return c.JSON(lied(f.params, paramsRecord(m, at, p.Encode())))
		}),
		get("/v1/headers/{height}", f.getHeader),
		get("/v1/accounts/{address}", f.getAccount),
		get("/v1/accounts/{address}/history", func(c *sock.Call) error { return f.history(c) }),
		get("/v1/accounts/{address}/channels", f.getChannels),
		get("/v1/channels/{id}", func(c *sock.Call) error {
			id, err := top.ParseID(c.Arg("id"))
			if err != nil {
				return err
			}
			s, at := f.at()
			return c.JSON(lied(f.channel, channelAt(s, id, at)))
		}),
		get("/v1/nodes", f.getNodes),
		get("/v1/nodes/{id}", func(c *sock.Call) error {
			id, err := top.ParseNodeID(c.Arg("id"))
			if err != nil {
				return err
			}
			s, at := f.at()
			return c.JSON(lied(f.node, nodeAt(s, id, at)))
		}),
		{Method: "POST", Path: "/v1/txs", Access: sock.Write, Public: true, MaxBody: maxSubmit, Handle: func(c *sock.Call) error {
			var q struct {
				Tx api.Bytes `json:"tx"`
			}
			if err := c.Decode(&q); err != nil {
				return err
			}
			if f.submit != nil {
				if err := f.submit(q.Tx); err != nil {
					return err
				}
			}
			return c.JSON(api.Submitted{Type: "submitted", ID: ledger.ID(q.Tx)})
		}},
		get("/v1/txs/{id}", f.getTx),
		get("/v1/events", f.getEvents),
	}})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(s.Close)
	return s.Handler(true)
}

func (f *liar) getHeader(c *sock.Call) error {
	h, _, err := heightArg(c)
	if err != nil {
		return err
	}
	n := int(min(h, 1<<20))
	if n == 0 {
		n = f.head()
	}
	var lb *types.LightBlock
	if f.header != nil {
		lb = f.header(n)
	}
	if lb == nil {
		if n > f.head() {
			return top.Errorf(top.NotFound, "no block %d", n)
		}
		lb = f.blocks[n-1].lb
	}
	b, err := encodeLightBlock(lb)
	if err != nil {
		return err
	}
	return c.JSON(api.LightBlock{Type: "light-block", Height: top.Height(lb.Height), Block: b})
}

func (f *liar) getAccount(c *sock.Call) error {
	a, err := top.ParseAddress(c.Arg("address"))
	if err != nil {
		return err
	}
	s, at := f.at()
	i, ok := s.Index(a)
	var acc ledger.Account
	if ok {
		acc = s.Account(i)
	}
	return c.JSON(lied(f.account, accountRecord(s.Params(), a, acc, i, ok, at, s.ProveAccount(a).Encode())))
}

func (f *liar) getChannels(c *sock.Call) error {
	a, err := top.ParseAddress(c.Arg("address"))
	if err != nil {
		return err
	}
	s, at := f.at()
	var rs []api.Channel
	if i, ok := s.Index(a); ok {
		for _, id := range s.ChannelsOf(i) {
			rs = append(rs, channelAt(s, id, at))
		}
	}
	return sock.Records(c, lied(f.channels, rs))
}

func (f *liar) getNodes(c *sock.Call) error {
	s, at := f.at()
	var rs []api.Node
	for _, id := range s.Nodes(c.Query("service")) {
		rs = append(rs, nodeAt(s, id, at))
	}
	return sock.Records(c, lied(f.nodes, rs))
}

// find is the truth about a transaction that is final at the head.
func (f *liar) find(id top.ID) (api.Tx, error) {
	for h, b := range f.blocks[:f.head()-1] {
		for i, raw := range b.txs {
			if ledger.ID(raw) == id {
				return f.final(h+1, i), nil
			}
		}
	}
	return api.Tx{}, top.Errorf(top.NotFound, "no transaction %s is final", id)
}

// stands is the truth about a transaction at a place.
func (f *liar) stands(id top.ID, at place) (api.Tx, error) {
	if b := f.blocks[at.height-1]; int(at.at) < len(b.rows) && b.rows[at.at].ID == id {
		return f.final(int(at.height), int(at.at)), nil
	}
	return api.Tx{}, top.Errorf(top.NotFound, "no transaction %s is final there", id)
}

// final is the record of a transaction with its proof.
func (f *liar) final(h, i int) api.Tx {
	b := f.blocks[h-1]
	ids := make([]top.ID, len(b.rows))
	for i, r := range b.rows {
		ids[i] = r.ID
	}
	p, err := proveTx(top.Height(h), len(b.bundles()), i, ids, b.outcomes)
	if err != nil {
		f.t.Error(err)
	}
	r := txRecord(b.rows[i], top.Height(h), i, top.TimeOf(b.lb.Time))
	r.Proof, r.Raw = p.Encode(), api.Bytes(b.txs[i])
	return r
}

func (f *liar) getTx(c *sock.Call) error {
	id, _, at, err := txArg(c)
	if err != nil {
		return err
	}
	r, err := f.find(id)
	if at != (place{}) && !f.deaf {
		r, err = f.stands(id, at)
	}
	if f.tx != nil {
		r, err = f.tx(r)
	}
	if err != nil {
		return err
	}
	return c.JSON(r)
}

// show is the events of one block.
func (f *liar) show(c *sock.Call, h int) error {
	b := f.blocks[h-1]
	at := headerOf(b.lb)
	err := c.Record(api.Event{Type: "block", Height: at.Height, Time: at.Time, Hash: at.Hash, Root: at.Root, Txs: len(b.txs)})
	for i := range b.txs {
		if err == nil {
			err = c.Record(txRecord(b.rows[i], at.Height, i, at.Time))
		}
	}
	return err
}

// getEvents shows every block below the head, then waits.
func (f *liar) getEvents(c *sock.Call) error {
	since, err := c.Count("since")
	if err != nil {
		return err
	}
	c.Begin()
	if f.events != nil {
		return f.events(c, top.Height(since))
	}
	for h := int(since) + 1; h < f.head(); h++ {
		if err := f.show(c, h); err != nil {
			return err
		}
	}
	<-c.Context().Done()
	return nil
}

// lightOf is a light client of the world with these peers, named a, b, …
func (w *world) lightOf(peers ...*liar) *runningLight {
	w.t.Helper()
	return startLight(w.t, w.config(peers...))
}

func (w *world) config(peers ...*liar) LightConfig {
	w.t.Helper()
	d := newDoors(w.t)
	cfg := LightConfig{Home: lightHome(w.t, w.genesis), dial: d.dial}
	for i, p := range peers {
		addr := string(rune('a' + i))
		d.add(addr, p.handler())
		cfg.Peers = append(cfg.Peers, addr)
	}
	return cfg
}

// settled waits until the newest verified header is at a height.
func (l *runningLight) settled(t *testing.T, height top.Height) {
	t.Helper()
	eventually(t, "header "+height.String(), func() bool {
		s, err := l.api.Status(context.WithoutCancel(t.Context()))
		return err == nil && s.Height == height
	})
}

// newWorldHeaders is what a light client of the world knows at block 1.
func newWorldHeaders(w *world) *headers {
	hs := &headers{chain: w.chain.String(), genesis: w.parsed(), now: time.Now, byH: map[int64]*types.LightBlock{}}
	hs.startLocked(w.blocks[0].lb)
	return hs
}

// nowhere is a peer that has nothing.
type nowhere struct{}

func (nowhere) lightBlock(context.Context, top.Height, time.Duration) (*types.LightBlock, error) {
	return nil, top.ErrNotFound
}
