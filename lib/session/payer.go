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
	After   uint64          // number of the newest voucher signed before; 0 is none
}

// Payer is the client's end of one channel: up to MaxAnchors sessions at once. It
// says when to tick and when to renew; the caller signs and sends. It is not safe
// for concurrent use.
type Payer struct {
	cfg     PayerConfig
	seq     uint64     // of the newest voucher made
	amount  top.Amount // settled by it, or by the one acknowledged
	live    map[top.SessionID]*paying
	order   []top.SessionID
	waiting *Renewal  // made, and not acknowledged
	renewed time.Time // when the newest was made
	dirty   bool      // something changed that a voucher must say
}

// paying is one session, seen by who pays.
type paying struct {
	offer Offer
	units uint64  // acknowledged to have been served
	paid  uint64  // ticked
	now   *anchor // ticked on; nil until the first voucher is acknowledged
	next  *anchor // of the voucher that waits
	ended bool
}

// anchor is one hash chain and the units before it.
type anchor struct {
	chain *HashChain
	base  uint64
}

// NewPayer is a payer that has promised nothing yet.
func NewPayer(cfg PayerConfig) *Payer {
	if cfg.Steps == 0 || cfg.Steps > MaxSteps {
		cfg.Steps = MaxSteps
	}
	return &Payer{cfg: cfg, seq: cfg.After, live: map[top.SessionID]*paying{}}
}

// Recover makes a payer that lost its memory go on from what the provider shows:
// the claim proves itself. Its sessions are over, and what they ticked is
// settled by the next voucher.
func (p *Payer) Recover(c Claim) error {
	if c.Voucher.Chain != p.cfg.Chain || c.Voucher.Channel != p.cfg.Channel {
		return fmt.Errorf("claim of channel %s: %w", c.Voucher.Channel.Short(), top.ErrDenied)
	}
	if err := c.Voucher.Verify(p.cfg.Payer); err != nil {
		return err
	}
	owed, err := c.Owed()
	if err != nil {
		return err
	}
	p.seq, p.amount, p.dirty = max(p.seq, c.Voucher.Seq), max(p.amount, owed), true
	return nil
}

// Begin makes the ticket of a new session, for the caller to sign and to have
// countersigned. Its anchor comes with the next Renew.
func (p *Payer) Begin(now time.Time, id top.SessionID, o Offer) (t Ticket, err error) {
	if _, ok := p.live[id]; ok {
		return t, fmt.Errorf("session %s: begun before: %w", id, top.ErrBusy)
	}
	if len(p.live) >= MaxAnchors {
		return t, fmt.Errorf("session %s: the channel carries %d already: %w", id, MaxAnchors, top.ErrBusy)
	}
	if !now.Before(p.cfg.Expiry) {
		return t, fmt.Errorf("session %s: the channel is over: %w", id, top.ErrDenied)
	}
	s := &paying{offer: o, next: &anchor{chain: NewHashChain(p.cfg.Draw(), p.cfg.Steps)}}
	p.live[id] = s
	p.order = append(p.order, id)
	p.dirty = true
	return Ticket{
		Chain: p.cfg.Chain, Channel: p.cfg.Channel, Session: id, Payer: p.cfg.Payer, Node: p.cfg.Node,
		Service: o.Service, Unit: o.Unit, Price: o.Price, Root: s.next.chain.Root(), N: s.next.chain.N(),
		Expiry: uint64(p.cfg.Expiry.Unix()),
	}, nil
}

// End says that a session is over: the next voucher settles it.
func (p *Payer) End(id top.SessionID) {
	if s, ok := p.live[id]; ok && !s.ended {
		s.ended, p.dirty = true, true
	}
}

// Renew is the next voucher, unsigned, when one is due: a session began or ended,
// half of an anchor is ticked, or VoucherEvery has passed. While one waits to be
// acknowledged there is no other. A cap that is used up is top.ErrDenied.
func (p *Payer) Renew(now time.Time) (r Renewal, due bool, err error) {
	if p.waiting != nil || !p.due(now) {
		return r, false, nil
	}
	amount, err := p.settled()
	if err != nil {
		return r, false, err
	}
	var live []top.SessionID
	prices := top.Amount(0)
	for _, id := range p.order {
		if s := p.live[id]; !s.ended {
			live = append(live, id)
			prices += s.offer.Price
		}
	}
	n, err := p.steps(len(live), amount, prices)
	if err != nil {
		return r, false, err
	}
	r.Voucher = Voucher{Chain: p.cfg.Chain, Channel: p.cfg.Channel, Seq: p.seq + 1, Amount: amount}
	for _, id := range live {
		s := p.live[id]
		s.next = &anchor{NewHashChain(p.cfg.Draw(), n), s.paid}
		r.Voucher.Anchors = append(r.Voucher.Anchors, Anchor{id, s.offer.Price, s.next.chain.Root(), n})
		r.Base = append(r.Base, s.paid)
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
		if s.now == nil || s.ended {
			continue
		}
		i := s.paid - s.now.base
		if i >= min(Reanchor, uint64(s.now.chain.N()+1)/2) || i > 0 && now.Sub(p.renewed) >= VoucherEvery {
			return true
		}
	}
	return false
}

// settled is what all ticks so far come to: the Amount of the next voucher.
func (p *Payer) settled() (top.Amount, error) {
	sum := p.amount
	for _, s := range p.live {
		if s.now == nil {
			continue
		}
		var err error
		if sum, err = addUnits(sum, s.offer.Price, s.paid-s.now.base); err != nil {
			return 0, err
		}
	}
	return sum, nil
}

// steps is how many ticks each of k anchors may promise, within the cap (S2).
func (p *Payer) steps(k int, amount, prices top.Amount) (uint32, error) {
	if k == 0 {
		return 0, nil
	}
	n := uint64(p.cfg.Steps) / uint64(k)
	left, ok := p.cfg.Cap.Sub(amount)
	if prices > 0 {
		n = min(n, uint64(left/prices))
	}
	if !ok || n == 0 {
		return 0, top.Errorf(top.Denied, "the channel's cap of %s TOP is used up (open another)", p.cfg.Cap)
	}
	return uint32(n), nil
}

// Acknowledged says that the provider took voucher seq: from now on the payer
// ticks on its anchors.
func (p *Payer) Acknowledged(seq uint64) error {
	if p.waiting == nil || p.waiting.Voucher.Seq != seq {
		return fmt.Errorf("voucher %d does not wait to be acknowledged: %w", seq, top.ErrInvalid)
	}
	p.amount = p.waiting.Voucher.Amount
	for _, id := range slices.Clone(p.order) {
		s := p.live[id]
		if _, in := p.waiting.Voucher.Anchor(id); in {
			s.now, s.next = s.next, nil
			continue
		}
		if s.ended {
			delete(p.live, id)
			p.order = slices.DeleteFunc(p.order, func(o top.SessionID) bool { return o == id })
		}
	}
	p.waiting = nil
	return nil
}

// Served says that the consumer acknowledged units of a session, in all. The
// tick is due when a quarter of the window is not ticked yet. It never says more
// than was served (S5).
func (p *Payer) Served(id top.SessionID, units uint64) (Tick, bool) {
	s, ok := p.live[id]
	if !ok || s.ended {
		return Tick{}, false
	}
	s.units = max(s.units, units)
	if s.units-s.paid < max(1, p.window(s)/4) {
		return Tick{}, false
	}
	return p.tick(id, s)
}

// Flush ticks all that was served of a session, however little.
func (p *Payer) Flush(id top.SessionID) (Tick, bool) {
	s, ok := p.live[id]
	if !ok || s.units == s.paid {
		return Tick{}, false
	}
	return p.tick(id, s)
}

// tick ticks as far as the anchor goes.
func (p *Payer) tick(id top.SessionID, s *paying) (Tick, bool) {
	if s.now == nil {
		return Tick{}, false
	}
	i := min(s.units-s.now.base, uint64(s.now.chain.N()))
	if s.now.base+i <= s.paid {
		return Tick{}, false // the anchor is used up: the next voucher goes on
	}
	s.paid = s.now.base + i
	return Tick{id, uint32(i), s.now.chain.At(uint32(i))}, true
}

// window is the credit that the provider gives, as far as the payer knows.
func (p *Payer) window(s *paying) uint64 {
	paid, err := p.settled()
	if err != nil {
		return minWindow
	}
	return window(s.offer, paid)
}

// minWindow is the credit of a channel that has paid nothing yet, in units.
const minWindow = 4

// window is W: a quarter of what the channel has paid, in units of the offer; at
// least minWindow, at most what the offer gives (economy.md, "Credit window").
func window(o Offer, paid top.Amount) uint64 {
	w := uint64(o.Window)
	if o.Price > 0 {
		w = min(w, max(minWindow, uint64(paid/o.Price)/4))
	}
	return w
}
