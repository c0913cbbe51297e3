package edwards

import "math/bits"

// An element is eight numbers modulo p = 2^255 - 19, one in each lane: limb i of
// lane l, of weight 2^51i, is e[i][l]. What the methods take and leave is tight:
// every limb is below 2^51 + 2^11 (lanes_amd64.h has the bounds).
type element [5][8]uint64

const limbMask = 1<<51 - 1

// Numbers of the curve -x²+y² = 1+dx²y² (RFC 8032, 5.1), by limbs.
var (
	curveD   = [5]uint64{0x34dca135978a3, 0x1a8283b156ebd, 0x5e7a26001c029, 0x739c663a03cbb, 0x52036cee2b6ff} // -121665/121666
	curve2D  = [5]uint64{0x69b9426b2f159, 0x35050762add7a, 0x3cf44c0038052, 0x6738cc7407977, 0x2406d9dc56dff}
	rootOfM1 = [5]uint64{0x61b274a0ea0b0, 0x0d5a5fc8f189d, 0x7ef5e9cbd0c60, 0x78595a6804c9e, 0x2b8324804fc1d} // 2^((p-1)/4)
	one      = [5]uint64{1}
)

// same is a number in every lane.
func same(n [5]uint64) (e element) {
	for i := range n {
		for l := range e[i] {
			e[i][l] = n[i]
		}
	}
	return e
}

func (e *element) mul(a, b *element) {
	if fast {
		mulLanes(e, a, b)
	} else {
		mulPlain(e, a, b)
	}
}

// square sets e to a^(2^n), n > 0.
func (e *element) square(a *element, n int) {
	if fast {
		squareLanes(e, a, n)
	} else {
		squarePlain(e, a, n)
	}
}

func (e *element) add(a, b *element) {
	if fast {
		addLanes(e, a, b)
	} else {
		addPlain(e, a, b)
	}
}

func (e *element) sub(a, b *element) {
	if fast {
		subLanes(e, a, b)
	} else {
		subPlain(e, a, b)
	}
}

// reduce sets e to a, below p: two elements are equal then if their limbs are.
func (e *element) reduce(a *element) {
	if fast {
		reduceLanes(e, a)
	} else {
		reducePlain(e, a)
	}
}

// elements are two elements, or one when n is 1: a chain of squarings leaves half of the
// processor waiting, two side by side do not.
type elements [2]element

func (e *elements) mul(a, b *elements, n int) {
	for i := range n {
		e[i].mul(&a[i], &b[i])
	}
}

// square sets e to a^(2^times), times > 0.
func (e *elements) square(a *elements, times, n int) {
	if n == 2 && fast {
		squareTwoLanes(e, a, times)
		return
	}
	for i := range n {
		e[i].square(&a[i], times)
	}
}

// root sets e to a^((p-5)/8), (p-5)/8 = 2^252 - 3, by 252 squarings and 11
// multiplications. In the comments is the exponent reached.
func (e *elements) root(a *elements, n int) {
	var t, u, v elements
	t.square(a, 1, n)    // 2
	u.square(&t, 2, n)   // 8
	u.mul(a, &u, n)      // 9
	t.mul(&t, &u, n)     // 11
	t.square(&t, 1, n)   // 22
	t.mul(&u, &t, n)     // 2^5 - 1
	u.square(&t, 5, n)   //
	t.mul(&u, &t, n)     // 2^10 - 1
	u.square(&t, 10, n)  //
	u.mul(&u, &t, n)     // 2^20 - 1
	v.square(&u, 20, n)  //
	u.mul(&v, &u, n)     // 2^40 - 1
	u.square(&u, 10, n)  //
	t.mul(&u, &t, n)     // 2^50 - 1
	u.square(&t, 50, n)  //
	u.mul(&u, &t, n)     // 2^100 - 1
	v.square(&u, 100, n) //
	u.mul(&v, &u, n)     // 2^200 - 1
	u.square(&u, 50, n)  //
	t.mul(&u, &t, n)     // 2^250 - 1
	t.square(&t, 2, n)   // 2^252 - 4
	e.mul(&t, a, n)
}

// lane is the number in a lane, below p.
func (e *element) lane(l int) (n [5]uint64) {
	n = e.limbs(l)
	carry(&n)
	// Now n < 2^255 + 2^12, and n >= p exactly when n + 19 >= 2^255.
	q := (n[0] + 19) >> 51
	for _, limb := range n[1:] {
		q = (limb + q) >> 51
	}
	n[0] += 19 * q
	for i := range 4 {
		n[i+1] += n[i] >> 51
		n[i] &= limbMask
	}
	n[4] &= limbMask
	return n
}

// limbs are those of a lane.
func (e *element) limbs(l int) [5]uint64 {
	return [5]uint64{e[0][l], e[1][l], e[2][l], e[3][l], e[4][l]}
}

func (e *element) set(l int, n [5]uint64) {
	for i := range n {
		e[i][l] = n[i]
	}
}

// carry makes a number with limbs below 2^62 tight.
func carry(n *[5]uint64) {
	for i := range 4 {
		n[i+1] += n[i] >> 51
		n[i] &= limbMask
	}
	n[0] += 19 * (n[4] >> 51)
	n[4] &= limbMask
	n[1] += n[0] >> 51
	n[0] &= limbMask
}

// What follows does the same lane by lane, for processors without lanes and as a
// second opinion on the others.

func mulPlain(e, a, b *element) {
	for l := range 8 {
		var high, low [5]uint64
		for i := range 5 {
			for j := range 5 {
				x, k := a[i][l], i+j
				if k >= 5 { // 2^255 is 19
					x, k = 19*x, k-5
				}
				h, lo := bits.Mul64(x, b[j][l])
				var c uint64
				low[k], c = bits.Add64(low[k], lo, 0)
				high[k] += h + c
			}
		}
		var n [5]uint64
		var c uint64
		for k := range 5 {
			lo, more := bits.Add64(low[k], c, 0)
			c = (high[k]+more)<<13 | lo>>51
			n[k] = lo & limbMask
		}
		n[0] += 19 * c // c < 2^56: no product of limb 4 was taken 19 times
		carry(&n)
		e.set(l, n)
	}
}

func squarePlain(e, a *element, n int) {
	mulPlain(e, a, a)
	for range n - 1 {
		mulPlain(e, e, e)
	}
}

func addPlain(e, a, b *element) {
	for l := range 8 {
		var n [5]uint64
		for i := range n {
			n[i] = a[i][l] + b[i][l]
		}
		carry(&n)
		e.set(l, n)
	}
}

func subPlain(e, a, b *element) {
	for l := range 8 {
		n := [5]uint64{1<<52 - 38, 1<<52 - 2, 1<<52 - 2, 1<<52 - 2, 1<<52 - 2} // 2p
		for i := range n {
			n[i] += a[i][l] - b[i][l]
		}
		carry(&n)
		e.set(l, n)
	}
}

func reducePlain(e, a *element) {
	for l := range 8 {
		e.set(l, a.lane(l))
	}
}
