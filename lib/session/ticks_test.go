package session_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"top/lib/session"
	"top/lib/top"
)

// twins are two meters of one channel that are told the same: one takes ticks one by
// one, the other together.
type twins struct {
	*ends
	rnd   *rand.Rand
	other *session.Meter
	now   map[top.SessionID]*session.HashChain
	was   map[top.SessionID]*session.HashChain // of the voucher before
	base  map[top.SessionID]uint64
	seq   uint64
	at    map[top.SessionID]uint32 // about the last tick
}

func newTwins(t testing.TB, seed uint64, sessions int) *twins {
	w := &twins{
		ends: newEnds(t, top.MaxSupply), rnd: rand.New(rand.NewPCG(seed, 3)), base: map[top.SessionID]uint64{},
		now: map[top.SessionID]*session.HashChain{}, was: map[top.SessionID]*session.HashChain{}, at: map[top.SessionID]uint32{},
	}
	w.other = session.NewMeter(w.meterCfg)
	w.other.Head(w.ends.now)
	draw := seeds(fmt.Sprint("twins ", seed))
	for n := range sessions {
		id := sid(byte(n + 1))
		w.now[id] = session.NewHashChain(draw(), uint32(session.MaxSteps/sessions))
		tk := session.Ticket{
			Chain: w.meterCfg.Chain, Channel: w.meterCfg.Channel, Session: id, Payer: w.meterCfg.Payer, Node: w.meterCfg.Node,
			Service: "vpn", Unit: "64KiB", Price: price, Root: w.now[id].Root(), N: w.now[id].N(), Expiry: 1 << 40,
		}
		w.ok(tk.SignPayer(key(1).Signer()))
		w.ok(w.meter.Open(w.ends.now, tk, vpn()))
		w.ok(w.other.Open(w.ends.now, tk, vpn()))
	}
	return w
}

// renew signs the next voucher, which pays for all that was ticked.
func (w *twins) renew(draw func() [32]byte) {
	var r session.Renewal
	paid := top.Amount(0)
	w.was = map[top.SessionID]*session.HashChain{}
	for n := range len(w.now) {
		id := sid(byte(n + 1))
		if w.seq > 0 {
			w.was[id] = w.now[id]
			w.now[id] = session.NewHashChain(draw(), w.now[id].N())
		}
		w.base[id], w.at[id] = w.meter.Paid(id), 0
		paid += top.Amount(w.base[id]) * price
		r.Base = append(r.Base, w.base[id])
		r.Voucher.Anchors = append(r.Voucher.Anchors, session.Anchor{Session: id, Price: price, Root: w.now[id].Root(), N: w.now[id].N()})
	}
	w.seq++
	r.Voucher = w.signed(w.seq, paid, r.Voucher.Anchors...)
	one, two := w.meter.Renew(w.ends.now, r), w.other.Renew(w.ends.now, r)
	if fmt.Sprint(one) != fmt.Sprint(two) {
		w.t.Fatalf("a renewal: %v and %v", one, two)
	}
}

// tick is one that an unruly payer sends: mostly the next, else a skip, one once more,
// a late one, a wrong one or one of nobody.
func (w *twins) tick() session.Tick {
	id := sid(byte(1 + w.rnd.IntN(len(w.now)+1)))
	if w.rnd.IntN(40) > 0 {
		id = sid(byte(1 + w.rnd.IntN(len(w.now))))
	}
	h := w.now[id]
	if h == nil {
		return session.Tick{Session: id, I: 1}
	}
	i := w.at[id] + 1
	switch w.rnd.IntN(12) {
	case 0:
		i += w.rnd.Uint32N(9)
	case 1:
		i -= min(i, w.rnd.Uint32N(3))
	case 2:
		i = w.rnd.Uint32N(h.N() + 3)
	case 3:
		if w.was[id] != nil {
			h = w.was[id]
		}
	}
	t := session.Tick{Session: id, I: i, W: h.At(min(i, h.N()))}
	if w.rnd.IntN(60) == 0 {
		t.W[w.rnd.IntN(32)] ^= 1
	}
	if h == w.now[id] && i < h.N() {
		w.at[id] = max(w.at[id], i)
	}
	return t
}

// both gives the same ticks to both and wants the same of them.
func (w *twins) both(all []session.Tick) {
	w.t.Helper()
	refused, why := 0, error(nil)
	for i := range all {
		if err := w.meter.Tick(w.ends.now, &all[i]); err != nil {
			if refused++; why == nil {
				why = err
			}
		}
	}
	n, err := w.other.Ticks(w.ends.now, all)
	if n != refused || fmt.Sprint(err) != fmt.Sprint(why) {
		w.t.Fatalf("%d were refused together, %d one by one: %v, %v", n, refused, err, why)
	}
	if w.meter.Owed() != w.other.Owed() || !reflect.DeepEqual(w.meter.Show(), w.other.Show()) {
		w.t.Fatalf("%s are owed together, %s one by one", w.other.Owed(), w.meter.Owed())
	}
	for id := range w.now {
		if w.meter.Paid(id) != w.other.Paid(id) || w.meter.Credit(id) != w.other.Credit(id) || w.meter.Window(id) != w.other.Window(id) {
			w.t.Fatalf("session %s is another together", id)
		}
	}
}

func (w *twins) play(rounds int) {
	draw := seeds(fmt.Sprint("of twins ", w.rnd.Uint64()))
	for range rounds {
		w.renew(draw)
		for range 1 + w.rnd.IntN(12) {
			var all []session.Tick
			for range w.rnd.IntN(60) {
				all = append(all, w.tick())
			}
			w.both(all)
		}
		if w.rnd.IntN(4) == 0 {
			w.ends.now = w.ends.now.Add(1500 * 1e6)
		}
		if w.rnd.IntN(12) == 0 {
			id := sid(byte(1 + w.rnd.IntN(len(w.now))))
			w.meter.Close(id)
			w.other.Close(id)
		}
	}
}

func TestTicksAreTakenTogetherAsOneByOne(t *testing.T) {
	for seed := range uint64(60) {
		w := newTwins(t, seed, []int{1, 1, 2, 5, 16}[seed%5])
		w.both([]session.Tick{{Session: sid(1), I: 1}}) // before any voucher
		w.play(12)
		if w.meter.Owed() == 0 {
			t.Errorf("seed %d: nothing was paid", seed)
		}
		w.ends.now = w.meterCfg.Expiry // too late for all
		w.both([]session.Tick{w.tick(), w.tick(), w.tick()})
	}
	// Whoever ticks wrongly is shut out as early.
	w := newTwins(t, 99, 1)
	w.renew(seeds("wrong"))
	all := make([]session.Tick, 40)
	for i := range all {
		all[i] = session.Tick{Session: sid(1), I: 1, W: top.ID{byte(i + 1)}}
	}
	w.both(all)
	good := session.Tick{Session: sid(1), I: 1, W: w.now[sid(1)].At(1)}
	refused(t, w.other.Tick(w.ends.now, &good), top.ErrDenied)
}

func FuzzTicks(f *testing.F) {
	f.Add(uint64(1), byte(1))
	f.Add(uint64(2), byte(16))
	f.Fuzz(func(t *testing.T, seed uint64, sessions byte) {
		newTwins(t, seed, 1+int(sessions%16)).play(3)
	})
}

// Claims that are proved together have the verdicts that each has alone.
func TestProveIsVerifyAndTicked(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 5))
	e := newEnds(t, top.MaxSupply)
	var claims []*session.Claim
	var payers []top.Address
	want := []bool{}
	for n := range 60 {
		var anchors []session.Anchor
		var ticks []session.Tick
		for i := range n % (session.MaxAnchors + 1) {
			h := chain(fmt.Sprint("prove ", n, i), 60)
			k := rnd.Uint32N(61)
			anchors = append(anchors, session.Anchor{Session: sid(byte(i)), Price: 1, Root: h.Root(), N: 60})
			tick := session.Tick{Session: sid(byte(i)), I: k}
			if k > 0 {
				tick.W = h.At(k)
			}
			ticks = append(ticks, tick)
		}
		c := &session.Claim{Voucher: e.signed(uint64(n), 9, anchors...), Ticks: ticks}
		good := true
		switch at := rnd.IntN(9); {
		case at == 0:
			c.Voucher.Sig[3] ^= 1
			good = false
		case at == 1 && len(ticks) > 0 && ticks[len(ticks)-1].I > 0:
			ticks[len(ticks)-1].W[31] ^= 1
			good = false
		case at == 2 && len(ticks) > 0 && ticks[0].I > 1:
			ticks[0].I-- // a tick under another number
			good = false
		}
		if _, err := c.Sum(); err != nil {
			t.Fatal(err)
		}
		if alone := c.Voucher.Verify(e.meterCfg.Payer) == nil && c.Ticked() == nil; alone != good {
			t.Fatalf("claim %d: %t alone, want %t", n, alone, good)
		}
		claims, payers, want = append(claims, c), append(payers, e.meterCfg.Payer), append(want, good)
	}
	payers[7], want[7] = top.Address(key(9).Public()), false // signed by another
	if got := session.Prove(claims, payers, nil, bytes.NewReader(bytes.Repeat([]byte{7, 9, 1}, 1<<16))); !reflect.DeepEqual(got, want) {
		t.Errorf("%v\nwant %v", got, want)
	}
	if got := session.Prove(nil, nil, nil, nil); len(got) != 0 {
		t.Error(got)
	}
}

// BenchmarkTicks is BenchmarkTick for ticks that are taken together.
func BenchmarkTicks(b *testing.B) {
	for _, sessions := range []int{1, 16} {
		b.Run(fmt.Sprintf("sessions=%d", sessions), func(b *testing.B) {
			p := newPump(b, sessions)
			var took []float64
			for b.Loop() {
				ticks := p.renew(1, 1)
				from := time.Now()
				if refused, err := p.meter.Ticks(p.now, ticks); refused > 0 {
					b.Fatal(err)
				}
				took = append(took, float64(time.Since(from))/float64(len(ticks)))
			}
			b.ReportMetric(median(took), "ns/tick")
		})
	}
}
