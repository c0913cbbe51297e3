package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"top/lib/api"
	"top/lib/pipe"
	"top/lib/tool"
	"top/lib/top"
)

func submitVerb() tool.Verb {
	return tool.Verb{
		Name: "submit", Summary: "submit signed transactions and say what became of each",
		Doc: `Reads "signed-tx" records, as "top-wallet pay --no-submit --json" prints them.
Submitting one twice has the effect of one. Exit 1 when any was refused or failed.`,
		Args: []tool.Arg{{Name: "FILE", Help: "records to read; - or none is stdin", Optional: true}},
		Flags: []tool.Flag{
			sockFlag(),
			{Name: "no-wait", Kind: tool.Bool, Help: "do not wait until each is final"},
			{Name: "wait", Kind: tool.Duration, Default: "30s", Help: "how long to wait for each"},
		},
		Records:  []string{"submitted", "tx"},
		Examples: []string{"top-wallet pay bob 1 --no-submit --json | top-chain submit"},
		Run:      submit,
	}
}

func submit(ctx context.Context, c *tool.Call) error {
	chain, err := dial(c)
	if err != nil {
		return err
	}
	in, err := c.Input(c.Arg(0))
	if err != nil {
		return err
	}
	defer in.Close()
	bad, last := 0, error(nil)
	for r := pipe.NewReader(in); ; {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && rec.Type != "signed-tx" {
			continue
		}
		if err == nil {
			err = submitOne(ctx, c, chain, rec)
		}
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, top.ErrOffline) {
				return err
			}
			c.Info("%v", err)
			bad, last = bad+1, err
		}
	}
	if bad == 1 {
		return last
	}
	if bad > 1 {
		return top.Errorf(top.Failed, "%d transactions were refused or failed", bad)
	}
	return nil
}

func submitOne(ctx context.Context, c *tool.Call, chain *api.Chain, rec pipe.Record) error {
	var in api.SignedTx
	if err := rec.Decode(&in); err != nil {
		return err
	}
	s, err := chain.Submit(ctx, in.Raw)
	if err != nil {
		return err
	}
	if c.Bool("no-wait") {
		return c.Emit(s, "%s submitted", s.ID)
	}
	t, err := chain.Tx(ctx, s.ID, c.Duration("wait"))
	if errors.Is(err, top.ErrNotFound) {
		return top.Errorf(top.Timeout, "%s is not final after %s (ask again: top-chain query tx %[1]s)", s.ID, c.Duration("wait").Round(time.Second))
	}
	if err != nil {
		return err
	}
	if err := c.Emit(t, "%s", txText(t)); err != nil {
		return err
	}
	if !t.OK {
		return &top.Error{Kind: top.Kind(t.Error), Message: t.Message}
	}
	return nil
}

func txText(t api.Tx) string {
	how := "done"
	if !t.OK {
		how = t.Error + ": " + t.Message
	}
	fee := fmt.Sprintf("fee %s TOP", t.Fee)
	if t.Free {
		fee = "free of fee"
	}
	return fmt.Sprintf("%s  %-10s block %s at %s  %s  %s", t.ID, t.Kind, t.Height, t.Time, fee, how)
}
