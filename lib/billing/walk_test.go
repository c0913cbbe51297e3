package billing

import (
	"math/rand/v2"
	"slices"
	"testing"

	"top/lib/receipt"
	"top/lib/top"
)

// slow works a channel out from every receipt that there ever was, as B2, B3 and
// B4 say it.
func slow(all []receipt.Receipt, w *channelWorld, limit top.Amount) (amount, open top.Amount, paid map[top.SessionID]top.Amount) {
	var mine []receipt.Receipt
	for _, r := range all {
		if r.Ticket.Channel == w.id && r.Ticket.Chain == w.chain {
			mine = append(mine, r)
		}
	}
	for _, r := range mine {
		owed, err := r.Claim.Owed()
		if err != nil {
			panic(err)
		}
		amount = max(amount, min(owed, limit))
	}
	slices.SortFunc(mine, receipt.Receipt.Compare)
	newest := make(map[top.SessionID]receipt.Receipt)
	for _, r := range mine {
		newest[r.Ticket.Session] = r
	}
	order := make([]receipt.Receipt, 0, len(newest))
	for _, r := range newest {
		order = append(order, r)
	}
	slices.SortFunc(order, func(a, b receipt.Receipt) int {
		if a.Claim.Voucher.Seq != b.Claim.Voucher.Seq {
			return int(a.Claim.Voucher.Seq) - int(b.Claim.Voucher.Seq)
		}
		return slices.Compare(a.Ticket.Session[:], b.Ticket.Session[:])
	})
	open = amount
	paid = make(map[top.SessionID]top.Amount)
	for _, r := range order {
		part := min(open, r.LogSum)
		paid[r.Ticket.Session] = part
		open -= part
	}
	return amount, open, paid
}

// Channels live at random; their receipts arrive late, twice and in any order;
// after each the bill is held against the slow one. In the end every session has
// shown its last receipt, and the bill is what both ends know, to the last nano.
func TestB4_RandomWalk(t *testing.T) {
	const channels, steps = 8, 600
	rng := rand.New(rand.NewPCG(5, 5))
	worlds := make([]*channelWorld, channels)
	for i := range worlds {
		worlds[i] = newChannel(uint64(i))
	}
	b := New()
	var late, shown []receipt.Receipt
	limits := make([]top.Amount, channels)
	for i := range limits {
		limits[i] = top.MaxSupply
	}
	show := func(r receipt.Receipt) {
		must(t, b.Add(r))
		shown = append(shown, r)
	}
	for range steps {
		i := rng.IntN(channels)
		if r, ok := worlds[i].step(t); ok {
			late = append(late, r)
		}
		switch {
		case len(late) > 0 && rng.IntN(3) == 0:
			k := rng.IntN(len(late))
			show(late[k])
			if rng.IntN(2) == 0 { // else it comes again
				late = slices.Delete(late, k, k+1)
			}
		case rng.IntN(20) == 0:
			limits[i] = top.Amount(rng.Uint64N(uint64(worlds[i].owed()) + 1))
			b.Limit(worlds[i].chain, worlds[i].id, limits[i])
		}
		addsUp(t, b)
		held(t, b, shown, worlds, limits)
	}
	for i, w := range worlds {
		b.Limit(w.chain, w.id, top.MaxSupply)
		limits[i] = top.MaxSupply
		for _, s := range w.all {
			show(w.receipt(t, s))
		}
	}
	for _, r := range late {
		show(r)
	}
	held(t, b, shown, worlds, limits)
	settled(t, b, worlds)
}

// held compares the bill with the slow one.
func held(t *testing.T, b *Bill, shown []receipt.Receipt, worlds []*channelWorld, limits []top.Amount) {
	t.Helper()
	rows := b.Rows()
	got := make(map[top.ID]Channel)
	for _, c := range b.Channels() {
		got[c.Channel] = c
	}
	for i, w := range worlds {
		amount, open, paid := slow(shown, w, limits[i])
		c := got[w.id]
		if c.Amount != amount || c.Unattributed != open || c.Sessions != len(paid) {
			t.Fatalf("channel %s: %d, %d unattributed, %d sessions; want %d, %d, %d",
				w.id.Short(), c.Amount, c.Unattributed, c.Sessions, amount, open, len(paid))
		}
		if w.owed() <= limits[i] && c.Unpaid != 0 {
			t.Fatalf("channel %s: %d unpaid between honest ends", w.id.Short(), c.Unpaid)
		}
		for _, r := range rows {
			if r.Kind == Session && r.Channel == w.id && r.Amount != paid[r.Session] {
				t.Fatalf("session %s: %d, want %d", r.Session, r.Amount, paid[r.Session])
			}
		}
	}
}

// settled compares the bill with what both ends know.
func settled(t *testing.T, b *Bill, worlds []*channelWorld) {
	t.Helper()
	units := make(map[top.SessionID]uint64)
	for _, r := range b.Rows() {
		if r.Kind != Session || r.Unpaid != 0 {
			t.Fatalf("everything is explained, and still %+v", r)
		}
		units[r.Session] = r.Units
	}
	sum := top.Amount(0)
	for _, w := range worlds {
		sum += w.owed()
		for _, s := range w.all {
			if units[s.ticket.Session] != s.units {
				t.Fatalf("session %s: %d units on the bill, %d served", s.ticket.Session, units[s.ticket.Session], s.units)
			}
		}
	}
	got, err := b.Totals(Viewpoint{})
	must(t, err)
	if got.Amount != sum || got.Unattributed != 0 || sum == 0 {
		t.Fatalf("%+v, want %d", got, sum)
	}
}

// The rows of every bill of the walk are checked for B5 by addsUp; here is one
// where each number is known.
func TestB5_UnitsAtTheirPriceAreTheAmountAndTheUnpaid(t *testing.T) {
	w := newChannel(1)
	s := w.open(t)
	w.ticks(t, s, 12)
	b := bill(t, w.receipt(t, s))
	price := s.ticket.Price
	for _, limit := range []top.Amount{12 * price, 12*price - 1, 5 * price, 1, 0} {
		b.Limit(w.chain, w.id, limit)
		rows := b.Rows()
		want := Row{
			Kind: Session, Chain: w.chain, Channel: w.id, Payer: w.payer.Public(), Node: w.node.Public(),
			Session: s.ticket.Session, Service: s.ticket.Service, Unit: "64KiB", Units: 12, Price: price,
			Amount: limit, Unpaid: 12*price - limit,
		}
		if len(rows) != 1 || rows[0] != want {
			t.Fatalf("cap %d: %+v, want %+v", limit, rows, want)
		}
	}
}

func BenchmarkRows(b *testing.B) {
	w := newChannel(1)
	bill := New()
	for range 400 {
		if r, ok := w.step(b); ok {
			if err := bill.Add(r); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		bill.Rows()
	}
}
