package wallet

import (
	"context"
	"errors"
	"strconv"
	"time"

	"top/lib/api"
	"top/lib/ledger"
	"top/lib/sock"
	"top/lib/top"
)

// payerPause is between looks at a payer key of which nothing is expected.
const payerPause = 30 * time.Second

// payerGap is how many payer keys in a row may have no account before a search
// ends: as many draws can have been lost between disk and chain.
const payerGap = 20

// maxSteps is more than a life has: what a chain daemon says, however often it
// changes its mind, makes no endless loop.
const maxSteps = 12

// Each step of a payer key is a payment of its own name, so that repeating one has
// the effect of one (W1). No wish of a person can have such a name.
func stepID(r api.Payer, step string) string { return r.ID + ":" + step }

// advance takes a payer key as far as it can go now. One caller at a time does;
// the others wait for it.
func (a *Agent) advance(ctx context.Context, p *payer) error {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { p.look(a.cfg.Now()) }()
	for range maxSteps {
		if moved, err := a.step(ctx, p.record()); err != nil || !moved {
			return err
		}
	}
	return nil
}

// look says when to look again: soon while something is on its way.
func (p *payer) look(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = now
	if r := p.rec; r.State == payerOpen && !r.Ending || r.State == payerClosing || r.State == payerFailed {
		p.next = now.Add(payerPause)
		if r.Expiry != nil && r.Expiry.Before(p.next) {
			p.next = r.Expiry.Time
		}
	}
}

// tend takes every payer key on that nobody waits for, and searches for those of a
// lost disk, once.
func (a *Agent) tend(ctx context.Context) {
	if a.book.drawing.TryLock() {
		if err := a.scanOnce(ctx); err != nil {
			a.cfg.Log.Debug("the search for payer keys goes on later", "err", err)
		}
		a.book.drawing.Unlock()
	}
	for _, p := range a.book.all() {
		p.mu.Lock()
		due := !over(p.rec) && !a.cfg.Now().Before(p.next)
		p.mu.Unlock()
		if !due || len(p.turn) > 0 {
			continue
		}
		one, cancel := context.WithTimeout(ctx, time.Minute)
		if err := a.advance(one, p); err != nil {
			a.cfg.Log.Debug("a payer key is still on its way", "id", p.record().ID, "err", err)
		}
		cancel()
	}
}

// over says whether nothing more is expected of a payer key.
func over(r api.Payer) bool {
	return r.State == payerSwept || r.State == payerClosed && r.NoSweep || r.State == payerFailed && r.Funded == 0
}

// step takes a payer key one step on, and says whether it took one.
func (a *Agent) step(ctx context.Context, r api.Payer) (bool, error) {
	switch r.State {
	case payerNew:
		return a.fundPayer(ctx, r)
	case payerFunded:
		return a.openPayer(ctx, r)
	case payerOpen, payerClosing:
		return a.endPayer(ctx, r)
	case payerClosed:
		return a.sweepPayer(ctx, r)
	case payerFailed:
		return a.watchPayer(ctx, r)
	}
	return false, nil
}

// carryStep does the payment of a step. Done is false while it is on its way; one
// that was refused for good is an error that is not transient.
func (a *Agent) carryStep(ctx context.Context, from top.Address, q api.Spend) (r api.Payment, done bool, err error) {
	r, err = a.spend(ctx, from, q)
	switch {
	case err != nil:
		return r, false, err
	case r.State == "failed":
		return r, false, &top.Error{Kind: top.Failed, Message: r.Message}
	}
	return r, r.State == "final", nil
}

// to puts a payer key into its next state.
func (a *Agent) to(r api.Payer, state string) (bool, error) {
	r.State = state
	return true, a.keep(r)
}

// paid is the payment of a step, if it was ever signed.
func (a *Agent) paid(r api.Payer, step string) (p payment, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p, ok := a.payments[stepID(r, step)]; ok && (p.try != nil || p.older != nil) {
		return *p, true
	}
	return p, false
}

// shown is the height that a header must have to show all that a payer key did.
func (a *Agent) shown(r api.Payer) (h top.Height) {
	for _, step := range []string{"fund", "open", "close", "reclaim", "sweep"} {
		if p, ok := a.paid(r, step); ok && p.ended != nil {
			h = max(h, p.ended.Height)
		}
	}
	return h
}

// fundPayer gives a new key what it needs, in one transfer.
func (a *Agent) fundPayer(ctx context.Context, r api.Payer) (bool, error) {
	if _, left := a.paid(r, "fund"); r.Ending && !left {
		r.Funded = 0
		return a.to(r, payerSwept)
	}
	_, done, err := a.carryStep(ctx, a.address, api.Spend{ID: stepID(r, "fund"), Kind: "transfer", To: r.Address, Amount: r.Funded})
	switch {
	case err != nil && !transient(ctx, err):
		r.State, r.Message = payerFailed, err.Error()
		if bad := a.keep(r); bad != nil {
			return false, bad
		}
		return false, err
	case err != nil || !done:
		return false, err
	}
	return a.to(r, payerFunded)
}

// watchPayer looks whether the transfer of a key that failed was carried out after
// all: refused once, it might still reach a block by a stranger's hand until it
// expires. Then what came comes back.
func (a *Agent) watchPayer(ctx context.Context, r api.Payer) (bool, error) {
	p, ok := a.paid(r, "fund")
	if !ok || p.ended == nil || p.dead() {
		r.Funded = 0
		return false, a.keep(r)
	}
	b, err := a.account(ctx, r.Address)
	switch {
	case err != nil:
		return false, err
	case b.Exists:
		r.Ending = true
		return a.to(r, payerFunded)
	case uint64(b.At.Time.Unix()) >= p.try.expiry:
		r.Funded = 0
		return false, a.keep(r)
	}
	return false, nil
}

// openPayer opens the channel of a funded key.
func (a *Agent) openPayer(ctx context.Context, r api.Payer) (bool, error) {
	if _, left := a.paid(r, "open"); r.Ending && !left {
		return a.to(r, payerClosed)
	}
	pay, done, err := a.carryStep(ctx, r.Address, api.Spend{ID: stepID(r, "open"), Kind: "open", To: r.Provider, Amount: r.Cap, LastsMs: r.LastsMs})
	switch {
	case err != nil && !transient(ctx, err):
		r.Ending, r.Message = true, err.Error()
		return a.to(r, payerClosed)
	case err != nil || !done:
		return false, err
	}
	r.Channel = pay.Channel
	return a.to(r, payerOpen)
}

// endPayer looks at the channel of a key, and ends it when its time is over or it
// is to end: a close, and a reclaim once claims do not count any more.
func (a *Agent) endPayer(ctx context.Context, r api.Payer) (bool, error) {
	row, err := a.cfg.Chain.Channel(ctx, *r.Channel)
	if err != nil || row.At.Height < a.shown(r) {
		return false, err
	}
	if !row.Exists {
		return a.to(r, payerClosed)
	}
	seen := r.Expiry != nil && r.Expiry.Equal(row.Expiry.Time)
	r.Expiry = &row.Expiry
	switch {
	case !row.At.Time.Before(row.Expiry.Time) && row.At.Height >= row.ExpiryHeight:
		_, done, err := a.carryStep(ctx, r.Address, api.Spend{ID: stepID(r, "reclaim"), Kind: "reclaim", Channel: *r.Channel})
		if err != nil || !done {
			return false, err
		}
		return a.to(r, payerClosed)
	case row.Closing && r.State == payerOpen:
		r.Ending = true
		return a.to(r, payerClosing)
	case r.Ending && !row.Closing:
		_, done, err := a.carryStep(ctx, r.Address, api.Spend{ID: stepID(r, "close"), Kind: "close", Channel: *r.Channel})
		return done, err
	case !seen:
		return true, a.keep(r)
	}
	return false, nil
}

// sweepPayer sends what is left back to the account, unless that is to stay. A
// channel that the chain has all the same is ended first.
func (a *Agent) sweepPayer(ctx context.Context, r api.Payer) (bool, error) {
	b, err := a.account(ctx, r.Address)
	if err != nil || b.At.Height < a.shown(r) {
		return false, err
	}
	switch {
	case b.Channels > 0:
		return a.findChannel(ctx, r)
	case r.NoSweep:
		return false, nil
	}
	pay, done, err := a.carryStep(ctx, r.Address, api.Spend{ID: stepID(r, "sweep"), Kind: "sweep", To: a.address})
	switch {
	case errors.Is(err, errSweepNothing):
		return a.to(r, payerSwept)
	case err != nil || !done:
		return false, err
	}
	r.Returned += pay.Amount
	return a.to(r, payerSwept)
}

// findChannel finds the channel that a key pays for, which is to end.
func (a *Agent) findChannel(ctx context.Context, r api.Payer) (found bool, err error) {
	err = a.cfg.Chain.Channels(ctx, r.Address, func(c api.Channel) error {
		if c.Payer != r.Address {
			return nil
		}
		found = true
		r.Channel, r.Provider, r.Cap, r.Ending = &c.Channel, c.Provider, c.Cap, true
		if c.Node != nil {
			r.Node = *c.Node
		}
		return nil
	})
	if err != nil || !found {
		return false, err
	}
	return a.to(r, payerOpen)
}

// errSweepNothing says that what is left is less than the fee of its way back.
var errSweepNothing = top.Errorf(top.Denied, "what is left is less than the fee of sending it")

func sweepTo(index uint32, amount top.Amount) *ledger.Transfer {
	return &ledger.Transfer{To: ledger.To(index), Amount: amount}
}

// sweepBody sends all that there is but the fee.
func (a *Agent) sweepBody(ctx context.Context, q api.Spend, from Balance, params ledger.Params, r *ending) (ledger.Body, error) {
	if from.Key == a.address {
		return nil, top.Errorf(top.Invalid, "no such kind of payment: %q: payer keys alone are swept", q.Kind)
	}
	to, err := a.account(ctx, q.To)
	if err != nil {
		return nil, err
	}
	if !to.Exists {
		return nil, top.Errorf(top.NotFound, "%s has no account", q.To)
	}
	tx := ledger.Tx{Chain: params.Chain, From: from.Index, Nonce: a.likelyNonce(from), Expiry: uint64(from.At.Time.Add(voidAfter).Unix())}
	amount := from.Balance
	for range 2 { // a smaller amount may be a byte shorter
		tx.Body = sweepTo(to.Index, amount)
		fee := params.FeePerByte * top.Amount(len(tx.Encode()))
		if from.Balance <= fee {
			return nil, errSweepNothing
		}
		amount = from.Balance - fee
	}
	r.Amount = amount
	return sweepTo(to.Index, amount), nil
}

// swept is what a signed sweep sends.
func swept(raw []byte) top.Amount {
	tx, err := ledger.Decode(raw)
	if err != nil {
		return 0
	}
	if b, ok := tx.Body.(*ledger.Transfer); ok {
		return b.Amount
	}
	return 0
}

// ClosePayer ends a payer key: its channel closes, and once claims do not count any
// more what is left comes back. The agent sees it through.
func (a *Agent) ClosePayer(ctx context.Context, id string, q api.PayerClose) (r api.Payer, err error) {
	p, ok := a.book.named(id)
	if !ok {
		return r, top.Errorf(top.NotFound, "no payer key %q (top-wallet payers shows them)", id)
	}
	one, cancel := context.WithTimeout(ctx, a.patience(q.WaitMs))
	defer cancel()
	if err := a.endWish(one, p, q); err != nil {
		return r, err
	}
	err = a.advance(one, p)
	if err != nil && transient(one, err) && ctx.Err() == nil {
		err = nil
	}
	return p.record(), err
}

// endWish writes down that a key is to end, before anything is done about it.
func (a *Agent) endWish(ctx context.Context, p *payer, q api.PayerClose) error {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	r := p.record()
	was := r
	r.Ending = true
	if q.Sweep != nil {
		r.NoSweep = !*q.Sweep
	}
	if r.State == payerSwept || r.State == payerFailed || r == was {
		return nil
	}
	return a.keep(r)
}

// scanOnce searches the chain for payer keys that another disk drew from the same
// words, once for each home. The caller holds book.drawing.
func (a *Agent) scanOnce(ctx context.Context) error {
	a.book.mu.Lock()
	done := a.book.scanned
	a.book.mu.Unlock()
	if done {
		return nil
	}
	return a.scan(ctx)
}

// scan takes up every payer key that has an account and is in no journal here: its
// channel is closed, since what was signed for it is not known, and what is left
// comes back (W8). The caller holds book.drawing.
func (a *Agent) scan(ctx context.Context) error {
	params, err := a.chainParams(ctx)
	if err != nil {
		return err
	}
	for index, gap := uint32(0), 0; gap < payerGap; index++ {
		address := top.Address(PayerKey(a.cfg.Key, params.Chain, index).Public())
		if _, ours := a.book.payer(address); ours {
			gap = 0
			continue
		}
		b, err := a.account(ctx, address)
		if err != nil {
			return err
		}
		if gap++; !b.Exists {
			continue
		}
		gap = 0
		err = a.keep(api.Payer{
			Type: "payer", ID: "found:" + strconv.FormatUint(uint64(index), 10), Index: index, Address: address, State: payerClosed,
			Chain: params.Chain, Ending: true, Found: true,
		})
		if err != nil {
			return err
		}
	}
	if err := a.write(line{Op: "scanned"}); err != nil {
		return err
	}
	a.book.mu.Lock()
	a.book.scanned = true
	a.book.mu.Unlock()
	return nil
}

func (a *Agent) getPayers(c *sock.Call) error { return sock.Records(c, a.book.list()) }

func (a *Agent) postPayer(c *sock.Call) error {
	var q api.PayerWish
	if err := c.Decode(&q); err != nil {
		return err
	}
	r, err := a.OpenPayer(c.Context(), q)
	if err != nil {
		return err
	}
	return c.JSON(r)
}

func (a *Agent) closePayer(c *sock.Call) error {
	var q api.PayerClose
	if err := c.Decode(&q); err != nil {
		return err
	}
	r, err := a.ClosePayer(c.Context(), c.Arg("id"), q)
	if err != nil {
		return err
	}
	return c.JSON(r)
}

// scanPayers searches again, and answers with every payer key.
func (a *Agent) scanPayers(c *sock.Call) error {
	a.book.drawing.Lock()
	err := a.scan(c.Context())
	a.book.drawing.Unlock()
	if err != nil {
		return err
	}
	return a.getPayers(c)
}
