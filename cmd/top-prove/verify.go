package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"top/lib/pipe"
	"top/lib/receipt"
	"top/lib/tool"
	"top/lib/top"
)

// maxSessions bounds the memory of the search for receipts that contradict each
// other.
const maxSessions = 100_000

func verifyVerb() tool.Verb {
	return tool.Verb{
		Name: "verify", Summary: "check receipts and pass the good ones on",
		Doc: `Reads receipt records and prints, unchanged, those of which every signature and every
sum holds; says of each other one which line it is and why. Two receipts that prove
that their node kept two logs of one session are named too. Exit 1 when any was bad.`,
		Args:     []tool.Arg{{Name: "FILE", Help: "receipts; - or none is stdin", Optional: true}},
		Records:  []string{"receipt"},
		Examples: []string{"top-prove receipts --json | top-prove verify --json -"},
		Run: func(_ context.Context, c *tool.Call) error {
			in, err := c.Input(c.Arg(0))
			if err != nil {
				return err
			}
			defer in.Close()
			return verify(c, in)
		},
	}
}

func verify(c *tool.Call, in io.Reader) error {
	bad := 0
	newest := map[top.SessionID]receipt.Receipt{}
	for lines := pipe.NewReader(in); ; {
		rec, err := lines.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, top.ErrInvalid) {
			return err
		}
		if err == nil {
			if rec.Type != "receipt" {
				continue
			}
			err = judge(c, rec.Raw, newest)
		}
		if err != nil {
			bad++
			c.Info("line %d: %v", rec.Line, err)
			if c.Lively() || !c.JSON {
				if err := c.Emit(nil, "line %d  bad: %v", rec.Line, err); err != nil {
					return err
				}
			}
		}
	}
	if bad > 0 {
		return top.Errorf(top.Failed, "%d receipts do not hold", bad)
	}
	return nil
}

// judge checks one receipt and prints it if it holds.
func judge(c *tool.Call, raw []byte, newest map[top.SessionID]receipt.Receipt) error {
	l, _, err := parse(raw)
	if err != nil {
		return err
	}
	r, err := l.check()
	if err != nil {
		return err
	}
	s := r.Ticket.Session
	old, known := newest[s]
	if known && r.Contradicts(old) {
		return fmt.Errorf("receipt of session %s: its node %s signed another log of the same session: %w", s, r.Ticket.Node, top.ErrDenied)
	}
	if known && r.Compare(old) > 0 || !known && len(newest) < maxSessions {
		newest[s] = r
	}
	return c.Emit(l.raw, "good  %s  %s x %s = %s TOP  session %s", r.ID(), l.rec.Units, l.rec.Unit, l.rec.Amount, s)
}
