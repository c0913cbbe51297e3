package keys

import (
	"encoding/binary"
	"io"

	"top/lib/edwards"
)

// inLanes judges by lib/edwards, which reads eight points at a time. Therefore what
// add takes stays encoded until prepare.
type inLanes struct {
	ring  *Ring
	items []laneItem
	rs    [][32]byte      // R of each item, encoded
	read  int             // items that prepare has read
	r     []edwards.Point // R of each that was read
	rOK   []bool
	key   map[[32]byte]int32 // an item's place in keys
	keys  []laneKey
	known int       // keys that prepare has read
	texts [8][]byte // of the last items, one for each lane: R, A, msg
	tail  int       // texts that are not hashed yet
}

type laneItem struct {
	key int32
	ok  bool // s is below l
	s   edwards.Scalar
	k   [8]uint64 // SHA-512(R, A, msg) as a number, not reduced
}

type laneKey struct {
	pub    [32]byte
	point  *edwards.Point // nil when the key is none
	factor edwards.Wide   // scratch of good
	used   bool           // scratch of good
}

func newLanes(n int, ring *Ring) *inLanes {
	return &inLanes{ring: ring, items: make([]laneItem, 0, n), rs: make([][32]byte, 0, n), key: make(map[[32]byte]int32)}
}

func (b *inLanes) add(pub [32]byte, msg []byte, sig [64]byte) {
	n, ok := b.key[pub]
	if !ok {
		n = int32(len(b.keys))
		b.key[pub] = n
		b.keys = append(b.keys, laneKey{pub: pub})
	}
	b.items = append(b.items, laneItem{key: n})
	i := &b.items[len(b.items)-1]
	i.ok = i.s.Read(sig[32:])
	b.rs = append(b.rs, [32]byte(sig[:]))
	text := &b.texts[b.tail]
	*text = append(append(append((*text)[:0], sig[:32]...), pub[:]...), msg...)
	if b.tail++; b.tail == len(b.texts) {
		b.hash()
	}
}

// hash sets k of the last items.
func (b *inLanes) hash() {
	var sums [8][8]uint64
	edwards.Sums(sums[:b.tail], b.texts[:b.tail])
	last := b.items[len(b.items)-b.tail:]
	for i := range last {
		last[i].k = sums[i]
	}
	b.tail = 0
}

func (b *inLanes) prepare() {
	b.hash()
	n := len(b.items)
	b.r = append(b.r, make([]edwards.Point, n-b.read)...)
	b.rOK = append(b.rOK, make([]bool, n-b.read)...)
	edwards.Decompress(b.r[b.read:], b.rOK[b.read:], b.rs[b.read:])
	b.read = n
	b.ring.points(b.keys[b.known:])
	b.known = len(b.keys)
}

// good is good of oneByOne.
func (b *inLanes) good(from, to int, rand io.Reader) bool {
	for i := from; i < to; i++ {
		k := &b.keys[b.items[i].key]
		if !b.items[i].ok || !b.rOK[i] || k.point == nil {
			return false
		}
		k.used = false
	}
	random := draw(rand, 16*(to-from))
	sum := b.ring.takeSum()
	defer b.ring.giveSum(sum)
	var s edwards.Wide
	sum.Reset(1 + to - from + min(to-from, len(b.keys)))
	for i := from; i < to; i++ {
		it := &b.items[i]
		k := &b.keys[it.key]
		if !k.used {
			k.used, k.factor = true, edwards.Wide{}
		}
		// Never zero, and 126 bits of chance are left. More than 127 bits would need
		// one more window.
		z := [2]uint64{binary.LittleEndian.Uint64(random[16*(i-from):]) | 1, binary.LittleEndian.Uint64(random[16*(i-from)+8:]) >> 1}
		s.AddProduct(z, it.s[:])
		k.factor.AddProduct(z, it.k[:])
		sum.Add(&b.r[i], &edwards.Scalar{z[0], z[1]})
	}
	for i := from; i < to; i++ {
		if k := &b.keys[b.items[i].key]; k.used {
			factor := k.factor.Reduced()
			sum.Add(k.point, &factor)
			k.used = false
		}
	}
	factor := s.Reduced()
	factor = factor.Negative()
	base := edwards.Base()
	sum.Add(&base, &factor)
	return sum.SmallOrder()
}

// few is 64, since eight judged one by one cost what a batch of sixteen does.
func (b *inLanes) few() int { return 64 }

func (b *inLanes) each(start int, each []bool, _ io.Reader) {
	var checks []edwards.Check
	var places []int
	for n := range each {
		i := start + n
		it := &b.items[i]
		if a := b.keys[it.key].point; it.ok && b.rOK[i] && a != nil {
			var k edwards.Wide
			copy(k[:], it.k[:])
			checks = append(checks, edwards.Check{A: a, R: &b.r[i], S: it.s, K: k.Reduced()})
			places = append(places, n)
		}
	}
	ok := make([]bool, len(checks))
	edwards.Judge(checks, ok)
	for n, place := range places {
		each[place] = ok[n]
	}
}

// points reads keys, eight at a time, except those that the ring has.
func (r *Ring) points(keys []laneKey) {
	var missing []int
	if r == nil {
		r = new(Ring)
	}
	r.mu.Lock()
	for i := range keys {
		if keys[i].point = r.getLocked(keys[i].pub).lanes; keys[i].point == nil {
			missing = append(missing, i)
		}
	}
	r.mu.Unlock()
	encoded, ok := make([][32]byte, len(missing)), make([]bool, len(missing))
	for i, n := range missing {
		encoded[i] = keys[n].pub
	}
	points := make([]edwards.Point, len(missing))
	edwards.Decompress(points, ok, encoded)
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, n := range missing {
		if !ok[i] {
			continue
		}
		// Its own allocation: a key that stays must not hold the others.
		p := points[i]
		k := r.getLocked(keys[n].pub)
		k.lanes, keys[n].point = &p, &p
		r.putLocked(keys[n].pub, k)
	}
}

// takeSum gives a sum whose memory was used before, if there is one.
func (r *Ring) takeSum() *edwards.Sum {
	if r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if s := r.sum; s != nil {
			r.sum = nil
			return s
		}
	}
	return new(edwards.Sum)
}

func (r *Ring) giveSum(s *edwards.Sum) {
	if r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sum = s
	}
}
