package vpn

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"top/lib/netstack"
	"top/lib/session"
	"top/lib/top"
	"top/lib/wg"
)

// A rider is a client that does by hand what it likes: it has a tunnel and a payer, and
// nothing pays by itself.
type rider struct {
	m     *member
	x     *member
	t     *tunnel
	stack *netstack.Stack
	payer *session.Payer
	id    top.SessionID
	p     *paying
}

// target is an exit as the registry says.
func (m *member) target(x *member) target {
	m.w.t.Helper()
	l := &Looker{Home: m.home, Chain: m.chainAPI(), Now: m.clock}
	t, err := l.told(m.w.t.Context(), x.name, Plain)
	must(m.w.t, err)
	t, err = resolved(m.w.t.Context(), t)
	must(m.w.t, err)
	return t
}

// ride makes a tunnel without a session.
func (m *member) ride(x *member) *rider {
	m.w.t.Helper()
	return m.rideBy(x, wg.NewPrivate())
}

func (m *member) rideBy(x *member, key wg.Private) *rider {
	t := m.w.t
	t.Helper()
	r := &rider{m: m, x: x, p: newPaying()}
	var err error
	r.stack, err = netstack.New(netstack.Config{Addrs: []netip.Addr{key.Public().Inner4(), key.Public().Inner()}, MTU: mtuPlain})
	must(t, err)
	r.t, err = newTunnel(tunnelConfig{To: m.target(x), Key: key, Line: r.stack, Log: quiet(), Now: m.clock})
	must(t, err)
	t.Cleanup(func() { r.t.close(); r.stack.Close() })
	r.p.gate.limit.Store(1 << 60)
	r.t.cur.Store(r.p)
	return r
}

// channel opens one from the member to the exit.
func (r *rider) channel(most top.Amount) top.ID {
	return at(r.m.w, func() top.ID { return r.m.w.channel(r.m.address(), r.x.address(), most, time.Hour) })
}

// pays makes a payer on a channel.
func (r *rider) pays(ch top.ID, after uint64) *rider {
	row := at(r.m.w, func() top.Amount { return r.m.w.channels[ch].Cap })
	r.payer = session.NewPayer(session.PayerConfig{
		Chain: r.m.w.chain, Channel: ch, Payer: r.m.address(), Node: r.x.id(), Cap: row, Expiry: r.m.clock().Add(time.Hour), Draw: draw, After: after,
	})
	return r
}

// ticket begins a session, signed by the payer.
func (r *rider) ticket() session.Ticket {
	r.m.w.t.Helper()
	r.id = newPaying().id
	k, err := r.payer.Begin(r.m.clock(), r.id, session.Offer{Service: Service, Unit: Unit, Price: price, Window: 1024})
	must(r.m.w.t, err)
	must(r.m.w.t, k.SignPayer(r.m.account.Signer()))
	return k
}

// answers waits for a message of a kind that is liked, while body is said again.
func (r *rider) answers(body []byte, kind byte, like func(b []byte) bool) {
	r.m.w.t.Helper()
	r.hears(body, func(b []byte) bool { return b[0] == kind && (like == nil || like(b)) })
}

// hears waits for what is liked, while body is said again.
func (r *rider) hears(body []byte, like func(b []byte) bool) {
	t := r.m.w.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	for {
		r.t.say(body)
		again := time.After(300 * time.Millisecond)
		for waits := true; waits; {
			select {
			case b := <-r.t.words:
				if like(b) {
					return
				}
			case <-again:
				waits = false
			case <-ctx.Done():
				t.Fatalf("nothing came for a %c", body[0])
			}
		}
	}
}

// show shows a ticket, and gives what the exit answers.
func (r *rider) show(k session.Ticket) (accepted, error) {
	r.m.w.t.Helper()
	ref := r.t.nonces.Add(1)
	body := opening{Ref: ref, Key: r.t.key.Public(), Ticket: k.Encode()}.encode()
	var a accepted
	var f fault
	var err error
	r.hears(body, func(b []byte) bool {
		switch {
		case b[0] == mAccept && a.decode(b) == nil && a.Ref == ref:
			err = nil
			return true
		case b[0] == mFault && f.decode(b) == nil && f.Ref == ref:
			err = f.err()
			return true
		}
		return false
	})
	return a, err
}

// begun opens a session on a channel and has its voucher taken.
func (r *rider) begun(ch top.ID) *rider {
	t := r.m.w.t
	t.Helper()
	if r.payer == nil {
		r.pays(ch, 0)
	}
	a, err := r.show(r.ticket())
	must(t, err)
	must(t, r.stack.AddAddr(a.Inner4))
	r.voucher()
	return r
}

// voucher signs the next voucher and has it taken.
func (r *rider) voucher() {
	t := r.m.w.t
	t.Helper()
	n, due, err := r.payer.Renew(r.m.clock())
	must(t, err)
	if !due {
		t.Fatal("no voucher is due")
	}
	must(t, n.Voucher.Sign(r.m.account.Signer()))
	must(t, r.payer.Signed(n.Voucher))
	r.answers(told{mVoucher, r.id, n.Encode()}.encode(), mTaken, func(b []byte) bool {
		var m taken
		return m.decode(b) == nil && m.Seq == n.Voucher.Seq
	})
	must(t, r.payer.Acknowledged(n.Voucher.Seq))
}

// stated asks for the exit's counters of the rider's session.
func (r *rider) stated() (m state) {
	r.m.w.t.Helper()
	n := r.t.nonces.Add(1)
	r.answers(ping{n, r.id}.encode(), mState, func(b []byte) bool { return m.decode(b) == nil && m.Nonce == n })
	return m
}

// ticks sends ticks, and gives the exit's counters afterwards.
func (r *rider) ticks(all ...session.Tick) state {
	r.m.w.t.Helper()
	r.t.say(ticking{Session: r.id, Ticks: all}.encode())
	return r.stated() // answered in order
}

// floods sends n bytes of datagrams to a port where nobody may listen.
func (r *rider) floods(to netip.AddrPort, n int) {
	r.m.w.t.Helper()
	own := r.t.key.Public().Inner4()
	if a := r.at4(); a.IsValid() {
		own = a
	}
	for ; n > 0; n -= 1200 {
		r.t.dev.Inject(wg.UDP{From: netip.AddrPortFrom(own, 4000), To: to, Body: make([]byte, 1172)}.Packet())
	}
}

// at4 is the address that the exit gave.
func (r *rider) at4() netip.Addr {
	p := r.x.exit.peer(r.t.own)
	if p == nil {
		return netip.Addr{}
	}
	return p.addr4
}

// counted is what the exit let through of the rider's session, in bytes.
func (r *rider) counted() uint64 {
	r.x.exit.mu.Lock()
	defer r.x.exit.mu.Unlock()
	for _, a := range r.x.exit.accounts {
		if s := a.sessions[r.id]; s != nil {
			return s.up.Load() + s.down.Load()
		}
	}
	return 0
}

// dropped is how much of the rider's traffic found no credit.
func (r *rider) dropped() (n uint64) {
	r.x.exit.mu.Lock()
	defer r.x.exit.mu.Unlock()
	for _, a := range r.x.exit.accounts {
		if s := a.sessions[r.id]; s != nil {
			n += s.gate.dropped.Load() + uint64(s.gate.held())
		}
	}
	return n
}

func rides(t *testing.T) (w *world, x, alice *member) {
	t.Helper()
	w = newWorld(t)
	x = w.sell("exit")
	return w, x, w.member("alice")
}
