package chain

import (
	"bytes"
	"testing"
)

func FuzzLightBlock(f *testing.F) {
	w := newWorld(&testing.T{})
	w.growTo(2)
	for _, n := range []int{0, 2, 4} {
		b, err := encodeLightBlock(w.sign(w.blocks[1].lb.Header, n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{})
	hs := newWorldHeaders(w)
	f.Fuzz(func(t *testing.T, b []byte) {
		lb, err := parseLightBlock(b)
		if err != nil {
			return
		}
		once, err := encodeLightBlock(lb)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseLightBlock(once)
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := encodeLightBlock(again); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("encoded twice it differs: %v", err)
		}
		// Whatever is in it, judging it does not panic, and nothing but the block
		// that was signed is kept.
		kept, err := hs.accept(t.Context(), nowhere{}, lb)
		if err == nil && !bytes.Equal(kept.Hash(), w.blocks[lb.Height-1].lb.Hash()) {
			t.Fatalf("block %d %X was kept", kept.Height, kept.Hash())
		}
		hs.signed(lb)
	})
}
