package vpn

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"time"

	"top/lib/api"
	"top/lib/home"
	"top/lib/receipt"
	"top/lib/session"
	"top/lib/settle"
	"top/lib/top"
	"top/lib/wg"
)

// LendConfig says which stock WireGuard client is paid for, and where.
type LendConfig struct {
	Home    home.Dir
	Chain   *api.Chain
	Wallet  *api.Wallet
	Exit    string     // name, node or address
	Key     wg.Key     // of the stock client
	Prepay  top.Amount // given at once; 0 waits for Keep
	Cap     top.Amount // of the channel; 0 is Prepay, or half a TOP
	Lasts   time.Duration
	Channel top.ID // goes on with this one; zero opens another
	Now     func() time.Time
}

// A Lender pays an exit for somebody who cannot acknowledge: the exit's own count is
// believed, a step at a time, so that one step is all that a lie gains. Every bill
// marks such units unverified.
type Lender struct {
	cfg      LendConfig
	c        *Client // what a client knows of channels; it has no line
	t        *tunnel
	line     *idle
	ch       channelState
	id       top.SessionID
	terms    accepted
	paid     top.Amount // by vouchers that the exit took
	receipts *settle.Receipts
	last     state
}

// NewLender opens a channel to the exit, or goes on with one, and has the exit serve
// the client.
func NewLender(ctx context.Context, cfg LendConfig) (*Lender, error) {
	now := cfg.Now
	if now == nil {
		now = time.Now
	}
	if err := cfg.Home.Make(); err != nil {
		return nil, err
	}
	c := &Client{cfg: ClientConfig{Home: cfg.Home, Chain: cfg.Chain, Wallet: cfg.Wallet, Hops: 1, Carry: Plain, Cap: cmp.Or(cfg.Cap, cfg.Prepay), Lasts: cfg.Lasts}, log: quiet(), now: now}
	c.look = &Looker{Home: cfg.Home, Chain: cfg.Chain, Now: now}
	if err := c.identified(ctx); err != nil {
		return nil, err
	}
	to, err := c.look.told(ctx, cfg.Exit, Plain)
	if err != nil {
		return nil, err
	}
	if to, err = resolved(ctx, to); err != nil {
		return nil, err
	}
	l := &Lender{cfg: cfg, c: c, line: newIdle()}
	if l.ch, err = l.channel(ctx, to); err != nil {
		return nil, err
	}
	if l.receipts, err = settle.OpenReceipts(cfg.Home.Path("receipts", "vpn-lent.ndjson")); err != nil {
		return nil, err
	}
	if l.t, err = newTunnel(tunnelConfig{To: to, Key: wg.NewPrivate(), Line: l.line, Log: quiet(), Now: now}); err != nil {
		l.receipts.Close()
		return nil, err
	}
	if err := l.open(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close leaves the exit: what is paid goes on.
func (l *Lender) Close() {
	l.t.close()
	l.line.Close()
	l.receipts.Close()
}

func (l *Lender) channel(ctx context.Context, to target) (channelState, error) {
	if l.cfg.Channel.IsZero() {
		return l.c.openChannel(ctx, to, false, top.MaxSupply)
	}
	row, err := l.cfg.Chain.Channel(ctx, l.cfg.Channel)
	if err != nil {
		return channelState{}, err
	}
	if !row.Exists || row.Closing || row.Provider != to.owner {
		return channelState{}, top.Errorf(top.NotFound, "channel %s is no open one to exit %s (top-wallet channels)", l.cfg.Channel.Short(), to.name)
	}
	return channelState{Channel: l.cfg.Channel, Node: to.node, Payer: row.Payer, Cap: row.Cap, Expiry: row.Expiry.Time, Paid: row.Paid, Seq: uint64(row.Seq)}, nil
}

// open has the exit serve the client's key on a ticket of ours.
func (l *Lender) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openWait)
	defer cancel()
	go l.hear(ctx)
	o := l.t.to.offer
	t := session.Ticket{
		Chain: l.c.chain, Channel: l.ch.Channel, Payer: l.ch.Payer, Node: l.t.to.node, Service: o.Service, Unit: o.Unit, Price: o.Price, N: 1,
		Expiry: uint64(l.ch.Expiry.Unix()),
	}
	rand.Read(t.Session[:])
	rand.Read(t.Root[:]) // nobody ticks on it
	signed, err := l.cfg.Wallet.SignTicket(ctx, api.SignRequest{Service: Service, Peer: l.t.to.node, Body: t.Encode()})
	if err != nil {
		return err
	}
	if l.terms, err = l.t.open(ctx, opening{Ticket: signed.Body, Lend: l.cfg.Key}, func(got session.Ticket) error {
		l.id = got.Session // another one, if the exit serves the client on this channel already
		return got.Verify()
	}); err != nil {
		return err
	}
	for _, c := range l.terms.Claims {
		if err := c.Verify(l.ch.Payer, 0); err != nil {
			return err
		}
		l.ch.Seq = max(l.ch.Seq, c.Voucher.Seq)
		l.paid = max(l.paid, c.Voucher.Amount)
	}
	if l.cfg.Prepay > l.paid {
		return l.Pay(ctx, l.cfg.Prepay)
	}
	return nil
}

// hear passes answers on while something is asked.
func (l *Lender) hear(ctx context.Context) {
	for {
		select {
		case b := <-l.t.words:
			l.t.answer(b)
			l.note(b)
		case <-ctx.Done():
			return
		}
	}
}

func (l *Lender) note(b []byte) {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	switch b[0] {
	case mState:
		var m state
		if m.decode(b) == nil && m.Session == l.id {
			l.last = m
		}
	case mTaken:
		var m taken
		if m.decode(b) == nil && m.Seq > 0 {
			l.t.terms.Ref = m.Seq // of the voucher taken last
		}
	case mReceipt:
		var m told
		var r receipt.Receipt
		if m.decode(b) == nil && r.Decode(m.Body) == nil && r.Verify() == nil && r.Ticket.Session == l.id && r.LogSum <= l.paid {
			l.receipts.Add(r)
		}
	}
}

// Pay signs a voucher for so much in all and waits until the exit took it.
func (l *Lender) Pay(ctx context.Context, all top.Amount) error {
	if all > l.ch.Cap {
		return top.Errorf(top.Denied, "the channel's cap of %s TOP is used up (another: top-vpn config)", l.ch.Cap)
	}
	l.ch.Seq++
	v := session.Voucher{Chain: l.c.chain, Channel: l.ch.Channel, Seq: l.ch.Seq, Amount: all}
	signed, err := l.cfg.Wallet.SignVoucher(ctx, api.SignRequest{Service: Service, Peer: l.t.to.node, Body: v.Encode()})
	if err != nil {
		l.ch.Seq--
		return err
	}
	if err := v.Decode(signed.Body); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	go l.hear(ctx)
	body := told{mVoucher, l.id, session.Renewal{Voucher: v}.Encode()}.encode()
	for {
		l.t.say(body)
		if !pause(ctx, 100*time.Millisecond) {
			return top.Errorf(top.Offline, "exit %s does not take a voucher", l.t.to.name)
		}
		l.t.mu.Lock()
		took := l.t.terms.Ref == v.Seq
		l.t.mu.Unlock()
		if took {
			l.paid = all
			return nil
		}
	}
}

// Keep pays a step whenever less than half of one is left, until ctx ends or the
// channel is used up. each is called after every look.
func (l *Lender) Keep(ctx context.Context, step top.Amount, each func(api.VPNPeer) error) error {
	hearing, stop := context.WithCancel(ctx)
	defer stop()
	go l.hear(hearing)
	for { // what was used before
		l.t.ping(l.id)
		if !pause(ctx, 100*time.Millisecond) {
			return nil
		}
		l.t.mu.Lock()
		known := l.last.Session == l.id
		l.t.mu.Unlock()
		if known {
			break
		}
		if l.t.silent() > deadAfter {
			return top.Errorf(top.Offline, "exit %s does not answer", l.t.to.name)
		}
	}
	for {
		used := l.Used()
		if left := l.paid - min(l.paid, used); left < step/2 || left == 0 {
			if err := l.Pay(ctx, min(l.paid+step, l.ch.Cap)); err != nil {
				if used >= l.ch.Cap || !errors.Is(err, top.ErrOffline) {
					return err
				}
			}
		}
		if err := each(l.Peer()); err != nil {
			return err
		}
		l.t.ping(l.id)
		l.t.say(told{mReceipt, l.id, nil}.encode())
		if !pause(ctx, time.Second) {
			return nil
		}
	}
}

// Used is what the exit says that the client came to.
func (l *Lender) Used() top.Amount {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	used, ok := l.t.to.offer.Price.Mul(l.last.Units)
	if !ok {
		return top.MaxSupply
	}
	return used
}

// Peer is where the stock client stands.
func (l *Lender) Peer() api.VPNPeer {
	a := api.VPNPeer{
		Type: "vpn-peer", Node: l.t.to.node, Key: l.cfg.Key.String(), Inner: []string{l.terms.Inner4.String() + "/32", l.cfg.Key.Inner().String() + "/128"},
		MTU: int(l.terms.MTU), Exit: l.t.to.addr.Key.String(), At: l.t.to.end.String(), Channel: l.ch.Channel, Prepaid: l.paid, Used: l.Used(),
	}
	for _, d := range l.terms.DNS {
		a.DNS = append(a.DNS, d.String())
	}
	return a
}
