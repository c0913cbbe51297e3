// Package settle claims on the chain what receipts prove. A node key is enough: it
// can credit its owner and nothing else, so that no agent, no passphrase and no
// journal is needed, and a service's daemon does it by itself.
//
//	T1  repeating a claim, or claiming less than was paid, changes nothing
//	T2  what is due is claimed before the channel's deadline: when it closes, when
//	    it ends soon, and every hour
//	T3  of each session the newest receipt is on disk, and its log has the entries
//	    that the receipt counts, over any crash
package settle

import (
	"context"
	"errors"
	"time"

	"top/lib/api"
	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/session"
	"top/lib/top"
)

// voidAfter is how long a claim is good for.
const voidAfter = time.Minute

// A Settler turns what receipts prove into money, with a node key alone (T1).
type Settler struct {
	Chain *api.Chain
	Node  keys.Private
	Wait  time.Duration // until a transaction must be final
}

// Claim claims what a voucher and its ticks prove.
func (s Settler) Claim(ctx context.Context, claim session.Claim) (api.Settled, error) {
	owed, ch, r, err := s.look(ctx, claim.Voucher.Channel, &claim)
	if err != nil {
		return r, err
	}
	switch {
	case !ch.Exists:
		r.State = "gone"
		return r, nil
	case owed <= ch.Paid:
		r.State, r.Total = "already", ch.Paid
		return r, nil
	}
	t, err := s.send(ctx, ch, &ledger.Claim{Claim: claim})
	if err != nil {
		return r, err
	}
	if !t.OK {
		return s.refused(ctx, r, t)
	}
	r.State, r.Paid, r.Fee, r.Total = "paid", t.Paid, t.Fee, ch.Paid+t.Paid
	r.Tx, r.Height = &t.ID, t.Height
	return r, nil
}

// Close ends a channel that pays this node, with a last claim when there is one.
func (s Settler) Close(ctx context.Context, channel top.ID, claim *session.Claim) (api.Settled, error) {
	_, ch, r, err := s.look(ctx, channel, claim)
	if err != nil {
		return r, err
	}
	if !ch.Exists {
		r.State = "gone"
		return r, nil
	}
	if claim != nil && uint64(ch.Seq) > claim.Voucher.Seq {
		claim = nil // a newer one was claimed
	}
	t, err := s.send(ctx, ch, &ledger.Close{Channel: channel, Claim: claim})
	if err != nil {
		return r, err
	}
	if !t.OK {
		return s.refused(ctx, r, t)
	}
	r.State, r.Paid, r.Fee, r.Total = "closed", t.Paid, t.Fee, ch.Paid+t.Paid
	r.Tx, r.Height = &t.ID, t.Height
	return r, nil
}

// look asks for the channel and works out what a claim on it is owed.
func (s Settler) look(ctx context.Context, id top.ID, claim *session.Claim) (owed top.Amount, ch api.Channel, r api.Settled, err error) {
	r = api.Settled{Type: "settled", Channel: id}
	if ch, err = s.Chain.Channel(ctx, id); err != nil || !ch.Exists {
		return 0, ch, r, err
	}
	if claim != nil {
		if owed, err = claim.Owed(); err != nil {
			return 0, ch, r, err
		}
		owed = min(owed, ch.Cap)
		r.Owed = owed
	}
	if ch.Node == nil || *ch.Node != top.NodeID(s.Node.Public()) {
		return 0, ch, r, top.Errorf(top.Denied, "channel %s pays %s, whose node is not this one (the owner registers it: top-wallet register)", id.Short(), ch.Provider)
	}
	return owed, ch, r, nil
}

// send signs by the node key, submits and waits. A claim whose fee is more than
// it brings is refused by every node, and is no error here when that is all.
func (s Settler) send(ctx context.Context, ch api.Channel, body ledger.Body) (t api.Tx, err error) {
	status, err := s.Chain.Status(ctx)
	if err != nil {
		return t, err
	}
	tx := &ledger.Tx{
		Chain: status.Chain, From: ch.ProvIndex, Expiry: uint64(ch.At.Time.Add(voidAfter).Unix()), Body: body,
	}
	if err := tx.Sign(s.Node.Signer()); err != nil {
		return t, err
	}
	raw := tx.Encode()
	if _, err := s.Chain.Submit(ctx, raw); err != nil {
		return t, err
	}
	t, err = s.Chain.Tx(ctx, ledger.ID(raw), s.Wait)
	if errors.Is(err, top.ErrNotFound) {
		err = top.Errorf(top.Timeout, "transaction %s is not final after %s (settle again: repeating it is safe)", ledger.ID(raw), s.Wait)
	}
	return t, err
}

// refused is a transaction that a block holds and that failed: when another claim
// came first, nothing is lost.
func (s Settler) refused(ctx context.Context, r api.Settled, t api.Tx) (api.Settled, error) {
	ch, err := s.Chain.Channel(ctx, r.Channel)
	if err == nil && (!ch.Exists || ch.Paid >= r.Owed) {
		r.State, r.Total = "already", ch.Paid
		return r, nil
	}
	return r, &top.Error{Kind: top.Kind(t.Error), Message: t.Message}
}

// Due says whether a claim should be made now (T2), of a channel that owes so much
// and was claimed last at a time; its deadline is D.
func Due(ch api.Channel, owed top.Amount, last, now time.Time, d time.Duration) bool {
	switch {
	case !ch.Exists || owed <= ch.Paid:
		return false
	case ch.Closing || ch.Expiry.Before(now.Add(3*d)):
		return true
	}
	return now.Sub(last) >= Every
}

// Every is how often what is owed is claimed while nothing presses.
const Every = time.Hour
