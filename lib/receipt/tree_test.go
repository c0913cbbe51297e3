package receipt

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"testing"

	"top/lib/top"
	"top/lib/wire"
)

// leaves makes n leaves of small random amounts, some of them nothing.
func leaves(n int) []Leaf {
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	l := make([]Leaf, n)
	for i := range l {
		l[i].Amount = top.Amount(rng.Uint64N(5) * rng.Uint64N(1000))
		binary.BigEndian.PutUint64(l[i].Entry[:], rng.Uint64())
	}
	return l
}

func tree(t testing.TB, l []Leaf) *Tree {
	t.Helper()
	tr, err := NewTree(l)
	must(t, err)
	return tr
}

// slowRoot is the root as the definition says it: the left half is the largest
// power of two below n.
func slowRoot(l []Leaf) (hash [32]byte, sum uint64) {
	if len(l) == 0 {
		return hash, 0
	}
	if len(l) == 1 {
		b := append([]byte("top/receipt/leaf/1\x00"), make([]byte, 8)...)
		binary.BigEndian.PutUint64(b[len(b)-8:], uint64(l[0].Amount))
		return sha256.Sum256(append(b, l[0].Entry[:]...)), uint64(l[0].Amount)
	}
	half := 1
	for half*2 < len(l) {
		half *= 2
	}
	b := []byte("top/receipt/node/1\x00")
	for _, part := range [][]Leaf{l[:half], l[half:]} {
		h, s := slowRoot(part)
		b = append(b, h[:]...)
		b = binary.BigEndian.AppendUint64(b, s)
		b = binary.BigEndian.AppendUint64(b, uint64(len(part)))
		sum += s
	}
	return sha256.Sum256(b), sum
}

func TestTreeIsTheSlowTree(t *testing.T) {
	for n := range 70 {
		l := leaves(n)
		hash, sum := slowRoot(l)
		root, gotSum, count := tree(t, l).Root()
		if root != hash || uint64(gotSum) != sum || count != uint64(n) {
			t.Fatalf("%d leaves: %s %d %d, want %x %d %d", n, root, gotSum, count, hash, sum, n)
		}
	}
}

func TestR6_EveryLeafHasAProof(t *testing.T) {
	for n := 1; n <= 70; n++ {
		l := leaves(n)
		tr := tree(t, l)
		root, sum, count := tr.Root()
		want := top.Amount(0)
		for i := range l {
			p, err := tr.Prove(uint64(i))
			must(t, err)
			var back Proof
			must(t, back.Decode(p.Encode()))
			start, err := back.Verify(root, sum, count)
			if err != nil {
				t.Fatalf("leaf %d of %d: %v", i, n, err)
			}
			if start != want || back.Leaf != l[i] {
				t.Fatalf("leaf %d of %d: starts at %d, want %d", i, n, start, want)
			}
			want += l[i].Amount
		}
	}
}

func TestR6_NothingInAProofCanBeChanged(t *testing.T) {
	for _, n := range []int{1, 2, 3, 5, 8, 13, 21} {
		l := leaves(n)
		tr := tree(t, l)
		root, sum, count := tr.Root()
		for i := range uint64(n) {
			good, err := tr.Prove(i)
			must(t, err)
			refuse := func(what string, p Proof, root top.ID, sum top.Amount, count uint64) {
				t.Helper()
				if _, err := p.Verify(root, sum, count); !errors.Is(err, top.ErrDenied) {
					t.Fatalf("leaf %d of %d: %s: %v", i, n, what, err)
				}
			}
			change := func(f func(*Proof)) Proof {
				p := good
				p.Path = append([]Step(nil), good.Path...)
				f(&p)
				return p
			}
			refuse("a larger leaf", change(func(p *Proof) { p.Leaf.Amount++ }), root, sum, count)
			refuse("a smaller leaf", change(func(p *Proof) { p.Leaf.Amount-- }), root, sum, count)
			refuse("another entry", change(func(p *Proof) { p.Leaf.Entry[31]++ }), root, sum, count)
			refuse("a step more", change(func(p *Proof) { p.Path = append(p.Path, Step{}) }), root, sum, count)
			refuse("another sum", good, root, sum+1, count)
			refuse("another root", good, top.ID{1}, sum, count)
			refuse("no log", good, root, sum, 0)
			for other := uint64(1); other < 2*count+2; other++ {
				if other != count {
					refuse(fmt.Sprintf("a count of %d", other), good, root, sum, other)
				}
			}
			for other := range count + 2 {
				if other != i {
					refuse(fmt.Sprintf("as leaf %d", other), change(func(p *Proof) { p.Index = other }), root, sum, count)
				}
			}
			for k := range good.Path {
				refuse("a step's digest", change(func(p *Proof) { p.Path[k].Hash[0]++ }), root, sum, count)
				refuse("a step's sum", change(func(p *Proof) { p.Path[k].Sum++ }), root, sum, count)
				// Money moved from the leaf to the half beside it: the total stays.
				refuse("money moved", change(func(p *Proof) { p.Path[k].Sum++; p.Leaf.Amount-- }), root, sum, count)
				refuse("a step fewer", change(func(p *Proof) { p.Path = p.Path[:k] }), root, sum, count)
			}
		}
	}
}

// A half of no leaves would hold a sum that no leaf explains.
func TestR6_NoSumWithoutALeaf(t *testing.T) {
	leaf := Leaf{Amount: 3, Entry: top.ID{1}}
	empty := node{hash: top.ID{2}, sum: 4}
	for _, halves := range [][2]node{{leaf.node(), empty}, {empty, leaf.node()}} {
		root, ok := join(halves[0], halves[1])
		if !ok {
			t.Fatal("the forger's tree does not hold together")
		}
		p := Proof{Leaf: leaf, Path: []Step{empty.step()}}
		if _, err := p.Verify(root.hash, root.sum, root.count); !errors.Is(err, top.ErrDenied) {
			t.Fatal(err)
		}
	}
}

// A forger who hashes without checks makes a log of 10 TOP out of a leaf of more
// and a half that is "negative". Its digests are right; its sums are not.
func TestR6_NoSumWraps(t *testing.T) {
	forge := func(l, r node) node {
		b := make([]byte, 0, 96)
		for _, n := range [2]node{l, r} {
			b = append(b, n.hash[:]...)
			b = binary.BigEndian.AppendUint64(b, uint64(n.sum))
			b = binary.BigEndian.AppendUint64(b, n.count)
		}
		return node{wire.Digest(nodeDomain, b), l.sum + r.sum, l.count + r.count}
	}
	minus := func(a top.Amount) top.Amount { return -a }
	for _, tc := range []struct {
		name string
		leaf top.Amount
		half top.Amount
	}{
		{"a negative half", 15 * top.One, minus(5 * top.One)},
		{"a negative leaf", minus(5 * top.One), 15 * top.One},
		{"a sum above the supply", top.MaxSupply, 1},
		{"a half above the supply", 0, top.MaxSupply + 1},
		{"a leaf above the supply", top.MaxSupply + 1, 0},
		{"a sum that wraps to nothing", 1 << 63, 1 << 63},
	} {
		t.Run(tc.name, func(t *testing.T) {
			leaf := Leaf{Amount: tc.leaf, Entry: top.ID{1}}
			half := node{top.ID{2}, tc.half, 1}
			for index, root := range []node{forge(leaf.node(), half), forge(half, leaf.node())} {
				p := Proof{Index: uint64(index), Leaf: leaf, Path: []Step{half.step()}}
				if _, err := p.Verify(root.hash, root.sum, root.count); !errors.Is(err, top.ErrDenied) {
					t.Fatalf("as leaf %d: %v", index, err)
				}
			}
			if tc.leaf > top.MaxSupply {
				only := Proof{Leaf: leaf}
				if _, err := only.Verify(leaf.node().hash, tc.leaf, 1); !errors.Is(err, top.ErrDenied) {
					t.Fatalf("as the only leaf: %v", err)
				}
			}
		})
	}
}

func TestR6_ALogOfTooMuchIsRefused(t *testing.T) {
	var l Log
	must(t, l.Append(top.MaxSupply, top.ID{1}))
	root, sum, count := l.Root()
	for _, amount := range []top.Amount{1, top.MaxSupply, 1<<64 - 1} {
		if err := l.Append(amount, top.ID{2}); !errors.Is(err, top.ErrInvalid) {
			t.Fatalf("append %d: %v", uint64(amount), err)
		}
		if _, err := NewTree([]Leaf{{1, top.ID{}}, {top.MaxSupply, top.ID{}}, {amount, top.ID{}}}); !errors.Is(err, top.ErrInvalid) {
			t.Fatalf("tree with %d: %v", uint64(amount), err)
		}
	}
	if r, s, c := l.Root(); r != root || s != sum || c != count {
		t.Fatal("a refused entry changed the log")
	}
	must(t, l.Append(0, top.ID{2}))
}

func TestR7_LogIsTheTreeInLittleMemory(t *testing.T) {
	all := leaves(300)
	var l Log
	for n := 0; ; n++ {
		root, sum, count := l.Root()
		wantRoot, wantSum, wantCount := tree(t, all[:n]).Root()
		if root != wantRoot || sum != wantSum || count != wantCount {
			t.Fatalf("%d entries: %s %d %d, want %s %d %d", n, root, sum, count, wantRoot, wantSum, wantCount)
		}
		if len(l.peaks) > bits.Len(uint(n)) {
			t.Fatalf("%d entries: %d nodes kept", n, len(l.peaks))
		}
		var back Log // a provider that starts again goes on with the same log
		must(t, back.Decode(l.Encode()))
		l = back
		if n == len(all) {
			return
		}
		must(t, l.Append(all[n].Amount, all[n].Entry))
	}
}

func TestFind(t *testing.T) {
	l := leaves(40)
	tr := tree(t, l)
	_, sum, _ := tr.Root()
	nano := top.Amount(0)
	for i := range l {
		for _, at := range []top.Amount{0, l[i].Amount / 2, l[i].Amount - 1} {
			if l[i].Amount == 0 {
				break // it holds no nano: it is never drawn
			}
			if got, err := tr.Find(nano + at); err != nil || got != uint64(i) {
				t.Fatalf("nano %d: leaf %d (%v), want %d", nano+at, got, err, i)
			}
		}
		nano += l[i].Amount
	}
	for _, at := range []top.Amount{sum, sum + 1, 1<<64 - 1} {
		if _, err := tr.Find(at); !errors.Is(err, top.ErrNotFound) {
			t.Fatalf("nano %d of %d: %v", uint64(at), sum, err)
		}
	}
	if _, err := tree(t, nil).Find(0); !errors.Is(err, top.ErrNotFound) {
		t.Fatalf("an empty log: %v", err)
	}
}

func TestProveRefusesWhatIsNotThere(t *testing.T) {
	for _, n := range []int{0, 1, 7} {
		for _, i := range []uint64{uint64(n), uint64(n) + 1, 1<<64 - 1} {
			if _, err := tree(t, leaves(n)).Prove(i); !errors.Is(err, top.ErrNotFound) {
				t.Fatalf("leaf %d of %d: %v", i, n, err)
			}
		}
	}
}

// The shape of a log of more entries than anyone can hold still has an end.
func TestShapeOfTheLargest(t *testing.T) {
	for _, tc := range []struct {
		i, n         uint64
		height, left int
		right        bool
	}{
		{0, 1, 0, 0, false},
		{6, 7, 0, 2, false},
		{4, 7, 1, 1, true},
		{1<<64 - 2, 1<<64 - 1, 0, 63, false},
		{0, 1<<64 - 1, 63, 0, true},
		{1 << 63, 1<<64 - 1, 62, 1, true},
	} {
		height, left, right := shape(tc.i, tc.n)
		if height != tc.height || left != tc.left || right != tc.right {
			t.Errorf("leaf %d of %d: %d %d %v", tc.i, tc.n, height, left, right)
		}
		p := Proof{Index: tc.i, Path: make([]Step, maxPath)}
		if _, err := p.Verify(top.ID{}, 0, tc.n); !errors.Is(err, top.ErrDenied) {
			t.Errorf("a path of nothing to leaf %d of %d: %v", tc.i, tc.n, err)
		}
		p.Path = p.Path[:tc.height+tc.left]
		if tc.right {
			p.Path = append(p.Path, Step{})
		}
		if _, err := p.Verify(top.ID{}, 0, tc.n); !errors.Is(err, top.ErrDenied) {
			t.Errorf("a path of zeros to leaf %d of %d: %v", tc.i, tc.n, err)
		}
	}
}

func TestR6_AReceiptsEntries(t *testing.T) {
	w := newWorld()
	r := w.paid(t, 0, 6)
	l := []Leaf{{3 * price, top.ID{1}}, {3 * price, top.ID{2}}}
	p, err := tree(t, l).Prove(1)
	must(t, err)
	start, err := r.CheckEntry(p)
	if err != nil || start != 3*price {
		t.Fatalf("entry 1 starts at %d: %v", start, err)
	}
	other := w.paid(t, 0, 8)
	if _, err := other.CheckEntry(p); !errors.Is(err, top.ErrDenied) {
		t.Fatalf("an entry of another log: %v", err)
	}
}

func TestR4_LogAndProofDecode(t *testing.T) {
	var l Log
	for _, leaf := range leaves(11) {
		must(t, l.Append(leaf.Amount, leaf.Entry))
	}
	p, err := tree(t, leaves(11)).Prove(9)
	must(t, err)
	log, proof := l.Encode(), p.Encode()
	var much wire.Encoder // two peaks that sum to more than there can ever be
	much.Uint(3)
	for range 2 {
		much.Raw(make([]byte, 32))
		much.Amount(top.MaxSupply)
	}
	for _, tc := range []struct {
		name   string
		b      []byte
		decode func([]byte) error
	}{
		{"log: nothing", nil, new(Log).Decode},
		{"log: short", log[:len(log)-1], new(Log).Decode},
		{"log: left over", append(log[:len(log):len(log)], 0), new(Log).Decode},
		{"log: a count that its nodes do not have", append([]byte{15}, log[1:]...), new(Log).Decode},
		{"log: a sum above the supply", much.Out(), new(Log).Decode},
		{"proof: nothing", nil, new(Proof).Decode},
		{"proof: short", proof[:len(proof)-1], new(Proof).Decode},
		{"proof: left over", append(proof[:len(proof):len(proof)], 0), new(Proof).Decode},
		{"proof: too long", make([]byte, maxProof+1), new(Proof).Decode},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := tc.decode(tc.b); !errors.Is(err, top.ErrInvalid) {
				t.Fatalf("%v, want invalid", err)
			}
		})
	}
	if err := l.Decode(nil); err == nil || l.count != 0 || l.peaks != nil {
		t.Fatal("a refused log leaves something behind")
	}
}

func BenchmarkLogAppend(b *testing.B) {
	var l Log
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Append(1, top.ID{1}); err != nil {
			b.Fatal(err)
		}
	}
}
