package vpn

import (
	"testing"
	"time"

	"top/lib/receipt"
	"top/lib/session"
	"top/lib/top"
)

// BenchmarkKeep is what a beat costs an exit, under its lock, with 200 sessions that each
// paid four units since.
func BenchmarkKeep(b *testing.B) {
	w := newWorld(b)
	x, alice := w.sell("exit"), w.member("alice")
	offer := session.Offer{Service: Service, Unit: Unit, Price: price, Window: 1024}
	type pair struct {
		payer *session.Payer
		acct  *account
		id    top.SessionID
		units uint64
	}
	var all []*pair
	for range 200 {
		id := at(w, func() top.ID { return w.channel(alice.address(), x.address(), 1000*top.One, time.Hour) })
		p := &pair{id: newPaying().id, payer: session.NewPayer(session.PayerConfig{
			Chain: w.chain, Channel: id, Payer: alice.address(), Node: x.id(), Cap: 1000 * top.One, Expiry: time.Now().Add(time.Hour), Draw: draw,
		})}
		k, err := p.payer.Begin(time.Now(), p.id, offer)
		must(b, err)
		must(b, k.SignPayer(alice.account.Signer()))
		cfg := session.MeterConfig{Chain: w.chain, Channel: id, Payer: alice.address(), Node: x.id(), Cap: 1000 * top.One, Expiry: time.Now().Add(time.Hour)}
		p.acct = &account{cfg: cfg, meter: session.NewMeter(cfg), sessions: map[top.SessionID]*served{}, last: time.Now()}
		must(b, p.acct.meter.Open(time.Now(), k, offer))
		p.acct.sessions[p.id] = &served{ticket: k, acct: p.acct, log: receipt.Log{}, heard: time.Now(), moved: time.Now()}
		all = append(all, p)
	}
	renew := func(p *pair) {
		r, due, err := p.payer.Renew(time.Now())
		must(b, err)
		if !due {
			return
		}
		must(b, r.Voucher.Sign(alice.account.Signer()))
		must(b, p.payer.Signed(r.Voucher))
		must(b, p.acct.meter.Renew(time.Now(), r))
		must(b, p.payer.Acknowledged(r.Voucher.Seq))
	}
	x.exit.mu.Lock()
	for _, p := range all {
		renew(p)
		x.exit.accounts[p.acct.cfg.Channel] = p.acct
	}
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		for _, p := range all {
			p.units += 4
			if t, due := p.payer.Served(p.id, p.units); due {
				must(b, p.acct.meter.Tick(time.Now(), &t))
			}
			renew(p)
		}
		b.StartTimer()
		flush, err := x.exit.keep(time.Now(), n%10 == 0)
		must(b, err)
		x.exit.mu.Unlock()
		must(b, flush())
		x.exit.mu.Lock()
	}
	x.exit.mu.Unlock()
}
