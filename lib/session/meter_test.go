package session_test

import (
	"testing"
	"time"

	"top/lib/session"
	"top/lib/top"
)

// chain is an anchor that a test makes itself, to tick as no payer would.
func chain(name string, n uint32) *session.HashChain {
	return session.NewHashChain(seeds(name)(), n)
}

// signed is a voucher that an unruly payer signs.
func (e *ends) signed(seq uint64, amount top.Amount, anchors ...session.Anchor) session.Voucher {
	e.t.Helper()
	v := session.Voucher{Chain: e.meterCfg.Chain, Channel: e.meterCfg.Channel, Seq: seq, Amount: amount, Anchors: anchors}
	e.ok(v.Sign(key(1).Signer()))
	return v
}

func TestS1_ACounterNeverGoesBack(t *testing.T) {
	e := newEnds(t, top.One)
	e.begin(sid(1), vpn())
	first := e.payer.Show()[0].Voucher
	e.run(sid(1), 700) // past a renewal
	second := e.payer.Show()[0]
	paid, owed := e.meter.Paid(sid(1)), e.owed()

	last := second.Ticks[0]
	e.ok(e.meter.Tick(e.now, &last)) // once more changes nothing
	lower := last
	lower.I--
	lower.W = session.Hash(last.W, 1)
	refused(t, e.meter.Tick(e.now, &lower), top.ErrDenied)
	same := last
	same.W[0] ^= 1
	refused(t, e.meter.Tick(e.now, &same), top.ErrDenied)

	refused(t, e.meter.Renew(e.now, session.Renewal{Voucher: first, Base: []uint64{0}}), top.ErrDenied)
	other := e.signed(second.Voucher.Seq, second.Voucher.Amount)
	refused(t, e.meter.Renew(e.now, session.Renewal{Voucher: other}), top.ErrDenied)
	back := e.signed(second.Voucher.Seq+1, second.Voucher.Amount-1)
	refused(t, e.meter.Renew(e.now, session.Renewal{Voucher: back}), top.ErrDenied)
	refused(t, e.meter.Recover(session.Claim{Voucher: back}), top.ErrDenied)
	e.ok(e.meter.Recover(session.Claim{Voucher: first, Ticks: []session.Tick{{Session: sid(1)}}})) // proves less
	if e.meter.Paid(sid(1)) != paid || e.owed() != owed {
		t.Fatalf("paid %d and owed %d became %d and %d", paid, owed, e.meter.Paid(sid(1)), e.owed())
	}
}

func TestS2_OwedIsWithinTheCap(t *testing.T) {
	e := newEnds(t, 100*price)
	tk := e.ticket(sid(1), vpn())
	e.ok(e.meter.Open(e.now, tk, vpn()))
	a := tk.Anchor()
	a.N = 100
	refused(t, e.meter.Renew(e.now, session.Renewal{Voucher: e.signed(1, 1, a), Base: []uint64{0}}), top.ErrDenied)
	refused(t, e.meter.Recover(session.Claim{Voucher: e.signed(1, 1, a), Ticks: []session.Tick{{Session: sid(1)}}}), top.ErrDenied)
	if c := e.meter.Claim(); c.Voucher.Seq != 0 {
		t.Fatalf("a refused voucher is claimed: %+v", c)
	}

	r := e.renew() // the payer itself promises no more
	if most, err := r.Voucher.Exposure(); err != nil || most > 100*price {
		t.Fatalf("the payer exposes %s, %v", most, err)
	}
	for unit := uint64(1); unit <= 100; unit++ {
		e.run(sid(1), 1)
		if most, err := e.meter.Claim().Voucher.Exposure(); err != nil || most > 100*price {
			t.Fatalf("unit %d: exposed %s, %v", unit, most, err)
		}
	}
	e.repeat()
	if e.owed() != 100*price {
		t.Fatalf("owed %s of a cap of %s", e.owed(), 100*price)
	}
	refused(t, e.meter.Serve(e.now, sid(1), 1), top.ErrDenied)
	_, due, err := e.payer.Renew(e.now.Add(time.Hour))
	if refused(t, err, top.ErrDenied); due {
		t.Fatal("a voucher beyond the cap")
	}
	e.payer.End(sid(1))
	if r := e.renew(); r.Voucher.Amount != 100*price || len(r.Voucher.Anchors) != 0 {
		t.Fatalf("the cap is settled by %+v", r.Voucher)
	}
}

func TestS3_AClosedSessionNeverChanges(t *testing.T) {
	for name, end := range map[string]func(e *ends){
		"by the provider": func(e *ends) { e.meter.Close(sid(1)) },
		"by the payer":    func(e *ends) { e.payer.End(sid(1)); e.renew() },
		"by wrong ticks": func(e *ends) {
			for range 17 {
				e.meter.Tick(e.now, &session.Tick{Session: sid(1), I: 21})
			}
		},
		"by a newer claim": func(e *ends) {
			c := session.Claim{Voucher: e.signed(9, e.owed())}
			e.ok(e.meter.Recover(c))
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnds(t, top.One)
			tk := e.ticket(sid(1), vpn())
			e.ok(e.meter.Open(e.now, tk, vpn()))
			r := e.renew()
			e.run(sid(1), 20)
			next, _ := e.payer.Served(sid(1), 21)
			end(e)
			paid, owed := e.meter.Paid(sid(1)), e.owed()
			refused(t, e.meter.Tick(e.now, &next), top.ErrDenied)
			refused(t, e.meter.Serve(e.now, sid(1), 1), top.ErrDenied)
			refused(t, e.meter.Open(e.now, tk, vpn()), top.ErrBusy)
			again := session.Anchor{Session: sid(1), Price: price, Root: chain("again", 9).Root(), N: 9}
			refused(t, e.meter.Renew(e.now, session.Renewal{Voucher: e.signed(99, 2*owed, again), Base: []uint64{20}}), top.ErrDenied)
			e.ok(e.meter.Recover(session.Claim{Voucher: r.Voucher, Ticks: []session.Tick{next}}))
			e.meter.Lost(sid(1), 1)
			e.meter.Close(sid(1))
			if e.meter.Paid(sid(1)) != paid || e.meter.Credit(sid(1)) != 0 {
				t.Fatalf("paid %d became %d, credit %d", paid, e.meter.Paid(sid(1)), e.meter.Credit(sid(1)))
			}
		})
	}
}

func TestS4_CreditIsOneWindow(t *testing.T) {
	for _, tc := range []struct {
		paid   int
		window uint32
		want   uint64
	}{
		{0, 1 << 20, 4}, {1, 1 << 20, 4}, {16, 1 << 20, 4}, {19, 1 << 20, 4}, {20, 1 << 20, 5},
		{400, 1 << 20, 100}, {400, 64, 64}, {0, 1, 1}, {400, 1, 1},
	} {
		e := newEnds(t, top.One)
		o := vpn()
		o.Window = tc.window
		e.begin(sid(1), o)
		e.run(sid(1), tc.paid)
		e.repeat()
		if w := e.meter.Window(sid(1)); w != tc.want || e.meter.Credit(sid(1)) != tc.want {
			t.Errorf("%d paid, largest %d: window %d and credit %d, want %d", tc.paid, tc.window, w, e.meter.Credit(sid(1)), tc.want)
		}
		refused(t, e.meter.Serve(e.now, sid(1), tc.want+1), top.ErrDenied)
		e.ok(e.meter.Serve(e.now, sid(1), tc.want-1))
		e.ok(e.meter.Serve(e.now, sid(1), 1))
		refused(t, e.meter.Serve(e.now, sid(1), 1), top.ErrDenied)
	}
}

// A payer that takes a window of each of many sessions, or of one session after
// the other, would have sixteen windows, or any number.
func TestS4_SessionsShareTheCredit(t *testing.T) {
	e := newEnds(t, top.One)
	for n := byte(1); n <= session.MaxAnchors; n++ {
		e.open(sid(n), vpn())
	}
	e.renew()
	e.ok(e.meter.Serve(e.now, sid(1), 3))
	e.ok(e.meter.Serve(e.now, sid(2), 1))
	for n := byte(1); n <= session.MaxAnchors; n++ {
		refused(t, e.meter.Serve(e.now, sid(n), 1), top.ErrDenied)
	}

	for n := byte(1); n <= session.MaxAnchors; n++ { // and leaves without paying
		e.payer.End(sid(n))
	}
	e.renew()
	e.begin(sid(99), vpn())
	refused(t, e.meter.Serve(e.now, sid(99), 1), top.ErrDenied)
	if owed := e.owed(); owed != 0 {
		t.Fatalf("owed %s", owed)
	}
}

// Sixteen sessions on one channel never wait for each other's ticks.
func TestS4_SixteenSessionsFlow(t *testing.T) {
	e := newEnds(t, top.One)
	for n := byte(1); n <= session.MaxAnchors; n++ {
		e.open(sid(n), vpn())
	}
	r := e.renew()
	if len(r.Voucher.Anchors) != session.MaxAnchors {
		t.Fatalf("%d anchors", len(r.Voucher.Anchors))
	}
	for range 500 {
		for n := byte(1); n <= session.MaxAnchors; n++ {
			e.run(sid(n), 1)
		}
	}
	e.repeat()
	if want := 500 * session.MaxAnchors * price; e.owed() != want {
		t.Fatalf("owed %s, want %s", e.owed(), want)
	}
	refused(t, e.meter.Open(e.now, session.Ticket{}, vpn()), top.ErrDenied)
	_, err := e.payer.Begin(e.now, sid(17), vpn())
	refused(t, err, top.ErrBusy)
}

// A payer that says that less was included than it ticked, or that shows a newer
// voucher for less, gains no unit by it.
func TestS4_ALyingRenewalGainsNothing(t *testing.T) {
	e := newEnds(t, top.One)
	e.begin(sid(1), vpn())
	e.run(sid(1), 100)
	owed := e.owed() // the ticks came to that
	a := session.Anchor{Session: sid(1), Price: price, Root: chain("low", 500).Root(), N: 500}
	e.ok(e.meter.Renew(e.now, session.Renewal{Voucher: e.signed(2, 0, a), Base: []uint64{0}}))
	if e.owed() != owed {
		t.Fatalf("owed %s became %s", owed, e.owed())
	}
	credit := e.meter.Credit(sid(1))
	low := chain("low", 500)
	for i := uint32(20); i <= 80; i += 20 { // these pay the same units once more
		e.ok(e.meter.Tick(e.now, &session.Tick{Session: sid(1), I: i, W: low.At(i)}))
	}
	if e.meter.Credit(sid(1)) != credit || e.owed() != owed {
		t.Fatalf("credit %d became %d, owed %s became %s", credit, e.meter.Credit(sid(1)), owed, e.owed())
	}
	e.ok(e.meter.Serve(e.now, sid(1), credit))

	e.ok(e.meter.Recover(session.Claim{Voucher: e.signed(3, 0)}))
	if e.owed() != owed {
		t.Fatalf("owed %s became %s", owed, e.owed())
	}
	b := session.Anchor{Session: sid(2), Price: price, N: 500}
	tk := session.Ticket{
		Chain: e.meterCfg.Chain, Channel: e.meterCfg.Channel, Session: sid(2), Payer: e.meterCfg.Payer, Node: e.meterCfg.Node,
		Service: "vpn", Unit: "64KiB", Price: price, Root: b.Root, N: 500, Expiry: 1 << 40,
	}
	e.ok(tk.SignPayer(key(1).Signer()))
	e.ok(e.meter.Open(e.now, tk, vpn()))
	e.ok(e.meter.Renew(e.now, session.Renewal{Voucher: e.signed(4, 0, b), Base: []uint64{0}}))
	refused(t, e.meter.Serve(e.now, sid(2), 1), top.ErrDenied)
}

func TestS4_LostUnitsGiveTheirCreditBack(t *testing.T) {
	e := newEnds(t, top.One)
	e.begin(sid(1), vpn())
	e.run(sid(1), 8)
	e.ok(e.meter.Serve(e.now, sid(1), 4)) // nobody acknowledges them
	refused(t, e.meter.Serve(e.now, sid(1), 1), top.ErrDenied)
	e.meter.Lost(sid(1), 3)
	e.ok(e.meter.Serve(e.now, sid(1), 3))
	refused(t, e.meter.Serve(e.now, sid(1), 1), top.ErrDenied)
	e.meter.Lost(sid(1), 1000) // no more than is unpaid
	if c := e.meter.Credit(sid(1)); c != 4 {
		t.Fatalf("credit %d, want 4", c)
	}
	if e.owed() != 8*price {
		t.Fatalf("owed %s", e.owed())
	}
}

func TestS6_AnAnchorPaysOnce(t *testing.T) {
	e := newEnds(t, top.One)
	tk := e.ticket(sid(1), vpn())
	e.ok(e.meter.Open(e.now, tk, vpn()))
	other := tk.Anchor()
	other.Root[0] ^= 1
	refused(t, e.meter.Renew(e.now, session.Renewal{Voucher: e.signed(1, 0, other), Base: []uint64{0}}), top.ErrDenied)
	long := tk.Anchor()
	long.N++
	refused(t, e.meter.Renew(e.now, session.Renewal{Voucher: e.signed(1, 0, long), Base: []uint64{0}}), top.ErrInvalid)
	refused(t, e.meter.Renew(e.now, session.Renewal{Voucher: e.signed(1, price, tk.Anchor()), Base: []uint64{1}}), top.ErrDenied)
	r := e.renew()
	if r.Voucher.Anchors[0] != tk.Anchor() {
		t.Fatalf("the first voucher promises %+v, the ticket %+v", r.Voucher.Anchors[0], tk.Anchor())
	}
	e.run(sid(1), 10)
	refused(t, e.meter.Renew(e.now, session.Renewal{Voucher: e.signed(2, 10*price, tk.Anchor()), Base: []uint64{10}}), top.ErrDenied)

	fresh := session.Anchor{Session: sid(1), Price: price, Root: chain("fresh", 9).Root(), N: 9}
	refused(t, e.meter.Renew(e.now, session.Renewal{Voucher: e.signed(2, 10*price-1, fresh), Base: []uint64{10}}), top.ErrDenied)
	refused(t, e.meter.Renew(e.now, session.Renewal{Voucher: e.signed(2, 10*price-1)}), top.ErrDenied) // ended
	e.ok(e.meter.Renew(e.now, session.Renewal{Voucher: e.signed(2, 10*price, fresh), Base: []uint64{10}}))
	e.ok(e.meter.Tick(e.now, &session.Tick{Session: sid(1), I: 1, W: chain("fresh", 9).At(1)}))
	if e.owed() != 11*price || e.meter.Paid(sid(1)) != 11 {
		t.Fatalf("owed %s, paid %d", e.owed(), e.meter.Paid(sid(1)))
	}
}

func TestS6_LateTicksArePaidOnce(t *testing.T) {
	e := newEnds(t, top.One)
	o := vpn()
	o.Window = 64 // so a tick is due every 16 units
	e.begin(sid(1), o)
	e.run(sid(1), 500)
	e.ok(e.meter.Serve(e.now, sid(1), 60))
	var late []session.Tick
	for unit := uint64(501); unit <= 560; unit++ {
		if tick, due := e.payer.Served(sid(1), unit); due {
			late = append(late, tick)
		}
		if unit == 520 {
			e.now = e.now.Add(session.VoucherEvery)
			r := e.voucher()
			e.ok(e.meter.Renew(e.now, r)) // its acknowledgement is slow
		}
	}
	before := e.owed()
	if len(late) < 3 {
		t.Fatalf("%d ticks on the old anchor", len(late))
	}
	for range 2 {
		for _, tick := range late {
			e.meter.Tick(e.now, &tick) // those before the voucher are dropped
		}
	}
	most := e.owed()
	if paid := e.meter.Paid(sid(1)); most <= before || most != top.Amount(paid)*price || paid < 540 {
		t.Fatalf("owed %s became %s, paid %d", before, most, paid)
	}
	r, _ := e.payer.Waiting()
	e.ok(e.payer.Acknowledged(r.Voucher.Seq))
	e.repeat()
	if e.owed() != 560*price || e.meter.Paid(sid(1)) != 560 {
		t.Fatalf("after the first tick on the new anchor: owed %s, paid %d", e.owed(), e.meter.Paid(sid(1)))
	}
	e.acked[sid(1)] = 560
	e.run(sid(1), 200) // no session was closed for it
}

func TestOpen(t *testing.T) {
	e := newEnds(t, top.One)
	good := e.ticket(sid(1), vpn())
	for name, tc := range map[string]struct {
		change func(*session.Ticket, *session.Offer)
		at     time.Time
		want   error
	}{
		"other chain":    {change: func(k *session.Ticket, _ *session.Offer) { k.Chain[0]++ }},
		"other channel":  {change: func(k *session.Ticket, _ *session.Offer) { k.Channel[0]++ }},
		"other payer":    {change: func(k *session.Ticket, _ *session.Offer) { k.Payer[0]++ }},
		"other node":     {change: func(k *session.Ticket, _ *session.Offer) { k.Node[0]++ }},
		"other service":  {change: func(k *session.Ticket, _ *session.Offer) { k.Service = "relay" }},
		"other unit":     {change: func(k *session.Ticket, _ *session.Offer) { k.Unit = "1s" }},
		"cheaper":        {change: func(k *session.Ticket, _ *session.Offer) { k.Price-- }},
		"offer changed":  {change: func(_ *session.Ticket, o *session.Offer) { o.Price++ }},
		"offer of free":  {change: func(_ *session.Ticket, o *session.Offer) { o.Window = 0 }, want: top.ErrInvalid},
		"offer unheard":  {change: func(_ *session.Ticket, o *session.Offer) { o.Price = top.MaxSupply }, want: top.ErrInvalid},
		"no ticks":       {change: func(k *session.Ticket, _ *session.Offer) { k.N = 0 }, want: top.ErrInvalid},
		"too many ticks": {change: func(k *session.Ticket, _ *session.Offer) { k.N = session.MaxSteps + 1 }, want: top.ErrInvalid},
		"expired":        {change: func(k *session.Ticket, _ *session.Offer) { k.Expiry = uint64(start().Unix()) }},
		"too late":       {at: e.meterCfg.Expiry.Add(-2*deadline + 1)},
	} {
		t.Run(name, func(t *testing.T) {
			k, o, at, want := good, vpn(), e.now, tc.want
			if tc.change != nil {
				tc.change(&k, &o)
				e.ok(k.SignPayer(key(1).Signer()))
			}
			if !tc.at.IsZero() {
				at = tc.at
			}
			if want == nil {
				want = top.ErrDenied
			}
			refused(t, e.meter.Open(at, k, o), want)
		})
	}
	forged := good
	e.ok(forged.SignPayer(key(3).Signer()))
	refused(t, e.meter.Open(e.now, forged, vpn()), top.ErrDenied)
	e.ok(e.meter.Open(e.meterCfg.Expiry.Add(-2*deadline), good, vpn()))
	refused(t, e.meter.Open(e.now, good, vpn()), top.ErrBusy)

	for n := byte(2); n <= session.MaxAnchors; n++ {
		e.open(sid(n), vpn())
	}
	last := good
	last.Session = sid(17)
	e.ok(last.SignPayer(key(1).Signer()))
	refused(t, e.meter.Open(e.now, last, vpn()), top.ErrBusy)
	e.meter.Close(sid(3))
	e.ok(e.meter.Open(e.now, last, vpn()))
}

// A session that ends before its first voucher gives its place back, one whose
// ticket overtook a voucher keeps it.
func TestASessionWithoutAVoucherEnds(t *testing.T) {
	e := newEnds(t, top.One)
	for n := byte(1); n <= session.MaxAnchors; n++ {
		e.open(sid(n), vpn())
		if n == session.MaxAnchors-1 {
			r := e.voucher()
			e.open(sid(n+1), vpn())
			e.ok(e.meter.Renew(e.now, r))
			e.ok(e.payer.Acknowledged(r.Voucher.Seq))
			break
		}
	}
	e.renew()
	e.run(sid(16), 1) // the one that overtook
	e.payer.End(sid(1))
	e.renew()
	e.open(sid(17), vpn())
	e.payer.End(sid(17)) // before any voucher
	e.renew()
	e.payer.End(sid(2))
	e.renew()
	e.open(sid(18), vpn())
	e.open(sid(19), vpn())
	e.renew()
	e.run(sid(19), 1)
}

func TestRenew(t *testing.T) {
	e := newEnds(t, top.One)
	e.begin(sid(1), vpn())
	e.run(sid(1), 40)
	a := session.Anchor{Session: sid(1), Price: price, Root: chain("next", 100).Root(), N: 100}
	unopened, dear := a, a
	unopened.Session, dear.Price = sid(2), price+1
	good := e.signed(2, 40*price, a)
	foreign, moved, forged := good, good, good
	foreign.Chain[0]++
	e.ok(foreign.Sign(key(1).Signer()))
	moved.Channel[0]++
	e.ok(moved.Sign(key(1).Signer()))
	e.ok(forged.Sign(key(3).Signer()))
	for name, r := range map[string]session.Renewal{
		"other chain":      {Voucher: foreign, Base: []uint64{40}},
		"other channel":    {Voucher: moved, Base: []uint64{40}},
		"forged":           {Voucher: forged, Base: []uint64{40}},
		"no base":          {Voucher: good},
		"not opened":       {Voucher: e.signed(2, 40*price, unopened), Base: []uint64{40}},
		"other price":      {Voucher: e.signed(2, 40*price, dear), Base: []uint64{40}},
		"base unpaid":      {Voucher: e.signed(2, 40*price, a), Base: []uint64{41}},
		"base far ahead":   {Voucher: e.signed(2, top.One/2, a), Base: []uint64{1<<64 - 1}},
		"old number":       {Voucher: e.signed(1, 40*price, a), Base: []uint64{40}},
		"ended and unpaid": {Voucher: e.signed(2, 39*price)},
	} {
		t.Run(name, func(t *testing.T) { refused(t, e.meter.Renew(e.now, r), top.ErrDenied) })
	}
	r := session.Renewal{Voucher: good, Base: []uint64{40}}
	refused(t, e.meter.Renew(e.meterCfg.Expiry.Add(-2*deadline+1), r), top.ErrDenied)
	twice := session.Renewal{Voucher: e.signed(2, 40*price, a, a), Base: []uint64{40, 40}}
	refused(t, e.meter.Renew(e.now, twice), top.ErrInvalid)
	many := a
	many.N = session.MaxSteps + 1
	refused(t, e.meter.Renew(e.now, session.Renewal{Voucher: e.signed(2, 40*price, many), Base: []uint64{40}}), top.ErrInvalid)

	e.ok(e.meter.Renew(e.now, r))
	e.ok(e.meter.Renew(e.now, r)) // its acknowledgement was lost
	if e.owed() != 40*price {
		t.Fatalf("owed %s", e.owed())
	}
}

func TestRenewAfterTheChainPaid(t *testing.T) {
	e := newEnds(t, top.One)
	e.meterCfg.Paid, e.meterCfg.Seq = 50*price, 7
	e.payerCfg.Paid, e.payerCfg.After = 50*price, 8
	e.meter, e.payer = session.NewMeter(e.meterCfg), session.NewPayer(e.payerCfg)
	e.meter.Head(e.now)
	refused(t, e.meter.Renew(e.now, session.Renewal{Voucher: e.signed(7, 60*price)}), top.ErrDenied)
	refused(t, e.meter.Renew(e.now, session.Renewal{Voucher: e.signed(8, 49*price)}), top.ErrDenied)
	e.begin(sid(1), vpn())
	if w := e.meter.Window(sid(1)); w != 12 { // of what the channel has paid
		t.Fatalf("window %d", w)
	}
	if c := e.meter.Claim(); c.Voucher.Seq != 9 || e.owed() != 50*price {
		t.Fatalf("voucher %d owes %s", c.Voucher.Seq, e.owed())
	}
	e.ok(e.meter.Recover(session.Claim{Voucher: e.signed(6, 60*price)})) // the chain takes it no more
	if e.owed() != 50*price {
		t.Fatalf("owed %s", e.owed())
	}
}
