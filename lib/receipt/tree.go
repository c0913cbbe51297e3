package receipt

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"top/lib/top"
	"top/lib/wire"
)

// The log's tree is a Merkle-sum tree of the shape of RFC 9162 section 2.1: the
// left half of n leaves is the largest power of two below n. A node is a digest,
// the sum of its leaves and their number; its digest covers all three of both
// halves (R6). The root of a single leaf is its digest, of none the zero ID.
const (
	leafDomain = "top/receipt/leaf/1"
	nodeDomain = "top/receipt/node/1"
	maxPath    = 64 // halves above a leaf of a tree of 2^64 leaves
	maxLog     = 64*42 + 10
	maxProof   = 64*42 + 64
)

// A Leaf is an entry of a log: what it cost, and the digest of what it says.
type Leaf struct {
	Amount top.Amount
	Entry  top.ID
}

// node is a subtree.
type node struct {
	hash  top.ID
	sum   top.Amount
	count uint64
}

func (l Leaf) node() node {
	var amount [8]byte
	binary.BigEndian.PutUint64(amount[:], uint64(l.Amount))
	return node{wire.Digest(leafDomain, amount[:], l.Entry[:]), l.Amount, 1}
}

// join is the node above two halves; false when their sum or count cannot be.
func join(l, r node) (node, bool) {
	sum, ok := l.sum.Add(r.sum)
	count, carry := bits.Add64(l.count, r.count, 0)
	if !ok || sum > top.MaxSupply || carry != 0 {
		return node{}, false
	}
	b := make([]byte, 0, 96)
	for _, n := range [2]node{l, r} {
		b = append(b, n.hash[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(n.sum))
		b = binary.BigEndian.AppendUint64(b, n.count)
	}
	return node{wire.Digest(nodeDomain, b), sum, count}, true
}

// A Log is the running digest of a session's log: one node per doubling of the
// entries (R7). The zero value is an empty log. It is not safe for concurrent use.
type Log struct {
	peaks []node // complete subtrees from the left, each smaller than the one before
	sum   top.Amount
	count uint64
}

// Append adds an entry. An entry that would make the sum more than there can
// ever be is refused and changes nothing.
func (l *Log) Append(amount top.Amount, entry top.ID) error {
	sum, ok := l.sum.Add(amount)
	if !ok || sum > top.MaxSupply || l.count == 1<<64-1 {
		return fmt.Errorf("log of %d entries and %s TOP: one of %s more: above what there can ever be: %w", l.count, l.sum, amount, top.ErrInvalid)
	}
	n := Leaf{amount, entry}.node()
	for last := len(l.peaks) - 1; last >= 0 && l.peaks[last].count == n.count; last-- {
		n = mustJoin(l.peaks[last], n)
		l.peaks = l.peaks[:last]
	}
	l.peaks = append(l.peaks, n)
	l.sum, l.count = sum, l.count+1
	return nil
}

// mustJoin joins halves of a tree whose whole sum was checked.
func mustJoin(l, r node) node {
	n, ok := join(l, r)
	if !ok {
		panic("receipt: R6: a part of the log sums to more than the log")
	}
	return n
}

// Root is the digest of the log, its sum and its length: what a receipt carries.
func (l *Log) Root() (root top.ID, sum top.Amount, count uint64) {
	return bag(l.peaks).hash, l.sum, l.count
}

// bag joins peaks from the right; of none it is the zero node.
func bag(peaks []node) node {
	if len(peaks) == 0 {
		return node{}
	}
	n := peaks[len(peaks)-1]
	for i := len(peaks) - 2; i >= 0; i-- {
		n = mustJoin(peaks[i], n)
	}
	return n
}

// Encode is the canonical form of the log's state, with which a provider goes on
// after a restart (docs/wire.md, "Log").
func (l *Log) Encode() []byte {
	var e wire.Encoder
	e.Uint(l.count)
	for _, n := range l.peaks {
		e.Raw(n.hash[:])
		e.Amount(n.sum)
	}
	return e.Out()
}

// Decode reads the canonical form and refuses every other.
func (l *Log) Decode(b []byte) error {
	d := wire.Decode(b, maxLog)
	*l = Log{count: d.Uint()}
	for left := l.count; left > 0 && d.Err() == nil; {
		n := node{count: 1 << (bits.Len64(left) - 1)}
		n.hash, n.sum = d.ID(), d.Amount()
		left -= n.count
		l.peaks = append(l.peaks, n)
		sum, ok := l.sum.Add(n.sum)
		if !ok || sum > top.MaxSupply {
			d.Fail("log: sums to more than there can ever be")
		}
		l.sum = sum
	}
	if err := d.End(); err != nil {
		*l = Log{}
		return err
	}
	return nil
}

// A Tree is a whole log, for who must show its entries.
type Tree struct {
	leaves []Leaf
	levels [][]node     // levels[h][j] is the complete subtree of leaves j<<h … (j+1)<<h
	starts []top.Amount // starts[i] is the sum of the leaves before i
	sum    top.Amount
}

// NewTree makes the tree of leaves, in order. It keeps the slice.
func NewTree(leaves []Leaf) (*Tree, error) {
	t := &Tree{leaves: leaves, starts: make([]top.Amount, len(leaves))}
	level := make([]node, len(leaves))
	for i, l := range leaves {
		sum, ok := t.sum.Add(l.Amount)
		if !ok || sum > top.MaxSupply {
			return nil, fmt.Errorf("log: entry %d of %s TOP: above what there can ever be: %w", i, l.Amount, top.ErrInvalid)
		}
		t.starts[i], t.sum, level[i] = t.sum, sum, l.node()
	}
	for len(level) > 0 {
		t.levels = append(t.levels, level)
		up := make([]node, len(level)/2)
		for i := range up {
			up[i] = mustJoin(level[2*i], level[2*i+1])
		}
		level = up
	}
	return t, nil
}

// peaks are the complete subtrees from the left, as in a Log.
func (t *Tree) peaks() (peaks []node) {
	n := uint64(len(t.leaves))
	for at := uint64(0); at < n; {
		h := bits.Len64(n-at) - 1
		peaks = append(peaks, t.levels[h][at>>h])
		at += 1 << h
	}
	return peaks
}

// Root is the digest, the sum and the number of the leaves, as of a Log.
func (t *Tree) Root() (root top.ID, sum top.Amount, count uint64) {
	return bag(t.peaks()).hash, t.sum, uint64(len(t.leaves))
}

// Prove shows leaf i.
func (t *Tree) Prove(i uint64) (Proof, error) {
	n := uint64(len(t.leaves))
	if i >= n {
		return Proof{}, fmt.Errorf("log of %d entries: there is no entry %d: %w", n, i, top.ErrNotFound)
	}
	p := Proof{Index: i, Leaf: t.leaves[i]}
	height, left, right := shape(i, n)
	for h := range height {
		p.Path = append(p.Path, t.levels[h][i>>h^1].step())
	}
	peaks := t.peaks()
	if right {
		p.Path = append(p.Path, bag(peaks[left+1:]).step())
	}
	for k := left - 1; k >= 0; k-- {
		p.Path = append(p.Path, peaks[k].step())
	}
	return p, nil
}

// Find is the index of the leaf that holds a nano of the sum, counted from 0:
// with a random nano, a leaf is found with a chance in proportion to its amount.
func (t *Tree) Find(nano top.Amount) (uint64, error) {
	if nano >= t.sum {
		return 0, fmt.Errorf("log of %s TOP: there is no nano %d: %w", t.sum, uint64(nano), top.ErrNotFound)
	}
	lo, hi := 0, len(t.leaves) // starts[lo] <= nano < starts[hi]
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; t.starts[mid] <= nano {
			lo = mid
		} else {
			hi = mid
		}
	}
	return uint64(lo), nil
}

// shape is where leaf i of n stands: the height of its peak, how many peaks are
// to the left of it, and whether there is any to the right.
func shape(i, n uint64) (height, left int, right bool) {
	for at := uint64(0); ; left++ {
		height = bits.Len64(n-at) - 1
		size := uint64(1) << height
		if i-at < size {
			return height, left, n-at > size
		}
		at += size
	}
}

// A Step is the other half beside a node on the way to the root.
type Step struct {
	Hash top.ID
	Sum  top.Amount
}

func (n node) step() Step { return Step{n.hash, n.sum} }

// A Proof shows one leaf of a log.
type Proof struct {
	Index uint64
	Leaf  Leaf
	Path  []Step // from the leaf up
}

// Verify says whether the leaf stands at its index in the log of that root, sum
// and count, and gives the sum of the leaves before it.
func (p Proof) Verify(root top.ID, sum top.Amount, count uint64) (start top.Amount, err error) {
	bad := func(why string) (top.Amount, error) {
		return 0, fmt.Errorf("entry %d of a log of %d: %s: %w", p.Index, count, why, top.ErrDenied)
	}
	if p.Index >= count {
		return bad("no such entry")
	}
	height, left, right := shape(p.Index, count)
	steps := height + left
	if right {
		steps++
	}
	if len(p.Path) != steps {
		return bad(fmt.Sprintf("a path of %d steps, want %d", len(p.Path), steps))
	}
	if p.Leaf.Amount > top.MaxSupply {
		return bad("an amount above what there can ever be")
	}
	n := p.Leaf.node()
	for i, s := range p.Path {
		other, isRight := beside(p.Index, count, n.count, height, i, right)
		half := node{s.Hash, s.Sum, other}
		ok := false
		if isRight {
			n, ok = join(n, half)
		} else {
			start += half.sum // below n.sum, which join checks
			n, ok = join(half, n)
		}
		if !ok {
			return bad("its sums pass what there can ever be")
		}
	}
	if n.hash != root || n.sum != sum { // the digest covers the count
		return bad("it does not lead to the log's root and sum")
	}
	return start, nil
}

// beside is how many leaves the other half holds at step i of the path of leaf
// index, and whether it is the right one. have is the size of our half so far.
func beside(index, count, have uint64, height, i int, right bool) (uint64, bool) {
	switch {
	case i < height: // inside the peak: both halves are complete
		return have, index>>i&1 == 0
	case i == height && right: // all that is to the right of the peak
		return count & (1<<height - 1), true
	default: // the peaks to the left, from the smallest
		rest := count - have
		return rest & -rest, false
	}
}

// Encode is the canonical form (docs/wire.md, "Proof of an entry").
func (p Proof) Encode() []byte {
	var e wire.Encoder
	e.Uint(p.Index)
	e.Amount(p.Leaf.Amount)
	e.Raw(p.Leaf.Entry[:])
	e.Uint(uint64(len(p.Path)))
	for _, s := range p.Path {
		e.Raw(s.Hash[:])
		e.Amount(s.Sum)
	}
	return e.Out()
}

// Decode reads the canonical form and refuses every other. It verifies nothing.
func (p *Proof) Decode(b []byte) error {
	d := wire.Decode(b, maxProof)
	p.Index, p.Leaf.Amount, p.Leaf.Entry, p.Path = d.Uint(), d.Amount(), d.ID(), nil
	for range d.Count(maxPath, 33) {
		p.Path = append(p.Path, Step{d.ID(), d.Amount()})
	}
	return d.End()
}
