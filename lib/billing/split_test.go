package billing

import (
	"errors"
	"math/big"
	"math/rand/v2"
	"reflect"
	"testing"

	"top/lib/top"
)

func TestB6_SplitStaysWithThePayer(t *testing.T) {
	for _, tc := range []struct {
		name   string
		amount top.Amount
		ppm    []uint32
		parts  []top.Amount
		rest   top.Amount
	}{
		{"nobody", 100, nil, []top.Amount{}, 100},
		{"all to one", 100, []uint32{Million}, []top.Amount{100}, 0},
		{"a developer's tenth", 1_000, []uint32{100_000}, []top.Amount{100}, 900},
		{"thirds", 100, []uint32{333_333, 333_333, 333_333}, []top.Amount{33, 33, 33}, 1},
		{"halves of one nano", 1, []uint32{500_000, 500_000}, []top.Amount{0, 0}, 1},
		{"nothing", 0, []uint32{500_000, 500_000}, []top.Amount{0, 0}, 0},
		{"a share of nothing", 100, []uint32{0, Million}, []top.Amount{0, 100}, 0},
		{"all there can ever be", top.MaxSupply, []uint32{1, 999_999}, []top.Amount{9_999_999_999_999, 9_999_989_999_999_999_999}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			shares := make([]Share, len(tc.ppm))
			for i, p := range tc.ppm {
				shares[i] = Share{To: top.Address{byte(i)}, PPM: p}
			}
			parts, rest, err := Split(tc.amount, shares)
			must(t, err)
			if !reflect.DeepEqual(parts, tc.parts) || rest != tc.rest {
				t.Fatalf("%v, rest %d; want %v, rest %d", parts, rest, tc.parts, tc.rest)
			}
		})
	}
	for _, ppm := range [][]uint32{{Million + 1}, {Million, 1}, {1<<32 - 1, 1<<32 - 1, 2}, {500_000, 500_001}} {
		var shares []Share
		for _, p := range ppm {
			shares = append(shares, Share{PPM: p})
		}
		if _, _, err := Split(100, shares); !errors.Is(err, top.ErrInvalid) {
			t.Errorf("shares %v: %v", ppm, err)
		}
	}
}

func TestB6_RandomSplits(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	for range 20_000 {
		amount := top.Amount(rng.Uint64N(uint64(top.MaxSupply)) >> rng.IntN(64))
		left := uint32(Million)
		var shares []Share
		for range rng.IntN(6) {
			s := Share{PPM: rng.Uint32N(left + 1)}
			left -= s.PPM
			shares = append(shares, s)
		}
		parts, rest, err := Split(amount, shares)
		must(t, err)
		sum := rest
		for i, p := range parts {
			sum += p
			exact := new(big.Int).SetUint64(uint64(amount))
			exact.Mul(exact, big.NewInt(int64(shares[i].PPM))).Div(exact, big.NewInt(Million))
			if exact.Uint64() != uint64(p) {
				t.Fatalf("%d ppm of %d: %d, want %d", shares[i].PPM, amount, p, exact)
			}
		}
		if sum != amount {
			t.Fatalf("split %d: the parts and the rest are %d", amount, sum)
		}
		if left == 0 && len(shares) > 0 && rest >= top.Amount(len(shares)) {
			t.Fatalf("split %d among %d: rest %d", amount, len(shares), rest)
		}
	}
}
