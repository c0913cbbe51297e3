package session_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"top/lib/session"
	"top/lib/top"
)

// model is the slow and obvious account of a channel: it keeps every voucher that
// was signed and, for each anchor, the highest tick that anybody made, and counts
// all again from nothing.
type model struct {
	t        testing.TB
	cfg      session.MeterConfig
	vouchers []session.Voucher
	highest  map[top.ID]uint32 // by root
	dearest  top.Amount        // price of any session
	served   top.Amount        // price of all units served and not taken back
	forgot   top.Amount        // of that, what the provider lost in a crash
	before   top.Amount        // owed, at the last check
	paid     map[top.SessionID]uint64
	over     map[top.SessionID]uint64 // closed sessions, with their units
}

func newModel(t testing.TB, cfg session.MeterConfig) *model {
	return &model{t: t, cfg: cfg, highest: map[top.ID]uint32{}, paid: map[top.SessionID]uint64{}, over: map[top.SessionID]uint64{}}
}

// ticked notes a tick that was made, on whichever anchor it is.
func (m *model) ticked(t session.Tick) {
	for _, v := range m.vouchers {
		if a, in := v.Anchor(t.Session); in && t.I <= a.N && t.I > m.highest[a.Root] && session.Hash(t.W, t.I) == a.Root {
			m.highest[a.Root] = t.I
		}
	}
}

// provable is the most that any voucher with any ticks comes to.
func (m *model) provable() (best top.Amount) {
	for _, v := range m.vouchers {
		sum := v.Amount
		for _, a := range v.Anchors {
			sum += a.Price * top.Amount(m.highest[a.Root])
		}
		best = max(best, sum)
	}
	return best
}

// crashed notes that the provider forgot what it served and was not paid.
func (m *model) crashed(owed top.Amount) {
	m.forgot = m.served - min(m.served, owed)
	m.before = 0
	clear(m.paid)
	clear(m.over)
}

// check holds a meter against the invariants.
func (m *model) check(meter *session.Meter) {
	m.t.Helper()
	owed := meter.Owed()
	if c := meter.Claim(); c.Voucher.Seq > 0 {
		got, err := c.Owed()
		most, err2 := c.Voucher.Exposure()
		if err != nil || err2 != nil || got != owed || got > most || most > m.cfg.Cap {
			m.t.Fatalf("S2: the claim owes %s of %s exposed and a cap of %s, the meter counts %s: %v", got, most, m.cfg.Cap, owed, err)
		}
	}
	if owed < m.before {
		m.t.Fatalf("S1: owed %s became %s", m.before, owed)
	}
	m.before = owed
	if best := m.provable(); owed > best {
		m.t.Fatalf("S6: owed %s, all that was signed and ticked proves %s", owed, best)
	}
	if credit := max(4*m.dearest, owed/4); m.served > owed+m.forgot+credit {
		m.t.Fatalf("S4: served %s, owed %s, credit %s", m.served-m.forgot, owed, credit)
	}
	for id, was := range m.paid {
		paid := meter.Paid(id)
		if paid < was {
			m.t.Fatalf("S1: session %s: %d units paid became %d", id, was, paid)
		}
		m.paid[id] = paid
		if was, closed := m.over[id]; closed && (paid != was || meter.Credit(id) != 0) {
			m.t.Fatalf("S3: session %s was over with %d units, now it has %d", id, was, paid)
		}
	}
}

// walk is both ends, honest, on a wire that loses, repeats and delays, with
// crashes of either.
type walk struct {
	*ends
	*model
	rnd     *rand.Rand
	fragile bool                   // the payer may crash
	ended   map[top.SessionID]bool // by the payer
	ids     []top.SessionID
	offers  map[top.SessionID]session.Offer
	sent    []session.Renewal
	ticks   []session.Tick
	due     top.Amount // price of all that was acknowledged as served
	crash   int
}

func newWalk(t testing.TB, seed uint64) *walk {
	e := newEnds(t, 200_000*price)
	w := &walk{ends: e, model: newModel(t, e.meterCfg), rnd: rand.New(rand.NewPCG(seed, 1)), fragile: seed%2 > 0, ended: map[top.SessionID]bool{}, offers: map[top.SessionID]session.Offer{}}
	w.payerCfg.Draw = seeds(fmt.Sprint("walk ", seed))
	w.ends.payer = session.NewPayer(w.payerCfg)
	return w
}

// lucky is true once in n times.
func (w *walk) lucky(n int) bool { return w.rnd.IntN(n) == 0 }

// some is a session that began not long ago.
func (w *walk) some() (id top.SessionID) {
	if n := len(w.ids); n > 0 {
		id = w.ids[n-1-w.rnd.IntN(min(n, 6))]
	}
	return id
}

func (w *walk) step() {
	switch n := w.rnd.IntN(100); {
	case n < 4:
		w.beginOne()
	case n < 45:
		w.serveSome()
	case n < 65:
		id := w.some()
		if tick, due := w.payer.Served(id, w.acked[id]); due {
			w.made(tick)
		}
	case n < 75:
		w.renewOne()
	case n < 82 && len(w.ticks) > 0:
		w.meter.Tick(w.now, &w.ticks[len(w.ticks)-1-w.rnd.IntN(min(len(w.ticks), 40))]) // late, or once more
	case n < 86 && len(w.sent) > 0:
		w.meter.Renew(w.now, w.sent[len(w.sent)-1-w.rnd.IntN(min(len(w.sent), 3))])
	case n < 92:
		w.drain()
	case n < 96:
		w.now = w.now.Add(time.Duration(w.rnd.IntN(3000)) * time.Millisecond)
		w.meter.Head(w.now)
	case n < 97:
		w.report()
		id := w.some()
		w.ended[id] = true
		if tick, due := w.payer.End(id); due {
			w.made(tick)
		}
	case n < 98 && w.lucky(4):
		w.meterCrashes()
	case n < 99 && w.lucky(4) && w.fragile:
		w.payerCrashes()
	}
}

func (w *walk) beginOne() {
	id := top.SessionID{1, byte(len(w.ids)), byte(len(w.ids) >> 8)}
	o := vpn()
	o.Price, o.Window = top.Amount(w.rnd.IntN(5))*price, uint32(1+w.rnd.IntN(200))
	t, err := w.payer.Begin(w.now, id, o)
	if err != nil {
		return
	}
	w.ok(t.SignPayer(key(1).Signer()))
	w.ok(w.meter.Open(w.now, t, o))
	w.ids, w.offers[id], w.dearest, w.paid[id] = append(w.ids, id), o, max(w.dearest, o.Price), 0
}

func (w *walk) serveSome() {
	id, units := w.some(), 1+uint64(w.rnd.IntN(1<<w.rnd.IntN(6)))
	if w.ended[id] {
		return
	}
	credit := w.meter.Credit(id)
	err := w.meter.Serve(w.now, id, units)
	if (err == nil) != (units <= credit) {
		w.ends.t.Fatalf("a credit of %d, %d served: %v", credit, units, err)
	}
	if err != nil {
		return
	}
	if w.lucky(20) {
		w.meter.Lost(id, units)
		return
	}
	w.acked[id] += units
	w.served += w.offers[id].Price * top.Amount(units)
	w.due += w.offers[id].Price * top.Amount(units)
}

// made takes a tick on its way; one in four gets lost.
func (w *walk) made(t session.Tick) {
	w.ticked(t)
	w.ticks = append(w.ticks, t)
	if !w.lucky(4) {
		w.meter.Tick(w.now, &t)
	}
}

// renewOne signs the next voucher; it or its acknowledgement may get lost.
func (w *walk) renewOne() {
	r, due, err := w.payer.Renew(w.now)
	if w.ok(err); due {
		w.ok(r.Voucher.Sign(key(1).Signer()))
		w.ok(w.payer.Signed(r.Voucher))
		w.see(r)
	}
	if r, waits := w.payer.Waiting(); waits && !w.lucky(3) {
		w.ok(w.meter.Renew(w.now, r)) // an honest payer is never refused
		if !w.lucky(3) {
			w.ok(w.payer.Acknowledged(r.Voucher.Seq))
		}
	}
}

// see holds a voucher of the payer against the invariants.
func (w *walk) see(r session.Renewal) {
	most, err := r.Voucher.Exposure()
	if w.ok(err); most > w.payerCfg.Cap {
		w.ends.t.Fatalf("S2: voucher %d exposes %s, the cap is %s", r.Voucher.Seq, most, w.payerCfg.Cap)
	}
	if r.Voucher.Amount > w.due {
		w.ends.t.Fatalf("S5: voucher %d settles %s, %s were served", r.Voucher.Seq, r.Voucher.Amount, w.due)
	}
	if n := len(w.sent); n > 0 && r.Voucher.Seq <= w.sent[n-1].Voucher.Seq {
		w.ends.t.Fatalf("S1: voucher %d after %d", r.Voucher.Seq, w.sent[n-1].Voucher.Seq)
	}
	w.sent, w.vouchers = append(w.sent, r), append(w.vouchers, r.Voucher)
}

// report tells the payer what was served of each session.
func (w *walk) report() {
	for _, id := range w.ids {
		if tick, due := w.payer.Served(id, w.acked[id]); due {
			w.made(tick)
		}
	}
}

// drain sends all that waits, until it arrives.
func (w *walk) drain() {
	w.report()
	for _, t := range w.payer.Repeat() {
		w.made(t)
		w.ok(w.meter.Tick(w.now, &t))
	}
}

// meterCrashes loses what was not saved. What it forgot it served is a loss of
// one credit at most; what the payer knows to be served is paid all the same.
func (w *walk) meterCrashes() {
	w.report()
	saved := w.meter.Show()
	if w.lucky(2) {
		saved = nil
	}
	w.meter = session.NewMeter(w.meterCfg)
	w.meter.Head(w.now)
	for _, c := range append(saved, w.payer.Show()...) {
		for _, t := range c.Ticks {
			w.ticked(t)
		}
		w.ok(w.meter.Recover(c))
	}
	w.crashed(w.meter.Owed())
	w.resumePayer()
}

// payerCrashes loses everything but the number of the last voucher. Units that
// it never ticked are forgotten.
func (w *walk) payerCrashes() {
	w.crash++
	if n := len(w.sent); n > 0 {
		w.payerCfg.After = w.sent[n-1].Voucher.Seq
	}
	w.payerCfg.Draw = seeds(fmt.Sprint("crash ", w.crash, w.rnd.Uint64()))
	w.payer = session.NewPayer(w.payerCfg)
	w.resumePayer()
}

func (w *walk) resumePayer() {
	w.ok(w.payer.Recover(w.meter.Show()...))
	w.ids = append(w.ids, top.SessionID{}) // the older ones are over
	for _, id := range w.ids {
		w.meter.Close(id)
		w.served -= w.offers[id].Price * top.Amount(w.meter.Lost(id, 1<<63)) // the payer forgot it, and is forgiven
		w.over[id] = w.meter.Paid(id)
	}
	clear(w.acked)
}

// What an honest payer acknowledged is owed in the end, and nothing more, through
// loss, delay and crashes.
func TestWalkOfHonestEnds(t *testing.T) {
	for seed := range uint64(40) {
		w := newWalk(t, seed)
		for range 1500 {
			w.step()
			w.check(w.meter)
		}
		for range 50 {
			w.renewOne()
			w.drain()
			w.check(w.meter)
		}
		if !w.fragile && w.before != w.due {
			t.Errorf("seed %d: %s were acknowledged, %s are owed", seed, w.due, w.before)
		}
		if w.before < 100*price || len(w.sent) < 20 {
			t.Errorf("seed %d: the walk led nowhere: %d vouchers, %s owed", seed, len(w.sent), w.before)
		}
	}
}
