package vpn

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"top/lib/api"
	"top/lib/session"
	"top/lib/top"
	"top/lib/wg"
)

// answer handles what clients say. What asks the chain is handled beside, so that
// nobody waits for somebody else's block.
func (e *Exit) answer() {
	asking := make(chan struct{}, 16) // chain lookups under way
	for {
		var h heard
		select {
		case h = <-e.heard:
		case <-e.ctx.Done():
			return
		}
		if h.body[0] != mOpen {
			e.handle(h)
			h.waiting.Add(-1)
			continue
		}
		select {
		case asking <- struct{}{}:
		default:
			h.waiting.Add(-1)
			continue // said again in a moment
		}
		e.group.Go(func() error {
			defer func() { <-asking; h.waiting.Add(-1) }()
			e.open(h)
			return nil
		})
	}
}

// handle does what one message asks for. What cannot be read is dropped: WireGuard
// vouches that nobody garbled it on the way.
func (e *Exit) handle(h heard) {
	switch h.body[0] {
	case mPing:
		var m ping
		if m.decode(h.body) == nil {
			e.pinged(h.from, m)
		}
	case mTick:
		var m ticking
		if m.decode(h.body) == nil {
			e.ticked(h.from, m)
		}
	case mVoucher, mBye, mReceipt:
		var m told
		if m.decode(h.body) == nil {
			e.told(h.from, m)
		}
	}
}

// open begins a session for who shows a ticket.
func (e *Exit) open(h heard) {
	var m opening
	if m.decode(h.body) != nil {
		return
	}
	a, err := e.opened(h.from, m)
	if err != nil {
		e.log.Debug("ticket refused", "err", err)
		e.say(h.from, faultOf(m.Ref, top.SessionID{}, err).encode())
		return
	}
	e.say(h.from, a.encode())
}

func (e *Exit) opened(from netip.Addr, m opening) (a accepted, err error) {
	var t session.Ticket
	if err := t.Decode(m.Ticket); err != nil {
		return a, err
	}
	if m.Key.Inner() != from {
		return a, top.Errorf(top.Denied, "the key is not that of this tunnel")
	}
	e.mu.Lock()
	unregistered := e.offer.Service == ""
	e.mu.Unlock()
	if unregistered { // perhaps since a moment
		e.look()
	}
	row, err := e.channel(t.Channel)
	if err != nil {
		return a, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.agrees(t, row); err != nil {
		return a, err
	}
	acct := e.accounts[t.Channel]
	if acct == nil {
		cfg := session.MeterConfig{
			Chain: e.chain, Channel: t.Channel, Payer: t.Payer, Node: t.Node, Cap: row.Cap, Expiry: row.Expiry.Time, Deadline: e.deadline,
			Paid: row.Paid, Seq: uint64(row.Seq),
		}
		acct = &account{cfg: cfg, meter: session.NewMeter(cfg), sessions: map[top.SessionID]*served{}, last: e.now()}
	}
	acct.meter.Head(e.answered)
	s := acct.lentTo(m.Lend)
	if s != nil {
		if err := e.speaks(s, m.Key); err != nil {
			return a, err
		}
	} else if s = acct.sessions[t.Session]; s == nil {
		if s, err = e.begin(acct, t, m); err != nil {
			return a, err
		}
	} else if s.over { // its log stays as it is
		return a, top.Errorf(top.Denied, "session %s is over (begin another)", t.Session)
	}
	if s.by.key != m.Key {
		return a, top.Errorf(top.Denied, "session %s is somebody else's", t.Session)
	}
	s.heard = e.now()
	a = accepted{Ref: m.Ref, Ticket: s.ticket.Encode(), Inner4: s.peer.addr4, DNS: []netip.Addr{exit4(), e.inner}, MTU: uint32(e.cfg.MTU), Class: string(e.cfg.Policy.Class()), Own: e.cfg.AllowLoopback}
	a.Claims = fitting(acct.meter.Show())
	return a, nil
}

// fitting is as many claims as a message has room for beside a ticket: those on vouchers
// of a dozen sessions do not fit, and a payer that forgot them opens another channel.
func fitting(claims []session.Claim) []session.Claim {
	room := maxMessage - maxTicketPart
	for i, c := range claims {
		if room -= len(c.Encode()) + 3; room < 0 {
			return claims[:i]
		}
	}
	return claims
}

// maxTicketPart bounds an accepted without claims.
const maxTicketPart = 480

// channel asks the chain once. Its block may not be here yet: then the client shows its
// ticket again, and meanwhile nobody else waits.
func (e *Exit) channel(id top.ID) (row api.Channel, err error) {
	ctx, cancel := context.WithTimeout(e.ctx, chainWait)
	defer cancel()
	row, err = e.cfg.Chain.Channel(ctx, id)
	if err == nil && !row.Exists {
		err = top.Errorf(top.NotFound, "channel %s is not on the chain here", id.Short())
	}
	return row, err
}

const (
	chainWait = 2 * time.Second
	chainLag  = 5 * time.Second // how much later a block may be here than where the payer is
)

// agrees refuses a ticket that is not what this node offers.
func (e *Exit) agrees(t session.Ticket, row api.Channel) error {
	switch o := e.offer; {
	case o.Service == "":
		return top.Errorf(top.Denied, "this node offers no tunnels on the chain yet")
	case row.Closing:
		return top.Errorf(top.Denied, "channel %s is closing", t.Channel.Short())
	case row.Node != nil && *row.Node != t.Node: // its claim would be refused
		return top.Errorf(top.Denied, "channel %s pays an owner whose node is another now (look at the registry again)", t.Channel.Short())
	case row.Provider != e.owner || t.Node != e.cfg.NodeKey.Public() || t.Chain != e.chain:
		return top.Errorf(top.Denied, "channel %s pays somebody else", t.Channel.Short())
	case row.Payer != t.Payer:
		return top.Errorf(top.Denied, "channel %s has another payer", t.Channel.Short())
	case t.Service != o.Service || t.Unit != o.Unit || t.Price != o.Price:
		return top.Errorf(top.Denied, "the ticket says %s TOP for %s of %s, the offer is %s for %s (look at the registry again)", t.Price, t.Unit, t.Service, o.Price, o.Unit)
	}
	return t.VerifyPayer()
}

// Bounds on the sessions of a channel.
const (
	maxSessions = 64
	maxBegun    = 8192
)

// begin opens a session: the peer is vouched for, and has addresses. The caller holds
// the lock.
func (e *Exit) begin(acct *account, t session.Ticket, m opening) (*served, error) {
	known := e.peer(m.Key.Inner()) != nil && m.Lend == wg.Key{} // goes on, perhaps on its next channel
	if !known && len(*e.peers.Load()) >= 2*e.cfg.Peers {
		return nil, &top.Error{Kind: top.Busy, Message: fmt.Sprintf("this exit serves %d clients already", e.cfg.Peers), RetryAfter: time.Minute}
	}
	switch { // each stays in memory: the newest with their counters, all with their tickets, lest one be shown again
	case len(acct.sessions) >= maxSessions:
		return nil, &top.Error{Kind: top.Busy, Message: fmt.Sprintf("channel %s began %d sessions within minutes", t.Channel.Short(), maxSessions), RetryAfter: time.Minute}
	case acct.begun >= maxBegun:
		return nil, top.Errorf(top.Denied, "channel %s began %d sessions (open another)", t.Channel.Short(), maxBegun)
	}
	lent := m.Lend != wg.Key{}
	if err := e.lendable(acct, m.Lend); err != nil {
		return nil, err
	}
	if !lent {
		if err := acct.meter.Open(e.now(), t, e.offer); err != nil {
			return nil, err
		}
	}
	if err := t.SignNode(e.cfg.NodeKey.Signer()); err != nil {
		return nil, err
	}
	s := &served{ticket: t, acct: acct, lend: m.Lend, heard: e.now(), moved: e.now()}
	s.gate.pool = &e.held
	by, err := e.welcome(m.Key, !lent)
	if err != nil {
		return nil, err
	}
	s.by, s.peer = by, by
	if lent {
		if s.peer, err = e.welcome(m.Lend, true); err != nil {
			e.dismiss(by)
			return nil, err
		}
		acct.lend = m.Lend
	}
	acct.sessions[t.Session], acct.begun = s, acct.begun+1
	e.accounts[t.Channel] = acct
	if old := s.peer.sess.Swap(s); old != nil {
		s.gate.follow(&old.gate)
		e.end(old, "another session of the same client began")
		s.peer.sess.Store(s)
	}
	if !lent {
		s.gate.used.Store(acct.rest)
		s.rest, acct.rest = acct.rest, 0
	}
	return s, e.book.write(acct.line(acct.meter.Show()))
}

// welcome makes a key a peer, with an IPv4 address if it carries packets. The caller
// holds the lock.
func (e *Exit) welcome(k wg.Key, carries bool) (*peer, error) {
	if p := e.peer(k.Inner()); p != nil && p.key == k && (p.addr4.IsValid() || !carries) {
		return p, nil
	}
	p := &peer{key: k, addr6: k.Inner()}
	var more []netip.Prefix
	if carries {
		if p.addr4 = e.addr4(k); !p.addr4.IsValid() {
			return nil, top.Errorf(top.Busy, "no inner address is free")
		}
		more = append(more, netip.PrefixFrom(p.addr4, 32))
	}
	if err := e.admit.Vouch(k, more...); err != nil {
		return nil, err
	}
	e.join(p)
	return p, nil
}

// end closes a session. What it earned stays. The caller holds the lock.
func (e *Exit) end(s *served, why string) {
	if s.over {
		return
	}
	if s.lent() {
		e.settleLent(s)
	}
	s.over, s.why, s.acct.dirty = true, why, true
	s.gate.shut()
	e.pardon(s)
	s.acct.meter.Close(s.ticket.Session)
	for _, p := range []*peer{s.by, s.peer} {
		if p != nil && p.sess.CompareAndSwap(s, nil) || p == s.by {
			e.dismiss(p)
		}
	}
}

func (e *Exit) pinged(from netip.Addr, m ping) {
	a := state{Nonce: m.Nonce, Session: m.Session}
	if m.Session != (top.SessionID{}) {
		e.mu.Lock()
		s := e.session(from, m.Session)
		if s == nil || s.over {
			e.mu.Unlock()
			why := top.Errorf(top.NotFound, "no session %s here (begin another)", m.Session)
			if s != nil {
				why = top.Errorf(top.NotFound, "session %s is over: %s", m.Session, s.why)
			}
			e.say(from, faultOf(0, m.Session, why).encode())
			return
		}
		s.heard = e.now()
		free := e.credit(s)
		a = s.state(m.Nonce)
		e.mu.Unlock()
		e.release(s, free)
	}
	e.say(from, a.encode())
}

// state is what the exit says of a session: the limit is that of bytes as the client
// counts them, lost ones among them, or each loss would take from its credit for good, and
// without those of sessions before. The caller holds the lock.
func (s *served) state(nonce uint64) state {
	limit := s.gate.limit.Load()
	limit += s.astray - min(limit, s.rest)
	a := state{Nonce: nonce, Session: s.ticket.Session, Up: s.up.Load(), Down: s.down.Load(), Limit: limit, Units: s.paidUnits(), Why: s.why}
	s.said = a.Up + a.Down
	return a
}

// ticked takes ticks, and believes the report within reason.
func (e *Exit) ticked(from netip.Addr, m ticking) {
	e.mu.Lock()
	s := e.session(from, m.Session)
	if s == nil || s.over {
		e.mu.Unlock()
		e.say(from, faultOf(0, m.Session, top.Errorf(top.NotFound, "no session %s here (begin another)", m.Session)).encode())
		return
	}
	s.heard = e.now()
	for i := range m.Ticks {
		if err := s.acct.meter.Tick(e.now(), &m.Ticks[i]); err != nil {
			e.log.Warn("tick", "session", m.Session, "err", err)
		}
	}
	if up := s.up.Load(); m.Up > up { // it changes what the client is told, not what it may
		s.astray = max(s.astray, m.Up-up)
	}
	e.forgive(s, m)
	free := e.credit(s)
	a := s.state(0)
	e.mu.Unlock()
	e.release(s, free)
	e.say(from, a.encode())
}

func (e *Exit) told(from netip.Addr, m told) {
	e.mu.Lock()
	s := e.session(from, m.Session)
	if s == nil && m.Kind == mReceipt {
		s = e.paidBy(from, m.Session)
	}
	if s == nil {
		e.mu.Unlock()
		e.say(from, faultOf(0, m.Session, top.Errorf(top.NotFound, "no session %s here (begin another)", m.Session)).encode())
		return
	}
	s.heard = e.now()
	var answers [][]byte
	var free [][]byte
	var flush func() error
	var err error
	switch m.Kind {
	case mVoucher:
		var r session.Renewal
		if r.Decode(m.Body) != nil {
			break
		}
		a := taken{Session: m.Session, Seq: r.Voucher.Seq}
		if err := s.acct.meter.Renew(e.now(), r); err != nil {
			a.Seq, a.Claims = 0, fitting(s.acct.meter.Show())
			answers = append(answers, faultOf(r.Voucher.Seq, m.Session, err).encode())
		}
		free = e.credit(s)
		answers = append(answers, a.encode(), s.state(0).encode())
	case mReceipt:
		if err := s.enter(e.now(), true); err == nil {
			if r, ok, err := e.receipt(s); ok && err == nil {
				answers = append(answers, told{mReceipt, m.Session, r.Encode()}.encode())
			}
		}
	case mBye:
		var t session.Tick
		if len(m.Body) > 0 && t.Decode(m.Body) == nil {
			s.acct.meter.Tick(e.now(), &t)
		}
		if s.bye.IsZero() { // what it came to is on disk before the answer
			s.bye = e.now() // WireGuard forgets who is removed with what waits for him
			if flush, err = e.keep(s.bye, true); err != nil {
				e.log.Error("keep what was earned", "err", err)
			}
		}
		answers = append(answers, told{mBye, m.Session, nil}.encode())
	}
	e.mu.Unlock()
	e.release(s, free)
	say := func() error {
		if flush != nil {
			if err := flush(); err != nil {
				e.log.Error("keep what was earned", "err", err)
			}
		}
		for _, a := range answers {
			e.say(from, a)
		}
		return nil
	}
	if flush != nil { // a disk that waits holds up nobody else's ticks
		e.group.Go(say)
		return
	}
	say()
}

// tend looks at every session: credit, what the client should know, what is over; and
// keeps what was earned.
func (e *Exit) tend(second bool) error {
	type word struct {
		to   netip.Addr
		body []byte
	}
	var words []word
	type freed struct {
		s    *served
		pkts [][]byte
	}
	var frees []freed
	e.mu.Lock()
	now := e.now()
	for _, a := range e.accounts {
		for id, s := range a.sessions {
			if s.over {
				if now.Sub(s.heard) > idleAfter && !s.unsaid && len(s.entries) == 0 {
					delete(a.sessions, id)
				}
				continue
			}
			if !s.bye.IsZero() && now.Sub(s.bye) > byeWait {
				e.end(s, "the client ended it")
				continue
			}
			passed := s.up.Load() + s.down.Load()
			if passed != s.seen {
				s.seen, s.moved = passed, now
			}
			if now.Sub(s.heard) > idleAfter && (!s.lent() || now.Sub(s.moved) > lentIdle) {
				e.end(s, "nothing was heard of the client")
				continue
			}
			if free := e.credit(s); len(free) > 0 {
				frees = append(frees, freed{s, free})
			}
			if passed != s.said && s.by != nil {
				words = append(words, word{s.by.addr6, s.state(0).encode()})
			}
		}
	}
	flush, err := e.keep(now, second)
	e.mu.Unlock()
	for _, f := range frees {
		e.release(f.s, f.pkts)
	}
	for _, w := range words {
		e.say(w.to, w.body)
	}
	if err != nil {
		return err
	}
	return flush() // a disk that waits holds up nobody's ticks
}

// byeWait is how long a client that said goodbye hears answers.
const byeWait = time.Second

// lentIdle is how long a stock client may be silent: it says nothing by itself, and
// its prepaid channel waits for it.
const lentIdle = 30 * 24 * time.Hour
