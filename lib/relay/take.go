package relay

import (
	"time"

	"top/lib/delivery"
	"top/lib/envelope"
	"top/lib/session"
	"top/lib/top"
)

// take takes an envelope to be held.
func (p *provider) take(s *stream, e envelope.Envelope) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := &e.Header
	c := p.carries[h.Channel]
	if c == nil || c.sender != s {
		return top.Errorf(top.NotFound, "channel %s: no session on this connection", h.Channel.Short())
	}
	place := delivery.Place{Recipient: h.Recipient, From: h.From, To: h.To}
	if c.c.Has(place) {
		return p.again(c, place)
	}
	if err := p.room(); err != nil {
		return err
	}
	b, err := p.box(h.Recipient)
	if err != nil {
		return err
	}
	if b == nil {
		return top.Errorf(top.NotFound, "%s has no mailbox here", h.Recipient)
	}
	if b.state.Bytes+uint64(len(e.Sealed)) > maxBoxBytes {
		return &top.Error{Kind: top.Busy, Message: "the mailbox is full", RetryAfter: 30 * time.Second}
	}
	cost, err := p.cost(h, c.ticket.Price, len(e.Sealed))
	if err != nil {
		return err
	}
	if err := c.c.Take(place, cost, h.Expiry, p.now()); err != nil {
		return err
	}
	m := b.add(e)
	m.at, m.pending = p.now(), true
	c.waits[h.Recipient] = append(c.waits[h.Recipient], m.waiting())
	p.work.parcels = append(p.work.parcels, m)
	p.work.carries[c], p.work.boxes[b] = true, true
	p.stats.Messages++
	p.stats.Bytes += uint64(m.size)
	p.pending += int64(m.size)
	p.wake()
	b.wake()
	p.caughtUp(c, b)
	for p.pending > maxPending {
		p.space.Wait()
	}
	return nil
}

// caughtUp enters an acknowledgement that came before what it speaks of was here
// again: a crash lost both. Without it the window might stay full for ever.
func (p *provider) caughtUp(c *carry, b *box) {
	a, ok := c.early[b.account]
	if !ok || a.To > c.c.Taken(b.account) {
		return
	}
	delete(c.early, b.account)
	if h := b.hands[a.Cert.Key]; h != nil {
		if err := p.credit(h, c, a); err != nil {
			p.log.Debug("an early acknowledgement", "err", err)
		}
	}
}

// again answers a message at a place up to which others were taken: it waits here,
// its recipient has it, or it was left out and has to find another place.
func (p *provider) again(c *carry, place delivery.Place) error {
	for _, w := range c.waits[place.Recipient] {
		if w.place == place {
			if w.stored {
				p.mark(c, "stored", "", []top.ID{w.id})
			}
			return nil
		}
	}
	if c.c.Knows(place) {
		return nil
	}
	return top.Errorf(top.Denied, "nothing was taken at %s TOP, and messages behind it were", place.From)
}

// cost is the price of a message, held in one of the tiers that are offered.
func (p *provider) cost(h *envelope.Header, price top.Amount, size int) (top.Amount, error) {
	now := uint64(p.now().Unix())
	for _, t := range append([]session.Hold{{Seconds: 3600}}, p.offer.Hold...) {
		if t.Factor == h.Hold && h.Expiry <= now+t.Seconds+clockSlack {
			return delivery.Cost(price, envelope.Units(size, h.Count), h.Hold)
		}
	}
	return 0, top.Errorf(top.Denied, "no tier of factor %d holds a message until %s", h.Hold, time.Unix(int64(h.Expiry), 0).UTC().Format(time.RFC3339))
}
