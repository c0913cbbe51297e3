package api

import (
	"context"
	"fmt"
	"strconv"

	"top/lib/top"
)

// A Validator is one that stake can elect, at a header, with the proof.
type Validator struct {
	Type        string          `json:"type"` // "validator"
	Validator   top.ValidatorID `json:"validator"`
	Exists      bool            `json:"exists"`
	Owner       top.Address     `json:"owner"`
	OwnerIdx    uint32          `json:"owner_index"`
	Name        string          `json:"name"`
	Commission  uint32          `json:"commission"` // of the yield, in hundredths of a percent
	Staked      top.Amount      `json:"staked"`     // by all, as of the last payment of the yield
	Power       top.Count       `json:"power"`      // in the set elected last; 0 is out of it
	Seen        top.Count       `json:"seen"`       // epoch of its last vote or proposal
	Jailed      bool            `json:"jailed"`
	JailedUntil *top.Time       `json:"jailed_until,omitempty"` // before which unjail is refused
	Tombstoned  bool            `json:"tombstoned"`             // it signed twice: never elected again
	Slashed     top.Amount      `json:"slashed"`                // taken by penalties so far
	At          Header          `json:"at"`
	Proof       Bytes           `json:"proof"` // ledger.StakeProof
}

// A Stake is one account's part of what stands behind a validator, or what is on its
// way from there, at a header, with the proof.
type Stake struct {
	Type      string          `json:"type"` // "stake"
	Account   top.Address     `json:"account"`
	AccountIx uint32          `json:"account_index"`
	State     string          `json:"state"` // "staked", "leaving" or "moving"
	Validator top.ValidatorID `json:"validator"`
	To        top.ValidatorID `json:"to,omitzero"` // where it moves; it earns there already
	Amount    top.Amount      `json:"amount"`      // what it is worth at the header's time
	Free      *top.Time       `json:"free,omitempty"`
	Lot       top.ID          `json:"lot,omitzero"` // names what leaves or moves
	At        Header          `json:"at"`
	Proof     Bytes           `json:"proof"`      // ledger.StakeProof of the part or the lot
	Pool      Bytes           `json:"pool_proof"` // and of the validator where it earns; absent when it leaves
}

// A Proposal is a change of a parameter that the stake votes on, at a header. How the
// vote stands is told; the rest is proven.
type Proposal struct {
	Type     string      `json:"type"` // "proposal"
	Number   top.Count   `json:"number"`
	Proposer top.Address `json:"proposer"`
	Index    uint32      `json:"proposer_index"`
	Name     string      `json:"name"` // of the parameter
	Value    top.Count   `json:"value"`
	Deposit  top.Amount  `json:"deposit"`
	Ends     top.Count   `json:"ends"`  // with the election of this number
	Epoch    top.Count   `json:"epoch"` // elections held so far
	Next     top.Height  `json:"next"`  // of the next one
	Yes      top.Amount  `json:"yes"`   // staked by those who voted so
	No       top.Amount  `json:"no"`
	All      top.Amount  `json:"all"` // staked with validators that have power
	At       Header      `json:"at"`
	Proof    Bytes       `json:"proof"` // ledger.StakeProof
}

// A ValidatorKey is a validator's consent to belong to an account: what top-chain
// validator-key prints and top-wallet validator reads.
type ValidatorKey struct {
	Type      string          `json:"type"` // "validator-key"
	Validator top.ValidatorID `json:"validator"`
	Chain     top.ChainID     `json:"chain"`
	Owner     top.Address     `json:"owner"`
	Sig       Bytes           `json:"sig"`
}

// A StakeWish is what a Spend of a kind that concerns stakes says besides its amount.
type StakeWish struct {
	Validator  top.ValidatorID `json:"validator,omitzero"`
	To         top.ValidatorID `json:"to,omitzero"` // of a redelegate
	Sig        Bytes           `json:"sig,omitempty"`
	Name       string          `json:"name,omitempty"` // of the validator, or of a parameter
	Commission uint32          `json:"commission,omitempty"`
	Value      top.Count       `json:"value,omitempty"`  // of a propose
	Number     top.Count       `json:"number,omitempty"` // of the proposal voted on
	Yes        bool            `json:"yes,omitempty"`
}

// Validator asks for a validator with its proof.
func (c *Chain) Validator(ctx context.Context, id top.ValidatorID) (r Validator, err error) {
	return r, c.c.Get(ctx, "/v1/validators/"+id.String(), &r)
}

// Validators calls each for every validator, those with power and others.
func (c *Chain) Validators(ctx context.Context, each func(Validator) error) error {
	return stream(ctx, c.c, "/v1/validators", each)
}

// Stakes calls each for what an account has staked and what is on its way.
func (c *Chain) Stakes(ctx context.Context, a top.Address, each func(Stake) error) error {
	return stream(ctx, c.c, "/v1/accounts/"+a.String()+"/stakes", each)
}

// Proposals calls each for what is voted on.
func (c *Chain) Proposals(ctx context.Context, each func(Proposal) error) error {
	return stream(ctx, c.c, "/v1/proposals", each)
}

// Text is the validator as lines for people.
func (v Validator) Text() string {
	if !v.Exists {
		return fmt.Sprintf("%s\nnone at block %s (proven)", v.Validator, v.At.Height)
	}
	state := "waits for an election"
	switch {
	case v.Tombstoned:
		state = "signed twice, out for ever"
	case v.Jailed:
		state = "in jail"
		if v.JailedUntil != nil {
			state += " until " + v.JailedUntil.String() + " at least"
		}
	case v.Power > 0:
		state = "elected, power " + v.Power.String()
	}
	s := fmt.Sprintf("%s %s\n%s\nowner %s, %s TOP staked, commission %s %%", v.Validator, v.Name, state, v.Owner, v.Staked, percent(v.Commission))
	if v.Slashed > 0 {
		s += fmt.Sprintf(", lost %s TOP to penalties", v.Slashed)
	}
	return s
}

// percent is hundredths of a percent as percent.
func percent(n uint32) string { return strconv.FormatFloat(float64(n)/100, 'f', -1, 64) }

// Text is the stake as a line for people.
func (s Stake) Text() string {
	switch s.State {
	case "leaving":
		return fmt.Sprintf("leaving  %s TOP of %s, free %s", s.Amount, s.Validator, s.Free)
	case "moving":
		return fmt.Sprintf("moving   %s TOP of %s to %s, can move again %s", s.Amount, s.Validator, s.To, s.Free)
	}
	return fmt.Sprintf("staked   %s TOP with %s", s.Amount, s.Validator)
}

// Text is the proposal as lines for people.
func (p Proposal) Text() string {
	return fmt.Sprintf("%s  set %s to %s, proposed by %s\n   %s TOP for it, %s against, of %s that elect; ends with election %s, held so far %s, next at block %s",
		p.Number, p.Name, p.Value, p.Proposer, p.Yes, p.No, p.All, p.Ends, p.Epoch, p.Next)
}
