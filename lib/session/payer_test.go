package session_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"top/lib/session"
	"top/lib/top"
)

func TestS5_APayerTicksWhatWasServed(t *testing.T) {
	e := newEnds(t, top.One)
	if tick, due := e.payer.Served(sid(1), 5); due {
		t.Fatalf("a tick of no session: %+v", tick)
	}
	e.open(sid(1), vpn())
	if tick, due := e.payer.Served(sid(1), 5); due {
		t.Fatalf("a tick before a voucher: %+v", tick)
	}
	e.renew()
	rnd, units, base, ticked := rand.New(rand.NewPCG(1, 2)), uint64(5), uint64(0), uint64(0)
	see := func(tick session.Tick) {
		if got := base + uint64(tick.I); got > units || got < ticked {
			t.Fatalf("%d units ticked after %d, %d served", got, ticked, units)
		}
		ticked = base + uint64(tick.I)
	}
	for range 3000 {
		units += rnd.Uint64N(3)
		report := units
		if rnd.IntN(4) == 0 {
			report = rnd.Uint64N(units) // an old one, overtaken
		}
		if tick, due := e.payer.Served(sid(1), report); due {
			see(tick)
		}
		if rnd.IntN(50) == 0 {
			units = max(units, report)
			for _, tick := range e.payer.Repeat() {
				see(tick)
			}
		}
		r, due, err := e.payer.Renew(e.now)
		e.ok(err)
		if due {
			if r.Base[0] > units {
				t.Fatalf("%d units settled, %d served", r.Base[0], units)
			}
			base = r.Base[0]
			e.ok(e.payer.Acknowledged(r.Voucher.Seq))
		}
	}
	if tick, due := e.payer.End(sid(1)); due {
		see(tick)
	}
	for _, tick := range e.payer.Repeat() {
		t.Fatalf("a tick of a session that ended: %+v", tick)
	}
	if tick, due := e.payer.Flush(sid(1)); due {
		t.Fatalf("a tick of a session that ended: %+v", tick)
	}
	if _, due := e.payer.End(sid(1)); due {
		t.Fatal("ended twice")
	}
}

// A tick is due at least every W/4 units, and the sessions share that quarter.
func TestATickEveryQuarterOfTheWindow(t *testing.T) {
	for _, tc := range []struct {
		sessions byte
		paid     int
		every    uint64
	}{{1, 0, 1}, {1, 31, 1}, {1, 400, 25}, {2, 400, 12}, {16, 40, 1}, {16, 1600, 6}} {
		e := newEnds(t, top.One)
		for n := byte(1); n <= tc.sessions; n++ {
			e.open(sid(n), vpn())
		}
		e.renew()
		for k := range tc.paid {
			e.run(sid(1+byte(k)%tc.sessions), 1)
		}
		e.repeat()
		units := e.acked[sid(1)]
		if _, due := e.payer.Served(sid(1), units+tc.every-1); due {
			t.Errorf("%d sessions, %d paid: a tick before %d units", tc.sessions, tc.paid, tc.every)
		}
		if _, due := e.payer.Served(sid(1), units+tc.every); !due {
			t.Errorf("%d sessions, %d paid: no tick after %d units", tc.sessions, tc.paid, tc.every)
		}
	}
}

func TestS6_DrawMustBeFresh(t *testing.T) {
	e := newEnds(t, top.One)
	e.payerCfg.Draw = func() [32]byte { return [32]byte{7} }
	e.payer = session.NewPayer(e.payerCfg)
	e.ticket(sid(1), vpn())
	defer func() {
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "S6") {
			t.Errorf("recovered %v", r)
		}
	}()
	e.payer.Begin(e.now, sid(2), vpn())
	t.Error("the same bytes made two anchors")
}

func TestBeginRefuses(t *testing.T) {
	e := newEnds(t, top.One)
	for name, o := range map[string]session.Offer{
		"no service": {Unit: "1s", Price: 1, Window: 4},
		"no unit":    {Service: "call", Price: 1, Window: 4},
		"no window":  {Service: "call", Unit: "1s", Price: 1},
		"no such":    {Service: "call", Unit: "1s", Price: top.MaxSupply, Window: 4},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := e.payer.Begin(e.now, sid(1), o)
			refused(t, err, top.ErrInvalid)
		})
	}
	e.ticket(sid(1), vpn())
	_, err := e.payer.Begin(e.now, sid(1), vpn())
	refused(t, err, top.ErrBusy)
}

func TestCheckRefusesWhatTheProviderChanged(t *testing.T) {
	e := newEnds(t, top.One)
	tk := e.ticket(sid(1), vpn())
	e.ok(tk.SignNode(key(2).Signer()))
	e.ok(e.payer.Check(tk))
	for name, change := range map[string]func(*session.Ticket){
		"price":     func(k *session.Ticket) { k.Price++ },
		"root":      func(k *session.Ticket) { k.Root[0]++ },
		"expiry":    func(k *session.Ticket) { k.Expiry++ },
		"node sig":  func(k *session.Ticket) { k.NodeSig[0]++ },
		"payer sig": func(k *session.Ticket) { k.PayerSig[0]++ },
		"unsigned":  func(k *session.Ticket) { k.NodeSig = [64]byte{} },
	} {
		t.Run(name, func(t *testing.T) {
			k := tk
			change(&k)
			refused(t, e.payer.Check(k), top.ErrDenied)
		})
	}
	other := tk
	other.Session = sid(2)
	refused(t, e.payer.Check(other), top.ErrNotFound)
}

func TestSignedRefuses(t *testing.T) {
	e := newEnds(t, top.One)
	refused(t, e.payer.Signed(e.signed(1, 0)), top.ErrInvalid)
	e.open(sid(1), vpn())
	r, _, err := e.payer.Renew(e.now)
	e.ok(err)
	refused(t, e.payer.Signed(r.Voucher), top.ErrDenied) // not signed
	if len(e.payer.Show()) != 0 {
		t.Fatal("it shows what was never signed")
	}
	refused(t, e.payer.Signed(e.signed(1, 0)), top.ErrInvalid)
	e.ok(r.Voucher.Sign(key(3).Signer()))
	refused(t, e.payer.Signed(r.Voucher), top.ErrDenied)
	e.ok(r.Voucher.Sign(key(1).Signer()))
	e.ok(e.payer.Signed(r.Voucher))
	w, waits := e.payer.Waiting()
	if !waits || w.Voucher.Sig != r.Voucher.Sig {
		t.Fatal("what waits is not what was signed")
	}
	if c := e.payer.Show(); len(c) != 1 || c[0].Voucher.Sig != r.Voucher.Sig {
		t.Fatalf("it shows %+v", c)
	}
}

// A session that comes while a voucher waits is promised by the next one; one
// that ends then is settled by the next one.
func TestWhileAVoucherWaits(t *testing.T) {
	e := newEnds(t, top.One)
	e.begin(sid(1), vpn())
	e.run(sid(1), 10)
	e.open(sid(2), vpn())
	r := e.voucher()
	e.open(sid(3), vpn())
	tick, due := e.payer.End(sid(1))
	if due {
		e.ok(e.meter.Tick(e.now, &tick))
	}
	e.ok(e.meter.Renew(e.now, r))
	e.ok(e.payer.Acknowledged(r.Voucher.Seq))
	next := e.renew()
	if _, in := next.Voucher.Anchor(sid(1)); in || len(next.Voucher.Anchors) != 2 || next.Voucher.Amount != 10*price {
		t.Fatalf("the next voucher: %+v", next.Voucher)
	}
	e.run(sid(2), 3)
	e.run(sid(3), 3)
	e.repeat()
	if e.owed() != 16*price {
		t.Fatalf("owed %s", e.owed())
	}
}

func TestStepsLimitWhatOneVoucherExposes(t *testing.T) {
	e := newEnds(t, top.One)
	e.payerCfg.Steps = 32
	e.payer = session.NewPayer(e.payerCfg)
	e.begin(sid(1), vpn())
	for range 300 {
		e.run(sid(1), 1)
		v := e.meter.Claim().Voucher
		if most, _ := v.Exposure(); most-v.Amount > 32*price {
			t.Fatalf("voucher %d exposes %s", v.Seq, most-v.Amount)
		}
	}
}

// Near the cap a voucher that gives no more room is not asked for.
func TestNoVoucherForNothing(t *testing.T) {
	e := newEnds(t, 100*price)
	e.begin(sid(1), vpn())
	e.run(sid(1), 100)
	e.repeat()
	if v := e.meter.Claim().Voucher; v.Seq != 1 {
		t.Fatalf("voucher %d, the first reached to the cap", v.Seq)
	}
	e.ticket(sid(2), vpn())
	_, due, err := e.payer.Renew(e.now)
	if refused(t, err, top.ErrDenied); due {
		t.Fatal("a voucher of no ticks")
	}
}

func TestAHashChainIsSecret(t *testing.T) {
	h := session.NewHashChain([32]byte{1, 2, 3}, 4)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if s := fmt.Sprintf(verb, h) + fmt.Sprintf(verb, *h); s != "[secret][secret]" {
			t.Errorf("%s prints %s", verb, s)
		}
	}
	if h.Root() != session.Hash(h.At(4), 4) || h.N() != 4 {
		t.Error("the root is not the hash of the last tick")
	}
}

// A voucher settles units that no tick paid yet: there is no tick for them on the
// new anchor.
func TestAVoucherSettlesWhatWasNotTicked(t *testing.T) {
	e := newEnds(t, top.One)
	e.begin(sid(1), vpn())
	e.run(sid(1), 403) // a tick every 25
	e.now = e.now.Add(session.VoucherEvery)
	r := e.renew()
	if r.Base[0] != 403 || e.owed() != 403*price {
		t.Fatalf("%d units included, %s owed", r.Base[0], e.owed())
	}
	if c := e.payer.Show(); c[0].Ticks[0].I != 0 {
		t.Fatalf("it shows tick %d", c[0].Ticks[0].I)
	}
	if ticks := e.payer.Repeat(); len(ticks) != 0 {
		t.Fatalf("it ticks %+v", ticks)
	}
}

// Whatever the caller says was served, no more than the cap is promised.
func TestS2_ThePayerStopsAtTheCap(t *testing.T) {
	e := newEnds(t, 100*price)
	e.begin(sid(1), vpn())
	e.payer.Served(sid(1), 1<<40)
	e.payer.End(sid(1))
	if r := e.renew(); r.Voucher.Amount != 100*price {
		t.Fatalf("settles %s", r.Voucher.Amount)
	}
}
