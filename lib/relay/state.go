package relay

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"top/lib/envelope"
	"top/lib/receipt"
	"top/lib/session"
	"top/lib/top"
	"top/lib/wire"
)

const (
	moveAfter = 3 * time.Second  // a relay that does not answer: its messages go to another
	doubt     = 10 * time.Minute // stored, and not delivered: a copy goes to another
	badFor    = time.Minute      // a relay that refused again and again is not picked for so long
	badFirst  = time.Second      // the first time
	maxTries  = 8                // relays that one envelope is given to
)

// advance moves a parcel to a state, and its messages with it.
func (a *agent) advance(b *pebble.Batch, p *outParcel, state string, at int64, why string) error {
	if p.State == state || isOver(p.State) && !(p.State == delivered && state == read) || rank[state] > 0 && rank[state] < rank[p.State] {
		return nil
	}
	was := p.State
	p.State, p.Since = state, at
	over := isOver(state)
	if over {
		delete(a.parcels, p.Seq)
		b.Delete(key('y', u64(p.Seq)), nil)
	}
	for seq := p.First; seq <= p.Last; seq++ {
		m := a.msgs[seq]
		if m == nil {
			m = new(outMessage)
			if ok, err := load(a.db.db, key('m', u64(seq)), m); err != nil || !ok {
				continue
			}
		}
		if rank[was] < 1 && (rank[state] >= 1) {
			m.stored++
		}
		if over && !isOver(was) {
			m.delivered++
		}
		if err := a.move(b, m, state, at, why); err != nil {
			return err
		}
	}
	return save(b, key('p', u64(p.Seq)), p)
}

// move gives a message the state that its parcels have reached together.
func (a *agent) move(b *pebble.Batch, m *outMessage, state string, at int64, why string) error {
	next := m.State
	switch {
	case state == stored && m.stored >= m.Parcels && rank[m.State] < 1:
		next = stored
	case state == delivered && m.delivered >= m.Parcels:
		next = delivered
	case state == read && m.State == delivered, state == expired, state == refused, state == failed:
		next = state
	case state == queued && m.State != queued && !isOver(m.State):
		next = queued
	}
	if next == m.State && why == m.Error || isOver(m.State) && next != read {
		return nil
	}
	m.State, m.Since, m.Error = next, at, why
	if next == stored {
		return nil // its parcels say so
	}
	if isOver(next) {
		delete(a.msgs, m.Seq)
		b.Delete(key('u', u64(m.Seq)), nil)
		if m.File != nil && m.delivered >= m.Parcels {
			os.Remove(a.spoolPath(m.File))
		}
	}
	return save(b, key('m', u64(m.Seq)), m)
}

// apply changes parcels under the lock, keeps that, and tells who waits. What a
// crash takes of it the relay tells again.
func (a *agent) apply(fn func(b *pebble.Batch) error) error {
	b := a.db.db.NewBatch()
	defer b.Close()
	a.mu.Lock()
	err := fn(b)
	if err == nil {
		err = b.Commit(pebble.NoSync)
	}
	a.mu.Unlock()
	a.changed()
	return err
}

// parcel is one that we sent, from memory or disk; nil when there is none.
func (a *agent) parcel(seq uint64) *outParcel {
	if p := a.parcels[seq]; p != nil {
		return p
	}
	p := new(outParcel)
	if ok, err := load(a.db.db, key('p', u64(seq)), p); err != nil || !ok {
		return nil
	}
	return p
}

func (a *agent) parcelOf(id top.ID) *outParcel {
	raw, err := get(a.db.db, key('e', id[:]))
	if err != nil || len(raw) != 8 {
		return nil
	}
	return a.parcel(number(raw))
}

// marked takes a signed mark: of the relay's node, or of a recipient's device.
func (a *agent) marked(l *link, kind byte, body []byte) error {
	var m mark
	if err := m.decode(body); err != nil {
		return err
	}
	now := uint64(a.now().Unix())
	if kind == fStored {
		if err := m.byNode(a.d.chain, l.node); err != nil {
			return err
		}
		if m.State != stored && m.State != expired && m.State != refused {
			return top.Errorf(top.Invalid, "a relay's mark %q", m.State)
		}
		if n := a.laneOf(m.Channel); n != nil {
			n.stores()
		}
	} else {
		if err := m.byDevice(a.d.chain, now); err != nil {
			return err
		}
		if m.State != read && m.State != refused && m.State != delivered {
			return top.Errorf(top.Invalid, "a recipient's mark %q", m.State)
		}
	}
	return a.apply(func(b *pebble.Batch) error {
		for _, id := range m.IDs {
			p := a.parcelOf(id)
			if p == nil || m.Cert != nil && m.Cert.Account != p.To || m.Cert == nil && (p.Node != l.node || p.Channel != m.Channel) {
				continue // another's, or one that has moved to another relay
			}
			if err := a.advance(b, p, m.State, int64(m.Time), printable(m.Reason)); err != nil {
				return err
			}
		}
		return nil
	})
}

// laneOf is one of our lanes by its channel.
func (a *agent) laneOf(channel top.ID) *lane {
	a.mu.Lock()
	links := make([]*link, 0, len(a.links))
	for _, l := range a.links {
		links = append(links, l)
	}
	a.mu.Unlock()
	for _, l := range links {
		l.mu.Lock()
		lanes := slices.Clone(l.lanes)
		l.mu.Unlock()
		for _, n := range lanes {
			if n.channel == channel {
				return n
			}
		}
	}
	return nil
}

// acked takes a recipient's acknowledgement: what it covers, by what was sent
// there, is delivered.
func (a *agent) acked(ack session.Ack) {
	n := a.laneOf(ack.Channel)
	if n == nil {
		return
	}
	n.mu.Lock()
	_, err := n.sender.Acked(ack, a.now())
	from, at := n.checked(ack)
	n.mu.Unlock()
	if err != nil {
		a.log.Warn("acknowledgement refused", "err", err)
		return
	}
	n.stores()
	to := ack.Recipient()
	var seqs []uint64
	end := from
	prefix := key('l', ack.Channel[:], to[:])
	err = each(a.db.db, prefix, append(bytes.Clone(prefix), u64(uint64(from.to))...), func(_, v []byte) (bool, error) {
		upto := top.Amount(number(v[8:]))
		if upto > ack.To {
			return false, nil
		}
		end.to, end.count, end.root = upto, end.count+1, session.Extend(end.root, top.ID(v[16:]))
		seqs = append(seqs, number(v))
		return true, nil
	})
	if err != nil || end.to != ack.To || end.count != ack.Count || end.root != ack.Root {
		a.log.Warn("an acknowledgement does not cover what was sent", "from", to, "err", err)
		return
	}
	n.mu.Lock()
	n.known[at] = end
	n.mu.Unlock()
	err = a.apply(func(b *pebble.Batch) error {
		for _, seq := range seqs {
			if p := a.parcel(seq); p != nil {
				if err := a.advance(b, p, delivered, a.now().UnixMilli(), ""); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil && len(seqs) > 0 {
		err = a.established(to, ack.Cert.Key)
	}
	if err != nil {
		a.log.Error("acknowledgement", "err", err)
	}
}

// checked is how far the acknowledgements of a device were checked, and its name.
func (n *lane) checked(ack session.Ack) (ackState, string) {
	at := string(ack.Cert.Account[:]) + string(ack.Cert.Key[:])
	k, ok := n.known[at]
	if !ok || k.from != ack.From || k.to > ack.To {
		k = ackState{from: ack.From, to: ack.From}
	}
	return k, at
}

// established notes that a device has a message of its conversation.
func (a *agent) established(to top.Address, device [32]byte) error {
	a.sealing.Lock()
	defer a.sealing.Unlock()
	k := key('o', to[:], device[:])
	raw, err := get(a.db.db, k)
	if err != nil || raw == nil {
		return err
	}
	o := new(envelope.Outgoing)
	if err := o.Decode(raw); err != nil || o.IsEstablished() {
		return err
	}
	o.Established()
	return a.db.db.Set(k, o.Encode(), pebble.NoSync)
}

// faulted takes what a relay refused: a channel as a whole, or one envelope.
func (a *agent) faulted(l *link, body []byte) error {
	d := wire.Decode(body, maxFrame)
	channel, id := d.ID(), d.ID()
	if err := d.Err(); err != nil {
		return err
	}
	var why answer
	if err := why.decode(d.Rest()); err != nil {
		return err
	}
	if why.err == nil {
		return nil
	}
	a.log.Warn("relay refused", "relay", l.node, "err", why.err)
	if id.IsZero() {
		if n := a.laneOf(channel); n != nil && n.l == l && !errors.Is(why.err, top.ErrBusy) {
			a.group.Go(func() error {
				n.refused(a.ctx, why.err)
				return nil
			})
		}
		return nil
	}
	a.mu.Lock()
	p := a.parcelOf(id)
	ours := p != nil && p.Node == l.node && p.Channel == channel && p.State == placed
	a.mu.Unlock()
	if !ours {
		return nil
	}
	if errors.Is(why.err, top.ErrNotFound) {
		a.forgetRecord(p.To)
	}
	l.bad(a.now())
	if p.Tries >= maxTries && !retries(why.err) {
		a.fail(nil, []*outParcel{p}, why.err)
		return nil
	}
	a.requeue([]*outParcel{p})
	return nil
}

// bad keeps a relay from being picked for a while: longer each time, until it
// stores something.
func (l *link) bad(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Before(l.badUntil) {
		return // for the same fault, or one beside it
	}
	l.badUntil = now.Add(min(badFor, badFirst<<l.strikes))
	l.strikes = min(l.strikes+1, 8)
}

// blame keeps a relay from being picked if an error is of its making.
func (l *link) blame(err error, now time.Time) {
	if isSaid(err) {
		l.bad(now)
	}
}

func (l *link) isBad(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return now.Before(l.badUntil)
}

// receipted keeps a receipt of a relay that we pay.
func (a *agent) receipted(body []byte) error {
	var r receipt.Receipt
	if err := r.Decode(body); err != nil {
		return err
	}
	n := a.laneOf(r.Ticket.Channel)
	if n == nil || r.Ticket.Payer != a.d.address {
		return nil
	}
	if err := r.Verify(); err != nil {
		return err
	}
	n.mu.Lock()
	v, _ := n.sender.Newest()
	n.mu.Unlock()
	if r.Claim.Voucher.Seq > v.Seq {
		return top.Errorf(top.Denied, "a receipt on a voucher that we did not sign")
	}
	return a.receipts.Add(r)
}

// deviceName is a device as people see it.
func deviceName(k [32]byte) string { return hex.EncodeToString(k[:]) }
