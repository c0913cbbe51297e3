package wallet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"top/lib/api"
	"top/lib/keys"
	"top/lib/receipt"
	"top/lib/session"
	"top/lib/top"
	"top/lib/wire"
)

// A Rehearsal runs both ends of a paid session in one process, over a channel of
// the chain: the payer's signatures come from the agent and its budget, the
// provider's from a node key. It tries a node's offer, a budget and a settlement
// without a network between them.
type Rehearsal struct {
	Chain   *api.Chain
	Agent   *api.Wallet
	Node    keys.Private // the provider's
	Channel top.ID
	Service string
	Units   uint64
	Own     uint64             // of the units, the node's own count: acknowledged by nobody
	Last    *session.Claim     // of earlier sessions on the channel; nil is none
	After   uint64             // number of the newest voucher that the agent signed for it
	Report  func(units uint64) // called as units are paid; may be nil
}

// Run runs the session and gives its receipt, signed by the node; also when the
// session ends early, by an error: what was served is paid. Without a receipt
// nothing was.
func (r Rehearsal) Run(ctx context.Context) (*receipt.Receipt, error) {
	e, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	for unit := uint64(1); unit <= r.Units && err == nil; unit++ {
		if err = e.unit(ctx, unit); err != nil {
			err = fmt.Errorf("unit %d: %w", unit, err)
		} else if r.Report != nil {
			r.Report(unit)
		}
	}
	rec, bad := e.end()
	if bad != nil {
		return nil, errors.Join(err, bad)
	}
	return &rec, err
}

// ends is the two ends of a rehearsal.
type ends struct {
	r      Rehearsal
	now    func() time.Time
	id     top.SessionID
	offer  session.Offer
	ticket session.Ticket
	payer  *session.Payer
	meter  *session.Meter
	log    receipt.Log
	logged uint64 // units
}

func (r Rehearsal) begin(ctx context.Context) (*ends, error) {
	ch, err := r.Chain.Channel(ctx, r.Channel)
	if err != nil {
		return nil, err
	}
	node := top.NodeID(r.Node.Public())
	switch {
	case !ch.Exists:
		return nil, top.Errorf(top.NotFound, "there is no channel %s: closed, or never opened", r.Channel)
	case ch.Node == nil || *ch.Node != node:
		return nil, top.Errorf(top.Denied, "channel %s pays %s, whose node is not this key's (top-wallet register)", r.Channel.Short(), ch.Provider)
	}
	offer, err := r.offer(ctx, node)
	if err != nil {
		return nil, err
	}
	status, err := r.Chain.Status(ctx)
	if err != nil {
		return nil, err
	}
	params, err := r.Chain.Params(ctx)
	if err != nil {
		return nil, err
	}
	e := &ends{r: r, now: time.Now, offer: offer}
	if _, err := rand.Read(e.id[:]); err != nil {
		return nil, fmt.Errorf("draw session: %w", err)
	}
	e.payer = session.NewPayer(session.PayerConfig{
		Chain: status.Chain, Channel: r.Channel, Payer: ch.Payer, Node: node, Cap: ch.Cap, Expiry: ch.Expiry.Time, Draw: draw,
		Paid: ch.Paid, After: max(r.After, uint64(ch.Seq)),
	})
	e.meter = session.NewMeter(session.MeterConfig{
		Chain: status.Chain, Channel: r.Channel, Payer: ch.Payer, Node: node, Cap: ch.Cap, Expiry: ch.Expiry.Time,
		Deadline: time.Duration(params.DeadlineSec) * time.Second, Paid: ch.Paid, Seq: uint64(ch.Seq),
	})
	if r.Last != nil {
		if err := errors.Join(e.payer.Recover(*r.Last), e.meter.Recover(*r.Last)); err != nil {
			return nil, err
		}
	}
	return e, e.shake(ctx)
}

// draw is 32 fresh random bytes. crypto/rand never fails since Go 1.24.
func draw() (seed [32]byte) {
	rand.Read(seed[:])
	return seed
}

// offer is what the node sells of the service, as the registry proves it.
func (r Rehearsal) offer(ctx context.Context, node top.NodeID) (o session.Offer, err error) {
	row, err := r.Chain.Node(ctx, node)
	if err != nil {
		return o, err
	}
	for _, a := range row.Offers {
		if a.Service == r.Service {
			return offerOf(a), nil
		}
	}
	return o, top.Errorf(top.NotFound, "node %s sells no %s (top-wallet register --offer service=%[2]s,…)", node, r.Service)
}

// shake begins the session: ticket, countersignature, first voucher.
func (e *ends) shake(ctx context.Context) error {
	t, err := e.payer.Begin(e.now(), e.id, e.offer)
	if err != nil {
		return err
	}
	a, err := e.r.Agent.SignTicket(ctx, api.SignRequest{Service: e.r.Service, Peer: t.Node, Body: t.Encode()})
	if err != nil {
		return err
	}
	if err := e.ticket.Decode(a.Body); err != nil {
		return err
	}
	if err := e.meter.Open(e.now(), e.ticket, e.offer); err != nil {
		return err
	}
	if err := e.ticket.SignNode(e.r.Node.Signer()); err != nil {
		return err
	}
	return e.renew(ctx)
}

// renew signs and hands over the next voucher, when one is due.
func (e *ends) renew(ctx context.Context) error {
	next, due, err := e.payer.Renew(e.now())
	if err != nil || !due {
		return err
	}
	a, err := e.r.Agent.SignVoucher(ctx, api.SignRequest{Service: e.r.Service, Peer: e.ticket.Node, Body: next.Voucher.Encode()})
	if err != nil {
		return err
	}
	if err := next.Voucher.Decode(a.Body); err != nil {
		return err
	}
	if err := e.meter.Renew(e.now(), next); err != nil {
		return err
	}
	return e.payer.Acknowledged(next.Voucher.Seq)
}

// unit serves one unit, has it acknowledged, and passes the tick on when one is
// due.
func (e *ends) unit(ctx context.Context, n uint64) error {
	e.meter.Head(e.now())
	if err := e.meter.Serve(e.now(), e.id, 1); err != nil {
		return err
	}
	if t, due := e.payer.Served(e.id, n); due {
		if err := e.tick(t); err != nil {
			return err
		}
	}
	return e.renew(ctx)
}

// tick takes a tick and logs the units that it pays.
func (e *ends) tick(t session.Tick) error {
	if err := e.meter.Tick(e.now(), &t); err != nil {
		return err
	}
	paid := e.meter.Paid(e.id)
	entry := wire.Digest("top/rehearsal/1", e.id[:], t.Encode())
	if err := e.log.Append(e.offer.Price*top.Amount(paid-e.logged), entry); err != nil {
		return err
	}
	e.logged = paid
	return nil
}

// end pays what is left and signs the receipt.
func (e *ends) end() (r receipt.Receipt, err error) {
	if t, due := e.payer.Flush(e.id); due {
		if err := e.tick(t); err != nil {
			return r, err
		}
	}
	r.Ticket, r.Claim = e.ticket, e.meter.Claim()
	r.LogRoot, r.LogSum, r.LogCount = e.log.Root()
	r.Unverified = min(e.r.Own, r.Units())
	if err := r.Sign(e.r.Node.Signer()); err != nil {
		return r, err
	}
	return r, r.Verify()
}
