package relay

import (
	"slices"

	"top/lib/top"
)

// clear ends what a device was handed, and drops what every device has.
func (p *provider) clear(h *hand, over func(flight) bool) {
	for seq, f := range h.out {
		if over(f) {
			delete(h.out, seq)
			h.box.has(h.device, seq)
		}
	}
	p.drop(h.box)
}

// drop forgets the messages of a box that no device lacks.
func (p *provider) drop(b *box) {
	for _, m := range b.drop(p.db) {
		p.stats.Messages--
		p.stats.Bytes -= uint64(m.size)
		p.forget(b, m)
	}
}

// forget takes a message out of the queue and off the disk.
func (p *provider) forget(b *box, m *parcel) {
	m.gone = true
	p.unload(m)
	p.work.boxes[b] = true
	p.work.batch.Delete(m.key(), nil)
	p.work.batch.Delete(key('X', u64(m.head.Expiry), m.head.Recipient[:], u64(m.seq)), nil)
	if m.isBlob() {
		p.work.drops = append(p.work.drops, m.blobName())
	}
}

// skip hands some envelopes to a device no more.
func (p *provider) skip(h *hand, ids []top.ID) {
	p.clear(h, func(f flight) bool { return slices.Contains(ids, f.id) })
	p.wake()
	h.box.wake()
}

// sweep drops what expired and tells the senders.
func (p *provider) sweep() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := uint64(p.now().Unix())
	expired := map[top.ID][]top.ID{}
	err := each(p.db.db, key('X'), key('X'), func(k, _ []byte) (bool, error) {
		at, to, seq := splitExpiry(k)
		if at > now {
			return false, nil
		}
		b, err := p.box(to)
		if err != nil || b == nil {
			return err == nil, err
		}
		m, err := b.parcel(p.db, seq)
		if err != nil || m == nil {
			return err == nil, err
		}
		expired[m.head.Channel] = append(expired[m.head.Channel], m.head.ID)
		b.expire(m)
		p.stats.Messages--
		p.stats.Bytes -= uint64(m.size)
		p.forget(b, m)
		return true, nil
	})
	for channel, ids := range expired {
		c, e := p.carry(channel)
		if e != nil || c == nil {
			continue
		}
		for to, w := range c.waits {
			c.waits[to] = slices.DeleteFunc(w, func(x *waiting) bool { return x.expiry <= now })
		}
		p.mark(c, "expired", "", ids)
	}
	if len(expired) > 0 {
		p.wake()
	}
	return err
}
