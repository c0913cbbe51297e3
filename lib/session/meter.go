package session

import (
	"fmt"
	"slices"
	"time"

	"top/lib/top"
)

// MeterConfig says for which channel a Meter earns.
type MeterConfig struct {
	Chain    top.ChainID
	Channel  top.ID
	Payer    top.Address
	Node     top.NodeID
	Cap      top.Amount
	Expiry   time.Time     // of the channel
	Deadline time.Duration // D, the chain's parameter
	Paid     top.Amount    // by the channel before, as its row on the chain says
	Seq      uint64        // of the voucher claimed last, as that row says; 0 is none
}

// Meter is the provider's end of one channel: what it was paid, and how much
// more it serves. It is not safe for concurrent use.
//
// Credit is counted twice: for each session in units, up to the offer's window,
// and for the channel in money, over all its sessions and whatever the payer
// renews, ends or forgets. So the provider's risk is one window, not one for each
// session that a payer cares to begin.
type Meter struct {
	cfg   MeterConfig
	until time.Time // no tick later: expiry - 2D
	near  int64     // until, in whole seconds: a quicker look first
	head  time.Time

	voucher Voucher    // the newest; Seq 0 before the first
	slots   []*served  // of its anchors; nil where the session was forgotten
	ticks   []Tick     // of its anchors, where slots is nil
	owed    top.Amount // by it
	old     proven     // the voucher before, which late ticks still raise
	best    proven     // the one before that which owes most

	live   map[top.SessionID]*served
	recent [64]*served // of live, by the first byte of its id
	served top.Amount  // price of all units served, paid or not
	disk   cadence
}

// cadence is what is not on disk yet.
type cadence struct {
	saved  time.Time // when Save last gave something
	synced time.Time // when it last asked for an fsync
	units  uint64    // paid since it was saved
	fresh  bool      // a voucher came since
}

// proven is a claim and what it comes to.
type proven struct {
	claim Claim
	owed  top.Amount
}

// served is one session, seen by who serves. Once closed it never changes (S3).
type served struct {
	window uint32 // the offer's
	units  uint64 // served
	high   uint64 // units paid by earlier anchors, which the newest may have yet to reach
	anchor Anchor // ticked on; the ticket's before the first voucher
	base   uint64 // units that the voucher's amount pays
	before uint64 // base of the voucher before
	i      uint32 // of the last tick
	w      top.ID // of the last tick, or the root
	reach  uint32 // the highest tick that is hashed
	ahead  uint32 // within Ticks: the highest tick that is hashed already
	begun  bool   // there was a voucher
	missed bool   // a voucher left it out
	closed bool
	wrong  int       // ticks that did not verify since
	since  time.Time // the first of them
}

// Limits of the provider's end (economy.md, "The paid session").
const (
	minWindow = 4                              // units of credit for a channel that has paid nothing
	maxWrong  = 16                             // wrong ticks a second; more close the session
	saveEvery = 100 * time.Millisecond         // how long a tick may be in memory only
	syncEvery = time.Second                    // how long it may be in the disk's cache only
	maxPrice  = top.MaxSupply / MaxAnchors / 4 // keeps sums of prices and windows in range
)

// NewMeter is a meter with no session.
func NewMeter(cfg MeterConfig) *Meter {
	m := &Meter{cfg: cfg, served: cfg.Paid, live: map[top.SessionID]*served{}}
	m.expires(cfg.Expiry)
	return m
}

// Open begins a session by its ticket, which the caller then countersigns. The
// ticket must be the payer's, for this channel, and say what the offer says.
func (m *Meter) Open(now time.Time, t Ticket, o Offer) error {
	if err := o.usable(); err != nil {
		return err
	}
	switch {
	case t.Chain != m.cfg.Chain || t.Channel != m.cfg.Channel:
		return fmt.Errorf("ticket %s: for channel %s of chain %s: %w", t.Session, t.Channel.Short(), t.Chain, top.ErrDenied)
	case t.Payer != m.cfg.Payer || t.Node != m.cfg.Node:
		return fmt.Errorf("ticket %s: between others: %w", t.Session, top.ErrDenied)
	case t.Service != o.Service || t.Unit != o.Unit || t.Price != o.Price:
		return fmt.Errorf("ticket %s: %s TOP for %s of %s are not the offer's terms (read the offer again): %w", t.Session, t.Price, t.Unit, t.Service, top.ErrDenied)
	case t.N == 0 || t.N > MaxSteps:
		return fmt.Errorf("ticket %s: an anchor of %d ticks, limit %d: %w", t.Session, t.N, MaxSteps, top.ErrInvalid)
	case uint64(max(0, now.Unix())) >= t.Expiry:
		return fmt.Errorf("ticket %s: expired: %w", t.Session, top.ErrDenied)
	case m.live[t.Session] != nil:
		return fmt.Errorf("ticket %s: shown before: %w", t.Session, top.ErrBusy)
	case m.open() >= MaxAnchors:
		return fmt.Errorf("ticket %s: the channel carries %d sessions already (end one): %w", t.Session, MaxAnchors, top.ErrBusy)
	}
	if err := m.inTime(now); err != nil {
		return err
	}
	if err := t.VerifyPayer(); err != nil {
		return err
	}
	m.live[t.Session] = &served{window: o.Window, anchor: t.Anchor()}
	return nil
}

// open counts the sessions that run or wait for their first voucher. One that a
// voucher left out may have ended before it began.
func (m *Meter) open() (n int) {
	for _, s := range m.live {
		if !s.closed && (s.begun || !s.missed) {
			n++
		}
	}
	return n
}

// inTime refuses what comes later than the channel's expiry - 2D: a claim needs
// that long to be sure of its block.
func (m *Meter) inTime(now time.Time) error {
	if now.After(m.until) {
		return fmt.Errorf("channel %s ends at %s, too near (open another): %w", m.cfg.Channel.Short(), m.cfg.Expiry.UTC().Format(time.RFC3339), top.ErrDenied)
	}
	return nil
}

// Expires says that the chain ends the channel at that time: the payer closes it.
// A later end than is known changes nothing.
func (m *Meter) Expires(at time.Time) {
	if at.Before(m.cfg.Expiry) {
		m.expires(at)
	}
}

func (m *Meter) expires(at time.Time) {
	m.cfg.Expiry, m.until = at, at.Add(-2*m.cfg.Deadline)
	m.near = m.until.Unix()
}

// Tick takes a tick: units up to base+I of its session are paid. A tick that is
// not above the last, beyond the anchor, or that skips more than 4 W is dropped
// before anything is hashed (S1); more than 16 wrong ones in a second close the
// session. The last tick once more, and a late one on the anchor before, are no
// errors.
func (m *Meter) Tick(now time.Time, t *Tick) error {
	s := m.find(t.Session)
	if s == nil {
		return fmt.Errorf("tick: no session %s: %w", t.Session, top.ErrNotFound)
	}
	if now.Unix() >= m.near && now.After(m.until) {
		return m.inTime(now)
	}
	if s.closed || t.I <= s.i || t.I > s.reach && t.I > m.grown(s) {
		return m.dropped(now, s, t)
	}
	return m.hashed(now, s, t, Hash(t.W, t.I-s.i))
}

// find is a session that is known.
func (m *Meter) find(id top.SessionID) *served {
	seen := &m.recent[id[0]%byte(len(m.recent))]
	if s := *seen; s != nil && s.anchor.Session == id {
		return s
	}
	s := m.live[id]
	if s != nil {
		*seen = s
	}
	return s
}

// hashed takes a tick by what it hashes to.
func (m *Meter) hashed(now time.Time, s *served, t *Tick, w top.ID) error {
	if w == s.w {
		m.pay(s, t)
		return nil
	}
	if _, ok := m.late(s, t); ok {
		return nil
	}
	return m.wrong(now, s, t)
}

// pay notes a tick that verified.
func (m *Meter) pay(s *served, t *Tick) {
	step := t.I - s.i
	s.i, s.w = t.I, t.W
	m.owed += s.anchor.Price * top.Amount(step) // at most the exposure, which was checked
	m.disk.units += uint64(step)
}

// grown is the highest tick of a session that is hashed now: 4 W units beyond the
// last, and W grows with what was paid.
func (m *Meter) grown(s *served) uint32 {
	if !s.begun {
		return 0
	}
	s.reach = uint32(min(uint64(s.anchor.N), s.paid()-s.base+4*m.window(s)))
	return s.reach
}

// dropped judges a tick that is not hashed on the session's anchor.
func (m *Meter) dropped(now time.Time, s *served, t *Tick) error {
	switch {
	case s.closed:
		return fmt.Errorf("tick: session %s is over: %w", t.Session, top.ErrDenied)
	case !s.begun:
		return fmt.Errorf("tick: session %s has no voucher yet: %w", t.Session, top.ErrDenied)
	case t.I == s.i && t.W == s.w:
		return nil
	case t.I <= s.i:
		return fmt.Errorf("tick %d after %d: %w", t.I, s.i, top.ErrDenied)
	}
	if hashed, ok := m.late(s, t); ok {
		return nil
	} else if hashed {
		return m.wrong(now, s, t)
	}
	if t.I > s.anchor.N {
		return fmt.Errorf("tick %d, the anchor ends at %d: %w", t.I, s.anchor.N, top.ErrDenied)
	}
	return fmt.Errorf("tick %d after %d skips more than %d: %w", t.I, s.i, s.reach-s.i, top.ErrDenied)
}

// late takes a tick that was on its way while the voucher was renewed: the payer
// ticks on the old anchor until it knows. The claim that it raises is the old one.
// One that came before, or that a later one overtook, is as good.
func (m *Meter) late(s *served, t *Tick) (hashed, ok bool) {
	j := slices.IndexFunc(m.old.claim.Ticks, func(o Tick) bool { return o.Session == t.Session })
	if j < 0 {
		return false, false
	}
	a, last := m.old.claim.Voucher.Anchors[j], &m.old.claim.Ticks[j]
	high, low := *t, *last
	if t.I <= last.I {
		high, low = *last, *t
	}
	if low.I == 0 {
		low.W = a.Root
	}
	step := high.I - low.I
	if t.I == 0 || high.I > a.N || uint64(step) > 4*m.window(s) {
		return false, false
	}
	if Hash(high.W, step) != low.W {
		return true, false
	}
	if t.I > last.I {
		*last = *t
		m.old.owed += a.Price * top.Amount(step) // at most the exposure, which was checked
		m.disk.units += uint64(step)
		s.high = max(s.high, s.before+uint64(t.I))
	}
	return true, true
}

// wrong counts a tick that does not verify.
func (m *Meter) wrong(now time.Time, s *served, t *Tick) error {
	if s.wrong == 0 || now.Sub(s.since) >= time.Second {
		s.since, s.wrong = now, 0
	}
	if s.wrong++; s.wrong > maxWrong {
		s.closed = true
		return fmt.Errorf("tick: session %s is closed after %d wrong ticks in a second (begin another): %w", t.Session, s.wrong, top.ErrDenied)
	}
	return fmt.Errorf("tick %d does not hash to tick %d: %w", t.I, s.i, top.ErrDenied)
}

// Paid is the units of a session that were paid. It never goes back.
func (m *Meter) Paid(id top.SessionID) uint64 {
	if s := m.live[id]; s != nil {
		return s.paid()
	}
	return 0
}

// paid is the units ever ticked.
func (s *served) paid() uint64 { return max(s.high, s.base+uint64(s.i)) }

// Window is W of a session now, in units.
func (m *Meter) Window(id top.SessionID) uint64 {
	if s := m.live[id]; s != nil {
		return m.window(s)
	}
	return 0
}

func (m *Meter) window(s *served) uint64 { return window(s.window, s.anchor.Price, m.Owed()) }

// window is W: a quarter of what the channel has paid, in units of the offer; at
// least minWindow, at most what the offer gives (economy.md, "Credit window").
func window(largest uint32, price, paid top.Amount) uint64 {
	w := uint64(largest)
	if price > 0 {
		w = min(w, max(minWindow, uint64(paid/price)/4))
	}
	return w
}

// Head notes when the provider last knew the newest block: the time of its
// header, or, while the chain stands still, that of its own node's last answer.
func (m *Meter) Head(at time.Time) { m.head = at }

// end is the unit at which a session stops until the next voucher. An anchor as long as
// they get says that the cap has as much again (Payer): what is served beyond its last
// tick, while the next voucher is on its way, is at most a window and is in its amount.
// A shorter one ends with its last tick.
func (m *Meter) end(s *served) uint64 {
	to, n := s.base+uint64(s.anchor.N), uint64(s.anchor.N)
	if k := len(m.slots); k > 0 && n == MaxSteps/uint64(k) {
		to += min(m.window(s), n)
	}
	return to
}

// Credit is how many units of a session can be served before the next tick (S4).
func (m *Meter) Credit(id top.SessionID) uint64 {
	s := m.live[id]
	if s == nil || s.closed || !s.begun {
		return 0
	}
	to := min(s.paid()+m.window(s), m.end(s))
	if to <= s.units {
		return 0
	}
	room := to - s.units
	if s.anchor.Price > 0 {
		owed := m.Owed()
		left, ok := (owed + max(s.anchor.Price*minWindow, owed/4)).Sub(m.served)
		if !ok {
			return 0
		}
		room = min(room, uint64(left/s.anchor.Price))
	}
	return room
}

// Serve counts units about to be served, if the session has that much credit
// (S4). Otherwise it is top.ErrDenied, and the traffic waits for a tick.
func (m *Meter) Serve(now time.Time, id top.SessionID, units uint64) error {
	s := m.live[id]
	switch {
	case s == nil || s.closed:
		return fmt.Errorf("session %s is not open (begin it with a ticket): %w", id, top.ErrDenied)
	case !s.begun:
		return fmt.Errorf("session %s: no voucher yet: %w", id, top.ErrDenied)
	case now.Sub(m.head) > m.cfg.Deadline/2:
		return fmt.Errorf("session %s: the newest block is known of %s, too old to serve on: %w", id, m.head.UTC().Format(time.RFC3339), top.ErrDenied)
	}
	if err := m.inTime(now); err != nil {
		return err
	}
	if credit := m.Credit(id); units > credit {
		return fmt.Errorf("session %s: %d units served, %d paid, the anchor ends at %d, credit for %d more: %w", id, s.units, s.paid(), s.base+uint64(s.anchor.N), credit, top.ErrDenied)
	}
	s.units += units
	m.served += s.anchor.Price * top.Amount(units)
	return nil
}

// Lost takes units back that were served and that nobody will acknowledge: the
// transport gave them up. They are not paid, and no longer use credit. No more
// are taken back than are unpaid; the result is how many. How much to believe is
// the caller's to judge. Of a session that is over it forgives what a payer forgot
// in a crash, which else stays a debt of the channel.
func (m *Meter) Lost(id top.SessionID, units uint64) uint64 {
	s := m.live[id]
	if s == nil || s.units <= s.paid() {
		return 0
	}
	units = min(units, s.units-s.paid())
	s.units -= units
	m.served -= s.anchor.Price * top.Amount(units)
	return units
}

// Close ends a session: nothing of it changes any more (S3).
func (m *Meter) Close(id top.SessionID) {
	if s := m.live[id]; s != nil {
		s.closed = true
	}
}

// current is the newest voucher with the last tick on each of its anchors.
func (m *Meter) current() Claim {
	c := Claim{Voucher: m.voucher, Ticks: slices.Clone(m.ticks)}
	for j, s := range m.slots {
		if s != nil && s.i > 0 {
			c.Ticks[j] = Tick{s.anchor.Session, s.i, s.w}
		}
	}
	return c
}

// Claim is what the provider has to show the chain now: the claim that owes most.
// Its voucher's Seq is 0 before the first.
func (m *Meter) Claim() Claim {
	before := m.before()
	if m.owed >= before.owed {
		return m.current()
	}
	before.claim.Ticks = slices.Clone(before.claim.Ticks)
	return before.claim
}

// before is the older claim that owes most.
func (m *Meter) before() proven {
	if m.old.owed > m.best.owed {
		return m.old
	}
	return m.best
}

// Owed is what the channel has paid: what Claim comes to, or what the chain paid
// before. It never goes back (S1).
func (m *Meter) Owed() top.Amount {
	return max(m.cfg.Paid, m.owed, m.old.owed, m.best.owed)
}

// Show is what a payer that lost its memory needs, and what goes to disk: the
// newest voucher with its ticks, and an older claim while that owes more.
func (m *Meter) Show() []Claim {
	var claims []Claim
	if m.voucher.Seq > 0 {
		claims = append(claims, m.current())
	}
	if before := m.before(); before.owed > m.owed {
		claims = append(claims, m.Claim())
	}
	return claims
}

// Save is the claims to append to disk, when it is time: a voucher came, W units
// were paid, or 100 ms have passed since the last. sync asks for an fsync as
// well, once a second.
func (m *Meter) Save(now time.Time) (claims []Claim, sync bool) {
	d, w := &m.disk, uint64(minWindow)
	for _, s := range m.slots {
		if s != nil && !s.closed {
			w = max(w, m.window(s))
		}
	}
	if !d.fresh && (d.units == 0 || d.units < w && now.Sub(d.saved) < saveEvery) {
		return nil, false
	}
	d.saved, d.units, d.fresh = now, 0, false
	if sync = now.Sub(d.synced) >= syncEvery; sync {
		d.synced = now
	}
	return m.Show(), sync
}
