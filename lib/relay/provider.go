package relay

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"top/lib/api"
	"top/lib/delivery"
	"top/lib/home"
	"top/lib/keys"
	"top/lib/receipt"
	"top/lib/session"
	"top/lib/settle"
	"top/lib/top"
)

// Bounds on what strangers make a provider hold.
const (
	maxPending   = 64 << 20 // bytes taken and not on disk yet
	maxBoxBytes  = 4 << 30  // held for one recipient
	maxPrekeys   = 200      // of one device
	maxLookups   = 50       // lookups and prekeys asked for on one stream in a second
	receiptEvery = time.Second
	sweepEvery   = 10 * time.Second
	offerEvery   = 10 * time.Second
	chainLag     = 3 * time.Second // by which a sender's view of the chain may be ahead of ours
	chainPause   = 50 * time.Millisecond
	clockSlack   = 60 // seconds that a sender's clock may be ahead when it names an expiry
)

// A provider holds messages for others and is paid when it hands them over.
type provider struct {
	chain    top.ChainID
	api      *api.Chain
	node     keys.Private
	owner    top.Address
	deadline time.Duration
	db       *store
	log      *slog.Logger
	now      func() time.Time
	quota    int64
	receipts *settle.Receipts
	logs     string // folder of the sessions' logs

	mu      sync.Mutex
	space   *sync.Cond // pending fell
	offer   session.Offer
	carries map[top.ID]*carry
	boxes   map[top.Address]*box
	work    *work
	kick    chan struct{}
	pending int64       // bytes in work and under way
	later   *time.Timer // wakes for what lingers
	ends    bool        // nothing lingers any more
	stats   stats
	full    error     // why nothing is taken now
	fullAt  time.Time // when that was looked at
}

// stats is what is held, kept beside it.
type stats struct {
	Messages  uint64
	Bytes     uint64
	Mailboxes int
}

// A carry is a channel that pays for messages.
type carry struct {
	ticket  session.Ticket
	c       *delivery.Carrier
	log     receipt.Log
	entries []settle.LogEntry // not in the session's log yet
	waits   map[top.Address][]*waiting
	sender  *stream // nil while the sender is away
	unsaid  bool    // there is a newer receipt to be made
	logged  *home.Log
	early   map[top.Address]session.Ack // of what was lost in a crash, and is not taken again yet
}

// waiting is a message that is held for its recipient.
type waiting struct {
	place  delivery.Place
	expiry uint64
	id     top.ID
	stored bool
}

// carryState is a carry on disk.
type carryState struct {
	Ticket []byte
	Config delivery.CarrierConfig
	State  delivery.CarrierState
	Log    []byte
}

func newProvider(ctx context.Context, d *Daemon) (*provider, error) {
	p := &provider{
		chain: d.chain, api: d.cfg.Chain, node: d.cfg.NodeKey, owner: d.address, deadline: d.deadline,
		db: d.db, log: d.log, now: d.now, quota: d.cfg.Quota, kick: make(chan struct{}, 1),
		carries: map[top.ID]*carry{}, boxes: map[top.Address]*box{}, logs: d.cfg.Home.Path("receipts"),
	}
	p.space = sync.NewCond(&p.mu)
	p.later = time.AfterFunc(time.Hour, p.wake)
	p.work = p.newWork()
	if _, err := load(p.db.db, key('S'), &p.stats); err != nil {
		return nil, err
	}
	var err error
	if p.receipts, err = settle.OpenReceipts(d.cfg.Home.Path("receipts", "relay.ndjson")); err != nil {
		return nil, err
	}
	return p, nil
}

// run commits, sweeps and makes receipts until ctx ends; then once more.
func (p *provider) run(ctx context.Context) error {
	defer p.receipts.Close()
	sweep, say, ask := time.NewTicker(sweepEvery), time.NewTicker(receiptEvery), time.NewTicker(offerEvery)
	defer sweep.Stop()
	defer say.Stop()
	defer ask.Stop()
	p.refreshOffer(ctx)
	for {
		var err error
		select {
		case <-ctx.Done():
			p.mu.Lock()
			p.ends = true
			p.mu.Unlock()
			p.later.Stop()
			if err := p.commit(); err != nil {
				return err
			}
			return p.sayReceipts()
		case <-p.kick:
			err = p.commit()
		case <-say.C:
			err = p.sayReceipts()
		case <-sweep.C:
			err = p.sweep()
		case <-ask.C:
			p.refreshOffer(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// refreshOffer reads from the chain what this node offers.
func (p *provider) refreshOffer(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	n, err := p.api.Node(ctx, p.node.Public())
	if err != nil || !n.Exists {
		return // what was registered before stays
	}
	o, ok := relayOffer(n)
	if !ok {
		return
	}
	p.mu.Lock()
	p.offer = o
	p.mu.Unlock()
}

// relayOffer is wireOffer, as a session agrees to it.
func relayOffer(n api.Node) (session.Offer, bool) {
	o, ok := wireOffer(n)
	r := session.Offer{Service: o.Service, Unit: o.Unit, Price: o.Price, Window: o.Window}
	for _, h := range o.Hold {
		r.Hold = append(r.Hold, session.Hold{Seconds: uint64(h.Seconds), Factor: h.Factor})
	}
	return r, ok
}

// room says why nothing more is taken, looking at the disk once a second.
func (p *provider) room() error {
	if now := p.now(); now.Sub(p.fullAt) > time.Second {
		p.full, p.fullAt = p.db.room(), now
	}
	if p.full == nil && p.quota > 0 && p.stats.Bytes > uint64(p.quota) {
		return &top.Error{Kind: top.Busy, Message: "this relay holds as much as it may", RetryAfter: 30 * time.Second}
	}
	return p.full
}

// openTicket begins a session on a channel, or resumes it.
func (p *provider) openTicket(ctx context.Context, s *stream, t session.Ticket) (body []byte, frames [][]byte, err error) {
	row, err := p.api.Channel(ctx, t.Channel)
	for at := p.now(); err == nil && !row.Exists && p.now().Sub(at) < chainLag; { // it may be in a block that is not here yet
		if !pause(ctx, chainPause) {
			return nil, nil, ctx.Err()
		}
		row, err = p.api.Channel(ctx, t.Channel)
	}
	if err != nil {
		return nil, nil, err
	}
	p.mu.Lock()
	none := p.offer.Service == ""
	p.mu.Unlock()
	if none {
		p.refreshOffer(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.agrees(t, row); err != nil {
		return nil, nil, err
	}
	c, err := p.carry(t.Channel)
	if err != nil {
		return nil, nil, err
	}
	if c == nil {
		if c, err = p.newCarry(t, row); err != nil {
			return nil, nil, err
		}
		p.carries[t.Channel] = c
		p.work.carries[c] = true
		p.wake()
	}
	c.sender = s
	return p.resume(c)
}

// agrees refuses a ticket that is not what this node offers.
func (p *provider) agrees(t session.Ticket, row api.Channel) error {
	switch o := p.offer; {
	case o.Service == "":
		return top.Errorf(top.Denied, "this node offers no relaying on the chain yet")
	case !row.Exists || row.Closing:
		return top.Errorf(top.Denied, "channel %s is closed or closing", t.Channel.Short())
	case row.Provider != p.owner || t.Node != p.node.Public() || t.Chain != p.chain:
		return top.Errorf(top.Denied, "channel %s pays somebody else", t.Channel.Short())
	case row.Payer != t.Payer:
		return top.Errorf(top.Denied, "channel %s has another payer", t.Channel.Short())
	case t.Service != o.Service || t.Unit != o.Unit:
		return top.Errorf(top.Denied, "the ticket is for %s in units of %s", t.Service, t.Unit)
	}
	if _, loaded := p.carries[t.Channel]; !loaded && t.Price != p.offer.Price {
		if v, err := get(p.db.db, key('C', t.Channel[:])); err != nil || v == nil {
			return top.Errorf(top.Denied, "the ticket says %s TOP a unit, the offer is %s", t.Price, p.offer.Price)
		}
	}
	return t.VerifyPayer()
}

func (p *provider) newCarry(t session.Ticket, row api.Channel) (*carry, error) {
	if err := t.SignNode(p.node.Signer()); err != nil {
		return nil, err
	}
	cfg := delivery.CarrierConfig{
		Chain: p.chain, Channel: t.Channel, Payer: t.Payer, Cap: row.Cap, Expiry: row.Expiry.Time, Deadline: p.deadline,
		Price: t.Price, Window: p.offer.Window, Seq: uint64(row.Seq), Paid: row.Paid,
	}
	c, err := delivery.NewCarrier(cfg, delivery.CarrierState{})
	return &carry{ticket: t, c: c, waits: map[top.Address][]*waiting{}}, err
}

// carry is a channel, from memory or disk; nil when it is not known.
func (p *provider) carry(id top.ID) (*carry, error) {
	if c := p.carries[id]; c != nil {
		return c, nil
	}
	var st carryState
	if ok, err := load(p.db.db, key('C', id[:]), &st); err != nil || !ok {
		return nil, err
	}
	c := &carry{waits: map[top.Address][]*waiting{}}
	if err := c.ticket.Decode(st.Ticket); err != nil {
		return nil, err
	}
	if err := c.log.Decode(st.Log); err != nil {
		return nil, err
	}
	var err error
	if c.c, err = delivery.NewCarrier(st.Config, st.State); err != nil {
		return nil, err
	}
	for _, l := range st.State.Lines {
		if err := p.reload(c, l.Recipient); err != nil {
			return nil, err
		}
	}
	p.carries[id] = c
	return c, nil
}

// reload finds what a channel has waiting for a recipient.
func (p *provider) reload(c *carry, to top.Address) error {
	prefix := key('Q', to[:])
	return each(p.db.db, prefix, prefix, func(k, v []byte) (bool, error) {
		m, err := decodeParcel(k, v)
		if err == nil && m.head.Channel == c.ticket.Channel {
			c.waits[to] = append(c.waits[to], m.waiting())
		}
		return true, err
	})
}

// resume tells a sender where its channel stands, and what happened while it was
// away: the frames follow the answer.
func (p *provider) resume(c *carry) (body []byte, frames [][]byte, err error) {
	c.unsaid = true
	for _, l := range c.c.State().Lines {
		for _, a := range l.Acks {
			frames = append(frames, frame(fAcked, a.Encode()))
		}
		var ids []top.ID
		for _, w := range c.waits[l.Recipient] {
			if w.stored {
				ids = append(ids, w.id)
			}
		}
		marks, err := p.marks(c, "stored", "", ids)
		if err != nil {
			return nil, nil, err
		}
		for _, m := range marks {
			frames = append(frames, frame(fStored, m))
		}
	}
	prefix := key('N', c.ticket.Channel[:])
	err = each(p.db.db, prefix, prefix, func(k, v []byte) (bool, error) {
		frames = append(frames, frame(v[0], v[1:]))
		return true, p.work.batch.Delete(append([]byte{}, k...), nil)
	})
	return encodeResume(c.ticket, c.c), frames, err
}

// renew takes a voucher. With one that is refused go the acknowledgements that its
// sender may have missed.
func (p *provider) renew(v session.Voucher) (missed [][]byte, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.carries[v.Channel]
	if c == nil {
		return nil, top.Errorf(top.NotFound, "channel %s: no session (send a ticket first)", v.Channel.Short())
	}
	now := uint64(p.now().Unix())
	err = c.c.Renew(v, func(to top.Address) (all []delivery.Place) {
		for _, w := range c.waits[to] {
			if w.expiry > now {
				all = append(all, w.place)
			}
		}
		return all
	})
	if err != nil {
		for _, l := range c.c.State().Lines {
			for _, a := range l.Acks {
				missed = append(missed, frame(fAcked, a.Encode()))
			}
		}
		return missed, err
	}
	p.work.carries[c] = true
	p.wake()
	return nil, nil
}

// acked takes a recipient's acknowledgement: what it covers is earned.
func (p *provider) acked(h *hand, a session.Ack) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.Recipient() != h.box.account || a.Cert.Key != h.device {
		return top.Errorf(top.Denied, "an acknowledgement of another device")
	}
	c, err := p.carry(a.Channel)
	if err != nil || c == nil {
		return err
	}
	if a.To > c.c.Taken(h.box.account) && a.To <= c.c.Voucher().Aside(h.box.account).Amount {
		if c.early == nil {
			c.early = map[top.Address]session.Ack{}
		}
		c.early[h.box.account] = a
	}
	return p.credit(h, c, a)
}

// credit enters what an acknowledgement earns, and hands on what it makes room for.
func (p *provider) credit(h *hand, c *carry, a session.Ack) error {
	earned, err := c.c.Acked(a, p.now())
	if err != nil {
		return err
	}
	if earned > 0 {
		if err := p.enter(c, earned, a); err != nil {
			return err
		}
	}
	if c.sender != nil {
		c.sender.try(fAcked, a.Encode())
	}
	w := c.waits[h.box.account]
	for len(w) > 0 && w[0].place.To <= a.To {
		w = w[1:]
	}
	c.waits[h.box.account] = w
	p.work.carries[c], p.work.boxes[h.box] = true, true
	p.clear(h, func(f flight) bool { return f.channel == a.Channel && f.place.From >= a.From && f.place.To <= a.To })
	p.wake()
	h.box.wake()
	return nil
}

// passOn gives a recipient's mark to the sender of its channel; what it refused is
// handed over no more.
func (p *provider) passOn(h *hand, m mark) error {
	if m.Cert == nil || m.Cert.Account != h.box.account || m.Cert.Key != h.device {
		return top.Errorf(top.Denied, "a mark of another device")
	}
	if err := m.byDevice(p.chain, uint64(p.now().Unix())); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.carry(m.Channel)
	if err != nil || c == nil {
		return err
	}
	if m.State == refused || m.State == delivered {
		p.skip(h, m.IDs)
	}
	p.tell(c, fMarked, m.encode(), true)
	return nil
}

// held is what status says of a provider.
func (p *provider) held() *api.RelayHeld {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := &api.RelayHeld{Mailboxes: p.stats.Mailboxes, Messages: top.Count(p.stats.Messages), Bytes: top.Count(p.stats.Bytes)}
	for _, b := range p.boxes {
		h.Online += len(b.hands)
	}
	for _, c := range p.carries {
		h.Channels++
		h.Earned += c.c.Owed()
	}
	return h
}
