package edwards

import "slices"

// A Sum is a sum of multiples of points. The zero Sum is empty.
type Sum struct {
	rows    []Point // the first is the neutral point
	scalars []Scalar

	// Memory that SmallOrder uses again.
	digits  []uint64 // eight digits each
	counts  []uint32
	next    []uint32
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
// counts j times. A lane adds up one bucket after another; then it has a window, and
// eight windows are done at a time.
func (s *Sum) SmallOrder() bool {
	c := s.width()
	s.recode(c)
	if s.work == nil {
		s.work = new(work)
	}
	w, d2, n := s.work, same(curve2D), len(s.scalars)
	w.total = neutral()
	for i := windows(c)/8 - 1; i >= 0; i-- {
		s.window(c, s.digits[i*n:][:n])
		w.total.double(8*c, &w.scratch)
		w.total.add(&w.acc, &d2, &w.scratch)
	}
	for half := 4; half > 0; half /= 2 {
		w.acc = w.total.down(half)
		w.acc.double(half*c, &w.scratch)
		w.total.add(&w.acc, &d2, &w.scratch)
	}
	w.total.double(3, &w.scratch)
	return w.total.x.lane(0) == [5]uint64{} && w.total.y.lane(0) == w.total.z.lane(0)
}

// windows is the number of windows of c bits, in eights.
func windows(c int) int { return (253/c + 8) / 8 * 8 }

// recode makes the digits: those of windows 8i to 8i+7 of scalar j are the bytes of
// word i len(scalars) + j.
func (s *Sum) recode(c int) {
	n := len(s.scalars)
	if size := windows(c) / 8 * n; cap(s.digits) < size {
		s.digits = make([]uint64, size, size+size/8)
	}
	s.digits = s.digits[:windows(c)/8*n]
	for j := range s.scalars {
		var d [64]int8
		s.scalars[j].digits(&d, c)
		for i := 0; i < windows(c); i += 8 {
			eight := d[i : i+8]
			s.digits[i/8*n+j] = uint64(uint8(eight[0])) | uint64(uint8(eight[1]))<<8 | uint64(uint8(eight[2]))<<16 | uint64(uint8(eight[3]))<<24 |
				uint64(uint8(eight[4]))<<32 | uint64(uint8(eight[5]))<<40 | uint64(uint8(eight[6]))<<48 | uint64(uint8(eight[7]))<<56
		}
	}
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
		n := 2 * windows(c) << (c - 1)
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

// window sets acc to the sums of eight windows, one in each lane.
func (s *Sum) window(c int, digits []uint64) {
	half := 1 << (c - 1)
	s.sort(c, digits)
	w, d2 := s.work, same(curve2D)
	at := 0
	for n := 0; n < len(s.order); n += 8 {
		group := s.order[n : n+8]
		steps := int(s.counts[group[0]])
		w.acc.begin(s.rows, s.list[at:at+8*steps], &w.scratch)
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

// sort fills s.order with the buckets of eight windows, the fullest first, and s.list
// with their points, those of eight buckets side by side. Bucket j of lane l has number
// l 2^(c-1) + j-1; s.counts is how many points each has.
func (s *Sum) sort(c int, digits []uint64) {
	size := 8 << (c - 1)
	if len(s.counts) != size {
		s.counts, s.next, s.order = make([]uint32, size), make([]uint32, size), make([]uint32, size)
		s.buckets = make([]lanes, size/8)
	}
	counts, next := s.counts, s.next
	clear(counts)
	for _, d := range digits {
		for at := -1; d != 0; d >>= 8 {
			if n := int(int8(d)); n != 0 {
				counts[at+max(n, -n)]++
			}
			at += size / 8
		}
	}
	most := slices.Max(counts)
	place := make([]uint32, most+2) // of the first bucket with most - n points
	for _, n := range counts {
		place[most-n+1]++
	}
	for n := range most {
		place[n+1] += place[n]
	}
	for b, n := range counts {
		s.order[place[most-n]] = uint32(b)
		place[most-n]++
	}
	total := uint32(0)
	for n := 0; n < len(s.order); n += 8 {
		for l, b := range s.order[n : n+8] {
			next[b] = total + uint32(l) // where its next point goes
		}
		total += 8 * counts[s.order[n]]
	}
	if uint32(cap(s.list)) < total {
		s.list = make([]uint32, total+total/8)
	}
	s.list = s.list[:total]
	clear(s.list)
	row := uint32(0)
	for _, d := range digits {
		row += 2
		for at := -1; d != 0; d >>= 8 {
			if n := int(int8(d)); n != 0 {
				b := at + max(n, -n)
				s.list[next[b]] = row | uint32(n)>>31
				next[b] += 8
			}
			at += size / 8
		}
	}
}
