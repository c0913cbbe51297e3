package keys

import (
	"crypto/sha512"
	"io"

	"github.com/oasisprotocol/curve25519-voi/curve"
	"github.com/oasisprotocol/curve25519-voi/curve/scalar"
)

// oneByOne judges by curve25519-voi, which reads one point at a time.
type oneByOne struct {
	ring  *Ring
	items []item
	hash  []byte // scratch
}

type item struct {
	a  *curve.EdwardsPoint // the key; nil when it is none
	r  curve.EdwardsPoint
	s  scalar.Scalar
	k  scalar.Scalar // SHA-512(R, A, msg)
	ok bool          // it may be good: it could be read
}

func (b *oneByOne) add(pub [32]byte, msg []byte, sig [64]byte) {
	b.items = append(b.items, item{})
	i := &b.items[len(b.items)-1]
	if i.a = b.ring.point(pub); i.a == nil || !scalar.ScMinimalVartime(sig[32:]) {
		return
	}
	if _, err := i.s.SetBits(sig[32:]); err != nil {
		return
	}
	var y curve.CompressedEdwardsY
	copy(y[:], sig[:32])
	if _, err := i.r.SetCompressedY(&y); err != nil {
		return
	}
	b.hash = append(append(append(b.hash[:0], sig[:32]...), pub[:]...), msg...)
	sum := sha512.Sum512(b.hash)
	_, err := i.k.SetBytesModOrderWide(sum[:])
	i.ok = err == nil
}

func (b *oneByOne) prepare() {} // add reads

// good says whether [-Σ z·s]B + Σ [z]R + Σ [Σ z·k]A, the inner sum over the
// signatures of one key, is of small order.
func (b *oneByOne) good(from, to int, rand io.Reader) bool {
	items := b.items[from:to]
	for i := range items {
		if !items[i].ok {
			return false
		}
	}
	random := draw(rand, 16*len(items))
	store := make([]scalar.Scalar, 1, 1+2*len(items))
	points := make([]*curve.EdwardsPoint, 1, 1+2*len(items))
	points[0] = curve.ED25519_BASEPOINT_POINT
	at := make(map[*curve.EdwardsPoint]int, len(items))
	var z, p scalar.Scalar
	var bits [32]byte
	for i := range items {
		it := &items[i]
		copy(bits[:16], random[16*i:])
		bits[0] |= 1 // never zero; 127 bits of chance are left
		if _, err := z.SetBits(bits[:]); err != nil {
			return false
		}
		store[0].Add(&store[0], p.Mul(&z, &it.s))
		store = append(store, z)
		points = append(points, &it.r)
		p.Mul(&z, &it.k)
		if n, ok := at[it.a]; ok {
			store[n].Add(&store[n], &p)
			continue
		}
		at[it.a] = len(store)
		store = append(store, p)
		points = append(points, it.a)
	}
	store[0].Neg(&store[0])
	scalars := make([]*scalar.Scalar, len(store))
	for i := range store {
		scalars[i] = &store[i]
	}
	var sum curve.EdwardsPoint
	return sum.MultiscalarMulVartime(scalars, points).IsSmallOrder()
}

func (b *oneByOne) few() int { return 8 }

func (b *oneByOne) each(start int, each []bool, rand io.Reader) {
	for i := range each {
		each[i] = b.good(start+i, start+i+1, rand)
	}
}

// point is a key as a point; nil when it is none. The same key is the same pointer
// as long as the ring keeps it.
func (r *Ring) point(pub [32]byte) *curve.EdwardsPoint {
	if r == nil {
		return decompress(pub)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.getLocked(pub)
	if k.point == nil {
		if k.point = decompress(pub); k.point != nil {
			r.putLocked(pub, k)
		}
	}
	return k.point
}

func decompress(pub [32]byte) *curve.EdwardsPoint {
	y := curve.CompressedEdwardsY(pub)
	p, err := new(curve.EdwardsPoint).SetCompressedY(&y)
	if err != nil {
		return nil
	}
	return p
}
