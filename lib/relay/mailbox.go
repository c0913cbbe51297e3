package relay

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"top/lib/api"
	"top/lib/envelope"
	"top/lib/top"
	"top/lib/wire"
)

// near are the relays that hold somebody's record besides its own: those nearest
// by rendezvous hashing (Thaler and Ravishankar 1998), which everybody computes
// alike.
func near(all []api.Node, account top.Address) []api.Node {
	weight := func(n api.Node) uint64 {
		w := wire.Digest("top/mailbox/near/1", n.Node[:], account[:])
		return binary.BigEndian.Uint64(w[:])
	}
	all = slices.Clone(all)
	slices.SortFunc(all, func(x, y api.Node) int { return cmp.Compare(weight(y), weight(x)) })
	return all[:min(nearest, len(all))]
}

// mailbox is our record; nil while there is none.
func (a *agent) mailbox() *envelope.Mailbox {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.record
}

// keepMailbox keeps our record true: on our relays, with this device, and its
// digest on the chain.
func (a *agent) keepMailbox(ctx context.Context) error {
	for said := ""; ; {
		err := a.publish(ctx)
		a.d.trouble(err)
		switch {
		case err == nil:
			said = ""
		case ctx.Err() == nil && err.Error() != said:
			said = err.Error()
			a.log.Info("mailbox", "err", err) // status shows it
		}
		wait := lookEvery
		if err != nil {
			wait = lookUntil
		}
		if !pause(ctx, wait) {
			return nil
		}
	}
}

// publish makes a record if ours does not say what is so, and puts it where people
// look for it.
func (a *agent) publish(ctx context.Context) error {
	row, err := a.cfg.Chain.Account(ctx, a.d.address)
	if err != nil {
		return err
	}
	all, err := a.nodes(ctx)
	if err != nil {
		return err
	}
	own, err := a.choose(ctx, all)
	if err != nil {
		return err
	}
	rec := a.mailbox()
	if row.MailboxSeq > 0 && (rec == nil || rec.Digest() != row.Mailbox) && (rec == nil || rec.Seq <= uint64(row.MailboxSeq)) {
		// Another device of ours wrote one since.
		if other, err := a.lookup(ctx, a.d.address); err == nil {
			rec = &other
		}
	}
	next, same, err := a.draft(rec, own, uint64(row.MailboxSeq))
	if err != nil {
		return err
	}
	if !same {
		if err := a.sign(ctx, &next); err != nil {
			return err
		}
		rec = &next
	}
	if err := a.keep(*rec); err != nil {
		return err
	}
	if rec.Digest() != row.Mailbox {
		if !row.Exists {
			return top.Errorf(top.Denied, "%s has no account on the chain yet, so nobody can write to it (have somebody pay it)", a.d.address)
		}
		if err := a.announce(ctx, *rec); err != nil {
			return err
		}
	}
	return a.spread(ctx, own, all, *rec)
}

// choose picks the relays of our mailbox: those asked for, those of before while
// they are registered, else the cheapest.
func (a *agent) choose(ctx context.Context, all []api.Node) (own []api.Node, err error) {
	find := func(id top.NodeID) {
		i := slices.IndexFunc(all, func(n api.Node) bool { return n.Node == id })
		if i >= 0 && !slices.ContainsFunc(own, func(n api.Node) bool { return n.Node == id }) {
			own = append(own, all[i])
		}
	}
	for _, id := range a.cfg.Relays {
		find(id)
	}
	if len(a.cfg.Relays) == 0 {
		if rec := a.mailbox(); rec != nil {
			for _, id := range rec.Relays {
				find(id)
			}
		}
		cheap := slices.Clone(all)
		slices.SortStableFunc(cheap, func(x, y api.Node) int {
			ox, _ := wireOffer(x)
			oy, _ := wireOffer(y)
			return cmp.Compare(ox.Price, oy.Price)
		})
		for _, n := range cheap {
			if len(own) < ownRelays && n.Node != a.cfg.NodeKey.Public() {
				find(n.Node)
			}
		}
	}
	if len(own) == 0 {
		return nil, top.Errorf(top.NotFound, "no relay is registered on the chain yet (run one: top-relay serve --provide, top-wallet register)")
	}
	return own[:min(len(own), envelope.MaxRelays)], nil
}

// draft is the record as it should be; same when it is so already.
func (a *agent) draft(rec *envelope.Mailbox, own []api.Node, seq uint64) (next envelope.Mailbox, same bool, err error) {
	now := uint64(a.now().Unix())
	next = envelope.Mailbox{Chain: a.d.chain, Account: a.d.address, Seq: seq + 1, Expiry: uint64(a.now().Add(recordLasts).Unix())}
	for _, n := range own {
		next.Relays = append(next.Relays, n.Node)
	}
	mine := false
	if rec != nil {
		next.Seq = max(next.Seq, rec.Seq+1)
		for _, v := range rec.Devices {
			if v.Cert.Key == a.d.cert.Key && v.Cert == a.d.cert {
				mine = true
			} else if v.Cert.Key == a.d.cert.Key || v.Cert.Expiry <= now {
				continue
			}
			next.Devices = append(next.Devices, v)
		}
	}
	if !mine {
		last, err := a.newPrekeys(1, true)
		if err != nil {
			return next, false, err
		}
		next.Devices = append(next.Devices, envelope.Device{Cert: a.d.cert, LastResort: last[0]})
	}
	same = mine && rec != nil && slices.Equal(rec.Relays, next.Relays) && len(rec.Devices) == len(next.Devices) &&
		rec.Expiry > uint64(a.now().Add(recordLasts/2).Unix()) && rec.Verify(a.d.chain, now) == nil
	return next, same, nil
}

func (a *agent) sign(ctx context.Context, m *envelope.Mailbox) (err error) {
	m.Sig, err = a.cfg.Wallet.SignMailbox(ctx, m.Body())
	return err
}

// keep puts our record on disk.
func (a *agent) keep(m envelope.Mailbox) error {
	a.mu.Lock()
	a.record = &m
	a.mu.Unlock()
	return a.db.db.Set(key('b'), m.Encode(), pebble.Sync)
}

// announce puts the digest of our record on the chain.
func (a *agent) announce(ctx context.Context, m envelope.Mailbox) error {
	digest := m.Digest()
	pay, err := a.cfg.Wallet.Spend(ctx, api.Spend{
		ID: "mailbox-" + digest.String()[:32], Kind: "mailbox", Mailbox: digest, MailboxSeq: top.Count(m.Seq), WaitMs: top.Count(laneWait.Milliseconds()),
	})
	if err != nil {
		return err
	}
	if pay.State != "final" {
		return top.Errorf(top.Busy, "the mailbox record is not on the chain yet: %s", pay.Text())
	}
	return nil
}

// spread gives the record to our relays, and to those where people look for it.
func (a *agent) spread(ctx context.Context, own, all []api.Node, m envelope.Mailbox) error {
	for _, n := range own {
		l := a.link(n.Node, n)
		l.mu.Lock()
		fresh := !l.receives
		l.receives = true
		l.mu.Unlock()
		if fresh {
			l.bounce() // it shows the device when it connects
		}
	}
	var failed error
	for i, n := range slices.Concat(own, near(all, a.d.address)) {
		_, err := a.request(ctx, n, askWait, fMailbox, m.Encode())
		if err != nil && !errors.Is(err, top.ErrBusy) {
			failed = err
		} else if i < len(own) {
			a.mu.Lock()
			a.onChain = true // somebody holds it, and the chain names it
			a.mu.Unlock()
		}
	}
	a.changed()
	return failed
}

// lookup finds somebody's mailbox record: the one whose digest is on the chain.
func (a *agent) lookup(ctx context.Context, who top.Address) (envelope.Mailbox, error) {
	a.mu.Lock()
	f, ok := a.known[who]
	a.mu.Unlock()
	if ok && a.now().Sub(f.at) < recordCached {
		return f.record, nil
	}
	row, err := a.cfg.Chain.Account(ctx, who)
	if err != nil {
		return f.record, err
	}
	if row.MailboxSeq == 0 {
		return f.record, top.Errorf(top.NotFound, "%s has no mailbox (it must run once: top-relay serve)", who)
	}
	if ok && f.record.Digest() == row.Mailbox {
		return f.record, a.remember(who, f.record)
	}
	all, err := a.nodes(ctx)
	if err != nil {
		return f.record, err
	}
	err = top.Errorf(top.NotFound, "no relay is registered on the chain")
	for _, n := range append(near(all, who), all[:min(len(all), 16)]...) {
		m, e := a.lookAt(ctx, n, who)
		if e == nil && m.Digest() != row.Mailbox {
			e = top.Errorf(top.Denied, "relay %s shows an old mailbox record of %s", n.Node, who)
		}
		if e == nil {
			return m, a.remember(who, m)
		}
		err = e
	}
	return f.record, err
}

func (a *agent) remember(who top.Address, m envelope.Mailbox) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.known) > 1<<14 {
		clear(a.known)
	}
	a.known[who] = found{m, a.now()}
	return nil
}

func (a *agent) forgetRecord(who top.Address) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.known, who)
}

// lookAt asks one relay for somebody's record.
func (a *agent) lookAt(ctx context.Context, n api.Node, who top.Address) (m envelope.Mailbox, err error) {
	raw, err := a.request(ctx, n, relayWait, fLookup, who[:])
	if err != nil {
		return m, err
	}
	if err := m.Decode(raw); err != nil {
		return m, err
	}
	if m.Account != who {
		return m, top.Errorf(top.Denied, "relay %s shows the record of %s for %s", n.Node, m.Account, who)
	}
	return m, m.Verify(a.d.chain, uint64(a.now().Unix()))
}

// newPrekeys draws prekeys and keeps their secrets: one-time ones, or the one of
// last resort.
func (a *agent) newPrekeys(n int, last bool) (all []envelope.Prekey, err error) {
	b := a.db.db.NewBatch()
	defer b.Close()
	for range n {
		secret, public, err := envelope.NewSecret()
		if err != nil {
			return nil, err
		}
		k := envelope.Prekey{Account: a.d.address, Device: a.d.cert.Key, Public: public}
		for !last && k.ID == 0 {
			var id [8]byte
			rand.Read(id[:])
			k.ID = binary.BigEndian.Uint64(id[:]) >> 1
		}
		if err := k.Sign(a.d.chain, a.d.device.Signer()); err != nil {
			return nil, err
		}
		if err := b.Set(key('k', u64(k.ID)), secret, nil); err != nil {
			return nil, err
		}
		all = append(all, k)
	}
	return all, b.Commit(pebble.Sync)
}

// leavePrekeys fills a relay up with prekeys.
func (a *agent) leavePrekeys(ctx context.Context, l *link, left int) error {
	if left >= fewPrekeys {
		return nil
	}
	all, err := a.newPrekeys(prekeyCount-left, false)
	if err != nil {
		return err
	}
	var e wire.Encoder
	e.Uint(uint64(len(all)))
	for _, k := range all {
		e.Bytes(k.Encode())
	}
	_, err = l.ask(ctx, fPrekeys, e.Out())
	return err
}
