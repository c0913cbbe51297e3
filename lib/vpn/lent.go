package vpn

import (
	"fmt"

	"top/lib/top"
	"top/lib/wg"
)

// What an exit does for stock clients. A channel that lends pays for one client and for
// nothing else, ever: its vouchers say an amount, and not of which session, so whatever
// else was served on it would be paid by the same money (X1).

// lent says whether the session pays for a stock client, whose units nobody
// acknowledges.
func (s *served) lent() bool { return s.lend != wg.Key{} }

// bought is what the channel's vouchers come to, in units, less what lent sessions
// before came to.
func (s *served) bought() uint64 {
	if s.ticket.Price == 0 {
		return 1 << 40
	}
	a := s.acct
	spent := a.cfg.Paid + a.lentCost // paid before this exit knew the channel: for something else
	return uint64((a.meter.Owed() - min(a.meter.Owed(), spent)) / s.ticket.Price)
}

// lentTo is the session that serves a stock client already; nil is none.
func (a *account) lentTo(k wg.Key) *served {
	for _, s := range a.sessions {
		if s.lent() && !s.over && s.lend == k {
			return s
		}
	}
	return nil
}

// lendable refuses a second use of a channel that lends: another client's, or a tunnel's
// where k is zero. The caller holds the lock.
func (e *Exit) lendable(a *account, k wg.Key) error {
	switch {
	case a.lend == k && (k != wg.Key{}):
	case a.lend != wg.Key{}:
		return top.Errorf(top.Denied, "channel %s pays for a stock client (open another)", a.cfg.Channel.Short())
	case k == wg.Key{}:
		return nil
	case len(a.sessions) > 0 || a.meter.Owed() > a.cfg.Paid:
		return top.Errorf(top.Denied, "channel %s pays for a tunnel (open another: top-vpn config)", a.cfg.Channel.Short())
	}
	if p := e.peer(k.Inner()); p != nil {
		if s := p.sess.Load(); s != nil && s.acct.cfg.Payer != a.cfg.Payer {
			return top.Errorf(top.Denied, "somebody else pays for that client")
		}
	}
	return nil
}

// creditLent raises a stock client's limit to what was prepaid, while the chain is known:
// a channel that closed unseen would pay for nothing. The caller holds the lock.
func (e *Exit) creditLent(s *served) [][]byte {
	if e.now().Sub(e.answered) > e.deadline/2 {
		s.why = fmt.Sprintf("the newest block is known of %s, too old to serve on", e.answered.UTC().Format("15:04:05"))
		s.gate.stop()
		return nil
	}
	bought := s.bought()
	s.why = ""
	if s.gate.used.Load()+mtuPlain > bought*unit { // a whole packet has no room
		s.why = "what was lent is used up (top-vpn lend goes on)"
	}
	return s.gate.raise(bought * unit)
}

// settleLent books what a lent session came to, before it is over. The caller holds the
// lock.
func (e *Exit) settleLent(s *served) {
	if err := s.enter(e.now(), true); err != nil {
		e.log.Error("keep what was earned", "err", err)
	}
	cost, ok := s.ticket.Price.Mul(s.paidUnits())
	if sum, fits := s.acct.lentCost.Add(cost); ok && fits {
		s.acct.lentCost = sum
	} else {
		s.acct.lentCost = top.MaxSupply
	}
}

// speaks has a key speak for a lent session, in the place of who did before. The caller
// holds the lock.
func (e *Exit) speaks(s *served, k wg.Key) error {
	by, err := e.welcome(k, false)
	if err != nil {
		return err
	}
	before := s.by
	s.by = by
	e.dismiss(before)
	return nil
}

// dismiss forgets a peer whom no session needs any more. The caller holds the lock.
func (e *Exit) dismiss(p *peer) {
	if p == nil || p.sess.Load() != nil || e.peer(p.addr6) != p {
		return
	}
	for _, a := range e.accounts {
		for _, s := range a.sessions {
			if !s.over && (s.by == p || s.peer == p) {
				return
			}
		}
	}
	e.leave(p)
}

// revive serves the stock clients again that were served before this process.
func (e *Exit) revive() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range e.accounts {
		for _, s := range a.sessions {
			if !s.lent() || s.over {
				continue
			}
			p, err := e.welcome(s.lend, true)
			if err != nil {
				return err
			}
			s.peer, s.gate.pool = p, &e.held
			p.sess.Store(s)
		}
	}
	return nil
}
