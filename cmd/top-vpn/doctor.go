package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"top/lib/daemon"
	"top/lib/tool"
	"top/lib/top"
	"top/lib/vpn"
)

// lowDisk is the free space below which doctor warns.
const lowDisk = 256 << 20

func doctor(ctx context.Context, c *tool.Call) ([]tool.Check, error) {
	dir, err := daemon.Home(c)
	if err != nil {
		return nil, err
	}
	checks := []tool.Check{daemon.CheckNodeKey(dir), daemon.CheckDisk(dir, lowDisk, "what is earned must reach the disk"),
		daemon.CheckChain(ctx, c), daemon.CheckBudget(ctx, c, "vpn", "no tunnel is paid (an exit needs none)"), checkDaemon(ctx, c), checkLeft()}
	return checks, nil
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
