package ledger

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"top/lib/keys"
	"top/lib/session"
	"top/lib/top"
)

// world is a small ledger: three accounts, of which bob runs a node.
type world struct {
	t     *testing.T
	s     *State
	chain top.ChainID
	key   map[string]keys.Private
	at    map[string]uint32
	nonce map[string]uint64
}

const txSize = 200 // bytes that every transaction here is said to have

func newWorld(t *testing.T, set ...func(*Params)) *world {
	t.Helper()
	w := &world{t: t, chain: top.ChainID{7}, key: map[string]keys.Private{}, at: map[string]uint32{}, nonce: map[string]uint64{}}
	p := DefaultParams(w.chain)
	p.FeePerByte, p.AccountFee, p.AllowanceBytes = 10, 1000, 400
	p.UnlockSeconds, p.DeadlineSec, p.DeadlineBlocks = 100, 10, 5
	for _, f := range set {
		f(&p)
	}
	g := Genesis{Params: p, Time: 1_800_000_000}
	for i, name := range []string{"alice", "bob", "carol"} {
		k := keys.FromSeed([32]byte{byte(i + 1)})
		w.key[name], w.at[name] = k, uint32(i)
		g.Accounts = append(g.Accounts, GenesisAccount{Address: k.Public(), Balance: 1000 * top.One})
	}
	w.key["node"], w.key["nobody"] = keys.FromSeed([32]byte{77}), keys.FromSeed([32]byte{78})
	var err error
	if w.s, err = New(g); err != nil {
		t.Fatal(err)
	}
	w.begin(1, 1)
	return w
}

// begin starts a block some seconds after the last.
func (w *world) begin(blocks, seconds uint64) []Move {
	return w.s.Begin(w.s.Height()+top.Height(blocks), w.s.Now()+seconds*1000)
}

// tx is a transaction of somebody, with the next nonce, signed.
func (w *world) tx(who string, b Body) *Tx {
	w.t.Helper()
	w.nonce[who]++
	return w.sign(&Tx{Chain: w.chain, From: w.at[who], Nonce: w.nonce[who], Expiry: w.s.Now()/1000 + 60, Body: b}, who)
}

func (w *world) sign(t *Tx, who string) *Tx {
	w.t.Helper()
	if err := t.Sign(w.key[who].Signer()); err != nil {
		w.t.Fatal(err)
	}
	return t
}

// do applies and wants success.
func (w *world) do(t *Tx) Result {
	w.t.Helper()
	r := w.s.Apply(t, txSize)
	if r.Code != 0 {
		w.t.Fatalf("%s: %s", t.Body.Kind(), r.Message)
	}
	return r
}

// deny applies and wants a refusal that says why, and nothing changed but a fee
// and a nonce, if paid (L3). It gives the result.
func (w *world) deny(t *Tx, kind top.Kind, why string, fee bool) Result {
	w.t.Helper()
	before, acc := w.s.Root(), Account{}
	if int(t.From) < w.s.Accounts() {
		acc = w.s.Account(t.From)
	}
	r := w.s.Apply(t, txSize)
	if r.Kind != kind || r.Code != uint32(kind.Exit()) || !strings.Contains(r.Message, why) {
		w.t.Fatalf("%s: %q %q, want %s: %s", t.Body.Kind(), r.Kind, r.Message, kind, why)
	}
	if len(r.Moves) != 0 || r.Paid != 0 {
		w.t.Errorf("%s was refused and moved money: %+v", t.Body.Kind(), r)
	}
	if !fee {
		if w.s.Root() != before || r.Fee != 0 {
			w.t.Errorf("%s was refused and changed the state", t.Body.Kind())
		}
		return r
	}
	if r.Fee != txSize*w.s.params.FeePerByte && !r.Free {
		w.t.Errorf("%s: fee %s", t.Body.Kind(), r.Fee)
	}
	now := w.s.Account(t.From)
	acc.Balance -= r.Fee
	acc.Nonce, acc.Window, acc.Allowance, acc.AllowanceAt = now.Nonce, now.Window, now.Allowance, now.AllowanceAt
	if now != acc {
		w.t.Errorf("%s was refused and changed the account: %+v, was %+v", t.Body.Kind(), now, acc)
	}
	return r
}

func (w *world) balance(who string) top.Amount { return w.s.Account(w.at[who]).Balance }

// register enters bob's node.
func (w *world) register() {
	b := &Register{Name: "bob", Offers: []session.Offer{{Service: "relay", Unit: "message", Price: 10, Window: 16}}, Capacity: 5}
	if err := b.SignNode(w.key["node"].Signer(), w.chain, w.key["bob"].Public()); err != nil {
		w.t.Fatal(err)
	}
	w.do(w.tx("bob", b))
}

// open opens a channel of alice to bob.
func (w *world) open(limit top.Amount) top.ID {
	w.t.Helper()
	r := w.do(w.tx("alice", &Open{Provider: w.at["bob"], Cap: limit, Expiry: w.s.Now()/1000 + 1000}))
	return *r.Channel
}

// claim is a claim of so many ticks at a price, on top of an amount.
func (w *world) claim(id top.ID, seq uint64, amount top.Amount, ticks uint32) *session.Claim {
	w.t.Helper()
	chain := session.NewHashChain([32]byte{byte(seq)}, 100)
	c := &session.Claim{Voucher: session.Voucher{
		Chain: w.chain, Channel: id, Seq: seq, Amount: amount,
		Anchors: []session.Anchor{{Session: top.SessionID{1}, Price: top.One, Root: chain.Root(), N: 100}},
	}}
	c.Ticks = []session.Tick{{Session: top.SessionID{1}, I: ticks}}
	if ticks > 0 {
		c.Ticks[0].W = chain.At(ticks)
	}
	w.promise(c, "alice")
	return c
}

func (w *world) promise(c *session.Claim, who string) {
	w.t.Helper()
	if err := c.Voucher.Sign(w.key[who].Signer()); err != nil {
		w.t.Fatal(err)
	}
}

// claimTx is a claim by bob's account or his node.
func (w *world) claimTx(who string, b Body) *Tx {
	return w.sign(&Tx{Chain: w.chain, From: w.at["bob"], Expiry: w.s.Now()/1000 + 60, Body: b}, who)
}

func TestL1_MoneyIsConserved(t *testing.T) {
	w := newWorld(t)
	w.register()
	id := w.open(50 * top.One)
	dave := keys.FromSeed([32]byte{50})
	for _, tx := range []*Tx{
		w.tx("alice", &Transfer{To: ToAddress(dave.Public()), Amount: top.One}),
		w.tx("alice", &Batch{New: []top.Address{keys.FromSeed([32]byte{51}).Public()}, Records: []Record{{0, top.One}, {2, 5}}}),
		w.tx("carol", &Lock{Amount: 10 * top.One}),
		w.tx("carol", &Unlock{Amount: 3 * top.One}),
		w.claimTx("node", &Claim{Claim: *w.claim(id, 1, top.One, 7)}),
		w.claimTx("bob", &Close{Channel: id, Claim: w.claim(id, 2, 3*top.One, 60)}),
	} {
		w.do(tx)
		if err := w.s.Check(); err != nil {
			t.Fatal(err)
		}
	}
	w.begin(1, 200)
	if err := w.s.Check(); err != nil {
		t.Fatal(err)
	}
	// The check itself sees a nano that is too many.
	w.s.hot[0].balance++
	if err := w.s.Check(); err == nil || !strings.Contains(err.Error(), "L1") {
		t.Errorf("a nano from nowhere: %v", err)
	}
}

func TestL2_NoNonceTwice(t *testing.T) {
	w := newWorld(t)
	pay := func(nonce uint64) *Tx {
		return w.sign(&Tx{Chain: w.chain, Nonce: nonce, Expiry: w.s.Now()/1000 + 60, Body: &Transfer{To: To(1), Amount: 1}}, "alice")
	}
	first := pay(1)
	w.do(first)
	w.deny(first, top.Denied, "nonce 1 was used", false)
	w.deny(pay(0), top.Denied, "nonce 0", false)
	w.do(pay(10))
	w.do(pay(9)) // a lost transaction blocks nothing
	w.do(pay(2))
	w.deny(pay(9), top.Denied, "was used", false)
	w.do(pay(10 + maxNonceJump))
	w.deny(pay(11), top.Denied, "too old", false)
	w.deny(pay(10+2*maxNonceJump+1), top.Denied, "more than", false)
	w.do(pay(10 + maxNonceJump - 63))
	w.deny(pay(10+maxNonceJump-64), top.Denied, "too old", false)
	a := w.s.Account(0)
	for n, used := range map[uint64]bool{1: true, 11: true, a.Nonce: true, a.Nonce - 63: true, a.Nonce - 62: false, a.Nonce + 1: false} {
		if a.NonceUsed(n) != used {
			t.Errorf("nonce %d is used: %t", n, !used)
		}
	}
}

func TestL3_AFailureChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.register()
	id := w.open(top.One)
	nobody := w.key["nobody"].Public()
	free, fee := false, true
	edit := func(who string, b Body, f func(*Tx)) *Tx {
		tx := w.tx(who, b)
		f(tx)
		return w.sign(tx, who)
	}
	small := &Transfer{To: To(1), Amount: 1}
	otherNode := &Register{Name: "thief"}
	if err := otherNode.SignNode(w.key["node"].Signer(), w.chain, w.key["carol"].Public()); err != nil {
		t.Fatal(err)
	}
	unsigned := &Register{Node: w.key["nobody"].Public()}
	self := &Register{}
	if err := self.SignNode(w.key["carol"].Signer(), w.chain, w.key["carol"].Public()); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		tx   *Tx
		kind top.Kind
		why  string
		fee  bool
	}{
		{"foreign chain", edit("alice", small, func(x *Tx) { x.Chain[0]++ }), top.Denied, "is for chain", free},
		{"expired", edit("alice", small, func(x *Tx) { x.Expiry = w.s.Now() / 1000 }), top.Denied, "expired", free},
		{"no such account", edit("alice", small, func(x *Tx) { x.From = 9 }), top.NotFound, "there is none", free},
		{"another's account", edit("alice", small, func(x *Tx) { x.From = 2 }), top.Denied, "another key", free},
		{"overspend", w.tx("alice", &Transfer{To: To(1), Amount: 1000 * top.One}), top.Denied, "the balance is", fee},
		{"no such recipient", w.tx("alice", &Transfer{To: To(44), Amount: 1}), top.NotFound, "account 44", fee},
		{"dust to a new account", w.tx("alice", &Transfer{To: ToAddress(nobody), Amount: 1000}), top.Denied, "a new account costs", fee},
		{"lock too much", w.tx("alice", &Lock{Amount: 1000 * top.One}), top.Denied, "the balance is", fee},
		{"unlock too much", w.tx("alice", &Unlock{Amount: 1}), top.Denied, "are locked", fee},
		{"another's node", w.tx("carol", otherNode), top.Denied, "belongs to account 1", fee},
		{"a node that did not agree", w.tx("carol", unsigned), top.Denied, "did not sign", fee},
		{"one key for both", w.tx("carol", self), top.Denied, "must not be the account's", fee},
		{"no node to take out", w.tx("carol", &Unregister{}), top.NotFound, "has no node", fee},
		{"channel to nobody", w.tx("alice", &Open{Provider: 44, Cap: 1, Expiry: 1 << 40}), top.NotFound, "account 44", fee},
		{"channel to oneself", w.tx("alice", &Open{Provider: 0, Cap: 1, Expiry: 1 << 40}), top.Denied, "to oneself", fee},
		{"channel too short", w.tx("alice", &Open{Provider: 1, Cap: 1, Expiry: w.s.Now()/1000 + 9}), top.Denied, "expires in less", fee},
		{"cap too high", w.tx("alice", &Open{Provider: 1, Cap: 1000 * top.One, Expiry: 1 << 40}), top.Denied, "the balance is", fee},
		{"close another's", w.tx("carol", &Close{Channel: id}), top.Denied, "is paid by account 0", fee},
		{"close none", w.tx("carol", &Close{Channel: top.ID{1}}), top.NotFound, "there is none", fee},
		{"close and claim as payer", w.tx("alice", &Close{Channel: id, Claim: w.claim(id, 1, 1, 0)}), top.Invalid, "only the provider", fee},
		{"reclaim too early", w.tx("alice", &Reclaim{Channel: id}), top.Denied, "claims count until", fee},
		{"reclaim another's", w.tx("carol", &Reclaim{Channel: id}), top.Denied, "is paid by account 0", fee},
		{"reclaim none", w.tx("carol", &Reclaim{Channel: top.ID{1}}), top.NotFound, "there is none", fee},
	} {
		t.Run(tc.name, func(t *testing.T) { w.deny(tc.tx, tc.kind, tc.why, tc.fee) })
	}
}

func TestL3_NobodyWhoCouldPay(t *testing.T) {
	w := newWorld(t)
	poor := keys.FromSeed([32]byte{60})
	w.key["poor"], w.at["poor"] = poor, 3
	w.do(w.tx("alice", &Transfer{To: ToAddress(poor.Public()), Amount: 1000 + txSize*10 - 1}))
	w.deny(w.tx("poor", &Transfer{To: To(0), Amount: 1}), top.Denied, "the fee is", false)
	w.do(w.tx("alice", &Transfer{To: To(3), Amount: 1}))
	w.deny(w.tx("poor", &Transfer{To: To(0), Amount: 1}), top.Denied, "the balance is 0", true)
	if w.balance("poor") != 0 {
		t.Errorf("poor has %s", w.balance("poor"))
	}
}

func TestL4_AChannelPaysItsCapOnce(t *testing.T) {
	w := newWorld(t)
	w.register()
	id := w.open(20 * top.One)
	before := w.balance("bob")
	r := w.do(w.claimTx("node", &Claim{Claim: *w.claim(id, 2, top.One, 5)}))
	if r.Paid != 6*top.One || w.balance("bob") != before+6*top.One-r.Fee {
		t.Fatalf("paid %s, bob has %s more", r.Paid, w.balance("bob")-before)
	}
	again := w.claimTx("node", &Claim{Claim: *w.claim(id, 2, top.One, 5)})
	w.deny(again, top.Denied, "nothing to gain", false)
	w.deny(w.claimTx("node", &Claim{Claim: *w.claim(id, 1, 9*top.One, 0)}), top.Denied, "older than voucher 2", false)
	if r := w.do(w.claimTx("bob", &Claim{Claim: *w.claim(id, 2, top.One, 9)})); r.Paid != 4*top.One {
		t.Errorf("paid %s for four more ticks", r.Paid)
	}
	// Beyond the cap nothing is paid, and a smaller claim takes nothing back.
	if r := w.do(w.claimTx("node", &Claim{Claim: *w.claim(id, 3, 19*top.One, 100)})); r.Paid != 10*top.One {
		t.Errorf("paid %s, the cap had 10 left", r.Paid)
	}
	w.deny(w.claimTx("node", &Claim{Claim: *w.claim(id, 4, 19*top.One, 100)}), top.Denied, "nothing to gain", false)
	w.do(w.claimTx("node", &Close{Channel: id}))
	w.deny(w.claimTx("node", &Close{Channel: id}), top.Denied, "a node key cannot sign a close", false)
	w.deny(w.tx("alice", &Close{Channel: id}), top.NotFound, "it is closed", true)
	w.deny(w.claimTx("node", &Claim{Claim: *w.claim(id, 5, 19*top.One, 100)}), top.NotFound, "closed", false)
}

func TestClaimRefusals(t *testing.T) {
	w := newWorld(t)
	w.register()
	id, other := w.open(20*top.One), w.open(20*top.One)
	twisted := func(f func(*session.Claim)) *Tx {
		c := w.claim(id, 1, top.One, 5)
		f(c)
		w.promise(c, "alice")
		return w.claimTx("node", &Claim{Claim: *c})
	}
	forged := w.claim(id, 1, top.One, 5)
	w.promise(forged, "carol")
	signedLess := w.claim(id, 1, top.One, 5)
	signedLess.Voucher.Amount += top.One
	wrongNonce := w.claimTx("node", &Claim{Claim: *w.claim(id, 1, top.One, 5)})
	wrongNonce.Nonce = 1
	late := w.claimTx("node", &Claim{Claim: *w.claim(id, 1, top.One, 5)})
	late.Expiry = w.s.Now() / 1000
	stranger := w.sign(&Tx{Chain: w.chain, From: w.at["carol"], Expiry: 1 << 40, Body: &Claim{Claim: *w.claim(id, 1, top.One, 5)}}, "carol")
	for _, tc := range []struct {
		name string
		tx   *Tx
		kind top.Kind
		why  string
	}{
		{"voucher of another chain", twisted(func(c *session.Claim) { c.Voucher.Chain[0]++ }), top.Denied, "the voucher is for channel"},
		{"tick of another channel", twisted(func(c *session.Claim) { c.Ticks[0].W = w.claim(other, 9, 0, 5).Ticks[0].W }), top.Denied, ""},
		{"tick beyond the anchor", twisted(func(c *session.Claim) { c.Ticks[0].I = 101 }), top.Denied, ""},
		{"tick counted twice", twisted(func(c *session.Claim) { c.Ticks[0].I = 6 }), top.Denied, ""},
		{"signed by another", w.claimTx("node", &Claim{Claim: *forged}), top.Denied, "not signed by"},
		{"changed after it was signed", w.claimTx("node", &Claim{Claim: *signedLess}), top.Denied, "not signed by"},
		{"with a nonce", w.sign(wrongNonce, "node"), top.Invalid, "has nonce 0"},
		{"expired", w.sign(late, "node"), top.Denied, "expired"},
		{"by a stranger", stranger, top.Denied, "pays account 1"},
		{"by another key for bob", w.claimTx("nobody", &Claim{Claim: *w.claim(id, 1, top.One, 5)}), top.Denied, "neither its key"},
		{"worth less than its fee", w.claimTx("node", &Claim{Claim: *w.claim(id, 1, txSize*10, 0)}), top.Denied, "nothing to gain"},
	} {
		t.Run(tc.name, func(t *testing.T) { w.deny(tc.tx, tc.kind, tc.why, false) })
	}
	// A voucher for one channel shown on another.
	c := w.claim(id, 1, top.One, 5)
	w.deny(w.claimTx("node", &Close{Channel: other, Claim: c}), top.Denied, "the voucher is for channel", false)
}

func TestL5_ANodeKeyCannotSpend(t *testing.T) {
	w := newWorld(t)
	w.register()
	id := w.open(top.One)
	for _, b := range []Body{
		&Transfer{To: To(0), Amount: 1}, &Batch{Records: []Record{{0, 1}}}, &Lock{Amount: 1}, &Unlock{Amount: 1},
		&Register{Node: w.key["node"].Public()}, &Unregister{}, &Open{Provider: 0, Cap: 1, Expiry: 1 << 40}, &Reclaim{Channel: id},
		&Close{Channel: top.ID{4}},
	} {
		tx := w.sign(&Tx{Chain: w.chain, From: w.at["bob"], Nonce: 99, Expiry: 1 << 40, Body: b}, "node")
		w.deny(tx, top.Denied, "a node key cannot sign", false)
		if err := w.s.Admit(tx, txSize); !errors.Is(err, top.ErrDenied) {
			t.Errorf("%s by a node key is admitted: %v", b.Kind(), err)
		}
	}
	// What a node key may do never costs its owner anything.
	before := w.balance("bob")
	w.do(w.claimTx("node", &Close{Channel: id, Claim: w.claim(id, 1, 3, 0)}))
	if w.balance("bob") < before {
		t.Errorf("a close of 3 nano cost bob %s", before-w.balance("bob"))
	}
}

func TestL6_ABatchIsWholeOrNothing(t *testing.T) {
	w := newWorld(t)
	x, y := keys.FromSeed([32]byte{90}), keys.FromSeed([32]byte{91})
	two := []top.Address{x.Public(), y.Public()}
	for _, tc := range []struct {
		name string
		b    *Batch
		kind top.Kind
		why  string
	}{
		{"the last record has no account", &Batch{New: two, Records: []Record{{0, top.One}, {1, top.One}, {2 + 44, 1}}}, top.NotFound, "record 2"},
		{"one new account gets too little", &Batch{New: two, Records: []Record{{0, top.One}, {1, 1000}}}, top.Denied, "costs"},
		{"one new account gets nothing", &Batch{New: two, Records: []Record{{0, top.One}}}, top.Denied, "costs"},
		{"an address twice", &Batch{New: []top.Address{x.Public(), x.Public()}, Records: []Record{{0, top.One}}}, top.Invalid, "listed twice"},
		{"more than the balance", &Batch{New: two, Records: []Record{{0, 600 * top.One}, {1, 600 * top.One}}}, top.Denied, "the balance is"},
		{"more than there is", &Batch{Records: []Record{{0, top.MaxSupply}, {1, 1}}}, top.Denied, "more than there can ever be"},
		{"more than a sum can hold", &Batch{Records: []Record{{0, top.MaxSupply}, {1, 1<<64 - 1 - top.MaxSupply}, {1, 2}}}, top.Denied, "more than there can ever be"},
		{"a sum that wraps to nothing", &Batch{Records: []Record{{0, 1 << 63}, {1, 1 << 63}, {1, 1}}}, top.Denied, "more than there can ever be"},
	} {
		t.Run(tc.name, func(t *testing.T) { w.deny(w.tx("alice", tc.b), tc.kind, tc.why, true) })
	}
	if w.s.Accounts() != 3 {
		t.Fatalf("%d accounts after batches that failed", w.s.Accounts())
	}
	a0, b0 := w.balance("alice"), w.balance("bob")
	r := w.do(w.tx("alice", &Batch{New: two, Records: []Record{{0, top.One}, {1, 2000}, {0, 500}, {2 + 1, 7}, {2 + 0, 9}}}))
	if got := w.s.Account(3).Balance; got != top.One+500-1000 {
		t.Errorf("x has %s", got)
	}
	if got := w.balance("bob") - b0; got != 7 {
		t.Errorf("bob got %s", got)
	}
	if got, want := a0-w.balance("alice"), top.One+2000+500+7+r.Fee; got != want {
		t.Errorf("alice paid %s, want %s", got, want)
	}
}

func TestL7_TheSameRoot(t *testing.T) {
	a, b := newWorld(t), newWorld(t)
	if a.s.Root() != b.s.Root() {
		t.Fatal("two states at genesis differ")
	}
	for i, w := range []*world{a, b} {
		w.register()
		id := w.open(10 * top.One)
		w.do(w.tx("carol", &Lock{Amount: 5 * top.One}))
		w.do(w.tx("carol", &Unlock{Amount: 2 * top.One}))
		if i == 1 { // by way of a snapshot
			again, err := Load(w.s.Encode())
			if err != nil {
				t.Fatal(err)
			}
			w.s = again
		}
		w.do(w.claimTx("node", &Claim{Claim: *w.claim(id, 1, top.One, 3)}))
		w.begin(2, 200)
		if i == 1 {
			again, err := Load(w.s.Encode())
			if err != nil {
				t.Fatal(err)
			}
			w.s = again
		}
		w.do(w.tx("alice", &Transfer{To: To(2), Amount: 5}))
	}
	if a.s.Root() != b.s.Root() {
		t.Error("the root after a snapshot is another")
	}
	if err := b.s.Check(); err != nil {
		t.Error(err)
	}
	raw := a.s.Encode()
	for i := 0; i < len(raw); i += 7 {
		bad := slices.Clone(raw)
		bad[i] ^= 4
		if s, err := Load(bad); err == nil && s.Root() != a.s.Root() {
			t.Fatalf("byte %d: a snapshot with another root is loaded", i)
		}
	}
	if _, err := Load(raw[:len(raw)-1]); !errors.Is(err, top.ErrInvalid) {
		t.Errorf("a short snapshot: %v", err)
	}
}

func TestL8_ProofsOfPresenceAndAbsence(t *testing.T) {
	w := newWorld(t)
	w.register()
	id := w.open(10 * top.One)
	for i := range 200 { // several pages
		k := keys.FromSeed([32]byte{byte(i), 99})
		w.do(w.tx("alice", &Transfer{To: ToAddress(k.Public()), Amount: top.One + top.Amount(i)}))
		w.begin(1, 1)
	}
	root := w.s.Root()
	for _, who := range []string{"alice", "bob", "carol"} {
		p := reread(t, w.s.ProveAccount(w.key[who].Public()))
		a, i, ok, err := p.Verify(root)
		if err != nil || !ok || i != w.at[who] || a != w.s.Account(i) {
			t.Errorf("%s: %+v %d %t %v", who, a, i, ok, err)
		}
	}
	p := reread(t, w.s.ProveAccount(w.key["nobody"].Public()))
	if _, _, ok, err := p.Verify(root); err != nil || ok {
		t.Errorf("nobody: %t %v", ok, err)
	}
	for _, c := range []struct {
		id   top.ID
		open bool
	}{{id, true}, {top.ID{9}, false}} {
		p := w.s.ProveChannel(c.id)
		var q ChannelProof
		if err := q.Decode(p.Encode()); err != nil {
			t.Fatal(err)
		}
		ch, ok, err := q.Verify(root)
		if err != nil || ok != c.open || ok && ch != *w.s.channel[id] {
			t.Errorf("channel %s: %+v %t %v", c.id.Short(), ch, ok, err)
		}
	}
	for _, n := range []struct {
		id   top.NodeID
		here bool
	}{{w.key["node"].Public(), true}, {w.key["nobody"].Public(), false}} {
		p := w.s.ProveNode(n.id)
		var q NodeProof
		if err := q.Decode(p.Encode()); err != nil {
			t.Fatal(err)
		}
		row, ok, err := q.Verify(root)
		if err != nil || ok != n.here || ok && row.Name != "bob" {
			t.Errorf("node: %+v %t %v", row, ok, err)
		}
	}
	m := w.s.ProveMeta()
	if meta, err := m.Verify(root); err != nil || meta.Supply != 3000*top.One || meta.Params.FeePerByte != 10 {
		t.Errorf("meta: %+v %v", meta, err)
	}
}

func reread(t *testing.T, p AccountProof) (q AccountProof) {
	t.Helper()
	if err := q.Decode(p.Encode()); err != nil {
		t.Fatal(err)
	}
	return q
}

func TestL8_AFalseProofDoesNotVerify(t *testing.T) {
	w := newWorld(t)
	w.register()
	id := w.open(10 * top.One)
	old := w.s.Root()
	oldProof := w.s.ProveAccount(w.key["alice"].Public())
	w.do(w.tx("alice", &Transfer{To: To(1), Amount: top.One}))
	root := w.s.Root()
	if _, _, _, err := oldProof.Verify(root); !errors.Is(err, top.ErrFailed) {
		t.Errorf("a proof of the past against the present: %v", err)
	}
	if _, _, _, err := w.s.ProveAccount(w.key["alice"].Public()).Verify(old); !errors.Is(err, top.ErrFailed) {
		t.Errorf("a proof of the present against the past: %v", err)
	}
	account := w.s.ProveAccount(w.key["alice"].Public())
	absent := w.s.ProveAccount(w.key["nobody"].Public())
	for name, tc := range map[string]struct {
		raw    []byte
		verify func([]byte) (string, error)
	}{
		"account": {account.Encode(), verifyAccount(root, w.key["alice"].Public())},
		"absence": {absent.Encode(), verifyAccount(root, w.key["nobody"].Public())},
		"channel": {w.s.ProveChannel(id).Encode(), func(b []byte) (string, error) {
			var p ChannelProof
			if err := p.Decode(b); err != nil {
				return "", err
			}
			_, ok, err := p.Verify(root)
			return fmt.Sprint(p.ID() == id, ok), err
		}},
		"node": {w.s.ProveNode(w.key["node"].Public()).Encode(), func(b []byte) (string, error) {
			var p NodeProof
			if err := p.Decode(b); err != nil {
				return "", err
			}
			n, ok, err := p.Verify(root)
			return fmt.Sprint(p.ID() == w.key["node"].Public(), ok, n.Name), err
		}},
		"meta": {w.s.ProveMeta().Encode(), func(b []byte) (string, error) {
			var p MetaProof
			if err := p.Decode(b); err != nil {
				return "", err
			}
			m, err := p.Verify(root)
			return fmt.Sprint(m), err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			want, err := tc.verify(tc.raw)
			if err != nil {
				t.Fatal(err)
			}
			for i := range tc.raw {
				for _, flip := range []byte{1, 0x80} {
					bad := slices.Clone(tc.raw)
					bad[i] ^= flip
					got, err := tc.verify(bad)
					// A changed proof may say, truly, that another key is absent.
					if err == nil && !strings.HasPrefix(got, "false false") {
						t.Fatalf("byte %d of %d, flipped by %#x, still verifies: %s, was %s", i, len(bad), flip, got, want)
					}
				}
			}
		})
	}
}

func verifyAccount(root top.ID, key top.Address) func([]byte) (string, error) {
	return func(b []byte) (string, error) {
		var p AccountProof
		if err := p.Decode(b); err != nil {
			return "", err
		}
		_, _, ok, err := p.Verify(root)
		return fmt.Sprint(p.Address == key, ok), err
	}
}

func TestL9_AnEmptyBlockLeavesTheRoot(t *testing.T) {
	w := newWorld(t)
	w.do(w.tx("carol", &Lock{Amount: 5 * top.One}))
	root := w.s.Root()
	for range 5 {
		w.begin(1, 3600)
	}
	if w.s.Root() != root {
		t.Error("the root changed in blocks that change nothing")
	}
	w.do(w.tx("carol", &Unlock{Amount: top.One}))
	root = w.s.Root()
	w.begin(1, 99)
	if w.s.Root() != root {
		t.Error("the root changed before the unlock")
	}
	if moves := w.begin(1, 1); len(moves) != 1 || moves[0].Amount != top.One || w.s.Root() == root {
		t.Errorf("after 100 s: %+v", moves)
	}
}

func TestAllowanceRefillsExactly(t *testing.T) {
	w := newWorld(t, func(p *Params) { p.AllowanceBytes = 400 })
	w.do(w.tx("alice", &Lock{Amount: top.One + top.One/2})) // half a TOP earns nothing
	if r := w.do(w.tx("alice", &Transfer{To: To(1), Amount: 1})); r.Free || r.Fee == 0 {
		t.Fatalf("free at once: %+v", r)
	}
	w.begin(1, 24*3600/2-1)
	if r := w.do(w.tx("alice", &Transfer{To: To(1), Amount: 1})); r.Free {
		t.Fatal("a second before half a day, 200 bytes are free")
	}
	w.begin(1, 1)
	if r := w.do(w.tx("alice", &Transfer{To: To(1), Amount: 1})); !r.Free || r.Fee != 0 {
		t.Fatalf("after half a day, 200 bytes are not free: %+v", r)
	}
	// Many small steps refill what one large step does; a day's worth is the most.
	for range 24 * 60 {
		w.begin(1, 60)
	}
	if got := AllowanceAt(w.s.params, w.s.Account(0), w.s.Now()); got != 400 {
		t.Errorf("%d bytes after a day", got)
	}
	w.begin(1, 10*24*3600)
	if got := AllowanceAt(w.s.params, w.s.Account(0), w.s.Now()); got != 400 {
		t.Errorf("%d bytes after ten days more", got)
	}
	// A failed transaction uses it too, and one that it does not cover pays whole.
	w.deny(w.tx("alice", &Unlock{Amount: 9 * top.One}), top.Denied, "are locked", true)
	w.do(w.tx("alice", &Transfer{To: To(1), Amount: 1}))
	if r := w.do(w.tx("alice", &Transfer{To: To(1), Amount: 1})); r.Free || r.Fee != txSize*10 {
		t.Errorf("with the allowance used up: %+v", r)
	}
}

func TestUnlocksJoinAndWaitTogether(t *testing.T) {
	w := newWorld(t)
	w.do(w.tx("alice", &Lock{Amount: 10 * top.One}))
	w.do(w.tx("alice", &Unlock{Amount: top.One}))
	w.begin(1, 60)
	w.do(w.tx("alice", &Unlock{Amount: 2 * top.One}))
	before := w.balance("alice")
	w.begin(1, 60)
	if w.balance("alice") != before {
		t.Fatal("the first unlock came back before the second was due")
	}
	w.begin(1, 40)
	if got := w.balance("alice") - before; got != 3*top.One {
		t.Errorf("%s came back", got)
	}
}

func TestDeadlineIsTimeAndBlocks(t *testing.T) {
	w := newWorld(t)
	w.register()
	id := w.open(10 * top.One)
	w.do(w.tx("alice", &Close{Channel: id}))
	w.begin(1, 100) // the time has passed, the blocks have not
	w.deny(w.tx("alice", &Reclaim{Channel: id}), top.Denied, "claims count until", true)
	w.do(w.claimTx("node", &Claim{Claim: *w.claim(id, 1, top.One, 0)}))
	w.begin(4, 0)
	w.deny(w.claimTx("node", &Claim{Claim: *w.claim(id, 2, 2*top.One, 0)}), top.Denied, "past its deadline", false)
	before := w.balance("alice")
	r := w.do(w.tx("alice", &Reclaim{Channel: id}))
	if got := w.balance("alice") - before + r.Fee; got != 9*top.One {
		t.Errorf("%s came back", got)
	}
	if _, ok := w.s.Channel(id); ok || len(w.s.ChannelsOf(0)) != 0 || len(w.s.ChannelsOf(1)) != 0 {
		t.Error("the channel is still there")
	}
}

func TestKindsOfTheGenesis(t *testing.T) {
	w := newWorld(t, func(p *Params) { p.Kinds = []string{"transfer", "lock"} })
	w.do(w.tx("alice", &Transfer{To: To(1), Amount: 1}))
	tx := w.tx("alice", &Open{Provider: 1, Cap: 1, Expiry: 1 << 40})
	w.deny(tx, top.Denied, "takes no open transactions", false)
	if err := w.s.Admit(tx, txSize); !errors.Is(err, top.ErrDenied) {
		t.Errorf("admitted: %v", err)
	}
}

func TestStakeMovesByTheDifference(t *testing.T) {
	w := newWorld(t)
	stake := func(who, node string, a top.Amount) *Tx {
		b := &Register{Stake: a}
		if err := b.SignNode(w.key[node].Signer(), w.chain, w.key[who].Public()); err != nil {
			t.Fatal(err)
		}
		return w.tx(who, b)
	}
	before := w.balance("bob")
	fees := w.do(stake("bob", "node", 10*top.One)).Fee
	fees += w.do(stake("bob", "node", 15*top.One)).Fee
	fees += w.do(stake("bob", "node", 5*top.One)).Fee
	if got := before - w.balance("bob") - fees; got != 15*top.One {
		t.Errorf("bob has staked %s so far", got)
	}
	fees += w.do(stake("bob", "nobody", 5*top.One)).Fee // another node key: the row moves
	if _, ok := w.s.Node(w.key["node"].Public()); ok || len(w.s.Nodes("")) != 1 {
		t.Error("the old row is still there")
	}
	w.begin(1, 100)
	if got := before - w.balance("bob") - fees; got != 5*top.One {
		t.Errorf("after the delay bob has staked %s", got)
	}
	w.deny(stake("bob", "nobody", 5000*top.One), top.Denied, "the balance is", true)
	w.do(w.tx("bob", &Unregister{}))
	if len(w.s.Nodes("")) != 0 {
		t.Error("the node is still there")
	}
}

func TestVerifyOneAndMany(t *testing.T) {
	w := newWorld(t)
	var txs []Signed
	read := func(x *Tx) Signed {
		s, err := Read(x.Encode())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for range 20 {
		txs = append(txs, read(w.tx("alice", &Transfer{To: To(1), Amount: 1})))
	}
	var ring keys.Ring
	if errs := VerifyBatch(txs, &ring); errs != nil {
		t.Fatal(errs)
	}
	for name, f := range map[string]func(*Tx){
		"amount": func(x *Tx) { x.Body = &Transfer{To: To(1), Amount: 2} }, "chain": func(x *Tx) { x.Chain[3]++ },
		"from": func(x *Tx) { x.From++ }, "nonce": func(x *Tx) { x.Nonce += 100 }, "expiry": func(x *Tx) { x.Expiry++ },
		"signature": func(x *Tx) { x.Sig[40] ^= 1 }, "key": func(x *Tx) { x.Key = w.key["bob"].Public() },
		"kind": func(x *Tx) { x.Body = &Lock{Amount: 1} },
	} {
		bad := *txs[7].Tx
		f(&bad)
		if err := bad.Verify(); !errors.Is(err, top.ErrDenied) {
			t.Errorf("%s was changed after signing: %v", name, err)
		}
		list := slices.Clone(txs)
		list[7] = read(&bad)
		for i, err := range VerifyBatch(list, &ring) {
			if (err != nil) != (i == 7) {
				t.Errorf("%s: transaction %d of the batch: %v", name, i, err)
			}
		}
	}
}

func TestGenesisRefusals(t *testing.T) {
	k := keys.FromSeed([32]byte{1}).Public()
	good := Genesis{Params: DefaultParams(top.ChainID{1}), Accounts: []GenesisAccount{{Address: k, Balance: 5}}}
	for name, f := range map[string]func(*Genesis){
		"twice":         func(g *Genesis) { g.Accounts = append(g.Accounts, g.Accounts[0]) },
		"too much":      func(g *Genesis) { g.Accounts[0].Balance = top.MaxSupply + 1 },
		"sum too high":  func(g *Genesis) { g.Accounts[0].Balance, g.Accounts[0].Locked = top.MaxSupply, 1 },
		"no such kind":  func(g *Genesis) { g.Params.Kinds = []string{"mint"} },
		"a kind twice":  func(g *Genesis) { g.Params.Kinds = []string{"lock", "lock"} },
		"fee too high":  func(g *Genesis) { g.Params.FeePerByte = maxFeePerByte + 1 },
		"wild deadline": func(g *Genesis) { g.Params.DeadlineSec = maxSeconds + 1 },
	} {
		g := good
		g.Accounts = slices.Clone(good.Accounts)
		f(&g)
		if _, err := New(g); !errors.Is(err, top.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
	if _, err := ParseGenesis([]byte("{")); !errors.Is(err, top.ErrInvalid) {
		t.Errorf("half a genesis: %v", err)
	}
}
