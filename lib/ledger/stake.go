package ledger

import (
	"fmt"
	"slices"

	"top/lib/keys"
	"top/lib/stake"
	"top/lib/top"
	"top/lib/wire"
)

// Validator enters a validator with a first stake of its owner, or changes its name
// and commission and adds to the stake.
type Validator struct {
	ID         top.ValidatorID
	Sig        [64]byte // of the owner's address, by the validator's key: whoever enters holds it
	Name       string
	Commission uint64 // of the yield, in hundredths of a percent
	Amount     top.Amount
}

const validatorDomain = "top/validator/1"

// Kind is KindValidator.
func (*Validator) Kind() Kind { return KindValidator }

func (b *Validator) put(e *wire.Encoder) {
	e.Raw(b.ID[:])
	e.Raw(b.Sig[:])
	e.String(b.Name)
	e.Uint(b.Commission)
	e.Amount(b.Amount)
}

func (b *Validator) get(d *wire.Decoder) {
	d.Fill(b.ID[:])
	d.Fill(b.Sig[:])
	b.Name, b.Commission, b.Amount = d.String(maxName), d.Uint(), d.Amount()
}

// SignValidator signs with the validator's key for an owner on a chain.
func (b *Validator) SignValidator(key keys.Signer, chain top.ChainID, owner top.Address) (err error) {
	b.ID = key.Public()
	b.Sig, err = key.Sign(validatorDomain, chain, owner[:])
	return err
}

// Delegate puts coins behind a validator.
type Delegate struct {
	To     top.ValidatorID
	Amount top.Amount
}

// Kind is KindDelegate.
func (*Delegate) Kind() Kind            { return KindDelegate }
func (b *Delegate) put(e *wire.Encoder) { e.Raw(b.To[:]); e.Amount(b.Amount) }
func (b *Delegate) get(d *wire.Decoder) { d.Fill(b.To[:]); b.Amount = amount(d) }

// Undelegate puts coins on their way back; Amount 0 is all of them.
type Undelegate struct {
	From   top.ValidatorID
	Amount top.Amount
}

// Kind is KindUndelegate.
func (*Undelegate) Kind() Kind            { return KindUndelegate }
func (b *Undelegate) put(e *wire.Encoder) { e.Raw(b.From[:]); e.Amount(b.Amount) }
func (b *Undelegate) get(d *wire.Decoder) { d.Fill(b.From[:]); b.Amount = d.Amount() }

// Redelegate moves coins from one validator to another; Amount 0 is all of them.
type Redelegate struct {
	From, To top.ValidatorID
	Amount   top.Amount
}

// Kind is KindRedelegate.
func (*Redelegate) Kind() Kind            { return KindRedelegate }
func (b *Redelegate) put(e *wire.Encoder) { e.Raw(b.From[:]); e.Raw(b.To[:]); e.Amount(b.Amount) }
func (b *Redelegate) get(d *wire.Decoder) {
	d.Fill(b.From[:])
	d.Fill(b.To[:])
	b.Amount = d.Amount()
}

// Unjail lets the sender's validator stand again.
type Unjail struct{ ID top.ValidatorID }

// Kind is KindUnjail.
func (*Unjail) Kind() Kind            { return KindUnjail }
func (b *Unjail) put(e *wire.Encoder) { e.Raw(b.ID[:]) }
func (b *Unjail) get(d *wire.Decoder) { d.Fill(b.ID[:]) }

// Propose puts a new value of a parameter to the vote.
type Propose struct {
	Name  string
	Value uint64
}

// Kind is KindPropose.
func (*Propose) Kind() Kind            { return KindPropose }
func (b *Propose) put(e *wire.Encoder) { e.String(b.Name); e.Uint(b.Value) }
func (b *Propose) get(d *wire.Decoder) { b.Name, b.Value = d.String(maxName), d.Uint() }

// Vote votes on a proposal.
type Vote struct {
	Number uint64
	Yes    bool
}

// Kind is KindVote.
func (*Vote) Kind() Kind            { return KindVote }
func (b *Vote) put(e *wire.Encoder) { e.Uint(b.Number); e.Bool(b.Yes) }
func (b *Vote) get(d *wire.Decoder) { b.Number, b.Yes = d.Uint(), d.Bool() }

// stakeTree is the rows of a stake.Book under the root.
type stakeTree struct {
	trie trie
	rows map[[32]byte][]byte
}

// PutRow is for stake.Rows.
func (t *stakeTree) PutRow(key [32]byte, row []byte) {
	t.rows[key] = row
	t.trie.put(key, leafHash(stakeDomain, key, row))
}

// RemoveRow is for stake.Rows.
func (t *stakeTree) RemoveRow(key [32]byte) {
	delete(t.rows, key)
	t.trie.remove(key)
}

// found enters the validators of a genesis.
func (s *State) found(all []GenesisValidator) error {
	for _, v := range all {
		owner, ok := s.byKey[v.Owner]
		if !ok {
			return fmt.Errorf("genesis: validator %s: its owner %s is not among the accounts: %w", v.ID, v.Owner, top.ErrInvalid)
		}
		if err := s.stake.Found(stake.Validator{ID: v.ID, Owner: owner, Name: v.Name, Commission: v.Commission}, v.Stake, s.now); err != nil {
			return err
		}
	}
	s.stake.Install(s.now)
	return nil
}

// Stake is the book of what is staked, to read from.
func (s *State) Stake() *stake.Book { return s.stake }

// Observe takes what the consensus says at the start of a block, after Begin: who
// voted on the last one or proposed this, and who signed two blocks of one height.
// What was taken from the latter is returned, in their order.
func (s *State) Observe(voters [][20]byte, offences []stake.Offence) (taken []top.Amount) {
	for _, o := range offences {
		taken = append(taken, s.stake.Punish(o, s.now))
	}
	s.stake.Alive(voters)
	return taken
}

// End closes a block: at the end of an epoch validators are elected, and what was
// voted holds from the next block on.
func (s *State) End() stake.Day {
	d := s.stake.End(s.height, s.now)
	for _, r := range d.Back {
		s.hot[r.Who].balance += r.Amount
		s.touch(r.Who)
	}
	d.Changes = slices.DeleteFunc(d.Changes, func(c stake.Change) bool {
		p, err := s.params.With(c.Name, c.Value)
		if err == nil {
			s.params = p
		}
		return err != nil // another vote made it impossible
	})
	return d
}

// wish is who asks for a change of stakes.
func (s *State) wish(t *Tx) stake.Wish {
	return stake.Wish{Who: t.From, ID: ChannelID(t.Chain, t.Key, t.Nonce), Height: s.height, Now: s.now}
}

// runStake carries out what concerns stakes; amounts leave the balance when it works.
func (s *State) runStake(t *Tx) Result {
	switch b := t.Body.(type) {
	case *Validator:
		if !keys.Verify(b.ID, validatorDomain, t.Chain, s.cold[t.From].key[:], b.Sig) {
			return fail(fmt.Errorf("validator: its key did not sign for this account: %w", top.ErrDenied))
		}
		return s.putIn(t, b.Amount, func() error {
			return s.stake.Enter(s.wish(t), stake.Validator{ID: b.ID, Name: b.Name, Commission: b.Commission}, b.Amount)
		})
	case *Delegate:
		return s.putIn(t, b.Amount, func() error { return s.stake.Delegate(s.wish(t), b.To, b.Amount) })
	case *Undelegate:
		return ended(s.stake.Undelegate(s.wish(t), b.From, b.Amount))
	case *Redelegate:
		return ended(s.stake.Redelegate(s.wish(t), b.From, b.To, b.Amount))
	case *Unjail:
		return ended(s.stake.Unjail(s.wish(t), b.ID))
	case *Propose:
		if _, err := s.params.With(b.Name, b.Value); err != nil {
			return fail(err)
		}
		deposit := s.params.Stake.Deposit
		return s.putIn(t, deposit, func() error {
			_, err := s.stake.Propose(s.wish(t), b.Name, b.Value)
			return err
		})
	case *Vote:
		return ended(s.stake.Vote(s.wish(t), b.Number, b.Yes))
	}
	return fail(fmt.Errorf("no such transaction kind: %w", top.ErrInvalid))
}

// putIn takes an amount out of the sender's balance, if do takes it.
func (s *State) putIn(t *Tx, a top.Amount, do func() error) Result {
	if s.hot[t.From].balance < a {
		return fail(s.short(t.From, a))
	}
	if err := do(); err != nil {
		return fail(err)
	}
	if a == 0 {
		return s.done()
	}
	s.hot[t.From].balance -= a
	return s.done(Move{t.From, Out, a, t.From})
}

func ended(err error) Result {
	if err != nil {
		return fail(err)
	}
	return Result{}
}

// StakeProof shows a row of what is staked, or that there is none.
type StakeProof struct{ row rowProof }

// ProveStake proves what is staked under a key: stake.ValidatorRow or
// stake.DelegationRow.
func (s *State) ProveStake(key top.ID) StakeProof {
	p := StakeProof{rowProof{key: key, roots: s.roots(), path: s.stakes.trie.prove(key)}}
	if p.row.path.some {
		p.row.value = s.stakes.rows[p.row.path.found]
	}
	return p
}

// Verify checks the proof against a state root and gives the row.
func (p StakeProof) Verify(root top.ID) (row []byte, exists bool, err error) {
	exists, err = p.row.verify(stakeDomain, p.row.roots.stakes, root)
	if err != nil || !exists {
		return nil, false, err
	}
	return p.row.value, true, nil
}

// Key is the row that the proof is about.
func (p StakeProof) Key() top.ID { return p.row.key }

// Encode is the canonical form (docs/wire.md, "Proofs").
func (p StakeProof) Encode() []byte { return p.row.encode() }

// Decode reads the canonical form and refuses every other.
func (p *StakeProof) Decode(b []byte) error { return p.row.decode(b) }
