package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"top/lib/api"
	"top/lib/home"
	"top/lib/tool"
	"top/lib/top"
	"top/lib/vpn"
)

// lowDisk is the free space below which doctor warns.
const lowDisk = 256 << 20

func doctor(ctx context.Context, c *tool.Call) ([]tool.Check, error) {
	dir, err := homeOf(c)
	if err != nil {
		return nil, err
	}
	checks := []tool.Check{checkNodeKey(dir), checkDisk(dir), checkChain(ctx, c), checkBudget(ctx, c), checkDaemon(ctx, c), checkLeft()}
	return checks, nil
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
		k.State, k.Fix = tool.Bad, "free some space: what is earned must reach the disk"
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
	k := tool.Check{Name: "budget", State: tool.Warn, Detail: "none for vpn: no tunnel is paid (an exit needs none)", Fix: "top-wallet budget set --service vpn --per-day 1"}
	w, err := dialWallet(c)
	if err == nil {
		err = w.Budgets(ctx, func(b api.Budget) error {
			if b.Service == "vpn" {
				k.State, k.Detail, k.Fix = tool.OK, fmt.Sprintf("%s TOP a day for vpn, %s spent", b.PerDay, b.Spent), ""
			}
			return nil
		})
	}
	if err != nil {
		k.State, k.Detail, k.Fix = tool.Bad, err.Error(), "top-wallet agent"
	}
	return k
}

func checkDaemon(ctx context.Context, c *tool.Call) tool.Check {
	k := tool.Check{Name: "tunnel", State: tool.Warn, Detail: "no tunnel and no exit runs here", Fix: "top-vpn up, or top-vpn serve --provide"}
	v, err := dialVPN(c)
	if err != nil {
		k.Detail = err.Error()
		return k
	}
	s, err := v.Status(ctx)
	switch {
	case errors.Is(err, top.ErrOffline):
	case err != nil:
		k.State, k.Detail = tool.Bad, err.Error()
	case s.Problem != "":
		k.State, k.Detail, k.Fix = tool.Bad, s.Problem, "top-vpn status"
	case s.Role == "exit":
		k.State, k.Detail, k.Fix = tool.OK, fmt.Sprintf("exit, %s, %d sessions; others must reach %s (a port behind NAT has to be forwarded)", s.State, s.Peers, strings.Join(s.Addrs, " ")), ""
	default:
		k.State, k.Detail, k.Fix = tool.OK, fmt.Sprintf("%s, %d hops", s.State, len(s.Hops)), ""
	}
	return k
}

// checkLeft looks for what a killed tunnel left around the host.
func checkLeft() tool.Check {
	left, err := vpn.KillSwitches()
	switch {
	case err != nil:
		return tool.Check{Name: "kill switch", State: tool.Warn, Detail: err.Error(), Fix: "look as root"}
	case len(left) > 0:
		return tool.Check{Name: "kill switch", State: tool.Warn, Detail: "stands for " + strings.Join(left, ", ") + ": nothing leaves beside it", Fix: "top-vpn down --force, unless a tunnel runs"}
	}
	return tool.Check{Name: "kill switch", State: tool.OK, Detail: "none"}
}
