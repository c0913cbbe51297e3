package top

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// Amount is money in whole nano: 1 TOP is 10^9 nano. It is never a float. In
// records it is a decimal string of nano; people, CSV and flags write TOP with
// at most 9 decimals.
type Amount uint64

// One is 1 TOP.
const One Amount = 1_000_000_000

// MaxSupply bounds all the money of a network: below 10^10 TOP, so that a sum
// over all accounts always fits an Amount.
const MaxSupply = 10_000_000_000*One - 1

const decimals = 9

// ParseAmount reads TOP as people write it: "1", "0.25", "3.000000001". It
// refuses signs, exponents, a bare point and more than 9 decimals.
func ParseAmount(s string) (Amount, error) {
	whole, frac, point := strings.Cut(s, ".")
	if whole == "" || (point && frac == "") || !digits(whole) || !digits(frac) {
		return 0, fmt.Errorf("amount %q: want TOP as in 1.25: %w", s, ErrInvalid)
	}
	if len(frac) > decimals {
		return 0, fmt.Errorf("amount %q: finer than one nano (9 decimals): %w", s, ErrInvalid)
	}
	nano, err := strconv.ParseUint(whole+frac+strings.Repeat("0", decimals-len(frac)), 10, 64)
	if err != nil || Amount(nano) > MaxSupply {
		return 0, fmt.Errorf("amount %q: more than there can ever be: %w", s, ErrInvalid)
	}
	return Amount(nano), nil
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// String is the amount in TOP without trailing zeros: "1.25".
func (a Amount) String() string {
	s := strconv.FormatUint(uint64(a/One), 10)
	if f := uint64(a % One); f != 0 {
		s += "." + strings.TrimRight(fmt.Sprintf("%09d", f), "0")
	}
	return s
}

// MarshalText writes whole nano, the form of records.
func (a Amount) MarshalText() ([]byte, error) { return strconv.AppendUint(nil, uint64(a), 10), nil }

// UnmarshalText reads whole nano, the form of records.
func (a *Amount) UnmarshalText(b []byte) error {
	n, err := parseCount(string(b))
	*a = Amount(n)
	return err
}

// Add is a + b; ok is false when it would pass 2^64-1.
func (a Amount) Add(b Amount) (sum Amount, ok bool) {
	s, carry := bits.Add64(uint64(a), uint64(b), 0)
	return Amount(s), carry == 0
}

// Sub is a - b; ok is false when b is more than a.
func (a Amount) Sub(b Amount) (rest Amount, ok bool) {
	d, borrow := bits.Sub64(uint64(a), uint64(b), 0)
	return Amount(d), borrow == 0
}

// Mul is a × n; ok is false when it would pass 2^64-1.
func (a Amount) Mul(n uint64) (product Amount, ok bool) {
	hi, lo := bits.Mul64(uint64(a), n)
	return Amount(lo), hi == 0
}

// Share is a × num / den rounded down, in the payer's favour: the one place
// where money is rounded. It needs num <= den and den > 0 and panics otherwise
// (T1).
func (a Amount) Share(num, den uint64) Amount {
	if den == 0 || num > den {
		panic("top: T1: share above one")
	}
	hi, lo := bits.Mul64(uint64(a), num)
	q, _ := bits.Div64(hi, lo, den)
	return Amount(q)
}
