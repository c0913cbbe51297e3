package pool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/top"
)

// world is a pool with a state and a consensus that the test plays.
type world struct {
	t *testing.T
	p *Pool

	mu     sync.Mutex
	handed [][]byte
	spread []string
	full   bool            // consensus has no room
	poor   map[uint32]bool // payers who cannot pay
	closed bool            // the state can say nothing
	sizes  map[uint32]int  // the last that Admit was asked of each payer
}

var chainID = top.ChainID{1}

func newWorld(t *testing.T) *world {
	w := &world{t: t, poor: map[uint32]bool{}, sizes: map[uint32]int{}}
	w.p = New(Config{
		Chain: chainID, Log: slog.New(slog.DiscardHandler),
		Admit: func(all []ledger.Signed, sizes []int) ([]error, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.closed {
				return nil, top.Errorf(top.Busy, "starting")
			}
			errs := make([]error, len(all))
			for i, s := range all {
				w.sizes[s.From] = sizes[i]
				if w.poor[s.From] {
					errs[i] = fmt.Errorf("no money: %w", top.ErrDenied)
				}
			}
			return errs, nil
		},
		Hand: func(b []byte) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.full {
				return top.Errorf(top.Busy, "full")
			}
			w.handed = append(w.handed, b)
			return nil
		},
		Spread: func(id top.ID, own bool) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.spread = append(w.spread, fmt.Sprintf("%s %t", id.Short(), own))
		},
	})
	return w
}

// run serves the pool until the test ends.
func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		w.p.Run(ctx)
		close(ended)
	}()
	w.t.Cleanup(func() {
		cancel()
		<-ended
	})
}

func key(payer uint32) keys.Private { return keys.FromSeed([32]byte{byte(payer), byte(payer >> 8), 7}) }

// tx is a payment of a payer, rightly signed.
func tx(t *testing.T, payer uint32, nonce uint64) ledger.Signed {
	t.Helper()
	x := ledger.Tx{Chain: chainID, From: payer, Nonce: nonce, Expiry: 1 << 40, Body: &ledger.Transfer{To: ledger.To(1), Amount: 1}}
	err := x.Sign(key(payer).Signer())
	s, e := ledger.Read(x.Encode())
	if err := errors.Join(err, e); err != nil {
		t.Fatal(err)
	}
	return s
}

// forged is a payment whose signature is wrong.
func forged(t *testing.T, payer uint32, nonce uint64) ledger.Signed {
	t.Helper()
	s := tx(t, payer, nonce)
	raw := bytes.Clone(s.Raw)
	raw[len(raw)-1] ^= 1
	raw[len(raw)-64] ^= 1
	f, err := ledger.Read(raw)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// pass lets time go on, in the bubble of a test.
func pass(d time.Duration) { <-time.After(d) }

// told is what a Watcher heard, by number.
type told struct {
	mu    sync.Mutex
	taken map[uint64]error
	final map[uint64]uint32
	twice []uint64
}

func newTold() *told { return &told{taken: map[uint64]error{}, final: map[uint64]uint32{}} }

func (o *told) Taken(seq uint64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.taken[seq]; ok {
		o.twice = append(o.twice, seq)
	}
	o.taken[seq] = err
}

func (o *told) Final(seq uint64, _ top.Height, code uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.final[seq]; ok {
		o.twice = append(o.twice, seq)
	}
	o.final[seq] = code
}

func items(all ...ledger.Signed) (is []Item) {
	for i, s := range all {
		is = append(is, Item{Signed: s, Seq: uint64(i)})
	}
	return is
}

func (w *world) bundles() (all []ledger.Bundle) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, raw := range w.handed {
		b, err := ledger.DecodeBundle(raw, chainID)
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

// commit makes a block of all that consensus holds.
func (w *world) commit(height top.Height) {
	w.mu.Lock()
	handed := w.handed
	w.handed = nil
	w.mu.Unlock()
	var ids, txs []top.ID
	for _, raw := range handed {
		id, b, err := w.p.Open(raw)
		if err != nil {
			w.t.Fatal(err)
		}
		ids = append(ids, id)
		for _, s := range b {
			txs = append(txs, s.ID)
		}
	}
	w.p.Final(height, ids, txs, make([]uint32, len(txs)))
}

func TestQ1_NothingLeavesUnverified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, o := newWorld(t), newTold()
		w.run()
		w.p.Add(items(tx(t, 1, 1), forged(t, 2, 1), tx(t, 3, 1)), o)
		synctest.Wait()
		b := w.bundles()
		if len(b) != 1 || len(b[0]) != 2 || b[0][0].From != 1 || b[0][1].From != 3 {
			t.Fatalf("handed over: %v", b)
		}
		if o.taken[0] != nil || !errors.Is(o.taken[1], top.ErrDenied) || o.taken[2] != nil || len(o.taken) != 3 {
			t.Errorf("told %v", o.taken)
		}
		if w.p.Check(w.handed[0]) != nil {
			t.Error("what was made here is to be checked again")
		}
		// A peer's bundle is not checked before it was, and a bad one never is good.
		good, bad := ledger.Bundle{tx(t, 4, 1)}.Encode(), ledger.Bundle{tx(t, 5, 1), forged(t, 6, 1)}.Encode()
		for _, raw := range [][]byte{good, bad} {
			if err := w.p.Check(raw); !errors.Is(err, top.ErrBusy) {
				t.Errorf("unseen: %v", err)
			}
		}
		var verdicts []error
		for _, raw := range [][]byte{good, bad, []byte("garbage")} {
			w.p.Offer(ledger.BundleID(raw), raw, func(err error) { verdicts = append(verdicts, err) })
			synctest.Wait()
		}
		if len(verdicts) != 3 || verdicts[0] != nil || !errors.Is(verdicts[1], top.ErrDenied) || !errors.Is(verdicts[2], top.ErrInvalid) {
			t.Errorf("verdicts %v", verdicts)
		}
		if b := w.bundles(); len(b) != 2 || b[1][0].From != 4 {
			t.Errorf("handed over: %d", len(b))
		}
		if w.p.Check(good) != nil || w.p.Check(bad) == nil || w.p.Bundle(ledger.BundleID(bad)) != nil || len(w.p.Bundles()) != 2 {
			t.Error("good and bad are not told apart")
		}
		if want := []string{ledger.BundleID(w.handed[0]).Short() + " true", ledger.BundleID(good).Short() + " false"}; fmt.Sprint(w.spread) != fmt.Sprint(want) {
			t.Errorf("spread %v, want %v", w.spread, want)
		}
	})
}

// A proposal that comes before the pool was run is judged all the same, and together
// with what is being checked.
func TestQ1_AProposalIsVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		good, bad := ledger.Bundle{tx(t, 1, 1), tx(t, 2, 1)}.Encode(), ledger.Bundle{tx(t, 3, 1), forged(t, 4, 1)}.Encode()
		w.p.Offer(ledger.BundleID(good), good, nil)
		if err := w.p.Proposed([][]byte{good, good}); err != nil {
			t.Error(err)
		}
		if err := w.p.Proposed([][]byte{good, bad}); !errors.Is(err, top.ErrDenied) {
			t.Errorf("a wrong signature is proposed: %v", err)
		}
		if err := w.p.Proposed([][]byte{{}}); !errors.Is(err, top.ErrInvalid) {
			t.Errorf("nothing is proposed: %v", err)
		}
		w.run()
		synctest.Wait()
		if len(w.handed) != 0 {
			t.Error("what a proposal showed was checked again")
		}
		if id, b, err := w.p.Open(good); err != nil || id != ledger.BundleID(good) || len(b) != 2 {
			t.Errorf("%v %v", b, err)
		}
	})
}

func TestQ2_APayerKeepsNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, flood, few := newWorld(t), newTold(), newTold()
		var all []Item
		for i := range uint64(maxWaiting) {
			all = append(all, Item{Signed: tx(t, 1, i+1), Seq: i})
		}
		w.p.Add(all, flood)
		busy := 0
		for _, err := range flood.taken {
			if !errors.Is(err, top.ErrBusy) || top.RetryAfter(err) <= 0 {
				t.Fatalf("%v", err)
			}
			busy++
		}
		if busy != maxWaiting-maxWaiting/payerShare {
			t.Errorf("%d of %d were refused", busy, maxWaiting)
		}
		for payer := range uint32(5) {
			w.p.Add([]Item{{Signed: tx(t, 10+payer, 1), Seq: uint64(payer)}}, few)
		}
		if len(few.taken) != 0 {
			t.Errorf("others were refused: %v", few.taken)
		}
		w.run()
		synctest.Wait()
		turns := map[uint32]int{}
		for i, s := range w.bundles()[0][:12] {
			turns[s.From] = i
		}
		if len(turns) != 6 {
			t.Errorf("the first bundle begins with the payers %v", turns)
		}
	})
}

func TestQ3_MemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, o := newWorld(t), newTold()
		w.full = true
		w.run()
		var all []Item
		for i := range uint64(maxWaiting + 500) {
			all = append(all, Item{Signed: tx(t, uint32(i%40), i/40+1), Seq: i})
		}
		w.p.Add(all, o)
		synctest.Wait()
		if w.p.Waiting() != maxWaiting || len(o.taken) != 500 {
			t.Errorf("%d wait, %d were told", w.p.Waiting(), len(o.taken))
		}
		for seq, err := range o.taken {
			if !errors.Is(err, top.ErrBusy) {
				t.Fatalf("%d: %v", seq, err)
			}
		}
		// What waits is old: no more is taken, until it is less.
		pass(2 * maxAge)
		w.mu.Lock()
		w.full = false
		w.mu.Unlock()
		for range 20 {
			pass(2 * busyPause)
			synctest.Wait()
			w.commit(1)
		}
		if w.p.Waiting() != 0 || len(w.p.owed) != 0 || w.p.bytes != 0 || len(w.p.queues) != 0 || w.p.inFlight != 0 || len(w.p.known) != 0 {
			t.Errorf("left over: %d wait, %d owe, %d bytes, %d queues, %d under way, %d known",
				w.p.Waiting(), len(w.p.owed), w.p.bytes, len(w.p.queues), w.p.inFlight, len(w.p.known))
		}
		// Bundles of peers: those that nobody commits are forgotten at last.
		pad := make([]byte, 900<<10)
		for i := range maxKnown/len(pad) + 50 {
			raw := append(bytes.Clone(pad), byte(i), byte(i>>8))
			w.p.Offer(ledger.BundleID(raw), raw, nil)
			synctest.Wait()
		}
		if w.p.knownBytes > maxKnown || len(w.p.fifo) > 2*len(w.p.known)+64 {
			t.Errorf("%d bytes of bundles, %d names", w.p.knownBytes, len(w.p.fifo))
		}
	})
}

func TestQ3_WhatWaitsTooLongKeepsMoreOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, o := newWorld(t), newTold()
		for i := range uint64(fewWaiting) {
			w.p.Add([]Item{{Signed: tx(t, uint32(i%40), i/40+1), Seq: i}}, o)
		}
		pass(maxAge + time.Millisecond)
		w.p.Add([]Item{{Signed: tx(t, 50, 1), Seq: 5000}}, o)
		if err := o.taken[5000]; !errors.Is(err, top.ErrBusy) {
			t.Errorf("after %s: %v", maxAge, err)
		}
		w.run()
		synctest.Wait()
		w.commit(1)
		w.p.Add([]Item{{Signed: tx(t, 50, 1), Seq: 5001}}, o)
		synctest.Wait()
		if err, ok := o.taken[5001]; !ok || err != nil {
			t.Errorf("once there was room: %v", err)
		}
	})
}

func TestQ4_EachIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, o, other := newWorld(t), newTold(), newTold()
		w.poor[9] = true
		w.run()
		a, b := tx(t, 1, 1), tx(t, 2, 1)
		w.p.Add(items(a, b, tx(t, 9, 1)), o)
		synctest.Wait()
		w.p.Add(items(a, b), other) // again, by somebody who lost the answer
		synctest.Wait()
		if len(w.bundles()) != 1 || !w.p.Has(a.ID) {
			t.Fatal("a transaction that waits was taken again")
		}
		w.commit(7)
		for name, x := range map[string]*told{"first": o, "again": other} {
			if x.taken[0] != nil || x.taken[1] != nil || len(x.final) != 2 || len(x.twice) != 0 {
				t.Errorf("%s: %+v", name, x)
			}
		}
		if !errors.Is(o.taken[2], top.ErrDenied) || len(o.taken) != 3 || w.p.Has(a.ID) {
			t.Errorf("%+v", o)
		}
		w.commit(8)
		if len(o.final) != 2 {
			t.Error("told of nothing")
		}
	})
}

// A block of another node may bring a transaction before this node's own bundle left.
func TestQ4_AnotherNodeWasFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, o := newWorld(t), newTold()
		a := tx(t, 1, 1)
		w.p.Add(items(a), o)
		w.p.Final(3, nil, []top.ID{a.ID}, []uint32{0})
		w.run()
		synctest.Wait()
		if len(w.handed) != 0 || o.taken[0] != nil || len(o.taken) != 1 || len(o.final) != 1 || len(o.twice) != 0 {
			t.Errorf("%d handed, %+v", len(w.handed), o)
		}
	})
}

func TestQ5_ABundleIsNotPassedOnWhenMostCannotPay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.run()
		w.poor[1], w.poor[2] = true, true
		half, most := ledger.Bundle{tx(t, 1, 1), tx(t, 3, 1)}.Encode(), ledger.Bundle{tx(t, 1, 2), tx(t, 2, 2), tx(t, 4, 1)}.Encode()
		for _, raw := range [][]byte{half, most} {
			w.p.Offer(ledger.BundleID(raw), raw, func(err error) {
				if err != nil {
					t.Errorf("its peer is dropped for what only the state knows: %v", err)
				}
			})
		}
		synctest.Wait()
		if b := w.bundles(); len(b) != 1 || len(b[0]) != 2 {
			t.Errorf("handed over %v", b)
		}
		if err := w.p.Proposed([][]byte{half, most}); err != nil {
			t.Errorf("a proposal is refused for what only the state knows: %v", err)
		}
		// What a payer has waiting anywhere counts together.
		o := newTold()
		s := tx(t, 3, 2)
		w.p.Add(items(s), o)
		if got, want := w.sizes[3], 2*len(s.Raw); got != want {
			t.Errorf("payer 3 was asked to afford %d bytes, want %d", got, want)
		}
		w.closed = true
		late := ledger.Bundle{tx(t, 5, 1)}.Encode()
		w.p.Offer(ledger.BundleID(late), late, nil)
		synctest.Wait()
		if w.p.Bundle(ledger.BundleID(late)) != nil {
			t.Error("a bundle was passed on that nothing is known of")
		}
	})
}
