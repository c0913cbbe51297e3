package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"top/lib/api"
	"top/lib/tool"
)

func statusVerb() tool.Verb {
	return tool.Verb{
		Name: "status", Summary: "say where the daemon stands",
		Flags: []tool.Flag{sockFlag()}, Records: []string{"chain-status"},
		Examples: []string{"top-chain status", "top-chain status --json"},
		Run: func(ctx context.Context, c *tool.Call) error {
			chain, err := dial(c)
			if err != nil {
				return err
			}
			s, err := chain.Status(ctx)
			if err != nil {
				return err
			}
			return c.Emit(s, "%s", statusText(s))
		},
	}
}

func statusText(s api.ChainStatus) string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-11s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("chain", "%s", s.Chain)
	line("role", "%s, up %s", s.Role, (time.Duration(s.UptimeMs) * time.Millisecond).Round(time.Second))
	line("height", "%s at %s", s.Height, s.Time)
	line("header", "%s", s.Header)
	line("root", "%s", s.Root)
	line("state", "%s", stateText(s))
	line("peers", "%d", s.Peers)
	line("validators", "%d", s.Validators)
	line("supply", "%s TOP, %s TOP burned, %s accounts", s.Supply, s.Burned, s.Accounts)
	line("fees", "%s TOP a byte, %s TOP for a new account", s.FeePerByte, s.AccountFee)
	line("pending", "%d transactions", s.Pending)
	for _, a := range s.Addresses {
		line("address", "%s", a)
	}
	if s.Consensus != "" {
		line("consensus", "%s", s.Consensus)
	}
	return strings.TrimRight(b.String(), "\n")
}

func stateText(s api.ChainStatus) string {
	switch {
	case s.Evidence > 0:
		return fmt.Sprintf("conflicting headers were seen: %d kept as evidence", s.Evidence)
	case s.CatchingUp:
		return "catching up"
	case s.Stale:
		return "stale: the last block is older than 60 s"
	}
	return "following"
}
