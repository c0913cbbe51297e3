package main

import (
	"context"
	"fmt"

	"top/lib/api"
	"top/lib/tool"
	"top/lib/top"
)

func budgetVerb() tool.Verb {
	service := tool.Flag{Name: "service", Help: "relay, vpn, media, store, …"}
	return tool.Verb{
		Name: "budget", Summary: "how much the agent signs for each service's daemons",
		Doc: `A budget is charged when money is exposed: the moment a voucher is signed, by what
it could cost beyond the one before. Without a budget nothing is signed.`,
		Verbs: []tool.Verb{
			{
				Name: "set", Summary: "set or change a service's budget",
				Flags: []tool.Flag{
					service,
					{Name: "per-day", Kind: tool.Amount, Help: "TOP in any 24 hours"},
					{Name: "per-peer", Kind: tool.Amount, Help: "of it, for one peer (default: all of it)"},
					{Name: "open-cap", Kind: tool.Amount, Help: "caps of the channels open at once (default: as --per-day)"},
					sockFlag(),
				},
				Records:  []string{"budget"},
				Examples: []string{"top-wallet budget set --service relay --per-day 1.5 --per-peer 0.2"},
				Run: func(ctx context.Context, c *tool.Call) error {
					b := api.Budget{Service: c.String("service"), PerDay: c.Amount("per-day"), PerPeer: c.Amount("per-peer"), OpenCap: c.Amount("open-cap")}
					if b.Service == "" || b.PerDay == 0 {
						return top.Errorf(top.Usage, "budget set wants --service NAME and --per-day AMOUNT (top-wallet budget rm takes one away)")
					}
					return setBudget(ctx, c, b)
				},
			},
			{
				Name: "list", Summary: "the budgets, and what is spent of them", Flags: []tool.Flag{sockFlag()},
				Records: []string{"budget"}, Examples: []string{"top-wallet budget list --json"},
				Run: func(ctx context.Context, c *tool.Call) error {
					agent, err := dialAgent(c)
					if err != nil {
						return err
					}
					return agent.Budgets(ctx, func(b api.Budget) error { return c.Emit(b, "%s", budgetText(b)) })
				},
			},
			{
				Name: "rm", Summary: "take a service's budget away", Flags: []tool.Flag{service, sockFlag()},
				Examples: []string{"top-wallet budget rm --service relay"},
				Run: func(ctx context.Context, c *tool.Call) error {
					if c.String("service") == "" {
						return top.Errorf(top.Usage, "budget rm wants --service NAME")
					}
					return setBudget(ctx, c, api.Budget{Service: c.String("service")})
				},
			},
			{
				Name: "record", Summary: "the signing record: all that the agent ever signed",
				Doc: "Each entry names the digest of the one before and is signed by the account.",
				Flags: []tool.Flag{
					sockFlag(),
					{Name: "since", Kind: tool.Int, Help: "begin after this entry"},
					{Name: "limit", Kind: tool.Int, Help: "at most so many; 0 is all"},
				},
				Records: []string{"signed"}, Examples: []string{"top-wallet budget record --json"},
				Run: func(ctx context.Context, c *tool.Call) error {
					agent, err := dialAgent(c)
					if err != nil {
						return err
					}
					if c.Int("since") < 0 || c.Int("limit") < 0 {
						return top.Errorf(top.Usage, "--since and --limit want a count")
					}
					return agent.Record(ctx, top.Count(c.Int("since")), c.Int("limit"), func(e api.SignedEntry) error {
						text := fmt.Sprintf("%6s  %s  %-12s %s", e.Seq, e.Time, e.What, e.Digest.Short())
						if e.Channel != nil {
							text += fmt.Sprintf("  %s, channel %s number %s, %s TOP exposed, %s charged", e.Service, e.Channel.Short(), e.Number, e.Exposed, e.Charged)
						}
						return c.Emit(e, "%s", text)
					})
				},
			},
		},
	}
}

func setBudget(ctx context.Context, c *tool.Call, b api.Budget) error {
	agent, err := dialAgent(c)
	if err != nil {
		return err
	}
	r, err := agent.SetBudget(ctx, b)
	if err != nil {
		return err
	}
	return c.Emit(r, "%s", budgetText(r))
}

func budgetText(b api.Budget) string {
	s := fmt.Sprintf("%-8s %s TOP a day, %s spent in the last 24 h", b.Service, b.PerDay, b.Spent)
	if b.PerPeer > 0 {
		s += fmt.Sprintf(", %s for each peer", b.PerPeer)
	}
	if b.OpenCap > 0 {
		s += fmt.Sprintf(", %s in open channels", b.OpenCap)
	}
	return s
}
