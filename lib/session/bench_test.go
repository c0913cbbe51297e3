package session_test

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"
	"time"

	"top/lib/session"
	"top/lib/top"
)

// BenchmarkBareChain is one step of SHA-256 over 32 bytes: a tick of one unit can
// never cost less.
func BenchmarkBareChain(b *testing.B) {
	var w top.ID
	for b.Loop() {
		w = sha256.Sum256(w[:])
	}
	if w.IsZero() {
		b.Fatal("no hash")
	}
}

// BenchmarkTick is all ticks of one voucher, of so many units each, taken by a meter that
// holds the state of its channel, on one core. Sessions take turns after a run of
// ticks. bare% is what remains of the speed of the bare chain, measured beside it
// over as many steps; what renews the voucher is in neither. The metrics are medians
// over the vouchers.
func BenchmarkTick(b *testing.B) {
	for _, tc := range []struct{ sessions, run, units int }{{1, 1, 1}, {16, 16, 1}, {16, 1, 1}, {1, 1, 4}, {1, 1, 16}} {
		b.Run(fmt.Sprintf("sessions=%d/run=%d/units=%d", tc.sessions, tc.run, tc.units), func(b *testing.B) {
			p := newPump(b, tc.sessions)
			var tick, step, ratio []float64
			for b.Loop() {
				ticks := p.renew(tc.run, uint32(tc.units))
				from := time.Now()
				for i := range ticks {
					if err := p.meter.Tick(p.now, &ticks[i]); err != nil {
						b.Fatal(err)
					}
				}
				ticking, bare, n := time.Since(from), chainOf(len(ticks)*tc.units), float64(len(ticks))
				tick, step = append(tick, float64(ticking)/n), append(step, float64(bare)/n/float64(tc.units))
				ratio = append(ratio, 100*float64(bare)/float64(ticking))
			}
			b.ReportMetric(median(tick), "ns/tick")
			b.ReportMetric(median(step), "ns/step")
			b.ReportMetric(median(ratio), "bare%")
		})
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// chainOf is how long n steps of the bare chain take.
func chainOf(n int) time.Duration {
	w, from := top.ID{1}, time.Now()
	for range n {
		w = sha256.Sum256(w[:])
	}
	took := time.Since(from)
	if w.IsZero() {
		return 0
	}
	return took
}

// pump is a payer that ticks every unit of every anchor.
type pump struct {
	*ends
	draw  func() [32]byte
	seq   uint64
	base  uint64 // units of each session
	first []*session.HashChain
}

func newPump(t testing.TB, sessions int) *pump {
	p := &pump{ends: newEnds(t, top.MaxSupply), draw: seeds("pump")}
	for n := range sessions {
		h := session.NewHashChain(p.draw(), session.MaxSteps)
		tk := session.Ticket{
			Chain: p.meterCfg.Chain, Channel: p.meterCfg.Channel, Session: sid(byte(n)), Payer: p.meterCfg.Payer, Node: p.meterCfg.Node,
			Service: "vpn", Unit: "64KiB", Price: price, Root: h.Root(), N: h.N(), Expiry: 1 << 40,
		}
		p.ok(tk.SignPayer(key(1).Signer()))
		p.ok(p.meter.Open(p.now, tk, vpn()))
		p.first = append(p.first, h)
	}
	return p
}

// renew brings the next voucher and gives all ticks on it, of so many units each.
func (p *pump) renew(run int, units uint32) (ticks []session.Tick) {
	n := uint32(session.MaxSteps / len(p.first))
	var r session.Renewal
	var anchors []session.Anchor
	chains := p.first
	for i := range chains {
		if p.seq > 0 {
			chains[i] = session.NewHashChain(p.draw(), n)
		}
		anchors = append(anchors, session.Anchor{Session: sid(byte(i)), Price: price, Root: chains[i].Root(), N: n})
		r.Base = append(r.Base, p.base)
	}
	p.seq++
	r.Voucher = p.signed(p.seq, top.Amount(p.base*uint64(len(chains)))*price, anchors...)
	p.ok(p.meter.Renew(p.now, r))
	for from := uint32(0); from < n; from += uint32(run) {
		for i, h := range chains {
			for k := from + 1; k <= min(n, from+uint32(run)); k++ {
				if k%units > 0 {
					continue
				}
				ticks = append(ticks, session.Tick{Session: sid(byte(i)), I: k, W: h.At(k)})
			}
		}
	}
	p.base += uint64(n)
	return ticks
}
