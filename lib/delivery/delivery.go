// Package delivery is what is owed for messages to people who may be offline, as
// pure values: the two ends of a channel that carries them, and the recipient's
// acknowledgements. lib/session has what is signed; docs/decisions/0009-messages.md
// says why it is like this.
//
// The messages of a channel to one recipient lie one after the other on a line of
// nano, each as long as its price: a message has a Place on it.
//
//	V1  a voucher promises a place before the carrier takes its message, and at
//	    most the cap
//	V2  no nano of a line is paid twice, however many devices acknowledge it, and
//	    none that was not acknowledged
//	V3  a newer voucher owes the carrier at least what the one before did, and
//	    still promises every message that it holds
//	V4  a carrier hands over at most W beyond what is acknowledged, or one message
//	V5  a place that expired goes back to the sender, unless it turns out that it
//	    was acknowledged
//	V6  an acknowledgement covers only what its device has, without a hole
//
// It reads no clock and keeps nothing on disk: the caller gives the time and
// saves the State.
package delivery

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"top/lib/keys"
	"top/lib/session"
	"top/lib/top"
)

// Unit is the unit of the messages of an offer.
const Unit = "message"

// UnitSize is how many sealed bytes a unit pays for.
const UnitSize = 64 << 10

// Grace is how long after a message's expiry its sender takes the promise back,
// in seconds: clocks differ.
const Grace = 60

// A Place is where a message lies on the line of its recipient: from From to To.
type Place struct {
	Recipient top.Address
	From, To  top.Amount
}

// Cost is the price of a message: of each unit, one more for each factor of the
// tier in which it is held; at least a nano, for a place has a length.
func Cost(price top.Amount, units uint64, hold uint32) (top.Amount, error) {
	one, ok1 := price.Mul(1 + uint64(hold))
	all, ok2 := one.Mul(units)
	if !ok1 || !ok2 || all > top.MaxSupply {
		return 0, fmt.Errorf("%d units at %s TOP, held at %d times more: more than there can ever be: %w", units, price, hold, top.ErrInvalid)
	}
	return max(all, 1), nil
}

// union is the length of what ranges cover between base and end. They are in the
// order of From.
func union(acks []session.Ack, base, end top.Amount) (sum top.Amount) {
	for _, a := range acks {
		from, to := max(a.From, base), min(a.To, end)
		if to > from {
			sum += to - from
			base = to
		}
	}
	return sum
}

// holes is what ranges in the order of From leave out between base and end.
func holes(acks []session.Ack, base, end top.Amount) (all []Range) {
	for _, a := range acks {
		if from := min(a.From, end); from > base {
			all = append(all, Range{base, from})
		}
		base = max(base, a.To)
	}
	if base < end {
		all = append(all, Range{base, end})
	}
	return all
}

// covered is how far from base on everything is acknowledged.
func covered(acks []session.Ack, base top.Amount) top.Amount {
	for _, a := range acks {
		if a.From <= base && a.To > base {
			base = a.To
		}
	}
	return base
}

// merge puts an acknowledgement among those of its line, in the order of From,
// and drops those that say nothing that others do not, above base. It says
// whether a said anything new.
func merge(acks []session.Ack, a session.Ack, base top.Amount) ([]session.Ack, bool) {
	at := max(a.From, base)
	if a.To <= at || covered(acks, at) >= a.To {
		return acks, false
	}
	all := append(slices.Clone(acks), a)
	slices.SortStableFunc(all, func(x, y session.Ack) int {
		return cmp.Or(cmp.Compare(x.From, y.From), cmp.Compare(x.To, y.To))
	})
	return prune(all, base), true
}

// prune drops, of acknowledgements in order, those that the others cover above
// base.
func prune(acks []session.Ack, base top.Amount) []session.Ack {
	var kept []session.Ack
	for i, a := range acks {
		others := slices.Concat(kept, acks[i+1:])
		if from := max(a.From, base); a.To > from && covered(others, from) < a.To {
			kept = append(kept, a)
		}
	}
	return kept
}

func byRecipient(a, b top.Address) int { return bytes.Compare(a[:], b[:]) }

// A Reader is a recipient's side of one line: what one device has of it.
type Reader struct {
	From  top.Amount
	To    top.Amount
	Count uint64
	Root  top.ID
}

// Got notes that the device has, on its disk, the message of an id at a place. A
// hole before it begins a new range (V6). False is a message that the range
// covers already, or one before it.
func (r *Reader) Got(p Place, id top.ID) bool {
	if p.To <= r.To {
		return false
	}
	if p.From != r.To || r.Count == 0 {
		*r = Reader{From: max(p.From, r.To)}
	}
	r.To, r.Count, r.Root = p.To, r.Count+1, session.Extend(r.Root, id)
	return true
}

// Ack is the acknowledgement of all that Got noted, signed by the device of cert.
func (r Reader) Ack(channel top.ID, cert keys.Certificate, device keys.Signer) (session.Ack, error) {
	a := session.Ack{Channel: channel, From: r.From, To: r.To, Count: r.Count, Root: r.Root, Cert: cert}
	return a, a.Sign(device)
}
