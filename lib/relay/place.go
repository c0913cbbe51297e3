package relay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"top/lib/api"
	"top/lib/delivery"
	"top/lib/envelope"
	"top/lib/top"
)

// pick is a relay of the recipient's that answers, in the order of its record; the
// one to avoid comes last.
func (c *courier) pick(ctx context.Context, avoid top.NodeID) (*link, error) {
	rec, err := c.a.lookup(ctx, c.to)
	if err != nil {
		return nil, err
	}
	if _, err := c.a.nodes(ctx); err != nil {
		c.a.log.Debug("registry", "err", err)
	}
	order := slices.Clone(rec.Relays)
	if i := slices.Index(order, avoid); i >= 0 {
		order = append(slices.Delete(order, i, i+1), avoid)
	}
	var links []*link
	for _, node := range order {
		if node == c.a.cfg.NodeKey.Public() {
			continue // a relay does not pay itself
		}
		l := c.a.link(node, c.a.rowOf(node))
		if up, _ := l.isUp(); up && !l.isBad(c.a.now()) {
			return l, nil
		}
		links = append(links, l)
	}
	err = top.Errorf(top.Offline, "none of the relays of %s answers", c.to)
	for _, l := range links {
		if e := l.await(ctx, relayWait); e == nil && !l.isBad(c.a.now()) {
			return l, nil
		}
	}
	return nil, err
}

// tier is the factor of the cheapest tier that holds until an expiry.
func tier(o api.Offer, now, expiry uint64) (uint32, error) {
	need := expiry - min(now, expiry)
	if need <= 3600 {
		return 0, nil
	}
	best, found := uint32(0), false
	for _, h := range o.Hold {
		if uint64(h.Seconds) >= need && (!found || h.Factor < best) {
			best, found = h.Factor, true
		}
	}
	if !found {
		return 0, top.Errorf(top.Denied, "the relay holds no message for %s (send it with a shorter --hold)", time.Duration(need)*time.Second)
	}
	return best, nil
}

// place gives parcels their places on a channel, makes that durable, and has them
// sent there.
func (c *courier) place(ctx context.Context, parcels []*outParcel) error {
	a := c.a
	if err := c.space(ctx); err != nil {
		return err
	}
	c.a.mu.Lock()
	failed := parcels[0].Node // a parcel that had a place and waits again lost it there
	c.a.mu.Unlock()
	l, err := c.pick(ctx, failed)
	if err != nil {
		return err
	}
	l.mu.Lock()
	row := l.row
	l.mu.Unlock()
	offer, ok := wireOffer(row)
	if !ok {
		return top.Errorf(top.Busy, "relay %s offers no relaying now", l.node)
	}
	hold, err := tier(offer, uint64(a.now().Unix()), parcels[0].Expiry)
	if err != nil {
		return err
	}
	done, err := c.assign(ctx, l, offer, hold, parcels)
	if err != nil {
		l.blame(err, a.now())
		return err
	}
	c.mu.Lock()
	c.ready = slices.DeleteFunc(c.ready, func(p *outParcel) bool { return slices.Contains(done, p) })
	c.mu.Unlock()
	return nil
}

// assign places as many of the parcels as one channel takes, and says which.
func (c *courier) assign(ctx context.Context, l *link, offer api.Offer, hold uint32, parcels []*outParcel) (done []*outParcel, err error) {
	a := c.a
	cost := func(p *outParcel) (top.Amount, error) {
		return delivery.Cost(offer.Price, envelope.Units(p.Size, p.Count), hold)
	}
	one, err := cost(parcels[0])
	if err != nil {
		return nil, err
	}
	n, err := a.lane(ctx, l, c.to, one, parcels[0].Expiry)
	if err != nil {
		return nil, err
	}
	b := a.db.db.NewBatch()
	defer b.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, p := range parcels {
		a.mu.Lock()
		waits := p.State == queued
		a.mu.Unlock()
		if !waits {
			continue
		}
		price, err := cost(p)
		if err == nil {
			err = a.afford(p, price)
		}
		if err != nil {
			return nil, err
		}
		at, err := n.sender.Place(c.to, price, p.Expiry, a.now())
		if err != nil {
			if i == 0 {
				return nil, err
			}
			break // the rest takes another channel
		}
		a.mu.Lock()
		p.Node, p.Channel, p.From, p.Upto, p.Hold = l.node, n.channel, at.From, at.To, hold
		p.State, p.Since = placed, a.now().UnixMilli()
		p.Tries++
		for seq := p.First; seq <= p.Last; seq++ {
			if m := a.msgs[seq]; m != nil {
				m.Node, m.Error = l.node, ""
			}
		}
		a.mu.Unlock()
		value := append(append(u64(p.Seq), u64(uint64(at.To))...), p.ID[:]...)
		err = errors.Join(save(b, key('p', u64(p.Seq)), p), b.Set(key('l', n.channel[:], c.to[:], u64(uint64(at.From))), value, nil))
		if err != nil {
			return nil, err
		}
		done = append(done, p)
	}
	if err := n.save(b); err != nil {
		return nil, err
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return nil, err
	}
	n.enqueue(done)
	return done, nil
}

// afford adds a parcel's price to what its messages cost, within what may be
// spent on them.
func (a *agent) afford(p *outParcel, price top.Amount) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.msgs[p.Last]
	if m == nil {
		return nil
	}
	if m.MaxSpend > 0 && m.Cost+price > m.MaxSpend {
		return top.Errorf(top.Denied, "it would cost more than %s TOP (allow it: --max-spend)", m.MaxSpend)
	}
	if p.Tries == 0 {
		m.Units += envelope.Units(p.Size, p.Count)
		m.Cost += price
	}
	return nil
}

// send sends a parcel to the relay on whose channel it lies.
func (a *agent) send(ctx context.Context, s *stream, p *outParcel) error {
	a.mu.Lock()
	q := *p
	a.mu.Unlock()
	sealed, err := a.sealed(&q)
	if err != nil {
		return err
	}
	e := envelope.Envelope{Sealed: sealed, Header: envelope.Header{
		Chain: a.d.chain, Channel: q.Channel, Recipient: q.To, ID: q.ID, From: q.From, To: q.Upto, Count: q.Count, Expiry: q.Expiry, Hold: q.Hold,
	}}
	e.MAC = e.Header.MAC(q.Key)
	return s.sendBody(ctx, fSend, e.Head(), e.Sealed)
}

// sealed is the sealed bytes of a parcel, from the database or the spool.
func (a *agent) sealed(p *outParcel) ([]byte, error) {
	if p.Chunk < 0 {
		b, err := get(a.db.db, key('y', u64(p.Seq)))
		if err == nil && b == nil {
			err = top.Errorf(top.Failed, "the sealed message is gone")
		}
		return b, err
	}
	m, err := a.message(p.First)
	if err != nil {
		return nil, err
	}
	if m == nil || m.File == nil {
		return nil, top.Errorf(top.Failed, "the file is gone")
	}
	f, err := os.Open(a.spoolPath(m.File))
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	defer f.Close()
	b := make([]byte, p.Size)
	if _, err := f.ReadAt(b, p.Chunk*envelope.MaxSealed); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	return b, nil
}

// space waits while much is under way and not stored.
func (c *courier) space(ctx context.Context) error {
	for {
		change := c.a.change()
		n := 0
		c.a.mu.Lock()
		for _, p := range c.a.parcels {
			if p.To == c.to && p.State == placed {
				n += p.Size
			}
		}
		c.a.mu.Unlock()
		if n < maxUnstored {
			return nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
