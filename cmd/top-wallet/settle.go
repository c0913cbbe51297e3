package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"

	"top/lib/api"
	"top/lib/billing"
	"top/lib/daemon"
	"top/lib/pipe"
	"top/lib/tool"
	"top/lib/top"
)

func settleVerb() tool.Verb {
	return tool.Verb{
		Name: "settle", Summary: "claim on the chain what receipts prove",
		Doc: `Reads receipt records, checks each, and claims the best of each channel by the node
key, which can credit its owner and nothing else. Repeating it is safe: what was
claimed before is not paid again.`,
		Args: []tool.Arg{{Name: "FILE", Help: "receipts; - or none is stdin", Optional: true}},
		Flags: []tool.Flag{
			{Name: "node-key", Help: "the node key (default HOME/keys/node.key)"},
			{Name: "wait", Kind: tool.Duration, Default: "30s", Help: "how long to wait until a claim is final"},
			{Name: "dry-run", Short: "n", Kind: tool.Bool, Help: "check the receipts and say what would be claimed"},
			daemon.ChainFlag(),
		},
		Records:  []string{"settled"},
		Examples: []string{"top-wallet settle --json - < receipts.ndjson", "top-prove receipts --service vpn --json | top-prove verify --json - | top-wallet settle -"},
		Run:      claim,
	}
}

func claim(ctx context.Context, c *tool.Call) error {
	chain, err := daemon.Chain(c)
	if err != nil {
		return err
	}
	s, err := settlerOf(c, chain)
	if err != nil {
		return err
	}
	mine := top.NodeID(s.Node.Public())
	name := c.Arg(0)
	if name == "" {
		name = "-"
	}
	b, err := readBillOf(c, name, mine)
	if err != nil {
		return err
	}
	failed := b.refused
	var last error
	for _, ch := range b.bill.Channels() {
		if ch.Node != mine {
			continue
		}
		r := api.Settled{Type: "settled", State: "dry-run", Channel: ch.Channel, Owed: ch.Amount}
		if c.Bool("dry-run") {
			if err := c.Emit(r, "channel %s: would claim %s TOP", ch.Channel, ch.Amount); err != nil {
				return err
			}
			continue
		}
		r, err := s.Claim(ctx, ch.Claim)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, top.ErrOffline) {
				return err
			}
			c.Info("channel %s: %v", ch.Channel, err)
			failed, last = failed+1, err
			continue
		}
		if err := c.Emit(r, "%s", r.Text()); err != nil {
			return err
		}
	}
	switch {
	case failed == 1 && last != nil:
		return last
	case failed > 0:
		return top.Errorf(top.Failed, "%d receipts or claims were refused", failed)
	}
	return nil
}

// readBillOf reads receipts and leaves out those of other nodes.
func readBillOf(c *tool.Call, file string, node top.NodeID) (*receipts, error) {
	in, err := c.Input(file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	b := &receipts{bill: billing.New()}
	others := 0
	for r := pipe.NewReader(in); ; {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		var head struct{ Node top.NodeID }
		switch {
		case err != nil:
		case rec.Type != "receipt":
			continue
		default:
			if err = json.Unmarshal(rec.Raw, &head); err == nil && head.Node != node {
				others++
				continue
			}
			if err == nil {
				_, err = b.add(rec.Raw)
			}
		}
		if err != nil {
			c.Info("line %d: %v", rec.Line, err)
			b.refused++
			continue
		}
		b.good++
	}
	if others > 0 {
		c.Info("%d receipts of other nodes were left out (this one is %s)", others, node)
	}
	return b, nil
}
