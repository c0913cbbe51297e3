package main

import (
	"context"

	"top/lib/api"
	"top/lib/daemon"
	"top/lib/tool"
	"top/lib/top"
	"top/lib/wallet"
)

func balanceVerb() tool.Verb {
	return tool.Verb{
		Name: "balance", Summary: "the balance, proven against a final header",
		Args:     []tool.Arg{{Name: "ADDRESS", Help: "somebody else's; a contact's name will do", Optional: true}},
		Flags:    []tool.Flag{daemon.ChainFlag()},
		Records:  []string{"balance"},
		Examples: []string{"top-wallet balance", "top-wallet balance bob --json"},
		Run: func(ctx context.Context, c *tool.Call) error {
			a, err := ownOr(c, c.Arg(0))
			if err != nil {
				return err
			}
			chain, err := daemon.Chain(c)
			if err != nil {
				return err
			}
			r, err := chain.Account(ctx, a)
			if err != nil {
				return err
			}
			b, err := wallet.Prove(a, r)
			if err != nil {
				return err
			}
			rec := balanceOf(a, b, r)
			text := "%s TOP"
			if !b.Exists {
				text += " (no account yet: it is made by its first credit)"
			}
			if b.Locked > 0 {
				text += ", " + b.Locked.String() + " locked"
			}
			if b.Unlocking > 0 {
				text += ", " + b.Unlocking.String() + " unlocking until " + r.UnlockAt.String()
			}
			return c.Emit(rec, text+"\nproven at block %s of %s", b.Balance, b.At.Height, b.At.Time)
		},
	}
}

// A balanceRecord is a balance that was proven here.
type balanceRecord struct {
	Type      string      `json:"type"` // "balance"
	Address   top.Address `json:"address"`
	Exists    bool        `json:"exists"`
	Balance   top.Amount  `json:"balance"`
	Locked    top.Amount  `json:"locked"`
	Unlocking top.Amount  `json:"unlocking"`
	UnlockAt  *top.Time   `json:"unlock_at,omitempty"`
	Allowance top.Count   `json:"allowance"` // bytes
	Proven    bool        `json:"proven"`    // always: what does not verify is an error
	At        api.Header  `json:"at"`
}

func balanceOf(a top.Address, b wallet.Balance, r api.Account) balanceRecord {
	return balanceRecord{
		"balance", a, b.Exists, b.Balance, b.Locked, b.Unlocking, r.UnlockAt, r.Allowance, true, b.At,
	}
}

// ownOr is the address that an operand names, or this wallet's.
func ownOr(c *tool.Call, s string) (top.Address, error) {
	if s != "" {
		return daemon.Resolve(c, s)
	}
	id, err := self(c)
	return id.Address, err
}

func historyVerb() tool.Verb {
	return tool.Verb{
		Name: "history", Summary: "what moved this account's money, oldest first",
		Doc: `As the chain daemon's full node tells it: every entry names its transaction, which
"top-chain query tx" proves. That none is missing shows in the balance.`,
		Args: []tool.Arg{{Name: "ADDRESS", Help: "somebody else's", Optional: true}},
		Flags: []tool.Flag{
			daemon.ChainFlag(),
			{Name: "since", Kind: tool.Int, Help: "begin after this entry"},
			{Name: "limit", Kind: tool.Int, Help: "at most so many; 0 is all"},
			{Name: "payers", Kind: tool.Bool, Help: "then what moved the money of each payer key of this wallet"},
		},
		Records:  []string{"entry"},
		Examples: []string{"top-wallet history", "top-wallet history --since 10 --json", "top-wallet history --payers"},
		Run: func(ctx context.Context, c *tool.Call) error {
			a, err := ownOr(c, c.Arg(0))
			if err != nil {
				return err
			}
			if c.Int("since") < 0 || c.Int("limit") < 0 {
				return top.Errorf(top.Usage, "--since and --limit want a count")
			}
			chain, err := daemon.Chain(c)
			if err != nil {
				return err
			}
			err = chain.History(ctx, a, top.Count(c.Int("since")), c.Int("limit"), func(e api.Entry) error {
				return c.Emit(e, "%s", e.Text())
			})
			if err != nil || !c.Bool("payers") {
				return err
			}
			return payerHistory(ctx, c, chain)
		},
	}
}

// payerHistory is the history of each payer key, in the order in which they were
// drawn.
func payerHistory(ctx context.Context, c *tool.Call, chain *api.Chain) error {
	_, payers, err := payersHere(c)
	if err != nil {
		return err
	}
	for _, p := range payers {
		err := chain.History(ctx, p.Address, 0, 0, func(e api.Entry) error {
			e.PayerID = p.ID
			return c.Emit(e, "%s  payer key %s", e.Text(), p.ID)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
