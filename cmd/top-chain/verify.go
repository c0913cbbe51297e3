package main

import (
	"context"
	"time"

	"top/lib/chain"
	"top/lib/daemon"
	"top/lib/tool"
	"top/lib/top"
)

func verifyVerb() tool.Verb {
	return tool.Verb{
		Name: "verify", Summary: "carry out all blocks of this home again and compare",
		Doc: `Replays every block that is kept, from the genesis or from the oldest snapshot
that they follow on, and compares roots, results, hashes, votes and the invariants
of the ledger with what the validators signed. Exit 1 names the first block that
differs. The node must not run.`,
		Flags:    []tool.Flag{{Name: "signatures", Kind: tool.Bool, Help: "check the signatures of all transactions too"}},
		Records:  []string{"verified"},
		Examples: []string{"top-chain verify", "top-chain verify --home /srv/top --signatures --json"},
		Run:      verify,
	}
}

func verify(ctx context.Context, c *tool.Call) error {
	dir, err := daemon.Home(c)
	if err != nil {
		return err
	}
	said := time.Now()
	r, err := chain.Verify(ctx, dir, c.Bool("signatures"), func(at, last top.Height) {
		if time.Since(said) > time.Second {
			said = time.Now()
			c.Info("block %s of %s", at, last)
		}
	})
	if err != nil {
		return err
	}
	return c.Emit(r, "blocks %s to %s are what the validators signed: %s transactions, %s failed, root %s, supply %s TOP, burned %s",
		r.From, r.Height, r.Txs, r.Failed, r.Root, r.Supply, r.Burned)
}
