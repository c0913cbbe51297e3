package main

import (
	"context"

	"top/lib/home"
	"top/lib/pipe"
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
			{Name: "node-key", Help: "the provider's node key (default HOME/keys/node.key)"},
			sockFlag(), chainSockFlag(),
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
	if c.Int("units") < 1 {
		return top.Errorf(top.Usage, "--units wants a count above 0")
	}
	dir, err := homeOf(c)
	if err != nil {
		return err
	}
	node, err := wallet.NodeKey(dir, c.String("node-key"))
	if err != nil {
		return err
	}
	chain, err := dialChain(c)
	if err != nil {
		return err
	}
	agent, err := dialAgent(c)
	if err != nil {
		return err
	}
	bar := c.Progress("units paid", c.Int("units"))
	r, err := wallet.Rehearsal{
		Chain: chain, Agent: agent, Node: node, Channel: id, Service: c.String("service"), Units: uint64(c.Int("units")),
		Report: func(n uint64) { bar.At(int(n)) },
	}.Run(ctx)
	if err != nil {
		return err
	}
	rec := r.Record()
	if err := keep(dir, rec); err != nil {
		return err
	}
	return c.Emit(rec, "session %s: %s x %s at %s TOP = %s TOP; settle it: top-wallet settle %s",
		rec.Session, rec.Units, rec.Unit, rec.Price, rec.Amount, receiptFile(dir))
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
