package relay

import (
	"errors"
	"strings"
	"testing"
	"time"

	"top/lib/delivery"
	"top/lib/envelope"
	"top/lib/session"
	"top/lib/top"
)

// drops loses what a relay holds for somebody, and says nothing.
func (m *member) drops(who *member) (lost int) {
	p := m.d.provider
	p.mu.Lock()
	defer p.mu.Unlock()
	b, err := p.box(who.address())
	must(m.w.t, err)
	for seq := b.state.First; seq < b.state.Next; seq++ {
		if q, err := b.parcel(p.db, seq); err == nil && q != nil {
			b.expire(q)
			p.forget(b, q)
			lost++
		}
	}
	return lost
}

// A relay that says stored and loses the message: after a while the sender gives a
// copy to the other, which is paid, and the first earns nothing.
func TestARelayThatDropsEarnsNothing(t *testing.T) {
	w := newWorld(t)
	r1, r2 := w.relay("r1"), w.relay("r2")
	bob, alice := w.user("bob", r1, r2), w.user("alice", r1, r2)
	bob.knows(alice)
	bob.stop()
	if m := alice.sent(bob, "one", "text", "stored"); *m.Relay != r1.id() {
		t.Fatalf("it is at %s", m.Relay)
	}
	if r1.drops(bob) != 1 {
		t.Fatal("there was nothing to drop")
	}
	alice.later.Store(int64(doubt + time.Minute))
	bob.start()
	if got := bob.inbox(1); got["one"] != "text" {
		t.Errorf("bob has %q", got)
	}
	alice.sent(bob, "one", "", "delivered")
	if a, b := r1.d.provider.held().Earned, r2.d.provider.held().Earned; a != 0 || b == 0 {
		t.Errorf("the relay that dropped it earned %s, the other %s", a, b)
	}
}

// A relay that takes and never stores is left after a while.
func TestARelayThatStoresNothingIsLeft(t *testing.T) {
	w := newWorld(t)
	r1, r2 := w.relay("r1"), w.relay("r2")
	bob, alice := w.user("bob", r1, r2), w.user("alice", r1, r2)
	bob.knows(alice)
	alice.sent(bob, "zero", "text", "delivered")
	r1.d.provider.mu.Lock()
	alice.sent(bob, "one", "text", "queued")
	alice.until("on its way", func() bool {
		alice.d.agent.mu.Lock()
		defer alice.d.agent.mu.Unlock()
		for _, p := range alice.d.agent.parcels {
			if p.State == placed {
				return true
			}
		}
		return false
	})
	alice.until("with the other", func() bool {
		alice.later.Add(int64(storeWait / 8))
		m := alice.box("sent")[1]
		return m.Relay != nil && *m.Relay == r2.id()
	})
	m := alice.sent(bob, "one", "", "delivered")
	r1.d.provider.mu.Unlock()
	if *m.Relay != r2.id() {
		t.Errorf("it went by %s", m.Relay)
	}
	bob.inbox(2)
}

// A relay that keeps a message and shows some acknowledgement for it is paid for
// nothing: not with an older one, one of another channel, one that it signed, or
// one that covers more than it handed over.
func TestARelayThatKeepsCannotClaim(t *testing.T) {
	w := newWorld(t)
	r := w.relay("r")
	bob, alice, carol := w.user("bob", r), w.user("alice", r), w.user("carol", r)
	bob.knows(alice)
	bob.knows(carol)
	alice.sent(bob, "one", "text", "delivered")
	carol.sent(bob, "two", "text", "delivered")
	bob.stop()
	alice.sent(bob, "three", "kept", "stored")
	p := r.d.provider
	p.mu.Lock()
	defer p.mu.Unlock()
	var ofAlice, ofCarol *carry
	for _, c := range p.carries {
		if c.ticket.Payer == alice.address() {
			ofAlice = c
		} else {
			ofCarol = c
		}
	}
	line := func(c *carry) session.Ack { // what bob signed for the first message there
		a := session.Ack{Channel: c.ticket.Channel, To: c.ticket.Price, Count: 1, Cert: bob.d.cert}
		must(t, a.Sign(bob.d.device.Signer()))
		return a
	}
	owed := ofAlice.c.Owed()
	// None of these convinces its own carrier, nor the chain.
	old := line(ofAlice)
	stretched := old
	stretched.To += 1000
	selfMade := stretched
	selfMade.Cert.Key = r.node.Public()
	must(t, selfMade.Sign(r.node.Signer()))
	foreign := line(ofCarol)
	for name, a := range map[string]session.Ack{"old": old, "stretched": stretched, "its own": selfMade, "of another channel": foreign} {
		claim := ofAlice.c.Claim()
		claim.Acks = []session.Ack{a}
		err := claim.Verify(alice.address(), 0)
		sum, oerr := claim.Owed()
		if err == nil && oerr == nil && sum > owed {
			t.Errorf("an acknowledgement %s earns %s", name, sum-owed)
		}
		if name != "old" {
			if _, err := ofAlice.c.Acked(a, time.Now()); err == nil {
				t.Errorf("an acknowledgement %s is taken", name)
			}
		}
	}
	if ofAlice.c.Owed() != owed {
		t.Error("it earned something")
	}
}

// A sender that floods: what is not promised is refused, what is promised costs
// its price, and the quota ends it. Who errs without end is cut off.
func TestASenderThatFloods(t *testing.T) {
	w := newWorld(t)
	r := w.relay("r")
	bob, alice := w.user("bob", r), w.user("alice", r)
	bob.stop()
	alice.sent(bob, "one", "text", "stored")
	p := r.d.provider
	p.mu.Lock()
	var c *carry
	for _, x := range p.carries {
		c = x
	}
	s := c.sender
	promised := c.c.Voucher().Aside(bob.address()).Amount
	p.mu.Unlock()
	send := func(from, to top.Amount, hold uint32) error {
		return p.take(s, envelope.Envelope{Sealed: make([]byte, 1000), Header: envelope.Header{
			Chain: w.chain, Channel: c.ticket.Channel, Recipient: bob.address(), ID: top.ID{byte(from)}, From: from, To: to, Count: 1, Hold: hold,
			Expiry: uint64(time.Now().Add(time.Hour / 2).Unix()),
		}})
	}
	price := c.ticket.Price
	took := 0
	for at := c.c.Taken(bob.address()); ; at += price {
		err := send(at, at+price, 0)
		if err != nil {
			if !errors.Is(err, top.ErrDenied) || at+price <= promised {
				t.Errorf("at %s of %s: %v", at, promised, err)
			}
			break
		}
		took++
	}
	if took == 0 || top.Amount(took)*price > promised {
		t.Errorf("%d messages for %s TOP", took, promised)
	}
	if err := send(0, price/2, 0); err == nil {
		t.Error("a message below its price")
	}
	// The connection of somebody who only errs ends.
	conn, err := alice.d.dial(t.Context(), r.d.host.Addrs())
	must(t, err)
	g := newStream(conn)
	defer g.close(nil)
	if _, _, err := g.next(); err != nil {
		t.Fatal(err)
	}
	bad := envelope.Envelope{Header: envelope.Header{Chain: w.chain, Channel: top.ID{9}, Recipient: bob.address(), To: 5, Count: 1}}
	go func() {
		for range maxWrong + 2 {
			if g.put(t.Context(), frame(fSend, bad.Encode())) != nil {
				return
			}
		}
	}()
	faults := 0
	for {
		if _, _, err := g.next(); err != nil {
			break
		}
		faults++
	}
	if faults == 0 || faults > maxWrong+1 {
		t.Errorf("%d wrong messages were answered", faults)
	}
}

// A message at a place that others passed over is refused, so that its sender finds
// it another.
func TestAPlaceThatWasPassedOver(t *testing.T) {
	w := newWorld(t)
	r := w.relay("r")
	bob, alice := w.user("bob", r), w.user("alice", r)
	bob.stop()
	alice.sent(bob, "one", "text", "stored")
	p := r.d.provider
	p.mu.Lock()
	var c *carry
	for _, x := range p.carries {
		c = x
	}
	at, price := c.c.Taken(bob.address()), c.ticket.Price
	here := c.waits[bob.address()][0].place
	must(t, c.c.Take(delivery.Place{Recipient: bob.address(), From: at + price, To: at + 2*price}, price, uint64(time.Now().Add(time.Hour).Unix()), time.Now()))
	if err := p.again(c, here); err != nil {
		t.Errorf("a message that is here: %v", err)
	}
	err := p.again(c, delivery.Place{Recipient: bob.address(), From: at, To: at + price})
	p.mu.Unlock()
	if !errors.Is(err, top.ErrDenied) || !strings.Contains(err.Error(), "nothing was taken") {
		t.Errorf("a message that was passed over: %v", err)
	}
}
