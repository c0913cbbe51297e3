package edwards

import (
	"math/rand/v2"
	"testing"
)

// BenchmarkLanes is each operation on eight numbers or points.
func BenchmarkLanes(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	w := new(struct {
		x, y, z    element
		p, q, work lanes
		_          [1 << 15]byte // so that it begins a page
	})
	w.x, w.y = anyElement(r), anyElement(r)
	w.p, w.q = neutral(), neutral()
	d2 := same(curve2D)
	rows, list := make([]Point, 1024), make([]uint32, 8*1000)
	ok, encoded := make([]bool, 1024), make([][32]byte, 1024)
	for i := range encoded {
		encoded[i] = [32]byte{0: 0x58 + byte(i), 1: byte(i >> 3), 31: 0x66}
	}
	Decompress(rows, ok, encoded)
	for i := range list {
		list[i] = r.Uint32N(2048)
	}
	state, data, text := new([8][8]uint64), new([8]*byte), make([]byte, 128)
	for i := range data {
		data[i] = &text[0]
	}
	for name, f := range map[string]func(){
		"mul":          func() { w.z.mul(&w.x, &w.y) },
		"square1000":   func() { w.x.square(&w.x, 1000) },
		"add":          func() { w.z.add(&w.x, &w.y) },
		"point":        func() { w.p.add(&w.q, &d2, &w.work) },
		"double1000":   func() { w.p.double(1000, &w.work) },
		"sum1000":      func() { w.p.sum(rows, list, &w.work) },
		"decompress8":  func() { Decompress(rows[:8], ok[:8], encoded[:8]) },
		"decompress16": func() { Decompress(rows[:16], ok[:16], encoded[:16]) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				f()
			}
		})
	}
	if fast {
		b.Run("block", func(b *testing.B) {
			for b.Loop() {
				blockLanes(state, data, &sha512Round, 255)
			}
		})
	}
}
