package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"top/lib/api"
	"top/lib/daemon"
	"top/lib/home"
	"top/lib/pipe"
	"top/lib/receipt"
	"top/lib/tool"
	"top/lib/top"
)

func traceVerb() tool.Verb {
	return tool.Verb{
		Name: "trace", Summary: "follow a receipt from the log to the block that paid for it",
		Doc: `Looks at each layer in turn, and names the first that fails: the log of what was served
(HOME/receipts/SESSION.log, when this home has it), the receipt itself, the claim on
its channel, and the block that holds it. A receipt that is good and not claimed yet is
"pending". Exit 1 when a layer fails, 3 when there is no such receipt.`,
		Args:     []tool.Arg{{Name: "RECEIPT", Help: "a receipt's id or its session, a file with one receipt record, or - for stdin"}},
		Flags:    []tool.Flag{daemon.ChainFlag()},
		Records:  []string{"trace"},
		Examples: []string{"top-prove trace 5f0c…", "top-prove receipts --json | head -n 1 | top-prove trace -"},
		Run:      trace,
	}
}

// A step is one layer of a trace.
type step struct {
	Type   string     `json:"type"`  // "trace"
	Layer  string     `json:"layer"` // "log", "receipt", "claim" or "block"
	State  string     `json:"state"` // "holds", "absent", "pending" or "fails"
	ID     top.ID     `json:"id"`    // of the receipt
	Detail string     `json:"detail"`
	Tx     *top.ID    `json:"tx,omitempty"`
	Height top.Height `json:"height,omitempty"`
}

// errPending ends a trace of what is good and not claimed.
var errPending = errors.New("pending")

func trace(ctx context.Context, c *tool.Call) error {
	dir, err := daemon.Home(c)
	if err != nil {
		return err
	}
	l, err := find(c, dir)
	if err != nil {
		return err
	}
	t := &tracer{c: c, dir: dir, l: l}
	if t.r, err = receipt.FromRecord(l.rec); err != nil {
		return t.say("receipt", "fails", err)
	}
	for _, layer := range []func(context.Context) error{t.log, t.receipt, t.claim} {
		if err := layer(ctx); err != nil {
			if errors.Is(err, errPending) {
				return nil
			}
			return err
		}
	}
	return nil
}

// find is the receipt that was asked for.
func find(c *tool.Call, dir home.Dir) (l line, err error) {
	name := c.Arg(0)
	var id top.ID
	var session top.SessionID
	switch {
	case id.UnmarshalText([]byte(name)) == nil:
		l, err = newestOf(dir, func(r receipt.Receipt) bool { return r.ID() == id })
	case session.UnmarshalText([]byte(name)) == nil:
		l, err = newestOf(dir, func(r receipt.Receipt) bool { return r.Ticket.Session == session })
	default:
		return fromFile(c, name)
	}
	if err == nil && l.raw == nil {
		err = top.Errorf(top.NotFound, "no receipt %s in %s (top-prove receipts lists them)", name, dir.Path("receipts"))
	}
	return l, err
}

func newestOf(dir home.Dir, is func(receipt.Receipt) bool) (found line, err error) {
	var newest receipt.Receipt
	err = logs(dir, func(l line) error {
		r, err := receipt.FromRecord(l.rec)
		if err == nil && is(r) && (found.raw == nil || r.Compare(newest) > 0) {
			found, newest = l, r
		}
		return nil
	})
	return found, err
}

func fromFile(c *tool.Call, name string) (l line, err error) {
	in, err := c.Input(name)
	if err != nil {
		return l, err
	}
	defer in.Close()
	for lines := pipe.NewReader(in); ; {
		rec, err := lines.Next()
		if errors.Is(err, io.EOF) {
			return l, top.Errorf(top.NotFound, "%s holds no receipt", name)
		}
		if err != nil {
			return l, err
		}
		if l, ok, err := parse(rec.Raw); ok || err != nil {
			return l, err
		}
	}
}

// A tracer follows one receipt.
type tracer struct {
	c   *tool.Call
	dir home.Dir
	l   line
	r   receipt.Receipt
}

// say prints a layer; one that fails ends the trace.
func (t *tracer) say(layer, state string, why error) error {
	return t.print(step{Layer: layer, State: state, Detail: why.Error()})
}

func (t *tracer) print(s step) error {
	s.Type, s.ID = "trace", t.r.ID()
	if err := t.c.Emit(s, "%-8s %-8s %s", s.Layer, s.State, s.Detail); err != nil {
		return err
	}
	if s.State == "fails" {
		return top.Errorf(top.Failed, "the %s does not hold: %s", s.Layer, s.Detail)
	}
	return nil
}

// log makes the digest of the session's log again from its entries.
func (t *tracer) log(context.Context) error {
	path := t.dir.Path("receipts", t.r.Ticket.Session.String()+".log")
	var log receipt.Log
	n := uint64(0)
	err := home.EachLine(path, func(raw []byte) error {
		var e struct {
			Session top.SessionID
			Index   top.Count
			Amount  top.Amount
			Entry   top.ID
		}
		if n == t.r.LogCount {
			return nil // it went on since
		}
		if err := json.Unmarshal(raw, &e); err != nil {
			return fmt.Errorf("entry %d: %v: %w", n, err, top.ErrFailed)
		}
		if e.Session != t.r.Ticket.Session || uint64(e.Index) != n {
			return fmt.Errorf("entry %d is number %d of session %s: %w", n, e.Index, e.Session, top.ErrFailed)
		}
		n++
		return log.Append(e.Amount, e.Entry)
	})
	root, sum, count := log.Root()
	switch {
	case err != nil:
		return t.say("log", "fails", err)
	case n == 0 && t.r.LogCount > 0:
		return t.say("log", "absent", errors.New("the entries are not in this home; the receipt stands without them"))
	case root != t.r.LogRoot || sum != t.r.LogSum || count != t.r.LogCount:
		return t.say("log", "fails", fmt.Errorf("%d entries of %s TOP come to another digest than the receipt's %d of %s", count, sum, t.r.LogCount, t.r.LogSum))
	}
	return t.say("log", "holds", fmt.Errorf("%d entries, %s TOP", count, sum))
}

func (t *tracer) receipt(context.Context) error {
	if err := t.r.Verify(); err != nil {
		return t.say("receipt", "fails", err)
	}
	return t.say("receipt", "holds", fmt.Errorf("%d %s of %s for %s TOP, signed by payer and node", t.r.Units(), t.r.Ticket.Unit, t.r.Ticket.Service, t.r.LogSum))
}

// claim looks for what the chain paid for the channel.
func (t *tracer) claim(ctx context.Context) error {
	chain, err := daemon.Chain(t.c)
	if err != nil {
		return err
	}
	if p, err := chain.Params(ctx); err != nil {
		return err
	} else if p.Chain != t.r.Ticket.Chain {
		return t.say("claim", "fails", fmt.Errorf("the receipt is for chain %s, this home is on %s", t.r.Ticket.Chain, p.Chain))
	}
	node, err := chain.Node(ctx, t.r.Ticket.Node)
	if err != nil {
		return err
	}
	ch, err := chain.Channel(ctx, t.r.Ticket.Channel)
	if err != nil {
		return err
	}
	owner := node.Owner
	if ch.Exists {
		owner = ch.Provider
		if ch.Payer != t.r.Ticket.Payer || ch.Node == nil || *ch.Node != t.r.Ticket.Node {
			return t.say("claim", "fails", fmt.Errorf("channel %s is between others", ch.Channel))
		}
	}
	last, paid, err := t.paid(ctx, chain, owner)
	if err != nil {
		return err
	}
	owed, err := t.r.Claim.Owed()
	if err != nil {
		return err
	}
	if ch.Exists {
		owed, paid = min(owed, ch.Cap), ch.Paid
	}
	switch {
	case paid >= owed && last != nil:
		return t.block(ctx, chain, *last, paid, owed)
	case !ch.Exists && last == nil:
		return t.say("claim", "fails", fmt.Errorf("channel %s is closed or never was, and nothing was claimed on it", t.r.Ticket.Channel))
	case !ch.Exists:
		return t.say("claim", "fails", fmt.Errorf("the channel was closed with %s TOP paid, the receipt proves %s", paid, owed))
	}
	if err := t.say("claim", "pending", fmt.Errorf("the chain has paid %s of %s TOP (claim: top-prove receipts --json | top-wallet settle -)", paid, owed)); err != nil {
		return err
	}
	return errPending
}

// paid is the newest claim on the channel in its provider's history, and what all
// came to.
func (t *tracer) paid(ctx context.Context, chain *api.Chain, owner top.Address) (last *api.Entry, sum top.Amount, err error) {
	if owner.IsZero() {
		return nil, 0, nil
	}
	err = chain.History(ctx, owner, 0, 0, func(e api.Entry) error {
		if e.OK && e.Way == "in" && e.Channel != nil && *e.Channel == t.r.Ticket.Channel {
			last = &e
			sum += e.Amount
		}
		return nil
	})
	return last, sum, err
}

// block has the light client prove the claim's transaction.
func (t *tracer) block(ctx context.Context, chain *api.Chain, e api.Entry, paid, owed top.Amount) error {
	if err := t.print(step{Layer: "claim", State: "holds", Detail: fmt.Sprintf("%s TOP are paid, the receipt proves %s", paid, owed), Tx: &e.Tx}); err != nil {
		return err
	}
	tx, err := chain.Tx(ctx, e.Tx, 0)
	if err != nil {
		return t.say("block", "fails", err)
	}
	if tx.Height != e.Height {
		return t.say("block", "fails", fmt.Errorf("the claim is in block %s, not %s", tx.Height, e.Height))
	}
	return t.print(step{Layer: "block", State: "holds", Detail: fmt.Sprintf("block %s at %s, transaction %s", tx.Height, tx.Time, e.Tx), Tx: &e.Tx, Height: tx.Height})
}
