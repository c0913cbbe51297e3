package session

import (
	"fmt"
	"slices"
	"time"

	"top/lib/top"
	"top/lib/wire"
)

// A Renewal is a voucher and what stands beside it, for the provider alone: for
// each of its anchors the units of that session that Amount pays already. A tick
// i on the anchor pays unit Base+i, so that units ticked on an old anchor after
// the voucher was made are paid by the first tick on the new one.
type Renewal struct {
	Voucher Voucher
	Base    []uint64 // as many as Voucher.Anchors
}

// maxRenewal bounds an encoded renewal.
const maxRenewal = maxVoucher + MaxAnchors*10

// Encode is the canonical form (docs/wire.md, "Renewal").
func (r Renewal) Encode() []byte {
	e := wire.To(r.Voucher.Encode())
	for _, b := range r.Base {
		e.Uint(b)
	}
	return e.Out()
}

// Decode reads the canonical form and refuses every other.
func (r *Renewal) Decode(b []byte) error {
	d := wire.Decode(b, maxRenewal)
	r.Voucher.get(d)
	r.Base = make([]uint64, len(r.Voucher.Anchors))
	for i := range r.Base {
		r.Base[i] = d.Uint()
	}
	return d.End()
}

// PayerConfig says for which channel a Payer pays.
type PayerConfig struct {
	Chain   top.ChainID
	Channel top.ID
	Payer   top.Address
	Node    top.NodeID
	Cap     top.Amount
	Expiry  time.Time       // of the channel
	Draw    func() [32]byte // fresh random bytes, for one anchor each
	Steps   uint32          // most ticks that one voucher promises; 0 is MaxSteps
	Renew   uint32          // ticks after which the next voucher falls due; 0 is Reanchor
	Paid    top.Amount      // by the channel before, as its row on the chain says
	After   uint64          // number of the newest voucher signed before; 0 is none
}

// Payer is the client's end of one channel: up to MaxAnchors sessions at once. It
// says when to tick and when to renew; the caller signs and sends. What is lost on
// the way is sent again: Waiting the renewal, Repeat the ticks. It is not safe for
// concurrent use.
type Payer struct {
	cfg     PayerConfig
	seq     uint64     // of the newest voucher made
	amount  top.Amount // settled by the voucher acknowledged
	last    Voucher    // acknowledged
	kept    []Claim    // shown after Recover, until a voucher is acknowledged
	live    map[top.SessionID]*paying
	order   []top.SessionID // of live, as they began
	waiting *Renewal        // made, and not acknowledged
	renewed time.Time       // when the newest was made
	dirty   bool            // something changed that a voucher must say
}

// paying is one session, seen by who pays.
type paying struct {
	ticket Ticket
	window uint32  // the offer's
	units  uint64  // acknowledged to have been served
	paid   uint64  // ticked, or settled by a voucher acknowledged
	now    *anchor // ticked on; nil until the first voucher is acknowledged
	next   *anchor // of the ticket, or of the voucher that waits
	ended  bool
	left   bool // ended, and the voucher that waits leaves it out
}

// anchor is one hash chain, as far as a voucher promised it, and the units
// before it.
type anchor struct {
	chain *HashChain
	n     uint32
	base  uint64
}

// NewPayer is a payer with no session.
func NewPayer(cfg PayerConfig) *Payer {
	if cfg.Steps == 0 || cfg.Steps > MaxSteps {
		cfg.Steps = MaxSteps
	}
	if cfg.Renew == 0 {
		cfg.Renew = Reanchor
	}
	return &Payer{cfg: cfg, seq: cfg.After, amount: cfg.Paid, live: map[top.SessionID]*paying{}}
}

// Begin makes the ticket of a new session, for the caller to sign and to have
// countersigned. The next Renew promises its anchor.
func (p *Payer) Begin(now time.Time, id top.SessionID, o Offer) (t Ticket, err error) {
	if err := o.usable(); err != nil {
		return t, err
	}
	switch {
	case p.live[id] != nil:
		return t, fmt.Errorf("session %s: begun before: %w", id, top.ErrBusy)
	case len(p.live) >= MaxAnchors:
		return t, fmt.Errorf("session %s: the channel carries %d already (end one, or open another channel): %w", id, MaxAnchors, top.ErrBusy)
	case !now.Before(p.cfg.Expiry):
		return t, fmt.Errorf("session %s: channel %s ended at %s (open another): %w", id, p.cfg.Channel.Short(), p.cfg.Expiry.UTC().Format(time.RFC3339), top.ErrDenied)
	}
	first := p.draw(p.cfg.Steps, 0)
	t = Ticket{
		Chain: p.cfg.Chain, Channel: p.cfg.Channel, Session: id, Payer: p.cfg.Payer, Node: p.cfg.Node,
		Service: o.Service, Unit: o.Unit, Price: o.Price, Root: first.chain.Root(), N: first.n,
		Expiry: uint64(p.cfg.Expiry.Unix()),
	}
	p.live[id] = &paying{ticket: t, window: o.Window, next: first}
	p.order = append(p.order, id)
	p.dirty = true
	return t, nil
}

// draw makes an anchor from fresh bytes. Bytes drawn before would show the ticks
// of one anchor on another (S6).
func (p *Payer) draw(n uint32, base uint64) *anchor {
	a := &anchor{NewHashChain(p.cfg.Draw(), n), n, base}
	for _, s := range p.live {
		for _, b := range []*anchor{s.now, s.next} {
			if b != nil && b.chain.seed() == a.chain.seed() {
				panic("session: S6: Draw gave the same bytes twice")
			}
		}
	}
	return a
}

// Check says whether t is the ticket that Begin made, signed by both ends.
func (p *Payer) Check(t Ticket) error {
	s := p.live[t.Session]
	if s == nil {
		return fmt.Errorf("ticket of session %s: not begun here: %w", t.Session, top.ErrNotFound)
	}
	bare := t
	bare.PayerSig, bare.NodeSig = [64]byte{}, [64]byte{}
	if bare != s.ticket {
		return fmt.Errorf("ticket of session %s: the provider changed it: %w", t.Session, top.ErrDenied)
	}
	return t.Verify()
}

// End says that a session is over: the tick is its last, and the next voucher
// settles it.
func (p *Payer) End(id top.SessionID) (Tick, bool) {
	s, ok := p.live[id]
	if !ok || s.ended {
		return Tick{}, false
	}
	t, due := p.Flush(id)
	s.ended, p.dirty = true, true
	return t, due
}

// Renew is the next voucher, unsigned, when one is due: a session began or ended,
// Reanchor ticks or half of an anchor are used, or VoucherEvery has passed since
// the last and there were ticks. While one waits to be acknowledged there is no
// other. A cap that is used up is top.ErrDenied.
func (p *Payer) Renew(now time.Time) (r Renewal, due bool, err error) {
	if p.waiting != nil || !p.due(now) {
		return r, false, nil
	}
	amount, err := p.settled()
	if err != nil {
		return r, false, err
	}
	live, prices := p.running()
	n := p.steps(len(live), amount, prices)
	if len(live) > 0 && n == 0 {
		return r, false, p.usedUp(live)
	}
	if !p.dirty && !p.extends(live, n) {
		return r, false, nil
	}
	r.Voucher = Voucher{Chain: p.cfg.Chain, Channel: p.cfg.Channel, Seq: p.seq + 1, Amount: amount}
	for _, id := range live {
		s := p.live[id]
		if s.now == nil {
			s.next.n = min(n, s.next.chain.N()) // the ticket's own
		} else {
			s.next = p.draw(n, s.units)
		}
		r.Voucher.Anchors = append(r.Voucher.Anchors, Anchor{id, s.ticket.Price, s.next.chain.Root(), s.next.n})
		r.Base = append(r.Base, s.next.base)
	}
	for _, s := range p.live {
		s.left = s.ended
	}
	p.seq++
	p.renewed, p.dirty, p.waiting = now, false, &r
	return r, true, nil
}

// due says whether a voucher is wanted.
func (p *Payer) due(now time.Time) bool {
	if p.dirty {
		return true
	}
	for _, s := range p.live {
		if s.now == nil {
			continue
		}
		i := s.paid - s.now.base
		if i >= min(uint64(p.cfg.Renew), uint64(s.now.n+1)/2) || i > 0 && now.Sub(p.renewed) >= VoucherEvery {
			return true
		}
	}
	return false
}

// running is the sessions that go on, and what a unit of each costs together.
func (p *Payer) running() (live []top.SessionID, prices top.Amount) {
	for _, id := range p.order {
		if s := p.live[id]; !s.ended {
			live = append(live, id)
			prices += s.ticket.Price // at most MaxAnchors times maxPrice
		}
	}
	return live, prices
}

// settled is what all units acknowledged come to, ticked or not: the Amount of
// the next voucher.
func (p *Payer) settled() (top.Amount, error) {
	return p.sum(func(s *paying) uint64 { return s.units })
}

// sum is what the channel comes to when units of each session are paid, at most
// the cap.
func (p *Payer) sum(units func(*paying) uint64) (top.Amount, error) {
	sum := p.amount
	for id, s := range p.live {
		base := uint64(0)
		if s.now != nil {
			base = s.now.base
		} else if !p.promised(id) {
			continue // no provider serves on that
		}
		var err error
		if sum, err = addUnits(sum, s.ticket.Price, units(s)-base); err != nil {
			return 0, err
		}
	}
	return min(sum, p.cfg.Cap), nil
}

// promised says whether the voucher that waits has an anchor of a session.
func (p *Payer) promised(id top.SessionID) (in bool) {
	if p.waiting != nil {
		_, in = p.waiting.Voucher.Anchor(id)
	}
	return in
}

// steps is how many ticks each of k anchors may promise, within the cap (S2). The most
// says that the cap has as many again, and the provider serves a window beyond them while
// the next voucher is on its way: so near the end of the cap it is one less.
func (p *Payer) steps(k int, amount, prices top.Amount) uint32 {
	if k == 0 {
		return 0
	}
	n := uint64(p.cfg.Steps) / uint64(k)
	left, ok := p.cfg.Cap.Sub(amount)
	if !ok {
		return 0
	}
	if prices > 0 {
		room := uint64(left / prices)
		if n == MaxSteps/uint64(k) && room < 2*n {
			n--
		}
		n = min(n, room)
	}
	return uint32(n)
}

// extends says whether anchors of n ticks go further than those in use. At the
// end of the cap they do not, and a voucher would be signed for nothing.
func (p *Payer) extends(live []top.SessionID, n uint32) bool {
	return slices.ContainsFunc(live, func(id top.SessionID) bool {
		s := p.live[id]
		return s.units+uint64(n) > s.now.base+uint64(s.now.n)
	})
}

// usedUp is an error once a session can go no further.
func (p *Payer) usedUp(live []top.SessionID) error {
	for _, id := range live {
		if s := p.live[id]; s.now == nil || s.paid >= s.now.base+uint64(s.now.n) {
			return top.Errorf(top.Denied, "the channel's cap of %s TOP is used up (open another channel)", p.cfg.Cap)
		}
	}
	return nil
}

// Signed gives back the voucher that waits, signed by the payer.
func (p *Payer) Signed(v Voucher) error {
	if p.waiting == nil || !slices.Equal(v.body(), p.waiting.Voucher.body()) {
		return fmt.Errorf("voucher %d: not the one to be signed: %w", v.Seq, top.ErrInvalid)
	}
	if err := v.Verify(p.cfg.Payer); err != nil {
		return err
	}
	p.waiting.Voucher.Sig = v.Sig
	return nil
}

// Waiting is the renewal that was not acknowledged yet, to be sent again.
func (p *Payer) Waiting() (Renewal, bool) {
	if p.waiting == nil {
		return Renewal{}, false
	}
	return *p.waiting, true
}

// Acknowledged says that the provider took voucher seq: from now on the payer
// ticks on its anchors. Repeat has the first ticks on them.
func (p *Payer) Acknowledged(seq uint64) error {
	if p.waiting == nil || p.waiting.Voucher.Seq != seq {
		return fmt.Errorf("voucher %d does not wait to be acknowledged: %w", seq, top.ErrInvalid)
	}
	p.last, p.amount, p.waiting, p.kept = p.waiting.Voucher, p.waiting.Voucher.Amount, nil, nil
	p.order = slices.DeleteFunc(p.order, func(id top.SessionID) bool {
		s := p.live[id]
		if s.left {
			delete(p.live, id)
			return true
		}
		if _, in := p.last.Anchor(id); in {
			s.now, s.next = s.next, nil
			s.paid = max(s.paid, s.now.base)
		}
		return false
	})
	return nil
}

// Served says that the consumer acknowledged units of a session, in all. The
// tick is due when a quarter of the window is not ticked yet, and the sessions of
// the channel share that quarter. It never says more than was served (S5).
func (p *Payer) Served(id top.SessionID, units uint64) (Tick, bool) {
	s, ok := p.live[id]
	if !ok || s.ended {
		return Tick{}, false
	}
	s.units = max(s.units, units)
	if s.units-s.paid < max(1, p.window(s)/(4*uint64(len(p.live)))) {
		return Tick{}, false
	}
	return p.tick(id, s)
}

// Flush ticks all that was served of a session, however little.
func (p *Payer) Flush(id top.SessionID) (Tick, bool) {
	s, ok := p.live[id]
	if !ok || s.ended || s.units == s.paid {
		return Tick{}, false
	}
	return p.tick(id, s)
}

// Repeat ticks all that was served of every session, also what was ticked before:
// after Acknowledged, and when the traffic stands still because a tick may be
// lost.
func (p *Payer) Repeat() []Tick {
	var ticks []Tick
	for _, id := range p.order {
		s := p.live[id]
		if s.ended || s.now == nil {
			continue
		}
		p.tick(id, s)
		if i := s.ticked(); i > 0 {
			ticks = append(ticks, Tick{id, i, s.now.chain.At(i)})
		}
	}
	return ticks
}

// tick ticks as far as the anchor goes.
func (p *Payer) tick(id top.SessionID, s *paying) (Tick, bool) {
	if s.now == nil {
		return Tick{}, false
	}
	to := min(s.units, s.now.base+uint64(s.now.n))
	if to <= s.paid {
		return Tick{}, false // the anchor is used up: the next voucher goes on
	}
	s.paid = to
	i := uint32(to - s.now.base)
	return Tick{id, i, s.now.chain.At(i)}, true
}

// ticked is the last tick on the anchor: its end if more was ticked on the one before
// while this one was on its way, which the next voucher settles.
func (s *paying) ticked() uint32 { return uint32(min(s.paid-s.now.base, uint64(s.now.n))) }

// window is the credit that the provider gives, as far as the payer knows.
func (p *Payer) window(s *paying) uint64 {
	paid, err := p.sum(func(s *paying) uint64 { return s.paid })
	if err != nil {
		return minWindow
	}
	return window(s.window, s.ticket.Price, paid)
}

// Show is what a provider that lost its memory needs: the voucher acknowledged
// last with the ticks on it, and the one that waits; after Recover the newest
// claim and the one that owes most, until a voucher is acknowledged. Vouchers
// that Signed never saw are left out.
func (p *Payer) Show() []Claim {
	claims := slices.Clone(p.kept)
	if p.last.Sig != [64]byte{} {
		c := p.last.unticked()
		for j := range c.Ticks {
			t, s := &c.Ticks[j], p.live[c.Ticks[j].Session]
			if t.I = s.ticked(); t.I > 0 {
				t.W = s.now.chain.At(t.I)
			}
		}
		claims = append(claims, c)
	}
	if p.waiting != nil && p.waiting.Voucher.Sig != [64]byte{} {
		claims = append(claims, p.waiting.Voucher.unticked())
	}
	return claims
}

// Recover makes a payer go on after either end lost its memory, or after a voucher
// was refused, from the claims of the other end and those kept: each proves
// itself, and the higher wins. All sessions are over, also when there is no claim;
// the next voucher settles them.
func (p *Payer) Recover(claims ...Claim) error {
	seq, amount := p.seq, top.Amount(0)
	for _, c := range claims {
		if c.Voucher.Chain != p.cfg.Chain || c.Voucher.Channel != p.cfg.Channel {
			return fmt.Errorf("claim of channel %s of chain %s, not of %s: %w", c.Voucher.Channel.Short(), c.Voucher.Chain, p.cfg.Channel.Short(), top.ErrDenied)
		}
		if err := c.Voucher.Verify(p.cfg.Payer); err != nil {
			return err
		}
		owed, err := c.Owed()
		if err != nil {
			return err
		}
		seq, amount = max(seq, c.Voucher.Seq), max(amount, owed)
	}
	settled, err := p.settled()
	if err != nil {
		return err
	}
	p.kept = foremost(append(p.Show(), claims...))
	p.seq, p.amount, p.dirty = seq, max(settled, amount), true
	p.live, p.order, p.waiting, p.last = map[top.SessionID]*paying{}, nil, nil, Voucher{}
	return nil
}

// foremost is the newest claim and, where it is another, the one that owes most.
func foremost(claims []Claim) []Claim {
	if len(claims) == 0 {
		return nil
	}
	var newest, richest proven
	for i, c := range claims {
		owed, err := c.Owed()
		if err != nil {
			continue
		}
		if i == 0 || c.Voucher.Seq > newest.claim.Voucher.Seq || c.Voucher.Seq == newest.claim.Voucher.Seq && owed > newest.owed {
			newest = proven{c, owed}
		}
		if i == 0 || owed > richest.owed {
			richest = proven{c, owed}
		}
	}
	if richest.owed > newest.owed {
		return []Claim{newest.claim, richest.claim}
	}
	return []Claim{newest.claim}
}
