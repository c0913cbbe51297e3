package session

import (
	"bytes"
	"fmt"

	"top/lib/keys"
	"top/lib/top"
	"top/lib/wire"
)

// Limits of delivery (docs/economy.md, "Messages").
const (
	MaxAsides = 64  // recipients in a voucher, and acknowledgements in a claim
	MaxAck    = 512 // bytes of an encoded acknowledgement
)

const (
	ackDomain  = "top/ack/1"
	rootDomain = "top/ack/root/1"
	deviceRole = "device"
)

// An Aside is what a voucher promises for messages to one recipient. They lie one
// after the other on a line of nano, each as long as its price: up to Base the
// voucher's own amount has settled them, and of what lies between Base and Amount
// the recipient's acknowledgements say what is owed.
type Aside struct {
	Recipient top.Address
	Base      top.Amount
	Amount    top.Amount
}

// asidesFormed checks what a signature cannot make good.
func (v Voucher) asidesFormed() error {
	if len(v.Asides) > MaxAsides {
		return fmt.Errorf("voucher %d: %d asides, at most %d: %w", v.Seq, len(v.Asides), MaxAsides, top.ErrInvalid)
	}
	for i, a := range v.Asides {
		if a.Base > a.Amount {
			return fmt.Errorf("voucher %d: an aside from %s to %s TOP: %w", v.Seq, a.Base, a.Amount, top.ErrInvalid)
		}
		if i > 0 && bytes.Compare(v.Asides[i-1].Recipient[:], a.Recipient[:]) >= 0 {
			return fmt.Errorf("voucher %d: asides out of order: %w", v.Seq, top.ErrInvalid)
		}
	}
	return nil
}

// Aside is what the voucher sets aside for a recipient; zero when nothing.
func (v Voucher) Aside(recipient top.Address) Aside {
	for _, a := range v.Asides {
		if a.Recipient == recipient {
			return a
		}
	}
	return Aside{Recipient: recipient}
}

// An Ack says that a recipient has every message that lies on its line of a
// channel from From to To: a range without a hole. It is cumulative: a later one
// of the same device has the same From until something is missing. The recipient
// alone can sign it, by a device that its account certified.
type Ack struct {
	Channel top.ID
	From    top.Amount
	To      top.Amount
	Count   uint64 // envelopes in the range
	Root    top.ID // of their ids, by Extend
	Cert    keys.Certificate
	Sig     [64]byte // of the device
}

// Recipient is whose acknowledgement it is.
func (a Ack) Recipient() top.Address { return a.Cert.Account }

func (a Ack) body() []byte {
	var e wire.Encoder
	e.Raw(a.Cert.Account[:])
	e.Raw(a.Channel[:])
	e.Amount(a.From)
	e.Amount(a.To)
	e.Uint(a.Count)
	e.Raw(a.Root[:])
	return e.Out()
}

// Encode is the canonical form (docs/wire.md, "Acknowledgement").
func (a Ack) Encode() []byte {
	var e wire.Encoder
	a.Cert.Put(&e)
	e.Raw(a.body()[len(a.Cert.Account):])
	e.Raw(a.Sig[:])
	return e.Out()
}

// Decode reads the canonical form and refuses every other.
func (a *Ack) Decode(b []byte) error {
	d := wire.Decode(b, MaxAck)
	a.Cert.Get(d)
	a.Channel = d.ID()
	a.From, a.To, a.Count = d.Amount(), d.Amount(), d.Uint()
	a.Root = d.ID()
	d.Fill(a.Sig[:])
	if d.Err() == nil && a.From > a.To {
		d.Fail("acknowledgement from %s to %s TOP", a.From, a.To)
	}
	return d.End()
}

// Sign signs as the device of Cert.
func (a *Ack) Sign(s keys.Signer) (err error) {
	if s.Public() != a.Cert.Key {
		return fmt.Errorf("acknowledgement: signed by another device than its certificate names: %w", top.ErrDenied)
	}
	a.Sig, err = s.Sign(ackDomain, a.Cert.Chain, a.body())
	return err
}

// Verify checks the device's certificate and its signature, for a time in unix
// seconds; 0 asks for no time.
func (a Ack) Verify(chain top.ChainID, now uint64) error {
	if err := a.Cert.Verify(chain, deviceRole, now); err != nil {
		return fmt.Errorf("acknowledgement on channel %s: %w", a.Channel.Short(), err)
	}
	if !keys.Verify(a.Cert.Key, ackDomain, chain, a.body(), a.Sig) {
		return fmt.Errorf("acknowledgement on channel %s: not signed by a device of %s: %w", a.Channel.Short(), a.Cert.Account, top.ErrDenied)
	}
	return nil
}

// Extend is the root of a range of ids with one more; that of none is zero.
func Extend(root, id top.ID) top.ID { return wire.Digest(rootDomain, root[:], id[:]) }

// Delivered is what the claim's acknowledgements prove: the length of their
// union, on every line between the aside's base and its amount. It checks no
// signature.
func (c Claim) Delivered() (sum top.Amount, err error) {
	v := &c.Voucher
	if len(c.Acks) > MaxAsides {
		return 0, fmt.Errorf("claim: %d acknowledgements, at most %d: %w", len(c.Acks), MaxAsides, top.ErrInvalid)
	}
	next := 0 // of c.Acks
	for _, aside := range v.Asides {
		at, last := aside.Base, top.Amount(0)
		for first := true; next < len(c.Acks) && c.Acks[next].Recipient() == aside.Recipient; next++ {
			a := &c.Acks[next]
			switch {
			case a.Channel != v.Channel:
				return 0, fmt.Errorf("claim: an acknowledgement on channel %s, not %s: %w", a.Channel.Short(), v.Channel.Short(), top.ErrDenied)
			case a.From > a.To || !first && a.From < last:
				return 0, fmt.Errorf("claim: acknowledgements out of order: %w", top.ErrInvalid)
			}
			first, last = false, a.From
			from, to := max(a.From, at), min(a.To, aside.Amount)
			if to > from {
				if sum, err = addUnits(sum, to-from, 1); err != nil {
					return 0, err
				}
				at = to
			}
		}
	}
	if next < len(c.Acks) {
		return 0, fmt.Errorf("claim: an acknowledgement of %s, for whom nothing is set aside, or out of order: %w", c.Acks[next].Recipient(), top.ErrInvalid)
	}
	return sum, nil
}
