package main

import (
	"cmp"
	"context"
	"errors"

	"top/lib/api"
	"top/lib/daemon"
	"top/lib/home"
	"top/lib/pipe"
	"top/lib/session"
	"top/lib/tool"
	"top/lib/top"
	"top/lib/wallet"
)

func rehearseVerb() tool.Verb {
	return tool.Verb{
		Name: "rehearse", Summary: "run both ends of a paid session here, to try an offer and a budget",
		Doc: `Over an open channel, with real tickets, ticks and vouchers and without a network:
the agent signs within the service's budget, the node key countersigns. Prints the
receipt, adds it to HOME/receipts, and leaves the rest to top-wallet settle.`,
		Args: []tool.Arg{{Name: "CHANNEL", Help: "64 hex digits, as top-wallet channels shows them"}},
		Flags: []tool.Flag{
			{Name: "service", Default: "relay", Help: "which of the node's offers"},
			{Name: "units", Kind: tool.Int, Default: "100", Help: "how many units are served and paid"},
			{Name: "unverified", Kind: tool.Int, Help: "how many of them the node counts alone, as for a stock WireGuard client"},
			{Name: "node-key", Help: "the provider's node key (default HOME/keys/node.key)"},
			sockFlag(), daemon.ChainFlag(),
		},
		Records:  []string{"receipt"},
		Examples: []string{"top-wallet rehearse 6f1e… --service relay --units 1000 --node-key ../bob/keys/node.key --json | top-wallet settle -"},
		Run:      rehearse,
	}
}

func rehearse(ctx context.Context, c *tool.Call) error {
	id, err := channelArg(c)
	if err != nil {
		return err
	}
	if c.Int("units") < 1 || c.Int("unverified") < 0 || c.Int("unverified") > c.Int("units") {
		return top.Errorf(top.Usage, "--units wants a count above 0, and --unverified one of at most that")
	}
	dir, err := daemon.Home(c)
	if err != nil {
		return err
	}
	node, err := home.NodeKey(dir, c.String("node-key"))
	if err != nil {
		return err
	}
	chain, err := daemon.Chain(c)
	if err != nil {
		return err
	}
	agent, err := dialAgent(c)
	if err != nil {
		return err
	}
	last, after, err := before(ctx, c, agent, id)
	if err != nil {
		return err
	}
	bar := c.Progress("units paid", c.Int("units"))
	r, failed := wallet.Rehearsal{
		Chain: chain, Agent: agent, Node: node, Channel: id, Service: c.String("service"), Units: uint64(c.Int("units")), Own: uint64(c.Int("unverified")),
		Last: last, After: after, Report: func(n uint64) { bar.At(int(n)) },
	}.Run(ctx)
	if r == nil {
		return failed
	}
	rec := r.Record()
	if err := keep(dir, rec); err != nil {
		return errors.Join(failed, err)
	}
	err = c.Emit(rec, "session %s: %s x %s at %s TOP = %s TOP; settle it: top-wallet settle %s",
		rec.Session, rec.Units, rec.Unit, rec.Price, rec.Amount, receiptFile(dir))
	return cmp.Or(failed, err)
}

// before is what earlier sessions left of a channel: the best claim among the
// home's receipts, and the number of the newest voucher that the agent signed.
func before(ctx context.Context, c *tool.Call, agent *api.Wallet, id top.ID) (last *session.Claim, number uint64, err error) {
	b, err := readBill(c, "")
	if err != nil && !errors.Is(err, top.ErrNotFound) {
		return nil, 0, err
	}
	if b != nil {
		for _, ch := range b.bill.Channels() {
			if ch.Channel == id {
				last = &ch.Claim
			}
		}
	}
	err = agent.Record(ctx, 0, 0, func(e api.SignedEntry) error {
		if e.Channel != nil && *e.Channel == id {
			number = max(number, uint64(e.Number))
		}
		return nil
	})
	return last, number, err
}

func receiptFile(dir home.Dir) string { return dir.Path("receipts", "rehearsal.ndjson") }

// keep adds a receipt to the home's, on disk.
func keep(dir home.Dir, rec any) error {
	if err := dir.Make(); err != nil {
		return err
	}
	log, err := home.OpenLog(receiptFile(dir))
	if err != nil {
		return err
	}
	defer log.Close()
	line, err := pipe.Line(rec)
	if err != nil {
		return err
	}
	if err := log.Append(line[:len(line)-1]); err != nil {
		return err
	}
	return log.Sync()
}
