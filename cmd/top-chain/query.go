package main

import (
	"context"
	"fmt"
	"strings"

	"top/lib/api"
	"top/lib/tool"
	"top/lib/top"
)

func queryVerb() tool.Verb {
	return tool.Verb{
		Name: "query", Summary: "ask for an account, a channel, a node, a transaction, …",
		Doc: `Every answer names a final header and carries the proof that the header's root
holds what it says, for what exists and for what does not.`,
		Verbs: []tool.Verb{
			query("account", "ADDRESS", "an account: balance, locks, nonce, allowance", "account", queryAccount),
			query("channels", "ADDRESS", "the open channels of an account, as payer and as provider", "channel", queryChannels),
			query("history", "ADDRESS", "what moved an account's money, oldest first", "entry", queryHistory,
				tool.Flag{Name: "since", Kind: tool.Int, Help: "begin after this entry"},
				tool.Flag{Name: "limit", Kind: tool.Int, Help: "at most so many entries; 0 is all"}),
			query("channel", "ID", "one payment channel", "channel", queryChannel),
			query("node", "NODE", "one row of the registry", "node", queryNode),
			query("nodes", "", "the registry", "node", queryNodes,
				tool.Flag{Name: "service", Help: "only nodes that sell this service"}),
			query("validators", "", "who can be elected, and who is", "validator", queryValidators),
			query("validator", "VALIDATOR", "one validator", "validator", queryValidator),
			query("stakes", "ADDRESS", "what an account has staked, and what is on its way", "stake", queryStakes),
			query("proposals", "", "what the stake votes on", "proposal", queryProposals),
			query("tx", "ID", "what became of a transaction", "tx", queryTx,
				tool.Flag{Name: "wait", Kind: tool.Duration, Default: "0s", Help: "wait so long until it is final"}),
			query("params", "", "the chain's parameters", "params", queryParams),
			query("genesis", "", "the genesis file, for somebody who wants to join", "genesis", queryGenesis),
		},
	}
}

type queryFunc func(context.Context, *tool.Call, *api.Chain) error

// query is a verb that asks for one noun.
func query(name, operand, summary, record string, run queryFunc, flags ...tool.Flag) tool.Verb {
	v := tool.Verb{
		Name: name, Summary: summary, Flags: append([]tool.Flag{sockFlag()}, flags...), Records: []string{record},
		Examples: []string{strings.TrimSpace("top-chain query " + name + " " + operand + " --json")},
		Run: func(ctx context.Context, c *tool.Call) error {
			chain, err := dial(c)
			if err != nil {
				return err
			}
			return run(ctx, c, chain)
		},
	}
	if operand != "" {
		help := map[string]string{
			"ADDRESS": "an address, or the name of a contact",
			"ID":      "64 hex digits",
			"NODE":    "a node id, topnode1…",

			"VALIDATOR": "a validator id, topval1…",
		}
		v.Args = []tool.Arg{{Name: operand, Help: help[operand]}}
	}
	return v
}

func queryAccount(ctx context.Context, c *tool.Call, chain *api.Chain) error {
	a, err := addressArg(c, 0)
	if err != nil {
		return err
	}
	r, err := chain.Account(ctx, a)
	if err != nil {
		return err
	}
	if err := c.Emit(r, "%s", accountText(r)); err != nil {
		return err
	}
	if !r.Exists {
		return top.Errorf(top.NotFound, "there is no account %s at block %s (it is made by its first credit)", a, r.At.Height)
	}
	return nil
}

func accountText(r api.Account) string {
	if !r.Exists {
		return fmt.Sprintf("%s\nnone at block %s (proven)", r.Address, r.At.Height)
	}
	s := fmt.Sprintf("%s\nbalance    %s TOP\nlocked     %s TOP\nallowance  %s bytes\nnonce      %s\nchannels   %d",
		r.Address, r.Balance, r.Locked, r.Allowance, r.Nonce, r.Channels)
	if r.UnlockAt != nil {
		s += fmt.Sprintf("\nunlocking  %s TOP until %s", r.Unlocking, r.UnlockAt)
	}
	if r.Node != nil {
		s += fmt.Sprintf("\nnode       %s", r.Node)
	}
	return s + fmt.Sprintf("\nproven at block %s of %s", r.At.Height, r.At.Time)
}

func queryChannels(ctx context.Context, c *tool.Call, chain *api.Chain) error {
	a, err := addressArg(c, 0)
	if err != nil {
		return err
	}
	return chain.Channels(ctx, a, func(r api.Channel) error { return c.Emit(r, "%s", channelText(r)) })
}

func channelText(r api.Channel) string {
	if !r.Exists {
		return fmt.Sprintf("%s\nnone at block %s (proven): closed, or never opened", r.Channel, r.At.Height)
	}
	s := fmt.Sprintf("%s\nfrom %s\nto   %s\n%s of %s TOP paid, until %s and block %s",
		r.Channel, r.Payer, r.Provider, r.Paid, r.Cap, r.Expiry, r.ExpiryHeight)
	if r.Closing {
		s += ", closing"
	}
	return s
}

func queryChannel(ctx context.Context, c *tool.Call, chain *api.Chain) error {
	id, err := top.ParseID(c.Arg(0))
	if err != nil {
		return err
	}
	r, err := chain.Channel(ctx, id)
	if err != nil {
		return err
	}
	if err := c.Emit(r, "%s", channelText(r)); err != nil {
		return err
	}
	if !r.Exists {
		return top.Errorf(top.NotFound, "there is no channel %s at block %s: closed, or never opened", id, r.At.Height)
	}
	return nil
}

func queryHistory(ctx context.Context, c *tool.Call, chain *api.Chain) error {
	a, err := addressArg(c, 0)
	if err != nil {
		return err
	}
	if c.Int("since") < 0 || c.Int("limit") < 0 {
		return top.Errorf(top.Usage, "--since and --limit want a count")
	}
	return chain.History(ctx, a, top.Count(c.Int("since")), c.Int("limit"), func(e api.Entry) error {
		return c.Emit(e, "%s", e.Text())
	})
}

func queryNode(ctx context.Context, c *tool.Call, chain *api.Chain) error {
	id, err := top.ParseNodeID(c.Arg(0))
	if err != nil {
		return err
	}
	r, err := chain.Node(ctx, id)
	if err != nil {
		return err
	}
	if err := c.Emit(r, "%s", nodeText(r)); err != nil {
		return err
	}
	if !r.Exists {
		return top.Errorf(top.NotFound, "no node %s is registered at block %s", id, r.At.Height)
	}
	return nil
}

func nodeText(r api.Node) string {
	if !r.Exists {
		return fmt.Sprintf("%s\nnone at block %s (proven)", r.Node, r.At.Height)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\nowner %s\nstake %s TOP, capacity %s kbit/s", r.Node, r.Name, r.Owner, r.Stake, r.Capacity)
	for _, o := range r.Offers {
		fmt.Fprintf(&b, "\nsells %s: %s TOP for one %s, window %d", o.Service, o.Price, o.Unit, o.Window)
	}
	for _, a := range r.Addrs {
		fmt.Fprintf(&b, "\nat %s", a)
	}
	return b.String()
}

func queryNodes(ctx context.Context, c *tool.Call, chain *api.Chain) error {
	return chain.Nodes(ctx, c.String("service"), func(r api.Node) error { return c.Emit(r, "%s", nodeText(r)) })
}

func queryValidators(ctx context.Context, c *tool.Call, chain *api.Chain) error {
	return chain.Validators(ctx, func(r api.Validator) error { return c.Emit(r, "%s", r.Text()) })
}

func queryValidator(ctx context.Context, c *tool.Call, chain *api.Chain) error {
	id, err := top.ParseValidatorID(c.Arg(0))
	if err != nil {
		return err
	}
	r, err := chain.Validator(ctx, id)
	if err != nil {
		return err
	}
	if err := c.Emit(r, "%s", r.Text()); err != nil {
		return err
	}
	if !r.Exists {
		return top.Errorf(top.NotFound, "there is no validator %s at block %s", id, r.At.Height)
	}
	return nil
}

func queryStakes(ctx context.Context, c *tool.Call, chain *api.Chain) error {
	a, err := addressArg(c, 0)
	if err != nil {
		return err
	}
	return chain.Stakes(ctx, a, func(r api.Stake) error { return c.Emit(r, "%s", r.Text()) })
}

func queryProposals(ctx context.Context, c *tool.Call, chain *api.Chain) error {
	return chain.Proposals(ctx, func(r api.Proposal) error { return c.Emit(r, "%s", r.Text()) })
}

func queryTx(ctx context.Context, c *tool.Call, chain *api.Chain) error {
	id, err := top.ParseID(c.Arg(0))
	if err != nil {
		return err
	}
	t, err := chain.Tx(ctx, id, c.Duration("wait"))
	if err != nil {
		return err
	}
	return c.Emit(t, "%s", txText(t))
}

func queryParams(ctx context.Context, c *tool.Call, chain *api.Chain) error {
	p, err := chain.Params(ctx)
	if err != nil {
		return err
	}
	return c.Emit(p, "chain       %s\nkinds       %s\nfee         %s TOP a byte\naccount fee %s TOP\nallowance   %s bytes a day for each TOP locked\nunlock      after %s s\ndeadline    %s s and %s blocks\nepoch       %s blocks, then an election of at most %s\nown stake   %s TOP at least\nunbonding   %s s\nyield       %s millionths a year\npenalties   %s millionths for signing twice, %s for being down %s epochs, jail %s s\nvotes       last %s epochs, deposit %s TOP",
		p.Chain, strings.Join(p.Kinds, " "), p.FeePerByte, p.AccountFee, p.AllowanceBytes, p.UnlockSeconds, p.DeadlineSec, p.DeadlineBlocks,
		p.EpochBlocks, p.MaxValidators, p.MinSelfStake, p.UnbondSeconds, p.YieldPPM, p.DoubleSignPPM, p.DowntimePPM, p.DowntimeEpochs, p.JailSeconds, p.VoteEpochs, p.Deposit)
}

func queryGenesis(ctx context.Context, c *tool.Call, chain *api.Chain) error {
	raw, err := chain.Genesis(ctx)
	if err != nil {
		return err
	}
	_, err = c.Out.Write(raw)
	return err
}
