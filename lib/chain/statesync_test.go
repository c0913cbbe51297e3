package chain

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"os"
	"testing"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"

	"top/lib/api"
	"top/lib/home"
	"top/lib/ledger"
	"top/lib/top"
)

// joiner makes a home that joins a network as a full node, number len(homes)-1.
func (n *network) joiner() int {
	n.t.Helper()
	dir := shortDir(n.t)
	j := Join{Listen: freeLoopback(n.t)}
	for i, old := range n.homes {
		id, err := PeerID(old, rand.Reader)
		if err != nil {
			n.t.Fatal(err)
		}
		j.Peers = append(j.Peers, id+"@"+n.joins[i].Listen)
	}
	if err := Setup(dir, n.genesis, j, rand.Reader); err != nil {
		n.t.Fatal(err)
	}
	n.homes, n.joins, n.nodes = append(n.homes, dir), append(n.joins, j), append(n.nodes, nil)
	return len(n.homes) - 1
}

// A node that joins late takes a snapshot, checked by headers that it verified
// itself, goes on from there, and comes back after it was stopped; one that was
// killed while it took the snapshot begins anew.
func TestALateNodeTakesASnapshot(t *testing.T) {
	n := newNetwork(t, 3)
	n.edit = func(_ int, c *Config) {
		c.Mesh, c.EmptyBlocks, c.Snapshots = "/ip4/127.0.0.1/tcp/0", 20*time.Millisecond, 60
	}
	n.startAll()
	n.nodes[0].reach(t, 1)
	n.pay(0, 1, someone(1), 5*top.One)
	n.nodes[0].reach(t, 63)
	var mesh []string
	for _, r := range n.nodes[:2] {
		s, err := r.api.Status(t.Context())
		if err != nil || len(s.Addresses) == 0 {
			t.Fatal(s, err)
		}
		mesh = append(mesh, s.Addresses[0])
	}
	base := n.edit
	late := n.joiner()
	n.edit = func(i int, c *Config) {
		base(i, c)
		c.Sync = mesh
	}
	if err := home.WriteFile(files{n.homes[late]}.syncing(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files{n.homes[late]}.data()+"/torn", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	same := func(r *running) {
		t.Helper()
		eventually(t, "the late node follows", func() bool {
			a, err := n.nodes[0].api.Status(t.Context())
			b, err2 := r.api.Status(t.Context())
			return errors.Join(err, err2) == nil && b.Height > 0 && a.Height-b.Height < 5 && !b.CatchingUp
		})
		if a, err := r.api.Account(t.Context(), someone(1)); err != nil || a.Balance != 5*top.One-100_000 {
			t.Errorf("%+v %v", a, err)
		}
	}
	r := n.start(late)
	same(r)
	s, err := r.api.Status(t.Context())
	if err != nil || s.Earliest < 60 {
		t.Errorf("it replayed the chain from block %s: %v", s.Earliest, err)
	}
	if _, err := os.Stat(files{n.homes[late]}.data() + "/torn"); err == nil {
		t.Error("what was left of the first try is still there")
	}
	if _, err := os.Stat(files{n.homes[late]}.syncing()); err == nil {
		t.Error("the mark is still there")
	}
	// What comes after is its own: it carries out, indexes and proves it.
	tx := n.pay(late, 2, someone(2), 2*top.One)
	if got, err := r.api.Tx(t.Context(), tx.ID, 0); err != nil || !got.OK {
		t.Errorf("%+v %v", got, err)
	}
	entries := 0
	if err := r.api.History(t.Context(), someone(2), 0, 0, func(api.Entry) error { entries++; return nil }); err != nil || entries != 1 {
		t.Errorf("%d entries: %v", entries, err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	n.nodes[0].reach(t, n.nodes[0].app.lastHead().Height+5)
	same(n.start(late))
}

// snapshotOf is a snapshot of a chain where someone holds an amount.
func snapshotOf(t *testing.T, chain top.ChainID, height top.Height, amount top.Amount) ([]byte, top.ID) {
	t.Helper()
	s, err := ledger.New(ledger.Genesis{Params: ledger.DefaultParams(chain), Accounts: []ledger.GenesisAccount{{Address: someone(1), Balance: amount}}})
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Join(snapshotParts(height, s.Root(), s.Encode()), nil), s.Root()
}

// Whatever a peer sends instead of the state at a verified header, it is refused,
// and the node takes the next one.
func TestDenyAFalseSnapshot(t *testing.T) {
	chain := top.ChainID{1}
	good, root := snapshotOf(t, chain, 20, 5)
	richer, _ := snapshotOf(t, chain, 20, 500)
	other, _ := snapshotOf(t, chain, 21, 5)
	foreign, foreignRoot := snapshotOf(t, top.ChainID{2}, 20, 5)
	sum := func(b []byte) []byte { s := sha256.Sum256(b); return s[:] }
	a := newApp(chain, memIndex(t), t.TempDir(), newFault(), discard())
	offer := func(s *abci.Snapshot, root top.ID) abci.ResponseOfferSnapshot_Result {
		r, err := a.OfferSnapshot(t.Context(), &abci.RequestOfferSnapshot{Snapshot: s, AppHash: root[:]})
		if err != nil {
			t.Fatal(err)
		}
		return r.Result
	}
	apply := func(i int, b []byte) abci.ResponseApplySnapshotChunk_Result {
		r, err := a.ApplySnapshotChunk(t.Context(), &abci.RequestApplySnapshotChunk{Index: uint32(i), Chunk: b, Sender: "p"})
		if err != nil {
			t.Fatal(err)
		}
		return r.Result
	}
	for name, s := range map[string]*abci.Snapshot{
		"no hash":     {Height: 20, Format: snapshotFormat, Chunks: 1},
		"no chunks":   {Height: 20, Format: snapshotFormat, Hash: sum(good)},
		"huge":        {Height: 20, Format: snapshotFormat, Hash: sum(good), Chunks: maxSnapshot/snapshotChunk + 1},
		"new format":  {Height: 20, Format: snapshotFormat + 1, Hash: sum(good), Chunks: 1},
		"no snapshot": nil,
	} {
		if r := offer(s, root); r == abci.ResponseOfferSnapshot_ACCEPT {
			t.Errorf("%s: accepted", name)
		}
	}
	if apply(0, good) != abci.ResponseApplySnapshotChunk_REJECT_SNAPSHOT {
		t.Error("a chunk of nothing that was offered is accepted")
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for name, tc := range map[string]struct {
		said, sent []byte
		root       top.ID
	}{
		"another root":         {richer, richer, root},
		"another height":       {other, other, root},
		"another chain":        {foreign, foreign, foreignRoot},
		"a changed byte":       {good, flipped, root},
		"a changed byte, said": {flipped, flipped, root},
		"half":                 {good[:40], good[:40], root},
		"nothing":              {nil, nil, root},
	} {
		if r := offer(&abci.Snapshot{Height: 20, Format: snapshotFormat, Chunks: 1, Hash: sum(tc.said)}, tc.root); r != abci.ResponseOfferSnapshot_ACCEPT {
			t.Errorf("%s: offer: %v", name, r)
		}
		if r := apply(0, tc.sent); r != abci.ResponseApplySnapshotChunk_REJECT_SNAPSHOT || a.state != nil || a.index.begun {
			t.Errorf("%s: %v", name, r)
		}
	}
	if r := offer(&abci.Snapshot{Height: 20, Format: snapshotFormat, Chunks: 2, Hash: sum(good)}, root); r != abci.ResponseOfferSnapshot_ACCEPT {
		t.Errorf("a good one: %v", r)
	}
	if apply(0, good[:30]) != abci.ResponseApplySnapshotChunk_ACCEPT || apply(1, good[30:]) != abci.ResponseApplySnapshotChunk_ACCEPT {
		t.Fatal("a good one is refused")
	}
	if a.state == nil || a.root != root || a.applied != 20 || a.index.height() != 20 {
		t.Errorf("state %v at %s", a.state, a.applied)
	}
	if r := offer(&abci.Snapshot{Height: 30, Format: snapshotFormat, Chunks: 1, Hash: sum(good)}, root); r != abci.ResponseOfferSnapshot_ABORT {
		t.Errorf("a node with a state takes another: %v", r)
	}
	// What it took it offers in turn.
	l, err := a.ListSnapshots(t.Context(), nil)
	if err != nil || len(l.Snapshots) != 1 || l.Snapshots[0].Height != 20 || !bytes.Equal(l.Snapshots[0].Hash, sum(good)) || l.Snapshots[0].Chunks != 1 {
		t.Fatalf("%+v %v", l, err)
	}
	c, err := a.LoadSnapshotChunk(t.Context(), &abci.RequestLoadSnapshotChunk{Height: 20, Format: snapshotFormat})
	if err != nil || !bytes.Equal(c.Chunk, good) {
		t.Errorf("%d bytes, %v", len(c.Chunk), err)
	}
	for _, q := range []*abci.RequestLoadSnapshotChunk{{Height: 21, Format: snapshotFormat}, {Height: 20, Format: 9}, {Height: 20, Format: snapshotFormat, Chunk: 1}} {
		if c, err := a.LoadSnapshotChunk(t.Context(), q); err != nil || len(c.Chunk) != 0 {
			t.Errorf("%+v: %d bytes, %v", q, len(c.Chunk), err)
		}
	}
}
