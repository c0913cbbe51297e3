package wallet

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"top/lib/api"
	"top/lib/home"
	"top/lib/ledger"
	"top/lib/top"
	"top/lib/wire"
)

const (
	maxPayments  = 1_000_000
	partPayments = 5_000 // of one transaction: about 200 KB
	partsAtOnce  = 4     // on their way at once
	maxPlan      = 64 << 20
)

// A batch is many payments in parts, each one transaction and one nonce. What is
// to be paid stands in a plan file before the journal names the batch.
type batch struct {
	head    api.Batch
	parts   []*batchPart
	running bool
}

type batchPart struct {
	try  *attempt
	done *api.Payment // final
}

func newBatch(head api.Batch) *batch {
	b := &batch{head: head}
	for range head.Parts {
		b.parts = append(b.parts, new(batchPart))
	}
	return b
}

// part is part n, from 1.
func (b *batch) part(n int) *batchPart {
	if n > len(b.parts) {
		return new(batchPart)
	}
	return b.parts[n-1]
}

// end notes what became of a part. One that failed moved nothing, and is free to
// be signed anew.
func (p *batchPart) end(r *api.Payment) {
	p.try = nil
	if r != nil && r.State == "final" {
		p.done = r
	}
}

// unfinished says whether some part is not final.
func (b *batch) unfinished() bool {
	return slices.ContainsFunc(b.parts, func(p *batchPart) bool { return p.done == nil })
}

// state is the batch as a record.
func (b *batch) state() api.Batch {
	r := b.head
	r.Type, r.State, r.Done, r.Paid, r.Fee = "batch", "final", 0, 0, 0
	for _, p := range b.parts {
		if p.done != nil {
			r.Done++
			r.Paid += p.done.Amount
			r.Fee += p.done.Fee
		}
	}
	switch {
	case b.running:
		r.State = "running"
	case b.unfinished():
		r.State = "stopped"
	}
	return r
}

// planFile holds the payments of a batch.
func (a *Agent) planFile(id string) string { return a.cfg.Home.Path("wallet", "batches", id+".plan") }

// encodePlan writes payments down, and gives their digest.
func encodePlan(list []api.BatchRecord) ([]byte, top.ID) {
	var e wire.Encoder
	e.Uint(uint64(len(list)))
	for _, p := range list {
		e.Raw(p.Address[:])
		e.Amount(p.Amount)
	}
	return e.Out(), sha256.Sum256(e.Out())
}

func decodePlan(b []byte) ([]api.BatchRecord, error) {
	d := wire.Decode(b, maxPlan)
	list := make([]api.BatchRecord, d.Count(maxPayments, 33))
	for i := range list {
		d.Fill(list[i].Address[:])
		list[i].Amount = d.Amount()
	}
	return list, d.End()
}

// split cuts payments into parts of a fixed size, so that a plan alone says which
// payment belongs to which part.
func split(list []api.BatchRecord) [][]api.BatchRecord {
	return slices.Collect(slices.Chunk(list, partPayments))
}

// Batch pays a list. It calls each with a Batch, then with a BatchPart for each
// part as it is final, then with a Batch.
func (a *Agent) Batch(ctx context.Context, q api.BatchRequest, each func(any) error) error {
	if q.ID == "" {
		q.ID = DrawID()
	}
	if err := checkID(q.ID); err != nil {
		return err
	}
	plan, digest := encodePlan(q.Payments)
	head := api.Batch{Type: "batch", ID: q.ID, State: "running", Digest: digest, Count: len(q.Payments), Parts: len(split(q.Payments))}
	if err := a.checkBatch(ctx, q.Payments, &head); err != nil {
		return err
	}
	if q.DryRun {
		head.State = "dry-run"
		return each(head)
	}
	again, err := a.admitBatch(q.ID, digest)
	if err != nil {
		return err
	}
	if !again {
		if err := a.startBatch(ctx, head, plan, q.Payments); err != nil {
			return err
		}
	}
	return a.ResumeBatch(ctx, q.ID, each)
}

// admitBatch says whether the id's batch is known (W1): the same again goes on
// or answers what became of it. A list equal to an unfinished batch of another id
// is top.ErrBusy with the command that finishes that one.
func (a *Agent) admitBatch(id string, digest top.ID) (again bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b, ok := a.batches[id]; ok {
		if b.head.Digest != digest {
			return false, top.Errorf(top.Invalid, "id %q was used for another batch (take another --id)", id)
		}
		return true, nil
	}
	if _, ok := a.payments[id]; ok {
		return false, top.Errorf(top.Invalid, "id %q was used for a payment (take another --id)", id)
	}
	for other, b := range a.batches {
		if b.head.Digest == digest && b.unfinished() {
			return false, top.Errorf(top.Busy, "the same list is batch %s, which is not finished (finish it: top-wallet pay-batch --resume %[1]s)", other)
		}
	}
	return false, nil
}

// checkBatch refuses a list that could not be paid whole: before anything is
// sent.
func (a *Agent) checkBatch(ctx context.Context, list []api.BatchRecord, head *api.Batch) error {
	if len(list) == 0 || len(list) > maxPayments {
		return top.Errorf(top.Invalid, "a batch of %d payments: want 1 to %d", len(list), maxPayments)
	}
	params, err := a.chainParams(ctx)
	if err != nil {
		return err
	}
	for i, p := range list {
		if p.Amount == 0 || p.Address.IsZero() {
			return top.Errorf(top.Invalid, "payment %d: an amount of nothing, or no address", i+1)
		}
		sum, ok := head.Total.Add(p.Amount)
		if head.Total = sum; !ok || sum > top.MaxSupply {
			return top.Errorf(top.Invalid, "payment %d: more in all than there can ever be", i+1)
		}
	}
	for _, part := range split(list) {
		body := batchBody(part)
		head.Fee += params.FeePerByte * top.Amount(len((&ledger.Tx{Nonce: 1 << 32, Expiry: 1 << 40, Body: body}).Encode()))
		if err := a.checkNew(ctx, params, body); err != nil {
			return err
		}
	}
	return nil
}

// checkNew refuses a part that pays a new account less than making it costs.
func (a *Agent) checkNew(ctx context.Context, params ledger.Params, b *ledger.Batch) error {
	credit := make([]top.Amount, len(b.New))
	for _, r := range b.Records {
		credit[r.Index] += r.Amount
	}
	for i, got := range credit {
		if got > params.AccountFee {
			continue
		}
		r, err := a.account(ctx, b.New[i])
		if err != nil {
			return err
		}
		if !r.Exists {
			return top.Errorf(top.Denied, "%s has no account yet and gets %s TOP: making one costs %s of it (pay more than that)", b.New[i], got, params.AccountFee)
		}
	}
	return nil
}

// batchBody is the transaction of a part: every address once, in the order of
// its first payment.
func batchBody(part []api.BatchRecord) *ledger.Batch {
	b := &ledger.Batch{Records: make([]ledger.Record, len(part))}
	at := make(map[top.Address]uint32, len(part))
	for i, p := range part {
		n, ok := at[p.Address]
		if !ok {
			n = uint32(len(b.New))
			at[p.Address] = n
			b.New = append(b.New, p.Address)
		}
		b.Records[i] = ledger.Record{Index: n, Amount: p.Amount}
	}
	return b
}

// startBatch checks the balance and puts plan and batch on disk.
func (a *Agent) startBatch(ctx context.Context, head api.Batch, plan []byte, list []api.BatchRecord) error {
	from, err := a.account(ctx, a.address)
	if err != nil {
		return err
	}
	need, ok := head.Total.Add(head.Fee)
	if !from.Exists || !ok || need > from.Balance {
		return top.Errorf(top.Denied, "the balance is %s TOP, and %s are needed with fees of %s: nothing was paid", from.Balance, need, head.Fee)
	}
	if err := home.WriteFile(a.planFile(head.ID), plan, 0o600); err != nil {
		return err
	}
	if err := a.write(line{Op: "batch", ID: head.ID, Batch: &head}); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.batches[head.ID] = newBatch(head)
	a.order = append(a.order, head.ID)
	return nil
}

// ResumeBatch finishes a batch: parts that are final stay as they are, a part on
// its way is seen through, and one is signed anew only when the old transaction
// failed or is provably dead (W2).
func (a *Agent) ResumeBatch(ctx context.Context, id string, each func(any) error) error {
	b, list, err := a.takeBatch(ctx, id)
	if err != nil {
		return err
	}
	defer func() {
		a.mu.Lock()
		b.running = false
		a.mu.Unlock()
	}()
	if err := each(a.batchState(b)); err != nil {
		return err
	}
	if err := a.runParts(ctx, b, split(list), each); err != nil {
		if errors.Is(err, context.Canceled) {
			return err
		}
		return fmt.Errorf("batch %s stopped, what is paid stays paid (go on: top-wallet pay-batch --resume %[1]s): %w", id, err)
	}
	a.mu.Lock()
	b.running = false
	end := b.state()
	a.mu.Unlock()
	return each(end)
}

func (a *Agent) batchState(b *batch) api.Batch {
	a.mu.Lock()
	defer a.mu.Unlock()
	return b.state()
}

// takeBatch makes the caller the one who runs a batch.
func (a *Agent) takeBatch(ctx context.Context, id string) (*batch, []api.BatchRecord, error) {
	if _, err := a.chainParams(ctx); err != nil {
		return nil, nil, err
	}
	a.mu.Lock()
	b, ok := a.batches[id]
	a.mu.Unlock()
	if !ok {
		return nil, nil, top.Errorf(top.NotFound, "no batch %q (top-wallet pay-batch --list shows them)", id)
	}
	raw, err := os.ReadFile(a.planFile(id))
	if err != nil {
		return nil, nil, fmt.Errorf("read plan of batch %s: %w", id, err)
	}
	if sha256.Sum256(raw) != b.head.Digest {
		return nil, nil, top.Errorf(top.Invalid, "%s was changed since batch %s began: it is not paid on", a.planFile(id), id)
	}
	list, err := decodePlan(raw)
	if err != nil {
		return nil, nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if b.running {
		return nil, nil, &top.Error{Kind: top.Busy, Message: fmt.Sprintf("batch %s is running", id), RetryAfter: askPause}
	}
	b.running = true
	return b, list, nil
}

// runParts carries every part that is not final, several at once. When ctx ends
// no more are begun, and those on their way are seen through by a.alive.
func (a *Agent) runParts(ctx context.Context, b *batch, parts [][]api.BatchRecord, each func(any) error) error {
	g, run := errgroup.WithContext(ctx)
	g.SetLimit(partsAtOnce)
	var mu sync.Mutex // one record at a time
	for i, list := range parts {
		if a.partDone(b, i) {
			continue
		}
		if run.Err() != nil {
			break
		}
		g.Go(func() error {
			if run.Err() != nil {
				return run.Err()
			}
			r, err := a.runPart(a.alive, b, i, list)
			if err != nil {
				return fmt.Errorf("part %d of %d: %w", i+1, len(parts), err)
			}
			mu.Lock()
			defer mu.Unlock()
			return each(r)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

func (a *Agent) partDone(b *batch, i int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return b.parts[i].done != nil
}

// runPart carries part i until it is final.
func (a *Agent) runPart(ctx context.Context, b *batch, i int, list []api.BatchRecord) (r api.BatchPart, err error) {
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		return r, ctx.Err()
	}
	part := b.parts[i]
	for {
		if part.try == nil {
			from, err := a.account(ctx, a.address)
			if err != nil {
				return r, err
			}
			try, err := a.sign(batchBody(list), from, voidAfter, 0, line{ID: b.head.ID, Part: i + 1})
			if err != nil {
				return r, err
			}
			part.try = try
		}
		t, err := a.carry(ctx, part.try)
		if err != nil && !errors.Is(err, errDead) {
			return r, err // refused or lost, and perhaps not dead: a resume asks again
		}
		if err := a.endPart(b, i, list, t, err); err != nil {
			return r, err
		}
		switch {
		case errors.Is(err, errDead):
			continue // it paid nothing and never will: sign it anew
		case !t.OK:
			return r, &top.Error{Kind: top.Kind(t.Error), Message: t.Message}
		}
		return api.BatchPart{
			Type: "batch-part", ID: b.head.ID, Part: i + 1, Parts: len(b.parts), Tx: t.ID, Count: len(list),
			Amount: sum(list), Fee: t.Fee, Height: t.Height, Time: t.Time,
		}, nil
	}
}

// endPart writes down what became of a part's transaction.
func (a *Agent) endPart(b *batch, i int, list []api.BatchRecord, t api.Tx, err error) error {
	end := a.result(b.head.ID, api.Spend{Kind: "batch", Amount: sum(list)}, b.parts[i].try)
	end.finish(t, err)
	if err := a.write(line{Op: "ended", ID: b.head.ID, Part: i + 1, Tx: *end.Tx, Ended: &end.Payment}); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	b.parts[i].end(&end.Payment)
	return nil
}

func sum(list []api.BatchRecord) (all top.Amount) {
	for _, p := range list {
		all += p.Amount
	}
	return all
}
