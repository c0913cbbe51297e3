package stake

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"top/lib/top"
)

// rows is a tree that remembers its rows.
type rows map[[32]byte]string

func (r rows) PutRow(key [32]byte, row []byte) { r[key] = string(row) }
func (r rows) RemoveRow(key [32]byte)          { delete(r, key) }

// world is a book with validators 1, 2, …, owned by accounts of the same numbers.
type world struct {
	*Book
	t      *testing.T
	p      Params
	rows   rows
	in     top.Amount // put in, less what came out
	height top.Height
	now    uint64
	serial uint64
	set    map[top.ValidatorID]uint64 // of the consensus
}

const year = yearMs

func id(n byte) top.ValidatorID { return top.ValidatorID{n} }

func fresh(t *testing.T, stakes ...top.Amount) *world {
	t.Helper()
	w := &world{t: t, p: Default(), rows: rows{}, now: 1_000_000, set: map[top.ValidatorID]uint64{}}
	w.p.MinSelf, w.p.EpochBlocks, w.p.DowntimeEpochs, w.p.VoteEpochs, w.p.Deposit = top.One, 10, 3, 0, 5*top.One
	w.Book = New(&w.p, 1_000_000*top.One, w.rows)
	for i, s := range stakes {
		n := byte(i + 1)
		w.must(w.Found(Validator{ID: id(n), Owner: uint32(n)}, s*top.One, w.now))
		w.in += s * top.One
	}
	w.Install(w.now)
	for _, p := range w.Powers() {
		w.set[p.ID] = p.Power
	}
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) refused(want, err error) {
	w.t.Helper()
	if !errors.Is(err, want) {
		w.t.Errorf("%v, want %v", err, want)
	}
}

func (w *world) wish(who uint32) Wish {
	w.serial++
	return Wish{Who: who, ID: top.ID{byte(w.serial), byte(w.serial >> 8), byte(w.serial >> 16)}, Height: w.height, Now: w.now}
}

func (w *world) delegate(who uint32, to byte, a top.Amount) error {
	err := w.Delegate(w.wish(who), id(to), a)
	if err == nil {
		w.in += a
	}
	return err
}

// block makes one block, with votes of all that have power and are not silent.
func (w *world) block(ms uint64, silent ...byte) (Day, []Release) {
	w.t.Helper()
	w.height++
	w.now += ms
	free := w.Begin(w.now)
	var voters [][20]byte
	for _, p := range w.Powers() {
		if !slices.Contains(silent, p.ID[0]) {
			voters = append(voters, Voter(p.ID))
		}
	}
	w.Alive(voters)
	d := w.End(w.height, w.now)
	// As the consensus takes it: nobody leaves who is not there, and some stay.
	for _, p := range d.Powers {
		if w.set[p.ID] == p.Power {
			w.t.Fatalf("K5: the power of %s changes from %d to %d", p.ID, w.set[p.ID], p.Power)
		}
		if w.set[p.ID] = p.Power; p.Power == 0 {
			delete(w.set, p.ID)
		}
	}
	now := map[top.ValidatorID]uint64{}
	for _, p := range w.Powers() {
		now[p.ID] = p.Power
	}
	if !maps.Equal(now, w.set) || w.head.On && len(now) == 0 {
		w.t.Fatalf("K5: the consensus has %v, the book %v", w.set, now)
	}
	for _, r := range append(free, d.Back...) {
		w.in -= r.Amount
	}
	w.balanced()
	return d, free
}

// epoch makes blocks until validators were elected.
func (w *world) epoch(silent ...byte) (d Day) {
	w.t.Helper()
	for e := w.head.Epoch; w.head.Epoch == e; {
		d, _ = w.block(100, silent...)
	}
	return d
}

// balanced is K1 and K2, and that the rows say what the book holds.
func (w *world) balanced() {
	w.t.Helper()
	if have, want := w.Locked()+w.Burned(), w.in+w.Minted(); have != want {
		w.t.Fatalf("K1: %d are there or burned, %d were put in or made", have, want)
	}
	w.must(w.Check(1000))
}

func (w *world) worth(who uint32, to byte) top.Amount {
	v, _ := w.Validator(id(to))
	d, _ := w.Delegation(id(to), who)
	return v.Worth(d.Shares)
}

func (w *world) power(n byte) uint64 {
	v, _ := w.Validator(id(n))
	return v.Power
}

func TestK1_TheYieldIsWhatTheRulesSay(t *testing.T) {
	w := fresh(t, 1000)
	v := w.vals[id(1)]
	v.Commission = 1000 // a tenth
	w.must(w.delegate(7, 1, 1000*top.One))
	w.block(year)
	for w.head.Epoch == 0 {
		w.block(0)
	}
	if got := w.Minted(); got != 100*top.One {
		t.Errorf("a year of 2,000 TOP at 5 %% made %s", got)
	}
	// The owner has a tenth of what the delegator earned, and its own.
	if mine, his := w.worth(1, 1), w.worth(7, 1); mine < 1054_999_999_990 || mine > 1055*top.One || his < 1044_999_999_990 || his > 1045*top.One {
		t.Errorf("owner %s, delegator %s", mine, his)
	}
	// Who joins now earns from now on.
	w.must(w.delegate(8, 1, 500*top.One))
	if got := w.worth(8, 1); got < 500*top.One-2 || got > 500*top.One {
		t.Errorf("500 TOP became %s at once", got)
	}
	v.Power = 0
	before := w.Minted()
	w.settle(v, w.now+year)
	if w.Minted() != before {
		t.Error("a validator without power earned")
	}
}

func TestK1_TheSupplyHasAnEnd(t *testing.T) {
	w := fresh(t, 1000)
	w.supply = top.MaxSupply - 3
	w.block(year)
	for w.head.Epoch == 0 {
		w.block(0)
	}
	if w.Minted() != 3 {
		t.Errorf("made %s beyond the end of money", w.Minted())
	}
}

func TestK2_SharesNeverTakeOutMore(t *testing.T) {
	w := fresh(t, 3, 5)
	w.must(w.delegate(9, 1, 7*top.One+1))
	w.must(w.delegate(8, 1, 3*top.One+2))
	w.vals[id(1)].Tokens += 3 // so that nothing divides
	w.in += 3
	for i := 0; ; i++ {
		before := w.Locked()
		err := w.Undelegate(w.wish(9), id(1), 1+top.Amount(i))
		if err != nil {
			break
		}
		w.balanced()
		if w.Locked() != before {
			t.Fatal("undelegating made or lost coins")
		}
		if i == maxLeaving {
			t.Fatal("more lots on their way than there may be")
		}
	}
	w.refused(top.ErrDenied, w.Undelegate(w.wish(9), id(1), top.One))
	w.refused(top.ErrDenied, w.Undelegate(w.wish(8), id(1), 4*top.One))
	w.refused(top.ErrNotFound, w.Undelegate(w.wish(7), id(1), 0))
	w.refused(top.ErrNotFound, w.Undelegate(w.wish(8), id(99), 0))
	w.refused(top.ErrDenied, w.delegate(8, 1, top.One-1))
	w.refused(top.ErrNotFound, w.delegate(8, 99, top.One))
	// Less than a TOP does not stay behind.
	w.must(w.Undelegate(w.wish(8), id(1), 2*top.One+3))
	if got := w.worth(8, 1); got != 0 {
		t.Errorf("%s stayed", got)
	}
	// When the last share goes, all goes.
	w.must(w.Undelegate(w.wish(2), id(2), 0))
	if v := w.vals[id(2)]; v.Tokens != 0 || v.Shares != 0 {
		t.Errorf("%s and %d shares without an owner", v.Tokens, v.Shares)
	}
	w.balanced()
}

func TestK2_CoinsComeBackAfterTheLock(t *testing.T) {
	w := fresh(t, 10, 20)
	w.p.YieldPPM, w.p.UnbondSeconds = 0, 60
	w.must(w.delegate(9, 1, 5*top.One))
	w.must(w.Undelegate(w.wish(9), id(1), 2*top.One))
	if _, free := w.block(59_999); len(free) != 0 {
		t.Errorf("free before the time: %v", free)
	}
	if _, free := w.block(1); !slices.Equal(free, []Release{{9, 2 * top.One}}) {
		t.Errorf("free: %v", free)
	}
	if w.worth(9, 1) != 3*top.One || len(w.Leaving(9)) != 0 {
		t.Error("the rest did not stay")
	}
	// A validator that nothing stands behind goes once it has no power.
	w.must(w.Undelegate(w.wish(1), id(1), 0))
	w.must(w.Undelegate(w.wish(9), id(1), 0))
	w.epoch()
	if w.power(1) != 0 {
		t.Error("elected without coins")
	}
	w.block(60_000)
	if _, ok := w.Validator(id(1)); ok {
		t.Error("an empty validator stays")
	}
}

func TestK3_CoinsAnswerWhereverTheyWent(t *testing.T) {
	w := fresh(t, 100, 100)
	w.p.YieldPPM, w.p.DoubleSignPPM = 0, 100_000
	for who := uint32(5); who <= 8; who++ {
		w.must(w.delegate(who, 1, 10*top.One))
	}
	w.must(w.Undelegate(w.wish(5), id(1), 0)) // long before the offence
	for range 3 {
		w.epoch()
	}
	offence := w.height
	w.block(100)
	w.must(w.Undelegate(w.wish(6), id(1), 0))
	w.must(w.Redelegate(w.wish(7), id(1), id(2), 0))
	w.must(w.delegate(9, 2, 10*top.One)) // has nothing to do with it
	w.block(100)
	w.refused(top.ErrNotFound, w.Redelegate(w.wish(7), id(2), id(1), 0)) // moved coins stay until they are free
	w.refused(top.ErrNotFound, w.Undelegate(w.wish(7), id(2), 0))
	taken := w.Punish(Offence{Voter(id(1)), offence}, w.now)
	// A tenth of 100 + 10 in the pool, of 10 on their way, of 10 elsewhere.
	if taken != 13*top.One {
		t.Errorf("%s were taken", taken)
	}
	w.balanced()
	if l := w.Leaving(5); l[0].Amount != 10*top.One {
		t.Errorf("who left before has %s", l[0].Amount)
	}
	if l := w.Leaving(6); l[0].Amount != 9*top.One {
		t.Errorf("who left after has %s", l[0].Amount)
	}
	if v, l := w.vals[id(2)], w.Leaving(7); v.Worth(l[0].Shares) != 9*top.One {
		t.Errorf("who moved has %s", v.Worth(l[0].Shares))
	}
	if w.worth(8, 1) != 9*top.One || w.worth(1, 1) != 90*top.One {
		t.Errorf("who stayed has %s, the owner %s", w.worth(8, 1), w.worth(1, 1))
	}
	if w.worth(9, 2) != 10*top.One || w.worth(2, 2) != 100*top.One {
		t.Errorf("others lost: %s, %s", w.worth(9, 2), w.worth(2, 2))
	}
	// When it is free, what moved is a part like any other.
	w.block(w.p.UnbondSeconds * 1000)
	if w.worth(7, 2) != 9*top.One {
		t.Errorf("what moved came to %s", w.worth(7, 2))
	}
}

func TestK4_OnceForOneOffenceAndNeverRoundedToNothing(t *testing.T) {
	w := fresh(t, 1, 50, 50)
	w.p.YieldPPM, w.p.DoubleSignPPM = 0, 1
	w.vals[id(1)].Tokens = 7 // nano
	w.in -= top.One - 7
	if got := w.Punish(Offence{Voter(id(1)), 1}, w.now); got != 1 {
		t.Errorf("a millionth of 7 nano is %d, rounded up", got)
	}
	if got := w.Punish(Offence{Voter(id(1)), 2}, w.now); got != 0 {
		t.Errorf("twice for one offence: %d", got)
	}
	if got := w.Punish(Offence{[20]byte{9}, 2}, w.now); got != 0 {
		t.Errorf("somebody that is not there lost %d", got)
	}
	d, _ := w.block(100)
	if !slices.Equal(d.Powers, []Power{{id(1), 0}}) {
		t.Errorf("powers: %v", d.Powers)
	}
	w.refused(top.ErrDenied, w.delegate(1, 1, 100*top.One))
	w.refused(top.ErrDenied, w.Unjail(Wish{Who: 1, Now: 1 << 50}, id(1)))
	for range 3 {
		w.epoch()
	}
	if w.power(1) != 0 {
		t.Error("elected again")
	}
	if w.worth(2, 2) != 50*top.One || w.worth(3, 3) != 50*top.One {
		t.Error("an honest validator lost")
	}
}

func TestK5_TheMostCoinsAreElected(t *testing.T) {
	w := fresh(t, 10, 20, 30)
	w.p.YieldPPM, w.p.MaxValidators = 0, 3
	w.must(w.Enter(w.wish(4), Validator{ID: id(4)}, 15*top.One))
	w.in += 15 * top.One
	if d, _ := w.block(100); len(d.Powers) != 0 {
		t.Errorf("elected within an epoch: %v", d.Powers)
	}
	if d := w.epoch(); !slices.Equal(d.Powers, []Power{{id(1), 0}, {id(4), 15}}) {
		t.Errorf("powers: %v", d.Powers)
	}
	w.must(w.delegate(9, 1, 100*top.One))
	if d := w.epoch(); !slices.Equal(d.Powers, []Power{{id(1), 110}, {id(4), 0}}) {
		t.Errorf("powers: %v", d.Powers)
	}
	// Without enough of its owner it may not stand, whatever others put in.
	w.p.MinSelf = 11 * top.One
	if d := w.epoch(); !slices.Equal(d.Powers, []Power{{id(1), 0}, {id(4), 15}}) {
		t.Errorf("powers: %v", d.Powers)
	}
	// Nobody may: the set stays.
	w.p.MinSelf = 1000 * top.One
	if d := w.epoch(); len(d.Powers) != 0 || len(w.Powers()) != 3 {
		t.Errorf("powers: %v", d.Powers)
	}
	// The last one that has power keeps it, punished or not.
	for n := byte(2); n <= 4; n++ {
		w.Punish(Offence{Voter(id(n)), w.height}, w.now)
	}
	if len(w.Powers()) != 1 {
		t.Errorf("the set: %v", w.Powers())
	}
	w.balanced()
	w.refused(top.ErrDenied, w.Enter(w.wish(9), Validator{ID: id(9)}, 999*top.One))
	w.refused(top.ErrDenied, w.Enter(w.wish(9), Validator{ID: id(1)}, 0))
	w.refused(top.ErrInvalid, w.Enter(w.wish(9), Validator{ID: id(9), Commission: maxCommission + 1}, 1000*top.One))
}

func TestACommissionRisesSlowly(t *testing.T) {
	w := fresh(t, 10)
	w.refused(top.ErrDenied, w.Enter(w.wish(1), Validator{ID: id(1), Commission: maxRaise + 1}, 0))
	w.must(w.Enter(w.wish(1), Validator{ID: id(1), Commission: maxRaise, Name: "one"}, 0))
	w.refused(top.ErrDenied, w.Enter(w.wish(1), Validator{ID: id(1), Commission: maxRaise + 1}, 0))
	w.epoch()
	w.must(w.Enter(w.wish(1), Validator{ID: id(1), Commission: 2 * maxRaise}, 0))
	w.must(w.Enter(w.wish(1), Validator{ID: id(1), Commission: 0}, 0))
}

func TestK6_WhoIsSilentGoesToJail(t *testing.T) {
	w := fresh(t, 10, 10, 10, 10)
	w.p.YieldPPM, w.p.DowntimePPM, w.p.JailSeconds = 0, 10_000, 600
	w.must(w.delegate(9, 4, 10*top.One))
	w.epoch(4)
	w.epoch(4)
	w.block(100) // one vote in three epochs is a sign of life
	for range 3 {
		if d := w.epoch(4); len(d.Powers) != 0 {
			t.Fatalf("jailed after a sign of life: %v", d.Powers)
		}
	}
	if d := w.epoch(4); !slices.Equal(d.Powers, []Power{{id(4), 0}}) {
		t.Fatalf("powers: %v", d.Powers)
	}
	if got := w.worth(9, 4); got != 9_900_000_000 {
		t.Errorf("its delegator has %s", got)
	}
	for n := byte(1); n <= 3; n++ {
		if w.worth(uint32(n), n) != 10*top.One {
			t.Errorf("honest validator %d has %s", n, w.worth(uint32(n), n))
		}
	}
	w.refused(top.ErrDenied, w.Unjail(w.wish(4), id(4)))
	w.block(600_000)
	w.refused(top.ErrDenied, w.Unjail(w.wish(3), id(4)))
	w.refused(top.ErrDenied, w.Unjail(w.wish(3), id(3)))
	w.must(w.Unjail(w.wish(4), id(4)))
	if d := w.epoch(); !slices.Equal(d.Powers, []Power{{id(4), 19}}) {
		t.Errorf("powers: %v", d.Powers)
	}
	for range 2 { // it has as long as any other from now on
		w.epoch(4)
	}
	if w.power(4) == 0 {
		t.Error("jailed again at once")
	}
}

func TestK7_AVoteWeighsWhatIsStakedAtItsEnd(t *testing.T) {
	w := fresh(t, 10, 20, 30)
	w.p.YieldPPM = 0
	propose := func() uint64 {
		a, err := w.Propose(w.wish(9), "x", 5)
		w.must(err)
		w.in += a
		return w.head.Proposals
	}
	w.must(w.delegate(9, 1, 40*top.One))
	w.must(w.delegate(9, 3, 5*top.One))
	n := propose()
	w.refused(top.ErrNotFound, w.Vote(w.wish(1), n+1, true))
	w.refused(top.ErrDenied, w.Vote(w.wish(88), n, true))
	w.must(w.Vote(w.wish(1), n, true))
	if got, _ := w.Tally(n); got != (Tally{50 * top.One, 0, 105 * top.One}) {
		t.Errorf("an owner votes for its delegators: %+v", got)
	}
	w.must(w.Vote(w.wish(9), n, false))
	w.must(w.Vote(w.wish(3), n, true))
	if got, _ := w.Tally(n); got != (Tally{40 * top.One, 45 * top.One, 105 * top.One}) {
		t.Errorf("unless they vote: %+v", got)
	}
	w.must(w.Undelegate(w.wish(9), id(1), 0))
	if got, _ := w.Tally(n); got != (Tally{40 * top.One, 5 * top.One, 65 * top.One}) {
		t.Errorf("what left has no vote: %+v", got)
	}
	if d := w.epoch(); !slices.Equal(d.Changes, []Change{{n, "x", 5}}) || !slices.Equal(d.Back, []Release{{9, 5 * top.One}}) {
		t.Errorf("it passed, and the deposit is back: %+v", d)
	}
	if w.Votes(n) != 0 || len(w.Proposals()) != 0 {
		t.Error("a vote goes on after its end")
	}
	// Too few vote: the deposit is gone. Two thirds are not more than two thirds.
	propose()
	if d := w.epoch(); d.Changes != nil || d.Back != nil {
		t.Errorf("without votes: %+v", d)
	}
	n = propose()
	w.must(w.Undelegate(w.wish(9), id(3), 0))
	w.must(w.Vote(w.wish(1), n, true))
	w.must(w.Vote(w.wish(3), n, true))
	w.must(w.Vote(w.wish(2), n, false))
	if d := w.epoch(); d.Changes != nil || d.Back == nil {
		t.Errorf("with two thirds of the votes: %+v", d)
	}
	for range maxProposals {
		propose()
	}
	_, err := w.Propose(w.wish(9), "x", 1)
	w.refused(top.ErrDenied, err)
}

func TestAChainOfFixedValidators(t *testing.T) {
	w := fresh(t)
	w.refused(top.ErrDenied, w.Enter(w.wish(1), Validator{ID: id(1)}, 100*top.One))
	w.refused(top.ErrDenied, w.delegate(1, 1, top.One))
	_, err := w.Propose(w.wish(1), "x", 1)
	w.refused(top.ErrDenied, err)
	if d, _ := w.block(100); d.Powers != nil {
		t.Errorf("elected: %v", d.Powers)
	}
	if w.head.On || len(w.rows) != 0 {
		t.Error("a book without stakes has rows")
	}
}

func TestRulesThatCannotBe(t *testing.T) {
	for name, change := range map[string]func(*Params){
		"no epoch": func(p *Params) { p.EpochBlocks = 0 }, "nobody": func(p *Params) { p.MaxValidators = 0 }, "too many": func(p *Params) { p.MaxValidators = maxSet + 1 },
		"more than all": func(p *Params) { p.DoubleSignPPM = million + 1 }, "no self": func(p *Params) { p.MinSelf = powerUnit - 1 },
		"a span": func(p *Params) { p.UnbondSeconds = maxSpan + 1 }, "never down": func(p *Params) { p.DowntimeEpochs = 0 }, "deposit": func(p *Params) { p.Deposit = top.MaxSupply + 1 },
	} {
		p := Default()
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
		change(&p)
		if err := p.Check(); !errors.Is(err, top.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// copied is the book that Load makes of the rows.
func (w *world) copied() *Book {
	w.t.Helper()
	c := New(&w.p, w.supply, rows{})
	for key, row := range w.rows {
		w.must(c.Load(key, []byte(row)))
	}
	w.must(c.Ready(1000))
	return c
}

// worthNow is what an account has in a pool, the yield up to now included.
func (w *world) worthNow(who uint32, to byte) top.Amount {
	v, ok := w.Validator(id(to))
	if !ok {
		return 0
	}
	d, _ := w.Delegation(id(to), who)
	return v.WorthAt(w.p, d.Shares, w.now)
}

// A walk of everything, under laws that know no operation: what a share is worth
// may only move as a yield or a penalty moves it, and the set is always the one that
// a slow sort elects.
func TestWalk(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { walk(t, rand.New(rand.NewPCG(seed, 7))) })
	}
}

func walk(t *testing.T, r *rand.Rand) {
	w := fresh(t, 50, 60, 70, 80)
	w.p.UnbondSeconds, w.p.YieldPPM, w.p.DowntimePPM, w.p.JailSeconds, w.p.MaxValidators = 30, 500_000, 1000, 5, 3
	m := newLaws(w)
	some := func() (uint32, byte) { return uint32(1 + r.IntN(9)), byte(1 + r.IntN(6)) }
	for range 1500 {
		who, to := some()
		a := top.Amount(1 + r.Uint64N(uint64(20*top.One)))
		switch r.IntN(14) {
		case 0, 1, 2:
			before := w.worthNow(who, to)
			if w.delegate(who, to, a) == nil && who != uint32(to) { // owners get a commission too
				m.bought(w.worth(who, to), before, a)
			}
		case 3, 4:
			if r.IntN(4) == 0 {
				a = 0
			}
			before := w.worthNow(who, to)
			if w.Undelegate(w.wish(who), id(to), a) == nil && who != uint32(to) {
				m.sold(w.Leaving(who), w.serial, before, a)
			}
		case 5:
			_, dest := some()
			_ = w.Redelegate(w.wish(who), id(to), id(dest), a) // often refused
		case 6:
			if w.Enter(w.wish(uint32(to)), Validator{ID: id(to), Commission: 500}, a) == nil {
				w.in += a
			}
		case 7:
			if r.IntN(40) == 0 {
				w.Punish(Offence{Voter(id(to)), w.height}, w.now)
			}
		case 8:
			if d, err := w.Propose(w.wish(who), "x", 1); err == nil {
				w.in += d
			}
		case 9:
			for _, p := range w.Proposals() {
				_ = w.Vote(w.wish(who), p.Number, r.IntN(3) > 0) // refused when it has no stake
			}
		case 10:
			_ = w.Unjail(w.wish(uint32(to)), id(to)) // refused unless it is in jail
		default:
			silent := byte(0)
			if r.IntN(2) == 0 {
				silent = 2
			}
			w.block(r.Uint64N(3000), silent)
		}
		w.balanced()
		m.hold(w)
	}
	c := w.copied()
	if c.Locked() != w.Locked() || c.head != w.head {
		t.Fatal("a copy by rows is another book")
	}
	w.p.Deposit = 0
	for range 50 { // the copy goes on alike
		w.height++
		w.now += 700
		a, b := w.Begin(w.now), c.Begin(w.now)
		x, y := w.End(w.height, w.now), c.End(w.height, w.now)
		if !slices.Equal(a, b) || fmt.Sprint(x) != fmt.Sprint(y) {
			t.Fatalf("the copy goes its own way: %v %v, %v %v", a, b, x, y)
		}
	}
}

func FuzzLoad(f *testing.F) {
	w := fresh(&testing.T{}, 10, 20)
	if _, err := w.Propose(w.wish(1), "x", 1); err != nil || w.Vote(w.wish(1), 1, true) != nil || w.Undelegate(w.wish(1), id(1), 3*top.One) != nil {
		f.Fatal("no seeds")
	}
	for key, row := range w.rows {
		f.Add(key[:], []byte(row))
	}
	f.Fuzz(func(t *testing.T, key, row []byte) {
		p := Default()
		put := rows{}
		b := New(&p, 0, put)
		k := top.ID{}
		copy(k[:], key)
		if b.Load(k, row) != nil {
			return
		}
		_ = b.Ready(10) // a row alone is seldom a book; it must not panic
		for id, v := range b.vals {
			b.putValidator(v)
			if got := put[ValidatorRow(id)]; got != string(row) {
				t.Errorf("read %x, wrote %x", row, got)
			}
		}
	})
}

func TestRowsReadBack(t *testing.T) {
	w := fresh(t, 10, 20)
	v, err := DecodeValidator([]byte(w.rows[ValidatorRow(id(2))]))
	if want, _ := w.Validator(id(2)); err != nil || v != want {
		t.Errorf("%+v, %v", v, err)
	}
	d, err := DecodeDelegation([]byte(w.rows[DelegationRow(id(2), 2)]))
	if want, _ := w.Delegation(id(2), 2); err != nil || d != want {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := DecodeDelegation([]byte(w.rows[ValidatorRow(id(2))])); !errors.Is(err, top.ErrInvalid) {
		t.Errorf("a validator as a delegation: %v", err)
	}
	b := New(&w.p, 0, rows{})
	if err := b.Load(top.ID{1}, []byte(w.rows[ValidatorRow(id(2))])); !errors.Is(err, top.ErrInvalid) {
		t.Errorf("a row in another's place: %v", err)
	}
}
