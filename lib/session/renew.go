package session

import (
	"fmt"
	"slices"
	"time"

	"top/lib/top"
)

// Renew takes the payer's next voucher. It must be newer, signed, within the cap,
// at the tickets' prices, and pay at least what the ticks included come to; a
// session that it leaves out is over, and its last tick must be in the amount.
// The newest voucher once more is no error: its acknowledgement was lost.
func (m *Meter) Renew(now time.Time, r Renewal) error {
	v := &r.Voucher
	if v.Chain != m.cfg.Chain || v.Channel != m.cfg.Channel || len(r.Base) != len(v.Anchors) {
		return fmt.Errorf("voucher %d: for channel %s of chain %s, %d bases for %d anchors: %w", v.Seq, v.Channel.Short(), v.Chain, len(r.Base), len(v.Anchors), top.ErrDenied)
	}
	if v.Seq == m.voucher.Seq && slices.Equal(v.Encode(), m.voucher.Encode()) {
		return nil
	}
	if seq, amount := max(m.voucher.Seq, m.cfg.Seq), max(m.voucher.Amount, m.cfg.Paid); v.Seq <= seq || v.Amount < amount {
		return fmt.Errorf("voucher %d of %s TOP after number %d of %s: %w", v.Seq, v.Amount, seq, amount, top.ErrDenied)
	}
	if err := m.inTime(now); err != nil {
		return err
	}
	if err := m.exposed(v); err != nil {
		return err
	}
	least, err := m.least(r)
	if err != nil {
		return err
	}
	if v.Amount < least {
		return fmt.Errorf("voucher %d settles %s TOP, the ticks before it come to %s: %w", v.Seq, v.Amount, least, top.ErrDenied)
	}
	if err := v.Verify(m.cfg.Payer); err != nil {
		return err
	}
	m.take(r)
	return nil
}

// exposed refuses a voucher that is malformed or could owe more than the cap (S2).
func (m *Meter) exposed(v *Voucher) error {
	if err := v.wellFormed(); err != nil {
		return err
	}
	most, err := v.Exposure()
	if err != nil {
		return err
	}
	if most > m.cfg.Cap {
		return fmt.Errorf("voucher %d exposes %s TOP, the channel's cap is %s: %w", v.Seq, most, m.cfg.Cap, top.ErrDenied)
	}
	return nil
}

// least is what the amount of a renewal must be: for each session that goes on
// the units that it says are included, for each that is over its last tick (S6);
// and at least what the chain has paid, which may be some of these ticks.
func (m *Meter) least(r Renewal) (top.Amount, error) {
	sum := m.voucher.Amount
	for j, a := range r.Voucher.Anchors {
		s := m.live[a.Session]
		if err := s.continues(a, r.Base[j]); err != nil {
			return 0, fmt.Errorf("voucher %d: session %s: %w", r.Voucher.Seq, a.Session, err)
		}
		var err error
		if sum, err = addUnits(sum, a.Price, r.Base[j]-s.base); err != nil {
			return 0, err
		}
	}
	for j, t := range m.current().Ticks {
		if s := m.slots[j]; s != nil && !s.closed {
			if _, goesOn := r.Voucher.Anchor(t.Session); goesOn {
				continue
			}
		}
		var err error
		if sum, err = addUnits(sum, m.voucher.Anchors[j].Price, uint64(t.I)); err != nil {
			return 0, err
		}
	}
	return max(sum, m.cfg.Paid), nil
}

// continues says whether an anchor can be the next of a session.
func (s *served) continues(a Anchor, base uint64) error {
	switch {
	case s == nil || s.closed:
		return fmt.Errorf("not open (begin it with a ticket): %w", top.ErrDenied)
	case a.Price != s.anchor.Price:
		return fmt.Errorf("costs %s TOP a unit, not %s: %w", s.anchor.Price, a.Price, top.ErrDenied)
	case !s.begun && (a.Root != s.anchor.Root || a.N > s.anchor.N || base != 0):
		return fmt.Errorf("its first anchor is not the ticket's: %w", top.ErrDenied)
	case s.begun && a.Root == s.anchor.Root:
		return fmt.Errorf("its anchor was used before: %w", top.ErrDenied)
	case base < s.base || base > max(s.units, s.paid())+uint64(s.window):
		return fmt.Errorf("units up to %d included, %d were served and %d settled before: %w", base, s.units, s.base, top.ErrDenied)
	}
	return nil
}

// take makes a renewal that was checked the newest.
func (m *Meter) take(r Renewal) {
	m.retire(r.Voucher)
	for j, a := range r.Voucher.Anchors {
		s := m.live[a.Session]
		s.high, s.before, s.base = s.paid(), s.base, r.Base[j]
		s.anchor, s.i, s.w, s.begun = a, 0, a.Root, true
		s.reach = m.grown(s)
		m.slots[j] = s
	}
	m.owed = r.Voucher.Amount
}

// retire keeps the claim of the newest voucher aside and puts v in its place.
// Sessions that v leaves out are over, but not one that had no voucher yet: v was
// perhaps signed before its ticket.
func (m *Meter) retire(v Voucher) {
	if m.voucher.Seq > 0 {
		if m.old.owed > m.best.owed {
			m.best = m.old
		}
		m.old = proven{m.current(), m.owed}
	}
	for id, s := range m.live {
		if _, in := v.Anchor(id); in {
			continue
		}
		s.closed, s.missed = s.closed || s.begun, true
	}
	m.voucher, m.disk.fresh = v, true
	m.slots, m.ticks = make([]*served, len(v.Anchors)), v.unticked().Ticks
}

// Recover makes a meter go on after a crash from claims that it saved, or that the
// payer shows: each proves itself, and the higher wins. A claim on a newer voucher
// than is known ends all sessions; on the same one it raises their ticks. It stops
// at the first that proves nothing.
func (m *Meter) Recover(claims ...Claim) error {
	for _, c := range claims {
		if err := m.recover(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *Meter) recover(c Claim) error {
	v := &c.Voucher
	if v.Chain != m.cfg.Chain || v.Channel != m.cfg.Channel {
		return fmt.Errorf("claim of channel %s of chain %s, not of %s: %w", v.Channel.Short(), v.Chain, m.cfg.Channel.Short(), top.ErrDenied)
	}
	if err := m.exposed(v); err != nil {
		return err
	}
	if err := v.Verify(m.cfg.Payer); err != nil {
		return err
	}
	owed, err := c.Owed()
	if err != nil {
		return err
	}
	if v.Seq > m.voucher.Seq && v.Amount < m.voucher.Amount {
		return fmt.Errorf("voucher %d of %s TOP after number %d of %s: %w", v.Seq, v.Amount, m.voucher.Seq, m.voucher.Amount, top.ErrDenied)
	}
	switch {
	case v.Seq < m.cfg.Seq || v.Seq == 0:
		return nil // the chain takes it no more
	case v.Seq > m.voucher.Seq:
		m.retire(*v)
		for _, s := range m.live {
			s.closed = true // what the voucher includes of it is not known
		}
		m.ticks, m.owed = slices.Clone(c.Ticks), owed
	case v.Seq == m.voucher.Seq && slices.Equal(v.body(), m.voucher.body()):
		m.raise(c)
	case owed > m.best.owed:
		m.best = proven{c, owed}
	}
	m.served = max(m.served, m.Owed())
	return nil
}

// raise takes the ticks of a claim on the newest voucher that are higher than
// those known.
func (m *Meter) raise(c Claim) {
	for j, t := range m.current().Ticks {
		s := m.slots[j]
		switch {
		case c.Ticks[j].I <= t.I:
		case s == nil:
			m.owed += m.voucher.Anchors[j].Price * top.Amount(c.Ticks[j].I-t.I)
			m.ticks[j] = c.Ticks[j]
		case !s.closed:
			m.pay(s, &c.Ticks[j])
		}
	}
}
