package wallet

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"math"
	"regexp"
	"time"

	"top/lib/api"
	"top/lib/ledger"
	"top/lib/session"
	"top/lib/top"
)

// voidAfter is how long a transaction is good for, unless the wish says
// otherwise. A lost one is dead after that, and may be wished again.
const voidAfter = 2 * time.Minute

const (
	minVoid = time.Second
	maxVoid = 24 * time.Hour
)

var wishID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// DrawID is a random id of a wish.
func DrawID() string { return rand.Text()[:16] }

// checkID refuses an id that could not be typed back.
func checkID(id string) error {
	if !wishID.MatchString(id) {
		return top.Errorf(top.Invalid, "id %q: want 1 to 64 of a-z, A-Z, 0-9, dot, dash and underscore", id)
	}
	return nil
}

// Spend does one wish. The same id again has the effect of one (W1): the answer
// is what became of the first, or the first is waited for.
func (a *Agent) Spend(ctx context.Context, q api.Spend) (api.Payment, error) {
	if q.ID == "" {
		q.ID = DrawID()
	}
	if err := checkID(q.ID); err != nil {
		return api.Payment{}, err
	}
	if q.DryRun {
		_, r, err := a.plan(ctx, a.address, q)
		r.State = "dry-run"
		return r.Payment, err
	}
	return a.spend(ctx, a.address, q)
}

// spend is Spend from the account or from a payer key.
func (a *Agent) spend(ctx context.Context, from top.Address, q api.Spend) (api.Payment, error) {
	p, fresh, err := a.claim(from, q)
	if err != nil {
		return api.Payment{}, err
	}
	defer a.leave(p)
	if !fresh {
		return a.repeat(ctx, q.ID, p)
	}
	r, err := a.begin(ctx, q, p)
	if err != nil || r.State != "pending" {
		return r, err
	}
	return a.await(ctx, q, p)
}

// claim finds the payment of an id, or makes it, and makes the caller the one
// who carries it. A payment that failed without moving anything may be wished
// again.
func (a *Agent) claim(from top.Address, q api.Spend) (p *payment, fresh bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.batches[q.ID]; ok {
		return nil, false, top.Errorf(top.Invalid, "id %q is that of a batch", q.ID)
	}
	p, ok := a.payments[q.ID]
	if !ok {
		p = &payment{from: from, spend: q, handled: true}
		a.payments[q.ID] = p
		return p, true, nil
	}
	if !sameWish(p.spend, q) {
		return nil, false, top.Errorf(top.Invalid, "id %q was used for another payment (take another --id)", q.ID)
	}
	if p.handled {
		return nil, false, &top.Error{Kind: top.Busy, Message: "payment " + q.ID + " is on its way", RetryAfter: askPause}
	}
	p.handled = true
	if p.try == nil || p.ended != nil && p.ended.State == "failed" {
		if p.try != nil && !p.dead() {
			p.older = p.try
		}
		p.ended, p.try = nil, nil
		return p, true, nil
	}
	return p, false, nil
}

// dead says whether a failed payment's transaction can have no effect any more:
// a block holds its failure, or it expired with its nonce unused. Any other might
// still reach a block by a stranger's hand, and gives its nonce to the next try,
// so that one of them at most is carried out (W2).
func (p *payment) dead() bool {
	return p.ended.Height > 0 || p.ended.Error == string(top.Timeout)
}

// sameWish says whether two wishes ask for the same.
func sameWish(a, b api.Spend) bool {
	norm := func(s api.Spend) string {
		s.DryRun, s.NoSubmit, s.VoidMs, s.WaitMs = false, false, 0, 0
		b, _ := json.Marshal(s)
		return string(b)
	}
	return norm(a) == norm(b)
}

// repeat answers a wish that was made before.
func (a *Agent) repeat(ctx context.Context, id string, p *payment) (api.Payment, error) {
	if p.ended == nil && p.try.kept {
		r := a.result(id, p.spend, p.try)
		r.State, r.Raw, r.Repeated = "signed", p.try.raw, true
		return r.Payment, nil
	}
	if p.ended == nil {
		return a.await(ctx, p.spend, p)
	}
	r := *p.ended
	r.Repeated = true
	return r, nil
}

// begin plans and signs a wish. A wish that is refused leaves no trace.
func (a *Agent) begin(ctx context.Context, q api.Spend, p *payment) (api.Payment, error) {
	drop := func(err error) (api.Payment, error) {
		a.mu.Lock()
		if p.try == nil {
			delete(a.payments, q.ID)
		}
		a.mu.Unlock()
		return api.Payment{}, err
	}
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		return drop(ctx.Err())
	}
	plan, r, err := a.plan(ctx, p.from, q)
	if err != nil {
		return drop(err)
	}
	void := cmp.Or(span(q.VoidMs), voidAfter)
	if void < minVoid || void > maxVoid {
		return drop(top.Errorf(top.Invalid, "a transaction good for %s: want %s to %s", void, minVoid, maxVoid))
	}
	nonce := uint64(0)
	if p.older != nil {
		if t, err := a.cfg.Chain.Tx(ctx, p.older.tx, 0); err == nil {
			return a.late(q, p, t)
		}
		nonce = p.older.nonce
	}
	try, err := a.sign(plan.body, plan.from, void, nonce, line{ID: q.ID, Spend: &q, Kept: q.NoSubmit})
	if err != nil {
		return drop(err)
	}
	try.kept = q.NoSubmit
	a.mu.Lock()
	p.try = try
	a.mu.Unlock()
	if q.NoSubmit {
		n := a.result(q.ID, q, try)
		n.State, n.Raw, n.Fee, n.Free, n.Balance, n.After = "signed", try.raw, r.Fee, r.Free, r.Balance, r.After
		return n.Payment, nil
	}
	return r.Payment, nil
}

// span is a count of milliseconds, at most what a Duration holds.
func span(ms top.Count) time.Duration {
	return time.Duration(min(ms, math.MaxInt64/top.Count(time.Millisecond))) * time.Millisecond
}

// late is a payment whose transaction was refused and reached a block all the
// same.
func (a *Agent) late(q api.Spend, p *payment, t api.Tx) (api.Payment, error) {
	a.mu.Lock()
	p.try = p.older
	a.mu.Unlock()
	return a.concluded(q.ID, p, t, nil)
}

// await waits until a payment is final, or as long as its wish says: then it is
// "pending", and the agent goes on alone.
func (a *Agent) await(ctx context.Context, q api.Spend, p *payment) (api.Payment, error) {
	wait := cmp.Or(span(q.WaitMs), 30*time.Second)
	one, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	r, err := a.conclude(one, q.ID, p)
	if err != nil && transient(one, err) && ctx.Err() == nil {
		if errors.Is(err, top.ErrOffline) {
			return api.Payment{}, top.Errorf(top.Offline, "%v; payment %s is signed and will go out when the chain answers (ask: top-wallet payment %[2]s)", err, q.ID)
		}
		return a.result(q.ID, q, p.try).Payment, nil
	}
	return r, err
}

// planned is a wish worked out.
type planned struct {
	body ledger.Body
	from Balance
}

// plan works out what a wish comes to: its body, its fee, and what is left. It
// refuses what the balance does not allow.
func (a *Agent) plan(ctx context.Context, by top.Address, q api.Spend) (planned, ending, error) {
	r := a.result(q.ID, q, nil)
	params, err := a.chainParams(ctx)
	if err != nil {
		return planned{}, r, err
	}
	from, err := a.account(ctx, by)
	if err != nil {
		return planned{}, r, err
	}
	if !from.Exists {
		return planned{}, r, top.Errorf(top.Denied, "the account has no money yet (have somebody pay %s)", by)
	}
	body, err := a.body(ctx, q, from, params, &r)
	if err != nil {
		return planned{}, r, err
	}
	tx := ledger.Tx{Chain: params.Chain, From: from.Index, Nonce: a.likelyNonce(from), Expiry: uint64(from.At.Time.Add(voidAfter).Unix()), Body: body}
	r.Size = len(tx.Encode())
	r.Fee = params.FeePerByte * top.Amount(r.Size)
	if ledger.AllowanceAt(params, from.Account, uint64(from.At.Time.UnixMilli())) >= uint64(r.Size) {
		r.Fee, r.Free = 0, true
	}
	out := outgo(q)
	r.Balance = from.Balance
	need, ok := out.Add(r.Fee)
	if !ok || need > from.Balance {
		return planned{}, r, top.Errorf(top.Denied, "the balance is %s TOP, and %s are needed with a fee of %s (have somebody pay %s: top-wallet pay)", from.Balance, need, r.Fee, by)
	}
	r.After = from.Balance - need
	return planned{body, from}, r, nil
}

// likelyNonce is what nextNonce would give out.
func (a *Agent) likelyNonce(b Balance) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return max(a.purseLocked(b.Key).high, b.Nonce) + 1
}

// outgo is what a wish takes out of the balance, besides its fee.
func outgo(q api.Spend) top.Amount {
	switch q.Kind {
	case "transfer", "lock", "open", "delegate", "validator", "propose":
		return q.Amount
	}
	return 0
}

// body is the transaction's body of a wish; it fills in what a person wants to
// know before.
func (a *Agent) body(ctx context.Context, q api.Spend, from Balance, params ledger.Params, r *ending) (ledger.Body, error) {
	switch q.Kind {
	case "transfer":
		return a.transfer(ctx, q, params, r)
	case "lock":
		return &ledger.Lock{Amount: q.Amount}, positive(q)
	case "unlock":
		if q.Amount > from.Locked {
			return nil, top.Errorf(top.Denied, "%s TOP are locked, %s were asked for", from.Locked, q.Amount)
		}
		return &ledger.Unlock{Amount: q.Amount}, positive(q)
	case "register":
		return register(q)
	case "unregister":
		if from.Node.IsZero() {
			return nil, top.Errorf(top.NotFound, "this account has no node in the registry")
		}
		return &ledger.Unregister{}, nil
	case "open":
		return a.openBody(ctx, q, from, params)
	case "mailbox":
		return &ledger.Mailbox{Digest: q.Mailbox, Seq: uint64(q.MailboxSeq)}, nil
	case "close", "reclaim":
		return a.endBody(ctx, q, from.Key)
	case "sweep":
		return a.sweepBody(ctx, q, from, params, r)
	}
	return stakeBody(q, params)
}

// stakeBody is the body of a wish that concerns stakes. What the chain would refuse
// is left to it, but for what a person would want to know before.
func stakeBody(q api.Spend, params ledger.Params) (ledger.Body, error) {
	w := q.Stake
	if w == nil {
		return nil, top.Errorf(top.Invalid, "no such kind of payment: %q", q.Kind)
	}
	switch q.Kind {
	case "validator":
		if len(w.Sig) != 64 {
			return nil, top.Errorf(top.Invalid, "a validator's key signs for its owner (top-chain validator-key)")
		}
		return &ledger.Validator{ID: w.Validator, Sig: [64]byte(w.Sig), Name: w.Name, Commission: uint64(w.Commission), Amount: q.Amount}, nil
	case "delegate":
		return &ledger.Delegate{To: w.Validator, Amount: q.Amount}, positive(q)
	case "undelegate":
		return &ledger.Undelegate{From: w.Validator, Amount: q.Amount}, nil
	case "redelegate":
		return &ledger.Redelegate{From: w.Validator, To: w.To, Amount: q.Amount}, nil
	case "unjail":
		return &ledger.Unjail{ID: w.Validator}, nil
	case "propose":
		if q.Amount != params.Stake.Deposit {
			return nil, top.Errorf(top.Denied, "the deposit of a proposal is %s TOP, not %s", params.Stake.Deposit, q.Amount)
		}
		if _, err := params.With(w.Name, uint64(w.Value)); err != nil {
			return nil, err
		}
		return &ledger.Propose{Name: w.Name, Value: uint64(w.Value)}, nil
	case "vote":
		return &ledger.Vote{Number: uint64(w.Number), Yes: w.Yes}, nil
	}
	return nil, top.Errorf(top.Invalid, "no such kind of payment: %q", q.Kind)
}

func positive(q api.Spend) error {
	if q.Amount == 0 {
		return top.Errorf(top.Invalid, "an amount of nothing")
	}
	return nil
}

func (a *Agent) transfer(ctx context.Context, q api.Spend, params ledger.Params, r *ending) (ledger.Body, error) {
	to, err := a.account(ctx, q.To)
	if err != nil {
		return nil, err
	}
	b := &ledger.Transfer{To: ledger.To(to.Index), Amount: q.Amount, Memo: q.Memo}
	if !to.Exists {
		b.To = ledger.ToAddress(q.To)
		r.NewAccount, r.AccountFee = true, params.AccountFee
		if q.Amount <= params.AccountFee {
			return nil, top.Errorf(top.Denied, "%s has no account yet, and making one costs %s TOP of what it gets (pay more than that)", q.To, params.AccountFee)
		}
	}
	const maxMemo = 64
	if len(q.Memo) > maxMemo {
		return nil, top.Errorf(top.Invalid, "the memo has %d bytes, at most %d", len(q.Memo), maxMemo)
	}
	return b, positive(q)
}

// offerOf is a record's offer, as the chain and sessions know it.
func offerOf(o api.Offer) session.Offer {
	s := session.Offer{Service: o.Service, Unit: o.Unit, Price: o.Price, Window: o.Window}
	for _, h := range o.Hold {
		s.Hold = append(s.Hold, session.Hold{Seconds: uint64(h.Seconds), Factor: h.Factor})
	}
	return s
}

func register(q api.Spend) (ledger.Body, error) {
	n := q.Node
	if n == nil || len(n.NodeSig) != 64 {
		return nil, top.Errorf(top.Invalid, "register wants a node and its signature")
	}
	b := &ledger.Register{Node: n.Node, NodeSig: [64]byte(n.NodeSig), Name: n.Name, Addrs: n.Addrs, Capacity: uint64(n.Capacity), Stake: n.Stake}
	for _, o := range n.Offers {
		b.Offers = append(b.Offers, offerOf(o))
	}
	// What could not be read back would be refused by every node.
	if _, err := ledger.Decode((&ledger.Tx{Body: b}).Encode()); err != nil {
		return nil, err
	}
	return b, nil
}

func (a *Agent) openBody(ctx context.Context, q api.Spend, from Balance, params ledger.Params) (ledger.Body, error) {
	to, err := a.account(ctx, q.To)
	if err != nil {
		return nil, err
	}
	if !to.Exists {
		return nil, top.Errorf(top.NotFound, "%s has no account yet, a channel needs one (pay it something first)", q.To)
	}
	if q.Service != "" {
		if err := a.openCap(ctx, q.Service, q.Amount); err != nil {
			return nil, err
		}
	}
	lasts := uint64(q.LastsMs) / 1000
	if lasts < 2*params.DeadlineSec {
		return nil, top.Errorf(top.Invalid, "a channel for %d s: it must last twice the deadline of %d s at least (--for)", lasts, params.DeadlineSec)
	}
	return &ledger.Open{Provider: to.Index, Cap: q.Amount, Expiry: uint64(from.At.Time.Unix()) + lasts}, positive(q)
}

// endBody is a payer's close or reclaim, refused early when it cannot work.
func (a *Agent) endBody(ctx context.Context, q api.Spend, payer top.Address) (ledger.Body, error) {
	ch, err := a.cfg.Chain.Channel(ctx, q.Channel)
	if err != nil {
		return nil, err
	}
	switch {
	case !ch.Exists:
		return nil, top.Errorf(top.NotFound, "there is no channel %s: closed, or never opened", q.Channel)
	case ch.Payer != payer:
		if p, ok := a.book.payer(ch.Payer); ok {
			return nil, top.Errorf(top.Denied, "channel %s is paid by payer key %s (top-wallet payer close %[2]s)", q.Channel.Short(), p.record().ID)
		}
		return nil, top.Errorf(top.Denied, "channel %s is paid by %s", q.Channel.Short(), ch.Payer)
	}
	if q.Kind == "reclaim" {
		if ch.At.Time.Before(ch.Expiry.Time) || ch.At.Height < ch.ExpiryHeight {
			return nil, &top.Error{Kind: top.Denied, Message: "claims on channel " + q.Channel.Short() + " count until " + ch.Expiry.String() + " and block " + ch.ExpiryHeight.String() + " (reclaim after that; top-wallet close brings it nearer)"}
		}
		return &ledger.Reclaim{Channel: q.Channel}, nil
	}
	if ch.Closing {
		return nil, top.Errorf(top.Denied, "channel %s is closing already: top-wallet reclaim %s after %s", q.Channel.Short(), q.Channel, ch.Expiry)
	}
	return &ledger.Close{Channel: q.Channel}, nil
}
