package receipt

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"top/lib/top"
)

// check holds W1 for a decoder: what it accepts encodes to the same bytes, and
// those decode to the same value.
func check[T any](t *testing.T, b []byte, decode func(*T, []byte) error, encode func(*T) []byte) {
	t.Helper()
	var v, again T
	if decode(&v, b) != nil {
		return
	}
	out := encode(&v)
	if !bytes.Equal(out, b) {
		t.Fatalf("accepted %x, encodes %x", b, out)
	}
	if err := decode(&again, out); err != nil || !reflect.DeepEqual(v, again) {
		t.Fatalf("decodes to another value: %v", err)
	}
}

func FuzzReceipt(f *testing.F) {
	w := newWorld()
	f.Add(w.paid(f, 99_999, 40).Encode())
	f.Add(w.paid(f, 0, 0).Encode())
	f.Add(w.settled(f, 10*price, 3*price).Encode())
	f.Add(w.unverified(f, 40, 7).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		check(t, b, (*Receipt).Decode, func(r *Receipt) []byte { return r.Encode() })
		var r Receipt
		if r.Decode(b) != nil {
			return
		}
		_ = r.Verify() // no panic, whatever it says
		if rec := r.Record(); r.Compare(r) != 0 {
			t.Fatal("a receipt is not itself")
		} else if back, err := FromRecord(rec); err != nil || back.ID() != r.ID() {
			t.Fatalf("its record: %v", err)
		}
	})
}

func FuzzRecord(f *testing.F) {
	line, err := json.Marshal(newWorld().paid(f, 99_999, 40).Record())
	must(f, err)
	f.Add(line)
	f.Add([]byte(`{"type":"receipt"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var rec Record
		if json.Unmarshal(b, &rec) != nil {
			return
		}
		r, err := FromRecord(rec)
		if err != nil {
			return
		}
		if r.Record() != rec {
			t.Fatalf("accepted %+v, shows %+v", rec, r.Record())
		}
	})
}

func FuzzLog(f *testing.F) {
	for _, n := range []int{0, 1, 11} {
		var l Log
		for _, leaf := range leaves(n) {
			must(f, l.Append(leaf.Amount, leaf.Entry))
		}
		f.Add(l.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		check(t, b, (*Log).Decode, (*Log).Encode)
		var l Log
		if l.Decode(b) != nil {
			return
		}
		_, sum, count := l.Root()
		if err := l.Append(1, top.ID{}); (err != nil) != (sum == top.MaxSupply || count == 1<<64-1) {
			t.Fatalf("a log of %d and %d entries: one more: %v", sum, count, err)
		}
		l.Root()
	})
}

func FuzzProof(f *testing.F) {
	for _, n := range []int{1, 7} {
		tr, err := NewTree(leaves(n))
		must(f, err)
		root, sum, count := tr.Root()
		for i := range count {
			p, err := tr.Prove(i)
			must(f, err)
			f.Add(p.Encode(), root[:], uint64(sum), count)
		}
	}
	f.Fuzz(func(t *testing.T, b, hash []byte, sum, count uint64) {
		check(t, b, (*Proof).Decode, func(p *Proof) []byte { return p.Encode() })
		var p Proof
		if p.Decode(b) != nil {
			return
		}
		var root top.ID
		copy(root[:], hash)
		start, err := p.Verify(root, top.Amount(sum), count)
		if end, ok := start.Add(p.Leaf.Amount); err == nil && (!ok || end > top.Amount(sum) || p.Index >= count) {
			t.Fatalf("entry %d of %d holds nano %d to %d of %d", p.Index, count, start, end, sum)
		}
	})
}
