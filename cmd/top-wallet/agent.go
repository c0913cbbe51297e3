package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"top/lib/daemon"
	"top/lib/home"
	"top/lib/tool"
	"top/lib/top"
	"top/lib/wallet"
)

func agentVerb() tool.Verb {
	return tool.Verb{
		Name: "agent", Summary: "hold the unlocked key and sign for the other daemons", Serve: true,
		Doc: `Runs in the foreground until SIGINT or SIGTERM. It sees payments through that an
earlier run began, and signs vouchers within budgets ("top-wallet budget").`,
		Flags:    append(tool.PassphraseFlags(), tool.Flag{Name: "sock", Help: "where to answer (default HOME/run/wallet.sock)"}, daemon.ChainFlag()),
		Examples: []string{"top-wallet agent", "top-wallet agent --passphrase-fd 3 3< pass"},
		Run: func(ctx context.Context, c *tool.Call) error {
			dir, err := daemon.Home(c)
			if err != nil {
				return err
			}
			if _, err := wallet.Load(dir); err != nil {
				return err
			}
			pass, err := c.Passphrase("passphrase", home.ReadSecret)
			if err != nil {
				return err
			}
			key, err := wallet.Unlock(dir, pass)
			if err != nil {
				return err
			}
			debug.FreeOSMemory() // opening the key took 128 MiB (scrypt)
			chain, err := daemon.Chain(c)
			if err != nil {
				return err
			}
			a, err := wallet.New(wallet.Config{Home: dir, Key: key, Chain: chain, Sock: c.String("sock"), Ready: c.Ready, Log: c.Log})
			if err != nil {
				return err
			}
			return a.Run(ctx)
		},
	}
}

func doctor(ctx context.Context, c *tool.Call) ([]tool.Check, error) {
	dir, err := daemon.Home(c)
	if err != nil {
		return nil, err
	}
	id, err := wallet.Load(dir)
	if err != nil {
		return []tool.Check{{Name: "wallet", State: tool.Bad, Detail: err.Error(), Fix: fmt.Sprintf("top-wallet new --home %s", dir)}}, nil
	}
	checks := []tool.Check{{Name: "wallet", State: tool.OK, Detail: id.Address.String()}, checkKey(dir), checkNodeKey(dir), daemon.CheckDisk(dir, lowDisk, "nothing is signed that cannot be written down first")}
	return append(append(checks, checkChain(ctx, c, dir, id)...), checkAgent(ctx, c, dir, id)), nil
}

func checkKey(dir home.Dir) tool.Check {
	if _, err := wallet.Sealed(dir); err != nil {
		k := tool.Check{Name: "key", State: tool.Bad, Detail: err.Error(), Fix: "top-wallet import"}
		if errors.Is(err, top.ErrDenied) {
			k.Fix = "chmod 600 " + dir.Path("keys", "account.key")
		}
		return k
	}
	return tool.Check{Name: "key", State: tool.OK, Detail: "sealed"}
}

func checkNodeKey(dir home.Dir) tool.Check {
	if _, err := home.NodeKey(dir, ""); err != nil {
		return tool.Check{Name: "node key", State: tool.Warn, Detail: err.Error(), Fix: "top-wallet import writes it again from the words"}
	}
	return tool.Check{Name: "node key", State: tool.OK, Detail: "here"}
}

// lowDisk is the free space below which doctor warns.
const lowDisk = 64 << 20

// checkChain looks at the chain daemon and the account on it.
func checkChain(ctx context.Context, c *tool.Call, dir home.Dir, id wallet.Identity) []tool.Check {
	down := func(err error) []tool.Check {
		return []tool.Check{{Name: "chain", State: tool.Bad, Detail: err.Error(), Fix: fmt.Sprintf("top-chain serve --home %s", dir)}}
	}
	chain, err := daemon.Chain(c)
	if err != nil {
		return down(err)
	}
	s, err := chain.Status(ctx)
	if err != nil {
		return down(err)
	}
	k := tool.Check{Name: "chain", State: tool.OK, Detail: fmt.Sprintf("%s, %s, block %s", s.Chain, s.Role, s.Height)}
	if s.Stale {
		k.State, k.Detail, k.Fix = tool.Bad, k.Detail+", older than 60 s", "top-chain doctor"
	}
	r, err := chain.Account(ctx, id.Address)
	if err != nil {
		return append(down(err), k, daemon.CheckClock(s))
	}
	acc := tool.Check{Name: "account", State: tool.OK, Detail: fmt.Sprintf("%s TOP", r.Balance)}
	if !r.Exists {
		acc.State, acc.Detail, acc.Fix = tool.Warn, "none yet: it is made by its first credit", "have somebody pay "+id.Address.String()
	}
	return []tool.Check{k, daemon.CheckClock(s), acc}
}

func checkAgent(ctx context.Context, c *tool.Call, dir home.Dir, id wallet.Identity) tool.Check {
	bad := tool.Check{Name: "agent", State: tool.Bad, Fix: fmt.Sprintf("top-wallet agent --home %s", dir)}
	agent, err := dialAgent(c)
	if err != nil {
		bad.Detail = err.Error()
		return bad
	}
	s, err := agent.Status(ctx)
	if err != nil {
		bad.Detail = err.Error()
		return bad
	}
	if s.Address != id.Address {
		bad.Detail = fmt.Sprintf("it holds the key of %s, this home's wallet is %s", s.Address, id.Address)
		return bad
	}
	k := tool.Check{Name: "agent", State: tool.OK, Detail: fmt.Sprintf("unlocked, %d payments on their way", s.Pending)}
	if len(s.Batches) > 0 {
		k.State, k.Detail = tool.Warn, fmt.Sprintf("batch %s is not finished", s.Batches[0])
		k.Fix = "top-wallet pay-batch --resume " + s.Batches[0]
	}
	return k
}
