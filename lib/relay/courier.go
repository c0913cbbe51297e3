package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"top/lib/api"
	"top/lib/envelope"
	"top/lib/top"
)

const (
	bundleBytes = 56 << 10 // payloads that travel together
	placeBatch  = 16       // envelopes that are placed together
	maxUnstored = 64 << 20 // bytes under way to relays for one recipient
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

// again queues parcels that have to be placed anew.
func (c *courier) again(all []*outParcel) {
	c.mu.Lock()
	c.ready = append(c.ready, all...)
	slices.SortFunc(c.ready, func(x, y *outParcel) int { return int(int64(x.Seq) - int64(y.Seq)) })
	c.ready = slices.CompactFunc(c.ready, func(x, y *outParcel) bool { return x.Seq == y.Seq })
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
	c.a.mu.Lock()
	c.ready = slices.DeleteFunc(c.ready, func(p *outParcel) bool { return p.State != queued }) // failed or expired meanwhile
	c.a.mu.Unlock()
	parcels := slices.Clone(c.ready[:min(len(c.ready), placeBatch)])
	msgs := c.next()
	c.mu.Unlock()
	if len(parcels) > 0 {
		return true, c.place(ctx, parcels)
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
	if err := b.Commit(pebble.NoSync); err != nil { // what places them syncs the log, before anything leaves (M4)
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
