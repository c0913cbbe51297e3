package settle

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"top/lib/api"
	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/session"
	"top/lib/sock"
	"top/lib/top"
)

// A fake is a chain of one channel.
type fake struct {
	mu  sync.Mutex
	ch  api.Channel
	txs map[top.ID]api.Tx
}

// open is a client of the fake's socket.
func (f *fake) open(t *testing.T) *api.Chain {
	t.Helper()
	route := func(method, path string, fn func(*sock.Call) (any, error)) sock.Route {
		return sock.Route{Method: method, Path: path, Handle: func(c *sock.Call) error {
			f.mu.Lock()
			v, err := fn(c)
			f.mu.Unlock()
			if err != nil {
				return err
			}
			return c.JSON(v)
		}}
	}
	path := filepath.Join(t.TempDir(), "chain.sock")
	s, err := sock.New(sock.Config{Name: "chain", Sock: path, Routes: []sock.Route{
		route("GET", "/v1/status", func(*sock.Call) (any, error) { return api.ChainStatus{Chain: top.ChainID{7}}, nil }),
		route("GET", "/v1/channels/{id}", func(*sock.Call) (any, error) { return f.ch, nil }),
		route("POST", "/v1/txs", f.submit),
		route("GET", "/v1/txs/{id}", func(c *sock.Call) (any, error) {
			var id top.ID
			err := id.UnmarshalText([]byte(c.Arg("id")))
			return f.txs[id], err
		}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return api.NewChain(sock.Dial(path, "top-chain serve"))
}

// submit pays what a claim proves beyond what was paid.
func (f *fake) submit(c *sock.Call) (any, error) {
	var q struct{ Tx api.Bytes }
	if err := c.Decode(&q); err != nil {
		return nil, err
	}
	tx, err := ledger.Decode(q.Tx)
	if err != nil {
		return nil, err
	}
	owed, err := tx.Body.(*ledger.Claim).Claim.Owed()
	if err != nil {
		return nil, err
	}
	id := ledger.ID(q.Tx)
	r := api.Tx{ID: id, OK: true, Paid: owed - min(owed, f.ch.Paid)}
	if r.Paid == 0 {
		r.OK, r.Error, r.Message = false, string(top.Denied), "it pays nothing"
	}
	f.ch.Paid += r.Paid
	f.txs[id] = r
	return api.Submitted{ID: id}, nil
}

// TestT1_RepeatingChangesNothing claims twice, less than before, and when another's
// claim came first.
func TestT1_RepeatingChangesNothing(t *testing.T) {
	node := keys.FromSeed([32]byte{2})
	mine := top.NodeID(node.Public())
	f := &fake{ch: api.Channel{Exists: true, Cap: 1000, Node: &mine}, txs: map[top.ID]api.Tx{}}
	s := Settler{Chain: f.open(t), Node: node, Wait: time.Second}
	claim := func(amount top.Amount) api.Settled {
		t.Helper()
		r, err := s.Claim(t.Context(), session.Claim{Voucher: session.Voucher{Seq: uint64(amount), Amount: amount}})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := claim(300); r.State != "paid" || r.Paid != 300 || r.Total != 300 {
		t.Errorf("%+v", r)
	}
	if r := claim(300); r.State != "already" || r.Total != 300 {
		t.Errorf("again: %+v", r)
	}
	if r := claim(200); r.State != "already" || len(f.txs) != 1 {
		t.Errorf("less: %+v, %d transactions", r, len(f.txs))
	}
	if r := claim(500); r.Paid != 200 || r.Total != 500 {
		t.Errorf("more: %+v", r)
	}
	if r := claim(5000); r.Owed != 1000 {
		t.Errorf("more than the cap: %+v", r)
	}
	f.ch.Exists = false
	if r := claim(500); r.State != "gone" {
		t.Errorf("gone: %+v", r)
	}
	other := top.NodeID{9}
	f.ch.Exists, f.ch.Node = true, &other
	if _, err := s.Claim(t.Context(), session.Claim{Voucher: session.Voucher{Seq: 9, Amount: 900}}); !errors.Is(err, top.ErrDenied) {
		t.Errorf("another's channel: %v", err)
	}
}

// TestT2_WhatIsDue is when a claim is made without anybody asking.
func TestT2_WhatIsDue(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	const d = 10 * time.Minute
	open := api.Channel{Exists: true, Paid: 100, Expiry: top.TimeOf(now.Add(24 * time.Hour))}
	closing, ending, gone := open, open, open
	closing.Closing = true
	ending.Expiry = top.TimeOf(now.Add(3*d - time.Second))
	gone.Exists = false
	for _, tc := range []struct {
		name string
		ch   api.Channel
		owed top.Amount
		last time.Duration
		want bool
	}{
		{"nothing presses", open, 200, time.Minute, false},
		{"an hour ago", open, 200, time.Hour, true},
		{"closing", closing, 200, 0, true},
		{"closing, and paid", closing, 100, time.Hour, false},
		{"ending", ending, 101, 0, true},
		{"ending, paid more", ending, 99, 0, false},
		{"gone", gone, 200, time.Hour, false},
	} {
		if got := Due(tc.ch, tc.owed, now.Add(-tc.last), now, d); got != tc.want {
			t.Errorf("%s: %t", tc.name, got)
		}
	}
}
