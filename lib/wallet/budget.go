package wallet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"top/lib/api"
	"top/lib/home"
	"top/lib/keys"
	"top/lib/session"
	"top/lib/top"
	"top/lib/wire"
)

// budgets is the limits that the owner set, by service.
type budgets struct {
	path   string
	record *record

	mu sync.Mutex
	of map[string]api.Budget
}

func openBudgets(path string, r *record) (*budgets, error) {
	b := &budgets{path: path, record: r, of: map[string]api.Budget{}}
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read budgets: %w", err)
	}
	if err := json.Unmarshal(raw, &b.of); err != nil {
		return nil, top.Errorf(top.Invalid, "%s is damaged: %v (remove it, and set the budgets again: top-wallet budget set)", path, err)
	}
	return b, nil
}

// set replaces a service's budget; PerDay 0 takes it away.
func (b *budgets) set(q api.Budget) error {
	if !session.IsWord(q.Service) {
		return top.Errorf(top.Invalid, "service %q: want a word of a-z, 0-9 and dash", q.Service)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	next := maps.Clone(b.of)
	if q.PerDay == 0 {
		delete(next, q.Service)
	} else {
		q.Type, q.Spent = "budget", 0
		next[q.Service] = q
	}
	raw, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("write budgets: %w", err)
	}
	if err := home.WriteFile(b.path, append(raw, '\n'), 0o600); err != nil {
		return err
	}
	b.of = next
	return nil
}

func (b *budgets) get(service string) (api.Budget, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q, ok := b.of[service]
	return q, ok
}

func (b *budgets) list(a *Agent) []api.Budget {
	b.mu.Lock()
	all := slices.SortedFunc(maps.Values(b.of), func(x, y api.Budget) int { return cmp.Compare(x.Service, y.Service) })
	b.mu.Unlock()
	b.record.mu.Lock()
	defer b.record.mu.Unlock()
	for i := range all {
		all[i].Spent, _ = b.record.spentLocked(a.cfg.Now(), all[i].Service, top.NodeID{})
	}
	return all
}

// noBudget is the refusal of a service that has none.
func noBudget(service string) error {
	return top.Errorf(top.Denied, "no budget for %s (allow it: top-wallet budget set --service %[1]s --per-day AMOUNT)", service)
}

// allow says whether a budget has room for a charge (W3), and which command
// would make room.
func (r *record) allowLocked(a *Agent, q api.Budget, peer top.NodeID, more top.Amount) error {
	all, forPeer := r.spentLocked(a.cfg.Now(), q.Service, peer)
	if all+more > q.PerDay {
		return top.Errorf(top.Denied, "the budget of %s is %s TOP a day, %s are spent and %s more are asked for (allow it: top-wallet budget set --service %[1]s --per-day %[5]s)",
			q.Service, q.PerDay, all, more, all+more)
	}
	if limit := cmp.Or(q.PerPeer, q.PerDay); forPeer+more > limit {
		return top.Errorf(top.Denied, "the budget of %s is %s TOP a day for each peer, %s are spent on this one and %s more are asked for (allow it: top-wallet budget set --service %[1]s --per-day %s --per-peer %[6]s)",
			q.Service, limit, forPeer, more, q.PerDay, forPeer+more)
	}
	return nil
}

// signVoucher signs a voucher for a daemon, within the service's budget.
func (a *Agent) signVoucher(ctx context.Context, q api.SignRequest) (r api.SignAnswer, err error) {
	var v session.Voucher
	if err := v.Decode(q.Body); err != nil {
		return r, err
	}
	ch, key, err := a.payerChannel(ctx, v.Chain, v.Channel, q.Service)
	if err != nil {
		return r, err
	}
	exposed, err := v.Exposure()
	if err != nil {
		return r, err
	}
	if exposed > ch.Cap {
		return r, top.Errorf(top.Denied, "the voucher exposes %s TOP, the channel's cap is %s (open another: top-wallet open)", exposed, ch.Cap)
	}
	if ch.Node == nil || *ch.Node != q.Peer {
		return r, top.Errorf(top.Denied, "channel %s pays another node than %s", v.Channel.Short(), q.Peer)
	}
	budget, ok := a.budgets.get(q.Service)
	if !ok {
		return r, noBudget(q.Service)
	}
	v.Sig = [64]byte{}
	digest := wire.Digest("top/voucher-digest/1", v.Encode())
	rec := a.record
	rec.mu.Lock()
	defer rec.mu.Unlock()
	last, before := rec.signed[v.Channel]
	again := before && last.number == v.Seq && last.digest == digest
	if !again {
		if err := a.follows(v, last, before, q.Service); err != nil {
			return r, err
		}
		more := max(exposed, last.exposed) - last.exposed
		if err := rec.allowLocked(a, budget, q.Peer, more); err != nil {
			return r, err
		}
		err := rec.addLocked(api.SignedEntry{
			Time: top.TimeOf(a.cfg.Now()), What: "voucher", Service: q.Service, Peer: &q.Peer, Channel: &v.Channel,
			Number: top.Count(v.Seq), Exposed: max(exposed, last.exposed), Charged: more, Digest: digest,
		})
		if err != nil {
			return r, err
		}
	}
	if err := v.Sign(key.Signer()); err != nil {
		return r, err
	}
	return api.SignAnswer{Type: "signed-voucher", Body: v.Encode()}, nil
}

// follows refuses a voucher that goes back, or a second one with the same number
// (W6), and a channel that changes its service.
func (a *Agent) follows(v session.Voucher, last signedVoucher, before bool, service string) error {
	switch {
	case !before:
		return nil
	case last.service != service:
		return top.Errorf(top.Denied, "channel %s is used for %s, not for %s", v.Channel.Short(), last.service, service)
	case v.Seq <= last.number:
		return top.Errorf(top.Denied, "voucher %d of channel %s: number %d is signed already", v.Seq, v.Channel.Short(), last.number)
	}
	return nil
}

// payerChannel is a channel of the chain that this account or one of its payer
// keys pays for, proven, and the key that signs for it.
func (a *Agent) payerChannel(ctx context.Context, chain top.ChainID, id top.ID, service string) (ch api.Channel, key keys.Private, err error) {
	p, err := a.chainParams(ctx)
	if err != nil {
		return ch, key, err
	}
	if chain != p.Chain {
		return ch, key, top.Errorf(top.Denied, "it is for chain %s, this wallet is on %s", chain, p.Chain)
	}
	if ch, err = a.channelRow(ctx, id); err != nil {
		return ch, key, err
	}
	switch {
	case !ch.Exists:
		return ch, key, top.Errorf(top.NotFound, "there is no channel %s: closed, or never opened", id)
	case ch.Closing:
		return ch, key, top.Errorf(top.Denied, "channel %s is closing", id.Short())
	case ch.Payer == a.address:
		return ch, a.cfg.Key, nil
	}
	key, err = a.payerSigns(ch, service)
	return ch, key, err
}

// proven is a channel's row, and when the chain proved it.
type proven struct {
	row api.Channel
	at  time.Time
}

// A row serves for rowFor: who pays fast signs many vouchers a second on one channel.
// Of what a signature looks at, payer, node and service stay for ever, the cap and the
// expiry only grow, and a channel that began to close meanwhile is bounded by its cap.
// maxRows bounds the memory.
const (
	rowFor  = 2 * time.Second
	maxRows = 1024
)

// channelRow is a channel as the chain proved it a moment ago.
func (a *Agent) channelRow(ctx context.Context, id top.ID) (api.Channel, error) {
	a.mu.Lock()
	have, ok := a.rows[id]
	a.mu.Unlock()
	now := a.cfg.Now()
	if age := now.Sub(have.at); ok && age >= 0 && age < rowFor {
		return have.row, nil
	}
	ch, err := a.cfg.Chain.Channel(ctx, id)
	if err != nil || !ch.Exists || ch.Closing {
		return ch, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.rows) >= maxRows {
		clear(a.rows)
	}
	a.rows[id] = proven{ch, now}
	return ch, nil
}

// signTicket signs a ticket as its payer. A ticket promises nothing that a
// voucher does not, but its service needs a budget all the same.
func (a *Agent) signTicket(ctx context.Context, q api.SignRequest) (r api.SignAnswer, err error) {
	var t session.Ticket
	if err := t.Decode(q.Body); err != nil {
		return r, err
	}
	ch, key, err := a.payerChannel(ctx, t.Chain, t.Channel, q.Service)
	if err != nil {
		return r, err
	}
	switch {
	case t.Payer != ch.Payer:
		return r, top.Errorf(top.Denied, "the ticket is of payer %s", t.Payer)
	case t.Node != q.Peer || ch.Node == nil || *ch.Node != t.Node:
		return r, top.Errorf(top.Denied, "channel %s pays another node than %s", t.Channel.Short(), t.Node)
	case t.Service != q.Service:
		return r, top.Errorf(top.Denied, "the ticket is for %s, not for %s", t.Service, q.Service)
	}
	if _, ok := a.budgets.get(q.Service); !ok {
		return r, noBudget(q.Service)
	}
	t.PayerSig, t.NodeSig = [64]byte{}, [64]byte{}
	err = a.record.add(api.SignedEntry{
		Time: top.TimeOf(a.cfg.Now()), What: "ticket", Service: q.Service, Peer: &q.Peer, Channel: &t.Channel,
		Digest: wire.Digest("top/ticket-digest/1", t.Encode()),
	})
	if err != nil {
		return r, err
	}
	if err := t.SignPayer(key.Signer()); err != nil {
		return r, err
	}
	return api.SignAnswer{Type: "signed-ticket", Body: t.Encode()}, nil
}

// openCap refuses a channel whose cap would take a service's open channels
// beyond its limit. One that no service was paid on yet counts for each.
func (a *Agent) openCap(ctx context.Context, service string, limit top.Amount) error {
	q, ok := a.budgets.get(service)
	if !ok {
		return noBudget(service)
	}
	open := limit
	err := a.cfg.Chain.Channels(ctx, a.address, func(c api.Channel) error {
		if c.Payer == a.address && !a.record.isOther(c.Channel, service) {
			open += c.Cap
		}
		return nil
	})
	if err != nil {
		return err
	}
	open += a.book.held(service)
	if most := cmp.Or(q.OpenCap, q.PerDay); open > most {
		return top.Errorf(top.Denied, "the channels open would hold %s TOP, the limit of %s is %s (allow it: top-wallet budget set --service %[2]s --per-day %s --open-cap %[1]s)", open, service, most, q.PerDay)
	}
	return nil
}
