package chain

import (
	"context"
	"fmt"

	"top/lib/api"
	"top/lib/ledger"
	"top/lib/sock"
	"top/lib/stake"
	"top/lib/top"
)

// row checks a proof of what is staked under a key, by a header that is verified.
func (l *Light) row(key, root top.ID, raw []byte) (row []byte, exists bool, err error) {
	var proof ledger.StakeProof
	if err := proof.Decode(raw); err != nil {
		return nil, false, err
	}
	if proof.Key() != key {
		return nil, false, fmt.Errorf("the proof is of row %s, not of %s: %w", proof.Key().Short(), key.Short(), top.ErrFailed)
	}
	return proof.Verify(root)
}

func (l *Light) validator(c *sock.Call) error {
	id, err := top.ParseValidatorID(c.Arg("id"))
	if err != nil {
		return err
	}
	return answer(c, l, peerWait, func(ctx context.Context, p *peer) (r api.Validator, err error) {
		got, err := p.api.Validator(ctx, id)
		if err != nil {
			return r, unproven(err)
		}
		return l.checkValidator(ctx, p, id, got)
	})
}

func (l *Light) checkValidator(ctx context.Context, p *peer, id top.ValidatorID, got api.Validator) (r api.Validator, err error) {
	at, err := l.proven(ctx, p, got.At)
	if err != nil {
		return r, err
	}
	v, exists, err := l.pool(id, at.Root, got.Proof)
	if err != nil {
		return r, err
	}
	r = validatorRecord(id, v, exists, at, got.Proof)
	if exists {
		_, err = l.owner(ctx, p, got.Owner, v.Owner)
		r.Owner = got.Owner
	}
	return r, err
}

// pool proves a validator's row.
func (l *Light) pool(id top.ValidatorID, root top.ID, raw []byte) (v stake.Validator, exists bool, err error) {
	row, exists, err := l.row(stake.ValidatorRow(id), root, raw)
	if err == nil && exists {
		v, err = stake.DecodeValidator(row)
	}
	return v, exists, err
}

// provenList asks for a list and passes on what check proves of each record; a peer can
// hide one, and cannot show one twice.
func provenList[T any](c *sock.Call, l *Light, list func(context.Context, *peer, func(T) error) error, check func(context.Context, *peer, T) (T, top.ID, error)) error {
	rs, err := ask(c.Context(), l, listWait, func(ctx context.Context, p *peer) (rs []T, err error) {
		seen := map[top.ID]bool{}
		err = list(ctx, p, func(got T) error {
			r, key, err := check(ctx, p, got)
			if err != nil {
				return err
			}
			if seen[key] || len(seen) >= maxList {
				return fmt.Errorf("row %s is listed twice, or there are more than %d: %w", key.Short(), maxList, top.ErrFailed)
			}
			seen[key] = true
			rs = append(rs, r)
			return nil
		})
		return rs, err
	})
	if err != nil {
		return err
	}
	return sock.Records(c, rs)
}

var errNotThere = fmt.Errorf("what is listed is not there: %w", top.ErrFailed)

func (l *Light) validators(c *sock.Call) error {
	return provenList(c, l, func(ctx context.Context, p *peer, each func(api.Validator) error) error {
		return p.api.Validators(ctx, each)
	},
		func(ctx context.Context, p *peer, got api.Validator) (api.Validator, top.ID, error) {
			r, err := l.checkValidator(ctx, p, got.Validator, got)
			if err == nil && !r.Exists {
				err = errNotThere
			}
			return r, stake.ValidatorRow(got.Validator), err
		})
}

func (l *Light) stakesOf(c *sock.Call) error {
	a, err := top.ParseAddress(c.Arg("address"))
	if err != nil {
		return err
	}
	return provenList(c, l, func(ctx context.Context, p *peer, each func(api.Stake) error) error {
		return p.api.Stakes(ctx, a, each)
	},
		func(ctx context.Context, p *peer, got api.Stake) (api.Stake, top.ID, error) {
			return l.checkStake(ctx, p, a, got)
		})
}

// checkStake proves a part or a lot of an account, and the pool that says what it is
// worth.
func (l *Light) checkStake(ctx context.Context, p *peer, a top.Address, got api.Stake) (r api.Stake, key top.ID, err error) {
	rules, err := l.meta(ctx, p)
	if err != nil {
		return r, key, err
	}
	at, err := l.proven(ctx, p, got.At)
	if err != nil {
		return r, key, err
	}
	if _, err := l.owner(ctx, p, a, got.AccountIx); err != nil {
		return r, key, err
	}
	key, earns := stake.LotRow(got.Lot), got.To
	if got.State == "staked" {
		key, earns = stake.DelegationRow(got.Validator, got.AccountIx), got.Validator
	}
	row, exists, err := l.row(key, at.Root, got.Proof)
	if err == nil && !exists {
		err = errNotThere
	}
	if err != nil {
		return r, key, err
	}
	var v stake.Validator
	if !earns.IsZero() {
		if v, exists, err = l.pool(earns, at.Root, got.Pool); err == nil && !exists {
			err = errNotThere
		}
		if err != nil {
			return r, key, err
		}
	}
	if got.State == "staked" {
		d, err := stake.DecodeDelegation(row)
		r = partRecord(rules.Stake, d, v, at)
		r.Account, r.Proof, r.Pool = a, got.Proof, got.Pool
		return r, key, err
	}
	lot, err := stake.DecodeLeaving(row)
	if err == nil && (lot.Who != got.AccountIx || lot.To != got.To) {
		err = fmt.Errorf("lot %s is another's: %w", got.Lot.Short(), top.ErrFailed)
	}
	r = lotRecord(rules.Stake, lot, v, at)
	r.Account, r.Proof, r.Pool = a, got.Proof, got.Pool
	return r, key, err
}

// proposals proves what is voted on; how the vote stands is told.
func (l *Light) proposals(c *sock.Call) error {
	return provenList(c, l, func(ctx context.Context, p *peer, each func(api.Proposal) error) error {
		return p.api.Proposals(ctx, each)
	},
		func(ctx context.Context, p *peer, got api.Proposal) (r api.Proposal, key top.ID, err error) {
			at, err := l.proven(ctx, p, got.At)
			if err != nil {
				return r, key, err
			}
			key = stake.ProposalRow(uint64(got.Number))
			row, exists, err := l.row(key, at.Root, got.Proof)
			if err == nil && !exists {
				err = errNotThere
			}
			if err != nil {
				return r, key, err
			}
			q, err := stake.DecodeProposal(row)
			if err != nil {
				return r, key, err
			}
			if _, err := l.owner(ctx, p, got.Proposer, q.Who); err != nil {
				return r, key, err
			}
			r = proposalRecord(q, at)
			r.Proposer, r.Proof = got.Proposer, got.Proof
			r.Epoch, r.Next, r.Yes, r.No, r.All = got.Epoch, got.Next, got.Yes, got.No, got.All
			return r, key, nil
		})
}
