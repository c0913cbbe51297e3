package keys

import (
	"crypto/rand"
	"fmt"
	"testing"
)

// BenchmarkBatch is a signature in batches, with the keys in a ring: by size, by the
// number of payers, and both ways.
func BenchmarkBatch(b *testing.B) {
	for _, lanes := range []bool{true, false} {
		for _, size := range []int{64, 256, 1000, 2000} {
			for _, payers := range []int{1, 256, size} {
				if payers > size || payers == 256 && size == 256 {
					continue
				}
				way := map[bool]string{true: "lanes", false: "voi"}[lanes]
				b.Run(fmt.Sprintf("%s/%d/payers=%d", way, size, payers), func(b *testing.B) { benchBatch(b, lanes, size, payers) })
			}
		}
	}
}

// BenchmarkFlood is a signature in batches of 1,000 of which some are bad, both ways.
func BenchmarkFlood(b *testing.B) {
	for way, lanes := range ways {
		for _, bad := range []int{1, 30, 1000} {
			b.Run(fmt.Sprintf("%s/bad=%d", way, bad), func(b *testing.B) {
				k, msg := key(1), make([]byte, 150)
				pub, good := k.Public(), k.Sign(msg)
				for b.Loop() {
					batch := newBatch(1000, nil, lanes)
					for i := range 1000 {
						sig := good
						if i*bad%1000 < bad {
							sig[32] ^= 1
						}
						batch.Add(pub, msg, sig)
					}
					if all, _ := batch.Verify(rand.Reader); all {
						b.Fatal("bad signatures are accepted")
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/signature")
			})
		}
	}
}

func benchBatch(b *testing.B, lanes bool, size, payers int) {
	pubs, msgs, sigs := make([][32]byte, size), make([][]byte, size), make([][64]byte, size)
	for i := range sigs {
		k := FromSeed([32]byte{byte(i % payers), byte(i % payers >> 8)})
		pubs[i], msgs[i] = k.Public(), make([]byte, 150)
		msgs[i][0], msgs[i][1] = byte(i), byte(i>>8)
		sigs[i] = k.Sign(msgs[i])
	}
	ring := new(Ring)
	b.ReportAllocs()
	for b.Loop() {
		batch := newBatch(size, ring, lanes)
		for i := range sigs {
			batch.Add(pubs[i], msgs[i], sigs[i])
		}
		if all, _ := batch.Verify(rand.Reader); !all {
			b.Fatal("a good signature is refused")
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(size), "ns/signature")
}
