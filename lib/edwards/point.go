package edwards

import "encoding/binary"

// A Point is a point of the curve as a sum reads it: y-x, y+x and 2dxy, five limbs
// each, and a word to fill two cache lines.
type Point [16]uint64

// Decompress reads points as ZIP-215 has it: a y of p or more is taken modulo p, and
// the sign of x = 0 may be set. ok tells which encodings are points; those of the
// others are left as they are. The three are equally long.
func Decompress(points []Point, ok []bool, encoded [][32]byte) {
	var w reading
	for len(encoded) > 0 {
		n := min(16, len(encoded))
		w.decompress(points[:n], ok[:n], encoded[:n])
		points, ok, encoded = points[n:], ok[n:], encoded[n:]
	}
}

// reading is up to sixteen points while they are read.
type reading struct{ y, u, v, x, cube elements }

// decompress reads up to sixteen points: x² = (y²-1)/(dy²+1), and the root of u/v is
// uv³(uv⁷)^((p-5)/8), times a root of -1 perhaps (RFC 8032, 5.1.3).
func (w *reading) decompress(points []Point, ok []bool, encoded [][32]byte) {
	n := (len(encoded) + 7) / 8
	unit, d := same(one), same(curveD)
	for i := range encoded {
		w.y[i/8].set(i%8, split(&encoded[i]))
	}
	for i := range n {
		y, u, v, x, cube := &w.y[i], &w.u[i], &w.v[i], &w.x[i], &w.cube[i]
		x.square(y, 1)
		u.sub(x, &unit)
		v.mul(x, &d)
		v.add(v, &unit)
		cube.square(v, 1)
		cube.mul(cube, v)
		x.square(cube, 1)
		x.mul(x, v)
		x.mul(x, u)
	}
	w.x.root(&w.x, n)
	for i := range n {
		end := min(8*i+8, len(encoded))
		w.finish(i, points[8*i:end], ok[8*i:end], encoded[8*i:end])
	}
}

// finish makes eight of the points of the power that root left.
func (w *reading) finish(i int, points []Point, ok []bool, encoded [][32]byte) {
	u, x := &w.u[i], &w.x[i]
	x.mul(x, &w.cube[i])
	x.mul(x, u)
	var t, minus, times element
	t.square(x, 1)
	t.mul(&t, &w.v[i]) // vx²: u, or -u, or x is no root
	minus.sub(new(element), u)
	t.reduce(&t)
	u.reduce(u)
	minus.reduce(&minus)
	for l := range encoded {
		if got := t.limbs(l); got == u.limbs(l) {
			ok[l] = true
			times.set(l, one)
		} else {
			ok[l] = got == minus.limbs(l)
			times.set(l, rootOfM1)
		}
	}
	x.mul(x, &times)
	x.reduce(x)
	minus.sub(new(element), x)
	for l := range encoded {
		if byte(x[0][l]&1) != encoded[l][31]>>7 {
			x.set(l, minus.limbs(l))
		}
	}
	write(points, ok, x, &w.y[i])
}

// write makes Points of coordinates.
func write(points []Point, ok []bool, x, y *element) {
	var less, more, product element
	d2 := same(curve2D)
	less.sub(y, x)
	more.add(y, x)
	product.mul(x, y)
	product.mul(&product, &d2)
	for l := range points {
		if !ok[l] {
			continue
		}
		for i := range 5 {
			points[l][i], points[l][5+i], points[l][10+i] = less[i][l], more[i][l], product[i][l]
		}
	}
}

// split is the low 255 bits of an encoded number, by limbs.
func split(b *[32]byte) [5]uint64 {
	w0, w1 := binary.LittleEndian.Uint64(b[0:]), binary.LittleEndian.Uint64(b[8:])
	w2, w3 := binary.LittleEndian.Uint64(b[16:]), binary.LittleEndian.Uint64(b[24:])
	return [5]uint64{
		w0 & limbMask,
		(w0>>51 | w1<<13) & limbMask,
		(w1>>38 | w2<<26) & limbMask,
		(w2>>25 | w3<<39) & limbMask,
		w3 >> 12 & limbMask,
	}
}

// lanes are eight points, in extended coordinates: x = X/Z, y = Y/Z, xy = T/Z.
type lanes struct{ x, y, z, t element }

// neutral is eight times the neutral point.
func neutral() lanes { return lanes{y: same(one), z: same(one)} }

// add sets p = p + q.
func (p *lanes) add(q *lanes, d2 *element, scratch *lanes) {
	if fast {
		addPointLanes(p, q, d2, scratch)
		return
	}
	addPointPlain(p, q, d2)
}

// double sets p = 2^n p, n > 0.
func (p *lanes) double(n int, scratch *lanes) {
	if fast {
		doubleLanes(p, n, scratch)
		return
	}
	doublePlain(p, n)
}

// begin sets p to the sum of the points of a list, which is one of lanes.sum.
func (p *lanes) begin(rows []Point, list []uint32, scratch *lanes) {
	if fast && len(list) > 0 {
		firstLanes(p, &rows[0], &list[0])
		list = list[8:]
	} else {
		*p = neutral()
	}
	p.sum(rows, list, scratch)
}

// sum adds eight points of rows for each eight numbers of a list, one to each lane: a
// number is twice the point's index, and odd when its negative is added.
func (p *lanes) sum(rows []Point, list []uint32, scratch *lanes) {
	switch {
	case len(list) == 0:
	case fast:
		sumLanes(p, &rows[0], &list[0], len(list)/8, scratch)
	default:
		sumPlain(p, rows, list)
	}
}

// finish sets p = (EF, GH, FG, EH).
func (p *lanes) finish(e, f, g, h *element) {
	p.x.mul(e, f)
	p.y.mul(g, h)
	p.z.mul(f, g)
	p.t.mul(e, h)
}

// addPointPlain is addPointLanes by its formulas.
func addPointPlain(p, q *lanes, d2 *element) {
	var a, b, c, d, t element
	a.sub(&p.y, &p.x)
	t.sub(&q.y, &q.x)
	a.mul(&a, &t)
	b.add(&p.y, &p.x)
	t.add(&q.y, &q.x)
	b.mul(&b, &t)
	c.mul(&p.t, &q.t)
	c.mul(&c, d2)
	d.mul(&p.z, &q.z)
	p.combine(&a, &b, &c, &d)
}

// combine ends an addition.
func (p *lanes) combine(a, b, c, d *element) {
	var e, f, g, h element
	d.add(d, d)
	e.sub(b, a)
	f.sub(d, c)
	g.add(d, c)
	h.add(b, a)
	p.finish(&e, &f, &g, &h)
}

// doublePlain is doubleLanes by its formulas.
func doublePlain(p *lanes, n int) {
	for range n {
		var a, b, c, e, f, g, h element
		a.square(&p.x, 1)
		b.square(&p.y, 1)
		c.square(&p.z, 1)
		c.add(&c, &c)
		g.sub(&a, &b)
		h.add(&a, &b)
		f.add(&c, &g)
		e.add(&p.x, &p.y)
		e.square(&e, 1)
		e.sub(&h, &e)
		p.finish(&e, &f, &g, &h)
	}
}

// sumPlain is sumLanes by its formulas.
func sumPlain(p *lanes, rows []Point, list []uint32) {
	for ; len(list) > 0; list = list[8:] {
		var less, more, product, a, b, c element
		for l := range 8 {
			row, i, j := &rows[list[l]>>1], 0, 5
			sign := list[l]&1 == 1
			if sign {
				i, j = j, i
			}
			less.set(l, [5]uint64(row[i:]))
			more.set(l, [5]uint64(row[j:]))
			product.set(l, [5]uint64(row[10:]))
		}
		c.sub(new(element), &product)
		for l := range 8 {
			if list[l]&1 == 1 {
				product.set(l, c.lane(l))
			}
		}
		a.sub(&p.y, &p.x)
		a.mul(&a, &less)
		b.add(&p.y, &p.x)
		b.mul(&b, &more)
		c.mul(&p.t, &product)
		d := p.z
		p.combine(&a, &b, &c, &d)
	}
}
