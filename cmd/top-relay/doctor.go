package main

import (
	"context"
	"fmt"
	"strings"

	"top/lib/api"
	"top/lib/daemon"
	"top/lib/home"
	"top/lib/tool"
)

// lowDisk is the free space below which doctor warns.
const lowDisk = 256 << 20

func doctor(ctx context.Context, c *tool.Call) ([]tool.Check, error) {
	dir, err := daemon.Home(c)
	if err != nil {
		return nil, err
	}
	checks := []tool.Check{daemon.CheckNodeKey(dir), daemon.CheckDisk(dir, lowDisk, "nothing is taken below 64 MiB"),
		daemon.CheckChain(ctx, c), daemon.CheckBudget(ctx, c, "relay", "nothing can be sent")}
	return append(checks, checkAgent(ctx, c, dir)...), nil
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
