package chain

import (
	"top/lib/api"
	"top/lib/ledger"
	"top/lib/session"
	"top/lib/stake"
	"top/lib/top"
)

// The records of chain.sock, made of what a proof shows: by a node from its own
// state, by a light client from the proof that it checked.

func accountRecord(p ledger.Params, address top.Address, a ledger.Account, index uint32, exists bool, at api.Header, proof []byte) api.Account {
	r := api.Account{Type: "account", Address: address, Exists: exists, At: at, Proof: proof}
	if !exists {
		return r
	}
	r.Index, r.Balance, r.Locked, r.Unlocking = index, a.Balance, a.Locked, a.Unlocking
	r.Nonce, r.Window, r.Channels = top.Count(a.Nonce), top.Count(a.Window), a.Channels
	r.Allowance = top.Count(ledger.AllowanceAt(p, a, uint64(at.Time.UnixMilli())))
	if a.Unlocking > 0 {
		t := top.UnixMilli(int64(a.UnlockAt) * 1000)
		r.UnlockAt = &t
	}
	r.Mailbox, r.MailboxSeq = a.Mailbox, top.Count(a.MailSeq)
	if !a.Node.IsZero() {
		r.Node = &a.Node
	}
	return r
}

// channelRecord leaves the parties' addresses to the caller: the proof shows
// their indexes.
func channelRecord(id top.ID, c ledger.Channel, exists bool, at api.Header, proof []byte) api.Channel {
	r := api.Channel{Type: "channel", Channel: id, Exists: exists, At: at, Proof: proof}
	if !exists {
		return r
	}
	r.PayerIndex, r.ProvIndex = c.Payer, c.Provider
	r.Cap, r.Paid, r.Seq, r.Opened = c.Cap, c.Paid, top.Count(c.Seq), c.Opened
	r.Expiry, r.ExpiryHeight, r.Closing = top.UnixMilli(int64(min(c.Expiry, 1<<40))*1000), c.ExpiryHeight, c.Closing
	return r
}

// nodeRecord leaves the owner's address to the caller: the proof shows its
// index.
func nodeRecord(id top.NodeID, n ledger.Node, exists bool, at api.Header, proof []byte) api.Node {
	r := api.Node{Type: "node", Node: id, Exists: exists, At: at, Proof: proof}
	if !exists {
		return r
	}
	r.OwnerIdx, r.Name, r.Addrs, r.Capacity, r.Stake = n.Owner, n.Name, n.Addrs, top.Count(n.Capacity), n.Stake
	for _, o := range n.Offers {
		r.Offers = append(r.Offers, offerRecord(o))
	}
	return r
}

func offerRecord(o session.Offer) api.Offer {
	r := api.Offer{Service: o.Service, Unit: o.Unit, Price: o.Price, Window: o.Window}
	for _, h := range o.Hold {
		r.Hold = append(r.Hold, api.Hold{Seconds: top.Count(h.Seconds), Factor: h.Factor})
	}
	return r
}

func validatorRecord(id top.ValidatorID, v stake.Validator, exists bool, at api.Header, proof []byte) api.Validator {
	r := api.Validator{Type: "validator", Validator: id, Exists: exists, At: at, Proof: proof}
	if !exists {
		return r
	}
	r.OwnerIdx, r.Name, r.Commission, r.Staked = v.Owner, v.Name, uint32(v.Commission), v.Tokens
	r.Power, r.Seen, r.Slashed = top.Count(v.Power), top.Count(v.Seen), v.Slashed
	r.Jailed, r.Tombstoned = v.Jailed, v.Gone
	if v.Jailed && !v.Gone {
		r.JailedUntil = seconds(v.JailedTill)
	}
	return r
}

func seconds(unix uint64) *top.Time {
	t := top.UnixMilli(int64(min(unix, 1<<40)) * 1000)
	return &t
}

// partRecord is what an account's shares of a pool are worth.
func partRecord(rules stake.Params, d stake.Delegation, v stake.Validator, at api.Header) api.Stake {
	return api.Stake{
		Type: "stake", AccountIx: d.Who, State: "staked", Validator: d.To,
		Amount: v.WorthAt(rules, d.Shares, uint64(at.Time.UnixMilli())), At: at,
	}
}

// lotRecord is coins on their way; v is the validator where they earn, if they do.
func lotRecord(rules stake.Params, l stake.Leaving, v stake.Validator, at api.Header) api.Stake {
	r := api.Stake{
		Type: "stake", AccountIx: l.Who, State: "leaving", Validator: l.From, To: l.To, Amount: l.Amount,
		Free: seconds(l.At), Lot: l.ID, At: at,
	}
	if !l.To.IsZero() {
		r.State, r.Amount = "moving", v.WorthAt(rules, l.Shares, uint64(at.Time.UnixMilli()))
	}
	return r
}

func proposalRecord(p stake.Proposal, at api.Header) api.Proposal {
	return api.Proposal{
		Type: "proposal", Number: top.Count(p.Number), Index: p.Who, Name: p.Name, Value: top.Count(p.Value),
		Deposit: p.Deposit, Ends: top.Count(p.Ends), At: at,
	}
}

func paramsRecord(m ledger.Meta, at api.Header, proof []byte) api.Params {
	p, k := m.Params, m.Params.Stake
	return api.Params{
		Type: "params", Chain: p.Chain, Kinds: p.Kinds, FeePerByte: p.FeePerByte, AccountFee: p.AccountFee,
		AllowanceBytes: top.Count(p.AllowanceBytes), UnlockSeconds: top.Count(p.UnlockSeconds),
		DeadlineSec: top.Count(p.DeadlineSec), DeadlineBlocks: top.Count(p.DeadlineBlocks),
		EpochBlocks: top.Count(k.EpochBlocks), MaxValidators: top.Count(k.MaxValidators), MinSelfStake: k.MinSelf,
		UnbondSeconds: top.Count(k.UnbondSeconds), YieldPPM: top.Count(k.YieldPPM), DoubleSignPPM: top.Count(k.DoubleSignPPM),
		DowntimePPM: top.Count(k.DowntimePPM), DowntimeEpochs: top.Count(k.DowntimeEpochs), JailSeconds: top.Count(k.JailSeconds),
		VoteEpochs: top.Count(k.VoteEpochs), Deposit: k.Deposit,
		Supply: m.Supply, Minted: m.Minted, Burned: m.Burned, Accounts: top.Count(m.Accounts), At: at, Proof: proof,
	}
}

// txRecord is a transaction that is final.
func txRecord(r row, height top.Height, index int, at top.Time) api.Tx {
	return api.Tx{
		Type: "tx", ID: r.ID, Kind: r.Kind, From: r.From, Height: height, Index: uint32(index), Time: at,
		OK: r.Outcome.Code == 0, Code: r.Outcome.Code, Error: r.Error, Message: r.Message,
		Fee: r.Outcome.Fee, Free: r.Outcome.Free, Size: int(r.Size), Channel: r.Outcome.Channel, Paid: r.Outcome.Paid,
	}
}

// kindOfCode is the kind that an exit code stands for: the one told, if it fits.
func kindOfCode(code uint32, told string) string {
	if top.Kind(told).Exit() == int(code) {
		for _, k := range top.Kinds() {
			if string(k) == told {
				return told
			}
		}
	}
	for _, k := range top.Kinds() {
		if k.Exit() == int(code) {
			return string(k)
		}
	}
	return string(top.Failed)
}
