package stake

import (
	"cmp"
	"math/big"
	"slices"

	"top/lib/top"
)

// laws are what holds whatever is done, by exact fractions and slow sorts.
type laws struct {
	w     *world
	last  map[top.ValidatorID]Validator
	epoch uint64
	now   uint64
	lost  top.Amount
}

func newLaws(w *world) *laws {
	l := &laws{w: w}
	l.note()
	return l
}

func (l *laws) note() {
	l.last = map[top.ValidatorID]Validator{}
	for id, v := range l.w.vals {
		l.last[id] = *v
	}
	l.epoch, l.now, l.lost = l.w.head.Epoch, l.w.now, l.w.Burned()
}

func price(v *Validator) *big.Rat {
	return new(big.Rat).SetFrac(new(big.Int).SetUint64(uint64(v.Tokens)), new(big.Int).SetUint64(v.Shares))
}

// hold compares each pool with what it was before the last step.
func (l *laws) hold(w *world) {
	w.t.Helper()
	for id, v := range w.vals {
		was, ok := l.last[id]
		if !ok || was.Shares == 0 || v.Shares == 0 {
			continue
		}
		before, after := price(&was), price(v)
		if fell := after.Cmp(before) < 0; fell && w.Burned() == l.lost {
			w.t.Fatalf("K2: a share of %s fell from %s to %s without a penalty", id, before.FloatString(12), after.FloatString(12))
		}
		// No yield is above its rate, in the time since it was last paid; one nano of
		// rounding for each thing done at once stays in the pool.
		most := new(big.Rat).SetFrac64(int64(w.p.YieldPPM)*int64(w.now-was.Settled), million*yearMs)
		most.Add(most, big.NewRat(1, 1)).Mul(most, before)
		most.Add(most, new(big.Rat).SetFrac64(8, int64(v.Shares)))
		if after.Cmp(most) > 0 {
			w.t.Fatalf("K1: a share of %s rose from %s to %s, at most %s", id, before.FloatString(12), after.FloatString(12), most.FloatString(12))
		}
		if was.Gone && (!v.Gone || v.Power > 0 && len(w.Powers()) > 1) {
			w.t.Fatalf("K5: %s came back", id)
		}
	}
	if w.head.Epoch > l.epoch {
		l.elected()
	}
	l.note()
}

// elected sorts slowly.
func (l *laws) elected() {
	w := l.w
	var stand []Validator
	for _, v := range w.vals {
		if !v.Jailed && w.worth(v.Owner, v.ID[0]) >= w.p.MinSelf {
			stand = append(stand, *v)
		}
	}
	if len(stand) == 0 {
		return
	}
	slices.SortFunc(stand, func(a, b Validator) int {
		return cmp.Or(cmp.Compare(b.Tokens, a.Tokens), slices.Compare(a.ID[:], b.ID[:]))
	})
	var want []Power
	for _, v := range stand[:min(len(stand), int(w.p.MaxValidators))] {
		want = append(want, Power{v.ID, uint64(v.Tokens / top.One)})
	}
	slices.SortFunc(want, func(a, b Power) int { return slices.Compare(a.ID[:], b.ID[:]) })
	if got := w.Powers(); !slices.Equal(got, want) {
		w.t.Fatalf("K5: elected %v, want %v", got, want)
	}
}

// bought checks that coins bought what they are worth, but for the rounding of a
// share, and of the yield in between.
func (l *laws) bought(after, before, paid top.Amount) {
	l.w.t.Helper()
	if after > before+paid+2 || after+4 < before+paid {
		l.w.t.Fatalf("K2: %d and %d became %d", before, paid, after)
	}
}

// sold checks that a lot is what was asked for, or all.
func (l *laws) sold(away []Leaving, serial uint64, before, asked top.Amount) {
	l.w.t.Helper()
	at := slices.IndexFunc(away, func(a Leaving) bool { return a.ID == top.ID{byte(serial), byte(serial >> 8), byte(serial >> 16)} })
	if at < 0 {
		l.w.t.Fatal("a lot is not on its way")
	}
	got := away[at].Amount
	if got < asked || got > before+2 || asked > 0 && got > asked+2 && before-asked >= top.One {
		l.w.t.Fatalf("K2: asked for %d of %d, got %d", asked, before, got)
	}
}
