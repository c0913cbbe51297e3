package edwards

import (
	"crypto/ed25519"
	"encoding/hex"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
)

// The curve by math/big, as RFC 8032 writes it: slow, and nothing of ours in it.
var (
	prime = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	order = func() *big.Int {
		n, _ := new(big.Int).SetString("27742317777372353535851937790883648493", 10)
		return n.Add(n, new(big.Int).Lsh(big.NewInt(1), 252))
	}()
	bigD = mod(new(big.Int).Mul(big.NewInt(-121665), new(big.Int).ModInverse(big.NewInt(121666), prime)))
)

func mod(n *big.Int) *big.Int { return n.Mod(n, prime) }

func times(a, b *big.Int) *big.Int { return mod(new(big.Int).Mul(a, b)) }

type affine struct{ x, y *big.Int }

func (p affine) plus(q affine) affine {
	xy, yx := times(p.x, q.y), times(p.y, q.x)
	xx, yy := times(p.x, q.x), times(p.y, q.y)
	t := times(bigD, times(xx, yy))
	over := func(n *big.Int) *big.Int { return new(big.Int).ModInverse(mod(n), prime) }
	one := big.NewInt(1)
	return affine{
		times(new(big.Int).Add(xy, yx), over(new(big.Int).Add(one, t))),
		times(new(big.Int).Add(yy, xx), over(new(big.Int).Sub(one, t))),
	}
}

func (p affine) multiple(n *big.Int) affine {
	sum := affine{big.NewInt(0), big.NewInt(1)}
	for i := n.BitLen() - 1; i >= 0; i-- {
		if sum = sum.plus(sum); n.Bit(i) == 1 {
			sum = sum.plus(p)
		}
	}
	return sum
}

// read decodes a point by ZIP-215.
func read(b [32]byte) (p affine, ok bool) {
	sign := uint(b[31] >> 7)
	b[31] &= 127
	slices.Reverse(b[:])
	y := mod(new(big.Int).SetBytes(b[:]))
	u := mod(new(big.Int).Sub(times(y, y), big.NewInt(1)))
	v := mod(new(big.Int).Add(times(bigD, times(y, y)), big.NewInt(1)))
	x := new(big.Int).ModSqrt(times(u, new(big.Int).ModInverse(v, prime)), prime)
	if x == nil {
		return p, false
	}
	if x.Bit(0) != sign {
		x = mod(new(big.Int).Neg(x))
	}
	return affine{x, y}, true
}

func number(n [5]uint64) *big.Int {
	sum := new(big.Int)
	for i := 4; i >= 0; i-- {
		sum.Lsh(sum, 51).Add(sum, new(big.Int).SetUint64(n[i]))
	}
	return sum
}

func raw(e *element, l int) *big.Int {
	var n [5]uint64
	for i := range n {
		n[i] = e[i][l]
	}
	return number(n)
}

func (s Scalar) big() *big.Int {
	sum := new(big.Int)
	for i := 3; i >= 0; i-- {
		sum.Lsh(sum, 64).Add(sum, new(big.Int).SetUint64(s[i]))
	}
	return sum
}

// limit is the first limb that is not tight.
const limit = 1<<51 + 1<<11

// any is an element of tight limbs, the extremes more often than chance has them.
func anyElement(r *rand.Rand) (e element) {
	for i := range e {
		for l := range e[i] {
			switch r.IntN(8) {
			case 0:
				e[i][l] = limit - 1
			case 1:
				e[i][l] = 0
			case 2:
				e[i][l] = limbMask
			case 3:
				e[i][l] = limbMask - r.Uint64N(40)
			default:
				e[i][l] = r.Uint64N(limit)
			}
		}
	}
	return e
}

// extremes are elements whose lanes are the edges of what is tight, and of p.
func extremes() []element {
	var all []element
	for _, n := range [][5]uint64{
		{}, {1}, {18}, {19}, {20},
		{limit - 1, limit - 1, limit - 1, limit - 1, limit - 1},
		{limbMask, limbMask, limbMask, limbMask, limbMask},
		{limbMask - 18, limbMask, limbMask, limbMask, limbMask}, // p
		{limbMask - 19, limbMask, limbMask, limbMask, limbMask}, // p - 1
		{limbMask - 17, limbMask, limbMask, limbMask, limbMask}, // p + 1
		{0, 0, 0, 0, limit - 1},
		{limbMask + 1, limbMask, limbMask, limbMask, limbMask}, // 2^255
		{limit - 1, limbMask, limbMask, limbMask, limbMask},
		rootOfM1, curveD,
	} {
		all = append(all, same(n))
	}
	return all
}

func isTight(t *testing.T, what string, e *element) {
	t.Helper()
	for i := range e {
		for l := range e[i] {
			if e[i][l] >= limit {
				t.Fatalf("%s: limb %d of lane %d is %#x", what, i, l, e[i][l])
			}
		}
	}
}

// is checks what an operation left against math/big.
func is(t *testing.T, what string, e *element, want func(l int) *big.Int) {
	t.Helper()
	isTight(t, what, e)
	for l := range 8 {
		w := mod(want(l))
		if got := mod(raw(e, l)); got.Cmp(w) != 0 {
			t.Fatalf("%s: lane %d is %x, want %x", what, l, got, w)
		}
		if got := number(e.lane(l)); got.Cmp(w) != 0 {
			t.Fatalf("%s: lane %d reduced is %x, want %x", what, l, got, w)
		}
	}
}

// implementations are the plain code, and the instructions where there are any.
type implementation struct {
	name          string
	mul, add, sub func(o, a, b *element)
	square        func(o, a *element, n int)
	reduce        func(o, a *element)
}

func implementations() []implementation {
	all := []implementation{{"plain", mulPlain, addPlain, subPlain, squarePlain, reducePlain}}
	if fast {
		all = append(all, implementation{"lanes", mulLanes, addLanes, subLanes, squareLanes, reduceLanes})
	}
	return all
}

func TestF1_FieldOperations(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	list := extremes()
	for range 40 {
		list = append(list, anyElement(r))
	}
	for _, m := range implementations() {
		for _, a := range list {
			for _, b := range list {
				var o element
				m.mul(&o, &a, &b)
				is(t, m.name+" mul", &o, func(l int) *big.Int { return times(raw(&a, l), raw(&b, l)) })
				m.add(&o, &a, &b)
				is(t, m.name+" add", &o, func(l int) *big.Int { return new(big.Int).Add(raw(&a, l), raw(&b, l)) })
				m.sub(&o, &a, &b)
				is(t, m.name+" sub", &o, func(l int) *big.Int { return new(big.Int).Sub(raw(&a, l), raw(&b, l)) })
			}
			for _, n := range []int{1, 2, 5, 17} {
				var o element
				m.square(&o, &a, n)
				e := new(big.Int).Lsh(big.NewInt(1), uint(n))
				is(t, m.name+" square", &o, func(l int) *big.Int { return new(big.Int).Exp(raw(&a, l), e, prime) })
			}
			var reduced element
			m.reduce(&reduced, &a)
			is(t, m.name+" reduce", &reduced, func(l int) *big.Int { return raw(&a, l) })
			for l := range 8 {
				if got := raw(&reduced, l); got.Cmp(prime) >= 0 || reduced.limbs(l) != a.lane(l) {
					t.Fatalf("%s: reduced to %x", m.name, got)
				}
			}
			alias := a
			m.mul(&alias, &alias, &alias)
			is(t, m.name+" mul in place", &alias, func(l int) *big.Int { return times(raw(&a, l), raw(&a, l)) })
		}
	}
	e := new(big.Int).Rsh(new(big.Int).Sub(prime, big.NewInt(5)), 3)
	for i, a := range list {
		b := list[(i+1)%len(list)]
		for n := 1; n <= 2; n++ {
			both := elements{a, b}
			both.root(&both, n)
			for j, a := range []element{a, b}[:n] {
				is(t, "root", &both[j], func(l int) *big.Int { return new(big.Int).Exp(raw(&a, l), e, prime) })
			}
		}
	}
	for name, c := range map[string]struct {
		n    [5]uint64
		want *big.Int
	}{
		"d":  {curveD, bigD},
		"2d": {curve2D, mod(new(big.Int).Lsh(bigD, 1))},
		"i":  {rootOfM1, new(big.Int).Exp(big.NewInt(2), new(big.Int).Rsh(prime, 2), prime)},
	} {
		if number(c.n).Cmp(c.want) != 0 {
			t.Errorf("%s is %x", name, number(c.n))
		}
	}
}

// coordinates are x and y of a lane.
func (p *lanes) coordinates(t *testing.T, l int) affine {
	t.Helper()
	for _, e := range []*element{&p.x, &p.y, &p.z, &p.t} {
		isTight(t, "a coordinate", e)
	}
	z := new(big.Int).ModInverse(number(p.z.lane(l)), prime)
	if z == nil {
		t.Fatal("Z is 0")
	}
	a := affine{times(number(p.x.lane(l)), z), times(number(p.y.lane(l)), z)}
	if times(number(p.t.lane(l)), z).Cmp(times(a.x, a.y)) != 0 {
		t.Fatal("T/Z is not xy")
	}
	return a
}

func equal(p, q affine) bool { return p.x.Cmp(q.x) == 0 && p.y.Cmp(q.y) == 0 }

// keys are encodings of points: public keys, and points of small order.
func encodings(n int) (all [][32]byte) {
	for i := range n {
		k := ed25519.NewKeyFromSeed(append(make([]byte, 30), byte(i), byte(i>>8)))
		all = append(all, [32]byte(k.Public().(ed25519.PublicKey)))
	}
	for _, s := range smallOrder {
		b, _ := hex.DecodeString(s)
		all = append(all, [32]byte(b))
	}
	return all
}

// The 14 encodings of the 8 points of small order, six of them not canonical.
var smallOrder = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0000000000000000000000000000000000000000000000000000000000000080",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000080",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
}

// table decompresses encodings behind the neutral point.
func table(t *testing.T, all [][32]byte) (rows []Point, points []affine) {
	t.Helper()
	rows, ok := make([]Point, len(all)+1), make([]bool, len(all))
	Decompress(rows[1:], ok, all)
	rows[0] = Point{0: 1, 5: 1}
	points = append(points, affine{big.NewInt(0), big.NewInt(1)})
	for i, b := range all {
		p, good := read(b)
		if !good || !ok[i] {
			t.Fatalf("%x: %v, want a point: %v", b, ok[i], good)
		}
		points = append(points, p)
	}
	return rows, points
}

func TestF1_Points(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	rows, points := table(t, encodings(20))
	d2, scratch := same(curve2D), new(lanes)
	ways := map[string]struct {
		add    func(p, q *lanes)
		double func(p *lanes, n int)
		sum    func(p *lanes, list []uint32)
	}{
		"plain": {
			func(p, q *lanes) { addPointPlain(p, q, &d2) },
			doublePlain,
			func(p *lanes, list []uint32) { sumPlain(p, rows, list) },
		},
		"ours": {
			func(p, q *lanes) { p.add(q, &d2, scratch) },
			func(p *lanes, n int) { p.double(n, scratch) },
			func(p *lanes, list []uint32) { p.sum(rows, list, scratch) },
		},
	}
	for name, way := range ways {
		p, want := neutral(), [8]affine{}
		for l := range want {
			want[l] = points[0]
		}
		check := func(what string) {
			t.Helper()
			for l := range want {
				if got := p.coordinates(t, l); !equal(got, want[l]) {
					t.Fatalf("%s: %s: lane %d is %x %x, want %x %x", name, what, l, got.x, got.y, want[l].x, want[l].y)
				}
			}
		}
		for range 30 {
			list := make([]uint32, 8*(1+r.IntN(4)))
			for i := range list {
				n := r.IntN(2 * len(rows))
				if i >= 8 && r.IntN(4) == 0 {
					n = int(list[i-8]) ^ r.IntN(2) // the same again, or its negative
				}
				list[i] = uint32(n)
				q := points[n/2]
				if n%2 == 1 {
					q.x = mod(new(big.Int).Neg(q.x))
				}
				want[i%8] = want[i%8].plus(q)
			}
			way.sum(&p, list)
			check("sum")
			q, before := p, want
			way.double(&p, 1+len(list)%3)
			for l := range want {
				want[l] = want[l].multiple(big.NewInt(2 << (len(list) % 3)))
			}
			check("double")
			way.add(&p, &q)
			for l := range want {
				want[l] = want[l].plus(before[l])
			}
			check("add")
			q = p
			way.add(&p, &q)
			for l := range want {
				want[l] = want[l].plus(want[l])
			}
			check("add itself")
		}
		way.sum(&p, nil)
		check("no sum")
	}
}

func TestF2_InstructionsAndPlainCodeAgree(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	rows, _ := table(t, encodings(20))
	d2, scratch := same(curve2D), new(lanes)
	agree := func(what string, a, b *lanes) {
		t.Helper()
		for i, e := range []*element{&a.x, &a.y, &a.z, &a.t} {
			o := []*element{&b.x, &b.y, &b.z, &b.t}[i]
			isTight(t, what, e)
			for l := range 8 {
				if e.lane(l) != o.lane(l) {
					t.Fatalf("%s: coordinate %d, lane %d differ", what, i, l)
				}
			}
		}
	}
	for range 300 {
		// Not on the curve: the formulas agree wherever they are asked.
		a := lanes{anyElement(r), anyElement(r), anyElement(r), anyElement(r)}
		q := lanes{anyElement(r), anyElement(r), anyElement(r), anyElement(r)}
		b := a
		a.add(&q, &d2, scratch)
		addPointPlain(&b, &q, &d2)
		agree("add", &a, &b)
		n := 1 + r.IntN(4)
		b = a
		a.double(n, scratch)
		doublePlain(&b, n)
		agree("double", &a, &b)
		list := make([]uint32, 8*n)
		for i := range list {
			list[i] = uint32(r.IntN(2 * len(rows)))
		}
		b = a
		a.sum(rows, list, scratch)
		sumPlain(&b, rows, list)
		agree("sum", &a, &b)
		a.begin(rows, list, scratch)
		b = neutral()
		sumPlain(&b, rows, list)
		for l := range 8 { // not the same Z
			if !equal(a.coordinates(t, l), b.coordinates(t, l)) {
				t.Fatalf("begin: lane %d differs", l)
			}
		}
	}
}

func TestF3_EncodingsOfPoints(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	all := encodings(30)
	for range 200 {
		var b [32]byte
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		all = append(all, b)
	}
	for low := 0xe0; low <= 0xff; low++ { // about p, and all that is not canonical
		for _, high := range []byte{0x7f, 0xff} {
			b := [32]byte{byte(low)}
			for i := 1; i < 31; i++ {
				b[i] = 0xff
			}
			b[31] = high
			all = append(all, b)
		}
	}
	for low := range 20 {
		all = append(all, [32]byte{byte(low)}, [32]byte{0: byte(low), 31: 0x80})
	}
	for n := 1; n < 36; n++ { // groups that are not full
		decompresses(t, all[:n])
	}
	good := decompresses(t, all)
	if good < 60 || good > len(all)-60 {
		t.Errorf("%d of %d are points: the test sees one side", good, len(all))
	}
}

// decompresses checks Decompress against math/big and says how many are points.
func decompresses(t *testing.T, all [][32]byte) (good int) {
	t.Helper()
	rows, ok := make([]Point, len(all)), make([]bool, len(all))
	Decompress(rows, ok, all)
	for i, b := range all {
		p, want := read(b)
		if ok[i] != want {
			t.Fatalf("%x: a point %v, want %v", b, ok[i], want)
		}
		if !want {
			if rows[i] != (Point{}) {
				t.Fatalf("%x: no point, but something is written", b)
			}
			continue
		}
		good++
		for j, n := range []*big.Int{new(big.Int).Sub(p.y, p.x), new(big.Int).Add(p.y, p.x), times(new(big.Int).Lsh(bigD, 1), times(p.x, p.y))} {
			if got := mod(number([5]uint64(rows[i][5*j:]))); got.Cmp(mod(n)) != 0 {
				t.Fatalf("%x: part %d is %x, want %x", b, j, got, n)
			}
		}
	}
	return good
}

func FuzzDecompress(f *testing.F) {
	for _, b := range encodings(3) {
		f.Add(b[:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var e [32]byte
		copy(e[:], b)
		decompresses(t, [][32]byte{e})
	})
}

func anyScalar(r *rand.Rand) Scalar {
	switch r.IntN(6) {
	case 0:
		return Scalar{^uint64(0), ^uint64(0), ^uint64(0), 1<<61 - 1}
	case 1:
		return Scalar{r.Uint64(), r.Uint64() >> 1}
	case 2:
		return Scalar{r.Uint64N(3)}
	case 3:
		return Scalar{^uint64(0), 1<<63 - 1}
	}
	return Scalar{r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64() >> 3}
}

func TestF1_Scalars(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	word := func() uint64 { return []uint64{0, 1, ^uint64(0), r.Uint64(), r.Uint64()}[r.IntN(5)] }
	for range 3000 {
		var w Wide
		want := new(big.Int)
		for range 1 + r.IntN(5) {
			z := [2]uint64{word(), word()}
			x := []uint64{word(), word(), word(), word(), word(), word(), word(), word()}[:1+r.IntN(8)]
			w.AddProduct(z, x)
			var n Wide
			copy(n[:], x)
			want.Add(want, new(big.Int).Mul(Scalar{z[0], z[1]}.big(), n.big()))
		}
		if w.big().Cmp(want) != 0 {
			t.Fatalf("a sum of products is %x, want %x", w.big(), want)
		}
		for i := range w {
			if r.IntN(3) == 0 {
				w[i] = word() // up to 2^704
			}
		}
		got := w.Reduced()
		if want := new(big.Int).Mod(w.big(), order); got.big().Cmp(want) != 0 {
			t.Fatalf("%x modulo l is %x, want %x", w.big(), got.big(), want)
		}
		n := got.Negative()
		if sum := new(big.Int).Add(got.big(), n.big()); sum.Sign() != 0 && sum.Cmp(order) != 0 {
			t.Fatalf("-%x is %x", got.big(), n.big())
		}
	}
	// Where the quotient's guess is 2^64.
	top := Scalar{order0 - 1, order1, 0, 1 << 60}
	for _, low := range []uint64{0, 1, ^uint64(0)} {
		want := new(big.Int).Lsh(top.big(), 64)
		want.Mod(want.Add(want, new(big.Int).SetUint64(low)), order)
		if got := step(top, low); got.big().Cmp(want) != 0 {
			t.Errorf("step of l-1 and %x is %x, want %x", low, got.big(), want)
		}
	}
	for c := 4; c <= 8; c++ {
		for range 1000 {
			k, d := anyScalar(r), [64]int8{}
			k.digits(&d, c)
			sum := new(big.Int)
			for i := len(d) - 1; i >= 0; i-- {
				if n := int(d[i]); max(n, -n) > 1<<(c-1) {
					t.Fatalf("digit %d of %d bits", n, c)
				}
				sum.Lsh(sum, uint(c)).Add(sum, big.NewInt(int64(d[i])))
			}
			if sum.Cmp(k.big()) != 0 {
				t.Fatalf("%x by digits of %d bits is %x", k.big(), c, sum)
			}
		}
	}
}

func (w Wide) big() *big.Int {
	sum := new(big.Int)
	for i := len(w) - 1; i >= 0; i-- {
		sum.Lsh(sum, 64).Add(sum, new(big.Int).SetUint64(w[i]))
	}
	return sum
}

func TestF1_ScalarsBelowTheOrder(t *testing.T) {
	for name, tc := range map[string]struct {
		add  int64
		want bool
	}{"l-1": {-1, true}, "l": {0, false}, "l+1": {1, false}} {
		b := new(big.Int).Add(order, big.NewInt(tc.add)).FillBytes(make([]byte, 32))
		slices.Reverse(b)
		var k Scalar
		if k.Read(b) != tc.want {
			t.Errorf("%s is read as a number below l: %v", name, !tc.want)
		}
	}
	var k Scalar
	if !k.Read(make([]byte, 32)) || k.Read(slices.Repeat([]byte{255}, 32)) {
		t.Error("0 or 2^256-1")
	}
}

func TestF1_Sums(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	rows, points := table(t, encodings(30))
	eight := big.NewInt(8)
	s := new(Sum)
	for round := range 60 {
		n := []int{0, 1, 2, 7, 40, 300}[round%6]
		s.Reset(n + 1)
		want := points[0]
		for range n {
			i, k := r.IntN(len(rows)), anyScalar(r)
			s.Add(&rows[i], &k)
			want = want.plus(points[i].multiple(k.big()))
		}
		small := equal(want.multiple(eight), points[0])
		if got := s.SmallOrder(); got != small {
			t.Fatalf("%d terms: %v, want %v", n, got, small)
		}
		// What is missing, as a point: then the sum is neutral.
		missing := affine{mod(new(big.Int).Neg(want.x)), want.y}
		p, unit := write1(missing), Scalar{1}
		s.Add(&p, &unit)
		if !s.SmallOrder() {
			t.Fatalf("%d terms and what they lack: not of small order", n)
		}
		// One unit more, of a point that is not of small order.
		s.scalars[len(s.scalars)-1][0]++
		if got, want := s.SmallOrder(), small; got != want {
			t.Fatalf("%d terms and twice what they lack: %v", n, got)
		}
	}
}

func TestF1_Checks(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 16))
	rows, points := table(t, encodings(12))
	ground, _ := read([32]byte(slices.Concat([]byte{0x58}, slices.Repeat([]byte{0x66}, 31))))
	for round := range 30 {
		n := 1 + round%18
		checks, ok, want := make([]Check, n), make([]bool, n), make([]bool, n)
		for i := range checks {
			a := r.IntN(len(rows))
			c := Check{A: &rows[a], S: anyScalar(r), K: anyScalar(r)}
			left := ground.multiple(c.S.big())
			right := points[a].multiple(c.K.big())
			right.x = mod(right.x.Neg(right.x))
			left = left.plus(right)
			if want[i] = r.IntN(2) == 0; want[i] && r.IntN(2) == 0 {
				left = left.plus(points[len(points)-1-r.IntN(14)]) // of small order
			} else if !want[i] {
				left = left.plus(points[1])
			}
			p := write1(left)
			c.R = &p
			checks[i] = c
		}
		if Judge(checks, ok); !slices.Equal(ok, want) {
			t.Fatalf("%v, want %v", ok, want)
		}
	}
}

// write1 is a Point of coordinates.
func write1(a affine) Point {
	limbs := func(n *big.Int) (l [5]uint64) {
		mask := big.NewInt(limbMask)
		for i := range l {
			l[i] = new(big.Int).And(new(big.Int).Rsh(n, uint(51*i)), mask).Uint64()
		}
		return l
	}
	x, y := same(limbs(a.x)), same(limbs(a.y))
	var p [1]Point
	write(p[:], []bool{true}, &x, &y)
	return p[0]
}

func TestBase(t *testing.T) {
	p, _ := read([32]byte(slices.Concat([]byte{0x58}, slices.Repeat([]byte{0x66}, 31))))
	b, s, want := Base(), new(Sum), write1(p)
	for i := 0; i < 15; i += 5 {
		if mod(number([5]uint64(b[i:]))).Cmp(mod(number([5]uint64(want[i:])))) != 0 {
			t.Errorf("limbs from %d on are not the base point's", i)
		}
	}
	l := Scalar{order0, order1, 0, 1 << 60}
	for add := range uint64(3) {
		s.Reset(1)
		s.Add(&b, &Scalar{l[0] + add, l[1], l[2], l[3]})
		if s.SmallOrder() != (add == 0) {
			t.Errorf("l+%d times the base point", add)
		}
	}
}

func TestF2_Hashes(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	for round := range 300 {
		n := 1 + r.IntN(20)
		texts, sums, want := make([][]byte, n), make([][8]uint64, n), make([][8]uint64, n)
		for i := range texts {
			size := 214
			if round%2 == 0 {
				size = r.IntN(600)
			}
			texts[i] = make([]byte, size)
			for j := range texts[i] {
				texts[i][j] = byte(r.Uint32())
			}
		}
		Sums(sums, texts)
		sumsPlain(want, texts)
		for i := range sums {
			if sums[i] != want[i] {
				t.Fatalf("%d of %d texts, of %d bytes: %x, want %x", i, n, len(texts[i]), sums[i], want[i])
			}
		}
	}
	for size := range 400 { // every length of the padding
		text := [][]byte{make([]byte, size)}
		sums, want := make([][8]uint64, 1), make([][8]uint64, 1)
		Sums(sums, text)
		if sumsPlain(want, text); sums[0] != want[0] {
			t.Fatalf("%d bytes: %x, want %x", size, sums[0], want[0])
		}
	}
}
