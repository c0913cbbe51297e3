package chain

import (
	"bytes"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"top/lib/ledger"
	"top/lib/top"
)

// One of four validators lies whenever it is its turn: it proposes garbage, forged or
// foreign transactions, the same again, or nothing at all. Every honest one refuses
// what any node finds wrong, payments go on through the honest ones, and nobody's root
// differs.
func TestByzantineProposer(t *testing.T) {
	n := newNetwork(t, 4)
	good := n.transfer(1, someone(1), top.One)
	forged := bytes.Clone(good)
	forged[len(forged)-40] ^= 1
	foreign := bytes.Clone(good)
	foreign[0]++
	lies := [][][]byte{
		{[]byte("garbage")}, {pack(good, forged)}, {pack(foreign)}, {pack()}, {}, {pack(good), pack(good)},
		{pack(n.transfer(70_000, someone(1), top.One))}, // a nonce that only the state refuses
	}
	var turn atomic.Int64
	n.edit = func(i int, c *Config) {
		if i == 3 {
			c.propose = func([][]byte) [][]byte { return lies[int(turn.Add(1)-1)%len(lies)] }
		}
	}
	n.startAll()
	n.nodes[0].reach(t, 1)
	for nonce := uint64(2); int(turn.Load()) <= len(lies); nonce++ {
		if nonce > 300 {
			t.Fatalf("the liar had %d turns", turn.Load())
		}
		if r := n.pay(int(nonce%3), nonce, someone(2), top.One); !r.OK {
			t.Fatalf("payment %d: %s", nonce, r.Message)
		}
	}
	eventually(t, "all are at one height with one root", func() bool {
		at := n.nodes[0].app.lastHead()
		for _, r := range n.nodes[1:] {
			if h := r.app.lastHead(); h.Height != at.Height || h.Root != at.Root {
				return false
			}
		}
		return true
	})
	for i, r := range n.nodes {
		a, err := r.api.Account(t.Context(), someone(1))
		if err != nil || !a.Exists || a.Balance != top.One-ledger.DefaultParams(n.chain).AccountFee {
			t.Errorf("node %d: what the liar proposed three times paid %s: %v", i, a.Balance, err)
		}
	}
}

// A validator that takes what its users hand in and never passes it on or proposes it
// withholds it from nobody who asks another: the same transaction through another node
// is final, and what became of it is told at both.
func TestByzantineWithholder(t *testing.T) {
	n := newNetwork(t, 4)
	n.edit = func(i int, c *Config) {
		if i == 0 {
			c.propose = func([][]byte) [][]byte { return nil }
		}
	}
	n.startAll()
	r := n.nodes[0]
	r.reach(t, 1)
	r.app.gossip.mu.Lock()
	clear(r.app.gossip.peers) // nothing leaves it, and nobody is asked
	r.app.gossip.mu.Unlock()
	raw := n.transfer(1, someone(1), top.One)
	s, err := r.api.Submit(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.api.Tx(t.Context(), s.ID, time.Second); !errors.Is(err, top.ErrNotFound) {
		t.Fatalf("it was not withheld: %v", err)
	}
	if _, err := n.nodes[1].api.Submit(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{1, 0} {
		if got, err := n.nodes[i].api.Tx(t.Context(), s.ID, 20*time.Second); err != nil || !got.OK {
			t.Errorf("node %d: %+v %v", i, got, err)
		}
	}
}
