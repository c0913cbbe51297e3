package wallet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"top/lib/api"
	"top/lib/ledger"
	"top/lib/top"
)

// A line is one entry of the journal. A transaction is in it before it leaves
// (W2).
type line struct {
	Op     string       `json:"op"` // "signed", "ended", "batch", "payer" or "scanned"
	ID     string       `json:"id"` // of the wish
	Part   int          `json:"part,omitempty"`
	From   top.Address  `json:"from,omitzero"`    // signed: the payer key that signs, when it is not the account
	Spend  *api.Spend   `json:"spend,omitempty"`  // signed: what was wished, of a payment
	Tx     top.ID       `json:"tx,omitzero"`      // signed, ended
	Nonce  top.Count    `json:"nonce,omitempty"`  // signed
	Expiry top.Count    `json:"expiry,omitempty"` // signed: unix seconds
	Raw    api.Bytes    `json:"raw,omitempty"`    // signed
	Kept   bool         `json:"kept,omitempty"`   // signed: given to the caller, not submitted
	Ended  *api.Payment `json:"ended,omitempty"`  // ended
	Batch  *api.Batch   `json:"batch,omitempty"`  // batch
	Payer  *api.Payer   `json:"payer,omitempty"`  // payer: as it is from now on
	At     top.Time     `json:"at"`
}

// An attempt is one signed transaction.
type attempt struct {
	from   top.Address
	tx     top.ID
	nonce  uint64
	expiry uint64 // unix seconds
	raw    []byte
	kept   bool
}

// A payment is a wish for one transaction: the wish, the transaction that
// carries it, and what became of it.
type payment struct {
	from    top.Address // whose balance
	spend   api.Spend
	try     *attempt
	older   *attempt     // refused before, and not provably dead
	ended   *api.Payment // nil while it is on its way
	handled bool         // somebody waits for it
}

// write puts a line on disk.
func (a *Agent) write(l line) error {
	l.At = top.TimeOf(a.cfg.Now())
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := a.journal.Append(b); err != nil {
		return err
	}
	return a.journal.Sync()
}

// replay takes up what the journal says.
func (a *Agent) replay() error {
	n := 0
	return a.journal.Each(func(b []byte) error {
		n++
		var l line
		if err := json.Unmarshal(b, &l); err != nil {
			return top.Errorf(top.Invalid, "journal: line %d is damaged: %v", n, err)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		switch l.Op {
		case "signed":
			if l.From.IsZero() {
				l.From = a.address
			}
			from, ok := a.purses[l.From]
			if !ok {
				return top.Errorf(top.Invalid, "journal: line %d is signed by %s, whose key is not in it", n, l.From)
			}
			try := &attempt{l.From, l.Tx, uint64(l.Nonce), uint64(l.Expiry), l.Raw, l.Kept}
			from.high = max(from.high, try.nonce)
			if b, ok := a.batches[l.ID]; ok && l.Part > 0 {
				b.part(l.Part).try = try
			} else if l.Spend != nil {
				a.payments[l.ID] = &payment{from: l.From, spend: *l.Spend, try: try}
			}
		case "ended":
			if b, ok := a.batches[l.ID]; ok && l.Part > 0 {
				b.part(l.Part).end(l.Ended)
			} else if p, ok := a.payments[l.ID]; ok {
				p.ended = l.Ended
			}
		case "batch":
			if l.Batch != nil {
				a.batches[l.ID] = newBatch(*l.Batch)
				a.order = append(a.order, l.ID)
			}
		case "payer":
			if l.Payer != nil {
				return a.enterLocked(*l.Payer)
			}
		case "scanned":
			a.book.scanned = true
		}
		return nil
	})
}

// errDead says that an attempt can never be carried out: it expired with its
// nonce unused.
var errDead = top.Errorf(top.Timeout, "the transaction expired before any block took it: nothing was paid")

// askPause is between looks at a transaction that is on its way.
const askPause = 2 * time.Second

// carry sees an attempt through: until it is final, refused for good, or
// provably dead (errDead). Any other error leaves it on its way.
func (a *Agent) carry(ctx context.Context, try *attempt) (api.Tx, error) {
	for {
		_, refused := a.cfg.Chain.Submit(ctx, try.raw)
		if errors.Is(refused, top.ErrOffline) {
			return api.Tx{}, refused
		}
		t, err := a.cfg.Chain.Tx(ctx, try.tx, waitFor(refused))
		if err == nil || !errors.Is(err, top.ErrNotFound) || ctx.Err() != nil {
			return t, err
		}
		if errors.Is(refused, top.ErrInvalid) {
			return t, refused
		}
		b, err := a.account(ctx, try.from)
		if err != nil {
			return t, err
		}
		used := b.NonceUsed(try.nonce)
		switch {
		case used:
			// It may have become final between the two questions.
			t, err := a.cfg.Chain.Tx(ctx, try.tx, 0)
			if errors.Is(err, top.ErrNotFound) {
				err = top.Errorf(top.Failed, "nonce %d was used by a transaction that is not in this journal, and transaction %s is not on the chain: is the key in use elsewhere? (top-wallet history shows what was paid)", try.nonce, try.tx)
			}
			return t, err
		case uint64(b.At.Time.Unix()) >= try.expiry:
			return t, errDead
		case refused != nil && !errors.Is(refused, top.ErrBusy):
			return t, refused
		}
		pause := time.NewTimer(askPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return t, ctx.Err()
		}
	}
}

// waitFor is how long to wait for a transaction after it was submitted: not at
// all when the node refused it.
func waitFor(refused error) time.Duration {
	if refused != nil {
		return 0
	}
	return 10 * time.Second
}

// transient says whether an error leaves a transaction on its way.
func transient(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, top.ErrOffline) || errors.Is(err, top.ErrBusy) || errors.Is(err, context.Canceled) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, top.ErrTimeout) && !errors.Is(err, errDead)
}

// finish sees every payment through that nobody waits for: those of an earlier
// run, and those whose caller left; and it tends the payer keys.
func (a *Agent) finish(ctx context.Context) error {
	tick := time.NewTicker(askPause)
	defer tick.Stop()
	for {
		for _, id := range a.unattended() {
			if err := a.pursue(ctx, id); err != nil {
				a.cfg.Log.Debug("payment is still on its way", "id", id, "err", err)
			}
		}
		a.tend(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// unattended is the payments that are on their way and wait for nobody.
func (a *Agent) unattended() (ids []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, p := range a.payments {
		if p.try != nil && p.ended == nil && !p.handled && !p.try.kept {
			ids = append(ids, id)
		}
	}
	return ids
}

// pursue carries one such payment and records its end.
func (a *Agent) pursue(ctx context.Context, id string) error {
	p, err := a.attend(id)
	if err != nil {
		return err
	}
	defer a.leave(p)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err = a.conclude(ctx, id, p)
	return err
}

// attend makes the caller the one who carries a payment.
func (a *Agent) attend(id string) (*payment, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p, ok := a.payments[id]
	if !ok {
		return nil, top.Errorf(top.NotFound, "no payment %q", id)
	}
	if p.handled {
		return nil, &top.Error{Kind: top.Busy, Message: fmt.Sprintf("payment %q is on its way", id), RetryAfter: askPause}
	}
	p.handled = true
	return p, nil
}

func (a *Agent) leave(p *payment) {
	a.mu.Lock()
	p.handled = false
	a.mu.Unlock()
}

// conclude carries a payment's transaction and writes its end down. The caller
// attends it.
func (a *Agent) conclude(ctx context.Context, id string, p *payment) (api.Payment, error) {
	t, err := a.carry(ctx, p.try)
	if err != nil && transient(ctx, err) {
		return api.Payment{}, err
	}
	return a.concluded(id, p, t, err)
}

// concluded writes down what became of a payment. When the disk refuses that, it
// is so all the same: the next run asks the chain again.
func (a *Agent) concluded(id string, p *payment, t api.Tx, err error) (api.Payment, error) {
	end := a.result(id, p.spend, p.try)
	end.finish(t, err)
	if err := a.write(line{Op: "ended", ID: id, Tx: p.try.tx, Ended: &end.Payment}); err != nil {
		a.cfg.Log.Error("the end of a payment was not written down", "id", id, "err", err)
	}
	a.mu.Lock()
	p.ended = &end.Payment
	a.mu.Unlock()
	return end.Payment, nil
}

// ending is a Payment being filled in.
type ending struct{ api.Payment }

// finish says what became of the transaction.
func (e *ending) finish(t api.Tx, err error) {
	if err != nil {
		e.State, e.Error, e.Message = "failed", string(top.KindOf(err)), err.Error()
		return
	}
	e.State, e.Fee, e.Free, e.Height, e.Channel = "final", t.Fee, t.Free, t.Height, t.Channel
	at := t.Time
	e.Time = &at
	if !t.OK {
		e.State, e.Error, e.Message = "failed", t.Error, t.Message
	}
}

// result begins the Payment of a wish.
func (a *Agent) result(id string, q api.Spend, try *attempt) ending {
	p := api.Payment{Type: "payment", ID: id, Kind: q.Kind, State: "pending", Amount: q.Amount}
	if !q.To.IsZero() {
		p.To = &q.To
	}
	if !q.Channel.IsZero() {
		p.Channel = &q.Channel
	}
	if try != nil && q.Kind == "sweep" {
		p.Amount = swept(try.raw)
	}
	if try != nil {
		tx, expiry := try.tx, top.UnixMilli(int64(try.expiry)*1000)
		p.Tx, p.Expiry, p.Size = &tx, &expiry, len(try.raw)
	}
	return ending{p}
}

// sign makes an attempt of a body: it gives out a nonce (unless one is given),
// signs, enters the signing record and the journal l, in this order, before
// anything leaves.
func (a *Agent) sign(body ledger.Body, from Balance, void time.Duration, nonce uint64, l line) (*attempt, error) {
	p := a.paramsNow()
	if nonce == 0 {
		nonce = a.nextNonce(from)
	}
	a.mu.Lock()
	key := a.purseLocked(from.Key).key
	a.mu.Unlock()
	try := &attempt{from: key.Public(), nonce: nonce, expiry: uint64(from.At.Time.Add(void).Unix()) + 1}
	tx := &ledger.Tx{Chain: p.Chain, From: from.Index, Nonce: try.nonce, Expiry: try.expiry, Body: body}
	if err := tx.Sign(key.Signer()); err != nil {
		return nil, err
	}
	try.raw = tx.Encode()
	try.tx = ledger.ID(try.raw)
	err := a.record.add(api.SignedEntry{Time: top.TimeOf(a.cfg.Now()), What: "transaction", Digest: try.tx})
	if err != nil {
		return nil, err
	}
	if try.from != a.address {
		l.From = try.from
	}
	l.Op, l.Tx, l.Nonce, l.Expiry, l.Raw = "signed", try.tx, top.Count(try.nonce), top.Count(try.expiry), try.raw
	return try, a.write(l)
}

func (a *Agent) paramsNow() ledger.Params {
	a.mu.Lock()
	defer a.mu.Unlock()
	return *a.params
}
