package edwards

// A Sum is a sum of multiples of points. The zero Sum is empty.
type Sum struct {
	rows    []Point // the first is the neutral point
	scalars []Scalar

	// Memory that SmallOrder uses again.
	digits  []int8
	counts  []uint32
	order   []uint32
	list    []uint32
	buckets []lanes
	work    *work
}

// work is what the lanes calculate in.
type work struct{ acc, run, total, scratch lanes }

// base is the point of which the order is l: y = 4/5, x even (RFC 8032, 5.1).
var base = Point{
	0x3905d740913e, 0xba2817d673a2, 0x23e2827f4e67c, 0x133d2e0c21a34, 0x44fd2f9298f81,
	0x493c6f58c3b85, 0xdf7181c325f7, 0xf50b0b3e4cb7, 0x5329385a44c32, 0x7cf9d3a33d4b,
	0x11205877aaa68, 0x479955893d579, 0x50d66309b67a0, 0x2d42d0dbee5ee, 0x6f117b689f0c6,
}

// Base is the base point.
func Base() Point { return base }

// Reset empties the sum and makes room for n points.
func (s *Sum) Reset(n int) {
	if cap(s.rows) <= n {
		s.rows, s.scalars = make([]Point, 0, n+1), make([]Scalar, 0, n)
	}
	s.rows = append(s.rows[:0], Point{0: 1, 5: 1})
	s.scalars = s.scalars[:0]
}

// Add adds [k]p, k below 2^253. Of an empty sum Reset comes first.
func (s *Sum) Add(p *Point, k *Scalar) {
	s.rows = append(s.rows, *p)
	s.scalars = append(s.scalars, *k)
}

// SmallOrder says whether eight times the sum is the neutral point.
//
// It is Pippenger's way ("Faster batch forgery identification", Bernstein, Doumen,
// Lange, Oosterwijk, 2012, section 4): each scalar is digits of c bits, in windows; in
// each window the points of one digit are added into one bucket, and bucket j
// counts j times. A lane adds up one bucket after another; then it has a window.
// Lane i has windows iv to iv+v-1 of 8v.
func (s *Sum) SmallOrder() bool {
	c := s.width()
	v := (253/c + 8) / 8
	if cap(s.digits) < 8*v*len(s.scalars) {
		s.digits = make([]int8, 8*v*len(s.scalars))
	}
	s.digits = s.digits[:8*v*len(s.scalars)]
	for i := range s.scalars {
		s.scalars[i].digits(s.digits[8*v*i:][:8*v], c)
	}
	if s.work == nil {
		s.work = new(work)
	}
	w, d2 := s.work, same(curve2D)
	w.total = neutral()
	for i := v - 1; i >= 0; i-- {
		s.windows(c, v, i)
		w.total.double(c, &w.scratch)
		w.total.add(&w.acc, &d2, &w.scratch)
	}
	for half := 4; half > 0; half /= 2 {
		w.acc = w.total.down(half)
		w.acc.double(half*c*v, &w.scratch)
		w.total.add(&w.acc, &d2, &w.scratch)
	}
	w.total.double(3, &w.scratch)
	return w.total.x.lane(0) == [5]uint64{} && w.total.y.lane(0) == w.total.z.lane(0)
}

// down moves lane i+n to lane i.
func (p *lanes) down(n int) (q lanes) {
	from, to := [4]*element{&p.x, &p.y, &p.z, &p.t}, [4]*element{&q.x, &q.y, &q.z, &q.t}
	for i := range from {
		for j := range from[i] {
			copy(to[i][j][:], from[i][j][n:])
			copy(to[i][j][8-n:], from[i][j][8-n:])
		}
	}
	return q
}

// width is the number of bits of a digit with which the sum costs the fewest additions.
func (s *Sum) width() (best int) {
	least := 0
	for c := 4; c <= 8; c++ {
		n := 2 * (253/c + 8) / 8 * 8 << (c - 1)
		for i := range s.scalars {
			if k := &s.scalars[i]; k[2]|k[3] == 0 {
				n += 128/c + 1
			} else {
				n += 253/c + 1
			}
		}
		if best == 0 || n < least {
			best, least = c, n
		}
	}
	return best
}

// windows sets acc to the sums of windows i, v+i, 2v+i, …, one in each lane.
func (s *Sum) windows(c, v, i int) {
	half := 1 << (c - 1)
	s.sort(half, v, i)
	w, d2 := s.work, same(curve2D)
	at := 0
	for n := 0; n < len(s.order); n += 8 {
		group := s.order[n : n+8]
		steps := int(s.counts[group[0]])
		w.acc = neutral()
		w.acc.sum(s.rows, s.list[at:at+8*steps], &w.scratch)
		at += 8 * steps
		for l, b := range group {
			s.buckets[int(b)&(half-1)].put(int(b)>>(c-1), &w.acc, l)
		}
	}
	w.run = s.buckets[half-1]
	w.acc = w.run
	for j := half - 2; j >= 0; j-- {
		w.run.add(&s.buckets[j], &d2, &w.scratch)
		w.acc.add(&w.run, &d2, &w.scratch)
	}
}

// put copies a lane of q into another of p.
func (p *lanes) put(to int, q *lanes, from int) {
	for i := range 5 {
		p.x[i][to] = q.x[i][from]
		p.y[i][to] = q.y[i][from]
		p.z[i][to] = q.z[i][from]
		p.t[i][to] = q.t[i][from]
	}
}

// sort fills s.order with the buckets of eight windows, bucket j of lane i as
// half i + j, the fullest first, and s.list with their points, eight buckets beside
// one another. s.counts is how many points each bucket has.
func (s *Sum) sort(half, v, i int) {
	if len(s.counts) != 8*half {
		s.counts, s.order = make([]uint32, 8*half), make([]uint32, 8*half)
		s.buckets = make([]lanes, half)
	}
	clear(s.counts)
	most := uint32(0)
	for at := i; at < len(s.digits); {
		for l := range 8 {
			if d := int(s.digits[at]); d != 0 {
				b := l*half + max(d, -d) - 1
				s.counts[b]++
				most = max(most, s.counts[b])
			}
			at += v
		}
	}
	place := make([]uint32, most+2) // of the first bucket with most - n points
	for _, n := range s.counts {
		place[most-n+1]++
	}
	for n := range most {
		place[n+1] += place[n]
	}
	for b, n := range s.counts {
		s.order[place[most-n]] = uint32(b)
		place[most-n]++
	}
	next := make([]uint32, 8*half) // where a bucket's next point goes
	size := uint32(0)
	for n := 0; n < len(s.order); n += 8 {
		for l, b := range s.order[n : n+8] {
			next[b] = size + uint32(l)
		}
		size += 8 * s.counts[s.order[n]]
	}
	if uint32(cap(s.list)) < size {
		s.list = make([]uint32, size+size/8)
	}
	s.list = s.list[:size]
	clear(s.list)
	for at, row := i, uint32(2); at < len(s.digits); row += 2 {
		for l := range 8 {
			if d := int(s.digits[at]); d > 0 {
				b := l*half + d - 1
				s.list[next[b]] = row
				next[b] += 8
			} else if d < 0 {
				b := l*half - d - 1
				s.list[next[b]] = row + 1
				next[b] += 8
			}
			at += v
		}
	}
}
