package flow

import (
	"math/rand/v2"
	"testing"
)

// A model is the bytes that came, one by one.
type model map[uint32]bool

func (m model) any(seq, n uint32) bool {
	for i := range n {
		if m[seq+i] {
			return true
		}
	}
	return false
}

func (m model) put(seq, n uint32) {
	for i := range n {
		m[seq+i] = true
	}
}

// starts are numbers about which sequences wrap, as numbers and as signed ones.
var starts = []uint32{0, 1<<32 - 500, 1<<31 - 700, 1 << 31, 12345}

// With at most 16 holes it is the model, byte for byte.
func TestReassemblyAgainstAModel(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		start, unit := starts[seed%5], 1+r.Uint32N(9)
		s, came, low := reassembly{}, model{}, start
		s.start(start)
		came.put(start-40*unit, 40*unit)
		for step := range 1000 {
			// No more than 32 units beyond the first hole: half of them are holes at most.
			from := r.Uint32N(40)
			seq, n := low+from*unit-8*unit, unit*(1+r.Uint32N(40-from))
			want := !came.any(seq, n)
			if got := s.add(seq, n); got != want {
				t.Fatalf("seed %d, step %d: %d bytes at %d: %v, want %v", seed, step, n, seq, got, want)
			}
			came.put(seq, n)
			for came[low] {
				low++
			}
			if low != s.next {
				t.Fatalf("seed %d, step %d: all came up to %d, says %d", seed, step, low, s.next)
			}
			low -= (low - start) % unit
		}
	}
}

// With more it is in the consumer's favour: no byte counts twice, and what never came
// may be missed.
func TestNoByteCountsTwice(t *testing.T) {
	most := 0
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 2))
		start := starts[seed%5]
		s, counted, next := reassembly{}, model{}, start
		s.start(start)
		for step := range 1000 {
			seq, n := s.next+r.Uint32N(3000)-500, 1+r.Uint32N(30)
			if s.add(seq, n) {
				if counted.any(seq, n) {
					t.Fatalf("seed %d, step %d: %d bytes at %d count again", seed, step, n, seq)
				}
				counted.put(seq, n)
			}
			if most = max(most, len(s.spans)); most > maxSpans || less(s.next, next) {
				t.Fatalf("seed %d, step %d: %d spans, next %d after %d", seed, step, len(s.spans), s.next, next)
			}
			next = s.next
			for i, p := range s.spans {
				if !less(p.from, p.to) || !less(s.next, p.from) || i > 0 && !less(s.spans[i-1].to, p.from) {
					t.Fatalf("seed %d, step %d: next %d, spans %v", seed, step, s.next, s.spans)
				}
			}
		}
	}
	if most != maxSpans {
		t.Errorf("at most %d spans: the walk is too tame", most)
	}
}

func TestSeventeenHoles(t *testing.T) {
	var s reassembly
	s.start(0)
	for i := range uint32(maxSpans) {
		if !s.add(100+100*i, 50) {
			t.Fatal(i)
		}
	}
	if s.next != 0 || len(s.spans) != maxSpans {
		t.Fatalf("next %d, %d spans", s.next, len(s.spans))
	}
	if !s.add(5000, 50) || s.next != 150 || len(s.spans) != maxSpans {
		t.Fatalf("next %d, %d spans", s.next, len(s.spans))
	}
	if s.add(0, 100) || s.add(50, 10) {
		t.Error("what fills a forgotten hole counts")
	}
	if !s.add(150, 50) || s.add(150, 50) {
		t.Error("what fills a hole that is remembered")
	}
}
