package relay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"top/lib/api"
	"top/lib/delivery"
	"top/lib/session"
	"top/lib/top"
)

const (
	laneLasts  = 60 * 24 * time.Hour // how long a channel is opened for
	laneWait   = 20 * time.Second    // until a channel is open
	storeWait  = 15 * time.Second    // a relay that takes and stores nothing of what is sent for so long is left
	aheadUnits = 512                 // set aside before messages need it, at most a sixteenth of the cap
)

// A lane is a channel on which we pay a relay for messages.
type lane struct {
	l       *link
	channel top.ID

	opening sync.Mutex // held while the ticket is shown
	kick    chan struct{}

	mu     sync.Mutex
	st     laneState
	sender *delivery.Sender
	s      *stream      // the connection on which the relay agreed to the ticket; nil while there is none
	queue  []*outParcel // placed and to be sent on s, in the order of their places
	sent   time.Time    // when the relay last showed that it stores, took some of it, or had nothing to
	took   int64        // of s, then
	broken error
	known  map[string]ackState // by recipient and device
	signs  bool                // a voucher is being signed
	noes   int                 // vouchers that the relay refused one after the other
}

// laneState is a lane on disk.
type laneState struct {
	Node   top.NodeID
	Ticket []byte
	Offer  api.Offer
	Config delivery.SenderConfig
	State  delivery.SenderState
}

// ackState is how far the acknowledgements of one device were checked against what
// was sent.
type ackState struct {
	from, to top.Amount
	count    uint64
	root     top.ID
}

func newLane(l *link, channel top.ID) *lane {
	return &lane{l: l, channel: channel, kick: make(chan struct{}, 1), known: map[string]ackState{}}
}

func (n *lane) save(b *pebble.Batch) error {
	n.st.State = n.sender.State()
	return save(b, key('L', n.l.node[:], n.channel[:]), n.st)
}

// loadLanes brings back the channels of a link.
func (a *agent) loadLanes(l *link) error {
	prefix := key('L', l.node[:])
	return each(a.db.db, prefix, prefix, func(k, _ []byte) (bool, error) {
		n := newLane(l, top.ID(k[33:]))
		if _, err := load(a.db.db, append([]byte{}, k...), &n.st); err != nil {
			return false, err
		}
		var err error
		if n.sender, err = delivery.NewSender(n.st.Config, n.st.State); err != nil {
			return false, err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if !slices.ContainsFunc(l.lanes, func(o *lane) bool { return o.channel == n.channel }) {
			l.lanes = append(l.lanes, n)
		}
		return true, nil
	})
}

// lane is a channel to a relay with room for a message, opened if there is none.
func (a *agent) lane(ctx context.Context, l *link, to top.Address, cost top.Amount, expiry uint64) (*lane, error) {
	l.mu.Lock()
	lanes := slices.Clone(l.lanes)
	l.mu.Unlock()
	for _, n := range slices.Backward(lanes) {
		if n.takes(cost, expiry) {
			return n, n.ensure(ctx)
		}
	}
	a.opening.Lock() // one channel at a time
	defer a.opening.Unlock()
	l.mu.Lock()
	more := len(l.lanes) > len(lanes)
	l.mu.Unlock()
	if more {
		return a.lane(ctx, l, to, cost, expiry)
	}
	n, err := a.openLane(ctx, l, cost)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.lanes = append(l.lanes, n)
	l.mu.Unlock()
	return n, n.ensure(ctx)
}

// takes says whether a lane has room for a message.
func (n *lane) takes(cost top.Amount, expiry uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	end := n.st.Config.Expiry.Add(-2 * n.st.Config.Deadline)
	return n.broken == nil && time.Unix(int64(expiry), 0).Before(end) && n.sender.Room() >= cost
}

// openLane opens a channel on the chain. The wish has a name that survives a
// crash, so that one channel is opened.
func (a *agent) openLane(ctx context.Context, l *link, cost top.Amount) (*lane, error) {
	l.mu.Lock()
	row := l.row
	l.mu.Unlock()
	offer, ok := wireOffer(row)
	if !ok {
		return nil, top.Errorf(top.NotFound, "node %s offers no relaying", l.node)
	}
	var wish struct{ N int }
	k := key('W', l.node[:])
	if _, err := load(a.db.db, k, &wish); err != nil {
		return nil, err
	}
	cap := max(a.cfg.Cap, 4*cost)
	pay, err := a.cfg.Wallet.Spend(ctx, api.Spend{
		ID: "relay-" + hex.EncodeToString(l.node[:8]) + "-" + hex.EncodeToString(a.d.cert.Key[:4]) + "-" + strconv.Itoa(wish.N), Kind: "open", To: row.Owner, Amount: cap,
		LastsMs: top.Count(laneLasts.Milliseconds()), Service: Service, WaitMs: top.Count(laneWait.Milliseconds()),
	})
	if err != nil {
		return nil, err
	}
	if pay.State != "final" && pay.State != "pending" {
		wish.N++
		b := a.db.db.NewBatch()
		defer b.Close()
		if err := save(b, k, wish); err != nil {
			return nil, err
		}
		if err := b.Commit(pebble.Sync); err != nil {
			return nil, err
		}
	}
	if pay.State != "final" || pay.Channel == nil {
		return nil, top.Errorf(top.Failed, "open a channel to relay %s: %s", l.node, pay.Text())
	}
	ch, err := a.cfg.Chain.Channel(ctx, *pay.Channel)
	if err != nil {
		return nil, err
	}
	n := newLane(l, *pay.Channel)
	ahead := min(offer.Price*aheadUnits, ch.Cap/16)
	n.st = laneState{Node: l.node, Offer: offer, Config: delivery.SenderConfig{
		Chain: a.d.chain, Channel: n.channel, Payer: a.d.address, Cap: ch.Cap, Expiry: ch.Expiry.Time, Deadline: a.d.deadline, Ahead: ahead,
	}}
	t := session.Ticket{
		Chain: a.d.chain, Channel: n.channel, Payer: a.d.address, Node: l.node, Service: Service, Unit: offer.Unit, Price: offer.Price,
		Expiry: uint64(ch.Expiry.Unix()),
	}
	rand.Read(t.Session[:])
	signed, err := a.cfg.Wallet.SignTicket(ctx, api.SignRequest{Service: Service, Peer: l.node, Body: t.Encode()})
	if err != nil {
		return nil, err
	}
	n.st.Ticket = signed.Body
	if n.sender, err = delivery.NewSender(n.st.Config, delivery.SenderState{}); err != nil {
		return nil, err
	}
	b := a.db.db.NewBatch()
	defer b.Close()
	wish.N++
	if err := save(b, k, wish); err != nil {
		return nil, err
	}
	if err := n.save(b); err != nil {
		return nil, err
	}
	return n, b.Commit(pebble.Sync)
}

// wireOffer is what a node offers for messages.
func wireOffer(n api.Node) (api.Offer, bool) { return n.Offer(Service, delivery.Unit) }

// ensure makes the relay agree to the ticket on this connection.
func (n *lane) ensure(ctx context.Context) error {
	n.mu.Lock()
	ready, broken := n.s != nil, n.broken
	n.mu.Unlock()
	if ready || broken != nil {
		return broken
	}
	return n.open(ctx)
}

// open shows the ticket and the newest voucher, and begins to send what the relay
// does not have.
func (n *lane) open(ctx context.Context) error {
	n.opening.Lock()
	defer n.opening.Unlock()
	s := n.l.stream()
	n.mu.Lock()
	ticket, ready := n.st.Ticket, n.s != nil && n.s == s
	n.mu.Unlock()
	if ready {
		return nil
	}
	body, err := n.l.ask(ctx, fTicket, ticket)
	if err != nil {
		return &relaySaid{fmt.Errorf("relay %s: %w", n.l.node, err)}
	}
	var r resumed
	if err := r.decode(body); err != nil {
		return err
	}
	t := r.ticket
	var ours session.Ticket
	if err := ours.Decode(ticket); err != nil {
		return err
	}
	if err := t.Verify(); err != nil || t.Channel != n.channel || t.Session != ours.Session || t.Price != ours.Price {
		return &relaySaid{top.Errorf(top.Denied, "relay %s answers with another ticket", n.l.node)}
	}
	n.mu.Lock()
	n.st.Ticket = t.Encode()
	v, ok := n.sender.Newest()
	n.mu.Unlock()
	if ok && v.Seq > r.seq {
		if err := s.send(ctx, fVoucher, v.Encode()); err != nil {
			return err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.l.stream() != s {
		return top.Errorf(top.Offline, "the connection to relay %s broke", n.l.node)
	}
	n.s, n.queue, n.sent = s, n.l.a.unsent(n, r.taken), n.l.a.now()
	n.l.a.group.Go(func() error {
		n.pump(n.l.a.ctx, s)
		return nil
	})
	return nil
}

// closed says that the connection broke: what lies in the queue comes back when
// the lane opens again.
func (n *lane) closed() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.s, n.queue = nil, nil
}

// fail ends the use of a lane that the relay does not honour.
func (n *lane) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.broken == nil {
		n.broken = &relaySaid{err}
	}
}

// maxNoes is how many vouchers in a row a relay refuses before it is not paid on
// that channel any more.
const maxNoes = 3

// refused signs another voucher when the relay refused one: it showed what we had
// missed.
func (n *lane) refused(ctx context.Context, why error) {
	n.mu.Lock()
	n.noes++
	over := n.noes >= maxNoes
	n.mu.Unlock()
	if over || n.renew(ctx) != nil {
		n.fail(why)
		n.l.bad(n.l.a.now())
	}
}

// relaySaid is an error that a relay gave: another may do better.
type relaySaid struct{ error }

func (e *relaySaid) Unwrap() error { return e.error }

func isSaid(err error) bool {
	var said *relaySaid
	return errors.As(err, &said)
}

// promise has a voucher signed and sent until a place is promised.
func (n *lane) promise(ctx context.Context, p delivery.Place) error {
	for {
		n.mu.Lock()
		if n.broken != nil {
			defer n.mu.Unlock()
			return n.broken
		}
		busy := n.signs
		if n.sender.Promises(p) && !busy { // the voucher went out before
			n.mu.Unlock()
			return nil
		}
		n.mu.Unlock()
		if !busy {
			if err := n.renew(ctx); err != nil {
				return err
			}
			continue
		}
		change := n.l.a.change()
		select {
		case <-change:
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// renew signs the next voucher and sends it.
func (n *lane) renew(ctx context.Context) error {
	n.mu.Lock()
	if n.signs {
		n.mu.Unlock()
		return nil
	}
	n.signs = true
	v, waits := n.sender.Unsigned()
	var err error
	if !waits {
		if v, err = n.sender.Renew(n.l.a.now()); err == nil {
			err = n.commit()
		}
	}
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.signs = false
		n.mu.Unlock()
		n.l.a.changed()
	}()
	if err != nil {
		return err
	}
	signed, err := n.l.a.cfg.Wallet.SignVoucher(ctx, api.SignRequest{Service: Service, Peer: n.l.node, Body: v.Encode()})
	if err != nil {
		return err
	}
	if err := v.Decode(signed.Body); err != nil {
		return err
	}
	n.mu.Lock()
	err = n.sender.Signed(v)
	if err == nil {
		err = n.commit()
	}
	s := n.s
	n.mu.Unlock()
	if err != nil || s == nil {
		return err // open shows it
	}
	return s.send(ctx, fVoucher, v.Encode())
}

// commit puts the lane on disk.
func (n *lane) commit() error {
	b := n.l.a.db.db.NewBatch()
	defer b.Close()
	if err := n.save(b); err != nil {
		return err
	}
	return b.Commit(pebble.Sync)
}

// tend sets aside ahead of need, and settles what was delivered.
func (n *lane) tend(ctx context.Context, settle bool) {
	n.mu.Lock()
	due := n.broken == nil && n.s != nil && (n.sender.Due() || settle && n.sender.Settles(n.l.a.now()))
	n.mu.Unlock()
	if due {
		if err := n.renew(ctx); err != nil {
			n.l.a.log.Debug("renew", "err", err)
		}
	}
}
