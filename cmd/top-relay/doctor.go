package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"top/lib/api"
	"top/lib/home"
	"top/lib/tool"
)

// lowDisk is the free space below which doctor warns.
const lowDisk = 256 << 20

func doctor(ctx context.Context, c *tool.Call) ([]tool.Check, error) {
	dir, err := homeOf(c)
	if err != nil {
		return nil, err
	}
	checks := []tool.Check{checkNodeKey(dir), checkDisk(dir), checkChain(ctx, c), checkBudget(ctx, c)}
	return append(checks, checkAgent(ctx, c, dir)...), nil
}

func checkNodeKey(dir home.Dir) tool.Check {
	if _, err := home.NodeKey(dir, ""); err != nil {
		return tool.Check{Name: "node key", State: tool.Bad, Detail: err.Error(), Fix: "top-wallet new, or top-wallet import"}
	}
	return tool.Check{Name: "node key", State: tool.OK, Detail: "here"}
}

func checkDisk(dir home.Dir) tool.Check {
	free, err := home.Free(string(dir))
	if err != nil {
		return tool.Check{Name: "disk", State: tool.Bad, Detail: err.Error()}
	}
	k := tool.Check{Name: "disk", State: tool.OK, Detail: fmt.Sprintf("%d MiB free", free>>20)}
	if free < lowDisk {
		k.State, k.Fix = tool.Bad, "free some space: nothing is taken below 64 MiB"
	}
	return k
}

func checkChain(ctx context.Context, c *tool.Call) tool.Check {
	k := tool.Check{Name: "chain", State: tool.Bad, Fix: "top-chain serve"}
	chain, err := dialChain(c)
	if err != nil {
		k.Detail = err.Error()
		return k
	}
	s, err := chain.Status(ctx)
	switch {
	case err != nil:
		k.Detail = err.Error()
	case s.Stale:
		k.Detail, k.Fix = fmt.Sprintf("block %s is older than 60 s", s.Height), "top-chain doctor"
	case time.Until(s.Time.Time) > 5*time.Second:
		k.Detail, k.Fix = "the clock is behind the chain", "timedatectl set-ntp true"
	default:
		k.State, k.Detail, k.Fix = tool.OK, fmt.Sprintf("%s, %s, block %s", s.Chain, s.Role, s.Height), ""
	}
	return k
}

func checkBudget(ctx context.Context, c *tool.Call) tool.Check {
	k := tool.Check{Name: "budget", State: tool.Warn, Detail: "none for relay: nothing can be sent", Fix: "top-wallet budget set --service relay --per-day 1"}
	w, err := dialWallet(c)
	if err == nil {
		err = w.Budgets(ctx, func(b api.Budget) error {
			if b.Service == "relay" {
				k.State, k.Detail, k.Fix = tool.OK, fmt.Sprintf("%s TOP a day for relay, %s spent", b.PerDay, b.Spent), ""
			}
			return nil
		})
	}
	if err != nil {
		k.State, k.Detail, k.Fix = tool.Bad, err.Error(), "top-wallet agent"
	}
	return k
}

func checkAgent(ctx context.Context, c *tool.Call, dir home.Dir) []tool.Check {
	k := tool.Check{Name: "agent", State: tool.Bad, Fix: fmt.Sprintf("top-relay serve --home %s", dir)}
	agent, err := dialRelay(c)
	if err != nil {
		k.Detail = err.Error()
		return []tool.Check{k}
	}
	s, err := agent.Status(ctx)
	if err != nil {
		k.Detail = err.Error()
		return []tool.Check{k}
	}
	k.State, k.Detail, k.Fix = tool.OK, fmt.Sprintf("%d messages wait to be sent", s.Queued), ""
	if s.Problem != "" {
		k.State, k.Detail = tool.Bad, s.Problem
	}
	box := tool.Check{Name: "mailbox", State: tool.OK, Detail: fmt.Sprintf("record %s is on the chain", s.Mailbox)}
	if !s.Published {
		box.State, box.Detail, box.Fix = tool.Bad, "not published yet: nobody can write to this account", "top-chain query account, then top-relay status"
	}
	return append([]tool.Check{k, box, checkReach(s)}, checkRelays(s)...)
}

func checkReach(s api.RelayStatus) tool.Check {
	k := tool.Check{Name: "reachability", State: tool.OK, Detail: "this agent dials its relays; nobody needs to reach it"}
	if s.Providing && len(s.Addrs) == 0 {
		k.State, k.Detail, k.Fix = tool.Bad, "it provides and listens nowhere", "top-relay serve --provide --listen /ip4/0.0.0.0/tcp/7001"
	} else if s.Providing {
		k.Detail = s.Reachability + "; it listens on " + s.Addrs[0]
		if s.Reachability == "private" && !strings.Contains(strings.Join(s.Addrs, " "), "/p2p-circuit/") {
			k.State, k.Fix = tool.Bad, "open the port, or top-relay serve --provide --via ADDRESS of a provider that is reached"
		}
	}
	return k
}

func checkRelays(s api.RelayStatus) (all []tool.Check) {
	for _, l := range s.Relays {
		if !l.Receives {
			continue
		}
		k := tool.Check{Name: "relay " + l.Name, State: tool.OK, Detail: "connected"}
		if !l.Connected {
			k.State, k.Detail, k.Fix = tool.Warn, l.Error, "choose others: top-relay serve --relay NODE"
		}
		all = append(all, k)
	}
	if len(all) < 2 {
		all = append(all, tool.Check{Name: "relays", State: tool.Warn, Detail: fmt.Sprintf("%d in the mailbox record, two or more survive the loss of one", len(all)), Fix: "top-relay routes"})
	}
	return all
}
