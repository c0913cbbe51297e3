package chain

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"

	dbm "github.com/cometbft/cometbft-db"

	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/top"
)

// root is the root of a node's state now.
func (r *running) root() top.ID {
	r.app.mu.Lock()
	defer r.app.mu.Unlock()
	return r.app.root
}

func TestC1_BackToTheSameRoot(t *testing.T) {
	n := newNetwork(t, 1)
	n.start(0)
	for i := range uint64(5) {
		if tx := n.pay(0, i+1, someone(byte(i)), top.One); !tx.OK {
			t.Fatalf("%+v", tx)
		}
	}
	want := n.nodes[0].root()
	height := n.nodes[0].app.lastHead().Height
	if err := n.nodes[0].stop(); err != nil {
		t.Fatal(err)
	}
	states, err := snapshots(files{n.homes[0]}.state())
	if err != nil || len(states) == 0 {
		t.Fatalf("no snapshot at the end: %v", err)
	}
	damage := map[string]func(){
		"as it was": func() {},
		"with a torn snapshot": func() {
			b, err := os.ReadFile(states[0])
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(states[0], b[:len(b)/2], 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"without a snapshot, as after kill -9": func() {
			for _, s := range states {
				os.Remove(s)
			}
		},
	}
	for _, name := range []string{"as it was", "with a torn snapshot", "without a snapshot, as after kill -9"} {
		damage[name]()
		r := n.start(0)
		if got := r.root(); got != want {
			t.Errorf("%s: root %s, was %s", name, got, want)
		}
		if got := r.app.lastHead().Height; got < height {
			t.Errorf("%s: back at block %s, was at %s", name, got, height)
		}
		if a, err := r.api.Account(t.Context(), someone(3)); err != nil || a.Balance != top.One-100_000 {
			t.Errorf("%s: %+v %v", name, a, err)
		}
		entries := 0
		n.nodes[0].app.mu.Lock()
		i, _ := n.nodes[0].app.state.Index(n.rich.Public())
		n.nodes[0].app.mu.Unlock()
		err := r.index.history(i, n.rich.Public(), 0, func(uint64, entry) (bool, error) { entries++; return true, nil })
		if err != nil || entries != 6 {
			t.Errorf("%s: %d entries of history, want 6: %v", name, entries, err)
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestC2_AnAnswerNamesTheHeaderThatProvesIt(t *testing.T) {
	n := newNetwork(t, 1)
	r := n.start(0)
	r.reach(t, 1)
	for i := range uint64(3) {
		n.pay(0, i+1, someone(9), top.One)
		a, err := r.api.Account(t.Context(), someone(9))
		if err != nil {
			t.Fatal(err)
		}
		if want := top.Amount(i+1)*top.One - 100_000; a.Balance != want {
			t.Errorf("right after payment %d the balance is %s, want %s", i+1, a.Balance, want)
		}
		var p ledger.AccountProof
		if err := p.Decode(a.Proof); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := p.Verify(a.At.Root); err != nil {
			t.Error(err)
		}
		lb, err := r.lightBlock(a.At.Height)
		if err != nil {
			t.Fatal(err)
		}
		if top.ID(lb.AppHash) != a.At.Root || top.ID(lb.Hash()) != a.At.Hash {
			t.Errorf("block %s has root %X, the answer names %s", a.At.Height, lb.AppHash, a.At.Root)
		}
		if err := lb.ValidatorSet.VerifyCommitLight(n.chain.String(), lb.Commit.BlockID, lb.Height, lb.Commit); err != nil {
			t.Errorf("the header is not final: %v", err)
		}
	}
}

// bareApp is the application alone, on an index in memory.
func bareApp(t *testing.T, n *network) *app {
	t.Helper()
	g, err := ParseGenesis(n.genesis)
	if err != nil {
		t.Fatal(err)
	}
	a := newApp(g.Chain, memIndex(t), t.TempDir(), newFault(), discard())
	if _, err := a.InitChain(t.Context(), &abci.RequestInitChain{ChainId: n.chain.String(), AppStateBytes: g.Doc.AppState}); err != nil {
		t.Fatal(err)
	}
	return a
}

// pack is transactions as a bundle.
func pack(raws ...[]byte) []byte {
	var b ledger.Bundle
	for _, raw := range raws {
		b = append(b, ledger.Signed{Raw: raw})
	}
	return b.Encode()
}

func TestC3_AProposalIsRefusedForWhatAnyNodeFinds(t *testing.T) {
	n := newNetwork(t, 1)
	a := bareApp(t, n)
	good := n.transfer(1, someone(1), top.One)
	edit := func(raw []byte, f func(*ledger.Tx), signed bool) []byte {
		tx, err := ledger.Decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		f(tx)
		if signed {
			if err := tx.Sign(n.rich.Signer()); err != nil {
				t.Fatal(err)
			}
		}
		return tx.Encode()
	}
	for name, tc := range map[string]struct {
		txs    [][]byte
		accept bool
	}{
		"none":             {nil, true},
		"a good one":       {[][]byte{pack(good)}, true},
		"overspent":        {[][]byte{pack(n.transfer(2, someone(1), 2_000_000*top.One))}, true},
		"used nonce":       {[][]byte{pack(good, good), pack(good)}, true},
		"expired":          {[][]byte{pack(edit(good, func(x *ledger.Tx) { x.Expiry = 1 }, true))}, true},
		"no account":       {[][]byte{pack(edit(good, func(x *ledger.Tx) { x.From = 99 }, true))}, true},
		"garbage":          {[][]byte{pack(good), []byte("garbage")}, false},
		"garbage inside":   {[][]byte{pack(good, []byte("garbage"))}, false},
		"not in a bundle":  {[][]byte{good}, false},
		"a bundle of none": {[][]byte{pack()}, false},
		"too many":         {[][]byte{pack(slices.Repeat([][]byte{good}, ledger.MaxBundleTxs+1)...)}, false},
		"empty":            {[][]byte{{}}, false},
		"too long":         {[][]byte{make([]byte, ledger.MaxBundle+1)}, false},
		"foreign chain":    {[][]byte{pack(edit(good, func(x *ledger.Tx) { x.Chain[0]++ }, true))}, false},
		"not signed":       {[][]byte{pack(good), pack(good, edit(good, func(x *ledger.Tx) { x.Nonce = 7 }, false))}, false},
	} {
		r, err := a.ProcessProposal(t.Context(), &abci.RequestProcessProposal{Txs: tc.txs})
		if err != nil || r.IsAccepted() != tc.accept {
			t.Errorf("%s: accepted %t, want %t: %v", name, r.IsAccepted(), tc.accept, err)
		}
	}
	// What gets through and fails is recorded, and stops nothing.
	f, err := a.FinalizeBlock(t.Context(), &abci.RequestFinalizeBlock{
		Height: 1, Time: time.Now(), Hash: make([]byte, 32),
		Txs: [][]byte{pack(n.transfer(2, someone(1), 2_000_000*top.One), good), []byte("garbage"), pack(good)},
	})
	if err != nil || len(f.TxResults) != 3 {
		t.Fatal(f, err)
	}
	var codes []uint32
	for _, r := range a.block.rows {
		codes = append(codes, r.Outcome.Code)
	}
	if !slices.Equal(codes, []uint32{4, 0, 4}) {
		t.Errorf("codes %v", codes)
	}
}

// memIndex is an index in memory.
func memIndex(t *testing.T) *index {
	t.Helper()
	x, err := openIndex(dbm.NewMemDB())
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestC4_AReplayedBlockChangesNothing(t *testing.T) {
	x := memIndex(t)
	rows := func(h byte) blockRows {
		return blockRows{
			timeMs:  77,
			entries: []entry{{Account: 7, Kind: "unlocked", Way: wayIn, Amount: 1}},
			rows: []row{{
				ID: top.ID{h}, Kind: "transfer", Error: "denied", Message: strings.Repeat("long ", 300), Outcome: Outcome{Code: 4, Fee: 3},
				entries: []entry{{Account: 7, Way: wayIn, Amount: 5}},
			}},
		}
	}
	dump := func() string {
		var b bytes.Buffer
		it, err := x.db.Iterator(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer it.Close()
		for ; it.Valid(); it.Next() {
			b.Write(it.Key())
			b.WriteByte('=')
			b.Write(it.Value())
		}
		return b.String()
	}
	for _, h := range []top.Height{1, 2, 5} {
		if err := x.add(h, rows(byte(h)), false); err != nil {
			t.Fatal(err)
		}
	}
	before := dump()
	for _, h := range []top.Height{5, 2, 1, 0} {
		if err := x.add(h, rows(byte(h)), true); err != nil {
			t.Fatal(err)
		}
	}
	if dump() != before {
		t.Error("a block that was replayed changed the index")
	}
	var seqs []uint64
	err := x.history(7, top.Address{}, 2, func(seq uint64, e entry) (bool, error) {
		seqs = append(seqs, seq)
		if want := []string{"unlocked", "transfer"}[(seq-1)%2]; e.Kind != want || e.TimeMs != 77 {
			t.Errorf("entry %d: %+v", seq, e)
		}
		return len(seqs) < 3, nil
	})
	if err != nil || len(seqs) != 3 || seqs[0] != 3 || seqs[2] != 5 {
		t.Errorf("history after 2: %v %v", seqs, err)
	}
	if got, err := x.rows(2); err != nil || len(got) != 1 || got[0].ID != (top.ID{2}) || len(got[0].Message) != maxMessage {
		t.Errorf("%+v %v", got, err)
	}
}

func TestC5_AFaultEndsTheNode(t *testing.T) {
	for name, fail := range map[string]func(*Node){
		"the consensus panics": func(x *Node) { cometLog{x.cfg.Log, x.fault}.Error(consensusFailure, "err", "boom") },
		"a store is full": func(x *Node) {
			go guardedDB{failingDB{dbm.NewMemDB()}, x.fault}.Set([]byte("k"), []byte("v"))
		},
	} {
		r := newNetwork(t, 1).start(0) // a process would end with the node, and its locks with it
		r.reach(t, 1)
		fail(r.Node)
		ended := make(chan error, 1)
		go func() { ended <- r.wait() }()
		select {
		case err := <-ended:
			if !errors.Is(err, top.ErrFailed) || !strings.Contains(err.Error(), "top-chain serve") {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s, and the node goes on", name)
		}
	}
	n := newNetwork(t, 1)
	node, err := New(Config{Home: n.homes[0], Listen: n.joins[0].Listen, MinFree: 1 << 62})
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Run(t.Context()); !errors.Is(err, top.ErrFailed) || !strings.Contains(err.Error(), "--min-free") {
		t.Errorf("with little space: %v", err)
	}
}

// failingDB is a store on a full disk.
type failingDB struct{ dbm.DB }

func (failingDB) Set(_, _ []byte) error {
	return &os.PathError{Op: "write", Path: "000001.log", Err: errors.New("no space left on device")}
}

func TestC6_AStrangerReachesPublicRoutesAlone(t *testing.T) {
	n := newNetwork(t, 1)
	r := n.start(0)
	r.reach(t, 1)
	h := r.server.Handler(true)
	get := func(method, path string) int {
		w := httptest.NewRecorder()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, method, path, nil))
		return w.Code
	}
	for _, route := range r.routes() {
		if own := route.Path == "/v1/dials"; own == route.Public { // whom this node dials is its owner's alone
			t.Errorf("%s: public is %t; a light client needs all but whom this node dials", route.Path, route.Public)
		}
	}
	for path, want := range map[string]int{
		"/v1/status": 200, "/v1/params": 200, "/v1/genesis": 200, "/v1/headers/latest": 200, "/v1/dials": 404, "/v1/metrics": 404, "/v1/health": 404, "/debug/pprof/": 404,
	} {
		if got := get(http.MethodGet, path); got != want {
			t.Errorf("GET %s: %d, want %d", path, got, want)
		}
	}
	if got := get(http.MethodPost, "/v1/status"); got == 200 {
		t.Error("a POST where there is only a GET")
	}
}

func TestHomeOfAnotherChain(t *testing.T) {
	a, b := newNetwork(t, 1), newNetwork(t, 1)
	if err := Setup(a.homes[0], b.genesis, Join{}, strings.NewReader("")); !errors.Is(err, top.ErrDenied) || !strings.Contains(err.Error(), "holds another chain") {
		t.Errorf("%v", err)
	}
	a.start(0)
	if _, err := New(Config{Home: a.homes[0]}); !errors.Is(err, top.ErrBusy) {
		t.Errorf("a second node on one home: %v", err)
	}
	if _, err := New(Config{Home: shortDir(t)}); !errors.Is(err, top.ErrNotFound) || !strings.Contains(err.Error(), "top-chain init") {
		t.Errorf("a home without a chain: %v", err)
	}
	for name, raw := range map[string]string{"empty": "", "no JSON": "{", "another's": `{"chain_id":"cosmoshub-4"}`} {
		if _, err := ParseGenesis([]byte(raw)); !errors.Is(err, top.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzTxProof(f *testing.F) {
	ch := top.ID{4}
	f.Add(TxProof{ID: top.ID{1}, Height: 3, Index: 1, Total: 2, Bundles: 2, Outcome: Outcome{Code: 4, Fee: 5, Channel: &ch}, InBlock: [][]byte{make([]byte, 32)}}.Encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := DecodeTxProof(raw)
		if err == nil && !bytes.Equal(p.Encode(), raw) {
			t.Fatalf("%x is read and written %x", raw, p.Encode())
		}
	})
}

// What reads as the rows of a block is written, and reads again, as the same.
func FuzzRow(f *testing.F) {
	ch := top.ID{4}
	f.Add(blockRows{
		timeMs: 7, entries: []entry{{Kind: "unlocked", Way: wayIn, Amount: 5}},
		rows: []row{
			{ID: top.ID{1}, Kind: "open", Size: 7, Outcome: Outcome{Fee: 1, Channel: &ch, Paid: 2}, entries: []entry{{Account: 4, Way: wayOut, Amount: 5, Fee: 1}}},
			{ID: top.ID{2}, Kind: "batch", Error: "denied", Message: "m", Outcome: Outcome{Code: 4, Free: true}, again: true, credits: []uint32{5, 6}},
		},
	}.encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		var b, c blockRows
		if b.decode(raw, 3) != nil {
			return
		}
		if err := c.decode(b.encode(), 3); err != nil || !reflect.DeepEqual(b, c) {
			t.Fatalf("%v\n%+v\n%+v", err, b, c)
		}
	})
}

func FuzzGossip(f *testing.F) {
	f.Add(encodeIDs(gossipHave, []top.ID{{1}, {2}})[1:])
	f.Fuzz(func(t *testing.T, raw []byte) {
		ids, err := decodeIDs(raw)
		if err == nil && !bytes.Equal(encodeIDs(gossipHave, ids)[1:], raw) {
			t.Fatalf("%x", raw)
		}
	})
}

func FuzzSnapshotFile(f *testing.F) {
	k := keys.FromSeed([32]byte{1})
	s, err := ledger.New(ledger.Genesis{Params: ledger.DefaultParams(top.ChainID{1}), Accounts: []ledger.GenesisAccount{{Address: k.Public(), Balance: 1}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.Join(snapshotParts(5, s.Root(), s.Encode()), nil))
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, s, err := decodeSnapshot(raw)
		if err == nil && !bytes.Equal(bytes.Join(snapshotParts(h, s.Root(), s.Encode()), nil), raw) {
			t.Fatalf("%x", raw)
		}
	})
}
