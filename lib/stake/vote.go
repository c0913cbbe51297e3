package stake

import (
	"fmt"
	"math/bits"
	"slices"

	"top/lib/top"
)

// What a proposal needs: votes of two fifths of the stake that elects, and of them
// more than two thirds for it, as many as the consensus itself needs.
const (
	quorumOf, quorum = 5, 2
	passOf, pass     = 3, 2
)

// A Change is a parameter's new value.
type Change struct {
	Number uint64 // of the proposal
	Name   string
	Value  uint64
}

// Propose puts a change to the vote. The caller takes the deposit from the balance.
func (b *Book) Propose(w Wish, name string, value uint64) (deposit top.Amount, err error) {
	if !b.head.On {
		return 0, errFixed
	}
	if len(b.open) >= maxProposals {
		return 0, fmt.Errorf("%d proposals are voted on already: %w", maxProposals, top.ErrDenied)
	}
	b.head.Proposals++
	b.putHead()
	p := &Proposal{Number: b.head.Proposals, Who: w.Who, Deposit: b.params.Deposit, Name: name, Value: value, Ends: b.head.Epoch + b.params.VoteEpochs + 1}
	b.open = append(b.open, p)
	b.votes[p.Number] = map[uint32]bool{}
	b.putProposal(p)
	return p.Deposit, nil
}

// Vote votes on a proposal, or changes the vote. Who owns a validator votes for all
// its delegators who do not vote themselves.
func (b *Book) Vote(w Wish, number uint64, yes bool) error {
	at, ok := b.proposal(number)
	if !ok {
		return fmt.Errorf("proposal %d: there is none, or the vote is over: %w", number, top.ErrNotFound)
	}
	if len(b.of[w.Who]) == 0 {
		return fmt.Errorf("account %d has no stake, and so no vote: %w", w.Who, top.ErrDenied)
	}
	b.votes[b.open[at].Number][w.Who] = yes
	b.putVote(number, w.Who, yes)
	return nil
}

func (b *Book) proposal(number uint64) (at int, ok bool) {
	return slices.BinarySearchFunc(b.open, number, func(p *Proposal, n uint64) int { return int(p.Number) - int(n) })
}

// A Tally is how a vote stands, in coins.
type Tally struct{ Yes, No, All top.Amount }

// Passed says whether enough voted, and whether enough of them for it.
func (t Tally) Passed() (enough, passed bool) {
	votes := uint64(t.Yes + t.No)
	enough = t.All > 0 && !less(votes, quorumOf, uint64(t.All), quorum)
	return enough, enough && less(votes, pass, uint64(t.Yes), passOf)
}

// less is a × x < b × y, in 128 bits.
func less(a, x, b, y uint64) bool {
	ah, al := bits.Mul64(a, x)
	bh, bl := bits.Mul64(b, y)
	return ah < bh || ah == bh && al < bl
}

// Tally counts a vote as if it ended now (K7).
func (b *Book) Tally(number uint64) (t Tally, ok bool) {
	if _, ok := b.proposal(number); !ok {
		return t, false
	}
	votes := b.votes[number]
	add := func(yes bool, a top.Amount) {
		if yes {
			t.Yes += a
		} else {
			t.No += a
		}
	}
	self := map[top.ValidatorID]top.Amount{} // of each pool, voted by those whose it is
	for _, who := range b.voters(number) {
		for _, id := range b.of[who] {
			if v := b.vals[id]; v.Power > 0 {
				a := v.Worth(b.parts[part{id, who}].Shares)
				self[id] += a
				add(votes[who], a)
			}
		}
	}
	for _, id := range b.order {
		v := b.vals[id]
		if v.Power == 0 {
			continue
		}
		t.All += v.Tokens
		if yes, voted := votes[v.Owner]; voted {
			add(yes, v.Tokens-self[id])
		}
	}
	return t, true
}

// count ends the votes that are due.
func (b *Book) count() (back []Release, changes []Change) {
	for _, p := range slices.Clone(b.open) {
		if b.head.Epoch+1 < p.Ends {
			continue
		}
		t, _ := b.Tally(p.Number)
		enough, passed := t.Passed()
		if enough {
			back = append(back, Release{p.Who, p.Deposit})
		} else {
			b.head.Burned += p.Deposit
			b.putHead()
		}
		if passed {
			changes = append(changes, Change{p.Number, p.Name, p.Value})
		}
		b.dropProposal(p)
	}
	return back, changes
}

func (b *Book) dropProposal(p *Proposal) {
	for _, who := range b.voters(p.Number) {
		b.removeVote(p.Number, who)
	}
	delete(b.votes, p.Number)
	if at, ok := b.proposal(p.Number); ok {
		b.open = slices.Delete(b.open, at, at+1)
	}
	b.removeProposal(p)
}
