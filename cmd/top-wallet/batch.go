package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"top/lib/api"
	"top/lib/daemon"
	"top/lib/home"
	"top/lib/pipe"
	"top/lib/tool"
	"top/lib/top"
	"top/lib/wallet"
)

func payBatchVerb() tool.Verb {
	return tool.Verb{
		Name: "pay-batch", Summary: "pay many from a list, each once",
		Doc: `Reads CSV (address,amount in TOP; a contact's name will do; a first line of
"address,amount" is skipped) or NDJSON ({"type":"pay","address":…,"amount":nano}).
The list is checked whole before anything is paid. Interrupted, it is finished by
--resume ID, and nobody is paid twice: a list equal to an unfinished batch is
refused with that command.`,
		Args: []tool.Arg{{Name: "FILE", Help: "the list; - or none is stdin", Optional: true}},
		Flags: []tool.Flag{
			{Name: "id", Help: "name this batch: the same id twice has the effect of one (default: drawn, and printed)"},
			{Name: "resume", Help: "finish this batch"},
			{Name: "list", Kind: tool.Bool, Help: "print the batches of this wallet"},
			{Name: "dry-run", Short: "n", Kind: tool.Bool, Help: "check the list, say what it would come to, and do nothing"},
			sockFlag(),
		},
		Records:  []string{"batch", "batch-part"},
		Examples: []string{"top-wallet pay-batch payroll.csv", "top-wallet pay-batch --resume 5TPLN…", "generate | top-wallet pay-batch --json -"},
		Run:      payBatch,
	}
}

func payBatch(ctx context.Context, c *tool.Call) error {
	agent, err := dialAgent(c)
	if err != nil {
		return err
	}
	p := &batchPrinter{c: c}
	switch {
	case c.Bool("list"):
		return agent.Batches(ctx, func(b api.Batch) error { return c.Emit(b, "%s", batchText(b)) })
	case c.Set("resume"):
		return agent.ResumeBatch(ctx, c.String("resume"), p.each)
	}
	list, err := readPayments(c)
	if err != nil {
		return err
	}
	q := api.BatchRequest{ID: c.String("id"), Payments: list, DryRun: c.Bool("dry-run")}
	if q.ID == "" {
		q.ID = wallet.DrawID()
	}
	if !q.DryRun {
		c.Info("id %s", q.ID)
	}
	return agent.Batch(ctx, q, p.each)
}

// batchPrinter prints a batch as it goes.
type batchPrinter struct {
	c    *tool.Call
	done int
	bar  *tool.Progress
}

func (p *batchPrinter) each(raw json.RawMessage) error {
	var b api.Batch
	if err := json.Unmarshal(raw, &b); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	switch b.Type {
	case "batch":
		if p.bar == nil {
			p.done = b.Done
			p.bar = p.c.Progress("parts paid", b.Parts)
		}
		if p.c.JSON || b.State == "final" || b.State == "dry-run" {
			return p.c.Emit(raw, "%s", batchText(b))
		}
	case "batch-part":
		p.done++
		p.bar.At(p.done)
		if p.c.JSON {
			return p.c.Emit(raw, "")
		}
	}
	return nil
}

func batchText(b api.Batch) string {
	switch b.State {
	case "dry-run":
		return fmt.Sprintf("would pay %d times, %s TOP in all, fees %s TOP, in %d transactions", b.Count, b.Total, b.Fee, b.Parts)
	case "final":
		return fmt.Sprintf("batch %s: %d payments, %s TOP, fees %s TOP, all final", b.ID, b.Count, b.Paid, b.Fee)
	}
	return fmt.Sprintf("batch %s: %s, %d of %d parts final, %s of %s TOP paid", b.ID, b.State, b.Done, b.Parts, b.Paid, b.Total)
}

// maxLine bounds one line of a list.
const maxLine = pipe.MaxRecord

// readPayments reads the list, whichever form it has.
func readPayments(c *tool.Call) ([]api.BatchRecord, error) {
	in, err := c.Input(c.Arg(0))
	if err != nil {
		return nil, err
	}
	defer in.Close()
	dir, err := daemon.Home(c)
	if err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(in, 64<<10)
	first, err := r.Peek(1)
	if errors.Is(err, io.EOF) {
		return nil, top.Errorf(top.Invalid, "the list is empty (give lines of ADDRESS,AMOUNT)")
	}
	if err != nil {
		return nil, fmt.Errorf("read list: %w", err)
	}
	if first[0] == '{' {
		return readRecords(r)
	}
	return readCSV(r, contacts{dir: dir})
}

func readRecords(in io.Reader) (list []api.BatchRecord, err error) {
	for r := pipe.NewReader(in); ; {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		if rec.Type != "pay" {
			continue
		}
		var p api.BatchRecord
		if err := rec.Decode(&p); err != nil {
			return nil, fmt.Errorf("line %d: %w", rec.Line, err)
		}
		list = append(list, api.BatchRecord{Address: p.Address, Amount: p.Amount})
	}
}

// contacts resolves names, reading the file of names at most once.
type contacts struct {
	dir   home.Dir
	known map[string]top.Address
}

func (k *contacts) resolve(s string) (top.Address, error) {
	if strings.HasPrefix(s, "top1") {
		return top.ParseAddress(s)
	}
	if a, ok := k.known[s]; ok {
		return a, nil
	}
	a, err := home.Resolve(k.dir, s)
	if err == nil {
		if k.known == nil {
			k.known = map[string]top.Address{}
		}
		k.known[s] = a
	}
	return a, err
}

// readCSV reads lines of two fields. Addresses and amounts hold no commas and no
// quotes, so that the full grammar of CSV (RFC 4180) is not needed: a quoted
// field is its inside.
func readCSV(in io.Reader, names contacts) (list []api.BatchRecord, err error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(strings.TrimPrefix(lines.Text(), "\ufeff"))
		if line == "" || strings.HasPrefix(line, "#") || n == 1 && strings.EqualFold(line, "address,amount") {
			continue
		}
		fields := strings.Split(line, ",")
		if len(fields) != 2 {
			return nil, top.Errorf(top.Invalid, "line %d: want ADDRESS,AMOUNT, got %d fields", n, len(fields))
		}
		for i, f := range fields {
			fields[i] = strings.Trim(strings.TrimSpace(f), `"`)
		}
		to, err := names.resolve(fields[0])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		amount, err := top.ParseAmount(fields[1])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		list = append(list, api.BatchRecord{Address: to, Amount: amount})
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, top.Errorf(top.Invalid, "line %d is longer than 1 MiB", len(list)+1)
	} else if err != nil {
		return nil, fmt.Errorf("read list: %w", err)
	}
	if len(list) == 0 {
		return nil, top.Errorf(top.Invalid, "the list is empty (give lines of ADDRESS,AMOUNT)")
	}
	return list, nil
}
