package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"top/lib/api"
	"top/lib/delivery"
	"top/lib/envelope"
	"top/lib/top"
)

const (
	bundleBytes = 56 << 10 // payloads that travel together
	placeBatch  = 16       // envelopes that are placed together
	maxUnstored = 32 << 20 // bytes under way to relays for one recipient
	reopenAfter = 2000     // messages of a conversation
	relayWait   = 3 * time.Second
)

// A courier carries the messages for one recipient, in their order.
type courier struct {
	a  *agent
	to top.Address

	mu    sync.Mutex
	msgs  []*outMessage // not sealed yet
	ready []*outParcel  // sealed, to be placed
	avoid top.NodeID    // the relay that failed last
	kick  chan struct{}
}

// courier is that of a recipient, begun when it is first needed.
func (a *agent) courier(to top.Address) *courier {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.couriers[to]
	if c == nil {
		c = &courier{a: a, to: to, kick: make(chan struct{}, 1)}
		a.couriers[to] = c
		a.group.Go(func() error {
			c.run(a.ctx)
			return nil
		})
	}
	return c
}

func (c *courier) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// add queues messages.
func (c *courier) add(all []*outMessage) {
	c.mu.Lock()
	c.msgs = append(c.msgs, all...)
	c.mu.Unlock()
	c.wake()
}

// again queues parcels that have to be placed anew, not at the relay to avoid if
// there is another.
func (c *courier) again(all []*outParcel, avoid top.NodeID) {
	c.mu.Lock()
	c.ready = append(c.ready, all...)
	slices.SortFunc(c.ready, func(x, y *outParcel) int { return int(int64(x.Seq) - int64(y.Seq)) })
	c.ready = slices.CompactFunc(c.ready, func(x, y *outParcel) bool { return x.Seq == y.Seq })
	c.avoid = avoid
	c.mu.Unlock()
	c.wake()
}

// run carries until ctx ends.
func (c *courier) run(ctx context.Context) {
	wait := firstRetry
	for {
		worked, err := c.step(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			wait = firstRetry
		case retries(err):
			c.a.log.Debug("courier waits", "to", c.to, "err", err)
			c.note(err)
			if !pause(ctx, max(wait, top.RetryAfter(err))) {
				return
			}
			wait = min(2*wait, lastRetry)
		default:
			c.giveUp(err)
		}
		if worked || err != nil {
			continue
		}
		select {
		case <-c.kick:
		case <-ctx.Done():
			return
		}
	}
}

// step seals what waits and places what is sealed; false when there was nothing.
func (c *courier) step(ctx context.Context) (bool, error) {
	c.mu.Lock()
	parcels := slices.Clone(c.ready[:min(len(c.ready), placeBatch)])
	msgs := c.next()
	avoid := c.avoid
	c.mu.Unlock()
	if len(parcels) > 0 {
		return true, c.place(ctx, parcels, avoid)
	}
	if len(msgs) > 0 {
		return true, c.seal(ctx, msgs)
	}
	return false, nil
}

// next is the messages that travel together: one file, or as many as fit.
func (c *courier) next() []*outMessage {
	size := 0
	for i, m := range c.msgs {
		size += len(m.Body) + len(m.Name) + 160
		if i > 0 && (m.File != nil || m.Expiry != c.msgs[0].Expiry || size > bundleBytes || i >= envelope.MaxPayloads) {
			return c.msgs[:i]
		}
		if m.File != nil {
			return c.msgs[:1]
		}
	}
	return c.msgs
}

// seal seals messages to the recipient's devices, and their files' chunks after
// them.
func (c *courier) seal(ctx context.Context, msgs []*outMessage) error {
	a := c.a
	rec, err := a.lookup(ctx, c.to)
	if err != nil {
		return err
	}
	a.sealing.Lock()
	defer a.sealing.Unlock()
	to, err := c.conversations(ctx, rec)
	if err != nil {
		return err
	}
	var texts [][]byte
	for _, m := range msgs {
		texts = append(texts, m.payload())
	}
	s, err := envelope.Seal(a.d.chain, a.d.device, a.d.cert, to, uint64(a.now().UnixMilli()), texts)
	if err != nil {
		return err
	}
	b := a.db.db.NewBatch()
	defer b.Close()
	for _, o := range to {
		if err := b.Set(key('o', o.Account[:], o.Device[:]), o.Encode(), nil); err != nil {
			return err
		}
	}
	parcels, err := c.wrap(b, msgs, s)
	if err != nil {
		return err
	}
	if err := b.Commit(pebble.Sync); err != nil { // before anything leaves (M4)
		return err
	}
	c.mu.Lock()
	c.msgs = c.msgs[len(msgs):]
	c.ready = append(c.ready, parcels...)
	c.mu.Unlock()
	return nil
}

// wrap makes the parcels of a bundle, and of the chunks of a file that is in it.
func (c *courier) wrap(b *pebble.Batch, msgs []*outMessage, s envelope.Sealed) ([]*outParcel, error) {
	a := c.a
	now := a.now().UnixMilli()
	a.mu.Lock()
	defer a.mu.Unlock()
	first, last := msgs[0], msgs[len(msgs)-1]
	add := func(p *outParcel) *outParcel {
		a.seqs.Parcel++
		p.Seq, p.To, p.First, p.Last = a.seqs.Parcel, c.to, first.Seq, last.Seq
		p.Expiry, p.State, p.Since = first.Expiry, queued, now
		return p
	}
	all := []*outParcel{add(&outParcel{ID: s.ID, Key: s.Key, Size: len(s.Bytes), Count: uint32(len(msgs)), Chunk: -1})}
	if err := b.Set(key('y', u64(all[0].Seq)), s.Bytes, nil); err != nil {
		return nil, err
	}
	if f := first.File; f != nil {
		for i := range f.Chunks {
			id, k, size := envelope.ChunkOf(f.Key, i, first.Size)
			all = append(all, add(&outParcel{ID: id, Key: k, Size: size, Count: 1, Chunk: int64(i)}))
		}
	}
	for _, p := range all {
		a.parcels[p.Seq] = p
		if err := errors.Join(save(b, key('p', u64(p.Seq)), p), b.Set(key('e', p.ID[:]), u64(p.Seq), nil)); err != nil {
			return nil, err
		}
	}
	for _, m := range msgs {
		m.First, m.Parcels = all[0].Seq, uint64(len(all))
		if err := save(b, key('m', u64(m.Seq)), m); err != nil {
			return nil, err
		}
	}
	return all, save(b, key('#'), a.seqs)
}

// conversations are those with every device of a recipient, opened where there is
// none, or one that lasted long.
func (c *courier) conversations(ctx context.Context, rec envelope.Mailbox) (all []*envelope.Outgoing, err error) {
	now := uint64(c.a.now().Unix())
	for _, d := range rec.Devices {
		if d.Cert.Verify(c.a.d.chain, "device", now) != nil {
			continue
		}
		raw, err := get(c.a.db.db, key('o', c.to[:], d.Cert.Key[:]))
		if err != nil {
			return nil, err
		}
		o := new(envelope.Outgoing)
		if raw == nil || o.Decode(raw) != nil || o.Next >= reopenAfter {
			if o, err = c.open(ctx, rec, d); err != nil {
				return nil, err
			}
		}
		all = append(all, o)
	}
	if len(all) == 0 {
		return nil, top.Errorf(top.NotFound, "%s has no device whose certificate holds (it must run: top-relay serve)", c.to)
	}
	return all, nil
}

// open begins a conversation with a device, by a one-time prekey of one of its
// relays or the one of last resort.
func (c *courier) open(ctx context.Context, rec envelope.Mailbox, d envelope.Device) (*envelope.Outgoing, error) {
	to := d.LastResort
	for _, node := range rec.Relays {
		k, err := c.a.fetchPrekey(ctx, node, rec.Account, d.Cert.Key)
		if err == nil && k != nil {
			to = *k
			break
		}
		if err != nil {
			c.a.log.Debug("prekey", "relay", node, "err", err)
		}
	}
	return envelope.Begin(c.a.d.chain, c.a.d.device, c.a.d.cert, to)
}

// fetchPrekey asks a relay for a one-time prekey; nil when it has none.
func (a *agent) fetchPrekey(ctx context.Context, node top.NodeID, account top.Address, device [32]byte) (*envelope.Prekey, error) {
	row := a.rowOf(node)
	row.Node = node
	raw, err := a.request(ctx, row, relayWait, fPrekey, slices.Concat(account[:], device[:]))
	if err != nil || len(raw) == 0 {
		return nil, err
	}
	k := new(envelope.Prekey)
	if err := k.Decode(raw); err != nil {
		return nil, err
	}
	if k.Account != account || k.Device != device || k.ID == 0 {
		return nil, top.Errorf(top.Denied, "relay %s hands out the prekey of another device", node)
	}
	return k, k.Verify(a.d.chain)
}

// rowOf is a node's row of the registry, as it was read last.
func (a *agent) rowOf(node top.NodeID) api.Node {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.registry {
		if n.Node == node {
			return n
		}
	}
	return api.Node{Node: node}
}

// pick is a relay of the recipient's that answers, in the order of its record.
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

// place gives parcels their places on a channel, makes that durable, and sends
// them once a voucher promises them.
func (c *courier) place(ctx context.Context, parcels []*outParcel, avoid top.NodeID) error {
	a := c.a
	if err := c.space(ctx); err != nil {
		return err
	}
	l, err := c.pick(ctx, avoid)
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
	n, err := c.assign(ctx, l, offer, hold, parcels)
	if err != nil {
		l.blame(err, a.now())
		return err
	}
	a.mu.Lock()
	var lastPlace delivery.Place
	sending := parcels[:0:0]
	for _, p := range parcels {
		if p.Channel == n.channel && p.State == placed {
			sending = append(sending, p)
			lastPlace = p.place()
		}
	}
	a.mu.Unlock()
	c.mu.Lock()
	c.ready = slices.DeleteFunc(c.ready, func(p *outParcel) bool { return slices.Contains(sending, p) })
	c.mu.Unlock()
	if len(sending) == 0 {
		return nil
	}
	if err := n.promise(ctx, lastPlace); err != nil {
		l.blame(err, a.now())
		a.requeue(sending, l.node)
		return err
	}
	for _, p := range sending {
		if err := a.send(ctx, n, p); err != nil {
			return nil // resend does it when the relay is back
		}
	}
	return nil
}

// assign places as many of the parcels as one channel takes.
func (c *courier) assign(ctx context.Context, l *link, offer api.Offer, hold uint32, parcels []*outParcel) (*lane, error) {
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
		a.mu.Unlock()
		value := append(append(u64(p.Seq), u64(uint64(at.To))...), p.ID[:]...)
		err = errors.Join(save(b, key('p', u64(p.Seq)), p), b.Set(key('l', n.channel[:], c.to[:], u64(uint64(at.From))), value, nil))
		if err != nil {
			return nil, err
		}
	}
	if err := n.save(b); err != nil {
		return nil, err
	}
	return n, b.Commit(pebble.Sync)
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
	m.Node = p.Node
	return nil
}

// send sends a parcel to the relay on whose channel it lies.
func (a *agent) send(ctx context.Context, n *lane, p *outParcel) error {
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
	return n.l.send(ctx, fSend, e.Encode())
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

// note shows on the messages that wait why they do.
func (c *courier) note(err error) {
	c.mu.Lock()
	var seqs []uint64
	for _, m := range c.msgs {
		seqs = append(seqs, m.Seq)
	}
	for _, p := range c.ready {
		seqs = append(seqs, p.First)
	}
	c.mu.Unlock()
	c.a.mu.Lock()
	defer c.a.mu.Unlock()
	for _, s := range seqs {
		if m := c.a.msgs[s]; m != nil {
			m.Error = err.Error()
		}
	}
}

// giveUp ends the messages at hand: what failed does not pass by itself.
func (c *courier) giveUp(err error) {
	c.mu.Lock()
	var parcels []*outParcel
	var msgs []*outMessage
	if len(c.ready) > 0 {
		last := c.ready[0].Last
		for len(c.ready) > 0 && c.ready[0].Last == last {
			parcels = append(parcels, c.ready[0])
			c.ready = c.ready[1:]
		}
	} else {
		msgs = slices.Clone(c.next())
		c.msgs = c.msgs[len(msgs):]
	}
	c.mu.Unlock()
	c.a.fail(msgs, parcels, err)
}

func number(b []byte) uint64 { return binary.BigEndian.Uint64(b) }
