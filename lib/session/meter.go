package session

import (
	"crypto/sha256"
	"fmt"
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
}

// Meter is the provider's end of one channel: what it was paid, and how much
// more it serves. It is not safe for concurrent use.
type Meter struct {
	cfg     MeterConfig
	voucher Voucher // the newest; Seq 0 before the first
	best    Claim   // of the vouchers before it, while it owes more
	owed    top.Amount
	live    map[top.SessionID]*served
	last    *served // used last: ticks come in runs
	head    time.Time
	saved   time.Time
	unsaved uint64 // units paid since
}

// served is one session, seen by who serves.
type served struct {
	id     top.SessionID
	ticket Ticket
	offer  Offer
	units  uint64 // served
	base   uint64 // units that the voucher's amount pays
	n      uint32 // ticks of the anchor; 0 before the first voucher
	i      uint32 // of the last tick
	w      top.ID // of the last tick, or the root
	limit  uint32 // ticks that one tick may skip: 4 W
	wrong  int    // ticks that did not verify in the second from
	from   int64  // unix seconds
	closed bool
}

// maxWrong is how many wrong ticks a second close a session.
const maxWrong = 16

// saveEvery is how long a tick may be in memory only.
const saveEvery = 100 * time.Millisecond

// NewMeter is a meter that was paid nothing yet.
func NewMeter(cfg MeterConfig) *Meter {
	return &Meter{cfg: cfg, live: map[top.SessionID]*served{}}
}

// Open begins a session by its ticket, which the caller then countersigns. The
// ticket must say what the offer says.
func (m *Meter) Open(now time.Time, t Ticket, o Offer) error {
	switch {
	case t.Chain != m.cfg.Chain || t.Channel != m.cfg.Channel:
		return fmt.Errorf("ticket %s: for channel %s of chain %s: %w", t.Session, t.Channel.Short(), t.Chain, top.ErrDenied)
	case t.Payer != m.cfg.Payer || t.Node != m.cfg.Node:
		return fmt.Errorf("ticket %s: between others: %w", t.Session, top.ErrDenied)
	case t.Service != o.Service || t.Unit != o.Unit || t.Price != o.Price:
		return fmt.Errorf("ticket %s: not at the offer's terms: %w", t.Session, top.ErrDenied)
	case now.Unix() >= int64(min(t.Expiry, 1<<40)):
		return fmt.Errorf("ticket %s: expired: %w", t.Session, top.ErrDenied)
	case m.live[t.Session] != nil:
		return fmt.Errorf("ticket %s: shown before: %w", t.Session, top.ErrBusy)
	case m.open() >= MaxAnchors:
		return fmt.Errorf("ticket %s: the channel carries %d sessions already: %w", t.Session, MaxAnchors, top.ErrBusy)
	}
	if err := t.VerifyPayer(); err != nil {
		return err
	}
	if err := m.inTime(now); err != nil {
		return err
	}
	m.live[t.Session] = &served{id: t.Session, ticket: t, offer: o}
	return nil
}

func (m *Meter) open() (n int) {
	for _, s := range m.live {
		if !s.closed {
			n++
		}
	}
	return n
}

// inTime refuses what comes later than the channel's expiry - 2D: a claim needs
// that long to be sure of its block.
func (m *Meter) inTime(now time.Time) error {
	if now.After(m.cfg.Expiry.Add(-2 * m.cfg.Deadline)) {
		return fmt.Errorf("channel %s ends at %s, too near: %w", m.cfg.Channel.Short(), m.cfg.Expiry.UTC().Format(time.RFC3339), top.ErrDenied)
	}
	return nil
}

// Renew takes the payer's next voucher. It must be newer, signed, within the cap,
// at the tickets' prices, and pay at least what the ticks included come to; a
// session that it leaves out is over, and its last tick must be in the amount.
func (m *Meter) Renew(now time.Time, r Renewal) error {
	v := &r.Voucher
	if v.Chain != m.cfg.Chain || v.Channel != m.cfg.Channel || len(r.Base) != len(v.Anchors) {
		return fmt.Errorf("voucher %d: for channel %s of chain %s: %w", v.Seq, v.Channel.Short(), v.Chain, top.ErrDenied)
	}
	if v.Seq <= m.voucher.Seq || v.Amount < m.voucher.Amount {
		return fmt.Errorf("voucher %d of %s TOP after number %d of %s: %w", v.Seq, v.Amount, m.voucher.Seq, m.voucher.Amount, top.ErrDenied)
	}
	if err := m.inTime(now); err != nil {
		return err
	}
	most, err := v.Exposure()
	if err != nil {
		return err
	}
	if most > m.cfg.Cap {
		return fmt.Errorf("voucher %d exposes %s TOP, the cap is %s: %w", v.Seq, most, m.cfg.Cap, top.ErrDenied)
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

// least is what the amount of a renewal must be: for each session that goes on
// the units that it says are included, for each that is over its last tick (S6).
func (m *Meter) least(r Renewal) (top.Amount, error) {
	sum := m.voucher.Amount
	for i, a := range r.Voucher.Anchors {
		s, ok := m.live[a.Session]
		switch {
		case !ok || s.closed:
			return 0, fmt.Errorf("voucher %d: session %s is not open: %w", r.Voucher.Seq, a.Session, top.ErrDenied)
		case a.Price != s.ticket.Price:
			return 0, fmt.Errorf("voucher %d: session %s costs %s a unit, not %s: %w", r.Voucher.Seq, a.Session, s.ticket.Price, a.Price, top.ErrDenied)
		case r.Base[i] < s.base || r.Base[i] > s.units+uint64(s.offer.Window):
			return 0, fmt.Errorf("voucher %d: session %s: unit %d included, %d served from %d: %w", r.Voucher.Seq, a.Session, r.Base[i], s.units, s.base, top.ErrDenied)
		}
		var err error
		if sum, err = addUnits(sum, a.Price, r.Base[i]-s.base); err != nil {
			return 0, err
		}
	}
	for id, s := range m.live {
		if _, goesOn := r.Voucher.Anchor(id); goesOn || s.closed || s.n == 0 {
			continue
		}
		var err error
		if sum, err = addUnits(sum, s.ticket.Price, uint64(s.i)); err != nil {
			return 0, err
		}
	}
	return sum, nil
}

// take makes a renewal that was checked the newest. The claim before it is kept
// while it owes more: until the first ticks on the new anchors.
func (m *Meter) take(r Renewal) {
	if before := m.current(); m.voucher.Seq > 0 {
		if owed, err := before.Owed(); err == nil && owed > m.owed {
			m.best, m.owed = before, owed
		}
	}
	for id, s := range m.live {
		if _, ok := r.Voucher.Anchor(id); !ok && s.n > 0 {
			s.closed = true
		}
	}
	m.voucher = r.Voucher
	for i, a := range r.Voucher.Anchors {
		s := m.live[a.Session]
		s.base, s.n, s.i, s.w = r.Base[i], a.N, 0, a.Root
		s.limit = m.reach(s)
	}
	m.unsaved++
}

// reach is how many units one tick may skip: 4 W.
func (m *Meter) reach(s *served) uint32 {
	return uint32(min(4*m.Window(s.id), MaxSteps))
}

// Tick takes a tick: units up to Base+I of its session are paid. A tick that is
// not above the last, beyond the anchor, or that skips more than 4 W is dropped
// before anything is hashed (S1); more than 16 wrong ones in a second close the
// session.
func (m *Meter) Tick(now time.Time, t Tick) error {
	s := m.last
	if s == nil || s.id != t.Session {
		if s = m.live[t.Session]; s == nil {
			return fmt.Errorf("tick: no session %s: %w", t.Session, top.ErrNotFound)
		}
		m.last = s
	}
	step := t.I - s.i
	if s.closed || t.I <= s.i || t.I > s.n || step > s.limit && step > m.grown(s) {
		return m.dropped(s, t)
	}
	if now.Unix() > m.cfg.Expiry.Unix()-int64(2*m.cfg.Deadline/time.Second) {
		return m.inTime(now)
	}
	w := t.W
	for range step {
		w = sha256.Sum256(w[:])
	}
	if w != s.w {
		return m.wrong(now, s, t)
	}
	s.i, s.w = t.I, t.W
	m.unsaved += uint64(step)
	return nil
}

// grown is the reach of a session now: the window grows with what was paid.
func (m *Meter) grown(s *served) uint32 {
	s.limit = m.reach(s)
	return s.limit
}

// dropped says why a tick was not hashed.
func (m *Meter) dropped(s *served, t Tick) error {
	switch {
	case s.closed:
		return fmt.Errorf("tick: session %s is over: %w", t.Session, top.ErrDenied)
	case t.I <= s.i:
		return fmt.Errorf("tick %d after %d: %w", t.I, s.i, top.ErrDenied)
	case t.I > s.n:
		return fmt.Errorf("tick %d, the anchor ends at %d: %w", t.I, s.n, top.ErrDenied)
	}
	return fmt.Errorf("tick %d after %d skips more than %d: %w", t.I, s.i, s.limit, top.ErrDenied)
}

// wrong counts a tick that does not verify.
func (m *Meter) wrong(now time.Time, s *served, t Tick) error {
	if sec := now.Unix(); sec != s.from {
		s.from, s.wrong = sec, 0
	}
	if s.wrong++; s.wrong > maxWrong {
		s.closed = true
		return fmt.Errorf("tick: session %s is closed after %d wrong ticks in a second: %w", t.Session, s.wrong, top.ErrDenied)
	}
	return fmt.Errorf("tick %d does not hash to tick %d: %w", t.I, s.i, top.ErrDenied)
}

// Paid is the units of a session that were paid.
func (m *Meter) Paid(id top.SessionID) uint64 {
	if s := m.live[id]; s != nil {
		return s.base + uint64(s.i)
	}
	return 0
}

// Window is W of a session now, in units.
func (m *Meter) Window(id top.SessionID) uint64 {
	s := m.live[id]
	if s == nil {
		return 0
	}
	return window(s.offer, m.Owed())
}

// Head notes the time of the newest block that the provider has seen.
func (m *Meter) Head(at time.Time) { m.head = at }

// Serve counts units about to be served, if the session has that much credit
// (S4). Otherwise it is top.ErrDenied, and the traffic waits for a tick.
func (m *Meter) Serve(now time.Time, id top.SessionID, units uint64) error {
	s := m.live[id]
	switch {
	case s == nil || s.closed:
		return fmt.Errorf("session %s is not open: %w", id, top.ErrDenied)
	case s.n == 0:
		return fmt.Errorf("session %s: no voucher yet: %w", id, top.ErrDenied)
	case now.Sub(m.head) > m.cfg.Deadline/2:
		return fmt.Errorf("session %s: the newest block seen is of %s, too old to serve on: %w", id, m.head.UTC().Format(time.RFC3339), top.ErrDenied)
	}
	if err := m.inTime(now); err != nil {
		return err
	}
	next := s.units + units
	if next < s.units || next > s.base+uint64(s.i)+m.Window(id) {
		return fmt.Errorf("session %s: %d served, %d paid, a credit of %d: %w", id, s.units, s.base+uint64(s.i), m.Window(id), top.ErrDenied)
	}
	if next > s.base+uint64(s.n) {
		return fmt.Errorf("session %s: the anchor ends at unit %d: %w", id, s.base+uint64(s.n), top.ErrDenied)
	}
	s.units = next
	return nil
}

// Close ends a session: nothing of it changes any more (S3).
func (m *Meter) Close(id top.SessionID) {
	if s := m.live[id]; s != nil {
		s.closed = true
	}
}

// current is the newest voucher with the last tick on each of its anchors.
func (m *Meter) current() Claim {
	c := Claim{Voucher: m.voucher}
	for _, a := range m.voucher.Anchors {
		s := m.live[a.Session]
		t := Tick{Session: a.Session}
		if s != nil && s.i > 0 {
			t.I, t.W = s.i, s.w
		}
		c.Ticks = append(c.Ticks, t)
	}
	return c
}

// Claim is what the provider has to show now: the claim that owes most.
func (m *Meter) Claim() Claim {
	c := m.current()
	if owed, err := c.Owed(); err != nil || owed < m.owed {
		return m.best
	}
	return c
}

// Owed is what Claim comes to.
func (m *Meter) Owed() top.Amount {
	sum := m.voucher.Amount
	for _, a := range m.voucher.Anchors {
		if s := m.live[a.Session]; s != nil {
			sum += a.Price * top.Amount(s.i) // at most the exposure, which was checked
		}
	}
	return max(sum, m.owed)
}

// Save is the claim to put on disk, when it is time: after W units or 100 ms.
func (m *Meter) Save(now time.Time, id top.SessionID) (Claim, bool) {
	if m.unsaved == 0 || m.unsaved < max(1, m.Window(id)) && now.Sub(m.saved) < saveEvery {
		return Claim{}, false
	}
	m.unsaved, m.saved = 0, now
	return m.Claim(), true
}

// Recover makes a meter that lost its memory go on from a claim that it saved,
// or that the payer shows: it proves itself, and the higher wins. Its sessions
// are over.
func (m *Meter) Recover(c Claim) error {
	if c.Voucher.Chain != m.cfg.Chain || c.Voucher.Channel != m.cfg.Channel {
		return fmt.Errorf("claim of channel %s: %w", c.Voucher.Channel.Short(), top.ErrDenied)
	}
	if err := c.Voucher.Verify(m.cfg.Payer); err != nil {
		return err
	}
	owed, err := c.Owed()
	if err != nil {
		return err
	}
	if owed > m.Owed() {
		m.best, m.owed = c, owed
	}
	if c.Voucher.Seq > m.voucher.Seq {
		m.voucher = c.Voucher
		m.voucher.Anchors = nil
	}
	return nil
}
