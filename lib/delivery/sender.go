package delivery

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"top/lib/session"
	"top/lib/top"
)

// SenderConfig says for which channel a Sender pays.
type SenderConfig struct {
	Chain    top.ChainID
	Channel  top.ID
	Payer    top.Address
	Cap      top.Amount
	Expiry   time.Time     // of the channel
	Deadline time.Duration // D, the chain's parameter
	Ahead    top.Amount    // set aside beyond the last message of each line, so that the next need not wait
}

// SenderState is what of a Sender goes to disk. Its places are not in it: who
// keeps the messages knows them, and gives them back by Restore.
type SenderState struct {
	Seq    uint64
	Amount top.Amount // settled: what vouchers promise without a condition
	Lines  []SenderLine
	Last   []byte // the newest voucher, encoded; it may not be signed yet
}

// A SenderLine is what is promised for one recipient.
type SenderLine struct {
	Recipient top.Address
	Base      top.Amount // settled up to here
	Placed    top.Amount // messages lie up to here
	Promised  top.Amount // by the newest voucher
	Acks      []session.Ack
	Holes     []Range // settled as expired, below Base: paid after all when an acknowledgement comes late
}

// A Range is a part of a line.
type Range struct{ From, To top.Amount }

// A held is a place that is neither acknowledged nor expired.
type held struct {
	to     top.Amount
	expiry uint64
}

// A Sender is the payer's end of a channel that carries messages: it gives each
// message its place, and says what the next voucher promises. It is not safe for
// concurrent use.
type Sender struct {
	cfg    SenderConfig
	seq    uint64
	amount top.Amount
	lines  map[top.Address]*senderLine
	last   session.Voucher // newest; unsigned while Sig is zero
}

type senderLine struct {
	SenderLine
	held []held // in the order of their places
}

// NewSender is a sender that goes on from a state; the zero State begins.
func NewSender(cfg SenderConfig, s SenderState) (*Sender, error) {
	p := &Sender{cfg: cfg, seq: s.Seq, amount: s.Amount, lines: map[top.Address]*senderLine{}}
	for _, l := range s.Lines {
		p.lines[l.Recipient] = &senderLine{SenderLine: l}
	}
	if len(s.Last) > 0 {
		if err := p.last.Decode(s.Last); err != nil {
			return nil, fmt.Errorf("state of a sender: %w", err)
		}
	}
	return p, nil
}

// State is what to save.
func (s *Sender) State() SenderState {
	st := SenderState{Seq: s.seq, Amount: s.amount}
	for _, l := range s.inOrder() {
		st.Lines = append(st.Lines, l.SenderLine)
	}
	if s.last.Seq > 0 {
		st.Last = s.last.Encode()
	}
	return st
}

func (s *Sender) inOrder() []*senderLine {
	var all []*senderLine
	for _, l := range s.lines {
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b *senderLine) int { return byRecipient(a.Recipient, b.Recipient) })
	return all
}

// Place gives a message of a cost its place, held until expiry in unix seconds.
// It is promised by the next voucher, if not by the last: Promises says. A channel
// that has no room is top.ErrDenied, one with MaxAsides recipients waiting
// top.ErrBusy: open another.
func (s *Sender) Place(recipient top.Address, cost top.Amount, expiry uint64, now time.Time) (Place, error) {
	if end := s.cfg.Expiry.Add(-2 * s.cfg.Deadline); !time.Unix(int64(expiry), 0).Before(end) || !now.Before(end) {
		return Place{}, fmt.Errorf("the channel ends %s, before the message may be acknowledged and claimed: %w", s.cfg.Expiry.UTC().Format(time.RFC3339), top.ErrDenied)
	}
	l := s.lines[recipient]
	if l == nil {
		l = &senderLine{SenderLine: SenderLine{Recipient: recipient}}
	}
	if len(l.held) == 0 && s.waiting() >= session.MaxAsides {
		return Place{}, fmt.Errorf("%d recipients wait on this channel: %w", session.MaxAsides, top.ErrBusy)
	}
	to, ok := l.Placed.Add(cost)
	if room := s.Room(); !ok || cost > room || cost == 0 {
		return Place{}, fmt.Errorf("%s TOP of the channel's cap are left, the message costs %s: %w", room, cost, top.ErrDenied)
	}
	s.lines[recipient] = l
	p := Place{recipient, l.Placed, to}
	l.Placed = to
	l.held = append(l.held, held{to, expiry})
	return p, nil
}

// Room is what of the cap is not placed or promised.
func (s *Sender) Room() top.Amount {
	used := s.amount
	for _, l := range s.lines {
		used += l.Placed - l.Base
	}
	return s.cfg.Cap - min(used, s.cfg.Cap)
}

// waiting is how many recipients have messages that are not settled.
func (s *Sender) waiting() (n int) {
	for _, l := range s.lines {
		if len(l.held) > 0 {
			n++
		}
	}
	return n
}

// exposure is what the channel may cost with all that is placed.
func (s *Sender) exposure() (top.Amount, error) {
	sum := s.amount
	for _, l := range s.lines {
		var ok bool
		if sum, ok = sum.Add(max(l.Placed, l.Promised) - l.Base); !ok {
			return 0, fmt.Errorf("channel %s: %w", s.cfg.Channel.Short(), top.ErrInvalid)
		}
	}
	return sum, nil
}

// Restore says that a message lies at a place, after a restart. Messages are
// restored in the order of their places.
func (s *Sender) Restore(p Place, expiry uint64) {
	l := s.lines[p.Recipient]
	if l == nil {
		l = &senderLine{SenderLine: SenderLine{Recipient: p.Recipient}}
		s.lines[p.Recipient] = l
	}
	l.Placed = max(l.Placed, p.To)
	if p.To > l.Base {
		l.held = append(l.held, held{p.To, expiry})
	}
}

// Promises says whether the newest voucher, once signed, covers a place (V1).
func (s *Sender) Promises(p Place) bool {
	l := s.lines[p.Recipient]
	return l != nil && s.last.Sig != [64]byte{} && p.To <= l.Promised
}

// Acked takes a recipient's acknowledgement. It must be signed, for this channel,
// and cover nothing that was never placed. New says whether it covers more than
// was known.
func (s *Sender) Acked(a session.Ack, now time.Time) (news bool, err error) {
	l := s.lines[a.Recipient()]
	switch {
	case a.Channel != s.cfg.Channel:
		return false, fmt.Errorf("acknowledgement on channel %s, not %s: %w", a.Channel.Short(), s.cfg.Channel.Short(), top.ErrDenied)
	case l == nil || a.To > l.Placed:
		return false, fmt.Errorf("%s acknowledges up to %s TOP what was never sent: %w", a.Recipient(), a.To, top.ErrDenied)
	}
	if err := a.Verify(s.cfg.Chain, uint64(now.Unix())); err != nil {
		return false, err
	}
	late := l.fill(a)
	s.amount += late
	l.Acks, news = merge(l.Acks, a, l.Base)
	return news || late > 0, nil
}

// fill takes what an acknowledgement covers out of the holes, and says how much
// that is: it was delivered before it expired, and is owed.
func (l *senderLine) fill(a session.Ack) (late top.Amount) {
	var left []Range
	for _, h := range l.Holes {
		from, to := max(h.From, a.From), min(h.To, a.To)
		if to <= from {
			left = append(left, h)
			continue
		}
		late += to - from
		for _, r := range []Range{{h.From, from}, {to, h.To}} {
			if r.To > r.From {
				left = append(left, r)
			}
		}
	}
	l.Holes = left
	return late
}

// Due says whether a voucher should go out: a place is not promised, or less than
// half of Ahead is left on a line and the cap has room for more.
func (s *Sender) Due() bool {
	used, err := s.exposure()
	room := err == nil && used <= s.cfg.Cap && s.cfg.Cap-used >= s.cfg.Ahead
	for _, l := range s.lines {
		if l.Placed > l.Promised || room && len(l.held) > 0 && l.Promised-l.Placed < s.cfg.Ahead/2 {
			return true
		}
	}
	return false
}

// Settles says whether the next voucher would settle anything.
func (s *Sender) Settles(now time.Time) bool {
	if s.last.Seq > 0 && s.amount > s.last.Amount {
		return true
	}
	for _, l := range s.lines {
		if base, _ := l.settled(now); base > l.Base {
			return true
		}
	}
	return false
}

// settled is how far a line is settled: all before it is acknowledged or expired
// (V5).
func (l *senderLine) settled(now time.Time) (base top.Amount, left []held) {
	base, left = l.Base, l.held
	for len(left) > 0 {
		h := left[0]
		if covered(l.Acks, base) < h.to && uint64(now.Unix()) < h.expiry+Grace {
			break
		}
		base, left = h.to, left[1:]
	}
	if len(left) == 0 {
		base = l.Placed
	}
	return base, left
}

// Renew is the next voucher, unsigned: it settles what is acknowledged, takes
// back what expired, and promises what is placed and Ahead of it, as far as the
// cap allows. Save the State before it is signed, and hand it to Signed.
func (s *Sender) Renew(now time.Time) (session.Voucher, error) {
	for _, l := range s.lines {
		base, left := l.settled(now)
		s.amount += union(l.Acks, l.Base, base)
		l.Holes = append(l.Holes, holes(l.Acks, l.Base, base)...)
		l.Base, l.held = base, left
		l.Acks = prune(l.Acks, base)
	}
	for _, l := range s.lines {
		l.Promised = l.Placed
	}
	used, err := s.exposure()
	if err != nil {
		return session.Voucher{}, err
	}
	v := session.Voucher{Chain: s.cfg.Chain, Channel: s.cfg.Channel, Seq: s.seq + 1, Amount: s.amount}
	free := s.cfg.Cap - min(used, s.cfg.Cap)
	for _, l := range s.inOrder() {
		if len(l.held) > 0 {
			ahead := min(s.cfg.Ahead, free)
			l.Promised += ahead
			free -= ahead
		}
		if l.Promised > l.Base {
			v.Asides = append(v.Asides, session.Aside{Recipient: l.Recipient, Base: l.Base, Amount: l.Promised})
		}
	}
	s.seq++
	s.last = v
	return v, nil
}

// Unsigned is the voucher that Renew made and Signed never saw: it is signed as
// it is, after a crash too, since no number is signed twice.
func (s *Sender) Unsigned() (session.Voucher, bool) {
	return s.last, s.last.Seq > 0 && s.last.Sig == [64]byte{}
}

// Signed gives back the newest voucher with its signature.
func (s *Sender) Signed(v session.Voucher) error {
	if v.Seq != s.last.Seq || v.Channel != s.cfg.Channel {
		return fmt.Errorf("voucher %d of channel %s is not the newest: %w", v.Seq, v.Channel.Short(), top.ErrInvalid)
	}
	if err := v.Verify(s.cfg.Payer); err != nil {
		return err
	}
	s.last = v
	return nil
}

// Newest is the newest signed voucher, to be shown again after a reconnection.
func (s *Sender) Newest() (session.Voucher, bool) {
	return s.last, s.last.Sig != [64]byte{}
}

// Spent is what the channel owes by all that is acknowledged.
func (s *Sender) Spent() top.Amount {
	sum := s.amount
	for _, l := range s.lines {
		sum += union(l.Acks, l.Base, max(l.Promised, l.Placed))
	}
	return sum
}

// Claim is what the carrier can show the chain of what the sender knows.
func (s *Sender) Claim() session.Claim { return claimOf(s.last, s.acks()) }

func (s *Sender) acks() (all []session.Ack) {
	for _, l := range s.inOrder() {
		all = append(all, l.Acks...)
	}
	return all
}

// claimOf is a voucher with the acknowledgements that add to it, at most as many
// as a claim holds: the most valuable ones.
func claimOf(v session.Voucher, acks []session.Ack) session.Claim {
	c := session.Claim{Voucher: v, Ticks: make([]session.Tick, len(v.Anchors))}
	for i, a := range v.Anchors {
		c.Ticks[i].Session = a.Session
	}
	adds := func(a session.Ack) top.Amount {
		aside := v.Aside(a.Recipient())
		return union([]session.Ack{a}, aside.Base, aside.Amount)
	}
	for _, a := range acks {
		if adds(a) > 0 {
			c.Acks = append(c.Acks, a)
		}
	}
	if len(c.Acks) > session.MaxAsides {
		slices.SortStableFunc(c.Acks, func(a, b session.Ack) int { return cmp.Compare(adds(b), adds(a)) })
		c.Acks = c.Acks[:session.MaxAsides]
	}
	slices.SortStableFunc(c.Acks, func(a, b session.Ack) int {
		return cmp.Or(byRecipient(a.Recipient(), b.Recipient()), cmp.Compare(a.From, b.From))
	})
	return c
}
