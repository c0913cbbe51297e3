package relay

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"top/lib/delivery"
	"top/lib/envelope"
	"top/lib/keys"
	"top/lib/session"
	"top/lib/top"
	"top/lib/wire"
)

const authDomain = "top/relay/auth/1"

// A guest is one agent's connection to a provider.
type guest struct {
	p         *provider
	s         *stream
	challenge [32]byte
	hand      *hand
	asked     int // lookups and prekeys in this second
	second    int64
	wrong     int // frames that were refused
}

// maxWrong ends a connection that does nothing but err.
const maxWrong = 256

// accept serves agents until the listener closes.
func (p *provider) accept(ctx context.Context, ln net.Listener) error {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return nil
		}
		go p.serve(ctx, conn)
	}
}

// serve speaks with one agent until either end closes.
func (p *provider) serve(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g := &guest{p: p, s: newStream(conn)}
	defer g.leave()
	stop := context.AfterFunc(ctx, func() { g.s.close(ctx.Err()) })
	defer stop()
	rand.Read(g.challenge[:])
	if g.s.send(ctx, fChallenge, g.challenge[:]) != nil {
		return
	}
	for {
		kind, body, err := g.s.next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				p.log.Debug("agent left", "err", err)
			}
			g.s.close(err)
			return
		}
		if err := g.handle(ctx, kind, body); err != nil {
			p.log.Debug("agent refused", "err", err)
			g.s.close(err)
			return
		}
	}
}

func (g *guest) leave() {
	g.s.close(nil)
	if g.hand != nil {
		g.p.detach(g.hand)
	}
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	for _, c := range g.p.carries {
		if c.sender == g.s {
			c.sender = nil
		}
	}
}

// handle does what one frame asks for. An error ends the connection: a stranger
// who sends what no agent sends.
func (g *guest) handle(ctx context.Context, kind byte, body []byte) error {
	switch kind {
	case fAuth, fMailbox, fPrekeys, fLookup, fPrekey, fTicket:
		d := wire.Decode(body, maxFrame)
		a := answer{ref: d.Uint32()}
		if err := d.Err(); err != nil {
			return err
		}
		var after [][]byte
		a.body, after, a.err = g.request(ctx, kind, d.Rest())
		if err := g.s.send(ctx, fOK, a.encode()); err != nil {
			return err
		}
		for _, f := range after {
			if err := g.s.put(ctx, f); err != nil {
				return err
			}
		}
		return g.mind(a.err)
	case fVoucher:
		var v session.Voucher
		if err := v.Decode(body); err != nil {
			return err
		}
		missed, err := g.p.renew(v)
		for _, f := range missed {
			if err := g.s.put(ctx, f); err != nil {
				return err
			}
		}
		return g.fault(ctx, about(v.Channel, top.ID{}, err))
	case fSend:
		var e envelope.Envelope
		if err := e.Decode(body); err != nil {
			return err
		}
		return g.fault(ctx, about(e.Header.Channel, e.Header.ID, g.p.take(g.s, e)))
	case fAck, fMark, fSkip:
		if g.hand == nil {
			return top.Errorf(top.Denied, "no device has shown itself on this connection")
		}
		return g.mind(g.received(kind, body))
	}
	return top.Errorf(top.Invalid, "frame of kind %q", kind)
}

// mind counts what was refused: an agent that errs now and then is served on.
func (g *guest) mind(err error) error {
	if err == nil {
		return nil
	}
	if g.wrong++; g.wrong > maxWrong {
		return err
	}
	return nil
}

// A fault is what a relay says of a channel or an envelope that it refuses.
type fault struct {
	channel, id top.ID
	err         error
}

func about(channel, id top.ID, err error) *fault {
	if err == nil {
		return nil
	}
	return &fault{channel, id, err}
}

func (g *guest) fault(ctx context.Context, f *fault) error {
	if f == nil {
		return nil
	}
	var e wire.Encoder
	e.Raw(f.channel[:])
	e.Raw(f.id[:])
	e.Raw(answer{err: f.err}.encode())
	if err := g.s.send(ctx, fFault, e.Out()); err != nil {
		return err
	}
	return g.mind(f.err)
}

// received takes what a recipient's device says.
func (g *guest) received(kind byte, body []byte) error {
	switch kind {
	case fAck:
		var a session.Ack
		if err := a.Decode(body); err != nil {
			return err
		}
		return g.p.acked(g.hand, a)
	case fMark:
		var m mark
		if err := m.decode(body); err != nil {
			return err
		}
		return g.p.passOn(g.hand, m)
	}
	d := wire.Decode(body, maxMark*33)
	var ids []top.ID
	for range d.Count(maxMark, 32) {
		ids = append(ids, d.ID())
	}
	if err := d.End(); err != nil {
		return err
	}
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	g.p.skip(g.hand, ids)
	return nil
}

func (g *guest) request(ctx context.Context, kind byte, body []byte) (answer []byte, after [][]byte, err error) {
	switch kind {
	case fAuth:
		answer, err = g.auth(ctx, body)
	case fMailbox:
		err = g.p.publish(ctx, body)
	case fPrekeys:
		err = g.prekeys(body)
	case fLookup, fPrekey:
		if now := g.p.now().Unix(); now != g.second {
			g.second, g.asked = now, 0
		}
		if g.asked++; g.asked > maxLookups {
			return nil, nil, &top.Error{Kind: top.Busy, Message: "too many questions", RetryAfter: time.Second}
		}
		if kind == fLookup {
			answer, err = g.p.lookup(body)
		} else {
			answer, err = g.p.prekey(body)
		}
	case fTicket:
		var t session.Ticket
		if err := t.Decode(body); err != nil {
			return nil, nil, err
		}
		return g.p.openTicket(ctx, g.s, t)
	}
	return answer, nil, err
}

// auth lets a device show that it is one: the rest of the connection is for it.
func (g *guest) auth(ctx context.Context, body []byte) ([]byte, error) {
	var cert keys.Certificate
	d := wire.Decode(body, keys.MaxCertificate+64)
	cert.Get(d)
	var sig [64]byte
	d.Fill(sig[:])
	if err := d.End(); err != nil {
		return nil, err
	}
	if err := cert.Verify(g.p.chain, "device", uint64(g.p.now().Unix())); err != nil {
		return nil, err
	}
	node := g.p.node.Public()
	if !keys.Verify(cert.Key, authDomain, g.p.chain, append(g.challenge[:], node[:]...), sig) {
		return nil, top.Errorf(top.Denied, "the challenge is not signed by the device")
	}
	if g.hand != nil {
		return nil, top.Errorf(top.Busy, "a device has shown itself on this connection")
	}
	h, err := g.p.attach(g.s, cert.Account, cert.Key)
	if err != nil {
		return nil, err
	}
	g.hand = h
	left, err := g.p.prekeysLeft(cert.Account, cert.Key)
	if err != nil {
		return nil, err
	}
	go func() {
		if err := h.run(ctx, g.p); err != nil {
			g.p.log.Error("hand over", "err", err)
			g.s.close(err)
		}
	}()
	var e wire.Encoder
	e.Uint(uint64(left))
	return e.Out(), nil
}

// publish keeps a mailbox record whose account is on the chain: an account costs a
// fee, so that nobody fills a relay with mailboxes for nothing.
func (p *provider) publish(ctx context.Context, body []byte) error {
	var m envelope.Mailbox
	if err := m.Decode(body); err != nil {
		return err
	}
	if err := m.Verify(p.chain, uint64(p.now().Unix())); err != nil {
		return err
	}
	row, err := p.api.Account(ctx, m.Account)
	if err != nil {
		return err
	}
	if !row.Exists {
		return top.Errorf(top.Denied, "%s has no account on the chain yet (have somebody pay it)", m.Account)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.room(); err != nil {
		return err
	}
	b, err := p.box(m.Account)
	if err != nil {
		return err
	}
	switch {
	case b != nil && b.mailbox.Seq > m.Seq:
		return top.Errorf(top.Busy, "a newer mailbox record, number %d, is held here", b.mailbox.Seq)
	case b != nil:
		b.keep(m)
		p.work.boxes[b] = true
	default:
		p.stats.Mailboxes++
	}
	w := p.db.db.NewBatch()
	defer w.Close()
	if err := w.Set(key('M', m.Account[:]), body, nil); err != nil {
		return err
	}
	if err := save(w, key('S'), p.stats); err != nil {
		return err
	}
	return w.Commit(pebble.Sync)
}

// prekeys keeps one-time prekeys of the device of this connection's mailbox.
func (g *guest) prekeys(body []byte) error {
	d := wire.Decode(body, maxFrame)
	var all []envelope.Prekey
	for range d.Count(maxPrekeys, 1000) {
		var k envelope.Prekey
		if err := k.Decode(d.Bytes(4096)); err != nil {
			return err
		}
		if err := k.Verify(g.p.chain); err != nil {
			return err
		}
		if g.hand == nil || k.Account != g.hand.box.account || k.Device != g.hand.device || k.ID == 0 {
			return top.Errorf(top.Denied, "a prekey of another device")
		}
		all = append(all, k)
	}
	if err := d.End(); err != nil {
		return err
	}
	if len(all) == 0 {
		return nil
	}
	left, err := g.p.prekeysLeft(all[0].Account, all[0].Device)
	if err != nil {
		return err
	}
	if left+len(all) > maxPrekeys {
		return top.Errorf(top.Denied, "%d prekeys are held, at most %d", left, maxPrekeys)
	}
	w := g.p.db.db.NewBatch()
	defer w.Close()
	for _, k := range all {
		if err := w.Set(key('K', k.Account[:], k.Device[:], u64(k.ID)), k.Encode(), nil); err != nil {
			return err
		}
	}
	return w.Commit(pebble.Sync)
}

func (p *provider) prekeysLeft(account top.Address, device [32]byte) (n int, err error) {
	prefix := key('K', account[:], device[:])
	err = each(p.db.db, prefix, prefix, func(_, _ []byte) (bool, error) {
		n++
		return true, nil
	})
	return n, err
}

func (p *provider) lookup(body []byte) ([]byte, error) {
	var a top.Address
	d := wire.Decode(body, 32)
	d.Fill(a[:])
	if err := d.End(); err != nil {
		return nil, err
	}
	raw, err := get(p.db.db, key('M', a[:]))
	if err == nil && raw == nil {
		err = top.Errorf(top.NotFound, "%s has no mailbox here", a)
	}
	return raw, err
}

// prekey hands out a one-time prekey of a device, once; an empty answer says that
// there are none left.
func (p *provider) prekey(body []byte) (found []byte, err error) {
	d := wire.Decode(body, 64)
	prefix := key('K', d.Raw(64))
	if err := d.End(); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var k []byte
	err = each(p.db.db, prefix, prefix, func(at, v []byte) (bool, error) {
		k, found = append([]byte{}, at...), append([]byte{}, v...)
		return false, nil
	})
	if err != nil || k == nil {
		return nil, err
	}
	return found, p.db.db.Delete(k, pebble.Sync)
}

// encodeResume is the answer to a ticket: the ticket in force, the number of the
// newest voucher, and how far each line was taken.
func encodeResume(t session.Ticket, c *delivery.Carrier) []byte {
	var e wire.Encoder
	e.Bytes(t.Encode())
	e.Uint(c.Voucher().Seq)
	st := c.State()
	e.Uint(uint64(len(st.Lines)))
	for _, l := range st.Lines {
		e.Raw(l.Recipient[:])
		e.Amount(l.Taken)
	}
	return e.Out()
}

// resumed is that answer, read.
type resumed struct {
	ticket session.Ticket
	seq    uint64
	taken  map[top.Address]top.Amount
}

func (r *resumed) decode(b []byte) error {
	d := wire.Decode(b, maxFrame)
	if err := r.ticket.Decode(d.Bytes(1024)); err != nil {
		return err
	}
	r.seq = d.Uint()
	r.taken = map[top.Address]top.Amount{}
	for range d.Count(1<<15, 33) {
		var a top.Address
		d.Fill(a[:])
		r.taken[a] = d.Amount()
	}
	return d.End()
}
