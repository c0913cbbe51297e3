package ledger

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"top/lib/stake"
	"top/lib/top"
	"top/lib/wire"
)

// Params are the genesis parameters. Votes of the stake change those that With
// knows; the others are fixed for the life of a chain.
type Params struct {
	Chain          top.ChainID `json:"chain"`
	Kinds          []string    `json:"kinds"`           // transaction kinds accepted
	FeePerByte     top.Amount  `json:"fee_per_byte"`    // burned
	AccountFee     top.Amount  `json:"account_fee"`     // burned out of an account's first credit
	AllowanceBytes uint64      `json:"allowance_bytes"` // a day, per whole TOP locked
	UnlockSeconds  uint64      `json:"unlock_seconds"`  // before unlocked coins come back
	DeadlineSec    uint64      `json:"deadline_seconds"`
	DeadlineBlocks uint64      `json:"deadline_blocks"`

	Stake stake.Params `json:"stake"`
}

// Bounds that keep every product of parameters and state below 2^64.
const (
	maxFeePerByte = top.One
	maxAllowance  = 1 << 20 // bytes a day per TOP
	maxSeconds    = 1 << 32
)

// A Genesis is the first state of a chain. Its JSON is the app_state of the
// genesis file.
type Genesis struct {
	Params   Params           `json:"params"`
	Time     uint64           `json:"time"` // unix seconds
	Accounts []GenesisAccount `json:"accounts"`

	// Without, the validators are those that the consensus begins with, for ever.
	Validators []GenesisValidator `json:"validators,omitempty"`
}

// A GenesisValidator is elected from the start, with a stake of its owner.
type GenesisValidator struct {
	ID         top.ValidatorID `json:"id"`
	Owner      top.Address     `json:"owner"` // one of the accounts
	Stake      top.Amount      `json:"stake"` // besides the account's balance
	Name       string          `json:"name"`
	Commission uint64          `json:"commission"` // hundredths of a percent
}

// A GenesisAccount is an account that exists from the start; indexes follow the
// order of the list.
type GenesisAccount struct {
	Address top.Address `json:"address"`
	Balance top.Amount  `json:"balance"`
	Locked  top.Amount  `json:"locked,omitempty"`
}

// DefaultParams are the parameters of a main chain, for a chain id.
func DefaultParams(chain top.ChainID) Params {
	return Params{
		Chain:          chain,
		Kinds:          KindNames(),
		FeePerByte:     10,
		AccountFee:     100_000,
		AllowanceBytes: 4096,
		UnlockSeconds:  7 * 24 * 3600,
		DeadlineSec:    600,
		DeadlineBlocks: 100,
		Stake:          stake.Default(),
	}
}

// ParseGenesis reads a genesis from JSON and checks it.
func ParseGenesis(b []byte) (g Genesis, err error) {
	if err := json.Unmarshal(b, &g); err != nil {
		return g, fmt.Errorf("genesis: %v: %w", err, top.ErrInvalid)
	}
	return g, g.check()
}

func (g Genesis) check() error {
	if err := g.Params.check(); err != nil {
		return err
	}
	var sum top.Amount
	seen := map[top.Address]bool{}
	for _, a := range g.Accounts {
		if seen[a.Address] {
			return fmt.Errorf("genesis: account %s twice: %w", a.Address, top.ErrInvalid)
		}
		seen[a.Address] = true
		for _, v := range []top.Amount{a.Balance, a.Locked} {
			var ok bool
			if sum, ok = sum.Add(v); !ok || sum > top.MaxSupply {
				return fmt.Errorf("genesis: more money than there can ever be: %w", top.ErrInvalid)
			}
		}
	}
	for _, v := range g.Validators {
		var ok bool
		if sum, ok = sum.Add(v.Stake); !ok || sum > top.MaxSupply {
			return fmt.Errorf("genesis: more money than there can ever be: %w", top.ErrInvalid)
		}
	}
	return nil
}

func (p Params) check() error {
	for i, k := range p.Kinds {
		if _, ok := kindNamed(k); !ok || slices.Contains(p.Kinds[:i], k) {
			return fmt.Errorf("genesis: transaction kind %q: %w", k, top.ErrInvalid)
		}
	}
	if p.FeePerByte > maxFeePerByte || p.AccountFee > top.MaxSupply || p.AllowanceBytes > maxAllowance ||
		p.UnlockSeconds > maxSeconds || p.DeadlineSec > maxSeconds || p.DeadlineBlocks > maxSeconds {
		return fmt.Errorf("genesis: a parameter is out of bounds: %w", top.ErrInvalid)
	}
	return p.Stake.Check()
}

// votable is where each parameter that a vote can change is kept.
func (p *Params) votable() map[string]*uint64 {
	k := &p.Stake
	return map[string]*uint64{
		"fee_per_byte": (*uint64)(&p.FeePerByte), "account_fee": (*uint64)(&p.AccountFee),
		"allowance_bytes": &p.AllowanceBytes, "unlock_seconds": &p.UnlockSeconds,
		"epoch_blocks": &k.EpochBlocks, "max_validators": &k.MaxValidators, "min_self_stake": (*uint64)(&k.MinSelf), "yield_ppm": &k.YieldPPM,
		"double_sign_ppm": &k.DoubleSignPPM, "downtime_ppm": &k.DowntimePPM, "downtime_epochs": &k.DowntimeEpochs,
		"jail_seconds": &k.JailSeconds, "vote_epochs": &k.VoteEpochs, "proposal_deposit": (*uint64)(&k.Deposit),
	}
}

// Votable lists the parameters that a vote can change, by their names in records.
// The time until undelegated coins are free is not among them: light clients and
// evidence count on it (docs/decisions/0011-stake.md).
func Votable() []string { return slices.Sorted(maps.Keys(new(Params).votable())) }

// With is the parameters with one changed, as a vote would.
func (p Params) With(name string, value uint64) (Params, error) {
	at, ok := p.votable()[name]
	if !ok {
		return p, fmt.Errorf("no vote changes %q, but one of: %s: %w", name, strings.Join(Votable(), " "), top.ErrInvalid)
	}
	*at = value
	return p, p.check()
}

// mask is the kinds as bits.
func (p Params) mask() (mask uint64) {
	for _, name := range p.Kinds {
		k, _ := kindNamed(name)
		mask |= 1 << k
	}
	return mask
}

func (p Params) put(e *wire.Encoder) {
	e.Raw(p.Chain[:])
	e.Uint(p.mask())
	e.Amount(p.FeePerByte)
	e.Amount(p.AccountFee)
	e.Uint(p.AllowanceBytes)
	e.Uint(p.UnlockSeconds)
	e.Uint(p.DeadlineSec)
	e.Uint(p.DeadlineBlocks)
	for _, v := range p.Stake.All() {
		e.Uint(*v)
	}
}

func (p *Params) get(d *wire.Decoder) {
	d.Fill(p.Chain[:])
	mask := d.Uint()
	p.Kinds = nil
	for k := range Kind(len(kindNames)) {
		if mask>>k&1 == 1 && kindNames[k] != "" {
			p.Kinds = append(p.Kinds, k.String())
			mask &^= 1 << k
		}
	}
	if mask != 0 {
		d.Fail("transaction kinds %b", mask)
	}
	p.FeePerByte, p.AccountFee = d.Amount(), d.Amount()
	p.AllowanceBytes, p.UnlockSeconds, p.DeadlineSec, p.DeadlineBlocks = d.Uint(), d.Uint(), d.Uint(), d.Uint()
	for _, v := range p.Stake.All() {
		*v = d.Uint()
	}
	if d.Err() == nil {
		if err := p.check(); err != nil {
			d.Fail("%v", err)
		}
	}
}
