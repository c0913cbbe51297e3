package daemon

import (
	"context"
	"fmt"
	"time"

	"top/lib/api"
	"top/lib/home"
	"top/lib/tool"
)

// maxSkew is how far this clock may be behind the chain's.
const maxSkew = 5 * time.Second

// CheckNodeKey looks for the home's node key.
func CheckNodeKey(dir home.Dir) tool.Check {
	if _, err := home.NodeKey(dir, ""); err != nil {
		return tool.Check{Name: "node key", State: tool.Bad, Detail: err.Error(), Fix: "top-wallet new, or top-wallet import"}
	}
	return tool.Check{Name: "node key", State: tool.OK, Detail: "here"}
}

// CheckDisk looks whether the home's disk has least bytes free; why is what happens
// below that.
func CheckDisk(dir home.Dir, least uint64, why string) tool.Check {
	free, err := home.Free(string(dir))
	if err != nil {
		return tool.Check{Name: "disk", State: tool.Bad, Detail: err.Error(), Fix: "top-wallet new, or top-chain init, makes a home"}
	}
	k := tool.Check{Name: "disk", State: tool.OK, Detail: fmt.Sprintf("%d MiB free at %s", free>>20, dir)}
	if free < least {
		k.State, k.Fix = tool.Bad, "free some space: "+why
	}
	return k
}

// CheckChain asks the chain daemon whether it follows the chain.
func CheckChain(ctx context.Context, c *tool.Call) tool.Check {
	k := tool.Check{Name: "chain", State: tool.Bad, Fix: "top-chain serve"}
	chain, err := Chain(c)
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
	default:
		if k = CheckClock(s); k.State == tool.OK {
			k.Detail = fmt.Sprintf("%s, %s, block %s", s.Chain, s.Role, s.Height)
		}
		k.Name = "chain"
	}
	return k
}

// CheckClock compares this machine's clock with the chain's.
func CheckClock(s api.ChainStatus) tool.Check {
	if ahead := time.Until(s.Time.Time); ahead > maxSkew {
		return tool.Check{Name: "clock", State: tool.Bad, Detail: fmt.Sprintf("the chain is %s ahead of this machine", ahead.Round(time.Second)), Fix: "set the clock: timedatectl set-ntp true"}
	}
	return tool.Check{Name: "clock", State: tool.OK, Detail: "not behind the chain"}
}

// CheckBudget asks the wallet agent for a service's budget; without is what its
// absence means.
func CheckBudget(ctx context.Context, c *tool.Call, service, without string) tool.Check {
	k := tool.Check{Name: "budget", State: tool.Warn, Detail: "none for " + service + ": " + without, Fix: "top-wallet budget set --service " + service + " --per-day 1"}
	w, err := Wallet(c)
	if err == nil {
		err = w.Budgets(ctx, func(b api.Budget) error {
			if b.Service == service {
				k.State, k.Detail, k.Fix = tool.OK, fmt.Sprintf("%s TOP a day for %s, %s spent", b.PerDay, service, b.Spent), ""
			}
			return nil
		})
	}
	if err != nil {
		k.State, k.Detail, k.Fix = tool.Bad, err.Error(), "top-wallet agent"
	}
	return k
}
