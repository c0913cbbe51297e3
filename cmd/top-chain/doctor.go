package main

import (
	"context"
	"errors"
	"fmt"

	"top/lib/api"
	"top/lib/chain"
	"top/lib/daemon"
	"top/lib/home"
	"top/lib/tool"
	"top/lib/top"
)

func doctor(ctx context.Context, c *tool.Call) ([]tool.Check, error) {
	dir, err := daemon.Home(c)
	if err != nil {
		return nil, err
	}
	checks := []tool.Check{checkHome(dir), checkKey(dir), checkDisk(dir)}
	node, err := dial(c)
	if err != nil {
		return append(checks, tool.Check{Name: "socket", State: tool.Bad, Detail: err.Error(), Fix: "choose a shorter --home"}), nil
	}
	s, err := node.Status(ctx)
	if err != nil {
		return append(checks, tool.Check{
			Name: "daemon", State: tool.Bad, Detail: err.Error(), Fix: fmt.Sprintf("top-chain serve --home %s", dir),
		}), nil
	}
	return append(checks,
		tool.Check{Name: "daemon", State: tool.OK, Detail: fmt.Sprintf("%s of %s, version %s", s.Role, s.Chain, s.Version)},
		checkHead(s), daemon.CheckClock(s), checkPeers(s)), nil
}

func checkHome(dir home.Dir) tool.Check {
	if _, err := chain.LoadGenesis(dir); err != nil {
		return tool.Check{Name: "home", State: tool.Bad, Detail: err.Error(), Fix: fmt.Sprintf("top-chain init --home %s", dir)}
	}
	return tool.Check{Name: "home", State: tool.OK, Detail: string(dir)}
}

func checkKey(dir home.Dir) tool.Check {
	path := dir.Path("keys", "chain")
	_, err := home.ReadSecret(path)
	switch {
	case errors.Is(err, top.ErrNotFound):
		return tool.Check{Name: "key", State: tool.Bad, Detail: err.Error(), Fix: fmt.Sprintf("top-chain init --home %s", dir)}
	case errors.Is(err, top.ErrDenied):
		return tool.Check{Name: "key", State: tool.Bad, Detail: err.Error(), Fix: "chmod 600 " + path}
	case err != nil:
		return tool.Check{Name: "key", State: tool.Bad, Detail: err.Error()}
	}
	return tool.Check{Name: "key", State: tool.OK, Detail: path}
}

// lowDisk is the free space below which doctor warns.
const lowDisk = 1 << 30

// checkDisk warns: the node itself stops before its disk is full.
func checkDisk(dir home.Dir) tool.Check {
	k := daemon.CheckDisk(dir, lowDisk, "a node stops when its disk is nearly full (serve --min-free)")
	if k.State == tool.Bad {
		k.State = tool.Warn
	}
	return k
}

func checkHead(s api.ChainStatus) tool.Check {
	k := tool.Check{Name: "head", State: tool.OK, Detail: fmt.Sprintf("block %s of %s", s.Height, s.Time)}
	switch {
	case s.Evidence > 0:
		k.State, k.Detail = tool.Bad, fmt.Sprintf("conflicting headers were seen, %d kept", s.Evidence)
		k.Fix = "ask others which chain they follow, then start anew from a header that you trust: top-chain init --trust HEIGHT:HASH"
	case s.CatchingUp:
		k.State, k.Detail = tool.Warn, k.Detail+", catching up"
	case s.Stale:
		k.State, k.Detail = tool.Bad, k.Detail+", older than 60 s"
		k.Fix = "see whether two thirds of the validators are up, and this clock is right: date -u"
	}
	return k
}

func checkPeers(s api.ChainStatus) tool.Check {
	k := tool.Check{Name: "peers", State: tool.OK, Detail: fmt.Sprintf("%d", s.Peers)}
	if s.Peers == 0 && (s.Role != "validator" || s.Validators > 1) {
		k.State, k.Detail, k.Fix = tool.Bad, "none", "name one that is up: top-chain serve --peer ADDR"
	}
	return k
}
