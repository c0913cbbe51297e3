package ledger

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"top/lib/keys"
	"top/lib/stake"
	"top/lib/top"
)

// staked is a small ledger whose validators, alice's and bob's, are elected.
func staked(t *testing.T, set ...func(*Params)) *world {
	t.Helper()
	w := newWorld(t, func(p *Params) {
		p.Stake.EpochBlocks, p.Stake.MinSelf, p.Stake.UnbondSeconds, p.Stake.VoteEpochs = 5, 10*top.One, 50, 0
	})
	g := Genesis{Params: w.s.params, Time: 1_800_000_000}
	for _, f := range set {
		f(&g.Params)
	}
	for i, who := range []string{"alice", "bob", "carol"} {
		g.Accounts = append(g.Accounts, GenesisAccount{Address: w.key[who].Public(), Balance: 1000 * top.One})
		w.key[fmt.Sprint("val", i)] = keys.FromSeed([32]byte{byte(101 + i)})
	}
	for i, who := range []string{"alice", "bob"} {
		g.Validators = append(g.Validators, GenesisValidator{ID: w.val(i), Owner: w.key[who].Public(), Stake: 100 * top.One, Name: who})
	}
	var err error
	if w.s, err = New(g); err != nil {
		t.Fatal(err)
	}
	w.begin(1, 1)
	return w
}

func (w *world) val(i int) top.ValidatorID { return w.key[fmt.Sprint("val", i)].Public() }

// validator is the body with which somebody enters validator i.
func (w *world) validator(i int, who string, a top.Amount) *Validator {
	w.t.Helper()
	b := &Validator{Name: who, Amount: a}
	if err := b.SignValidator(w.key[fmt.Sprint("val", i)].Signer(), w.chain, w.key[who].Public()); err != nil {
		w.t.Fatal(err)
	}
	return b
}

// epoch ends the epoch, with votes of all.
func (w *world) epoch() (d stake.Day) {
	w.t.Helper()
	e, _ := w.s.stake.Epoch()
	for n := e; n == e; n, _ = w.s.stake.Epoch() {
		w.begin(1, 1)
		w.s.Observe([][20]byte{stake.Voter(w.val(0)), stake.Voter(w.val(1))}, nil)
		d = w.s.End()
		if err := w.s.Check(); err != nil {
			w.t.Fatal(err)
		}
	}
	return d
}

func TestL1_StakesAreMoneyLikeAnyOther(t *testing.T) {
	w := staked(t)
	fee := txSize * w.s.params.FeePerByte
	before := w.balance("carol")
	if r := w.do(w.tx("carol", &Delegate{To: w.val(0), Amount: 50 * top.One})); !slices.Equal(r.Moves, []Move{{2, Out, 50 * top.One, 2}}) {
		t.Errorf("moves: %v", r.Moves)
	}
	if got := w.balance("carol"); got != before-50*top.One-fee {
		t.Errorf("carol has %s", got)
	}
	w.do(w.tx("carol", &Undelegate{From: w.val(0), Amount: 20 * top.One}))
	w.do(w.tx("carol", &Redelegate{From: w.val(0), To: w.val(1), Amount: 10 * top.One}))
	w.do(w.tx("carol", w.validator(2, "carol", 200*top.One)))
	if d := w.epoch(); !slices.ContainsFunc(d.Powers, func(p stake.Power) bool { return p.ID == w.val(2) && p.Power == 200 }) {
		t.Errorf("carol's validator was not elected: %v", d.Powers)
	}
	if w.s.Minted() == 0 {
		t.Error("no yield")
	}
	var free top.Amount
	for range 60 {
		for _, m := range w.begin(1, 1) {
			free += m.Amount
		}
		w.s.End()
	}
	if free < 20*top.One || free > 20*top.One+2 {
		t.Errorf("%s came back", free)
	}
	if err := w.s.Check(); err != nil {
		t.Fatal(err)
	}
}

func TestWhatStakesAreRefused(t *testing.T) {
	w := staked(t)
	stolen := w.validator(2, "bob", 100*top.One)
	w.deny(w.tx("carol", stolen), top.Denied, "did not sign for this account", true)
	w.deny(w.tx("carol", w.validator(0, "carol", 100*top.One)), top.Denied, "belongs to account 0", true)
	w.deny(w.tx("carol", w.validator(2, "carol", 9*top.One)), top.Denied, "begins with 10 TOP", true)
	w.deny(w.tx("carol", w.validator(2, "carol", 1001*top.One)), top.Denied, "are needed", true)
	w.deny(w.tx("carol", &Delegate{To: w.val(0), Amount: 1001 * top.One}), top.Denied, "are needed", true)
	w.deny(w.tx("carol", &Delegate{To: w.val(2), Amount: top.One}), top.NotFound, "there is none", true)
	w.deny(w.tx("carol", &Undelegate{From: w.val(0)}), top.NotFound, "nothing with", true)
	w.deny(w.tx("carol", &Redelegate{From: w.val(0), To: w.val(0)}), top.Denied, "to itself", true)
	w.deny(w.tx("carol", &Redelegate{From: w.val(0), To: w.val(1)}), top.NotFound, "nothing with", true)
	w.deny(w.tx("carol", &Unjail{ID: w.val(0)}), top.Denied, "belongs to account 0", true)
	w.deny(w.tx("carol", &Propose{Name: "unbond_seconds", Value: 1}), top.Invalid, "no vote changes", true)
	w.deny(w.tx("carol", &Propose{Name: "max_validators", Value: 0}), top.Invalid, "max_validators", true)
	w.deny(w.tx("carol", &Vote{Number: 1, Yes: true}), top.NotFound, "proposal 1", true)
	// A node's key spends nothing, not even into a stake (L5).
	w.register()
	b := w.tx("bob", &Delegate{To: w.val(0), Amount: top.One})
	w.deny(w.sign(b, "node"), top.Denied, "a node key cannot sign", false)
}

func TestAVoteChangesAParameter(t *testing.T) {
	w := staked(t)
	w.do(w.tx("carol", &Propose{Name: "fee_per_byte", Value: 3}))
	w.do(w.tx("carol", &Propose{Name: "account_fee", Value: 1 << 40}))
	before := w.balance("carol")
	w.do(w.tx("alice", &Vote{Number: 1, Yes: true}))
	w.do(w.tx("bob", &Vote{Number: 1, Yes: true}))
	w.do(w.tx("alice", &Vote{Number: 2, Yes: true}))
	w.do(w.tx("bob", &Vote{Number: 2}))
	d := w.epoch()
	if !slices.Equal(d.Changes, []stake.Change{{Number: 1, Name: "fee_per_byte", Value: 3}}) || w.s.Params().FeePerByte != 3 || w.s.Params().AccountFee != 1000 {
		t.Errorf("changed: %+v", d.Changes)
	}
	if got := w.balance("carol"); got != before+2*w.s.params.Stake.Deposit {
		t.Errorf("carol has %s, had %s", got, before)
	}
	if r := w.do(w.tx("carol", &Transfer{To: To(0), Amount: 1})); r.Fee != txSize*3 {
		t.Errorf("the fee is %s", r.Fee)
	}
	m, err := w.s.ProveMeta().Verify(w.s.Root())
	if err != nil || m.Params.FeePerByte != 3 {
		t.Errorf("proven: %+v, %v", m.Params, err)
	}
}

func TestL8_StakesAreProven(t *testing.T) {
	w := staked(t)
	root := w.s.Root()
	p := w.s.ProveStake(stake.ValidatorRow(w.val(0)))
	row, exists, err := p.Verify(root)
	if err != nil || !exists {
		t.Fatal(exists, err)
	}
	v, err := stake.DecodeValidator(row)
	if err != nil || v.Tokens != 100*top.One || v.ID != w.val(0) {
		t.Errorf("%+v %v", v, err)
	}
	if _, exists, err := w.s.ProveStake(stake.ValidatorRow(w.val(2))).Verify(root); exists || err != nil {
		t.Errorf("absent: %v %v", exists, err)
	}
	w.do(w.tx("carol", &Delegate{To: w.val(0), Amount: top.One}))
	if _, _, err := p.Verify(w.s.Root()); err == nil {
		t.Error("a proof holds for another root")
	}
	var back StakeProof
	if err := back.Decode(p.Encode()); err != nil || back.Key() != p.Key() {
		t.Error(err)
	}
}

func FuzzStakeProof(f *testing.F) {
	s := small(f)
	s.stakes.PutRow([32]byte{1}, []byte{1, 2})
	fuzzProof(f, [][]byte{s.ProveStake(top.ID{1}).Encode(), s.ProveStake(top.ID{9}).Encode()}, func(b []byte) ([]byte, error) {
		var p StakeProof
		if err := p.Decode(b); err != nil {
			return nil, err
		}
		p.Verify(s.Root())
		return p.Encode(), nil
	})
}

// A walk through epochs: all money adds up after every block, and a copy by snapshot
// goes on to the same root (L1, L7).
func TestL7_StakesAfterASnapshot(t *testing.T) {
	w := staked(t)
	r := rand.New(rand.NewPCG(3, 4))
	who := []string{"alice", "bob", "carol"}
	w.do(w.tx("carol", w.validator(2, "carol", 50*top.One)))
	var copied *State
	for n := range 400 {
		me, v, a := who[r.IntN(3)], w.val(r.IntN(3)), top.Amount(1+r.Uint64N(uint64(5*top.One)))
		body := []Body{
			&Delegate{v, a}, &Undelegate{v, a}, &Redelegate{v, w.val(r.IntN(3)), a}, &Unjail{v},
			&Propose{"downtime_epochs", 1 + r.Uint64N(4)}, &Vote{uint64(1 + n/50), r.IntN(2) > 0}, &Transfer{To: To(uint32(r.IntN(3))), Amount: 1},
		}[r.IntN(7)]
		tx, end := w.tx(me, body), r.IntN(2) == 0
		var offence []stake.Offence
		if n == 200 {
			offence = []stake.Offence{{Voter: stake.Voter(w.val(1)), Height: w.s.Height()}}
		}
		for i, s := range []*State{w.s, copied} {
			if s == nil {
				continue
			}
			s.Apply(tx, txSize)
			if end {
				s.End()
				if i == 0 {
					w.begin(1, 1)
				} else {
					s.Begin(s.Height()+1, s.Now()+1000)
				}
				s.Observe([][20]byte{stake.Voter(w.val(n % 3))}, offence)
			}
			if err := s.Check(); err != nil {
				t.Fatalf("step %d: %v", n, err)
			}
		}
		if copied != nil && copied.Root() != w.s.Root() {
			t.Fatalf("step %d: the copy has another root", n)
		}
		if n == 100 {
			var err error
			if copied, err = Load(w.s.Encode()); err != nil {
				t.Fatal(err)
			}
		}
	}
	raw := w.s.Encode()
	for i := len(raw) - 2000; i < len(raw); i += 3 {
		bad := slices.Clone(raw)
		bad[i] ^= 1
		if s, err := Load(bad); err == nil && s.Root() != w.s.Root() {
			t.Fatalf("byte %d: a snapshot with another root is loaded", i)
		}
	}
}

func TestWhatNoVoteMayChange(t *testing.T) {
	for _, name := range Votable() {
		p, err := DefaultParams(top.ChainID{1}).With(name, 7_000_000_000)
		if err != nil { // out of bounds: with a value that is within
			p, err = DefaultParams(top.ChainID{1}).With(name, 9)
		}
		if err != nil || fmt.Sprint(p) == fmt.Sprint(DefaultParams(top.ChainID{1})) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"unbond_seconds", "deadline_seconds", "chain", ""} {
		if _, err := DefaultParams(top.ChainID{1}).With(name, 9); err == nil {
			t.Errorf("%q can be changed by a vote", name)
		}
	}
}
