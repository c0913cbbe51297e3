package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"top/lib/api"
	"top/lib/daemon"
	"top/lib/tool"
	"top/lib/top"
	"top/lib/wallet"
)

func payersVerb() tool.Verb {
	return tool.Verb{
		Name: "payers", Summary: "the payer keys, each with a channel of its own",
		Flags: []tool.Flag{sockFlag()}, Records: []string{"payer"},
		Examples: []string{"top-wallet payers", "top-wallet payers --json"},
		Run: func(ctx context.Context, c *tool.Call) error {
			agent, err := dialAgent(c)
			if err != nil {
				return err
			}
			return agent.Payers(ctx, func(p api.Payer) error { return c.Emit(p, "%s", payerText(p)) })
		},
	}
}

func payerVerb() tool.Verb {
	return tool.Verb{
		Name: "payer", Summary: "open and close payer keys",
		Doc: `A payer key is an account of its own, derived from the wallet's words, that pays
one provider over one channel. The provider sees that key and not the account. The
chain still shows who funded it, when and how much, and where the rest went.`,
		Verbs: []tool.Verb{payerOpenVerb(), payerCloseVerb(), payerScanVerb()},
	}
}

func waitFlag() tool.Flag {
	return tool.Flag{Name: "wait", Kind: tool.Duration, Default: "30s", Help: "how long to wait until it is so; the agent goes on alone"}
}

func payerOpenVerb() tool.Verb {
	return tool.Verb{
		Name: "open", Summary: "draw a payer key, fund it, and open its channel",
		Doc: `Moves CAP and what fees come to, and opens the channel from there. If this command
or the agent is killed, the agent sees it through, and repeating it with the same
--id opens one. What cannot be opened comes back.`,
		Args: []tool.Arg{
			{Name: "NODE", Help: "the node to pay, or the address or contact of whoever runs it"},
			{Name: "CAP", Help: "TOP, at most 9 decimals"},
		},
		Flags: []tool.Flag{
			{Name: "for", Kind: tool.Duration, Default: "24h", Help: "how long the channel lasts"},
			{Name: "service", Help: "relay, vpn, media, store, …: its budget bounds the key"},
			{Name: "no-sweep", Kind: tool.Bool, Help: "in the end leave what is left with the key: a sweep shows on the chain whose it was"},
			{Name: "id", Help: "name this wish: the same id twice has the effect of one (default: drawn, and printed)"},
			waitFlag(), sockFlag(),
		},
		Records:  []string{"payer"},
		Examples: []string{"top-wallet payer open topnode1… 0.5 --for 1h --service vpn", "top-wallet payer open bob 0.5 --service vpn --id hop-1"},
		Run: func(ctx context.Context, c *tool.Call) error {
			q := api.PayerWish{ID: c.String("id"), Service: c.String("service"), NoSweep: c.Bool("no-sweep"), WaitMs: top.Count(c.Duration("wait").Milliseconds())}
			if q.Service == "" {
				return top.Errorf(top.Usage, "payer open wants --service NAME")
			}
			var err error
			if strings.HasPrefix(c.Arg(0), "topnode1") {
				q.Node, err = top.ParseNodeID(c.Arg(0))
			} else {
				q.Provider, err = daemon.Resolve(c, c.Arg(0))
			}
			if err != nil {
				return err
			}
			if q.Cap, err = amountArg(c, 1); err != nil {
				return err
			}
			lasts := c.Duration("for")
			if lasts < time.Second {
				return top.Errorf(top.Usage, "--for %s: want a longer time", lasts)
			}
			q.LastsMs = top.Count(lasts.Milliseconds())
			if q.ID == "" {
				q.ID = wallet.DrawID()
				c.Info("id %s", q.ID)
			}
			agent, err := dialAgent(c)
			if err != nil {
				return err
			}
			p, err := agent.OpenPayer(ctx, q)
			if err != nil {
				return err
			}
			if err := c.Emit(p, "%s", payerText(p)); err != nil {
				return err
			}
			if p.State == "new" || p.State == "funded" {
				return top.Errorf(top.Timeout, "payer key %s is not open after %s; the agent goes on (ask: top-wallet payers)", p.ID, c.Duration("wait"))
			}
			return nil
		},
	}
}

func payerCloseVerb() tool.Verb {
	return tool.Verb{
		Name: "close", Summary: "end a payer key: close its channel, and have the rest back",
		Doc: `The provider may claim until the deadline; the agent reclaims after that and sends
what is left to the account, unless the key was opened with --no-sweep.`,
		Args: []tool.Arg{{Name: "ID", Help: "as top-wallet payers shows it"}},
		Flags: []tool.Flag{
			{Name: "sweep", Kind: tool.Bool, Help: "send what is left to the account, also of a key opened with --no-sweep"},
			{Name: "no-sweep", Kind: tool.Bool, Help: "leave what is left with the key"},
			waitFlag(), sockFlag(),
		},
		Records:  []string{"payer"},
		Examples: []string{"top-wallet payer close hop-1", "top-wallet payer close hop-1 --no-sweep"},
		Run: func(ctx context.Context, c *tool.Call) error {
			q := api.PayerClose{WaitMs: top.Count(c.Duration("wait").Milliseconds())}
			if c.Bool("sweep") && c.Bool("no-sweep") {
				return top.Errorf(top.Usage, "--sweep or --no-sweep, not both")
			}
			if sweep := c.Bool("sweep"); sweep || c.Bool("no-sweep") {
				q.Sweep = &sweep
			}
			agent, err := dialAgent(c)
			if err != nil {
				return err
			}
			p, err := agent.ClosePayer(ctx, c.Arg(0), q)
			if err != nil {
				return err
			}
			return c.Emit(p, "%s", payerText(p))
		},
	}
}

func payerScanVerb() tool.Verb {
	return tool.Verb{
		Name: "scan", Summary: "search the chain for payer keys of the same words",
		Doc: `An agent does this by itself the first time it runs in a home. What is found is
ended: its channel closed, and what is left sent to the account.`,
		Flags: []tool.Flag{sockFlag()}, Records: []string{"payer"},
		Examples: []string{"top-wallet payer scan"},
		Run: func(ctx context.Context, c *tool.Call) error {
			agent, err := dialAgent(c)
			if err != nil {
				return err
			}
			return agent.ScanPayers(ctx, func(p api.Payer) error { return c.Emit(p, "%s", payerText(p)) })
		},
	}
}

func payerText(p api.Payer) string {
	s := fmt.Sprintf("%-16s %-7s %3d  %s", p.ID, p.State, p.Index, p.Address)
	if p.Service != "" {
		s += fmt.Sprintf("  %s, %s TOP to %s", p.Service, p.Cap, p.Node)
	}
	if p.Channel != nil {
		s += "  channel " + p.Channel.String()
	}
	if p.Expiry != nil && (p.State == "open" || p.State == "closing") {
		s += ", until " + p.Expiry.String()
	}
	if p.State == "swept" {
		s += fmt.Sprintf(", %s TOP came back", p.Returned)
	}
	if p.Message != "" {
		s += ": " + p.Message
	}
	return s
}

// payersHere is the payer keys of this home, by address. A home without a wallet
// has none.
func payersHere(c *tool.Call) (map[top.Address]api.Payer, []api.Payer, error) {
	dir, err := daemon.Home(c)
	if err != nil {
		return nil, nil, err
	}
	list, err := wallet.Payers(dir)
	by := make(map[top.Address]api.Payer, len(list))
	for _, p := range list {
		by[p.Address] = p
	}
	return by, list, err
}
