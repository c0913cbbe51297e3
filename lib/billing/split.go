package billing

import (
	"fmt"

	"top/lib/top"
)

// Million is the whole, in the unit of shares: parts per million.
const Million = 1_000_000

// A Share is the part of an amount that goes to somebody: a relay, an exit, the
// developer of the app.
type Share struct {
	To  top.Address
	PPM uint32 // parts per million
}

// Split divides an amount. Each part is rounded down by itself, in the payer's
// favour, and rest is what is left: what no share takes and what rounding leaves,
// fewer nano than there are shares. It stays with who divides (B6). Shares of
// more than the whole are refused; a part may be zero.
func Split(amount top.Amount, shares []Share) (parts []top.Amount, rest top.Amount, err error) {
	whole := uint64(0)
	for _, s := range shares {
		whole += uint64(s.PPM)
	}
	if whole > Million {
		return nil, 0, fmt.Errorf("split: shares of %d ppm in all, at most %d: %w", whole, Million, top.ErrInvalid)
	}
	rest = amount
	parts = make([]top.Amount, len(shares))
	for i, s := range shares {
		parts[i] = amount.Share(uint64(s.PPM), Million)
		rest -= parts[i] // the sum of parts rounded down is at most the whole
	}
	return parts, rest, nil
}
