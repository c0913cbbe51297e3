package keys

import (
	"fmt"
	"io"
	"sync"

	"github.com/oasisprotocol/curve25519-voi/curve"

	"top/lib/edwards"
)

// A Batch verifies many signatures together, several times faster than one by one,
// with the same verdicts (K1). The equation is that of "Faster batch forgery
// identification" (Bernstein, Doumen, Lange, Oosterwijk, 2012) with the cofactor, as
// ZIP-215 has it; what signatures of one key share is added up before it is
// multiplied. Where the processor has the instructions lib/edwards does it, elsewhere
// curve25519-voi. It is not safe for concurrent use.
type Batch struct {
	judges
	size int
}

// judges are the two ways to judge.
type judges interface {
	add(pub [32]byte, msg []byte, sig [64]byte)
	// prepare reads what was added and not yet read.
	prepare()
	// good says whether signatures from i to before j are all good.
	good(i, j int, rand io.Reader) bool
	// few is how many are better judged one by one than halved again.
	few() int
	// each says which are good, from the signature at start on.
	each(start int, each []bool, rand io.Reader)
}

// NewBatch makes a Batch with room for n signatures. ring may be nil.
func NewBatch(n int, ring *Ring) *Batch { return newBatch(n, ring, edwards.Fast()) }

// newBatch lets a test choose the way.
func newBatch(n int, ring *Ring, inLanes bool) *Batch {
	if inLanes {
		return &Batch{judges: newLanes(n, ring)}
	}
	return &Batch{judges: &oneByOne{ring: ring, items: make([]item, 0, n)}}
}

// Add adds a signature. It keeps nothing of its arguments.
func (b *Batch) Add(pub [32]byte, msg []byte, sig [64]byte) {
	b.size++
	b.add(pub, msg, sig)
}

// Verify judges all that was added. rand must be unpredictable to who made the
// signatures; crypto/rand.Reader is. each is in the order of Add, and nil when all
// are good. An empty batch is true.
func (b *Batch) Verify(rand io.Reader) (all bool, each []bool) {
	if b.size == 0 {
		return true, nil
	}
	b.prepare()
	if b.good(0, b.size, rand) {
		return true, nil
	}
	each = make([]bool, b.size)
	b.judge(0, each, rand)
	return false, each
}

// judge finds the bad ones among len(each) that are not all good, from the one at
// start on, by halving: one among a thousand costs thrice the time of none. When the
// first half is good the other is not.
func (b *Batch) judge(start int, each []bool, rand io.Reader) {
	if len(each) <= b.few() {
		b.each(start, each, rand)
		return
	}
	half := len(each) / 2
	first := b.good(start, start+half, rand)
	if first {
		fill(each[:half])
	} else {
		b.judge(start, each[:half], rand)
	}
	if !first && b.good(start+half, start+len(each), rand) {
		fill(each[half:])
	} else {
		b.judge(start+half, each[half:], rand)
	}
}

func fill(each []bool) {
	for i := range each {
		each[i] = true
	}
}

// draw reads n random bytes.
func draw(rand io.Reader, n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(rand, b); err != nil {
		panic(fmt.Sprintf("keys: K1: no randomness: %v", err)) // crypto/rand never fails
	}
	return b
}

// A Ring keeps public keys in the form in which a batch needs them: to decompress
// one costs a third of a signature. It holds the last ringKeys used, at least, and
// twice as many at most, of about 250 bytes each; and the memory in which a batch
// calculated, 700 bytes for each signature of the largest. A nil Ring keeps none. It
// is safe for concurrent use.
type Ring struct {
	mu       sync.Mutex
	new, old map[[32]byte]ringKey
	sum      *edwards.Sum
}

// A ringKey is a key in the form of the way that asked for it first; the other is
// nil until it is asked for.
type ringKey struct {
	point *curve.EdwardsPoint
	lanes *edwards.Point
}

const ringKeys = 1 << 16

func (r *Ring) getLocked(pub [32]byte) ringKey {
	if k, ok := r.new[pub]; ok {
		return k
	}
	k, ok := r.old[pub]
	if ok {
		r.putLocked(pub, k)
	}
	return k
}

func (r *Ring) putLocked(pub [32]byte, k ringKey) {
	if r.new == nil || len(r.new) >= ringKeys {
		r.old, r.new = r.new, make(map[[32]byte]ringKey)
	}
	r.new[pub] = k
}
