package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"top/lib/api"
	"top/lib/tool"
	"top/lib/top"
)

func watchVerb() tool.Verb {
	return tool.Verb{
		Name: "watch", Summary: "print every block and transaction as it becomes final",
		Doc: `Goes on until it is interrupted. --since 0 begins with the first block that the
daemon keeps; without it, watch begins now.`,
		Flags: []tool.Flag{
			sockFlag(),
			{Name: "since", Kind: tool.Int, Help: "begin after this height"},
			{Name: "txs", Kind: tool.Bool, Help: "leave out blocks, print transactions only"},
		},
		Records:  []string{"block", "tx", "gap"},
		Examples: []string{"top-chain watch", "top-chain watch --since 0 --json"},
		Run:      watch,
	}
}

func watch(ctx context.Context, c *tool.Call) error {
	chain, err := dial(c)
	if err != nil {
		return err
	}
	var since top.Height
	if c.Set("since") {
		if c.Int("since") < 0 {
			return top.Errorf(top.Usage, "--since wants a height")
		}
		since = top.Height(c.Int("since"))
	} else {
		s, err := chain.Status(ctx)
		if err != nil {
			return err
		}
		since = s.Height
	}
	return chain.Events(ctx, since, func(raw json.RawMessage) error {
		text, err := eventText(raw)
		if err != nil || text == "" && !c.JSON || c.Bool("txs") && isBlock(raw) {
			return err
		}
		return c.Emit(raw, "%s", text)
	})
}

func isBlock(raw json.RawMessage) bool {
	var t struct{ Type string }
	return json.Unmarshal(raw, &t) == nil && t.Type == "block"
}

// eventText is an event for people; "" for one that this version does not know.
func eventText(raw json.RawMessage) (string, error) {
	var t struct {
		Type string
		Lost top.Count
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return "", fmt.Errorf("event: %w", err)
	}
	switch t.Type {
	case "block":
		var b api.Event
		err := json.Unmarshal(raw, &b)
		return fmt.Sprintf("block %s  %s  %s  %d transactions", b.Height, b.Time.Format(time.TimeOnly), b.Hash.Short(), b.Txs), err
	case "tx":
		var x api.Tx
		err := json.Unmarshal(raw, &x)
		return "  " + txText(x), err
	case "gap":
		return fmt.Sprintf("gap: %s blocks are not kept here any more", t.Lost), nil
	}
	return "", nil
}
