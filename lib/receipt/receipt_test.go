package receipt

import (
	"errors"
	"strings"
	"testing"

	"top/lib/keys"
	"top/lib/session"
	"top/lib/top"
)

// world is two ends, a stranger, and a channel between the two.
type world struct {
	payer, node, stranger keys.Private
	chain                 top.ChainID
	channel               top.ID
}

func newWorld() world {
	return world{
		payer:    keys.FromSeed([32]byte{1}),
		node:     keys.FromSeed([32]byte{2}),
		stranger: keys.FromSeed([32]byte{3}),
		chain:    top.ChainID{7},
		channel:  top.ID{8},
	}
}

const price = 250 // nano a unit

// paid is a receipt of a session on its first anchor: settled is what the channel
// paid for other sessions, ticks what this one ticked.
func (w world) paid(t testing.TB, settled top.Amount, ticks uint32) Receipt {
	t.Helper()
	chain := session.NewHashChain([32]byte{9}, 512)
	other := session.NewHashChain([32]byte{10}, 100)
	ticket := session.Ticket{
		Chain: w.chain, Channel: w.channel, Session: top.SessionID{5}, Payer: w.payer.Public(), Node: w.node.Public(),
		Service: "vpn", Unit: "64KiB", Price: price, Root: chain.Root(), N: chain.N(), Expiry: 1_800_000_000,
	}
	must(t, ticket.SignPayer(w.payer.Signer()))
	must(t, ticket.SignNode(w.node.Signer()))
	voucher := session.Voucher{Chain: w.chain, Channel: w.channel, Seq: 3, Amount: settled, Anchors: []session.Anchor{
		{Session: top.SessionID{4}, Price: 7, Root: other.Root(), N: other.N()},
		ticket.Anchor(),
	}}
	must(t, voucher.Sign(w.payer.Signer()))
	r := Receipt{Ticket: ticket, Claim: session.Claim{Voucher: voucher, Ticks: []session.Tick{
		{Session: top.SessionID{4}, I: 11, W: other.At(11)},
		{Session: ticket.Session},
	}}}
	if ticks > 0 {
		r.Claim.Ticks[1] = session.Tick{Session: ticket.Session, I: ticks, W: chain.At(ticks)}
	}
	w.log(t, &r, top.Amount(ticks)*price)
	return r
}

// settled is a receipt of a session whose anchor is gone from the voucher.
func (w world) settled(t testing.TB, amount, sum top.Amount) Receipt {
	t.Helper()
	r := w.paid(t, amount, 0)
	r.Claim.Voucher.Anchors, r.Claim.Ticks = r.Claim.Voucher.Anchors[:1], r.Claim.Ticks[:1]
	must(t, r.Claim.Voucher.Sign(w.payer.Signer()))
	w.log(t, &r, sum)
	return r
}

// log gives the receipt a log of that sum and signs it.
func (w world) log(t testing.TB, r *Receipt, sum top.Amount) {
	t.Helper()
	var l Log
	if sum > 0 {
		must(t, l.Append(sum/2, top.ID{1}))
		must(t, l.Append(sum-sum/2, top.ID{2}))
	}
	r.LogRoot, r.LogSum, r.LogCount = l.Root()
	must(t, r.Sign(w.node.Signer()))
}

// unverified is a receipt of so many units, some of which are the node's own count.
func (w world) unverified(t testing.TB, units uint32, own uint64) Receipt {
	t.Helper()
	r := w.paid(t, 0, units)
	r.Unverified = own
	must(t, r.Sign(w.node.Signer()))
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused is a receipt that was made good, then changed.
type refused struct {
	name string
	make func(t *testing.T, w world) Receipt
	kind error
	word string // in the error
}

func (tc refused) run(t *testing.T) {
	w := newWorld()
	r := tc.make(t, w)
	err := r.Verify()
	if !errors.Is(err, tc.kind) {
		t.Fatalf("%v, want kind %v", err, tc.kind)
	}
	if !strings.Contains(err.Error(), tc.word) {
		t.Fatalf("%q does not say %q", err, tc.word)
	}
}

func TestVerify(t *testing.T) {
	w := newWorld()
	for _, tc := range []struct {
		name  string
		r     Receipt
		units uint64
	}{
		{"nothing served", w.paid(t, 0, 0), 0},
		{"one tick", w.paid(t, 0, 1), 1},
		{"a full anchor", w.paid(t, 0, 512), 512},
		{"other sessions were settled", w.paid(t, 99_999, 40), 40},
		{"settled, all of it this session's", w.settled(t, 100*price, 100*price), 100},
		{"settled, a part", w.settled(t, 100*price, 3*price), 3},
		{"settled for nothing", w.settled(t, 100*price, 0), 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := tc.r.Verify(); err != nil {
				t.Fatal(err)
			}
			if got := tc.r.Units(); got != tc.units {
				t.Fatalf("%d units, want %d", got, tc.units)
			}
			var back Receipt
			if err := back.Decode(tc.r.Encode()); err != nil {
				t.Fatal(err)
			}
			if err := back.Verify(); err != nil {
				t.Fatalf("after decoding: %v", err)
			}
			if back.ID() != tc.r.ID() {
				t.Fatal("decoding changes the name")
			}
		})
	}
}

func TestR1_EverySignatureIsChecked(t *testing.T) {
	for _, tc := range []refused{
		{"payer's signature of the ticket", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.Ticket.PayerSig[3] ^= 1
			must(t, r.Sign(w.node.Signer()))
			return r
		}, top.ErrDenied, "payer"},
		{"a stranger's signature of the ticket", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			must(t, r.Ticket.SignPayer(w.stranger.Signer()))
			must(t, r.Sign(w.node.Signer()))
			return r
		}, top.ErrDenied, "payer"},
		{"node's signature of the ticket", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.Ticket.NodeSig[3] ^= 1
			must(t, r.Sign(w.node.Signer()))
			return r
		}, top.ErrDenied, "node"},
		{"voucher signed by a stranger", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			must(t, r.Claim.Voucher.Sign(w.stranger.Signer()))
			must(t, r.Sign(w.node.Signer()))
			return r
		}, top.ErrDenied, "voucher"},
		{"voucher raised by the node", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.Claim.Voucher.Amount++
			must(t, r.Sign(w.node.Signer()))
			return r
		}, top.ErrDenied, "voucher"},
		{"voucher of another channel", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.Claim.Voucher.Channel[0] ^= 1
			must(t, r.Claim.Voucher.Sign(w.payer.Signer()))
			must(t, r.Sign(w.node.Signer()))
			return r
		}, top.ErrDenied, "channel"},
		{"voucher of another chain", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.Claim.Voucher.Chain[0] ^= 1
			must(t, r.Claim.Voucher.Sign(w.payer.Signer()))
			must(t, r.Sign(w.node.Signer()))
			return r
		}, top.ErrDenied, "chain"},
		{"all moved to another chain", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.Claim.Voucher.Chain[0] ^= 1
			r.Ticket.Chain[0] ^= 1
			return r
		}, top.ErrDenied, "signature"},
		{"not signed by the node", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.Sig = [64]byte{}
			return r
		}, top.ErrDenied, "did not sign"},
		{"signed by the payer instead of the node", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			sig, err := w.payer.Signer().Sign(domain, r.Ticket.Chain, r.body())
			must(t, err)
			r.Sig = sig
			return r
		}, top.ErrDenied, "did not sign"},
		{"signed for another purpose", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			sig, err := w.node.Signer().Sign("top/ticket/1", r.Ticket.Chain, r.body())
			must(t, err)
			r.Sig = sig
			return r
		}, top.ErrDenied, "did not sign"},
		{"log root changed", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.LogRoot[0] ^= 1
			return r
		}, top.ErrDenied, "did not sign"},
		{"log count changed", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.LogCount++
			return r
		}, top.ErrDenied, "did not sign"},
		{"log sum changed", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 10*price, 5)
			r.LogSum += price
			return r
		}, top.ErrDenied, "did not sign"},
		{"an older tick put in", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.Claim.Ticks[0] = session.Tick{Session: r.Claim.Ticks[0].Session}
			return r
		}, top.ErrDenied, "did not sign"},
	} {
		t.Run(tc.name, tc.run)
	}
}

func TestR1_SignRefusesAnotherKey(t *testing.T) {
	w := newWorld()
	r := w.paid(t, 0, 5)
	was := r.Sig
	for _, k := range []keys.Private{w.payer, w.stranger} {
		if err := r.Sign(k.Signer()); !errors.Is(err, top.ErrDenied) {
			t.Fatalf("signed by %s: %v", top.NodeID(k.Public()), err)
		}
		if r.Sig != was {
			t.Fatal("the refused signature stayed")
		}
	}
}

func TestR2_TheLogIsWhatThePayerPromised(t *testing.T) {
	for _, tc := range []refused{
		{"less than the ticks", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 10*price, 5)
			w.log(t, &r, 4*price)
			return r
		}, top.ErrDenied, "its ticks prove"},
		{"no log beside ticks", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 10*price, 5)
			w.log(t, &r, 0)
			return r
		}, top.ErrDenied, "its ticks prove"},
		{"more than the claim", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 10*price, 5)
			w.log(t, &r, 16*price)
			return r
		}, top.ErrDenied, "covers at most"},
		{"the ticks of another session counted in", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 0) // the other session ticked 11 times 7 nano
			r.Ticket.Price = 7
			r.Claim.Voucher.Anchors[1].Price = 7
			must(t, r.Ticket.SignPayer(w.payer.Signer()))
			must(t, r.Ticket.SignNode(w.node.Signer()))
			must(t, r.Claim.Voucher.Sign(w.payer.Signer()))
			w.log(t, &r, 7)
			return r
		}, top.ErrDenied, "covers at most"},
		{"settled: more than the amount", func(t *testing.T, w world) Receipt {
			return w.settled(t, 10*price, 11*price)
		}, top.ErrDenied, "covers at most"},
		{"settled: one nano more", func(t *testing.T, w world) Receipt {
			r := w.settled(t, 10, 0)
			r.Ticket.Price = 1
			must(t, r.Ticket.SignPayer(w.payer.Signer()))
			must(t, r.Ticket.SignNode(w.node.Signer()))
			w.log(t, &r, 11)
			return r
		}, top.ErrDenied, "covers at most"},
		{"a tick that does not hash to the anchor", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.Claim.Ticks[1].W[0] ^= 1
			must(t, r.Sign(w.node.Signer()))
			return r
		}, top.ErrDenied, "does not hash"},
		{"another session's tick that does not hash", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.Claim.Ticks[0].W[0] ^= 1
			must(t, r.Sign(w.node.Signer()))
			return r
		}, top.ErrDenied, "does not hash"},
		{"a tick renumbered", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.Claim.Ticks[1].I = 6
			w.log(t, &r, 6*price)
			return r
		}, top.ErrDenied, "does not hash"},
		{"a tick past the anchor", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.Claim.Ticks[1].I = 513
			must(t, r.Sign(w.node.Signer()))
			return r
		}, top.ErrDenied, "513"},
		{"a tick too few", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.Claim.Ticks = r.Claim.Ticks[:1]
			return r
		}, top.ErrInvalid, "ticks for"},
		{"a root of an empty log", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 0)
			r.LogRoot = top.ID{1}
			must(t, r.Sign(w.node.Signer()))
			return r
		}, top.ErrDenied, "log of 0 entries"},
		{"a sum of an empty log", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.LogCount, r.LogRoot = 0, top.ID{}
			must(t, r.Sign(w.node.Signer()))
			return r
		}, top.ErrDenied, "log of 0 entries"},
		{"entries and no root", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.LogRoot = top.ID{}
			must(t, r.Sign(w.node.Signer()))
			return r
		}, top.ErrDenied, "log of 2 entries"},
		{"more than there can ever be", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.Claim.Voucher.Amount = top.MaxSupply
			must(t, r.Claim.Voucher.Sign(w.payer.Signer()))
			must(t, r.Sign(w.node.Signer()))
			return r
		}, top.ErrInvalid, "ever be"},
	} {
		t.Run(tc.name, tc.run)
	}
	w := newWorld()
	r := w.paid(t, 10*price, 5)
	for units := top.Amount(5); units <= 15; units++ { // both ends of what holds
		w.log(t, &r, units*price)
		if err := r.Verify(); err != nil {
			t.Fatalf("%d units: %v", units, err)
		}
	}
}

func TestR3_TermsAreTheTickets(t *testing.T) {
	for _, tc := range []refused{
		{"the voucher has another price", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.Claim.Voucher.Anchors[1].Price = 2 * price
			must(t, r.Claim.Voucher.Sign(w.payer.Signer()))
			w.log(t, &r, 10*price)
			return r
		}, top.ErrDenied, "prices a unit"},
		{"the sum is not whole units", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 10*price, 5)
			w.log(t, &r, 5*price+1)
			return r
		}, top.ErrDenied, "not a number of units"},
		{"a free session with a sum", func(t *testing.T, w world) Receipt {
			r := w.settled(t, 10, 0)
			r.Ticket.Price = 0
			must(t, r.Ticket.SignPayer(w.payer.Signer()))
			must(t, r.Ticket.SignNode(w.node.Signer()))
			w.log(t, &r, 10)
			return r
		}, top.ErrDenied, "not a number of units"},
		{"a service that is no name", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.Ticket.Service = "a b"
			must(t, r.Ticket.SignPayer(w.payer.Signer()))
			must(t, r.Ticket.SignNode(w.node.Signer()))
			must(t, r.Sign(w.node.Signer()))
			return r
		}, top.ErrInvalid, "not names"},
		{"a unit that is no name", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 5)
			r.Ticket.Unit = ""
			must(t, r.Ticket.SignPayer(w.payer.Signer()))
			must(t, r.Ticket.SignNode(w.node.Signer()))
			must(t, r.Sign(w.node.Signer()))
			return r
		}, top.ErrInvalid, "not names"},
	} {
		t.Run(tc.name, tc.run)
	}
	w := newWorld()
	r := w.paid(t, 0, 5)
	r.Ticket.Price, r.Claim.Voucher.Anchors[1].Price = 0, 0
	must(t, r.Ticket.SignPayer(w.payer.Signer()))
	must(t, r.Ticket.SignNode(w.node.Signer()))
	must(t, r.Claim.Voucher.Sign(w.payer.Signer()))
	w.log(t, &r, 0)
	if err := r.Verify(); err != nil {
		t.Fatalf("a free session: %v", err)
	}
	if r.Units() != 5 {
		t.Fatalf("a free session of 5 ticks: %d units", r.Units())
	}
}

func TestR4_OneEncoding(t *testing.T) {
	b := newWorld().paid(t, 99, 5).Encode()
	for _, tc := range []struct {
		name string
		b    []byte
	}{
		{"nothing", nil},
		{"a byte short", b[:len(b)-1]},
		{"a byte more", append(b[:len(b):len(b)], 0)},
		{"too long", make([]byte, maxReceipt+1)},
		{"a ticket that is none", append([]byte{3, 1, 2, 3}, b...)},
		{"a varint that is not the shortest", append([]byte{b[0], b[1] | 0x80, 0}, b[2:]...)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var r Receipt
			if err := r.Decode(tc.b); !errors.Is(err, top.ErrInvalid) {
				t.Fatalf("%v, want invalid", err)
			}
		})
	}
	for i := range b { // no byte is without meaning
		c := append([]byte(nil), b...)
		c[i] ^= 0x40
		var r Receipt
		if r.Decode(c) == nil && r.Verify() == nil {
			t.Fatalf("byte %d changed and nobody sees it", i)
		}
	}
}

func TestCompare(t *testing.T) {
	w := newWorld()
	older := w.paid(t, 0, 5)
	newer := w.paid(t, 0, 6)
	longer := older
	longer.LogCount++
	voucher := older
	voucher.Claim.Voucher.Seq++
	resigned := older
	resigned.Sig[0] ^= 1
	for _, tc := range []struct {
		name string
		a, b Receipt
		want int
	}{
		{"itself", older, older, 0},
		{"more paid", newer, older, 1},
		{"longer log of a smaller sum", longer, newer, 1},
		{"newer voucher of a smaller sum", voucher, newer, 1},
	} {
		if got := tc.a.Compare(tc.b); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
		if got := tc.b.Compare(tc.a); got != -tc.want {
			t.Errorf("%s, turned round: %d, want %d", tc.name, got, -tc.want)
		}
	}
	if older.Compare(resigned) == 0 || older.Compare(resigned) != -resigned.Compare(older) {
		t.Error("two receipts of other bytes are not in order")
	}
}

func TestContradicts(t *testing.T) {
	base := newWorld().paid(t, 99*price, 5)
	with := func(change func(*Receipt)) Receipt {
		r := base
		change(&r)
		return r
	}
	for _, tc := range []struct {
		name  string
		other Receipt
		want  bool
	}{
		{"itself", base, false},
		{"grown", with(func(r *Receipt) { r.LogCount++; r.LogSum += price; r.LogRoot[0]++ }), false},
		{"grown by entries of nothing", with(func(r *Receipt) { r.LogCount++; r.LogRoot[0]++ }), false},
		{"same log, newer voucher", with(func(r *Receipt) { r.Claim.Voucher.Seq++ }), false},
		{"longer and smaller", with(func(r *Receipt) { r.LogCount++; r.LogSum -= price; r.LogRoot[0]++ }), true},
		{"as long, another root", with(func(r *Receipt) { r.LogRoot[0]++ }), true},
		{"as long, another sum", with(func(r *Receipt) { r.LogSum += price }), true},
		{"the same log, more unverified", with(func(r *Receipt) { r.Unverified = 1 }), true},
		{"grown, more unverified", with(func(r *Receipt) { r.LogCount++; r.LogSum += price; r.LogRoot[0]++; r.Unverified = 1 }), false},
		{"shorter, more unverified", with(func(r *Receipt) { r.LogCount--; r.LogSum -= price; r.LogRoot[0]++; r.Unverified = 1 }), true},
		{"another session", with(func(r *Receipt) { r.LogRoot[0]++; r.Ticket.Session[0]++ }), false},
		{"another channel", with(func(r *Receipt) { r.LogRoot[0]++; r.Ticket.Channel[0]++ }), false},
		{"another node", with(func(r *Receipt) { r.LogRoot[0]++; r.Ticket.Node[0]++ }), false},
		{"another payer", with(func(r *Receipt) { r.LogRoot[0]++; r.Ticket.Payer[0]++ }), false},
		{"another chain", with(func(r *Receipt) { r.LogRoot[0]++; r.Ticket.Chain[0]++ }), false},
	} {
		if got := base.Contradicts(tc.other); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
		if got := tc.other.Contradicts(base); got != tc.want {
			t.Errorf("%s, turned round: %v", tc.name, got)
		}
	}
}

func TestR8_WhatNobodyAcknowledgedIsToldApart(t *testing.T) {
	w := newWorld()
	plain, own := w.paid(t, 0, 40), w.unverified(t, 40, 7)
	for _, r := range []Receipt{plain, own, w.unverified(t, 40, 40)} {
		must(t, r.Verify())
		var back Receipt
		must(t, back.Decode(r.Encode()))
		if back.ID() != r.ID() || back.Unverified != r.Unverified || uint64(back.Record().Unverified) != r.Unverified {
			t.Errorf("%d unverified are read back as %d", r.Unverified, back.Unverified)
		}
	}
	if own.Compare(plain) <= 0 || !own.Contradicts(plain) {
		t.Error("which of two receipts of one log tells more?")
	}
	for _, tc := range []refused{
		{"more than all", func(t *testing.T, w world) Receipt { return w.unverified(t, 40, 41) }, top.ErrDenied, "41 units are unverified, of 40"},
		{"left out after it was signed", func(t *testing.T, w world) Receipt {
			r := w.unverified(t, 40, 7)
			r.Unverified = 0
			return r
		}, top.ErrDenied, "did not sign"},
		{"put in after it was signed", func(t *testing.T, w world) Receipt {
			r := w.paid(t, 0, 40)
			r.Unverified = 7
			return r
		}, top.ErrDenied, "did not sign"},
	} {
		t.Run(tc.name, tc.run)
	}
	// Nothing unverified has one form: it is not written.
	b := plain.Encode()
	zero := append(append(b[:len(b)-64:len(b)-64], 0), b[len(b)-64:]...)
	if err := new(Receipt).Decode(zero); !errors.Is(err, top.ErrInvalid) {
		t.Errorf("a zero that is written: %v", err)
	}
	var used Receipt
	must(t, used.Decode(own.Encode()))
	must(t, used.Decode(plain.Encode()))
	if used.Unverified != 0 {
		t.Error("decoding keeps what was there before")
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, bc := range []struct {
		name  string
		ticks uint32
	}{{"first-tick", 1}, {"tick-512", 512}} {
		b.Run(bc.name, func(b *testing.B) {
			r := newWorld().paid(b, 0, bc.ticks)
			b.ReportAllocs()
			for b.Loop() {
				if err := r.Verify(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
