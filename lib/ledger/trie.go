package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"sync"

	"top/lib/top"
	"top/lib/wire"
)

// Domains of the leaves.
const (
	indexDomain   = "top/leaf/index/1"
	channelDomain = "top/leaf/channel/1"
	nodeDomain    = "top/leaf/node/1"
	stakeDomain   = "top/leaf/stake/1"
)

// leafHash binds a key to its value.
func leafHash(domain string, key [32]byte, value []byte) top.ID {
	return wire.Digest(domain, key[:], value)
}

// A trie is an authenticated map from 32-byte keys: a binary crit-bit tree
// (D. J. Bernstein, "Crit-bit trees") with hashes. Its shape depends on the keys
// alone, not on the order in which they came. An inner node's hash covers the
// number of the bit at which it parts, so whoever follows a key's bits from the
// root meets one leaf, and when that is another key's, the key is absent.
type trie struct {
	leaves []trieLeaf
	inner  []trieNode
	freeL  []int32
	freeI  []int32
	top    ref
	some   bool // there is a root
}

// A ref is a child: i for inner node i, ^i for leaf i.
type ref int32

type trieLeaf struct {
	key  [32]byte
	hash top.ID
}

type trieNode struct {
	child [2]ref
	hash  top.ID
	bit   uint16
	dirty bool
}

func bitOf(key *[32]byte, n uint16) int { return int(key[n/8]>>(7-n%8)) & 1 }

// firstDiff is the first bit at which two different keys part.
func firstDiff(a, b *[32]byte) uint16 {
	for i := range a {
		if x := a[i] ^ b[i]; x != 0 {
			return uint16(i*8 + bits.LeadingZeros8(x))
		}
	}
	panic("ledger: L8: equal keys part nowhere")
}

// nearest is the leaf that key's bits lead to.
func (t *trie) nearest(key *[32]byte) int32 {
	r := t.top
	for r >= 0 {
		n := &t.inner[r]
		r = n.child[bitOf(key, n.bit)]
	}
	return int32(^r)
}

// put sets the hash of a key's leaf.
func (t *trie) put(key [32]byte, hash top.ID) {
	if !t.some {
		t.top, t.some = t.newLeaf(key, hash), true
		return
	}
	near := t.nearest(&key)
	if t.leaves[near].key == key {
		t.leaves[near].hash = hash
		t.mark(&key, 256)
		return
	}
	bit := firstDiff(&key, &t.leaves[near].key)
	leaf := t.newLeaf(key, hash)
	at := t.newInner(bit)
	// The slices may have moved: take the place only now.
	place := t.mark(&key, bit)
	side := bitOf(&key, bit)
	t.inner[at].child[side] = leaf
	t.inner[at].child[1-side] = *place
	*place = at
}

// build makes an empty trie of many keys at once, given in order and with a hash for
// each: what one put after the other makes, by a single walk along memory.
func (t *trie) build(keys [][32]byte, hashes []top.ID) {
	if len(keys) == 0 {
		return
	}
	t.leaves = make([]trieLeaf, len(keys))
	for i := range keys {
		t.leaves[i] = trieLeaf{keys[i], hashes[i]}
	}
	t.inner = make([]trieNode, 0, len(keys)-1)
	t.top, t.some = ^ref(0), true
	var spine []ref // from the root to the last leaf, by rising bits
	for i := 1; i < len(keys); i++ {
		bit := firstDiff(&keys[i-1], &keys[i])
		left := ^ref(i - 1)
		for len(spine) > 0 && t.inner[spine[len(spine)-1]].bit > bit {
			left, spine = spine[len(spine)-1], spine[:len(spine)-1]
		}
		at := ref(len(t.inner))
		t.inner = append(t.inner, trieNode{child: [2]ref{left, ^ref(i)}, bit: bit, dirty: true})
		if len(spine) > 0 {
			t.inner[spine[len(spine)-1]].child[1] = at
		} else {
			t.top = at
		}
		spine = append(spine, at)
	}
}

// mark marks the inner nodes on the way to key as changed, as long as they part
// before bit, and gives the place where the way goes on.
func (t *trie) mark(key *[32]byte, bit uint16) *ref {
	place := &t.top
	for *place >= 0 {
		n := &t.inner[*place]
		if n.bit >= bit {
			break
		}
		n.dirty = true
		place = &n.child[bitOf(key, n.bit)]
	}
	return place
}

// remove takes a key out, if it is there.
func (t *trie) remove(key [32]byte) {
	if !t.some {
		return
	}
	near := t.nearest(&key)
	if t.leaves[near].key != key {
		return
	}
	place, parent := &t.top, (*ref)(nil)
	for *place >= 0 {
		n := &t.inner[*place]
		n.dirty = true
		parent, place = place, &n.child[bitOf(&key, n.bit)]
	}
	t.freeL = append(t.freeL, near)
	t.leaves[near] = trieLeaf{}
	if parent == nil {
		t.some = false
		return
	}
	gone := *parent
	n := t.inner[gone]
	*parent = n.child[1-bitOf(&key, n.bit)]
	t.freeI = append(t.freeI, int32(gone))
}

func (t *trie) newLeaf(key [32]byte, hash top.ID) ref {
	l := trieLeaf{key, hash}
	if n := len(t.freeL); n > 0 {
		i := t.freeL[n-1]
		t.freeL = t.freeL[:n-1]
		t.leaves[i] = l
		return ref(^i)
	}
	t.leaves = append(t.leaves, l)
	return ref(^int32(len(t.leaves) - 1))
}

func (t *trie) newInner(bit uint16) ref {
	n := trieNode{bit: bit, dirty: true}
	if k := len(t.freeI); k > 0 {
		i := t.freeI[k-1]
		t.freeI = t.freeI[:k-1]
		t.inner[i] = n
		return ref(i)
	}
	t.inner = append(t.inner, n)
	return ref(len(t.inner) - 1)
}

// root hashes what changed; an empty trie is zero.
func (t *trie) root() top.ID {
	if !t.some {
		return top.ID{}
	}
	// A trie that is new as a whole is worth a second goroutine; the halves share nothing.
	if r := t.top; r >= 0 && t.inner[r].dirty && len(t.inner) > parallelTrie {
		var wg sync.WaitGroup
		wg.Go(func() { t.hash(t.inner[r].child[0]) })
		t.hash(t.inner[r].child[1])
		wg.Wait()
	}
	return t.hash(t.top)
}

// parallelTrie is the number of inner nodes above which hashing is worth a second
// goroutine. The result does not depend on it.
const parallelTrie = 1 << 14

func (t *trie) hash(r ref) top.ID {
	if r < 0 {
		return t.leaves[^r].hash
	}
	n := &t.inner[r]
	if n.dirty {
		n.hash = hashBranch(n.bit, t.hash(n.child[0]), t.hash(n.child[1]))
		n.dirty = false
	}
	return n.hash
}

func hashBranch(bit uint16, l, r top.ID) top.ID {
	var b [67]byte
	b[0] = triePrefix
	binary.BigEndian.PutUint16(b[1:], bit)
	copy(b[3:], l[:])
	copy(b[35:], r[:])
	return sha256.Sum256(b[:])
}

// A step is one inner node on the way to a leaf.
type step struct {
	bit     uint16
	sibling top.ID
}

// A triePath proves what a trie says of a key: Found is the leaf that the key's
// bits lead to. When it is another key's, the key is absent; when the trie is
// empty, Some is false.
type triePath struct {
	some  bool
	found [32]byte
	steps []step // from the root down
}

// prove makes the path of a key. The trie must be clean.
func (t *trie) prove(key [32]byte) (p triePath) {
	if !t.some {
		return p
	}
	p.some = true
	r := t.top
	for r >= 0 {
		n := &t.inner[r]
		side := bitOf(&key, n.bit)
		p.steps = append(p.steps, step{n.bit, t.hash(n.child[1-side])})
		r = n.child[side]
	}
	p.found = t.leaves[^r].key
	return p
}

// root is the root that the path leads to from a leaf's hash, for a key. It
// fails when the key's bits do not lead along the path (L8).
func (p triePath) root(key [32]byte, leaf top.ID) (top.ID, bool) {
	if !p.some {
		return top.ID{}, true
	}
	id := leaf
	for i := len(p.steps) - 1; i >= 0; i-- {
		s := p.steps[i]
		side := bitOf(&p.found, s.bit)
		if bitOf(&key, s.bit) != side {
			return top.ID{}, false
		}
		if side == 0 {
			id = hashBranch(s.bit, id, s.sibling)
		} else {
			id = hashBranch(s.bit, s.sibling, id)
		}
	}
	return id, true
}

func (p triePath) put(e *wire.Encoder) {
	e.Bool(p.some)
	if !p.some {
		return
	}
	e.Raw(p.found[:])
	e.Uint(uint64(len(p.steps)))
	for _, s := range p.steps {
		e.Uint(uint64(s.bit))
		e.Raw(s.sibling[:])
	}
}

func (p *triePath) get(d *wire.Decoder) {
	*p = triePath{some: d.Bool()}
	if !p.some {
		return
	}
	d.Fill(p.found[:])
	last := -1
	for range d.Count(256, 33) {
		bit := d.Uint()
		if bit > 255 || int(bit) <= last {
			d.Fail("bit %d after %d", bit, last)
			return
		}
		last = int(bit)
		p.steps = append(p.steps, step{uint16(bit), d.ID()})
	}
}
