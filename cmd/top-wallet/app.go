package main

import (
	"context"

	"top/lib/api"
	"top/lib/daemon"
	"top/lib/tool"
	"top/lib/top"
	"top/lib/wallet"
)

func app() tool.App {
	return tool.App{
		Name:    "top-wallet",
		Summary: "keys, money, channels and bills",
		Doc: `The agent ("top-wallet agent") holds the unlocked key and does what spends; the
other commands ask it on TOP_HOME/run/wallet.sock, and ask the chain daemon of the
same home ("top-chain serve") for everything else. Amounts are TOP with at most 9
decimals; records (--json) carry whole nano. Wherever an address is wanted, the
name of a contact will do.`,
		Verbs: []tool.Verb{
			newVerb(), importVerb(), exportVerb(), addressVerb(), contactVerb(),
			balanceVerb(), payVerb(), payBatchVerb(), paymentVerb(), lockVerb(), unlockVerb(), historyVerb(),
			stakeVerb(), delegateVerb(), undelegateVerb(), redelegateVerb(), validatorVerb(), unjailVerb(), proposeVerb(), voteVerb(),
			registerVerb(), openVerb(), channelsVerb(), closeVerb(), reclaimVerb(), payersVerb(), payerVerb(),
			billVerb(), settleVerb(), rehearseVerb(), signVerb(), verifyVerb(), budgetVerb(), agentVerb(),
		},
		Doctor:      doctor,
		DoctorFlags: []tool.Flag{daemon.ChainFlag(), sockFlag()},
	}
}

func sockFlag() tool.Flag {
	return tool.Flag{Name: "sock", Help: "the agent's socket (default HOME/run/wallet.sock)"}
}

// dialAgent is a client of the agent.
func dialAgent(c *tool.Call) (*api.Wallet, error) {
	s, err := daemon.Dial(c, "sock", "wallet", "top-wallet agent")
	if err != nil {
		return nil, err
	}
	return api.NewWallet(s), nil
}

// self is whose wallet this home holds.
func self(c *tool.Call) (wallet.Identity, error) {
	dir, err := daemon.Home(c)
	if err != nil {
		return wallet.Identity{}, err
	}
	return wallet.Load(dir)
}

// spendFlags are the flags of every verb that makes a transaction.
func spendFlags(more ...tool.Flag) []tool.Flag {
	return append(more,
		tool.Flag{Name: "id", Help: "name this wish: the same id twice has the effect of one (default: drawn, and printed)"},
		tool.Flag{Name: "dry-run", Short: "n", Kind: tool.Bool, Help: "say what it would come to, and do nothing"},
		tool.Flag{Name: "no-submit", Kind: tool.Bool, Help: "sign and print a signed-tx record (for top-chain submit)"},
		tool.Flag{Name: "void", Kind: tool.Duration, Default: "2m", Help: "how long the transaction is good for"},
		tool.Flag{Name: "wait", Kind: tool.Duration, Default: "30s", Help: "how long to wait until it is final"},
		sockFlag())
}

// spend asks the agent for one transaction and prints what became of it.
func spend(ctx context.Context, c *tool.Call, q api.Spend) error {
	agent, err := dialAgent(c)
	if err != nil {
		return err
	}
	q.ID, q.DryRun, q.NoSubmit = c.String("id"), c.Bool("dry-run"), c.Bool("no-submit")
	q.VoidMs, q.WaitMs = top.Count(c.Duration("void").Milliseconds()), top.Count(c.Duration("wait").Milliseconds())
	if q.ID == "" && !q.DryRun {
		q.ID = wallet.DrawID()
		c.Info("id %s", q.ID)
	}
	p, err := agent.Spend(ctx, q)
	if err != nil {
		return err
	}
	if p.State == "signed" {
		r := api.SignedTx{Type: "signed-tx", ID: *p.Tx, Kind: p.Kind, Expiry: *p.Expiry, Raw: p.Raw}
		return c.Emit(r, "%s\n(--json prints the record that top-chain submit reads)", p.Text())
	}
	if p.State == "failed" {
		if c.JSON {
			if err := c.Emit(p, ""); err != nil {
				return err
			}
		}
		return &top.Error{Kind: top.Kind(p.Error), Message: p.Message}
	}
	if err := c.Emit(p, "%s", p.Text()); err != nil {
		return err
	}
	if p.State == "pending" {
		return top.Errorf(top.Timeout, "payment %s is not final after %s; the agent goes on (ask: top-wallet payment %[1]s)", p.ID, c.Duration("wait"))
	}
	return nil
}

// amountArg reads operand i as TOP.
func amountArg(c *tool.Call, i int) (top.Amount, error) {
	a, err := top.ParseAmount(c.Arg(i))
	if err == nil && a == 0 {
		err = top.Errorf(top.Invalid, "an amount of nothing")
	}
	return a, err
}
