package session_test

import (
	"testing"
	"time"

	"top/lib/session"
	"top/lib/top"
)

func TestTicksAreDroppedUnhashed(t *testing.T) {
	e := newEnds(t, top.One)
	e.open(sid(1), vpn())
	refused(t, e.meter.Tick(e.now, &session.Tick{Session: sid(1), I: 1}), top.ErrDenied) // no voucher yet
	refused(t, e.meter.Tick(e.now, &session.Tick{Session: sid(2), I: 1}), top.ErrNotFound)
	e.renew()
	e.run(sid(1), 40) // W is 10
	h := session.NewHashChain(seeds("payer")(), session.MaxSteps)
	// Were these hashed, the first hundred of them would close the session.
	for range 100 {
		for _, i := range []uint32{0, 1, 40, 40 + 4*10 + 1, session.MaxSteps, session.MaxSteps + 1, 1<<32 - 1} {
			refused(t, e.meter.Tick(e.now, &session.Tick{Session: sid(1), I: i}), top.ErrDenied)
		}
	}
	refused(t, e.meter.Tick(e.now, &session.Tick{Session: sid(1), I: 81, W: h.At(81)}), top.ErrDenied) // the right one
	e.ok(e.meter.Tick(e.now, &session.Tick{Session: sid(1), I: 80, W: h.At(80)}))
	if e.meter.Paid(sid(1)) != 80 {
		t.Fatalf("paid %d", e.meter.Paid(sid(1)))
	}
}

func TestWrongTicksCloseASession(t *testing.T) {
	wrong := session.Tick{Session: sid(1), I: 21}
	for _, tc := range []struct {
		name   string
		every  time.Duration
		n      int
		closed bool
	}{
		{"16 in a second", time.Millisecond, 16, false},
		{"17 in a second", time.Millisecond, 17, true},
		{"100, 16 a second", 63 * time.Millisecond, 100, false},
		{"100, 17 a second", 58 * time.Millisecond, 100, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := newEnds(t, top.One)
			e.begin(sid(1), vpn())
			e.begin(sid(2), vpn())
			e.run(sid(1), 20)
			for range tc.n {
				refused(t, e.meter.Tick(e.now, &wrong), top.ErrDenied)
				e.now = e.now.Add(tc.every)
			}
			e.meter.Head(e.now)
			if closed := e.meter.Credit(sid(1)) == 0; closed != tc.closed {
				t.Fatalf("closed: %t", closed)
			}
			e.run(sid(2), 1) // the other goes on
		})
	}
}

func TestReanchor(t *testing.T) {
	e := newEnds(t, top.One)
	e.begin(sid(1), vpn())
	for e.meter.Paid(sid(1)) < session.Reanchor {
		e.unit(sid(1))
		_, waits := e.payer.Waiting()
		if waits {
			t.Fatal("a voucher that nobody asked for")
		}
	}
	r := e.voucher()
	if r.Voucher.Amount != top.Amount(r.Base[0])*price || r.Base[0] < session.Reanchor || r.Base[0] > session.Reanchor+32 {
		t.Fatalf("at %d units the voucher settles %s", r.Base[0], r.Voucher.Amount)
	}
	if _, due, err := e.payer.Renew(e.now.Add(time.Hour)); due || err != nil {
		t.Fatalf("a second one before it is acknowledged: %v", err)
	}
	e.run(sid(1), 300) // still on the old anchor: the provider has not seen the new one
	e.repeat()
	if n := e.meter.Claim().Ticks[0].I; uint64(n) != e.acked[sid(1)] {
		t.Fatalf("tick %d after %d units", n, e.acked[sid(1)])
	}
	refused(t, e.payer.Acknowledged(r.Voucher.Seq+1), top.ErrInvalid)
	again, _ := e.payer.Waiting()
	e.ok(e.meter.Renew(e.now, r))
	e.ok(e.meter.Renew(e.now, again))
	e.ok(e.payer.Acknowledged(r.Voucher.Seq))
	refused(t, e.payer.Acknowledged(r.Voucher.Seq), top.ErrInvalid)
	e.repeat()
	c := e.meter.Claim()
	if got := uint64(c.Ticks[0].I) + r.Base[0]; c.Voucher.Seq != r.Voucher.Seq || got != e.acked[sid(1)] {
		t.Fatalf("voucher %d with tick %d pays up to %d, served %d", c.Voucher.Seq, c.Ticks[0].I, got, e.acked[sid(1)])
	}
}

// While a voucher is on its way the provider serves one window beyond the anchor, which
// that voucher pays; never more, and nothing beyond one that is shorter than it could be.
func TestPastTheAnchorTheProviderStops(t *testing.T) {
	for _, tc := range []struct {
		cap, ticks, beyond uint64
	}{
		{1 << 30, session.MaxSteps, session.MaxSteps / 4},
		{2 * session.MaxSteps, session.MaxSteps, session.MaxSteps / 4},
		{2*session.MaxSteps - 1, session.MaxSteps - 1, 0}, // the cap has not as much again
		{session.MaxSteps, session.MaxSteps - 1, 0},
		{100, 100, 0},
	} {
		e := newEnds(t, top.Amount(tc.cap)*price)
		e.begin(sid(1), vpn())
		for range tc.ticks { // the voucher that was due is lost, and lost again
			e.unit(sid(1))
		}
		e.repeat()
		refused(t, e.meter.Serve(e.now, sid(1), tc.beyond+1), top.ErrDenied)
		e.ok(e.meter.Serve(e.now, sid(1), tc.beyond))
		refused(t, e.meter.Serve(e.now, sid(1), 1), top.ErrDenied)
		if _, due := e.payer.Served(sid(1), tc.ticks+tc.beyond); due {
			t.Fatal("a tick beyond the anchor")
		}
		if e.owed() != top.Amount(tc.ticks)*price {
			t.Fatalf("owed %s after %d ticks", e.owed(), tc.ticks)
		}
		if tc.cap <= tc.ticks {
			continue
		}
		e.renew()
		if want := top.Amount(tc.ticks+tc.beyond) * price; e.owed() != want {
			t.Fatalf("owed %s, want %s", e.owed(), want)
		}
		e.ok(e.meter.Serve(e.now, sid(1), 1))
	}
}

func TestAVoucherEveryTenSeconds(t *testing.T) {
	e := newEnds(t, top.One)
	e.begin(sid(1), vpn())
	e.now = e.now.Add(session.VoucherEvery)
	if _, due, _ := e.payer.Renew(e.now); due {
		t.Fatal("a voucher without a tick")
	}
	e.meter.Head(e.now)
	e.unit(sid(1))
	if r := e.renew(); r.Voucher.Amount != price {
		t.Fatalf("settles %s", r.Voucher.Amount)
	}
	e.unit(sid(1))
	if _, due, _ := e.payer.Renew(e.now.Add(session.VoucherEvery - 1)); due {
		t.Fatal("a voucher before ten seconds")
	}
	e.now = e.now.Add(session.VoucherEvery)
	e.renew()
}

func TestDeadlines(t *testing.T) {
	e := newEnds(t, top.One)
	e.begin(sid(1), vpn())
	last := e.meterCfg.Expiry.Add(-2 * deadline)
	e.now = last
	e.meter.Head(e.now)
	e.unit(sid(1))
	e.now = last.Add(1)
	e.meter.Head(e.now)
	refused(t, e.meter.Serve(e.now, sid(1), 1), top.ErrDenied)
	tick, due := e.payer.Served(sid(1), 2)
	if refused(t, e.meter.Tick(e.now, &tick), top.ErrDenied); !due {
		t.Fatal("no tick")
	}
	refused(t, e.meter.Renew(e.now, e.voucher()), top.ErrDenied)
	if e.owed() != price {
		t.Fatalf("owed %s", e.owed())
	}
	_, err := e.payer.Begin(e.meterCfg.Expiry, sid(2), vpn())
	refused(t, err, top.ErrDenied)
}

// The payer's close ends the channel D from now: nothing is served on that.
func TestAClosingChannelStops(t *testing.T) {
	e := newEnds(t, top.One)
	e.begin(sid(1), vpn())
	e.run(sid(1), 10)
	e.meter.Expires(e.meterCfg.Expiry.Add(time.Hour)) // later is no news
	e.unit(sid(1))
	e.meter.Expires(e.now.Add(deadline))
	refused(t, e.meter.Serve(e.now, sid(1), 1), top.ErrDenied)
	if e.owed() != 11*price {
		t.Fatalf("owed %s", e.owed())
	}
}

func TestAnOldHeadStops(t *testing.T) {
	e := newEnds(t, top.One)
	e.meter = session.NewMeter(e.meterCfg)
	e.begin(sid(1), vpn())
	refused(t, e.meter.Serve(e.now, sid(1), 1), top.ErrDenied) // no block seen at all
	e.meter.Head(e.now)
	e.now = e.now.Add(deadline / 2)
	e.unit(sid(1))
	e.now = e.now.Add(1)
	refused(t, e.meter.Serve(e.now, sid(1), 1), top.ErrDenied)
	tick, _ := e.payer.Served(sid(1), 2)
	e.ok(e.meter.Tick(e.now, &tick)) // what was served is paid: ticks need no chain
	e.meter.Head(e.now)
	e.acked[sid(1)] = 2
	e.unit(sid(1))
}

// While the chain stands still the provider's node says so, and service goes on
// up to the cap.
func TestDuringAHaltServiceGoesOnToTheCap(t *testing.T) {
	e := newEnds(t, 3000*price)
	e.begin(sid(1), vpn())
	for range 3000 {
		e.now = e.now.Add(time.Second)
		e.meter.Head(e.now)
		e.run(sid(1), 1)
	}
	e.repeat()
	refused(t, e.meter.Serve(e.now, sid(1), 1), top.ErrDenied)
	if e.owed() != 3000*price {
		t.Fatalf("owed %s", e.owed())
	}
}

func TestSaveEveryWindowOr100ms(t *testing.T) {
	e := newEnds(t, top.One)
	if c, _ := e.meter.Save(e.now); c != nil {
		t.Fatal("nothing happened, and it is saved")
	}
	e.begin(sid(1), vpn())
	c, sync := e.meter.Save(e.now)
	if len(c) != 1 || c[0].Voucher.Seq != 1 || !sync {
		t.Fatalf("after a voucher: %d claims, sync %t", len(c), sync)
	}
	e.run(sid(1), 3)
	if c, _ := e.meter.Save(e.now); c != nil {
		t.Fatal("saved before W units")
	}
	e.run(sid(1), 1)
	if c, sync = e.meter.Save(e.now); len(c) != 1 || c[0].Ticks[0].I != 4 || sync {
		t.Fatalf("after W units: %+v, sync %t", c, sync)
	}
	e.run(sid(1), 1)
	if c, _ := e.meter.Save(e.now.Add(99 * time.Millisecond)); c != nil {
		t.Fatal("saved before 100 ms")
	}
	if c, sync = e.meter.Save(e.now.Add(100 * time.Millisecond)); len(c) != 1 || sync {
		t.Fatal("not saved after 100 ms")
	}
	if c, _ := e.meter.Save(e.now.Add(time.Hour)); c != nil {
		t.Fatal("saved twice")
	}
	e.run(sid(1), 1)
	if c, sync = e.meter.Save(e.now.Add(time.Second)); len(c) != 1 || !sync {
		t.Fatal("no fsync after a second")
	}
}

// A provider that lost its memory has what it saved, and what the payer shows:
// the higher wins.
func TestRecoverTheProvider(t *testing.T) {
	for name, tc := range map[string]struct {
		saved, shown bool
		least        top.Amount
	}{
		"both": {true, true, 640 * price}, "saved": {true, false, 600 * price}, "shown": {false, true, 640 * price},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnds(t, top.One)
			e.begin(sid(1), vpn())
			e.run(sid(1), 600)
			e.repeat()
			saved, _ := e.meter.Save(e.now.Add(time.Second))
			e.run(sid(1), 40)
			e.meter = session.NewMeter(e.meterCfg)
			e.meter.Head(e.now)
			if tc.saved {
				for _, c := range saved {
					e.ok(e.meter.Recover(c))
				}
			}
			e.payer.Repeat()
			if tc.shown {
				for _, c := range e.payer.Show() {
					e.ok(e.meter.Recover(c))
				}
			}
			if e.owed() != tc.least {
				t.Fatalf("owed %s, want %s", e.owed(), tc.least)
			}
			for _, c := range e.meter.Show() {
				e.ok(e.payer.Recover(c))
			}
			e.begin(sid(2), vpn())
			if e.owed() != 640*price { // the payer's next voucher settles all
				t.Fatalf("owed %s", e.owed())
			}
			e.run(sid(2), 10)
			e.repeat()
			if e.owed() != 650*price {
				t.Fatalf("owed %s", e.owed())
			}
		})
	}
}

// A payer that lost its memory goes on from what the provider shows. It may have
// signed a voucher that never arrived, so it knows its newest number.
func TestRecoverThePayer(t *testing.T) {
	e := newEnds(t, top.One)
	e.begin(sid(1), vpn())
	e.run(sid(1), 600)
	e.repeat()
	e.open(sid(2), vpn())
	lost := e.voucher()
	e.payerCfg.After, e.payerCfg.Draw = lost.Voucher.Seq, seeds("after the crash")
	e.payer = session.NewPayer(e.payerCfg)
	for _, c := range e.meter.Show() {
		e.ok(e.payer.Recover(c))
	}
	if tick, due := e.payer.Served(sid(1), 601); due {
		t.Fatalf("it ticks %+v on a chain that it forgot", tick)
	}
	e.begin(sid(3), vpn())
	if c := e.meter.Claim(); c.Voucher.Seq != lost.Voucher.Seq+1 || e.owed() != 600*price {
		t.Fatalf("voucher %d owes %s", c.Voucher.Seq, e.owed())
	}
	refused(t, e.meter.Serve(e.now, sid(1), 1), top.ErrDenied)
	e.run(sid(3), 5)
}

func TestRecoverRefuses(t *testing.T) {
	e := newEnds(t, top.One)
	e.begin(sid(1), vpn())
	e.run(sid(1), 20)
	good := e.meter.Claim()
	change := func(f func(*session.Claim)) session.Claim {
		c := good
		c.Ticks = append([]session.Tick(nil), good.Ticks...)
		f(&c)
		return c
	}
	for name, c := range map[string]session.Claim{
		"other chain":   change(func(c *session.Claim) { c.Voucher.Chain[0]++ }),
		"other channel": change(func(c *session.Claim) { c.Voucher.Channel[0]++ }),
		"other amount":  change(func(c *session.Claim) { c.Voucher.Amount++ }),
		"forged":        change(func(c *session.Claim) { c.Voucher.Sig[9]++ }),
		"wrong tick":    change(func(c *session.Claim) { c.Ticks[0].I++ }),
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, e.payer.Recover(c), top.ErrDenied)
			refused(t, e.meter.Recover(c), top.ErrDenied)
		})
	}
	short := change(func(c *session.Claim) { c.Ticks = nil })
	refused(t, e.payer.Recover(short), top.ErrInvalid)
	refused(t, e.meter.Recover(short), top.ErrInvalid)
	e.run(sid(1), 5) // nothing ended
}

// Two vouchers of one number are the payer's fault: the one that owes more counts.
func TestTwoVouchersOfOneNumber(t *testing.T) {
	e := newEnds(t, top.One)
	e.begin(sid(1), vpn())
	e.run(sid(1), 20)
	e.ok(e.meter.Recover(session.Claim{Voucher: e.signed(1, 19*price)}))
	if e.owed() != 20*price {
		t.Fatalf("owed %s", e.owed())
	}
	e.ok(e.meter.Recover(session.Claim{Voucher: e.signed(1, 30*price)}))
	if e.owed() != 30*price {
		t.Fatalf("owed %s", e.owed())
	}
	if claims := e.meter.Show(); len(claims) != 2 || claims[1].Voucher.Amount != 30*price {
		t.Fatalf("%d claims", len(claims))
	}
}

// Sessions of different prices share a channel: amounts accumulate, not units.
func TestPricesShareAChannel(t *testing.T) {
	e := newEnds(t, top.One)
	call := session.Offer{Service: "call", Unit: "1s", Price: 7 * price, Window: 8}
	free := session.Offer{Service: "relay", Unit: "message", Price: 0, Window: 5}
	e.begin(sid(1), vpn())
	e.begin(sid(2), call)
	e.begin(sid(3), free)
	for range 600 {
		e.run(sid(1), 1)
		e.run(sid(2), 1)
		e.run(sid(3), 1)
	}
	e.payer.End(sid(1))
	e.renew()
	e.run(sid(2), 10)
	e.repeat()
	if want := 600*price + 610*7*price; e.owed() != want {
		t.Fatalf("owed %s, want %s", e.owed(), want)
	}
	if e.meter.Credit(sid(3)) != 5 {
		t.Fatalf("credit of what is free: %d", e.meter.Credit(sid(3)))
	}
}

// A claim on a newer voucher does not say what it includes of a session that
// runs: no tick on the old anchor counts beside it.
func TestANewerClaimEndsASessionThatItNames(t *testing.T) {
	e := newEnds(t, top.One)
	e.begin(sid(1), vpn())
	e.run(sid(1), 20)
	tick, _ := e.payer.Served(sid(1), 21)
	a := session.Anchor{Session: sid(1), Price: price, Root: chain("newer", 50).Root(), N: 50}
	e.ok(e.meter.Recover(session.Claim{Voucher: e.signed(5, 20*price, a), Ticks: []session.Tick{{Session: sid(1)}}}))
	refused(t, e.meter.Tick(e.now, &tick), top.ErrDenied)
	refused(t, e.meter.Serve(e.now, sid(1), 1), top.ErrDenied)
	if e.owed() != 20*price {
		t.Fatalf("owed %s", e.owed())
	}
}

// Late ticks that come again and again, or out of order, are nobody's fault.
func TestLateTicksCloseNoSession(t *testing.T) {
	e := newEnds(t, top.One)
	e.begin(sid(1), vpn())
	e.run(sid(1), 12)
	e.now = e.now.Add(session.VoucherEvery)
	e.meter.Head(e.now)
	r := e.voucher()
	e.ok(e.meter.Serve(e.now, sid(1), 3))
	var late []session.Tick
	for unit := uint64(13); unit <= 15; unit++ {
		tick, _ := e.payer.Served(sid(1), unit)
		late = append(late, tick)
	}
	e.ok(e.meter.Renew(e.now, r))
	for range 20 {
		for _, k := range []int{2, 0, 1} {
			e.ok(e.meter.Tick(e.now, &late[k]))
		}
	}
	if e.owed() != 15*price || e.meter.Credit(sid(1)) == 0 {
		t.Fatalf("owed %s, a credit of %d", e.owed(), e.meter.Credit(sid(1)))
	}
}

// A payer that recovered has forgotten its chains, and still proves to a provider
// that lost its disk what it was paid.
func TestAPayerThatRecoveredStillShows(t *testing.T) {
	e := newEnds(t, top.One)
	e.begin(sid(1), vpn())
	e.run(sid(1), 30)
	e.repeat()
	e.ok(e.payer.Recover())
	e.ok(e.payer.Recover(e.meter.Show()...))
	e.meter = session.NewMeter(e.meterCfg)
	e.ok(e.meter.Recover(e.payer.Show()...))
	if e.owed() != 30*price {
		t.Fatalf("owed %s", e.owed())
	}
	e.begin(sid(2), vpn())
	if c := e.payer.Show(); len(c) != 1 || c[0].Voucher.Amount != 30*price {
		t.Fatalf("after the next voucher it shows %d claims", len(c))
	}
}
