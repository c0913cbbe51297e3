package hashchain

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"top/lib/top"
)

// ways are both ways to walk, whichever this machine would take.
var ways = map[string]struct {
	walk func([]top.ID, []uint32)
	fill func([][]top.ID)
	hash func(top.ID, uint32) top.ID
}{"lanes": {walkLanes, fillLanes, hashLane}, "each": {walkEach, fillEach, hashEach}, "chosen": {Walk, func(c [][]top.ID) { Fill(c...) }, Hash}}

// slow is the definition.
func slow(w top.ID, n uint32) top.ID {
	for range n {
		h := sha256.New()
		h.Write(w[:])
		w = top.ID(h.Sum(nil))
	}
	return w
}

func drawn(r *rand.Rand) (w top.ID) {
	for i := 0; i < len(w); i += 8 {
		binary.LittleEndian.PutUint64(w[i:], r.Uint64())
	}
	return w
}

// compare holds both ways against the definition: chains of the given lengths, walked
// and made.
func compare(t *testing.T, seed uint64, steps []uint32) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	from, want := make([]top.ID, len(steps)), make([]top.ID, len(steps))
	for i, n := range steps {
		if from[i] = drawn(r); i%5 == 4 {
			from[i] = [...]top.ID{{}, {31: 1}, from[0]}[i/5%3]
		}
		want[i] = slow(from[i], n)
	}
	for name, way := range ways {
		w, kept := slices.Clone(from), slices.Clone(steps)
		if way.walk(w, steps); !slices.Equal(w, want) || !slices.Equal(steps, kept) {
			t.Fatalf("%s: walks of %v go elsewhere", name, steps)
		}
		for i, n := range steps {
			if way.hash(from[i], n) != want[i] {
				t.Fatalf("%s: %d steps alone go elsewhere", name, n)
			}
		}
		// All chains lie in one piece of memory, with a value between two that must stay.
		total := 1
		for _, n := range steps {
			total += int(n) + 2
		}
		memory, chains, guards := make([]top.ID, total), [][]top.ID(nil), []int{0}
		for i, at := 0, 1; i < len(steps); i++ {
			end := at + int(steps[i]) + 1
			memory[end-1] = from[i]
			chains, guards, at = append(chains, memory[at:end]), append(guards, end), end+1
		}
		for _, g := range guards {
			memory[g] = top.ID{0: 0xaa, 31: 0x55}
		}
		way.fill(chains)
		for i, c := range chains {
			if c[0] != want[i] || c[len(c)-1] != from[i] {
				t.Fatalf("%s: chain %d of %v is another", name, i, steps)
			}
			for k := 1; k < len(c); k++ {
				if c[k-1] != sha256.Sum256(c[k][:]) {
					t.Fatalf("%s: chain %d of %v is torn at %d", name, i, steps, k)
				}
			}
		}
		for _, g := range guards {
			if memory[g] != (top.ID{0: 0xaa, 31: 0x55}) {
				t.Fatalf("%s: wrote beside a chain of %v", name, steps)
			}
		}
	}
}

func TestHC1_EveryWayIsSHA256(t *testing.T) {
	for seed, steps := range [][]uint32{
		{}, {0}, {1}, {2}, {1023}, {0, 0, 0, 0, 0}, {1, 1}, {1, 2, 3}, {5, 5, 5, 5}, {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5}, {0, 7, 0, 1, 0},
		{1023, 1023, 1023, 1023}, {1, 1023, 2, 500, 3}, {maxRun + 1}, {maxRun * 2, maxRun + 3, 1}, {maxRun, maxRun, maxRun, maxRun + 1, 4},
	} {
		compare(t, uint64(seed), steps)
	}
	r := rand.New(rand.NewPCG(7, 7))
	for seed := range uint64(300) {
		steps := make([]uint32, r.IntN(20))
		for i := range steps {
			steps[i] = r.Uint32N(1 << r.UintN(8))
		}
		compare(t, seed, steps)
	}
	// FIPS 180-4 has no example of 32 bytes; this is the hash of 32 zero bytes, as
	// every tool prints it.
	if got := Hash(top.ID{}, 1).String(); got != "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925" {
		t.Error(got)
	}
	if got := Hash(top.ID{5}, 0); got != (top.ID{5}) {
		t.Error("no step went somewhere:", got)
	}
	// The comparison can tell.
	w := []top.ID{{1}}
	if walkEach(w, []uint32{3}); w[0] == slow(top.ID{1}, 4) {
		t.Error("three steps are four")
	}
}

func TestWalkAllocatesNothing(t *testing.T) {
	w, steps, chain := make([]top.ID, 5), []uint32{1, 2, 3, 4, 5}, make([]top.ID, 9)
	if n := testing.AllocsPerRun(100, func() { Walk(w, steps) }); n > 0 {
		t.Errorf("a walk makes %g allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { Fill(chain) }); n > 0 {
		t.Errorf("a chain makes %g allocations", n)
	}
}

func FuzzWalk(f *testing.F) {
	f.Add(uint64(1), []byte{1, 2, 3, 0, 200})
	f.Add(uint64(2), []byte{9})
	f.Fuzz(func(t *testing.T, seed uint64, lengths []byte) {
		var steps []uint32
		for _, n := range lengths[:min(len(lengths), 24)] {
			steps = append(steps, uint32(n))
		}
		compare(t, seed, steps)
	})
}

// BenchmarkWalk is the cost of one step of one chain when so many are walked together.
func BenchmarkWalk(b *testing.B) {
	for _, tc := range []struct {
		name   string
		walk   func([]top.ID, []uint32)
		chains int
		steps  uint32
	}{
		{"crypto/sha256", walkEach, 1, 1023}, {"lanes=1", walkLanes, 1, 1023}, {"lanes=2", walkLanes, 2, 1023}, {"lanes=3", walkLanes, 3, 1023},
		{"lanes=4", walkLanes, 4, 1023}, {"lanes=16", walkLanes, 16, 64}, {"single=16", walkLanes, 16, 1},
	} {
		b.Run(tc.name, func(b *testing.B) {
			w, steps := make([]top.ID, tc.chains), make([]uint32, tc.chains)
			for i := range steps {
				steps[i] = tc.steps
			}
			for b.Loop() {
				tc.walk(w, steps)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(tc.chains)/float64(tc.steps), "ns/step")
		})
	}
}
