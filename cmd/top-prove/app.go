package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"

	"top/lib/daemon"
	"top/lib/home"
	"top/lib/receipt"
	"top/lib/tool"
	"top/lib/top"
)

func app() tool.App {
	return tool.App{
		Name:    "top-prove",
		Summary: "proofs of service: list, verify, trace",
		Doc: `A receipt is what a provider was promised and what it served, signed by both ends.
Daemons append theirs to TOP_HOME/receipts; these commands read them there, or from
standard input, and need no daemon. Only trace asks the chain.`,
		Verbs:  []tool.Verb{receiptsVerb(), verifyVerb(), traceVerb()},
		Doctor: doctor, DoctorFlags: []tool.Flag{daemon.ChainFlag()},
	}
}

// A line is a receipt as it stands in a log.
type line struct {
	raw json.RawMessage
	rec receipt.Record
}

// parse reads a line of a log; false is another record. What it says is not
// checked.
func parse(raw []byte) (line, bool, error) {
	var l line
	var head struct{ Type string }
	if err := json.Unmarshal(raw, &head); err != nil {
		return l, false, fmt.Errorf("not a record: %v: %w", err, top.ErrInvalid)
	}
	if head.Type != "receipt" {
		return l, false, nil
	}
	l.raw = append(l.raw, raw...)
	if err := json.Unmarshal(raw, &l.rec); err != nil {
		return l, true, fmt.Errorf("receipt: %v: %w", err, top.ErrInvalid)
	}
	return l, true, nil
}

// check is the receipt of a line, verified.
func (l line) check() (receipt.Receipt, error) {
	r, err := receipt.FromRecord(l.rec)
	if err != nil {
		return r, err
	}
	return r, r.Verify()
}

// logs calls fn with every receipt in the logs of a home, oldest first in each.
func logs(dir home.Dir, fn func(line) error) error {
	files, err := filepath.Glob(dir.Path("receipts", "*.ndjson"))
	if err != nil {
		return fmt.Errorf("look for receipts: %w", err)
	}
	for _, f := range files {
		err := home.EachLine(f, func(raw []byte) error {
			l, ok, err := parse(raw)
			if err != nil || !ok {
				return nil // verify names it
			}
			return fn(l)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func doctor(ctx context.Context, c *tool.Call) ([]tool.Check, error) {
	dir, err := daemon.Home(c)
	if err != nil {
		return nil, err
	}
	n := 0
	k := tool.Check{Name: "receipts", State: tool.OK}
	if err := logs(dir, func(line) error { n++; return nil }); err != nil {
		k.State, k.Detail = tool.Bad, err.Error()
	} else if k.Detail = fmt.Sprintf("%d in %s", n, dir.Path("receipts")); n == 0 {
		k.State, k.Fix = tool.Warn, "use or provide a service: top-relay serve"
	}
	h := tool.Check{Name: "chain", State: tool.OK, Detail: "answers (only trace asks it)"}
	chain, err := daemon.Chain(c)
	if err == nil {
		_, err = chain.Status(ctx)
	}
	if err != nil {
		h.State, h.Detail, h.Fix = tool.Warn, err.Error(), "top-chain serve"
	}
	return []tool.Check{k, h}, nil
}
