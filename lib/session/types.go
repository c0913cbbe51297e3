package session

import (
	"fmt"
	"time"

	"top/lib/keys"
	"top/lib/top"
	"top/lib/wire"
)

// Limits of the mechanism (economy.md, "The paid session").
const (
	MaxSteps     = 1023             // hashes that one claim may ask of the chain
	MaxAnchors   = 16               // sessions that share a channel
	Reanchor     = 512              // ticks after which the next voucher goes out
	VoucherEvery = 10 * time.Second // and at least this often
	maxText      = 32               // bytes of a service's or a unit's name
	maxHold      = 8                // tiers in an offer
	maxVoucher   = 1 << 13          // bytes of an encoded voucher
	maxClaim     = 1 << 15          // bytes of an encoded claim
	maxTicket    = 1 << 9           // bytes of an encoded ticket
)

// Domains of the signatures.
const (
	ticketDomain  = "top/ticket/1"
	voucherDomain = "top/voucher/1"
)

// A Hold is a tier of keeping for offline recipients: a unit costs 1 + Factor
// times the price.
type Hold struct {
	Seconds uint64
	Factor  uint32
}

// An Offer is one service that a node sells.
type Offer struct {
	Service string     // "relay", "vpn", …
	Unit    string     // "64KiB", "1s", "message", "GiB-epoch", "record"
	Price   top.Amount // of one unit
	Window  uint32     // largest credit window, in units
	Hold    []Hold     // tiers, may be empty
}

// Put encodes the offer (docs/wire.md, "Offer").
func (o Offer) Put(e *wire.Encoder) {
	e.String(o.Service)
	e.String(o.Unit)
	e.Amount(o.Price)
	e.Uint(uint64(o.Window))
	e.Uint(uint64(len(o.Hold)))
	for _, h := range o.Hold {
		e.Uint(h.Seconds)
		e.Uint(uint64(h.Factor))
	}
}

// Get decodes an offer in place.
func (o *Offer) Get(d *wire.Decoder) {
	o.Service, o.Unit = word(d), word(d)
	o.Price, o.Window = d.Amount(), d.Uint32()
	o.Hold = nil
	for range d.Count(maxHold, 2) {
		o.Hold = append(o.Hold, Hold{d.Uint(), d.Uint32()})
	}
}

// usable refuses an offer that no session can run on.
func (o Offer) usable() error {
	switch {
	case !IsWord(o.Service) || !IsWord(o.Unit):
		return fmt.Errorf("offer %q in units of %q: want names of 1 to %d letters, digits, - or .: %w", o.Service, o.Unit, maxText, top.ErrInvalid)
	case o.Price > maxPrice:
		return fmt.Errorf("offer of %s: %s TOP a unit are more than %s: %w", o.Service, o.Price, maxPrice, top.ErrInvalid)
	case o.Window == 0:
		return fmt.Errorf("offer of %s: a window of 0 units serves nothing: %w", o.Service, top.ErrInvalid)
	}
	return nil
}

// word reads a name of a service or a unit: 1 to 32 letters, digits, "-", ".".
func word(d *wire.Decoder) string {
	s := d.String(maxText)
	if d.Err() == nil && !IsWord(s) {
		d.Fail("name %q: want 1 to %d letters, digits, - or .", s, maxText)
	}
	return s
}

// IsWord says whether s can name a service or a unit.
func IsWord(s string) bool {
	if s == "" || len(s) > maxText {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.') {
			return false
		}
	}
	return true
}

// A Ticket begins a session: the payer proposes it, the provider countersigns.
type Ticket struct {
	Chain    top.ChainID
	Channel  top.ID
	Session  top.SessionID
	Payer    top.Address
	Node     top.NodeID
	Service  string
	Unit     string
	Price    top.Amount
	Root     top.ID // w0 of the first anchor
	N        uint32 // its length
	Expiry   uint64 // of the ticket, unix seconds
	PayerSig [64]byte
	NodeSig  [64]byte
}

// body is what both signatures cover.
func (t Ticket) body() []byte {
	var e wire.Encoder
	e.Raw(t.Channel[:])
	e.Raw(t.Session[:])
	e.Raw(t.Payer[:])
	e.Raw(t.Node[:])
	e.String(t.Service)
	e.String(t.Unit)
	e.Amount(t.Price)
	e.Raw(t.Root[:])
	e.Uint(uint64(t.N))
	e.Uint(t.Expiry)
	return e.Out()
}

// Encode is the canonical form (docs/wire.md, "Ticket").
func (t Ticket) Encode() []byte {
	e := wire.To(append([]byte(nil), t.Chain[:]...))
	e.Raw(t.body())
	e.Raw(t.PayerSig[:])
	e.Raw(t.NodeSig[:])
	return e.Out()
}

// Decode reads the canonical form and refuses every other.
func (t *Ticket) Decode(b []byte) error {
	d := wire.Decode(b, maxTicket)
	d.Fill(t.Chain[:])
	t.Channel = d.ID()
	d.Fill(t.Session[:])
	d.Fill(t.Payer[:])
	d.Fill(t.Node[:])
	t.Service, t.Unit = word(d), word(d)
	t.Price, t.Root, t.N, t.Expiry = d.Amount(), d.ID(), d.Uint32(), d.Uint()
	d.Fill(t.PayerSig[:])
	d.Fill(t.NodeSig[:])
	return d.End()
}

// Anchor is the ticket's first anchor, as the first voucher repeats it.
func (t Ticket) Anchor() Anchor { return Anchor{t.Session, t.Price, t.Root, t.N} }

// SignPayer signs as the payer; the signer must be the ticket's payer.
func (t *Ticket) SignPayer(s keys.Signer) (err error) {
	t.PayerSig, err = s.Sign(ticketDomain, t.Chain, t.body())
	return err
}

// SignNode countersigns as the provider's node.
func (t *Ticket) SignNode(s keys.Signer) (err error) {
	t.NodeSig, err = s.Sign(ticketDomain, t.Chain, t.body())
	return err
}

// Verify checks both signatures.
func (t Ticket) Verify() error {
	body := t.body()
	if !keys.Verify(t.Payer, ticketDomain, t.Chain, body, t.PayerSig) {
		return fmt.Errorf("ticket %s: the payer's signature is wrong: %w", t.Session, top.ErrDenied)
	}
	if !keys.Verify(t.Node, ticketDomain, t.Chain, body, t.NodeSig) {
		return fmt.Errorf("ticket %s: the node's signature is wrong: %w", t.Session, top.ErrDenied)
	}
	return nil
}

// VerifyPayer checks the payer's signature alone, before countersigning.
func (t Ticket) VerifyPayer() error {
	if !keys.Verify(t.Payer, ticketDomain, t.Chain, t.body(), t.PayerSig) {
		return fmt.Errorf("ticket %s: the payer's signature is wrong: %w", t.Session, top.ErrDenied)
	}
	return nil
}

// An Anchor is the root of one hash chain: a tick (i, w) on it proves i units
// when SHA-256 applied i times to w gives Root (PayWord, Rivest and Shamir 1996).
type Anchor struct {
	Session top.SessionID
	Price   top.Amount
	Root    top.ID
	N       uint32 // ticks that it can pay
}

// A Voucher is the payer's promise: Amount for all that is past, and beyond it
// what the ticks on its anchors prove and what recipients acknowledge of its
// asides. Amounts accumulate, not units, so that sessions of different prices
// share a channel.
type Voucher struct {
	Chain   top.ChainID
	Channel top.ID
	Seq     uint64
	Amount  top.Amount
	Anchors []Anchor
	Asides  []Aside // in the order of their recipients' addresses
	Sig     [64]byte
}

func (v Voucher) body() []byte {
	var e wire.Encoder
	e.Raw(v.Channel[:])
	e.Uint(v.Seq)
	e.Amount(v.Amount)
	e.Uint(uint64(len(v.Anchors)))
	for _, a := range v.Anchors {
		e.Raw(a.Session[:])
		e.Amount(a.Price)
		e.Raw(a.Root[:])
		e.Uint(uint64(a.N))
	}
	e.Uint(uint64(len(v.Asides)))
	for _, a := range v.Asides {
		e.Raw(a.Recipient[:])
		e.Amount(a.Base)
		e.Amount(a.Amount)
	}
	return e.Out()
}

// Encode is the canonical form (docs/wire.md, "Voucher").
func (v Voucher) Encode() []byte {
	e := wire.To(append([]byte(nil), v.Chain[:]...))
	e.Raw(v.body())
	e.Raw(v.Sig[:])
	return e.Out()
}

// Decode reads the canonical form and refuses every other: also more than
// MaxAnchors, more than MaxSteps in all, a session twice, an anchor of no ticks,
// more than MaxAsides, asides out of order.
func (v *Voucher) Decode(b []byte) error {
	d := wire.Decode(b, maxVoucher)
	v.get(d)
	return d.End()
}

func (v *Voucher) get(d *wire.Decoder) {
	d.Fill(v.Chain[:])
	v.Channel, v.Seq, v.Amount = d.ID(), d.Uint(), d.Amount()
	v.Anchors = nil
	for range d.Count(MaxAnchors, 50) {
		var a Anchor
		d.Fill(a.Session[:])
		a.Price, a.Root, a.N = d.Amount(), d.ID(), d.Uint32()
		v.Anchors = append(v.Anchors, a)
	}
	v.Asides = nil
	for range d.Count(MaxAsides, 34) {
		var a Aside
		d.Fill(a.Recipient[:])
		a.Base, a.Amount = d.Amount(), d.Amount()
		v.Asides = append(v.Asides, a)
	}
	d.Fill(v.Sig[:])
	if d.Err() == nil {
		if err := v.wellFormed(); err != nil {
			d.Fail("%v", err)
		}
	}
}

// wellFormed checks what a signature cannot make good.
func (v Voucher) wellFormed() error {
	steps := uint64(0)
	for i, a := range v.Anchors {
		if a.N == 0 {
			return fmt.Errorf("voucher %d: an anchor of no ticks: %w", v.Seq, top.ErrInvalid)
		}
		for _, b := range v.Anchors[:i] {
			if a.Session == b.Session {
				return fmt.Errorf("voucher %d: session %s twice: %w", v.Seq, a.Session, top.ErrInvalid)
			}
		}
		steps += uint64(a.N)
	}
	if len(v.Anchors) > MaxAnchors || steps > MaxSteps {
		return fmt.Errorf("voucher %d: %d anchors of %d ticks, limits %d and %d: %w", v.Seq, len(v.Anchors), steps, MaxAnchors, MaxSteps, top.ErrInvalid)
	}
	return v.asidesFormed()
}

// Sign signs as the payer.
func (v *Voucher) Sign(s keys.Signer) (err error) {
	v.Sig, err = s.Sign(voucherDomain, v.Chain, v.body())
	return err
}

// Verify checks the form and the payer's signature.
func (v Voucher) Verify(payer top.Address) error {
	if err := v.wellFormed(); err != nil {
		return err
	}
	if !keys.Verify(payer, voucherDomain, v.Chain, v.body(), v.Sig) {
		return fmt.Errorf("voucher %d of channel %s: not signed by %s for this chain: %w", v.Seq, v.Channel.Short(), payer, top.ErrDenied)
	}
	return nil
}

// Exposure is the most that the voucher can cost its payer: the amount, every
// tick of every anchor, and all that is set aside.
func (v Voucher) Exposure() (top.Amount, error) {
	sum := v.Amount
	for _, a := range v.Anchors {
		var err error
		if sum, err = addUnits(sum, a.Price, uint64(a.N)); err != nil {
			return 0, err
		}
	}
	for _, a := range v.Asides {
		var err error
		if sum, err = addUnits(sum, a.Amount-a.Base, 1); err != nil {
			return 0, err
		}
	}
	return sum, nil
}

func addUnits(sum, price top.Amount, units uint64) (top.Amount, error) {
	cost, ok1 := price.Mul(units)
	sum, ok2 := sum.Add(cost)
	if !ok1 || !ok2 || sum > top.MaxSupply {
		return 0, fmt.Errorf("%d units at %s TOP: more than there can ever be: %w", units, price, top.ErrInvalid)
	}
	return sum, nil
}

// Anchor is the voucher's anchor of a session.
func (v Voucher) Anchor(s top.SessionID) (Anchor, bool) {
	for _, a := range v.Anchors {
		if a.Session == s {
			return a, true
		}
	}
	return Anchor{}, false
}

// unticked is a claim on the voucher alone.
func (v Voucher) unticked() Claim {
	c := Claim{Voucher: v, Ticks: make([]Tick, len(v.Anchors))}
	for j, a := range v.Anchors {
		c.Ticks[j].Session = a.Session
	}
	return c
}

// A Tick says that I units of a session were served. It needs no signature: W
// hashes back to the anchor's root.
type Tick struct {
	Session top.SessionID
	I       uint32
	W       top.ID
}

// Encode is the canonical form (docs/wire.md, "Tick").
func (t Tick) Encode() []byte {
	var e wire.Encoder
	e.Raw(t.Session[:])
	e.Uint(uint64(t.I))
	e.Raw(t.W[:])
	return e.Out()
}

// Decode reads the canonical form and refuses every other.
func (t *Tick) Decode(b []byte) error {
	d := wire.Decode(b, 64)
	d.Fill(t.Session[:])
	t.I, t.W = d.Uint32(), d.ID()
	return d.End()
}

// Put encodes the claim (docs/wire.md, "Claim").
func (c Claim) Put(e *wire.Encoder) {
	e.Bytes(c.Voucher.Encode())
	for _, t := range c.Ticks {
		e.Uint(uint64(t.I))
		if t.I > 0 {
			e.Raw(t.W[:])
		}
	}
	e.Uint(uint64(len(c.Acks)))
	for _, a := range c.Acks {
		e.Bytes(a.Encode())
	}
}

// Get decodes a claim in place.
func (c *Claim) Get(d *wire.Decoder) {
	if err := c.Voucher.Decode(d.Bytes(maxVoucher)); err != nil {
		d.Fail("%v", err)
		return
	}
	c.Ticks = nil
	for _, a := range c.Voucher.Anchors {
		t := Tick{Session: a.Session, I: d.Uint32()}
		if t.I > 0 {
			t.W = d.ID()
		}
		c.Ticks = append(c.Ticks, t)
	}
	c.Acks = nil
	for range d.Count(MaxAsides, 100) {
		var a Ack
		if err := a.Decode(d.Bytes(MaxAck)); err != nil {
			d.Fail("%v", err)
			return
		}
		c.Acks = append(c.Acks, a)
	}
}

// Encode is the canonical form.
func (c Claim) Encode() []byte {
	var e wire.Encoder
	c.Put(&e)
	return e.Out()
}

// Decode reads the canonical form and refuses every other.
func (c *Claim) Decode(b []byte) error {
	d := wire.Decode(b, maxClaim)
	c.Get(d)
	return d.End()
}

// Verify checks the voucher's signature and those of every acknowledgement, for
// a time in unix seconds at which the devices' certificates must hold; 0 asks for
// no time. It does not check the ticks.
func (c Claim) Verify(payer top.Address, now uint64) error {
	if err := c.Voucher.Verify(payer); err != nil {
		return err
	}
	for _, a := range c.Acks {
		if err := a.Verify(c.Voucher.Chain, now); err != nil {
			return err
		}
	}
	return nil
}
