package wallet

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"math"
	"sync"
	"time"

	"top/lib/api"
	"top/lib/home"
	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/session"
	"top/lib/top"
	"top/lib/wire"
)

// payerDomain is of the digest that makes the seed of a payer key.
const payerDomain = "top/payer/1"

// PayerKey is a payer key of an account on one chain: an account of its own, that
// pays for one channel (docs/wire.md, "Payer key"). Nothing but the account's key
// leads to it, and it leads to nothing.
func PayerKey(account keys.Private, chain top.ChainID, index uint32) keys.Private {
	seed := account.Seed()
	return keys.FromSeed(wire.Digest(payerDomain, seed[:], chain[:], binary.BigEndian.AppendUint32(nil, index)))
}

// The states of a payer key, in the order of its life. One whose channel could not
// be opened goes from funded to closed.
const (
	payerNew     = "new"     // drawn; what it is given is on its way, if it left at all
	payerFunded  = "funded"  // it has an account; its channel is on its way
	payerOpen    = "open"    // tickets and vouchers are signed
	payerClosing = "closing" // claims count until the deadline
	payerClosed  = "closed"  // the channel is gone; what is left is the key's
	payerSwept   = "swept"   // what was left is the account's
	payerFailed  = "failed"  // it was given nothing
)

// A payer is one payer key.
type payer struct {
	turn chan struct{} // holds the one who takes it on

	mu   sync.Mutex
	rec  api.Payer // as the journal has it
	next time.Time // when to look again
}

func (p *payer) record() api.Payer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rec
}

// A book is the payer keys of a wallet.
type book struct {
	drawing sync.Mutex // one index is drawn at a time

	mu      sync.Mutex
	next    uint32 // no index from here on was drawn
	scanned bool   // the chain was searched for keys that an earlier disk drew
	byID    map[string]*payer
	byKey   map[top.Address]*payer
	order   []*payer
}

func newBook() *book { return &book{byID: map[string]*payer{}, byKey: map[top.Address]*payer{}} }

func (b *book) payer(address top.Address) (*payer, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.byKey[address]
	return p, ok
}

func (b *book) named(id string) (*payer, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.byID[id]
	return p, ok
}

func (b *book) all() []*payer {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.order[:len(b.order):len(b.order)]
}

// list is every payer key as it stands, in the order in which they were drawn.
func (b *book) list() []api.Payer {
	list := []api.Payer{}
	for _, p := range b.all() {
		list = append(list, p.record())
	}
	return list
}

// held is what payer keys of a service lock in channels, or are about to.
func (b *book) held(service string) (sum top.Amount) {
	for _, r := range b.list() {
		switch r.State {
		case payerNew, payerFunded, payerOpen, payerClosing:
			if r.Service == service {
				sum += r.Cap
			}
		}
	}
	return sum
}

// enterLocked takes up a payer key as the journal has it; the caller holds a.mu.
func (a *Agent) enterLocked(r api.Payer) error {
	b := a.book
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.byID[r.ID]
	if !ok {
		key := PayerKey(a.cfg.Key, r.Chain, r.Index)
		if key.Public() != r.Address {
			return top.Errorf(top.Invalid, "journal: payer key %d is not %s: it is of another wallet", r.Index, r.Address)
		}
		p = &payer{turn: make(chan struct{}, 1)}
		b.byID[r.ID], b.byKey[r.Address] = p, p
		b.order = append(b.order, p)
		b.next = max(b.next, r.Index+1)
		a.purses[r.Address] = &purse{key: key}
	}
	p.mu.Lock()
	p.rec = r
	p.mu.Unlock()
	return nil
}

// keep puts a payer key on disk as it is from now on, and then is so.
func (a *Agent) keep(r api.Payer) error {
	if err := a.write(line{Op: "payer", ID: r.ID, Payer: &r}); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.enterLocked(r)
}

// OpenPayer draws a payer key, gives it what its channel and its fees come to, and
// opens the channel with it. The same id again has the effect of one: it goes on
// where the first stands. When the channel cannot be opened, what the key was
// given comes back.
func (a *Agent) OpenPayer(ctx context.Context, q api.PayerWish) (r api.Payer, err error) {
	if q.ID == "" {
		q.ID = DrawID()
	}
	if err := checkID(q.ID); err != nil {
		return r, err
	}
	p, again, err := a.admitPayer(ctx, q)
	if err != nil {
		return r, err
	}
	one, cancel := context.WithTimeout(ctx, a.patience(q.WaitMs))
	defer cancel()
	err = a.advance(one, p)
	if err != nil && transient(one, err) && ctx.Err() == nil {
		err = nil // the agent goes on alone
	}
	r = p.record()
	r.Repeated = again
	if err == nil && r.Message != "" {
		err = top.Errorf(top.Denied, "payer key %s: %s", r.ID, r.Message)
	}
	return r, err
}

func (a *Agent) patience(ms top.Count) time.Duration {
	if ms == 0 {
		return 30 * time.Second
	}
	return span(ms)
}

// admitPayer finds the payer key of an id, or draws one (W7).
func (a *Agent) admitPayer(ctx context.Context, q api.PayerWish) (p *payer, again bool, err error) {
	a.book.drawing.Lock()
	defer a.book.drawing.Unlock()
	p, again = a.book.named(q.ID)
	if again {
		r := p.record()
		if r.Service != q.Service || r.Cap != q.Cap || r.LastsMs != q.LastsMs || !q.Node.IsZero() && r.Node != q.Node || !q.Provider.IsZero() && r.Provider != q.Provider {
			return nil, false, top.Errorf(top.Invalid, "id %q was used for another payer key (take another --id)", q.ID)
		}
		if r.State != payerFailed {
			return p, true, nil
		}
	}
	if err := a.scanOnce(ctx); err != nil {
		return nil, false, err
	}
	r, err := a.planPayer(ctx, q)
	if err != nil {
		return nil, false, err
	}
	if again {
		old := p.record()
		r.Index, r.Address = old.Index, old.Address
		if fund, left := a.paid(old, "fund"); left {
			r.Funded = fund.spend.Amount
		}
	} else if r.Index, r.Address, err = a.drawIndex(ctx, r.Chain); err != nil {
		return nil, false, err
	}
	if err := a.keep(r); err != nil {
		return nil, false, err
	}
	p, _ = a.book.named(q.ID)
	return p, again, nil
}

// drawIndex is the next index whose key no account of the chain has: one that has
// one was drawn elsewhere, from the same words.
func (a *Agent) drawIndex(ctx context.Context, chain top.ChainID) (index uint32, address top.Address, err error) {
	a.book.mu.Lock()
	index = a.book.next
	a.book.mu.Unlock()
	for ; index < math.MaxUint32; index++ {
		address = PayerKey(a.cfg.Key, chain, index).Public()
		b, err := a.account(ctx, address)
		if err != nil {
			return 0, address, err
		}
		if !b.Exists {
			return index, address, nil
		}
	}
	return 0, address, top.Errorf(top.Failed, "every payer key of this wallet was used")
}

// planPayer works a wish out, and refuses what budgets, provider and balance do
// not allow.
func (a *Agent) planPayer(ctx context.Context, q api.PayerWish) (r api.Payer, err error) {
	params, err := a.chainParams(ctx)
	if err != nil {
		return r, err
	}
	switch lasts := uint64(q.LastsMs) / 1000; {
	case !session.IsWord(q.Service):
		return r, top.Errorf(top.Invalid, "service %q: want a word of a-z, 0-9 and dash", q.Service)
	case q.Cap == 0:
		return r, top.Errorf(top.Invalid, "an amount of nothing")
	case lasts < 2*params.DeadlineSec:
		return r, top.Errorf(top.Invalid, "a channel for %d s: it must last twice the deadline of %d s at least (--for)", lasts, params.DeadlineSec)
	}
	to, err := a.providerOf(ctx, q)
	if err != nil {
		return r, err
	}
	if err := a.openCap(ctx, q.Service, q.Cap); err != nil {
		return r, err
	}
	r = api.Payer{
		Type: "payer", ID: q.ID, State: payerNew, Chain: params.Chain, Service: q.Service, Provider: to.Key, Node: to.Node,
		Cap: q.Cap, LastsMs: q.LastsMs, NoSweep: q.NoSweep,
	}
	need, ok := q.Cap.Add(params.AccountFee + payerFees(params, q.Cap))
	from, err := a.account(ctx, a.address)
	if err != nil {
		return r, err
	}
	if !ok || need >= from.Balance {
		return r, top.Errorf(top.Denied, "the balance is %s TOP, and %s are needed with fees (have somebody pay %s: top-wallet pay)", from.Balance, need, a.address)
	}
	r.Funded = need
	return r, nil
}

// providerOf is the account that a wish pays, proven, with its node.
func (a *Agent) providerOf(ctx context.Context, q api.PayerWish) (b Balance, err error) {
	to := q.Provider
	if !q.Node.IsZero() {
		row, err := a.cfg.Chain.Node(ctx, q.Node)
		if err != nil {
			return b, err
		}
		if !row.Exists {
			return b, top.Errorf(top.NotFound, "there is no node %s (top-chain query nodes)", q.Node)
		}
		to = row.Owner
	}
	if b, err = a.account(ctx, to); err != nil {
		return b, err
	}
	switch {
	case !b.Exists || b.Node.IsZero():
		return b, top.Errorf(top.NotFound, "%s runs no node (top-chain query nodes)", to)
	case !q.Node.IsZero() && b.Node != q.Node:
		return b, top.Errorf(top.NotFound, "%s does not run node %s any more", to, q.Node)
	case to == a.address:
		return b, top.Errorf(top.Denied, "a channel to oneself")
	}
	return b, nil
}

// payerFees is what a payer key needs for open, close, reclaim and sweep: four
// times what they cost now, since votes may raise the fee. What is not needed
// comes back with the rest.
func payerFees(p ledger.Params, limit top.Amount) top.Amount {
	size := 0
	for _, b := range []ledger.Body{
		&ledger.Open{Provider: math.MaxUint32, Cap: limit, Expiry: 1 << 40}, &ledger.Close{}, &ledger.Reclaim{}, sweepTo(math.MaxUint32, limit),
	} {
		size += len((&ledger.Tx{Chain: p.Chain, From: math.MaxUint32, Nonce: 1 << 20, Expiry: 1 << 40, Body: b}).Encode())
	}
	return 4 * p.FeePerByte * top.Amount(size)
}

// payerSigns is the payer key of a channel, when it may sign for a service (W7).
func (a *Agent) payerSigns(ch api.Channel, service string) (key keys.Private, err error) {
	p, ok := a.book.payer(ch.Payer)
	if !ok {
		return key, top.Errorf(top.Denied, "channel %s is paid by %s", ch.Channel.Short(), ch.Payer)
	}
	r := p.record()
	switch {
	case r.State != payerOpen || r.Ending:
		return key, top.Errorf(top.Denied, "payer key %s is to end, and signs nothing more (open another: top-wallet payer open)", r.ID)
	case r.Channel == nil || *r.Channel != ch.Channel:
		return key, top.Errorf(top.Denied, "payer key %s pays another channel than %s, and that alone", r.ID, ch.Channel.Short())
	case r.Service != service:
		return key, top.Errorf(top.Denied, "payer key %s is for %s, not for %s", r.ID, r.Service, service)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.purses[r.Address].key, nil
}

// Payers reads the payer keys of a home from its journal, in the order in which
// they were drawn: no agent is needed.
func Payers(dir home.Dir) (list []api.Payer, err error) {
	at := map[string]int{}
	err = home.EachLine(dir.Path("wallet", "journal.ndjson"), func(b []byte) error {
		var l line
		if err := json.Unmarshal(b, &l); err != nil {
			return top.Errorf(top.Invalid, "journal: a line is damaged: %v", err)
		}
		if l.Op != "payer" || l.Payer == nil {
			return nil
		}
		i, ok := at[l.Payer.ID]
		if !ok {
			i = len(list)
			at[l.Payer.ID] = i
			list = append(list, api.Payer{})
		}
		list[i] = *l.Payer
		return nil
	})
	return list, err
}
