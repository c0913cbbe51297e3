package edwards

// A Check asks whether [S]B - R - [K]A is of small order, B the base point.
type Check struct {
	A, R *Point
	S, K Scalar // below 2^253
}

// checkWork is what eight checks calculate in.
type checkWork struct {
	total, picked, scratch lanes
	keys, bases            [9]lanes // multiples 0 to 8
}

// Judge answers checks one by one, eight at a time; ok is as long as checks. It is
// for those that a Sum of many found not all good.
func Judge(checks []Check, ok []bool) {
	w := new(checkWork)
	for len(checks) > 0 {
		n := min(8, len(checks))
		w.judge(checks[:n], ok[:n])
		checks, ok = checks[n:], ok[n:]
	}
}

// judge goes through the digits of 4 bits of S and K, from the highest down, a lane
// for each check.
func (w *checkWork) judge(checks []Check, ok []bool) {
	rows := make([]Point, 2+2*len(checks)) // neutral, base, then A and R of each
	rows[0], rows[1] = Point{0: 1, 5: 1}, base
	var as, bs, rs [8]uint32 // for lanes.sum
	var ds, dk [8][64]int8
	for l := range checks {
		c := &checks[l]
		rows[2+2*l], rows[3+2*l] = *c.A, *c.R
		as[l], bs[l], rs[l] = uint32(4+4*l), 2, uint32(7+4*l) // R is taken off
		c.S.digits(&ds[l], 4)
		c.K.digits(&dk[l], 4)
	}
	d2 := same(curve2D)
	w.multiples(&w.keys, rows, as[:])
	w.multiples(&w.bases, rows, bs[:])
	w.total = neutral()
	for i := 63; i >= 0; i-- {
		w.total.double(4, &w.scratch)
		w.pick(&w.keys, &dk, i, true)
		w.total.add(&w.picked, &d2, &w.scratch)
		w.pick(&w.bases, &ds, i, false)
		w.total.add(&w.picked, &d2, &w.scratch)
	}
	w.total.sum(rows, rs[:], &w.scratch)
	w.total.double(3, &w.scratch)
	p := &w.total
	p.x.reduce(&p.x)
	p.y.reduce(&p.y)
	p.z.reduce(&p.z)
	for l := range ok {
		ok[l] = p.x.limbs(l) == [5]uint64{} && p.y.limbs(l) == p.z.limbs(l)
	}
}

// multiples fills a table from the points of a list.
func (w *checkWork) multiples(table *[9]lanes, rows []Point, list []uint32) {
	d2 := same(curve2D)
	table[0], table[1] = neutral(), neutral()
	table[1].sum(rows, list, &w.scratch)
	for i := 2; i < len(table); i++ {
		table[i] = table[i-1]
		table[i].add(&table[1], &d2, &w.scratch)
	}
}

// pick sets w.picked to digit i times the point in each lane, or to its negative.
func (w *checkWork) pick(table *[9]lanes, digits *[8][64]int8, i int, negative bool) {
	p := &w.picked
	for l := range 8 {
		n := int(digits[l][i])
		p.put(l, &table[max(n, -n)], l)
	}
	var zero, x, t element
	x.sub(&zero, &p.x)
	t.sub(&zero, &p.t)
	for l := range 8 {
		if n := digits[l][i]; n != 0 && n < 0 != negative {
			p.x.set(l, x.limbs(l))
			p.t.set(l, t.limbs(l))
		}
	}
}
