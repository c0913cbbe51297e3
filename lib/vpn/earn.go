package vpn

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"top/lib/home"
	"top/lib/receipt"
	"top/lib/session"
	"top/lib/settle"
	"top/lib/top"
	"top/lib/wg"
	"top/lib/wire"
)

// An account is one channel that pays this exit.
type account struct {
	cfg      session.MeterConfig
	meter    *session.Meter
	sessions map[top.SessionID]*served
	paid     top.Amount // by the chain, as far as it was looked at
	last     time.Time  // when it was claimed, or first seen
	gone     bool       // from the chain
	pardoned uint64     // units of sessions that ended without paying them
	forgiven uint64     // units that clients say were lost
	rest     uint64     // bytes of begun units, of sessions that ended: the next goes on from there
	lend     wg.Key     // the one stock client that it pays for; zero is none, or its own sessions
	lentCost top.Amount // of lent sessions that ended
	dirty    bool       // what is not in its claims changed since it was written
	begun    int        // sessions, since this process runs
}

// served is one session at the exit. What packets touch is atomic; the rest is the
// exit's, under its lock.
type served struct {
	ticket session.Ticket
	acct   *account
	peer   *peer  // whose packets it pays for
	by     *peer  // who speaks for it: the same, unless it is lent
	lend   wg.Key // the stock client that it pays for; zero is none

	gate shaper
	up   atomic.Uint64 // bytes from the client
	down atomic.Uint64 // bytes to it

	units    uint64 // given to the meter, and never taken back
	lost     uint64 // bytes that the client did not get, as it says
	rest     uint64 // bytes of a unit that sessions before began
	astray   uint64 // bytes that the client sent, as it says, and that did not get here
	forgiven uint64 // units of them
	said     uint64 // up and down when the state was last told
	heard    time.Time
	moved    time.Time // when bytes last passed
	seen     uint64    // up and down then
	why      string    // why it stands still
	bye      time.Time // when the client ended it
	over     bool

	log     receipt.Log
	logged  uint64            // units in it
	lines   *home.Log         // of it, on disk
	entries []settle.LogEntry // not there yet
	unsaid  bool              // something was earned since the last receipt
}

// account of a channel as a line on disk.
type accountLine struct {
	Type    string               `json:"type"` // "vpn-account"
	Config  session.MeterConfig  `json:"config"`
	Claims  [][]byte             `json:"claims"`
	Session map[string]sessState `json:"sessions,omitempty"`
	Lend    string               `json:"lend,omitempty"` // key of the stock client
	Spent   top.Amount           `json:"lent_cost,omitempty"`

	Pardoned top.Count `json:"pardoned,omitempty"`
	Forgiven top.Count `json:"forgiven,omitempty"`
	Rest     top.Count `json:"rest,omitempty"` // with that of sessions that run
}

// sessState is what a receipt needs of a session after a crash.
type sessState struct {
	Ticket []byte `json:"ticket"`
	Log    []byte `json:"log"`
	Logged uint64 `json:"logged"`
	Lend   []byte `json:"lend,omitempty"` // key of the stock client, which goes on being served
	Over   bool   `json:"over,omitempty"` // unless this is so
	Used   uint64 `json:"used,omitempty"` // its bytes
}

// book is the accounts on disk: a log of lines, the newest of a channel counts.
type book struct {
	path string
	log  *home.Log
	size int // bytes written since it was cut
}

// maxBook is when a book is cut to the newest line of each channel.
const maxBook = 16 << 20

// openBook reads what was earned, and leaves out channels that ended long ago.
func openBook(path string, now time.Time) (*book, map[top.ID]*account, error) {
	newest := map[top.ID]accountLine{}
	err := home.EachLine(path, func(b []byte) error {
		var l accountLine
		if err := json.Unmarshal(b, &l); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		newest[l.Config.Channel] = l
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	all := map[top.ID]*account{}
	var keep []byte
	for id, l := range newest {
		if l.Config.Expiry.Before(now.Add(-24 * time.Hour)) {
			continue
		}
		a, err := l.account(now)
		if err != nil {
			return nil, nil, err
		}
		all[id] = a
		b, err := json.Marshal(l)
		if err != nil {
			return nil, nil, fmt.Errorf("write %s: %w", path, err)
		}
		keep = append(append(keep, b...), '\n')
	}
	if st, err := os.Stat(path); err == nil && st.Size() > int64(len(keep)) {
		if err := home.WriteFile(path, keep, 0o600); err != nil {
			return nil, nil, err
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("read %s: %w", path, err)
	}
	log, err := home.OpenLog(path)
	if err != nil {
		return nil, nil, err
	}
	return &book{path: path, log: log}, all, nil
}

// account is what a line tells.
func (l accountLine) account(now time.Time) (*account, error) {
	a := &account{
		cfg: l.Config, meter: session.NewMeter(l.Config), sessions: map[top.SessionID]*served{}, last: now,
		pardoned: uint64(l.Pardoned), forgiven: uint64(l.Forgiven), rest: uint64(l.Rest), lentCost: l.Spent,
	}
	for _, b := range l.Claims {
		var c session.Claim
		if err := c.Decode(b); err != nil {
			return nil, fmt.Errorf("account of channel %s: %w", l.Config.Channel.Short(), err)
		}
		if err := a.meter.Recover(c); err != nil {
			return nil, fmt.Errorf("account of channel %s: %w", l.Config.Channel.Short(), err)
		}
	}
	if l.Lend != "" {
		var err error
		if a.lend, err = wg.ParseKey(l.Lend); err != nil {
			return nil, fmt.Errorf("account of channel %s: %w", l.Config.Channel.Short(), err)
		}
	}
	for _, st := range l.Session {
		s := &served{acct: a, over: true, logged: st.Logged}
		if err := s.ticket.Decode(st.Ticket); err != nil {
			return nil, fmt.Errorf("account of channel %s: %w", l.Config.Channel.Short(), err)
		}
		if err := s.log.Decode(st.Log); err != nil {
			return nil, fmt.Errorf("account of channel %s: %w", l.Config.Channel.Short(), err)
		}
		if len(st.Lend) == len(s.lend) { // nobody has to ask again for a stock client
			s.lend, s.over, s.heard, s.moved = wg.Key(st.Lend), st.Over, now, now
			a.lend = s.lend
			s.down.Store(st.Used)
			s.gate.used.Store(st.Used)
		}
		_, _, entries := s.log.Root()
		s.unsaid = entries > 0 // the newest receipt may not have what the account has
		a.sessions[s.ticket.Session] = s
	}
	return a, nil
}

// line is the account for the disk.
func (a *account) line(claims []session.Claim) accountLine {
	l := accountLine{Type: "vpn-account", Config: a.cfg, Session: map[string]sessState{}, Pardoned: top.Count(a.pardoned), Forgiven: top.Count(a.forgiven), Rest: top.Count(a.rest)}
	if a.lend != (wg.Key{}) {
		l.Lend, l.Spent = a.lend.String(), a.lentCost
	}
	for _, c := range claims {
		l.Claims = append(l.Claims, c.Encode())
	}
	for id, s := range a.sessions {
		st := sessState{Ticket: s.ticket.Encode(), Log: s.log.Encode(), Logged: s.logged}
		if s.lent() {
			st.Lend, st.Over, st.Used = s.lend[:], s.over, s.gate.used.Load()
		} else if !s.over {
			l.Rest += top.Count(s.gate.used.Load() % unit)
		}
		l.Session[id.String()] = st
	}
	return l
}

func (b *book) write(l accountLine) error {
	raw, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("write %s: %w", b.path, err)
	}
	b.size += len(raw) + 1
	return b.log.Append(raw)
}

// cut writes the book anew, with one line for each account.
func (b *book) cut(all map[top.ID]*account) error {
	var keep []byte
	for _, a := range all {
		raw, err := json.Marshal(a.line(a.meter.Show()))
		if err != nil {
			return fmt.Errorf("write %s: %w", b.path, err)
		}
		keep = append(append(keep, raw...), '\n')
	}
	if err := home.WriteFile(b.path, keep, 0o600); err != nil {
		return err
	}
	next, err := home.OpenLog(b.path)
	if err != nil {
		return err
	}
	b.log.Close()
	b.log, b.size = next, 0
	return nil
}

// enterEvery is how many units an entry of a log holds, while there are many; a
// session that ends, or a second without one, makes a smaller one.
const enterEvery = 64

// paidUnits is how many units of a session were paid.
func (s *served) paidUnits() uint64 {
	switch {
	case s.lent() && s.over:
		return s.logged
	case s.lent():
		return min((s.up.Load()+s.down.Load()+unit-1)/unit, s.bought())
	}
	return s.acct.meter.Paid(s.ticket.Session)
}

// enter writes what was paid since into the session's log.
func (s *served) enter(now time.Time, all bool) error {
	paid := s.paidUnits()
	n := paid - min(paid, s.logged)
	if n == 0 || n < enterEvery && !all {
		return nil
	}
	amount, ok := s.ticket.Price.Mul(n)
	if !ok {
		return fmt.Errorf("log of session %s: %d units: %w", s.ticket.Session, n, top.ErrInvalid)
	}
	var e wire.Encoder
	e.Raw(s.ticket.Session[:])
	e.Uint(paid)
	e.Uint(s.up.Load())
	e.Uint(s.down.Load())
	e.Uint(uint64(max(0, now.Unix())))
	e.Bool(s.lent())
	_, _, count := s.log.Root()
	entry := settle.LogEntry{Type: "log-entry", Session: s.ticket.Session, Index: top.Count(count), Amount: amount, Entry: wire.Digest("top/vpn/entry/1", e.Out())}
	if err := s.log.Append(amount, entry.Entry); err != nil {
		return err
	}
	s.entries, s.logged, s.unsaid = append(s.entries, entry), paid, true
	return nil
}

// writeLog puts a session's new entries on disk, before the account that counts them.
func (s *served) writeLog(dir string) error {
	if len(s.entries) == 0 {
		return nil
	}
	_, _, count := s.log.Root()
	if s.lines == nil {
		l, err := settle.OpenLog(filepath.Join(dir, hex.EncodeToString(s.ticket.Session[:])+".log"), count-uint64(len(s.entries)))
		if err != nil {
			return err
		}
		s.lines = l
	}
	for _, e := range s.entries {
		line, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("write a log: %w", err)
		}
		if err := s.lines.Append(line); err != nil {
			return err
		}
	}
	s.entries = nil
	if !s.over {
		return nil // the kernel has it: a killed process loses nothing, a power cut some seconds of what an audit could ask for
	}
	defer func() { s.lines.Close(); s.lines = nil }()
	return s.lines.Sync()
}

// receipt is the session's proof of service so far; false while it earned nothing.
func (e *Exit) receipt(s *served) (r receipt.Receipt, ok bool, err error) {
	r = receipt.Receipt{Ticket: s.ticket, Claim: s.acct.meter.Claim()}
	if r.LogRoot, r.LogSum, r.LogCount = s.log.Root(); r.LogCount == 0 {
		return r, false, nil
	}
	if s.lent() { // the exit's own count
		r.Unverified = r.Units()
	}
	return r, true, r.Sign(e.cfg.NodeKey.Signer())
}

// keep puts on disk what was earned since (X5): logs, accounts, receipts in this
// order. The caller holds the lock.
func (e *Exit) keep(now time.Time, all bool) (flush func() error, err error) {
	var receipts []receipt.Receipt
	sync := false
	for _, a := range e.accounts {
		dirty := a.dirty
		for _, s := range a.sessions {
			if err := s.enter(now, all || s.over); err != nil {
				return nil, err
			}
			dirty = dirty || len(s.entries) > 0
			if err := s.writeLog(e.dir); err != nil {
				return nil, err
			}
			if !s.unsaid || !all {
				continue
			}
			s.unsaid = false
			r, ok, err := e.receipt(s)
			if err != nil {
				return nil, err
			}
			if ok {
				receipts = append(receipts, r)
			}
		}
		claims, due := a.meter.Save(now)
		sync = sync || due
		if len(claims) == 0 && dirty {
			claims = a.meter.Show()
		}
		if len(claims) > 0 || dirty {
			if err := e.book.write(a.line(claims)); err != nil {
				return nil, err
			}
			a.dirty = false
		}
	}
	if e.book.size > maxBook {
		if err := e.book.cut(e.accounts); err != nil {
			return nil, err
		}
		sync, all = false, false
	}
	log := e.book.log
	return func() error {
		if sync || all {
			if err := log.Sync(); err != nil && e.keeps(log) {
				return err
			}
		}
		if len(receipts) > 0 {
			return e.receipts.Add(receipts...)
		}
		return nil
	}, nil
}

// keeps says whether a book's log is still in use: one that was cut is on disk.
func (e *Exit) keeps(log *home.Log) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.book.log == log
}

// claims claims on the chain what channels owe, before their deadlines.
func (e *Exit) claims() {
	s := settle.Settler{Chain: e.cfg.Chain, Node: e.cfg.NodeKey, Wait: claimWait}
	for pause(e.ctx, min(max(e.deadline/4, time.Second), time.Minute)) {
		e.mu.Lock()
		all := make([]*account, 0, len(e.accounts))
		for _, a := range e.accounts {
			all = append(all, a)
		}
		e.mu.Unlock()
		var g errgroup.Group
		g.SetLimit(maxClaims)
		for _, a := range all {
			g.Go(func() error {
				if err := e.claimDue(s, a); err != nil {
					e.log.Warn("claim", "channel", a.cfg.Channel.Short(), "err", err) // the next look tries again
				}
				return nil
			})
		}
		g.Wait()
	}
}

const (
	claimWait = 30 * time.Second // until a claim is final
	maxClaims = 8                // at once: each waits for a block, and many channels may close together
)

// forget ends what is served on a channel that the chain has no more, and lets go of it
// once all is written. The caller holds the lock.
func (e *Exit) forget(a *account) {
	written := true
	for _, s := range a.sessions {
		e.end(s, "its channel is gone")
		written = written && !s.unsaid && len(s.entries) == 0
	}
	if written {
		delete(e.accounts, a.cfg.Channel)
	}
}

// claimDue looks at a channel on the chain, and claims when it is time.
func (e *Exit) claimDue(s settle.Settler, a *account) error {
	row, err := e.cfg.Chain.Channel(e.ctx, a.cfg.Channel)
	if err != nil {
		return err
	}
	e.mu.Lock()
	a.paid, a.gone = row.Paid, !row.Exists
	if row.Exists {
		a.meter.Expires(row.Expiry.Time)
	}
	owed, claim := a.meter.Owed(), a.meter.Claim()
	due := settle.Due(row, owed, a.last, e.now(), e.deadline)
	if a.gone && e.now().Sub(a.last) > time.Hour {
		e.forget(a)
	}
	e.mu.Unlock()
	if !due || claim.Voucher.Seq == 0 {
		return nil
	}
	got, err := s.Claim(e.ctx, claim)
	if err != nil {
		return err
	}
	e.log.Info("claimed", "channel", a.cfg.Channel.Short(), "paid", got.Paid, "total", got.Total)
	e.mu.Lock()
	defer e.mu.Unlock()
	a.paid, a.last = got.Total, e.now()
	return nil
}
