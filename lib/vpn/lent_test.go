package vpn

import (
	"crypto/rand"
	"errors"
	"net/netip"
	"testing"

	"top/lib/session"
	"top/lib/top"
	"top/lib/wg"
)

// lends shows a ticket that pays for a client, and gives what the exit answers.
func (r *rider) lends(ch top.ID, to *rider) error {
	r.m.w.t.Helper()
	k := session.Ticket{
		Chain: r.m.w.chain, Channel: ch, Payer: r.m.address(), Node: r.x.id(), Service: Service, Unit: Unit, Price: price, N: 1,
		Expiry: uint64(r.m.clock().Unix()) + 3000,
	}
	rand.Read(k.Session[:])
	rand.Read(k.Root[:])
	must(r.m.w.t, k.SignPayer(r.m.account.Signer()))
	ref := r.t.nonces.Add(1)
	var a accepted
	var f fault
	var err error
	r.hears(opening{Ref: ref, Key: r.t.key.Public(), Ticket: k.Encode(), Lend: to.t.key.Public()}.encode(), func(b []byte) bool {
		switch {
		case b[0] == mAccept && a.decode(b) == nil && a.Ref == ref:
			var got session.Ticket
			must(r.m.w.t, got.Decode(a.Ticket))
			r.id, to.id, err = got.Session, got.Session, nil
			return true
		case b[0] == mFault && f.decode(b) == nil && f.Ref == ref:
			err = f.err()
			return true
		}
		return false
	})
	return err
}

// prepays has a voucher of so much in all taken.
func (r *rider) prepays(ch top.ID, seq uint64, all top.Amount) {
	t := r.m.w.t
	t.Helper()
	v := session.Voucher{Chain: r.m.w.chain, Channel: ch, Seq: seq, Amount: all}
	must(t, v.Sign(r.m.account.Signer()))
	r.answers(told{mVoucher, r.id, session.Renewal{Voucher: v}.Encode()}.encode(), mTaken, func(b []byte) bool {
		var m taken
		return m.decode(b) == nil && m.Seq == seq
	})
}

// uses sends until the exit lets no more through, and gives what it let through.
func (r *rider) uses(speaker *rider) uint64 {
	t := r.m.w.t
	t.Helper()
	before := r.dropped()
	for range 200 {
		r.floods(netip.AddrPortFrom(host4(), 9), 2*unit)
		speaker.stated()
		if r.dropped() > before {
			return r.counted()
		}
	}
	t.Fatal("no end of what was prepaid")
	return 0
}

// TestX1_WhatIsPrepaidIsServedOnce prepays ten units on a channel and tries to have them
// more than once: for a second client, in another session of the first, on a channel on
// which a tunnel is paid too, in either order, and after the exit was started anew.
func TestX1_WhatIsPrepaidIsServedOnce(t *testing.T) {
	t.Parallel()
	w, x, alice := rides(t)
	const units = 10
	lender, phone, second := alice.ride(x), alice.ride(x), alice.ride(x)
	ch := lender.channel(top.One)
	must(t, lender.lends(ch, phone))
	lender.prepays(ch, 1, units*price)
	if n := phone.uses(lender); n > units*unit || n < (units-1)*unit {
		t.Errorf("%d bytes passed, %d units are prepaid", n, units)
	}
	if err := lender.lends(ch, second); !errors.Is(err, top.ErrDenied) {
		t.Errorf("the same channel, for a second client: %v", err)
	}
	tunnel := alice.ride(x)
	tunnel.pays(ch, 1)
	if _, err := tunnel.show(tunnel.ticket()); !errors.Is(err, top.ErrDenied) {
		t.Errorf("a tunnel on a channel that is lent: %v", err)
	}
	// Another channel for the same client ends the session of the first; back on the
	// first it has what is left there: nothing.
	other := lender.channel(top.One)
	must(t, lender.lends(other, phone))
	first := alice.ride(x)
	must(t, first.lends(ch, phone))
	if n := phone.uses(first); n > 0 {
		t.Errorf("%d bytes more in another session on a channel that is used up", n)
	}
	first.prepays(ch, 2, (units+3)*price)
	if n := phone.uses(first); n > 3*unit || n < 2*unit {
		t.Errorf("%d bytes for three units more", n)
	}
	sum := top.Amount(0)
	w.until("receipts", func() bool {
		sum = 0
		for _, r := range x.receipts("vpn.ndjson") {
			if r.Channel == ch {
				sum += r.Amount
			}
		}
		return sum >= (units+2)*price
	})
	if sum > (units+3)*price {
		t.Errorf("the receipts say %s of %s", sum, (units+3)*price)
	}
	must(t, x.stop())
	x.start()
	first, second = alice.ride(x), alice.ride(x)
	if err := first.lends(ch, second); !errors.Is(err, top.ErrDenied) {
		t.Errorf("after a restart, for a second client: %v", err)
	}
	phone.t.close()
	first, phone = alice.ride(x), alice.rideBy(x, phone.t.key) // WireGuard itself takes 15 s to see that it must shake hands
	must(t, first.lends(ch, phone))
	if n := phone.uses(first); n > 3*unit { // the session goes on: with those before
		t.Errorf("after a restart %d bytes", n)
	}
	for id, r := range x.receipts("vpn.ndjson") {
		if r.Unverified != r.Units {
			t.Errorf("session %s: %d of %d units are marked", id, r.Unverified, r.Units)
		}
	}

	// A channel on which a tunnel was paid is not lent.
	paid := alice.ride(x)
	own := paid.channel(top.One)
	paid.begun(own)
	tick, _ := paid.payer.Served(paid.id, 2)
	paid.ticks(tick)
	if err := first.lends(own, second); !errors.Is(err, top.ErrDenied) {
		t.Errorf("a channel on which a tunnel is paid: %v", err)
	}
}

// TestX1_NobodyPaysAClientAway: a stranger who knows the key of a client ends no session
// of it by paying for it himself.
func TestX1_NobodyPaysAClientAway(t *testing.T) {
	t.Parallel()
	w, x, alice := rides(t)
	lender, phone := alice.ride(x), alice.ride(x)
	ch := lender.channel(top.One)
	must(t, lender.lends(ch, phone))
	lender.prepays(ch, 1, 10*price)
	thief := w.member("thief").ride(x)
	if err := thief.lends(thief.channel(top.One), phone); !errors.Is(err, top.ErrDenied) {
		t.Errorf("a stranger pays for another's client: %v", err)
	}
	if n := phone.uses(lender); n < 9*unit {
		t.Errorf("%d bytes of ten units", n)
	}
}

// TestLendersLeaveNothing comes again and again to speak for one client: the exit keeps
// none of the keys that it did so with but the last.
func TestLendersLeaveNothing(t *testing.T) {
	t.Parallel()
	_, x, alice := rides(t)
	phone := alice.ride(x)
	var ch top.ID
	for i := range 5 {
		lender := alice.ride(x)
		if i == 0 {
			ch = lender.channel(top.One)
		}
		must(t, lender.lends(ch, phone))
	}
	if n := len(*x.exit.peers.Load()); n != 3 { // two addresses of the client, one of who speaks
		t.Errorf("%d addresses of peers", n)
	}
	if p := x.exit.peer(phone.t.own); p == nil || p.key != wg.Key(phone.t.key.Public()) {
		t.Errorf("the client is %v", p)
	}
}
