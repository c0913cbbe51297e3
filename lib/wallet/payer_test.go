package wallet

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"top/lib/api"
	"top/lib/session"
	"top/lib/settle"
	"top/lib/top"
)

// hop is a wish for a payer key.
func hop(id string) api.PayerWish {
	return api.PayerWish{ID: id, Service: "relay", Node: nodeKey.Public(), Cap: 2 * top.One, LastsMs: 3_600_000}
}

// allow sets the budget of the service that these tests pay for.
func (b *bench) allow(perDay top.Amount) {
	b.t.Helper()
	if err := b.budgets.set(api.Budget{Service: "relay", PerDay: perDay}); err != nil {
		b.t.Fatal(err)
	}
}

// hop opens a payer key.
func (b *bench) hop(id string) api.Payer {
	b.t.Helper()
	r, err := b.OpenPayer(b.t.Context(), hop(id))
	if err != nil || r.State != payerOpen || r.Channel == nil || r.Expiry == nil {
		b.t.Fatalf("open payer key %s: %+v %v", id, r, err)
	}
	return r
}

// ask has a voucher for a payer key's channel signed, and gives it.
func (b *bench) ask(r api.Payer, seq uint64, exposes top.Amount, change ...func(*api.SignRequest, *session.Voucher)) (v session.Voucher, err error) {
	v = session.Voucher{Chain: top.ChainID{5}, Channel: *r.Channel, Seq: seq, Amount: exposes}
	q := api.SignRequest{Service: "relay", Peer: nodeKey.Public()}
	for _, f := range change {
		f(&q, &v)
	}
	q.Body = v.Encode()
	a, err := b.signVoucher(b.t.Context(), q)
	if err != nil {
		return v, err
	}
	if err := v.Decode(a.Body); err != nil {
		return v, err
	}
	return v, v.Verify(r.Address)
}

// claim has the provider claim a voucher.
func (b *bench) claimed(v session.Voucher) {
	b.t.Helper()
	s := settle.Settler{Chain: b.f.client(), Node: nodeKey, Wait: time.Second}
	if r, err := s.Claim(b.t.Context(), session.Claim{Voucher: v}); err != nil || r.State != "paid" && r.State != "already" {
		b.t.Fatalf("claim: %+v %v", r, err)
	}
}

// ends takes a payer key as far as it goes, with time passing on the chain.
func (b *bench) ends(id string) api.Payer {
	b.t.Helper()
	p, ok := b.book.named(id)
	if !ok {
		b.t.Fatalf("no payer key %s", id)
	}
	for range 4 {
		if err := b.advance(b.t.Context(), p); err != nil {
			b.t.Fatalf("end payer key %s: %v", id, err)
		}
		b.f.pass(6 * time.Second)
	}
	return p.record()
}

// burned is what all fees came to so far.
func (f *fakeChain) burned() (sum top.Amount) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.s.Burned()
}

func (f *fakeChain) exists(a top.Address) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.s.Index(a)
	return ok
}

func TestW7_APayerKeyPaysOneChannel(t *testing.T) {
	b := newBench(t)
	_, err := b.OpenPayer(t.Context(), hop("a"))
	wantKind(t, err, top.ErrDenied, "no budget for relay")
	b.allow(5 * top.One)
	one, two := b.hop("a"), b.hop("b")
	if one.Index == two.Index || one.Address == two.Address || *one.Channel == *two.Channel || one.Address == b.address {
		t.Fatalf("%+v and %+v", one, two)
	}
	_, err = b.OpenPayer(t.Context(), hop("c"))
	wantKind(t, err, top.ErrDenied, "the channels open would hold 6 TOP")
	if got := b.f.channel(*one.Channel); got.Payer != one.Address || got.Cap != one.Cap {
		t.Errorf("%+v", got)
	}
	// The same again is the first.
	again, err := b.OpenPayer(t.Context(), hop("a"))
	if err != nil || !again.Repeated || again.Address != one.Address || len(b.book.list()) != 2 {
		t.Errorf("%+v %v", again, err)
	}
	other := hop("a")
	other.Cap++
	_, err = b.OpenPayer(t.Context(), other)
	wantKind(t, err, top.ErrInvalid, "used for another payer key")
	// It signs for its channel, within the account's budget.
	v, err := b.ask(one, 1, top.One)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Verify(b.address); err == nil {
		t.Error("the account signed for a payer key")
	}
	ticket := session.Ticket{Chain: top.ChainID{5}, Channel: *one.Channel, Payer: one.Address, Node: nodeKey.Public(), Service: "relay", Unit: "message", Price: 1, N: 5}
	sign := func(f func(*session.Ticket)) error {
		k := ticket
		f(&k)
		a, err := b.signTicket(t.Context(), api.SignRequest{Service: "relay", Peer: nodeKey.Public(), Body: k.Encode()})
		if err != nil {
			return err
		}
		if err := k.Decode(a.Body); err != nil {
			return err
		}
		return k.VerifyPayer()
	}
	if err := sign(func(*session.Ticket) {}); err != nil {
		t.Error(err)
	}
	wantKind(t, sign(func(k *session.Ticket) { k.Payer = b.address }), top.ErrDenied, "of payer")
	wantKind(t, sign(func(k *session.Ticket) { k.Payer = two.Address }), top.ErrDenied, "of payer")
	_, err = b.ask(one, 2, one.Cap+1)
	wantKind(t, err, top.ErrDenied, "the channel's cap is 2")
	_, err = b.ask(one, 1, top.One+1)
	wantKind(t, err, top.ErrDenied, "number 1 is signed already")
	_, err = b.ask(one, 2, top.One, func(q *api.SignRequest, _ *session.Voucher) { q.Peer[0]++ })
	wantKind(t, err, top.ErrDenied, "another node")
	if err := b.budgets.set(api.Budget{Service: "vpn", PerDay: top.One}); err != nil {
		t.Fatal(err)
	}
	_, err = b.ask(two, 1, top.One, func(q *api.SignRequest, _ *session.Voucher) { q.Service = "vpn" })
	wantKind(t, err, top.ErrDenied, "payer key b is for relay, not for vpn")
	b.allow(2 * top.One)
	if _, err := b.ask(two, 1, top.One); err != nil {
		t.Error(err)
	}
	_, err = b.ask(two, 2, top.One+1)
	wantKind(t, err, top.ErrDenied, "the budget of relay is 2 TOP a day, 2 are spent")
	_, err = b.Spend(t.Context(), api.Spend{Kind: "close", Channel: *one.Channel})
	wantKind(t, err, top.ErrDenied, "top-wallet payer close a")
	_, err = b.Spend(t.Context(), api.Spend{ID: "a:sweep", Kind: "transfer", To: stranger(1), Amount: top.One})
	wantKind(t, err, top.ErrInvalid, "id")
}

func TestW7_AClosedPayerSignsNothing(t *testing.T) {
	b := newBench(t)
	b.allow(10 * top.One)
	r := b.hop("a")
	if _, err := b.ask(r, 1, top.One); err != nil {
		t.Fatal(err)
	}
	end, err := b.ClosePayer(t.Context(), "a", api.PayerClose{})
	if err != nil || end.State != payerClosing || !end.Ending {
		t.Fatalf("%+v %v", end, err)
	}
	_, err = b.ask(r, 2, top.One)
	wantKind(t, err, top.ErrDenied, "payer key a is to end")
	b.clock = b.clock.Add(rowFor)
	_, err = b.ask(r, 2, top.One)
	wantKind(t, err, top.ErrDenied, "is closing")
	// Its channel is open as far as the chain shows, and it is to end: also refused.
	two := b.hop("b")
	p, _ := b.book.named("b")
	if err := b.endWish(t.Context(), p, api.PayerClose{}); err != nil {
		t.Fatal(err)
	}
	_, err = b.ask(two, 1, top.One)
	wantKind(t, err, top.ErrDenied, "payer key b is to end")
	b.crash()
	_, err = b.ask(two, 1, top.One)
	wantKind(t, err, top.ErrDenied, "payer key b is to end")
	if b.ends("a").State != payerSwept {
		t.Errorf("%+v", b.book.list())
	}
	_, err = b.ask(r, 3, top.One)
	wantKind(t, err, top.ErrNotFound, "there is no channel")
	_, err = b.ClosePayer(t.Context(), "z", api.PayerClose{})
	wantKind(t, err, top.ErrNotFound, "no payer key")
	// A stranger's channel, and one of a stranger's payer key, are nobody's here.
	s := newBench(t)
	s.allow(10 * top.One)
	theirs := s.hop("a")
	s.cfg.Key, s.address = nodeKey, nodeKey.Public()
	s.book = newBook()
	_, err = s.ask(theirs, 1, top.One)
	wantKind(t, err, top.ErrDenied, "is paid by")
}

func TestW7_AnIndexIsOnDiskBeforeAnythingLeaves(t *testing.T) {
	b := newBench(t)
	b.allow(10 * top.One)
	submits := 0
	b.f.set(func() {
		b.f.seen = func(raw []byte) error {
			submits++
			list, err := Payers(b.dir)
			if err != nil || len(list) != 1 {
				return errors.Join(err, errors.New("a key left whose index is not on disk"))
			}
			return nil
		}
	})
	one := b.hop("a")
	if submits != 2 {
		t.Errorf("%d transactions", submits)
	}
	b.f.set(func() { b.f.seen = nil })
	b.crash()
	two := b.hop("b")
	if two.Index != one.Index+1 {
		t.Errorf("index %d after %d", two.Index, one.Index)
	}
	// A disk that takes no more draws none.
	b.journal.Close()
	if _, err := b.OpenPayer(t.Context(), hop("c")); err == nil || len(b.book.list()) != 2 {
		t.Errorf("drawn without a disk: %v", err)
	}
}

// The whole life, with the process killed at every look at its clock: before and
// after each line on disk, so between any two of them. Each time the same is asked
// again, and in the end each nano is accounted for and one key was used.
func TestW8_KilledAtAnyInstant(t *testing.T) {
	for _, lost := range []bool{false, true} {
		for kill := 1; ; kill++ {
			b := newBench(t)
			b.allow(10 * top.One)
			start, before := b.f.balance(b.address), b.f.burned()
			earned := b.f.balance(providerKey.Public())
			at, dead := 0, false
			tick := b.cfg.Now
			b.cfg.Now = func() time.Time {
				if at++; at == kill {
					dead = true
					b.journal.Close()
					b.record.log.Close()
					b.f.set(func() { b.f.refuse, b.f.drop = top.Errorf(top.Offline, "killed"), lost })
				}
				return tick()
			}
			live := func(f func() error) {
				t.Helper()
				for try := 0; ; try++ {
					err := f()
					if err == nil && !dead {
						return
					}
					if !dead || try > 1 {
						t.Fatalf("kill %d: %v", kill, err)
					}
					b.f.set(func() { b.f.refuse, b.f.drop = nil, false })
					b.crash()
					dead = false
				}
			}
			var r api.Payer
			live(func() (err error) {
				if r, err = b.OpenPayer(t.Context(), hop("a")); err == nil && r.State != payerOpen && !dead {
					t.Fatalf("kill %d: %+v", kill, r)
				}
				return err
			})
			var v session.Voucher
			live(func() (err error) { v, err = b.ask(r, 1, top.One); return err })
			b.claimed(v)
			live(func() error { _, err := b.ClosePayer(t.Context(), "a", api.PayerClose{}); return err })
			live(func() error {
				for range 4 {
					p, _ := b.book.named("a")
					if err := b.advance(t.Context(), p); err != nil {
						return err
					}
					b.f.pass(6 * time.Second)
				}
				return nil
			})
			list := b.book.list()
			if len(list) != 1 || list[0].State != payerSwept || b.f.balance(r.Address) != 0 {
				t.Fatalf("kill %d: %+v, %s left", kill, list, b.f.balance(r.Address))
			}
			fees := b.f.burned() - before
			earned = b.f.balance(providerKey.Public()) - earned
			if got := b.f.balance(b.address) + earned + fees; got != start {
				t.Fatalf("kill %d: %s of %s are left, with %s earned and %s burned", kill, got, start, earned, fees)
			}
			if n := len(b.f.txs); n != 7 { // the node's, fund, open, claim, close, reclaim, sweep
				t.Fatalf("kill %d: %d transactions", kill, n)
			}
			if at < kill {
				if kill < 10 {
					t.Fatalf("only %d instants", kill)
				}
				break
			}
		}
	}
}

func TestW8_WhatCannotOpenComesBack(t *testing.T) {
	b := newBench(t)
	b.allow(10 * top.One)
	start := b.f.balance(b.address)
	burned := b.f.burned()
	n := 0
	b.f.set(func() {
		b.f.seen = func([]byte) error {
			if n++; n == 2 { // the open
				b.f.refuse = top.Errorf(top.Denied, "not today")
			} else {
				b.f.refuse = nil
			}
			return nil
		}
	})
	r, err := b.OpenPayer(t.Context(), hop("a"))
	wantKind(t, err, top.ErrDenied, "not today")
	if r.State != payerSwept || r.Returned == 0 || b.f.balance(r.Address) != 0 {
		t.Errorf("%+v", r)
	}
	if got := b.f.balance(b.address) + b.f.burned() - burned; got != start {
		t.Errorf("%s of %s", got, start)
	}
	// A transfer that was refused and reaches a block all the same comes back too.
	var first []byte
	b.f.set(func() {
		b.f.refuse = top.Errorf(top.Denied, "says the liar")
		b.f.seen = func(raw []byte) error { first = raw; return nil }
	})
	r, err = b.OpenPayer(t.Context(), hop("b"))
	wantKind(t, err, top.ErrFailed, "says the liar")
	if r.State != payerFailed || b.f.exists(r.Address) {
		t.Errorf("%+v", r)
	}
	b.f.set(func() {
		b.f.refuse, b.f.seen = nil, nil
		if err := b.f.take(first); err != nil {
			t.Error(err)
		}
	})
	b.crash()
	if r = b.ends("b"); r.State != payerSwept || b.f.balance(r.Address) != 0 {
		t.Errorf("%+v", r)
	}
	for name, tc := range map[string]struct {
		change func(*api.PayerWish)
		kind   error
		why    string
	}{
		"no such node":     {func(q *api.PayerWish) { q.Node[0]++ }, top.ErrNotFound, "no node"},
		"no node at all":   {func(q *api.PayerWish) { q.Node, q.Provider = top.NodeID{}, stranger(1) }, top.ErrNotFound, "runs no node"},
		"too short":        {func(q *api.PayerWish) { q.LastsMs = 9000 }, top.ErrInvalid, "twice the deadline"},
		"nothing":          {func(q *api.PayerWish) { q.Cap = 0 }, top.ErrInvalid, "nothing"},
		"no service":       {func(q *api.PayerWish) { q.Service = "" }, top.ErrInvalid, "service"},
		"beyond the limit": {func(q *api.PayerWish) { q.Cap = 11 * top.One }, top.ErrDenied, "open-cap"},
		"an id":            {func(q *api.PayerWish) { q.ID = "a:b" }, top.ErrInvalid, "id"},
	} {
		q := hop("refused")
		tc.change(&q)
		if _, err := b.OpenPayer(t.Context(), q); !errors.Is(err, tc.kind) || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.allow(5000 * top.One)
	q := hop("rich")
	q.Cap = 1000 * top.One
	_, err = b.OpenPayer(t.Context(), q)
	wantKind(t, err, top.ErrDenied, "are needed with fees (have somebody pay "+b.address.String()+": top-wallet pay)")
	if n := len(b.book.list()); n != 2 {
		t.Errorf("%d keys: a refused wish drew one", n)
	}
}

func TestW8_ALostDisk(t *testing.T) {
	b := newBench(t)
	b.allow(50 * top.One)
	open, kept, gone := b.hop("a"), b.hop("b"), b.hop("c")
	no := false
	for id, q := range map[string]api.PayerClose{"b": {Sweep: &no}, "c": {}} {
		if _, err := b.ClosePayer(t.Context(), id, q); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.ends("b"); got.State != payerClosed || b.f.balance(kept.Address) == 0 {
		t.Fatalf("a key that is not to be swept: %+v", got)
	}
	if got := b.ends("c"); got.State != payerSwept {
		t.Fatalf("%+v", got)
	}
	v, err := b.ask(open, 1, top.One)
	if err != nil {
		t.Fatal(err)
	}
	// The disk is lost; the words are not. An index with no account lies between.
	last := PayerKey(aliceKey(t), top.ChainID{5}, 2+payerGap)
	b.pay("far", last.Public(), top.One)
	b.close()
	if err := os.RemoveAll(b.dir.Path("wallet")); err != nil {
		t.Fatal(err)
	}
	b.up()
	b.tend(t.Context())
	list := b.book.list()
	if len(list) != 4 || list[0].Address != open.Address || list[1].Address != kept.Address || list[2].Address != gone.Address || list[3].Address != last.Public() {
		t.Fatalf("found: %+v", list)
	}
	// What is not known to be safe is not signed, and the provider claims what it had.
	b.allow(50 * top.One)
	if _, err := b.ask(open, 2, top.One); !errors.Is(err, top.ErrDenied) {
		t.Errorf("a found key signs: %v", err)
	}
	b.claimed(v)
	before, burned := b.f.balance(b.address), b.f.burned()
	for range 4 {
		b.clock = b.clock.Add(time.Minute)
		b.tend(t.Context())
		b.f.pass(6 * time.Second)
	}
	for _, r := range b.book.list() {
		if r.State != payerSwept || b.f.balance(r.Address) != 0 {
			t.Errorf("%+v has %s", r, b.f.balance(r.Address))
		}
	}
	if got := b.f.balance(b.address); got < before || got+b.f.burned()-burned < before {
		t.Errorf("%s, was %s", got, before)
	}
	// What was used is not drawn again.
	if r := b.hop("d"); r.Index != 3+payerGap {
		t.Errorf("index %d", r.Index)
	}
	// An older copy of the disk draws none twice either.
	if err := os.RemoveAll(b.dir.Path("wallet", "journal.ndjson")); err != nil {
		t.Fatal(err)
	}
	b.crash()
	b.book.scanned = true
	if r := b.hop("e"); r.Index != 3 {
		t.Errorf("index %d", r.Index)
	}
}

// A provider that closes gives the rest back at once, and a channel that ran out
// is reclaimed without anybody asking.
func TestW8_TheAgentSeesItThrough(t *testing.T) {
	b := newBench(t)
	b.allow(50 * top.One)
	byProvider, ranOut := b.hop("a"), b.hop("b")
	v, err := b.ask(byProvider, 1, top.One)
	if err != nil {
		t.Fatal(err)
	}
	s := settle.Settler{Chain: b.f.client(), Node: nodeKey, Wait: time.Second}
	if r, err := s.Close(t.Context(), *byProvider.Channel, &session.Claim{Voucher: v}); err != nil || r.State != "closed" {
		t.Fatalf("%+v %v", r, err)
	}
	b.f.pass(2 * time.Hour)
	b.clock = b.clock.Add(2 * time.Hour)
	b.tend(t.Context())
	for _, r := range b.book.list() {
		if r.State != payerSwept || b.f.balance(r.Address) != 0 {
			t.Errorf("%+v", r)
		}
	}
	if _, ok := b.f.s.Channel(*ranOut.Channel); ok {
		t.Error("its channel is still there")
	}
	// It needed less than it was given for fees, and four times what it needed.
	p, err := b.chainParams(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if fees := payerFees(p, top.One); fees < 4*500*p.FeePerByte || fees > 4*1000*p.FeePerByte {
		t.Errorf("%s for fees", fees)
	}
}

// A chain daemon that lags behind what it said before, as a light client may after
// a change of peer, does not make the agent believe that a channel is gone.
func TestW8_AnOldHeaderEndsNothing(t *testing.T) {
	b := newBench(t)
	b.allow(50 * top.One)
	r := b.hop("a")
	p, _ := b.book.named("a")
	b.f.set(func() { b.f.stale = true })
	if err := b.advance(t.Context(), p); err != nil || p.record().State != payerOpen {
		t.Errorf("%+v %v", p.record(), err)
	}
	b.f.set(func() { b.f.stale = false })
	if _, err := b.ask(r, 1, top.One); err != nil {
		t.Error(err)
	}
}

func TestW7_KeysAreOfAccountChainAndIndex(t *testing.T) {
	a := aliceKey(t)
	seen := map[top.Address]bool{}
	for _, k := range []top.Address{
		a.Public(), PayerKey(a, top.ChainID{5}, 0).Public(), PayerKey(a, top.ChainID{5}, 1).Public(), PayerKey(a, top.ChainID{6}, 0).Public(), PayerKey(nodeKey, top.ChainID{5}, 0).Public(),
	} {
		if seen[k] {
			t.Errorf("%s twice", k)
		}
		seen[k] = true
	}
	if first, again := PayerKey(a, top.ChainID{5}, 1).Public(), PayerKey(a, top.ChainID{5}, 1).Public(); first != again {
		t.Error("another key for the same")
	}
}
