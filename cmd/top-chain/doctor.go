package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"top/lib/api"
	"top/lib/chain"
	"top/lib/home"
	"top/lib/tool"
	"top/lib/top"
)

func doctor(ctx context.Context, c *tool.Call) ([]tool.Check, error) {
	dir, err := homeOf(c)
	if err != nil {
		return nil, err
	}
	checks := []tool.Check{checkHome(dir), checkKey(dir), checkDisk(dir)}
	path, err := dir.Sock("chain")
	if err != nil {
		return append(checks, tool.Check{Name: "socket", State: tool.Bad, Detail: err.Error(), Fix: "choose a shorter --home"}), nil
	}
	node, err := dial(c)
	if err != nil {
		return nil, err
	}
	s, err := node.Status(ctx)
	if err != nil {
		return append(checks, tool.Check{
			Name: "daemon", State: tool.Bad, Detail: "no answer on " + path, Fix: fmt.Sprintf("top-chain serve --home %s", dir),
		}), nil
	}
	return append(checks,
		tool.Check{Name: "daemon", State: tool.OK, Detail: fmt.Sprintf("%s of %s, version %s", s.Role, s.Chain, s.Version)},
		checkHead(s), checkClock(s), checkPeers(s)), nil
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

func checkDisk(dir home.Dir) tool.Check {
	free, err := home.Free(string(dir))
	if err != nil {
		return tool.Check{Name: "disk", State: tool.Warn, Detail: err.Error(), Fix: fmt.Sprintf("top-chain init --home %s", dir)}
	}
	k := tool.Check{Name: "disk", State: tool.OK, Detail: fmt.Sprintf("%d MiB free at %s", free>>20, dir)}
	if free < lowDisk {
		k.State, k.Fix = tool.Warn, "free some space: a node stops when its disk is nearly full (serve --min-free)"
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

// maxSkew is how far this clock may be behind the chain's.
const maxSkew = 5 * time.Second

func checkClock(s api.ChainStatus) tool.Check {
	if ahead := time.Until(s.Time.Time); ahead > maxSkew {
		return tool.Check{Name: "clock", State: tool.Bad, Detail: fmt.Sprintf("the chain is %s ahead of this machine", ahead.Round(time.Second)), Fix: "set the clock: timedatectl set-ntp true"}
	}
	return tool.Check{Name: "clock", State: tool.OK, Detail: "not behind the chain"}
}

func checkPeers(s api.ChainStatus) tool.Check {
	k := tool.Check{Name: "peers", State: tool.OK, Detail: fmt.Sprintf("%d", s.Peers)}
	if s.Peers == 0 && (s.Role != "validator" || s.Validators > 1) {
		k.State, k.Detail, k.Fix = tool.Bad, "none", "name one that is up: top-chain serve --peer ADDR"
	}
	return k
}
