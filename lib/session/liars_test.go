package session_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"top/lib/session"
	"top/lib/top"
)

// liar is a payer with the right key and no scruples: it signs any voucher, ticks
// anything on anything, and begins and leaves sessions as it likes.
type liar struct {
	*ends
	*model
	rnd    *rand.Rand
	offers map[top.SessionID]session.Offer
	chains map[top.SessionID][]*session.HashChain
	base   map[top.SessionID]uint64 // of the last voucher taken
	opened int
	runs   []top.SessionID // as far as the liar knows
	taken  int             // vouchers
}

// any is a session that began not long ago.
func (l *liar) any() top.SessionID {
	return sid(byte(max(1, l.opened-l.rnd.IntN(8))))
}

// near is a number at, or not far from, another.
func (l *liar) near(n uint64) uint64 {
	switch l.rnd.IntN(20) {
	case 0:
		return n / 2
	case 1:
		return n + l.rnd.Uint64N(1+n/4)
	case 2:
		return 0
	}
	return n
}

func (l *liar) step() {
	switch n := l.rnd.IntN(100); {
	case n < 6 && l.opened < 250:
		l.openOne()
	case n < 40:
		l.serveMost()
	case n < 80:
		id := l.any()
		if c := l.chains[id]; len(c) > 0 {
			h := c[len(c)-1-l.rnd.IntN(min(1+l.rnd.IntN(3), len(c)))]
			i := min(h.N(), 1+uint32(l.near(l.meter.Paid(id)-min(l.meter.Paid(id), l.base[id]))+l.rnd.Uint64N(6)))
			t := session.Tick{Session: id, I: i, W: h.At(i)}
			if l.rnd.IntN(50) == 0 {
				t.W[0]++
			}
			l.ticked(t)
			l.meter.Tick(l.now, &t)
		}
	case n < 90:
		l.voucher()
	case n < 97:
		if len(l.vouchers) > 0 && l.rnd.IntN(8) == 0 {
			v := l.vouchers[l.rnd.IntN(len(l.vouchers))]
			c := session.Claim{Voucher: v}
			for _, a := range v.Anchors {
				c.Ticks = append(c.Ticks, session.Tick{Session: a.Session})
			}
			l.meter.Recover(c)
			l.runs = nil
		}
	case n < 98 && l.rnd.IntN(8) == 0:
		saved := l.meter.Show()
		l.meter = session.NewMeter(l.meterCfg)
		l.meter.Head(l.now)
		l.ok(l.meter.Recover(saved...))
		l.crashed(l.meter.Owed())
		l.runs = nil
	case n < 99 && l.opened > 0:
		id := l.any()
		l.meter.Close(id)
		l.over[id] = l.meter.Paid(id)
		l.runs = slices.DeleteFunc(l.runs, func(r top.SessionID) bool { return r == id })
	}
}

func (l *liar) openOne() {
	id, o := sid(byte(l.opened+1)), vpn()
	o.Price, o.Window = top.Amount(l.rnd.IntN(4))*price, uint32(1+l.rnd.IntN(300))
	h := session.NewHashChain(l.payerCfg.Draw(), 1+uint32(l.rnd.IntN(120)))
	t := session.Ticket{
		Chain: l.meterCfg.Chain, Channel: l.meterCfg.Channel, Session: id, Payer: l.meterCfg.Payer, Node: l.meterCfg.Node,
		Service: o.Service, Unit: o.Unit, Price: o.Price, Root: h.Root(), N: h.N(), Expiry: 1 << 40,
	}
	l.ok(t.SignPayer(key(1).Signer()))
	if l.meter.Open(l.now, t, o) == nil {
		l.opened++
		l.offers[id], l.dearest, l.paid[id] = o, max(l.dearest, o.Price), 0
		l.chains[id], l.runs = append(l.chains[id], h), append(l.runs, id)
	}
}

// serveMost takes all the credit that there is, or less.
func (l *liar) serveMost() {
	id := l.any()
	units := l.meter.Credit(id)
	if units > 0 && l.rnd.IntN(2) == 0 {
		units = 1 + l.rnd.Uint64N(units)
	}
	if l.meter.Serve(l.now, id, units) == nil {
		l.served += l.offers[id].Price * top.Amount(units)
	}
}

// voucher signs what the payer's own machine never would: about sessions that
// run, with numbers, amounts, prices and bases at or near the right ones.
func (l *liar) voucher() {
	var anchors []session.Anchor
	var base []uint64
	var chains []*session.HashChain
	for _, id := range l.runs {
		if l.rnd.IntN(100) == 0 || len(anchors) == 8 {
			continue // it ends
		}
		h := session.NewHashChain(l.payerCfg.Draw(), 1+uint32(l.rnd.IntN(120)))
		if c := l.chains[id]; len(c) == 1 || l.rnd.IntN(200) == 0 {
			h = c[len(c)-1]
		}
		a := session.Anchor{Session: id, Price: l.offers[id].Price, Root: h.Root(), N: h.N()}
		if l.rnd.IntN(200) == 0 {
			a.Price++
		}
		anchors, base = append(anchors, a), append(base, l.near(l.meter.Paid(id)))
		chains = append(chains, h)
	}
	seq := l.meter.Claim().Voucher.Seq + min(2, l.rnd.Uint64N(9))
	v := l.signed(seq, top.Amount(l.near(uint64(l.meter.Owed()))), anchors...)
	l.vouchers = append(l.vouchers, v)
	if l.meter.Renew(l.now, session.Renewal{Voucher: v, Base: base}) == nil {
		l.taken++
		l.runs = slices.DeleteFunc(l.runs, func(id top.SessionID) bool {
			_, in := v.Anchor(id)
			return !in && len(l.chains[id]) > 1
		})
		for j, a := range anchors {
			l.base[a.Session] = base[j]
			l.chains[a.Session] = append(l.chains[a.Session], chains[j])
		}
	}
}

func TestWalkOfALyingPayer(t *testing.T) {
	for seed := range uint64(30) {
		e := newEnds(t, 20_000*price)
		l := &liar{
			ends: e, model: newModel(t, e.meterCfg), rnd: rand.New(rand.NewPCG(seed, 2)),
			offers: map[top.SessionID]session.Offer{}, chains: map[top.SessionID][]*session.HashChain{}, base: map[top.SessionID]uint64{},
		}
		for range 1500 {
			l.step()
			l.check(l.meter)
		}
		if l.taken < 10 || l.before < 50*price {
			t.Errorf("seed %d: the walk led nowhere: %d vouchers taken, %s served, %s owed", seed, l.taken, l.served, l.before)
		}
	}
}

// A provider that acknowledges what it likes and shows what it likes gets no
// payer beyond the cap or beyond what was served.
func TestWalkOfALyingProvider(t *testing.T) {
	for seed := range uint64(40) {
		e := newEnds(t, 2000*price)
		rnd := rand.New(rand.NewPCG(seed, 3))
		m := newModel(t, e.meterCfg)
		acked, due, n := map[top.SessionID]uint64{}, top.Amount(0), byte(0)
		var last uint64
		tick := func(t session.Tick) { m.ticked(t) }
		for range 1500 {
			id := sid(n - byte(rnd.IntN(4)))
			switch k := rnd.IntN(100); {
			case k < 4 && n < 250:
				if _, err := e.payer.Begin(e.now, sid(n+1), vpn()); err == nil {
					n++
					acked[sid(n)] = 0
				}
			case k < 60:
				if _, begun := acked[id]; begun && due < e.payerCfg.Cap {
					acked[id]++
					due += price
				}
				if t, is := e.payer.Served(id, acked[id]); is {
					tick(t)
				}
			case k < 75:
				r, is, err := e.payer.Renew(e.now)
				if err != nil || !is {
					continue
				}
				e.ok(r.Voucher.Sign(key(1).Signer()))
				e.ok(e.payer.Signed(r.Voucher))
				most, err := r.Voucher.Exposure()
				if e.ok(err); most > e.payerCfg.Cap || r.Voucher.Amount > due || r.Voucher.Seq <= last {
					t.Fatalf("voucher %d after %d exposes %s and settles %s of %s", r.Voucher.Seq, last, most, r.Voucher.Amount, due)
				}
				last = r.Voucher.Seq
				m.vouchers = append(m.vouchers, r.Voucher)
			case k < 90:
				e.payer.Acknowledged(last - min(last, rnd.Uint64N(3)))
				for _, t := range e.payer.Repeat() {
					tick(t)
				}
			case k < 92:
				if t, is := e.payer.End(id); is {
					tick(t)
				}
			case k < 93 && len(m.vouchers) > 0: // an old claim, without its ticks
				v := m.vouchers[rnd.IntN(len(m.vouchers))]
				c := session.Claim{Voucher: v}
				for _, a := range v.Anchors {
					c.Ticks = append(c.Ticks, session.Tick{Session: a.Session})
				}
				e.ok(e.payer.Recover(c))
			}
			if most := m.provable(); most > min(due, e.payerCfg.Cap) { // S5: the best claim that the provider can make
				t.Fatalf("seed %d: %s were served, the provider can claim %s", seed, due, most)
			}
		}
		if due < 100*price || len(m.vouchers) < 20 {
			t.Errorf("seed %d: the walk led nowhere: %d vouchers, %s served", seed, len(m.vouchers), due)
		}
	}
}
