package load

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"top/lib/api"
	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/session"
	"top/lib/sock"
	"top/lib/top"
)

// Ticks is the rate of service payments: each tick is checked by its provider, and
// claims book them on the chain.
const Ticks = "ticks"

// TickPrice is what one tick pays, in nano: a voucher's worth is a few hundred times
// the fee of its claim.
const TickPrice = 1_000

// premade is how many hash chains are made before the clock starts; payers take turns
// with them. A payer who is no load generator draws each anew.
const premade = 64

// What a driver does at a time: chains made within the window, and ticks that its
// provider takes together, as a busy session brings them.
const (
	freshChains = 16
	tickBurst   = 16
)

// A lane is one paid session: a channel, its payer's key and its provider's meter.
type lane struct {
	payer   keys.Private
	chain   top.ChainID
	channel top.ID
	meter   *session.Meter
	session top.SessionID
	node    top.NodeID
	seq     uint64
	base    uint64        // ticks of earlier vouchers
	claimed top.Amount    // by the newest claim handed in
	booked  top.Amount    // by the newest that is final; guarded by Driver.mu
	next    time.Duration // when the next claim is due
}

// A tickDriver is payers and their provider in one process: account 0 of the plan is
// the provider, each other pays it over a channel.
type tickDriver struct {
	*Driver
	chains   []*session.HashChain
	lanes    []*lane
	provider keys.Private
	offer    session.Offer
	drawn    uint64
	fresh    []*session.HashChain // made within the window and not used yet
	ticks    []session.Tick       // scratch
	handed   []handed             // claims, by their number in the stream; guarded by Driver.mu
}

// A handed is a claim that was handed in.
type handed struct {
	l    *lane
	owed top.Amount
}

// final notes what a claim booked. The caller holds Driver.mu.
func (t *tickDriver) final(seq uint64) {
	h := t.handed[seq]
	h.l.booked = max(h.l.booked, h.owed)
}

func (p *Plan) account(i int) uint32 { return p.Index + uint32(p.First+i) }

// newTicks makes the chains and opens the channels.
func newTicks(ctx context.Context, d *Driver) (*tickDriver, error) {
	t := &tickDriver{Driver: d, provider: d.keys[0], offer: session.Offer{Service: "vpn", Unit: "64KiB", Price: TickPrice, Window: session.MaxSteps}}
	t.chains = t.make(premade)
	return t, t.open(ctx, api.NewChain(sock.Dial(d.plan.Sock, "top-chain serve")))
}

// run pays and claims: vouchers as fast as they are checked, claims at the plan's
// rate, and at the end what is still owed.
func (t *tickDriver) run(s *api.TxStream) error {
	d := t.Driver
	for n := 0; ; n = (n + 1) % len(t.lanes) {
		at := d.now().Sub(d.start)
		if at >= d.plan.Duration {
			break
		}
		l := t.lanes[n]
		if err := t.voucher(l); err != nil {
			return err
		}
		d.mu.Lock()
		d.r.Ticks += session.MaxSteps
		d.mu.Unlock()
		if at >= l.next {
			l.next += time.Duration(float64(len(t.lanes)) / d.plan.PerSecond * float64(time.Second))
			if err := t.claim(s, l, at); err != nil {
				return err
			}
		}
	}
	return t.rest(s)
}

// rest claims what is still owed, again and again when the node is busy.
func (t *tickDriver) rest(s *api.TxStream) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for t.now().Sub(t.start) < t.plan.Duration+t.plan.Drain {
		t.mu.Lock()
		answered := t.r.Offered == t.r.Final+t.r.Busy+t.r.Denied
		var owing []*lane
		for _, l := range t.lanes {
			if l.booked < l.meter.Owed() {
				owing = append(owing, l)
			}
		}
		t.mu.Unlock()
		if len(owing) == 0 {
			return nil
		}
		if answered {
			for _, l := range owing {
				l.claimed = 0
				if err := t.claim(s, l, t.now().Sub(t.start)); err != nil {
					return err
				}
			}
		}
		<-tick.C
	}
	return nil
}

// draw is 32 bytes that nobody else draws.
func (t *tickDriver) draw() [32]byte {
	t.drawn++
	return sha256.Sum256(binary.BigEndian.AppendUint64(append(t.plan.Seed[:], byte(t.plan.First>>8), byte(t.plan.First)), t.drawn))
}

// make makes hash chains, several at a time.
func (t *tickDriver) make(n int) []*session.HashChain {
	seeds := make([][32]byte, n)
	for i := range seeds {
		seeds[i] = t.draw()
	}
	return session.NewHashChains(seeds, session.MaxSteps)
}

// chain is the hash chain of a lane's next voucher.
func (t *tickDriver) chain(l *lane) (h *session.HashChain) {
	switch {
	case l.seq == 0: // that of the ticket
		return t.chains[(int(l.session[0])|int(l.session[1])<<8)%len(t.chains)]
	case t.plan.Presign:
		return t.chains[(int(l.seq)+int(l.session[0]))%len(t.chains)]
	}
	if len(t.fresh) == 0 {
		t.fresh = t.make(freshChains)
	}
	h, t.fresh = t.fresh[0], t.fresh[1:]
	return h
}

// open opens a channel for each payer, and the session on it.
func (t *tickDriver) open(ctx context.Context, node *api.Chain) error {
	p := &t.plan
	until := t.now().Add(24 * time.Hour)
	provider := t.provider.Public()
	for i := 1; i < p.Accounts; i++ {
		tx := ledger.Tx{
			Chain: p.Chain, From: p.account(i), Nonce: p.Nonce, Expiry: uint64(t.now().Add(expiry).Unix()),
			Body: &ledger.Open{Provider: p.account(0), Cap: 500 * top.One, Expiry: uint64(until.Unix())},
		}
		if err := tx.Sign(t.keys[i].Signer()); err != nil {
			return err
		}
		sub, err := node.Submit(ctx, tx.Encode())
		if err != nil {
			return fmt.Errorf("open channel: %w", err)
		}
		l := &lane{
			payer: t.keys[i], chain: p.Chain, node: top.NodeID(provider), session: top.SessionID{byte(i), byte(i >> 8), byte(p.First)},
			channel: ledger.ChannelID(p.Chain, t.keys[i].Public(), p.Nonce),
		}
		l.meter = session.NewMeter(session.MeterConfig{
			Chain: p.Chain, Channel: l.channel, Payer: t.keys[i].Public(), Node: l.node, Cap: 500 * top.One, Expiry: until,
		})
		l.meter.Head(t.now().Add(time.Hour)) // the chain's head is not looked at here
		first := t.chains[i%len(t.chains)]
		ticket := session.Ticket{
			Chain: p.Chain, Channel: l.channel, Session: l.session, Payer: t.keys[i].Public(), Node: l.node,
			Service: t.offer.Service, Unit: t.offer.Unit, Price: t.offer.Price, Root: first.Root(), N: first.N(), Expiry: uint64(until.Unix()),
		}
		if err := ticket.SignPayer(t.keys[i].Signer()); err != nil {
			return err
		}
		if err := l.meter.Open(t.now(), ticket, t.offer); err != nil {
			return fmt.Errorf("begin session: %w", err)
		}
		t.lanes = append(t.lanes, l)
		if i == p.Accounts-1 {
			if r, err := node.Tx(ctx, sub.ID, time.Minute); err != nil || !r.OK {
				return fmt.Errorf("open channel: %s: %w", r.Message, errors.Join(err, top.ErrFailed))
			}
		}
	}
	return nil
}

// voucher is one voucher, signed by the payer and checked by the provider, and all of
// its ticks.
func (t *tickDriver) voucher(l *lane) error {
	h := t.chain(l)
	l.seq++
	v := session.Voucher{
		Chain: l.chain, Channel: l.channel, Seq: l.seq, Amount: top.Amount(l.base) * TickPrice,
		Anchors: []session.Anchor{{Session: l.session, Price: TickPrice, Root: h.Root(), N: h.N()}},
	}
	if err := v.Sign(l.payer.Signer()); err != nil {
		return err
	}
	now := t.now()
	if err := l.meter.Renew(now, session.Renewal{Voucher: v, Base: []uint64{l.base}}); err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	for i := uint32(1); i <= h.N(); {
		t.ticks = t.ticks[:0]
		for ; i <= h.N() && len(t.ticks) < tickBurst; i++ {
			t.ticks = append(t.ticks, session.Tick{Session: l.session, I: i, W: h.At(i)})
		}
		if _, err := l.meter.Ticks(now, t.ticks); err != nil {
			return fmt.Errorf("tick: %w", err)
		}
	}
	l.base += uint64(h.N())
	return nil
}

// claim hands in what a lane has earned, unless it did already.
func (t *tickDriver) claim(s *api.TxStream, l *lane, at time.Duration) error {
	owed := l.meter.Owed()
	if owed == l.claimed {
		return nil
	}
	tx := ledger.Tx{Chain: l.chain, From: t.plan.account(0), Expiry: uint64(t.now().Add(expiry).Unix()), Body: &ledger.Claim{Claim: l.meter.Claim()}}
	if err := tx.Sign(t.provider.Signer()); err != nil {
		return err
	}
	l.claimed = owed
	t.mu.Lock()
	t.handed = append(t.handed, handed{l, owed})
	t.mu.Unlock()
	if err := t.send(s, tx.Encode(), at, at); err != nil {
		return err
	}
	return s.Flush()
}

// Booked is what the chain paid over the channels of a driver, in ticks.
func Booked(ctx context.Context, p Plan, node *api.Chain) (uint64, error) {
	sum := top.Amount(0)
	for i := 1; i < p.Accounts; i++ {
		c, err := node.Channel(ctx, ledger.ChannelID(p.Chain, Key(p.Seed, p.First+i).Public(), p.Nonce))
		if err != nil {
			return 0, err
		}
		sum += c.Paid
	}
	return uint64(sum / TickPrice), nil
}
