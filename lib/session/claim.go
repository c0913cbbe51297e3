package session

import (
	"fmt"
	"io"

	"top/lib/hashchain"
	"top/lib/keys"
	"top/lib/top"
	"top/lib/wire"
)

// A Claim is what a provider shows to be paid: one voucher, the highest tick of
// each of its anchors, and what recipients acknowledged of its asides.
type Claim struct {
	Voucher Voucher
	Ticks   []Tick // in the order of Voucher.Anchors; I is 0 where there is none
	Acks    []Ack  // in the order of Voucher.Asides, and of their From
}

// Owed is what the claim proves, before the channel's cap: at most MaxSteps
// hashes. It checks no signature.
func (c Claim) Owed() (top.Amount, error) {
	owed, err := c.Sum()
	if err != nil {
		return 0, err
	}
	return owed, c.Ticked()
}

// Sum is what the claim comes to if its ticks are what they say: it checks no
// signature and hashes nothing.
func (c Claim) Sum() (top.Amount, error) {
	v := c.Voucher
	if err := v.wellFormed(); err != nil {
		return 0, err
	}
	if len(c.Ticks) != len(v.Anchors) {
		return 0, fmt.Errorf("claim: %d ticks for %d anchors: %w", len(c.Ticks), len(v.Anchors), top.ErrInvalid)
	}
	owed := v.Amount
	for i, t := range c.Ticks {
		a := v.Anchors[i]
		if t.Session != a.Session || t.I > a.N {
			return 0, fmt.Errorf("claim: tick %d of session %s is not on the anchor of %d ticks of session %s: %w", t.I, t.Session, a.N, a.Session, top.ErrDenied)
		}
		var err error
		if owed, err = addUnits(owed, a.Price, uint64(t.I)); err != nil {
			return 0, err
		}
	}
	delivered, err := c.Delivered()
	if err != nil {
		return 0, err
	}
	return addUnits(owed, delivered, 1)
}

// Ticked checks that the ticks of a claim that has a Sum hash to their anchors.
func (c Claim) Ticked() error {
	var w [MaxAnchors]top.ID
	var steps [MaxAnchors]uint32
	n := min(len(c.Ticks), MaxAnchors)
	for i, t := range c.Ticks[:n] {
		w[i], steps[i] = t.W, t.I
	}
	hashchain.Walk(w[:n], steps[:n])
	return c.ends(w[:n])
}

// ends says whether what the ticks hash to is the roots of their anchors.
func (c Claim) ends(w []top.ID) error {
	for i, t := range c.Ticks {
		if t.I > 0 && w[i] != c.Voucher.Anchors[i].Root {
			return fmt.Errorf("claim: tick %d does not hash to the anchor of session %s: %w", t.I, t.Session, top.ErrDenied)
		}
	}
	return nil
}

// Prove says of each claim, which must have a Sum, whether the payer beside it signed
// its voucher and its ticks hash to their anchors: the verdicts of Voucher.Verify and
// Ticked, of all together. It looks at no acknowledgement. ring may be nil; rand must
// be unpredictable to the payers.
func Prove(claims []*Claim, payers []top.Address, ring *keys.Ring, rand io.Reader) []bool {
	good := make([]bool, len(claims))
	var w []top.ID
	var steps []uint32
	b := keys.NewBatch(len(claims), ring)
	for i, c := range claims {
		for _, t := range c.Ticks {
			w, steps = append(w, t.W), append(steps, t.I)
		}
		v := &c.Voucher
		b.Add(payers[i], wire.Preimage(voucherDomain, v.Chain, v.body()), v.Sig)
	}
	hashchain.Walk(w, steps)
	all, each := b.Verify(rand)
	for i, c := range claims {
		n := len(c.Ticks)
		good[i] = (all || each[i]) && c.ends(w[:n]) == nil
		w = w[n:]
	}
	return good
}
