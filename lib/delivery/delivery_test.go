package delivery

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"top/lib/keys"
	"top/lib/session"
	"top/lib/top"
)

var (
	testChain   = top.ChainID{7}
	testChannel = top.ID{8}
	payer       = keys.FromSeed([32]byte{1})
	start       = time.Unix(1_800_000_000, 0)
)

const testCap = 1_000_000

// A device is one of a recipient.
type device struct {
	account keys.Private
	key     keys.Private
	cert    keys.Certificate
	reader  Reader
}

func newDevice(t testing.TB, account, name byte) *device {
	t.Helper()
	d := &device{account: keys.FromSeed([32]byte{account}), key: keys.FromSeed([32]byte{100, name})}
	d.cert = keys.Certificate{Chain: testChain, Account: d.account.Public(), Role: "device", Key: d.key.Public(), Expiry: uint64(start.Unix()) + 1<<20}
	ok(t, d.cert.Sign(d.account.Signer()))
	return d
}

func (d *device) address() top.Address { return d.account.Public() }

func (d *device) ack(t testing.TB) session.Ack {
	t.Helper()
	a, err := d.reader.Ack(testChannel, d.cert, d.key.Signer())
	ok(t, err)
	return a
}

// ends are both ends of a channel.
type ends struct {
	t   testing.TB
	now time.Time
	s   *Sender
	c   *Carrier
}

func senderConfig() SenderConfig {
	return SenderConfig{Chain: testChain, Channel: testChannel, Payer: payer.Public(), Cap: testCap, Expiry: start.Add(48 * time.Hour), Deadline: time.Minute, Ahead: 100}
}

func carrierConfig() CarrierConfig {
	return CarrierConfig{Chain: testChain, Channel: testChannel, Payer: payer.Public(), Cap: testCap, Expiry: start.Add(48 * time.Hour), Deadline: time.Minute, Price: 10, Window: 1000}
}

func newEnds(t testing.TB) *ends {
	t.Helper()
	s, err := NewSender(senderConfig(), SenderState{})
	ok(t, err)
	c, err := NewCarrier(carrierConfig(), CarrierState{})
	ok(t, err)
	return &ends{t, start, s, c}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func is(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%v, want %v", err, want)
	}
}

func (e *ends) expiry() uint64 { return uint64(e.now.Add(time.Hour).Unix()) }

func (e *ends) place(d *device, cost top.Amount) Place {
	e.t.Helper()
	p, err := e.s.Place(d.address(), cost, e.expiry(), e.now)
	ok(e.t, err)
	return p
}

func none(top.Address) []Place { return nil }

// renew signs the next voucher and shows it.
func (e *ends) renew() session.Voucher {
	e.t.Helper()
	v, err := e.s.Renew(e.now)
	ok(e.t, err)
	ok(e.t, v.Sign(payer.Signer()))
	ok(e.t, e.s.Signed(v))
	ok(e.t, e.c.Renew(v, none))
	return v
}

// carry places, promises, takes and hands over one message.
func (e *ends) carry(d *device, cost top.Amount) Place {
	e.t.Helper()
	p := e.place(d, cost)
	if !e.s.Promises(p) {
		e.renew()
	}
	ok(e.t, e.c.Take(p, cost, e.expiry(), e.now))
	if !e.c.Hand(p) {
		e.t.Fatal("the window is full")
	}
	d.reader.Got(p, top.ID{byte(p.To)})
	return p
}

func (e *ends) acked(a session.Ack) top.Amount {
	e.t.Helper()
	n, err := e.c.Acked(a, e.now)
	ok(e.t, err)
	_, err = e.s.Acked(a, e.now)
	ok(e.t, err)
	return n
}

func TestV1_APlaceIsPromisedFirst(t *testing.T) {
	e, bob := newEnds(t), newDevice(t, 2, 2)
	p := e.place(bob, 50)
	if e.s.Promises(p) {
		t.Error("promised by no voucher")
	}
	is(t, e.c.Take(p, 50, e.expiry(), e.now), top.ErrDenied)
	e.renew()
	for name, err := range map[string]error{
		"another cost":            e.c.Take(p, 49, e.expiry(), e.now),
		"beyond the promise":      e.c.Take(Place{bob.address(), 100, 200}, 100, e.expiry(), e.now),
		"expired":                 e.c.Take(p, 50, uint64(e.now.Unix()), e.now),
		"longer than the channel": e.c.Take(p, 50, uint64(start.Add(48*time.Hour).Unix()), e.now),
		"somebody else":           e.c.Take(Place{top.Address{9}, 0, 50}, 50, e.expiry(), e.now),
	} {
		if !errors.Is(err, top.ErrDenied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ok(t, e.c.Take(p, 50, e.expiry(), e.now))
	is(t, e.c.Take(p, 50, e.expiry(), e.now), top.ErrDenied)
	if !e.c.Has(p) {
		t.Error("taken, and not known")
	}
	// No voucher promises more than the cap, and no message is placed beyond it.
	_, err := e.s.Place(bob.address(), testCap, e.expiry(), e.now)
	is(t, err, top.ErrDenied)
	if v := e.renew(); true {
		if x, _ := v.Exposure(); x > testCap {
			t.Errorf("%s exposed", x)
		}
	}
}

func TestV1_TheSenderHasBounds(t *testing.T) {
	e := newEnds(t)
	for i := range session.MaxAsides {
		_, err := e.s.Place(top.Address{byte(i), 1}, 1, e.expiry(), e.now)
		ok(t, err)
	}
	_, err := e.s.Place(top.Address{99, 2}, 1, e.expiry(), e.now)
	is(t, err, top.ErrBusy)
	_, err = e.s.Place(top.Address{1, 1}, 1, uint64(start.Add(48*time.Hour).Unix()), e.now)
	is(t, err, top.ErrDenied)
	if v := e.renew(); len(v.Asides) != session.MaxAsides {
		t.Errorf("%d asides", len(v.Asides))
	}
}

func TestV2_NothingIsPaidTwice(t *testing.T) {
	e, phone, laptop := newEnds(t), newDevice(t, 2, 2), newDevice(t, 2, 3)
	p := e.carry(phone, 50)
	laptop.reader.Got(p, top.ID{1})
	if n := e.acked(phone.ack(t)); n != 50 {
		t.Errorf("earned %s", n)
	}
	if n := e.acked(phone.ack(t)) + e.acked(laptop.ack(t)); n != 0 {
		t.Errorf("earned %s more for the same", n)
	}
	e.now = e.now.Add(time.Second)
	e.renew() // folded
	if owed, err := e.c.Claim().Owed(); err != nil || owed != 50 || e.c.Owed() != 50 || e.s.Spent() != 50 {
		t.Errorf("owed %s %s, spent %s, %v", owed, e.c.Owed(), e.s.Spent(), err)
	}
	if n := e.acked(phone.ack(t)); n != 0 {
		t.Errorf("earned %s for what was settled", n)
	}
}

func TestV2_RefusedAcknowledgements(t *testing.T) {
	e, bob, eve := newEnds(t), newDevice(t, 2, 2), newDevice(t, 3, 3)
	e.carry(bob, 50)
	good := bob.ack(t)
	for name, change := range map[string]func(*session.Ack){
		"of more":         func(a *session.Ack) { a.To++ },
		"of less":         func(a *session.Ack) { a.To-- },
		"of other ids":    func(a *session.Ack) { a.Root[0]++ },
		"another channel": func(a *session.Ack) { a.Channel[0]++ },
		"another's":       func(a *session.Ack) { a.Cert = eve.cert },
		"expired":         func(a *session.Ack) { a.Cert.Expiry = 1 },
	} {
		a := good
		change(&a)
		if _, err := e.c.Acked(a, e.now); !errors.Is(err, top.ErrDenied) {
			t.Errorf("carrier, %s: %v", name, err)
		}
		if _, err := e.s.Acked(a, e.now); !errors.Is(err, top.ErrDenied) {
			t.Errorf("sender, %s: %v", name, err)
		}
	}
	// What was never handed over, signed all the same.
	bob.reader.Got(Place{bob.address(), 50, 90}, top.ID{9})
	_, err := e.c.Acked(bob.ack(t), e.now)
	is(t, err, top.ErrDenied)
	_, err = e.s.Acked(bob.ack(t), e.now)
	is(t, err, top.ErrDenied)
	if e.c.Owed() != 0 || e.s.Spent() != 0 {
		t.Error("something was earned")
	}
}

// What was taken again after a crash and not handed over again may be acknowledged:
// its recipient has it from before.
func TestV2_AnAcknowledgementAheadOfTheHandover(t *testing.T) {
	e, bob := newEnds(t), newDevice(t, 2, 2)
	e.carry(bob, 50)
	p := e.place(bob, 40)
	e.renew()
	bob.reader.Got(p, top.ID{9})
	_, err := e.c.Acked(bob.ack(t), e.now)
	is(t, err, top.ErrDenied)
	ok(t, e.c.Take(p, 40, e.expiry(), e.now))
	if n := e.acked(bob.ack(t)); n != 90 {
		t.Errorf("earned %s, not 90 nano", n)
	}
	if n := e.acked(bob.ack(t)); n != 0 || !e.c.Hand(p) {
		t.Errorf("earned %s once more", n)
	}
}

func TestV3_AVoucherTakesNothingBack(t *testing.T) {
	e, bob := newEnds(t), newDevice(t, 2, 2)
	p := e.carry(bob, 50)
	e.acked(bob.ack(t))
	waits := e.place(bob, 30)
	v := e.renew()
	holds := func(top.Address) []Place { return []Place{waits} }
	_ = p
	for name, change := range map[string]func(*session.Voucher){
		"an older number":  func(v *session.Voucher) { v.Seq = 1 },
		"the same number":  func(v *session.Voucher) { v.Seq--; v.Amount++ },
		"a smaller amount": func(v *session.Voucher) { v.Amount = 0; v.Asides[0].Base = 50 },
		"no aside":         func(v *session.Voucher) { v.Asides = nil },
		"a shorter aside":  func(v *session.Voucher) { v.Asides[0].Amount = waits.To - 1 },
		"a later base":     func(v *session.Voucher) { v.Asides[0].Base = waits.From + 1 },
		"beyond the cap":   func(v *session.Voucher) { v.Asides[0].Amount = testCap + 1000 },
		"ticks":            func(v *session.Voucher) { v.Anchors = []session.Anchor{{N: 1}} },
		"another chain":    func(v *session.Voucher) { v.Chain[0]++ },
		"another channel":  func(v *session.Voucher) { v.Channel[0]++ },
	} {
		x := v
		x.Seq++
		x.Asides = append([]session.Aside(nil), v.Asides...)
		change(&x)
		ok(t, x.Sign(payer.Signer()))
		if err := e.c.Renew(x, holds); !errors.Is(err, top.ErrDenied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	x := v
	x.Seq++
	ok(t, x.Sign(keys.FromSeed([32]byte{5}).Signer()))
	is(t, e.c.Renew(x, holds), top.ErrDenied)
	ok(t, e.c.Renew(v, holds)) // the newest once more
	if e.c.Owed() != 50 {
		t.Errorf("owed %s", e.c.Owed())
	}
}

func TestV4_NoMoreThanTheWindow(t *testing.T) {
	e, bob := newEnds(t), newDevice(t, 2, 2)
	handed := 0
	for range 20 {
		p := e.place(bob, 10)
		if !e.s.Promises(p) {
			e.renew()
		}
		ok(t, e.c.Take(p, 10, e.expiry(), e.now))
		if e.c.Hand(p) {
			handed++
			bob.reader.Got(p, top.ID{byte(handed)})
		}
	}
	if handed != 4 {
		t.Errorf("%d units were handed to who never acknowledged, W is 4", handed)
	}
	e.acked(bob.ack(t))
	for i := range 4 {
		at := top.Amount(40 + 10*i)
		if !e.c.Hand(Place{bob.address(), at, at + 10}) {
			t.Errorf("message %d is held back, and the others are acknowledged", i)
		}
	}
	if !e.c.Hand(Place{bob.address(), 40, 50}) {
		t.Error("what was handed over may not be handed over again")
	}
	// A message larger than W goes alone.
	eve := newDevice(t, 3, 3)
	big := e.place(eve, 5000)
	e.renew()
	ok(t, e.c.Take(big, 5000, e.expiry(), e.now))
	if !e.c.Hand(big) {
		t.Error("a large message never goes")
	}
}

func TestV5_WhatExpiredComesBack(t *testing.T) {
	e, bob := newEnds(t), newDevice(t, 2, 2)
	e.carry(bob, 50)
	e.acked(bob.ack(t))
	lost := e.place(bob, 70)
	e.renew()
	ok(t, e.c.Take(lost, 70, e.expiry(), e.now))
	room := e.s.Room()
	e.now = e.now.Add(time.Hour + Grace*time.Second)
	if !e.s.Settles(e.now) {
		t.Error("nothing to settle")
	}
	e.renew()
	if e.s.Room() != room+70 || e.s.Spent() != 50 || e.c.Owed() != 50 {
		t.Errorf("room %s, was %s; spent %s; owed %s", e.s.Room(), room, e.s.Spent(), e.c.Owed())
	}
	// The line goes on behind the hole, which is not paid; but when the recipient had
	// it in time after all, it is.
	e.carry(bob, 20)
	e.acked(bob.ack(t))
	if e.c.Owed() != 70 {
		t.Errorf("owed %s", e.c.Owed())
	}
	late := newDevice(t, 2, 3)
	late.reader.Got(lost, top.ID{1})
	for range 2 {
		_, err := e.s.Acked(late.ack(t), e.now)
		ok(t, err)
	}
	if e.s.Spent() != 140 || !e.s.Settles(e.now) {
		t.Errorf("spent %s", e.s.Spent())
	}
}

func TestV6_AHoleIsNotCovered(t *testing.T) {
	var r Reader
	bob := top.Address{2}
	if !r.Got(Place{bob, 30, 40}, top.ID{1}) || r.From != 30 || !r.Got(Place{bob, 40, 50}, top.ID{2}) || r.Count != 2 {
		t.Errorf("%+v", r)
	}
	if r.Got(Place{bob, 40, 50}, top.ID{2}) || r.Got(Place{bob, 0, 30}, top.ID{3}) || r.Count != 2 {
		t.Errorf("the same, or an older one, once more: %+v", r)
	}
	if want := session.Extend(session.Extend(top.ID{}, top.ID{1}), top.ID{2}); r.Root != want {
		t.Error("another root")
	}
	if !r.Got(Place{bob, 60, 70}, top.ID{4}) || r.From != 60 || r.Count != 1 {
		t.Errorf("a hole is covered: %+v", r)
	}
}

func TestCost(t *testing.T) {
	for _, tc := range []struct {
		price top.Amount
		units uint64
		hold  uint32
		want  top.Amount
	}{{10, 1, 0, 10}, {10, 3, 1, 60}, {0, 5, 3, 1}, {7, 0, 0, 1}} {
		if got, err := Cost(tc.price, tc.units, tc.hold); err != nil || got != tc.want {
			t.Errorf("%+v: %s, %v", tc, got, err)
		}
	}
	_, err := Cost(top.MaxSupply, 2, 0)
	is(t, err, top.ErrInvalid)
	_, err = Cost(1<<40, 1<<40, 1)
	is(t, err, top.ErrInvalid)
}

// A walk of messages, losses, acknowledgements, expiries and crashes, against what
// a plain account of each nano says.
func TestWalk(t *testing.T) {
	for seed := range uint64(3) {
		walk(t, seed, 2000)
	}
}

type sent struct {
	to     int
	place  Place
	expiry uint64
	taken  bool
}

func walk(t *testing.T, seed uint64, steps int) {
	rnd := rand.New(rand.NewPCG(seed, 9))
	e := newEnds(t)
	cfgS, cfgC := senderConfig(), carrierConfig()
	cfgS.Expiry, cfgC.Expiry = start.Add(1000*time.Hour), start.Add(1000*time.Hour)
	cfgS.Cap, cfgC.Cap = top.One, top.One
	remake := func(st SenderState, ct CarrierState, box []*sent) {
		var err error
		e.s, err = NewSender(cfgS, st)
		ok(t, err)
		for _, m := range box {
			e.s.Restore(m.place, m.expiry)
		}
		e.c, err = NewCarrier(cfgC, ct)
		ok(t, err)
	}
	remake(SenderState{}, CarrierState{}, nil)
	devices := []*device{newDevice(t, 2, 2), newDevice(t, 2, 3), newDevice(t, 3, 4)}
	for _, d := range devices {
		d.cert.Expiry = 1 << 40
		ok(t, d.cert.Sign(d.account.Signer()))
	}
	line := []int{0, 0, 1} // devices 0 and 1 are of one recipient
	acked := []map[top.Amount]bool{{}, {}}
	var box []*sent
	holds := func(to top.Address) (all []Place) {
		for _, m := range box {
			if m.place.Recipient == to && m.taken && m.expiry > uint64(e.now.Unix()) && !acked[line[m.to]][m.place.To] {
				all = append(all, m.place)
			}
		}
		return all
	}
	owed := top.Amount(0)
	for range steps {
		e.now = e.now.Add(time.Duration(rnd.IntN(60)) * time.Second)
		switch rnd.IntN(8) {
		case 0, 1, 2: // send
			to := rnd.IntN(3)
			cost := top.Amount(rnd.IntN(30) + 1)
			m := &sent{to: to, expiry: uint64(e.now.Add(time.Duration(rnd.IntN(1800)+30) * time.Second).Unix())}
			var err error
			m.place, err = e.s.Place(devices[to].address(), cost, m.expiry, e.now)
			ok(t, err)
			box = append(box, m)
			if e.s.Promises(m.place) && rnd.IntN(8) > 0 && e.c.Take(m.place, cost, m.expiry, e.now) == nil {
				m.taken = true
			}
		case 3: // promise; the voucher may be lost
			v, waits := e.s.Unsigned()
			if !waits {
				var err error
				v, err = e.s.Renew(e.now)
				ok(t, err)
			}
			ok(t, v.Sign(payer.Signer()))
			ok(t, e.s.Signed(v))
			if rnd.IntN(5) > 0 && e.c.Renew(v, holds) != nil {
				// The sender misses acknowledgements, which the carrier shows.
				for _, d := range devices {
					for _, a := range e.c.Acks(d.address()) {
						_, err := e.s.Acked(a, e.now)
						ok(t, err)
					}
				}
				v, err := e.s.Renew(e.now)
				ok(t, err)
				ok(t, v.Sign(payer.Signer()))
				ok(t, e.s.Signed(v))
				ok(t, e.c.Renew(v, holds))
			}
		case 4, 5: // hand over to a device, which acknowledges
			d := rnd.IntN(3)
			for _, m := range box {
				if !m.taken || line[m.to] != line[d] || m.expiry <= uint64(e.now.Unix()) || rnd.IntN(4) == 0 || !e.c.Hand(m.place) {
					continue
				}
				devices[d].reader.Got(m.place, top.ID{byte(m.place.To)})
			}
			if devices[d].reader.Count == 0 {
				continue
			}
			a := devices[d].ack(t)
			if _, err := e.c.Acked(a, e.now); err == nil {
				for _, m := range box {
					if line[m.to] == line[d] && m.place.From >= a.From && m.place.To <= a.To {
						acked[line[d]][m.place.To] = true
					}
				}
			}
			if rnd.IntN(3) > 0 {
				_, err := e.s.Acked(a, e.now)
				ok(t, err)
			}
		case 6: // forget what is long over
			kept := box[:0:0]
			for _, m := range box {
				if m.expiry+2*Grace > uint64(e.now.Unix()) {
					kept = append(kept, m)
				}
			}
			box = kept
		case 7: // both start again
			remake(e.s.State(), e.c.State(), box)
		}
		claim := e.c.Claim()
		got, err := claim.Owed()
		ok(t, err)
		if got < owed || got != e.c.Owed() || got > cfgC.Cap {
			t.Fatalf("seed %d: owes %s, says %s, was %s", seed, got, e.c.Owed(), owed)
		}
		if got > 0 {
			ok(t, claim.Verify(payer.Public(), uint64(e.now.Unix())))
		}
		owed = got
	}
	if owed == 0 {
		t.Errorf("seed %d: nothing was ever earned", seed)
	}
	if spent := e.s.Spent(); spent > owed {
		t.Errorf("seed %d: the sender says %s are spent, the carrier can show %s", seed, spent, owed)
	}
}
