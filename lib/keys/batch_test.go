package keys

import (
	"crypto/rand"
	mathrand "math/rand/v2"
	"testing"

	"github.com/oasisprotocol/curve25519-voi/curve"
)

// TestK1_ManyBothWays has batches with some bad signatures of each kind, keys that
// are none, and payers that share or not.
func TestK1_ManyBothWays(t *testing.T) {
	r := mathrand.New(mathrand.NewPCG(1, 2))
	rings := map[string]*Ring{"lanes": new(Ring), "voi": new(Ring)}
	seen := map[bool]int{}
	for round := range 40 {
		size, payers, bad := 1+r.IntN(120), 1+r.IntN(30), []int{0, 0, 1, 3, 100}[round%5]
		pubs, msgs, sigs, want := make([][32]byte, size), make([][]byte, size), make([][64]byte, size), make([]bool, size)
		for i := range size {
			k := key(byte(r.IntN(payers)))
			pubs[i], msgs[i] = k.Public(), make([]byte, r.IntN(300))
			sigs[i] = k.Sign(msgs[i])
			if r.IntN(120) < bad {
				switch r.IntN(4) {
				case 0:
					sigs[i][r.IntN(64)] ^= 1 << r.IntN(8)
				case 1:
					pubs[i][r.IntN(32)] ^= 1 << r.IntN(8)
				case 2:
					msgs[i] = append(msgs[i], 1)
				case 3: // two bad ones whose errors add up to nothing
					sigs[i][32]++
					sigs[max(i-1, 0)][32]--
				}
			}
		}
		all := true
		for i := range size {
			want[i] = VerifyRaw(pubs[i], msgs[i], sigs[i])
			all = all && want[i]
			seen[want[i]]++
		}
		for way, lanes := range ways {
			b := newBatch(size, rings[way], lanes)
			for i := range size {
				b.Add(pubs[i], msgs[i], sigs[i])
			}
			good, each := b.Verify(rand.Reader)
			if good != all || all != (each == nil) {
				t.Fatalf("%s: %d signatures: %v, one by one %v", way, size, good, all)
			}
			for i, ok := range each {
				if ok != want[i] {
					t.Fatalf("%s: %d of %d: %v, alone %v", way, i, size, ok, want[i])
				}
			}
			// More is added, and all is judged again.
			k := key(200)
			b.Add(k.Public(), nil, k.Sign(nil))
			if good, each := b.Verify(rand.Reader); good != all || !good && !each[size] {
				t.Fatalf("%s: with one more: %v", way, good)
			}
		}
	}
	if seen[true] < 100 || seen[false] < 100 {
		t.Errorf("%d good and %d bad: the test sees one side", seen[true], seen[false])
	}
}

// TestK1_KeysBothWays compares which encodings are keys.
func TestK1_KeysBothWays(t *testing.T) {
	r := mathrand.New(mathrand.NewPCG(3, 4))
	var all []laneKey
	for range 2000 {
		k := laneKey{}
		for i := range k.pub {
			k.pub[i] = byte(r.Uint32())
		}
		all = append(all, k)
	}
	for _, s := range smallOrder {
		all = append(all, laneKey{pub: [32]byte(unhex(t, s))})
	}
	ring := new(Ring)
	ring.points(all)
	good := 0
	for i := range all {
		y := curve.CompressedEdwardsY(all[i].pub)
		_, err := new(curve.EdwardsPoint).SetCompressedY(&y)
		if (err == nil) != (all[i].point != nil) {
			t.Fatalf("%x: a key in lanes %v, by voi %v", all[i].pub, all[i].point != nil, err)
		}
		// The ring serves both ways, and gives the same point again.
		if (ring.point(all[i].pub) != nil) != (err == nil) {
			t.Fatalf("%x: the ring differs", all[i].pub)
		}
		if err == nil {
			good++
		}
	}
	again := []laneKey{{pub: all[len(all)-1].pub}}
	if ring.points(again); again[0].point != all[len(all)-1].point {
		t.Error("the ring does not keep a key")
	}
	if good < 800 || good > 1200 {
		t.Errorf("%d of %d are keys", good, len(all))
	}
}

func TestRingIsBounded(t *testing.T) {
	var r Ring
	k := key(1)
	one := []laneKey{{pub: k.Public()}}
	r.points(one)
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range 3 * ringKeys {
		r.putLocked([32]byte{byte(i), byte(i >> 8), byte(i >> 16), 1}, ringKey{lanes: one[0].point})
		if len(r.new)+len(r.old) > 2*ringKeys {
			t.Fatal("more than twice ringKeys")
		}
	}
	if len(r.new)+len(r.old) < ringKeys || r.getLocked(k.Public()).lanes != nil {
		t.Error("the ring forgets too much, or nothing")
	}
}

// FuzzBatch mangles a good signature, its key and its message, and judges it alone,
// among good ones, and both ways.
func FuzzBatch(f *testing.F) {
	f.Add([]byte("pay"), []byte{})
	f.Add([]byte("pay"), []byte{0, 1})
	f.Add([]byte(""), []byte{40, 1, 70, 3})
	f.Add([]byte("x"), []byte{63, 0xf0})
	for _, s := range smallOrder {
		b := unhex(f, s)
		var change []byte
		for i := range b {
			change = append(change, byte(64+i)|0x80, b[i])
		}
		f.Add([]byte("Zcash"), change)
	}
	f.Fuzz(func(t *testing.T, msg, change []byte) {
		k := key(7)
		pub, sig := k.Public(), k.Sign(msg)
		// A change is a place and what is mixed in there, or set with the high bit.
		for ; len(change) >= 2; change = change[2:] {
			at := &sig[change[0]%64]
			if n := change[0] % 128; n >= 64 && n < 96 {
				at = &pub[n-64]
			}
			if *at ^= change[1]; change[0] >= 128 {
				*at = change[1]
			}
		}
		judged(t, pub, msg, sig)
	})
}
