package delivery

import (
	"fmt"
	"slices"
	"time"

	"top/lib/session"
	"top/lib/top"
)

// CarrierConfig says for which channel a Carrier earns.
type CarrierConfig struct {
	Chain    top.ChainID
	Channel  top.ID
	Payer    top.Address
	Cap      top.Amount
	Expiry   time.Time     // of the channel
	Deadline time.Duration // D, the chain's parameter
	Price    top.Amount    // of a unit
	Window   uint32        // the offer's, in units
	Seq      uint64        // of the voucher claimed last, as the chain says
	Paid     top.Amount    // by the channel before, as the chain says
}

// CarrierState is what of a Carrier goes to disk.
type CarrierState struct {
	Voucher []byte // encoded; empty before the first
	Lines   []CarrierLine
	Owed    top.Amount
}

// A CarrierLine is what a carrier knows of one recipient's line.
type CarrierLine struct {
	Recipient top.Address
	Taken     top.Amount // messages were taken up to here
	Handed    top.Amount // nano handed over for the first time, in all
	Acked     top.Amount // nano acknowledged, in all
	Passed    top.Amount // handed over, or expired, up to here
	Acks      []session.Ack
}

// A Carrier is the provider's end of a channel that carries messages: it takes a
// message only where a voucher promises it, hands over no more than it can bear
// to lose, and knows what to claim. It is not safe for concurrent use.
type Carrier struct {
	cfg     CarrierConfig
	voucher session.Voucher
	lines   map[top.Address]*CarrierLine
	owed    top.Amount
}

// NewCarrier is a carrier that goes on from a state; the zero State begins.
func NewCarrier(cfg CarrierConfig, s CarrierState) (*Carrier, error) {
	c := &Carrier{cfg: cfg, lines: map[top.Address]*CarrierLine{}, owed: max(s.Owed, cfg.Paid)}
	if len(s.Voucher) > 0 {
		if err := c.voucher.Decode(s.Voucher); err != nil {
			return nil, fmt.Errorf("state of a carrier: %w", err)
		}
	}
	for _, l := range s.Lines {
		c.lines[l.Recipient] = &l
	}
	return c, nil
}

// State is what to save.
func (c *Carrier) State() CarrierState {
	s := CarrierState{Owed: c.owed}
	if c.voucher.Seq > 0 {
		s.Voucher = c.voucher.Encode()
	}
	for _, l := range c.inOrder() {
		s.Lines = append(s.Lines, *l)
	}
	return s
}

func (c *Carrier) inOrder() []*CarrierLine {
	var all []*CarrierLine
	for _, l := range c.lines {
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b *CarrierLine) int { return byRecipient(a.Recipient, b.Recipient) })
	return all
}

func (c *Carrier) line(recipient top.Address) *CarrierLine {
	l := c.lines[recipient]
	if l == nil {
		l = &CarrierLine{Recipient: recipient}
		c.lines[recipient] = l
	}
	return l
}

// Renew takes the payer's next voucher: newer, signed, within the cap, and such
// that nothing is lost by it (V3). holds is the places of the messages that wait
// and have not expired. The newest voucher once more is no error.
func (c *Carrier) Renew(v session.Voucher, holds func(top.Address) []Place) error {
	switch {
	case v.Chain != c.cfg.Chain || v.Channel != c.cfg.Channel:
		return fmt.Errorf("voucher for channel %s of chain %s: %w", v.Channel.Short(), v.Chain, top.ErrDenied)
	case v.Seq == c.voucher.Seq && string(v.Encode()) == string(c.voucher.Encode()):
		return nil
	case v.Seq <= c.voucher.Seq || v.Seq < c.cfg.Seq:
		return fmt.Errorf("voucher %d is not newer than voucher %d: %w", v.Seq, max(c.voucher.Seq, c.cfg.Seq), top.ErrDenied)
	case len(v.Anchors) > 0:
		return fmt.Errorf("voucher %d: this channel carries messages, not ticks: %w", v.Seq, top.ErrDenied)
	}
	if exposed, err := v.Exposure(); err != nil {
		return err
	} else if exposed > c.cfg.Cap {
		return fmt.Errorf("voucher %d promises %s TOP, the cap is %s: %w", v.Seq, exposed, c.cfg.Cap, top.ErrDenied)
	}
	if err := v.Verify(c.cfg.Payer); err != nil {
		return err
	}
	owed, err := c.claim(v).Owed()
	if err != nil {
		return err
	}
	if owed < c.owed {
		return fmt.Errorf("voucher %d owes %s TOP, %s are earned: %w", v.Seq, owed, c.owed, top.ErrDenied)
	}
	for r := range c.lines {
		a := v.Aside(r)
		for _, p := range holds(r) {
			if p.From < a.Base || p.To > a.Amount {
				return fmt.Errorf("voucher %d takes back the promise for a message that waits for %s: %w", v.Seq, r, top.ErrDenied)
			}
		}
	}
	c.voucher, c.owed = v, owed
	for _, l := range c.lines {
		l.Acks = prune(l.Acks, v.Aside(l.Recipient).Base)
	}
	return nil
}

// Take takes a message at a place of a cost: promised (V1), and behind the one
// before. The sender's own expiry must leave time to claim.
func (c *Carrier) Take(p Place, cost top.Amount, expiry uint64, now time.Time) error {
	a, l := c.voucher.Aside(p.Recipient), c.line(p.Recipient)
	switch end := c.cfg.Expiry.Add(-2 * c.cfg.Deadline); {
	case !now.Before(end) || !time.Unix(int64(expiry), 0).Before(end):
		return fmt.Errorf("the channel ends %s, too soon for the message: %w", c.cfg.Expiry.UTC().Format(time.RFC3339), top.ErrDenied)
	case expiry <= uint64(now.Unix()):
		return fmt.Errorf("the message expired: %w", top.ErrDenied)
	case p.To < p.From || p.To-p.From != cost:
		return fmt.Errorf("the message costs %s TOP, its place is %s long: %w", cost, p.To-min(p.From, p.To), top.ErrDenied)
	case p.From < l.Taken || p.From < a.Base:
		return fmt.Errorf("the message lies at %s TOP, others were taken up to %s: %w", p.From, max(l.Taken, a.Base), top.ErrDenied)
	case p.To > a.Amount:
		return fmt.Errorf("the message lies up to %s TOP, %s are promised (the sender must send a voucher first): %w", p.To, a.Amount, top.ErrDenied)
	}
	l.Taken = p.To
	return nil
}

// Has says whether the message at a place was taken before.
func (c *Carrier) Has(p Place) bool {
	l := c.lines[p.Recipient]
	return l != nil && p.To <= l.Taken
}

// Knows says whether the message at a place is acknowledged or settled.
func (c *Carrier) Knows(p Place) bool {
	l := c.lines[p.Recipient]
	return l != nil && (p.To <= c.voucher.Aside(p.Recipient).Base || union(l.Acks, p.From, p.To) == p.To-p.From)
}

// Taken is how far a line's messages were taken.
func (c *Carrier) Taken(recipient top.Address) top.Amount {
	if l := c.lines[recipient]; l != nil {
		return l.Taken
	}
	return 0
}

// window is W in nano: what may be handed over and not acknowledged (V4).
func (c *Carrier) window() top.Amount {
	most, ok := c.cfg.Price.Mul(uint64(c.cfg.Window))
	if !ok {
		most = top.MaxSupply
	}
	least, _ := c.cfg.Price.Mul(4)
	return min(max(least, c.owed/4), most)
}

// Hand says whether a message may be handed to a device of its recipient now. One
// that was handed over before always may.
func (c *Carrier) Hand(p Place) bool {
	l := c.line(p.Recipient)
	open := l.Handed - min(l.Acked, l.Handed)
	if p.To > l.Passed && open > 0 && open+(p.To-p.From) > c.window() {
		return false
	}
	if p.To > l.Passed {
		l.Handed += p.To - p.From
		l.Passed = p.To
	}
	return true
}

// Acked takes a recipient's acknowledgement: what is new of it is earned. It may
// be ahead of what was handed over, up to what was taken: after a crash the
// recipient has more than the carrier knows of.
func (c *Carrier) Acked(a session.Ack, now time.Time) (earned top.Amount, err error) {
	l := c.lines[a.Recipient()]
	switch {
	case a.Channel != c.cfg.Channel:
		return 0, fmt.Errorf("acknowledgement on channel %s, not %s: %w", a.Channel.Short(), c.cfg.Channel.Short(), top.ErrDenied)
	case l == nil || a.To > max(l.Passed, l.Taken):
		return 0, fmt.Errorf("%s acknowledges what it was not handed: %w", a.Recipient(), top.ErrDenied)
	}
	if err := a.Verify(c.cfg.Chain, uint64(now.Unix())); err != nil {
		return 0, err
	}
	aside := c.voucher.Aside(a.Recipient())
	acks, news := merge(l.Acks, a, aside.Base)
	if !news {
		return 0, nil
	}
	before := union(l.Acks, aside.Base, aside.Amount)
	l.Acks = acks
	l.Acked += union(acks, aside.Base, aside.Amount) - before
	owed, err := c.Claim().Owed()
	if err != nil {
		return 0, err
	}
	earned = max(owed, c.owed) - c.owed
	c.owed = max(owed, c.owed)
	return earned, nil
}

// Acks are the acknowledgements of a line that its sender may not know.
func (c *Carrier) Acks(recipient top.Address) []session.Ack {
	if l := c.lines[recipient]; l != nil {
		return l.Acks
	}
	return nil
}

// Owed is what the channel has earned. It never goes back.
func (c *Carrier) Owed() top.Amount { return c.owed }

// Voucher is the newest voucher; its Seq is 0 before the first.
func (c *Carrier) Voucher() session.Voucher { return c.voucher }

// Claim is what to show the chain now.
func (c *Carrier) Claim() session.Claim { return c.claim(c.voucher) }

func (c *Carrier) claim(v session.Voucher) session.Claim {
	var all []session.Ack
	for _, l := range c.inOrder() {
		all = append(all, l.Acks...)
	}
	return claimOf(v, all)
}

// Config is what the carrier was made with.
func (c *Carrier) Config() CarrierConfig { return c.cfg }
