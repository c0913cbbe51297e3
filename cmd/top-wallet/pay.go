package main

import (
	"context"

	"top/lib/api"
	"top/lib/daemon"
	"top/lib/tool"
)

func payVerb() tool.Verb {
	return tool.Verb{
		Name: "pay", Summary: "pay somebody, and wait until it is final",
		Doc: `Exit 0 means final: no block can undo it. The payment is journalled before it
leaves; if this command is killed, the agent sees it through, and repeating it with
the same --id pays once.`,
		Args: []tool.Arg{
			{Name: "TO", Help: "an address, or a contact's name"},
			{Name: "AMOUNT", Help: "TOP, at most 9 decimals"},
		},
		Flags:    spendFlags(tool.Flag{Name: "memo", Help: "at most 64 bytes, for everybody to read"}),
		Records:  []string{"payment", "signed-tx"},
		Examples: []string{"top-wallet pay bob 1.25", "top-wallet pay bob 1 --dry-run", "top-wallet pay bob 1 --id invoice-17"},
		Run: func(ctx context.Context, c *tool.Call) error {
			to, err := daemon.Resolve(c, c.Arg(0))
			if err != nil {
				return err
			}
			amount, err := amountArg(c, 1)
			if err != nil {
				return err
			}
			return spend(ctx, c, api.Spend{Kind: "transfer", To: to, Amount: amount, Memo: c.String("memo")})
		},
	}
}

// amountVerb is a verb whose one operand is an amount.
func amountVerb(name, summary, doc string) tool.Verb {
	return tool.Verb{
		Name: name, Summary: summary, Doc: doc,
		Args:  []tool.Arg{{Name: "AMOUNT", Help: "TOP, at most 9 decimals"}},
		Flags: spendFlags(), Records: []string{"payment", "signed-tx"},
		Examples: []string{"top-wallet " + name + " 10"},
		Run: func(ctx context.Context, c *tool.Call) error {
			amount, err := amountArg(c, 0)
			if err != nil {
				return err
			}
			return spend(ctx, c, api.Spend{Kind: name, Amount: amount})
		},
	}
}

func lockVerb() tool.Verb {
	return amountVerb("lock", "lock money, which earns an allowance of free transactions",
		"Locked money earns an allowance of bytes a day, from which transactions are paid\nwithout a fee. It comes back some days after top-wallet unlock.")
}

func unlockVerb() tool.Verb {
	return amountVerb("unlock", "send locked money on its way back",
		"It arrives by itself after the delay that \"top-chain query params\" shows.")
}

func paymentVerb() tool.Verb {
	return tool.Verb{
		Name: "payment", Summary: "ask what became of a payment",
		Args:  []tool.Arg{{Name: "ID", Help: "the --id of a payment"}},
		Flags: []tool.Flag{sockFlag()}, Records: []string{"payment"},
		Examples: []string{"top-wallet payment invoice-17 --json"},
		Run: func(ctx context.Context, c *tool.Call) error {
			agent, err := dialAgent(c)
			if err != nil {
				return err
			}
			p, err := agent.Payment(ctx, c.Arg(0))
			if err != nil {
				return err
			}
			return c.Emit(p, "%s", p.Text())
		},
	}
}
