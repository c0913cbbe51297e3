// Package receipt is the proof of a paid service: the ticket that began the
// session, the last claim on its channel, and the digest of the provider's log
// of what was served, signed by the provider's node. Whoever holds one can check
// it alone, with no chain and no daemon.
//
// It is not for money (lib/ledger pays a claim) nor for sums over receipts
// (lib/billing).
//
//	R1  a receipt holds only if the payer and the node signed its ticket, the
//	    payer its voucher, the recipients their acknowledgements and the node the
//	    whole, all for one chain and channel
//	R2  what the log says was served, the payer promised: at least the ticks of
//	    the session's live anchor, at most those, the voucher's settled amount
//	    and what recipients acknowledged
//	R3  units, price and service are the ticket's; the log's sum is whole units
//	R4  a receipt, a log and a proof have one encoding each
//	R5  a record is believed by its receipt bytes alone, and refused when any
//	    field that it shows differs from them
//	R6  every node of the log's tree binds the sum and the count of each of its
//	    halves: no leaf can be left out, made smaller, counted twice or negative
//	R7  the log needs memory for one node per doubling, and has the root of the
//	    whole tree
//	R8  units that the consumer did not acknowledge are told apart under the node's
//	    signature, are among those paid, and become no fewer
//
// A log belongs to one session. Its entries are appended as units are paid, each
// with the price of the units that it records, so that its sum is what the
// session cost so far. What an entry holds is up to the service.
//
// It reads no clock: whether a ticket had expired is for who knows the time. The
// bytes are in docs/wire.md, "Receipt".
package receipt

import (
	"bytes"
	"cmp"
	"fmt"

	"top/lib/keys"
	"top/lib/session"
	"top/lib/top"
	"top/lib/wire"
)

const (
	domain     = "top/receipt/1"    // of the node's signature
	idDomain   = "top/receipt/id/1" // of the receipt's name
	maxReceipt = 1 << 16            // bytes of an encoded receipt
)

// A Receipt is a session's proof of service.
type Receipt struct {
	Ticket   session.Ticket // what was agreed, signed by both ends
	Claim    session.Claim  // what the payer promised last for the channel, and the ticks that prove it
	LogRoot  top.ID         // of the tree over the session's log; zero when it is empty
	LogSum   top.Amount     // what the session cost, nano
	LogCount uint64         // entries in the log
	// Unverified is how many of the units are the node's own count: the consumer paid
	// for them and acknowledged nothing, as a stock WireGuard client does.
	Unverified uint64
	Sig        [64]byte // the node's
}

// body is what the node signs.
func (r Receipt) body() []byte {
	var e wire.Encoder
	e.Bytes(r.Ticket.Encode())
	r.Claim.Put(&e)
	e.Raw(r.LogRoot[:])
	e.Amount(r.LogSum)
	e.Uint(r.LogCount)
	if r.Unverified > 0 {
		e.Uint(r.Unverified)
	}
	return e.Out()
}

// Encode is the canonical form (docs/wire.md, "Receipt").
func (r Receipt) Encode() []byte { return append(r.body(), r.Sig[:]...) }

// Decode reads the canonical form and refuses every other. It verifies nothing.
func (r *Receipt) Decode(b []byte) error {
	d := wire.Decode(b, maxReceipt)
	ticket := d.Bytes(maxReceipt)
	if d.Err() == nil {
		if err := r.Ticket.Decode(ticket); err != nil {
			return fmt.Errorf("receipt: ticket: %w", err)
		}
	}
	r.Claim.Get(d)
	r.LogRoot, r.LogSum, r.LogCount = d.ID(), d.Amount(), d.Uint()
	if r.Unverified = 0; d.Len() > len(r.Sig) {
		if r.Unverified = d.Uint(); r.Unverified == 0 {
			d.Fail("receipt: nothing unverified is left out, not written")
		}
	}
	d.Fill(r.Sig[:])
	if err := d.End(); err != nil {
		return fmt.Errorf("receipt: %w", err)
	}
	return nil
}

// ID names the receipt: a digest of its encoding.
func (r Receipt) ID() top.ID { return wire.Digest(idDomain, r.Encode()) }

// Sign signs as the ticket's node.
func (r *Receipt) Sign(s keys.Signer) (err error) {
	if s.Public() != r.Ticket.Node {
		return fmt.Errorf("receipt of session %s: signed by node %s, not by %s: %w", r.Ticket.Session, r.Ticket.Node, top.NodeID(s.Public()), top.ErrDenied)
	}
	r.Sig, err = s.Sign(domain, r.Ticket.Chain, r.body())
	return err
}

// Units is how many units the session was paid for. A service without a price
// has no sum to count by: its units are the ticks of its live anchor.
func (r Receipt) Units() uint64 {
	if r.Ticket.Price == 0 {
		i, _ := r.live()
		return uint64(i)
	}
	return uint64(r.LogSum / r.Ticket.Price)
}

// Verify checks everything that the receipt says (R1, R2, R3). An error of kind
// Denied says which part does not hold.
func (r Receipt) Verify() error {
	t, v := &r.Ticket, &r.Claim.Voucher
	if v.Chain != t.Chain || v.Channel != t.Channel {
		return r.deny("its ticket is for channel %s of chain %s and its voucher for channel %s of chain %s", t.Channel.Short(), t.Chain, v.Channel.Short(), v.Chain)
	}
	if !session.IsWord(t.Service) || !session.IsWord(t.Unit) {
		return fmt.Errorf("receipt of session %s: service %q, unit %q: not names: %w", t.Session, t.Service, t.Unit, top.ErrInvalid)
	}
	if err := r.covered(); err != nil {
		return err
	}
	if err := t.Verify(); err != nil {
		return fmt.Errorf("receipt: %w", err)
	}
	if err := r.Claim.Verify(t.Payer, 0); err != nil {
		return fmt.Errorf("receipt of session %s: %w", t.Session, err)
	}
	if !keys.Verify(t.Node, domain, t.Chain, r.body(), r.Sig) {
		return r.deny("its node %s did not sign it as it is", t.Node)
	}
	return nil
}

// covered checks the claim's ticks, and the log's sum against them (R2, R3).
func (r Receipt) covered() error {
	if _, err := r.Claim.Owed(); err != nil {
		return fmt.Errorf("receipt of session %s: %w", r.Ticket.Session, err)
	}
	price := r.Ticket.Price
	if a, ok := r.Claim.Voucher.Anchor(r.Ticket.Session); ok && a.Price != price {
		return r.deny("its voucher prices a unit at %s TOP and its ticket at %s", a.Price, price)
	}
	ticks, _ := r.live()
	least, ok1 := price.Mul(uint64(ticks))
	delivered, err := r.Claim.Delivered()
	if err != nil {
		return fmt.Errorf("receipt of session %s: %w", r.Ticket.Session, err)
	}
	most, ok2 := r.Claim.Voucher.Amount.Add(least)
	most, ok3 := most.Add(delivered)
	switch {
	case !ok1 || !ok2 || !ok3:
		return r.deny("%d ticks at %s TOP: more than there can ever be", ticks, price)
	case r.LogSum < least:
		return r.deny("its log sums to %s TOP and its ticks prove %s", r.LogSum, least)
	case r.LogSum > most:
		return r.deny("its log sums to %s TOP and its claim covers at most %s", r.LogSum, most)
	case price == 0 && r.LogSum != 0, price != 0 && r.LogSum%price != 0:
		return r.deny("its log sums to %s TOP, not a number of units at %s", r.LogSum, price)
	case r.Unverified > r.Units():
		return r.deny("%d units are unverified, of %d", r.Unverified, r.Units())
	case r.LogCount == 0 && (r.LogSum != 0 || !r.LogRoot.IsZero()), r.LogCount != 0 && r.LogRoot.IsZero():
		return r.deny("its log of %d entries has root %s and sums to %s TOP", r.LogCount, r.LogRoot.Short(), r.LogSum)
	}
	return nil
}

// live is the tick on the session's anchor; false when the session is settled,
// that is in the voucher's amount with no anchor left.
func (r Receipt) live() (uint32, bool) {
	for i, a := range r.Claim.Voucher.Anchors {
		if a.Session == r.Ticket.Session && i < len(r.Claim.Ticks) {
			return r.Claim.Ticks[i].I, true
		}
	}
	return 0, false
}

func (r Receipt) deny(format string, args ...any) error {
	return fmt.Errorf("receipt of session %s: %s: %w", r.Ticket.Session, fmt.Sprintf(format, args...), top.ErrDenied)
}

// Compare orders the receipts of one session by age: by the log's length, the
// voucher's number, the log's sum, the ticks, what is unverified; and by their bytes, so that 0 means
// the same receipt.
func (r Receipt) Compare(o Receipt) int {
	ri, _ := r.live()
	oi, _ := o.live()
	return cmp.Or(
		cmp.Compare(r.LogCount, o.LogCount),
		cmp.Compare(r.Claim.Voucher.Seq, o.Claim.Voucher.Seq),
		cmp.Compare(r.LogSum, o.LogSum),
		cmp.Compare(ri, oi),
		cmp.Compare(r.Unverified, o.Unverified),
		bytes.Compare(r.Encode(), o.Encode()),
	)
}

// Contradicts says whether two receipts, both verified, prove that their node
// kept two logs of one session: a longer log with a smaller sum or less of it
// unverified, or two logs of one length.
func (r Receipt) Contradicts(o Receipt) bool {
	t, u := &r.Ticket, &o.Ticket
	if t.Chain != u.Chain || t.Channel != u.Channel || t.Session != u.Session || t.Payer != u.Payer || t.Node != u.Node {
		return false
	}
	if r.LogCount == o.LogCount {
		return r.LogRoot != o.LogRoot || r.LogSum != o.LogSum || r.Unverified != o.Unverified
	}
	if r.Unverified != o.Unverified && (r.LogCount < o.LogCount) == (r.Unverified > o.Unverified) {
		return true
	}
	return r.LogSum != o.LogSum && (r.LogCount < o.LogCount) == (r.LogSum > o.LogSum)
}

// CheckEntry verifies that an entry is in the receipt's log, and gives what the
// entries before it sum to: the entry holds the nano from there on, so that a
// random nano of the sum names one entry, weighted by amount. The receipt itself
// must have been verified.
func (r Receipt) CheckEntry(p Proof) (start top.Amount, err error) {
	return p.Verify(r.LogRoot, r.LogSum, r.LogCount)
}
