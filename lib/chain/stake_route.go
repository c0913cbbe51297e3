package chain

import (
	"top/lib/api"
	"top/lib/ledger"
	"top/lib/sock"
	"top/lib/stake"
	"top/lib/top"
)

func (n *Node) validator(c *sock.Call) error {
	id, err := top.ParseValidatorID(c.Arg("id"))
	if err != nil {
		return err
	}
	var r api.Validator
	err = n.app.read(c.Context(), func(s *ledger.State, at api.Header) { r = validatorAt(s, id, at) })
	if err != nil {
		return err
	}
	return c.JSON(r)
}

func validatorAt(s *ledger.State, id top.ValidatorID, at api.Header) api.Validator {
	v, ok := s.Stake().Validator(id)
	r := validatorRecord(id, v, ok, at, s.ProveStake(stake.ValidatorRow(id)).Encode())
	if ok {
		r.Owner = s.Account(v.Owner).Key
	}
	return r
}

// list answers with records of the state, each proven by the same header.
func list[T any](c *sock.Call, n *Node, f func(*ledger.State, api.Header) []T) error {
	var rs []T
	if err := n.app.read(c.Context(), func(s *ledger.State, at api.Header) { rs = f(s, at) }); err != nil {
		return err
	}
	return sock.Records(c, rs)
}

func (n *Node) validators(c *sock.Call) error {
	return list(c, n, func(s *ledger.State, at api.Header) (rs []api.Validator) {
		for _, id := range s.Stake().Validators() {
			rs = append(rs, validatorAt(s, id, at))
		}
		return rs
	})
}

func (n *Node) stakesOf(c *sock.Call) error {
	a, err := top.ParseAddress(c.Arg("address"))
	if err != nil {
		return err
	}
	return list(c, n, func(s *ledger.State, at api.Header) []api.Stake { return stakesAt(s, a, at) })
}

// stakesAt is what an account has staked and on its way, with the proofs.
func stakesAt(s *ledger.State, a top.Address, at api.Header) (rs []api.Stake) {
	i, ok := s.Index(a)
	if !ok {
		return nil
	}
	add := func(r api.Stake, key top.ID, pool top.ValidatorID) {
		r.Account, r.Proof = a, s.ProveStake(key).Encode()
		if !pool.IsZero() {
			r.Pool = s.ProveStake(stake.ValidatorRow(pool)).Encode()
		}
		rs = append(rs, r)
	}
	rules, book := s.Params().Stake, s.Stake()
	for _, d := range book.Delegations(i) {
		v, _ := book.Validator(d.To)
		add(partRecord(rules, d, v, at), stake.DelegationRow(d.To, i), d.To)
	}
	for _, l := range book.Leaving(i) {
		v, _ := book.Validator(l.To)
		add(lotRecord(rules, l, v, at), stake.LotRow(l.ID), l.To)
	}
	return rs
}

func (n *Node) proposals(c *sock.Call) error {
	return list(c, n, func(s *ledger.State, at api.Header) (rs []api.Proposal) {
		book := s.Stake()
		epoch, next := book.Epoch()
		for _, p := range book.Proposals() {
			r := proposalRecord(p, at)
			t, _ := book.Tally(p.Number)
			r.Proposer, r.Proof = s.Account(p.Who).Key, s.ProveStake(stake.ProposalRow(p.Number)).Encode()
			r.Epoch, r.Next, r.Yes, r.No, r.All = top.Count(epoch), next, t.Yes, t.No, t.All
			rs = append(rs, r)
		}
		return rs
	})
}
