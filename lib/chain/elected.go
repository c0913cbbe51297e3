package chain

import (
	"bytes"
	"fmt"
	"io"
	"slices"

	abci "github.com/cometbft/cometbft/abci/types"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	"github.com/cometbft/cometbft/types"

	"top/lib/home"
	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/stake"
	"top/lib/top"
)

// What the consensus and the stake tell each other: who voted and who signed twice
// one way, whose power changes the other.

// observe tells the state who voted on the block before, who proposed this one and
// who is reported for signing two blocks of one height.
func observe(s *ledger.State, votes []abci.VoteInfo, proposer []byte, reports []abci.Misbehavior) []top.Amount {
	var alive [][20]byte
	for _, v := range votes {
		if v.BlockIdFlag != cmtproto.BlockIDFlagAbsent && len(v.Validator.Address) == 20 {
			alive = append(alive, [20]byte(v.Validator.Address))
		}
	}
	if len(proposer) == 20 {
		alive = append(alive, [20]byte(proposer))
	}
	var offences []stake.Offence
	for _, r := range reports {
		if len(r.Validator.Address) == 20 {
			offences = append(offences, stake.Offence{Voter: [20]byte(r.Validator.Address), Height: top.Height(r.Height)})
		}
	}
	return s.Observe(alive, offences)
}

// votesOf is what a block says of the votes on the one before, as FinalizeBlock is
// told it.
func votesOf(b *types.Block) (votes []abci.VoteInfo) {
	if b.LastCommit == nil {
		return nil
	}
	for _, s := range b.LastCommit.Signatures {
		votes = append(votes, abci.VoteInfo{Validator: abci.Validator{Address: s.ValidatorAddress}, BlockIdFlag: cmtproto.BlockIDFlag(s.BlockIDFlag)})
	}
	return votes
}

// updates is changed powers as CometBFT takes them.
func updates(powers []stake.Power) (us []abci.ValidatorUpdate) {
	for _, p := range powers {
		us = append(us, abci.Ed25519ValidatorUpdate(bytes.Clone(p.ID[:]), int64(p.Power)))
	}
	return us
}

// sameSet checks that the consensus begins with the validators that the ledger's
// genesis elects; without any there, whoever the consensus begins with stays.
func sameSet(g ledger.Genesis, doc []types.GenesisValidator) error {
	if len(g.Validators) == 0 {
		return nil
	}
	s, err := ledger.New(g)
	if err != nil {
		return err
	}
	want := map[top.ValidatorID]int64{}
	for _, p := range s.Stake().Powers() {
		want[p.ID] = int64(p.Power)
	}
	for _, v := range doc {
		key := v.PubKey.Bytes()
		if len(key) != 32 || want[top.ValidatorID(key)] != v.Power {
			return top.Errorf(top.Invalid, "the genesis file contradicts itself: validator %s has power %d there, and not by its stake", v.Name, v.Power)
		}
		delete(want, top.ValidatorID(key))
	}
	if len(want) > 0 {
		return top.Errorf(top.Invalid, "the genesis file contradicts itself: %d validators with stake are not in it", len(want))
	}
	return nil
}

// SignValidator proves that the node of dir agrees to be an owner's validator.
func SignValidator(dir home.Dir, owner top.Address, rand io.Reader) (b ledger.Validator, err error) {
	raw, err := LoadGenesis(dir)
	if err != nil {
		return b, err
	}
	g, err := ParseGenesis(raw)
	if err != nil {
		return b, err
	}
	seed, err := Seed(dir, rand)
	if err != nil {
		return b, err
	}
	key := keys.FromSeed(roleSeed(seed, roleConsensus))
	return b, b.SignValidator(key.Signer(), g.Chain, owner)
}

// elections logs what the end of a block brought to validators.
func (a *app) elections(at top.Height, d stake.Day, taken []top.Amount) {
	for _, t := range taken {
		if t > 0 {
			a.log.Warn("a validator signed twice", "height", at, "taken", t)
		}
	}
	for _, p := range d.Powers {
		a.log.Info("validator", "height", at, "id", p.ID, "power", p.Power)
	}
	for _, c := range d.Changes {
		a.log.Warn("parameter changed by vote", "height", at, "name", c.Name, "value", c.Value)
	}
}

// sortPowers orders powers as blocks of any source list them.
func sortPowers(ps []stake.Power) {
	slices.SortFunc(ps, func(a, b stake.Power) int { return bytes.Compare(a.ID[:], b.ID[:]) })
}

// checkNext checks that the set which the validators signed for the next block is
// the one that carrying out the blocks gave.
func checkNext(chain *ledger.State, vals *types.ValidatorSet) error {
	want := chain.Stake().Powers()
	if !chain.Stake().On() {
		return nil
	}
	var have []stake.Power
	for _, v := range vals.Validators {
		key := v.PubKey.Bytes()
		if len(key) == 32 {
			have = append(have, stake.Power{ID: top.ValidatorID(key), Power: uint64(v.VotingPower)})
		}
	}
	sortPowers(have)
	if !slices.Equal(have, want) {
		return fmt.Errorf("the validators signed another set than the stake elects: %w", top.ErrFailed)
	}
	return nil
}
