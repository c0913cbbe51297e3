package edwards

import (
	"encoding/binary"
	"math/bits"
)

// A Scalar is a number of 256 bits, its low word first. What multiplies a point is
// below 2^253.
type Scalar [4]uint64

// The order of the base point is l = 2^252 + order; order has two words (RFC 8032, 5.1).
const (
	order0 = 0x5812631a5cf5d3ed
	order1 = 0x14def9dea2f79cd6
)

// Read sets k to an encoded number and says whether it is below l, as the s of a
// signature must be.
func (k *Scalar) Read(b []byte) bool {
	for i := range k {
		k[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	_, borrow := bits.Sub64(k[0], order0, 0)
	_, borrow = bits.Sub64(k[1], order1, borrow)
	_, borrow = bits.Sub64(k[2], 0, borrow)
	_, borrow = bits.Sub64(k[3], 1<<60, borrow)
	return borrow == 1
}

// A Wide is a sum of products that is not yet taken modulo l: it has room for 2^64
// products of 128 and 512 bits.
type Wide [11]uint64

// AddProduct adds z x; x is a number of words, eight at most, the low one first.
func (w *Wide) AddProduct(z [2]uint64, x []uint64) {
	for i, f := range z {
		var over, c uint64
		for j, y := range x {
			high, low := bits.Mul64(f, y)
			low, c = bits.Add64(low, over, 0)
			over = high + c
			w[i+j], c = bits.Add64(w[i+j], low, 0)
			over += c // at most 2^64 - 1: (2^64-1)² + 2(2^64-1) = 2^128 - 1
		}
		for j := i + len(x); over > 0 && j < len(w); j++ {
			w[j], over = bits.Add64(w[j], over, 0)
		}
	}
}

// Reduced is the sum modulo l.
func (w *Wide) Reduced() Scalar {
	r := Scalar{w[8], w[9], w[10], 0}
	for i := 7; i >= 0; i-- {
		r = step(r, w[i])
	}
	return r
}

// step is (2^64 r + w) modulo l, for r below l. The quotient is guessed from the bits
// above 2^252, so it is too large by one at most; it fits a word since r < l, except
// where the guess is 2^64, and then 2^64 - 1 is right.
func step(r Scalar, w uint64) Scalar {
	q := r[3]<<4 | r[2]>>60
	if r[3]>>60 > 0 {
		q = 1<<64 - 1
	}
	n := Scalar{w, r[0], r[1], r[2] - q<<60} // less q 2^252
	h0, m0 := bits.Mul64(q, order0)
	h1, m1 := bits.Mul64(q, order1)
	m1, c := bits.Add64(m1, h0, 0)
	h1 += c
	n[0], c = bits.Sub64(n[0], m0, 0)
	n[1], c = bits.Sub64(n[1], m1, c)
	n[2], c = bits.Sub64(n[2], h1, c)
	n[3], c = bits.Sub64(n[3], 0, c)
	if c > 0 {
		n[0], c = bits.Add64(n[0], order0, 0)
		n[1], c = bits.Add64(n[1], order1, c)
		n[2], c = bits.Add64(n[2], 0, c)
		n[3] += 1<<60 + c
	}
	return n
}

// Negative is l - k for k below l, and 0 for 0.
func (k *Scalar) Negative() Scalar {
	if *k == (Scalar{}) {
		return *k
	}
	var n Scalar
	var c uint64
	n[0], c = bits.Sub64(order0, k[0], 0)
	n[1], c = bits.Sub64(order1, k[1], c)
	n[2], c = bits.Sub64(0, k[2], c)
	n[3] = 1<<60 - k[3] - c
	return n
}

// digits writes k as the sum of d[w] 2^(cw), each digit at least -2^(c-1) and below
// 2^(c-1), but the last may be as much. Half of a window's range is added to every window
// but the last and taken from every digit, so no digit waits for a carry.
func (k *Scalar) digits(d *[64]int8, c int) {
	half := uint64(1) << (c - 1)
	n := [5]uint64{k[0], k[1], k[2], k[3], 0}
	var carry uint64
	for i, w := range halves[c-4] {
		n[i], carry = bits.Add64(n[i], w, carry)
	}
	last := 253 / c
	for w := range last {
		at := w * c
		v := n[at>>6&3]>>(at&63) | n[at>>6&3+1]<<1<<(63-at&63)
		d[w&63] = int8(v&(2*half-1) - half)
	}
	d[last] = int8(n[3] >> (last*c - 192))
}

// halves[c-4] is the sum of 2^(c-1) 2^(cw) for all windows but the last, w < 253/c.
var halves = [5]Scalar{
	{0x8888888888888888, 0x8888888888888888, 0x8888888888888888, 0x888888888888888},
	{0x842108421084210, 0x1084210842108421, 0x2108421084210842, 0x210842108421084},
	{0x820820820820820, 0x2082082082082082, 0x8208208208208208, 0x820820820820820},
	{0x4081020408102040, 0x2040810204081020, 0x1020408102040810, 0x810204081020408},
	{0x8080808080808080, 0x8080808080808080, 0x8080808080808080, 0x80808080808080},
}
