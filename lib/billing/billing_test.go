package billing

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"

	"top/lib/keys"
	"top/lib/receipt"
	"top/lib/session"
	"top/lib/top"
)

// bill is a bill of receipts, all of which must be taken.
func bill(t testing.TB, receipts ...receipt.Receipt) *Bill {
	t.Helper()
	b := New()
	for _, r := range receipts {
		must(t, b.Add(r))
	}
	return b
}

// same holds two bills against each other.
func same(t testing.TB, what string, got, want *Bill) {
	t.Helper()
	if !reflect.DeepEqual(got.Rows(), want.Rows()) {
		t.Fatalf("%s: rows\n%+v\nwant\n%+v", what, got.Rows(), want.Rows())
	}
	if !reflect.DeepEqual(got.Channels(), want.Channels()) {
		t.Fatalf("%s: channels\n%+v\nwant\n%+v", what, got.Channels(), want.Channels())
	}
	if !reflect.DeepEqual(got.Receipts(), want.Receipts()) {
		t.Fatalf("%s: other receipts", what)
	}
}

// addsUp checks B4 and B5 on any bill.
func addsUp(t testing.TB, b *Bill) {
	t.Helper()
	type key struct {
		chain   top.ChainID
		channel top.ID
		payer   top.Address
	}
	sum := make(map[key]top.Amount)
	open := make(map[key]top.Amount)
	for _, r := range b.Rows() {
		k := key{r.Chain, r.Channel, r.Payer}
		sum[k] += r.Amount
		if r.Kind == Unattributed {
			open[k] += r.Amount
			continue
		}
		if r.Price != 0 && top.Amount(r.Units)*r.Price != r.Amount+r.Unpaid {
			t.Fatalf("B5: %d units at %d: %d and %d unpaid", r.Units, r.Price, r.Amount, r.Unpaid)
		}
	}
	for _, c := range b.Channels() {
		k := key{c.Chain, c.Channel, c.Payer}
		if sum[k] != c.Amount || open[k] != c.Unattributed {
			t.Fatalf("B4: rows of channel %s add up to %d (%d unattributed), the channel to %d (%d)",
				c.Channel.Short(), sum[k], open[k], c.Amount, c.Unattributed)
		}
		delete(sum, k)
	}
	if len(sum) != 0 {
		t.Fatalf("B4: rows of no channel: %v", sum)
	}
}

func TestB1_OnlyWhatVerifiesIsOnTheBill(t *testing.T) {
	w := newChannel(1)
	s := w.open(t)
	w.ticks(t, s, 9)
	good := w.receipt(t, s)
	for _, tc := range []struct {
		name   string
		change func(*receipt.Receipt)
		kind   error
	}{
		{"not signed", func(r *receipt.Receipt) { r.Sig = [64]byte{} }, top.ErrDenied},
		{"a larger sum", func(r *receipt.Receipt) { r.LogSum += r.Ticket.Price }, top.ErrDenied},
		{"a raised voucher", func(r *receipt.Receipt) {
			r.Claim.Voucher.Amount += 1000
			must(t, r.Sign(w.node.Signer()))
		}, top.ErrDenied},
		{"a tick short", func(r *receipt.Receipt) { r.Claim.Ticks = nil }, top.ErrInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bad := good
			tc.change(&bad)
			b := New()
			if err := b.Add(bad); !errors.Is(err, tc.kind) {
				t.Fatalf("on an empty bill: %v, want %v", err, tc.kind)
			}
			same(t, "after a refusal", b, New())
			must(t, b.Add(good))
			if err := b.Add(bad); !errors.Is(err, tc.kind) {
				t.Fatalf("beside the good one: %v, want %v", err, tc.kind)
			}
			same(t, "after a refusal", b, bill(t, good))
		})
	}
}

func TestB2_OrderAndRepetitionDoNotMatter(t *testing.T) {
	var all []receipt.Receipt
	for seed := range uint64(4) {
		w := newChannel(seed)
		for range 60 {
			if r, ok := w.step(t); ok {
				all = append(all, r)
			}
		}
	}
	want := bill(t, all...)
	rng := rand.New(rand.NewPCG(3, 3))
	for range 10 {
		again := append(append([]receipt.Receipt(nil), all...), all[:len(all)/2]...)
		rng.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
		same(t, "shuffled and repeated", bill(t, again...), want)
	}
	// Only the newest receipts, and those of the best claims, are needed.
	newest := want.Receipts()
	if len(newest) >= len(all) {
		t.Fatalf("%d newest of %d receipts: the test repeats no session", len(newest), len(all))
	}
	for _, r := range newest {
		must(t, want.Add(r))
	}
	same(t, "with its own receipts", want, bill(t, all...))
}

func TestB2_AnOlderReceiptChangesNothing(t *testing.T) {
	w := newChannel(1)
	s := w.open(t)
	w.ticks(t, s, 3)
	older := w.receipt(t, s)
	w.ticks(t, s, 4)
	newer := w.receipt(t, s)
	same(t, "older after newer", bill(t, newer, older), bill(t, newer))
	same(t, "older before newer", bill(t, older, newer), bill(t, newer))
	if rows := bill(t, newer, older).Rows(); len(rows) != 1 || rows[0].Units != 7 {
		t.Fatalf("rows %+v, want 7 units", rows)
	}
}

func TestB3_AChannelIsItsBestClaimCutToTheCap(t *testing.T) {
	w := newChannel(1)
	s := w.open(t)
	w.ticks(t, s, 9)
	before := w.receipt(t, s)
	owed := w.owed()
	// The payer renews its voucher for less than the node holds ticks for: the
	// node shows the claim that is worth more.
	w.voucher.Seq++
	must(t, w.voucher.Sign(w.payer.Signer()))
	after := w.receipt(t, s)
	after.Claim.Ticks = []session.Tick{{Session: s.ticket.Session}}
	after.LogRoot, after.LogSum, after.LogCount = top.ID{}, 0, 0
	must(t, after.Sign(w.node.Signer()))
	b := bill(t, before, after)
	if c := b.Channels()[0]; c.Owed != owed || c.Amount != owed || c.Capped || c.Claim.Voucher.Seq != before.Claim.Voucher.Seq {
		t.Fatalf("channel %+v, want %d owed", c, owed)
	}
	for _, tc := range []struct{ limit, want top.Amount }{
		{owed + 1, owed}, {owed, owed}, {owed - 1, owed - 1}, {1, 1}, {0, 0}, {top.MaxSupply, owed},
	} {
		b.Limit(w.chain, w.id, tc.limit)
		c := b.Channels()[0]
		if c.Amount != tc.want || c.Owed != owed || !c.Capped || c.Cap != tc.limit || c.Unpaid != owed-tc.want {
			t.Fatalf("cap %d: channel %+v, want %d", tc.limit, c, tc.want)
		}
		addsUp(t, b)
	}
	b.Limit(top.ChainID{99}, w.id, 1) // of another chain
	b.Limit(w.chain, top.ID{99}, 1)   // of another channel
	if c := b.Channels()[0]; c.Amount != owed {
		t.Fatalf("another channel's cap: %+v", c)
	}
}

func TestB4_WhatNoReceiptExplainsIsUnattributed(t *testing.T) {
	w := newChannel(1)
	first := w.open(t)
	w.ticks(t, first, 10)
	early := w.receipt(t, first)
	w.ticks(t, first, 20)
	w.close(t, 0)
	second := w.open(t)
	w.ticks(t, second, 5)
	late := w.receipt(t, second)
	known := early.LogSum + late.LogSum
	b := bill(t, early, late)
	addsUp(t, b)
	if c := b.Channels()[0]; c.Amount != w.owed() || c.Unattributed != w.owed()-known || c.Sessions != 2 {
		t.Fatalf("%+v, want %d of %d unattributed", c, w.owed()-known, w.owed())
	}
	rows := b.Rows()
	last := rows[len(rows)-1]
	if len(rows) != 3 || last.Kind != Unattributed || last.Amount != w.owed()-known || last.Payer != w.payer.Public() || last.Node != w.node.Public() {
		t.Fatalf("rows %+v", rows)
	}
	must(t, b.Add(w.receipt(t, first))) // its last receipt, long after its end
	addsUp(t, b)
	if c := b.Channels()[0]; c.Unattributed != 0 || c.Amount != w.owed() || len(b.Rows()) != 2 {
		t.Fatalf("all explained, and still %+v", c)
	}
}

func TestB4_WhatIsLoggedBeyondTheChannelIsUnpaid(t *testing.T) {
	w := newChannel(1)
	first, second := w.open(t), w.open(t)
	w.ticks(t, first, 10)
	w.ticks(t, second, 10)
	one := w.receipt(t, first)
	w.close(t, 0)
	two := w.receipt(t, second)
	b := bill(t, one, two)
	for limit := w.owed(); ; limit = limit * 2 / 3 {
		b.Limit(w.chain, w.id, limit)
		addsUp(t, b)
		paid := make(map[top.SessionID]Row)
		for _, r := range b.Rows() {
			paid[r.Session] = r
		}
		// The session of the older voucher is paid first.
		wantOne := min(limit, one.LogSum)
		wantTwo := limit - wantOne
		if got := paid[first.ticket.Session]; got.Amount != wantOne || got.Unpaid != one.LogSum-wantOne {
			t.Fatalf("cap %d: first session %+v", limit, got)
		}
		if got := paid[second.ticket.Session]; got.Amount != wantTwo || got.Unpaid != two.LogSum-wantTwo {
			t.Fatalf("cap %d: second session %+v", limit, got)
		}
		if limit == 0 {
			return
		}
	}
}

// A node that logs the channel's settled amount for each of its sessions cannot
// make the channel dearer: its sums do not fit and are cut.
func TestB4_ANodeCannotBillAnAmountTwice(t *testing.T) {
	w := newChannel(1)
	for range 3 {
		w.ticks(t, w.open(t), 10)
	}
	for len(w.live) > 0 {
		w.close(t, 0)
	}
	b := New()
	claimed := top.Amount(0)
	for _, s := range w.all {
		most := w.owed() - w.owed()%s.ticket.Price
		var l receipt.Log
		must(t, l.Append(most, top.ID{1}))
		r := w.receipt(t, s)
		r.LogRoot, r.LogSum, r.LogCount = l.Root()
		must(t, r.Sign(w.node.Signer()))
		must(t, b.Add(r))
		claimed += most
	}
	addsUp(t, b)
	if c := b.Channels()[0]; c.Amount != w.owed() || c.Unpaid != claimed-w.owed()+c.Unattributed || c.Unpaid == 0 {
		t.Fatalf("%+v, want %d", c, w.owed())
	}
}

// A stranger signs receipts for a channel that is not his. They make a channel
// of his own and touch no other.
func TestB2_AStrangersChannelIsHisOwn(t *testing.T) {
	w, thief := newChannel(1), newChannel(2)
	w.ticks(t, w.open(t), 5)
	thief.chain, thief.id = w.chain, w.id
	thief.payer, thief.node = keys.FromSeed([32]byte{66}), w.node
	thief.voucher = session.Voucher{Chain: w.chain, Channel: w.id}
	thief.settled = 1_000_000
	thief.ticks(t, thief.open(t), 50)
	honest := w.receipt(t, w.all[0])
	b := bill(t, honest, thief.receipt(t, thief.all[0]))
	addsUp(t, b)
	v := Viewpoint{Accounts: []top.Address{w.payer.Public()}}
	got, err := b.Totals(v)
	must(t, err)
	if got.Channels != 2 || got.Spent != w.owed() {
		t.Fatalf("%+v, want %d spent", got, w.owed())
	}
}

func TestB7_SameReceiptsSameOrder(t *testing.T) {
	var all []receipt.Receipt
	for i := range uint64(8) {
		w := newChannel(i/4 + 12*(i%4)) // four channels of each pair of ends
		for range 40 {
			if r, ok := w.step(t); ok {
				all = append(all, r)
			}
		}
	}
	b := bill(t, all...)
	want := b.Rows()
	for range 20 { // a map is walked in another order each time
		same(t, "again", b, b)
		if got := bill(t, all...).Rows(); !reflect.DeepEqual(got, want) {
			t.Fatal("another order of rows")
		}
	}
	place := func(r Row) string { // a service's name holds no zero byte
		return string(r.Kind) + "\x00" + r.Service + "\x00" + string(r.Node[:]) + string(r.Payer[:]) +
			string(r.Chain[:]) + string(r.Channel[:]) + string(r.Session[:])
	}
	for i := 1; i < len(want); i++ {
		if place(want[i-1]) >= place(want[i]) {
			t.Fatalf("row %+v stands before %+v", want[i-1], want[i])
		}
	}
}

func TestViewpoint(t *testing.T) {
	w := newChannel(1)
	w.ticks(t, w.open(t), 5)
	b := bill(t, w.receipt(t, w.all[0]))
	row := b.Rows()[0]
	payer, node := top.Address(w.payer.Public()), top.NodeID(w.node.Public())
	for _, tc := range []struct {
		name          string
		v             Viewpoint
		side          Side
		peer          string
		spent, earned top.Amount
	}{
		{"a stranger", Viewpoint{}, Neither, node.String(), 0, 0},
		{"the payer", Viewpoint{Accounts: []top.Address{{9}, payer}}, Spent, node.String(), w.owed(), 0},
		{"the provider", Viewpoint{Nodes: []top.NodeID{{9}, node}}, Earned, payer.String(), 0, w.owed()},
		{"both ends", Viewpoint{[]top.Address{payer}, []top.NodeID{node}}, Both, node.String(), w.owed(), w.owed()},
		{"a node whose key is the payer's", Viewpoint{Nodes: []top.NodeID{top.NodeID(payer)}}, Neither, node.String(), 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if side, peer := tc.v.Side(row), tc.v.Peer(row); side != tc.side || peer != tc.peer {
				t.Fatalf("%q with %s, want %q with %s", side, peer, tc.side, tc.peer)
			}
			got, err := b.Totals(tc.v)
			must(t, err)
			if want := (Totals{Amount: w.owed(), Spent: tc.spent, Earned: tc.earned, Sessions: 1, Channels: 1}); got != want {
				t.Fatalf("%+v, want %+v", got, want)
			}
		})
	}
}

// Receipts for more money than there can ever be are of invented chains; the sum
// over them is refused and does not wrap.
func TestSumsAreChecked(t *testing.T) {
	b := New()
	for seed := range uint64(2) {
		w := newChannel(seed)
		w.settled = top.MaxSupply - 100_000
		w.ticks(t, w.open(t), 1)
		must(t, b.Add(w.receipt(t, w.all[0])))
	}
	addsUp(t, b)
	if _, err := b.Totals(Viewpoint{}); !errors.Is(err, top.ErrInvalid) {
		t.Fatalf("totals: %v", err)
	}
	if _, err := Services(b.Rows()); !errors.Is(err, top.ErrInvalid) {
		t.Fatalf("services: %v", err)
	}
}

// What a node logs beyond the channel may itself be more than there can ever be.
func TestUnpaidDoesNotWrap(t *testing.T) {
	w := newChannel(1)
	w.settled = top.MaxSupply - 10_000_000
	for range 3 {
		w.open(t)
	}
	b := New()
	b.Limit(w.chain, w.id, 1)
	for _, s := range w.all {
		var l receipt.Log
		must(t, l.Append(w.settled-w.settled%s.ticket.Price, top.ID{1}))
		r := w.receipt(t, s)
		r.LogRoot, r.LogSum, r.LogCount = l.Root()
		must(t, r.Sign(w.node.Signer()))
		must(t, b.Add(r))
	}
	addsUp(t, b)
	if c := b.Channels()[0]; c.Unpaid != top.MaxSupply || c.Amount != 1 {
		t.Fatalf("%+v", c)
	}
	sums, err := Services(b.Rows())
	must(t, err)
	for _, s := range sums {
		if s.Unpaid > top.MaxSupply || s.Unpaid == 0 {
			t.Fatalf("%+v", s)
		}
	}
}

func TestServices(t *testing.T) {
	rows := []Row{
		{Kind: Session, Service: "vpn", Unit: "64KiB", Units: 4, Amount: 40, Unpaid: 2, Unverified: 3},
		{Kind: Session, Service: "relay", Unit: "message", Units: 1, Amount: 7},
		{Kind: Unattributed, Amount: 5},
		{Kind: Session, Service: "vpn", Unit: "64KiB", Units: 6, Amount: 60, Unpaid: 1, Unverified: 2},
		{Kind: Session, Service: "vpn", Unit: "1s", Units: 1<<64 - 1, Amount: 1},
		{Kind: Session, Service: "vpn", Unit: "1s", Units: 9, Amount: 1},
	}
	got, err := Services(rows)
	must(t, err)
	want := []Service{
		{"relay", "message", 1, 7, 0, 1, 0},
		{"vpn", "1s", 1<<64 - 1, 2, 0, 2, 0},
		{"vpn", "64KiB", 10, 100, 3, 2, 5},
		{"", "", 0, 5, 0, 0, 0},
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, want %+v", got, want)
	}
}

func TestB8_WhatNobodyAcknowledgedIsMarked(t *testing.T) {
	w := newChannel(1)
	s, other := w.open(t), w.open(t)
	w.ticks(t, s, 8)
	w.ticks(t, other, 5)
	own, plain := w.receipt(t, s), w.receipt(t, other)
	own.Unverified = 3
	must(t, own.Sign(w.node.Signer()))
	b := bill(t, own, plain)
	for _, r := range b.Rows() {
		if want := map[top.SessionID]uint64{s.ticket.Session: 3}[r.Session]; r.Unverified != want {
			t.Errorf("row of %s: %d unverified, want %d", r.Session, r.Unverified, want)
		}
	}
	totals, err := b.Totals(Viewpoint{})
	must(t, err)
	if want := 3 * s.ticket.Price; totals.Unverified != want || totals.Amount != w.owed() {
		t.Errorf("%+v, want %s unverified of %s", totals, want, w.owed())
	}
	// Never more than the row costs, however little the channel pays of it.
	b.Limit(w.chain, w.id, 1)
	if totals, err = b.Totals(Viewpoint{}); err != nil || totals.Unverified > totals.Amount {
		t.Errorf("%+v %v", totals, err)
	}
	// A receipt that says less of the same log takes nothing back.
	own.Unverified = 0
	must(t, own.Sign(w.node.Signer()))
	must(t, b.Add(own))
	if totals, err = b.Totals(Viewpoint{}); err != nil || totals.Unverified == 0 {
		t.Errorf("%+v %v", totals, err)
	}
}

func TestAnEmptyBill(t *testing.T) {
	b := New()
	if len(b.Rows()) != 0 || len(b.Channels()) != 0 || len(b.Receipts()) != 0 {
		t.Fatal("an empty bill has rows")
	}
	if got, err := b.Totals(Viewpoint{}); err != nil || got != (Totals{}) {
		t.Fatalf("%+v %v", got, err)
	}
}
