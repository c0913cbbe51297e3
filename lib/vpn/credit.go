package vpn

import (
	"net/netip"

	"top/lib/top"
)

// A session that ends leaves what its client did not tick any more, as when it was
// killed. Up to 8 units of a channel and a sixteenth of what it paid are forgiven;
// more stays a debt, and lessens the channel's credit.
const (
	pardonFree  = 8
	pardonShare = 16
)

// What a channel was pardoned and forgiven is kept, so that it does not begin again with
// every process. A debt is not: sessions that a kill of the exit cuts off leave one with
// every honest client, and it is the exit's own doing. So each start of an exit costs it
// at most one window of a channel.

// pardon forgives a session's last units. The caller holds the lock.
func (e *Exit) pardon(s *served) {
	if s.lent() {
		return
	}
	s.acct.rest += s.gate.used.Load() % unit
	m, id := s.acct.meter, s.ticket.Session
	if used := s.gate.used.Load() / unit; used > s.units && m.Serve(e.now(), id, used-s.units) == nil {
		s.units = used
	}
	most := pardonFree + s.acct.units(s.ticket.Price)/pardonShare
	s.acct.pardoned += m.Lost(id, most-min(most, s.acct.pardoned))
}

// Loss is the client's word: what it did not get it does not pay (X2). It is believed
// up to an eighth of what its channel paid and 16 units, over all sessions that it
// cares to begin; who says that he loses more is served at the rate at which he pays.
const (
	lossShare = 8
	lossFree  = 16
)

// forgive takes back units that the client did not get. The caller holds the lock.
func (e *Exit) forgive(s *served, m ticking) {
	if m.Sent > s.down.Load() || s.lent() {
		return
	}
	s.lost = max(s.lost, m.Sent-m.Got)
	a := s.acct
	most := a.units(s.ticket.Price)/lossShare + lossFree
	if want := s.lost / unit; want > s.forgiven && most > a.forgiven {
		n := a.meter.Lost(s.ticket.Session, min(want-s.forgiven, most-a.forgiven))
		s.forgiven, a.forgiven, a.dirty = s.forgiven+n, a.forgiven+n, a.dirty || n > 0
	}
}

// units is what the channel paid, at a price.
func (a *account) units(price top.Amount) uint64 {
	if price == 0 {
		return 1 << 32
	}
	return uint64(a.meter.Owed() / price)
}

// room is how many units a session may be served before it pays. The meter's credit is
// that of its channel: sessions share it, and each has one unit at least, so that none
// stands still for another that sleeps. The channel's risk is one window and a unit
// for each session beyond the first (X1).
func (s *served) room() uint64 {
	credit := s.acct.meter.Credit(s.ticket.Session)
	n, lent := uint64(1), uint64(0)
	for _, o := range s.acct.sessions {
		if limit := o.gate.limit.Load() / unit; o != s && !o.over && !o.lent() && limit > 0 {
			n++
			lent += limit - min(limit, o.units)
		}
	}
	return max(min(credit, 1), min(credit/n, credit-min(credit, lent)))
}

// credit gives the meter what was used, and raises the limit to what may be (X1). The
// result is for release. The caller holds the lock.
func (e *Exit) credit(s *served) [][]byte {
	if s.over {
		return nil
	}
	used := s.gate.used.Load() / unit // a unit that is begun is the exit's risk, not a debt
	m, id := s.acct.meter, s.ticket.Session
	m.Head(e.answered)
	if s.lent() {
		return e.creditLent(s)
	}
	if used > s.units {
		if err := m.Serve(e.now(), id, used-s.units); err != nil {
			s.why = err.Error()
			s.gate.stop()
			return nil
		}
		s.units = used
	}
	if err := m.Serve(e.now(), id, 0); err != nil {
		s.why = err.Error()
		s.gate.stop()
		return nil
	}
	s.why = ""
	return s.gate.raise((s.units + s.room()) * unit)
}

// release sends what waited for a tick.
func (e *Exit) release(s *served, free [][]byte) {
	for _, p := range free {
		s.down.Add(uint64(len(p)))
	}
	if len(free) > 0 {
		e.dev.Inject(free...)
	}
}

// session is one that a peer speaks for: nearly always the one that it uses, so that a
// tick does not cost more with each account. The caller holds the lock.
func (e *Exit) session(from netip.Addr, id top.SessionID) *served {
	if p := e.peer(from); p != nil {
		if s := p.sess.Load(); s != nil && s.ticket.Session == id && s.by == p {
			return s
		}
	}
	for _, a := range e.accounts {
		if s := a.sessions[id]; s != nil && s.by != nil && s.by.addr6 == from {
			return s
		}
	}
	return nil
}

// paidBy is a session of a channel on which a peer pays now, whoever spoke for it. The
// caller holds the lock.
func (e *Exit) paidBy(from netip.Addr, id top.SessionID) *served {
	for _, a := range e.accounts {
		for _, s := range a.sessions {
			if !s.over && s.by != nil && s.by.addr6 == from {
				if old := a.sessions[id]; old != nil {
					return old
				}
			}
		}
	}
	return nil
}
