package vpn

import (
	"context"
	"maps"
	"slices"
	"time"

	"top/lib/receipt"
	"top/lib/session"
	"top/lib/top"
)

// heard takes what the exit says.
func (w *purse) heard(b []byte) {
	switch b[0] {
	case mState:
		var m state
		if m.decode(b) == nil {
			w.stated(m)
		}
	case mTaken:
		var m taken
		if m.decode(b) == nil {
			w.taken(m)
		}
	case mReceipt:
		var m told
		if m.decode(b) == nil {
			w.receipted(m.Body)
		}
	case mFault:
		var m fault
		if m.decode(b) == nil {
			w.refused(m)
		}
	}
	w.t.answer(b)
}

// stated takes the exit's counters: what it has of ours is acknowledged, what of its
// own did not come is reported.
func (w *purse) stated(m state) {
	w.t.pong(m.Nonce)
	w.mu.Lock()
	if w.p == nil || m.Session != w.p.id {
		w.mu.Unlock()
		return
	}
	w.exitUp = max(w.exitUp, min(m.Up, w.p.sent.Load()))
	if got := w.p.got.Load(); m.Down > w.sent {
		w.sent, w.got = m.Down, min(got, m.Down)
	}
	w.why, w.ticked = m.Why, max(w.ticked, m.Units)
	w.still.said, w.still.down, w.still.limit = true, max(w.still.down, m.Down), max(w.still.limit, m.Limit)
	p := w.p
	w.mu.Unlock()
	// What the exit would not carry waits here, where it slows down who sends. Its
	// limit is for both directions.
	if m.Limit > m.Down {
		w.t.release(p, p.gate.raise(m.Limit-m.Down))
	}
	w.tick(false)
}

func (w *purse) taken(m taken) {
	w.mu.Lock()
	if w.p == nil || m.Session != w.p.id || m.Seq == 0 {
		w.mu.Unlock()
		return
	}
	var ticks []session.Tick
	if w.payer.Acknowledged(m.Seq) == nil {
		ticks, w.refusal = w.payer.Repeat(), ""
	}
	report := ticking{Session: w.p.id, Ticks: ticks, Up: w.p.sent.Load(), Sent: w.sent, Got: min(w.got, w.sent)}
	w.mu.Unlock()
	if len(ticks) > 0 {
		w.t.say(report.encode())
	}
}

func (w *purse) refused(m fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.earlier, m.Session) // there is no receipt of it
	if w.p == nil || m.Session != w.p.id {
		return
	}
	if r, waits := w.payer.Waiting(); waits && m.Ref == r.Voucher.Seq {
		w.refusal = m.Message
		return
	}
	if m.Kind == string(top.NotFound) {
		w.over, w.why = true, m.Message
	}
}

// asking is when receipts of a session were asked for, and what was paid then.
type asking struct {
	asked, moved time.Time
	had, paid    uint64 // units
}

// due says that it is time: when it was quiet for a moment since units were paid, so that
// the bill of a tunnel that is up has them, and else from time to time.
func (a *asking) due(now time.Time, paid uint64) bool {
	if paid != a.paid {
		a.paid, a.moved = paid, now
	}
	quiet := a.paid != a.had && now.Sub(a.moved) >= receiptQuiet && now.Sub(a.asked) >= 2*receiptQuiet
	if !quiet && now.Sub(a.asked) < receiptEvery {
		return false
	}
	a.asked, a.had = now, a.paid
	return true
}

// paidFor is the units that this session's ticks paid.
func (w *purse) paidFor() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.units
}

// askReceipts asks for the receipts of earlier sessions, and of this one if it is time.
func (w *purse) askReceipts(own bool) {
	w.mu.Lock()
	ids := slices.Collect(maps.Keys(w.earlier))
	if own && w.p != nil {
		ids = append(ids, w.p.id)
	}
	w.mu.Unlock()
	for _, id := range ids {
		w.t.say(told{mReceipt, id, nil}.encode())
	}
}

// earlierOf adds to sessions those of the claims that an exit shows: who was killed has
// no receipt of what it paid since the last.
func earlierOf(claims []session.Claim, all map[top.SessionID]bool) map[top.SessionID]bool {
	more := maps.Clone(all)
	for _, c := range claims {
		for _, a := range c.Voucher.Anchors {
			if more == nil {
				more = map[top.SessionID]bool{}
			}
			more[a.Session] = true
		}
	}
	return more
}

// receipted keeps the exit's receipt, if it says what we paid.
func (w *purse) receipted(b []byte) {
	var r receipt.Receipt
	err := r.Decode(b)
	if err == nil {
		err = r.Verify()
	}
	if err != nil {
		w.t.log.Warn("the exit's receipt does not hold", "err", err)
		return
	}
	w.mu.Lock()
	ok := w.p != nil && r.Ticket.Node == w.t.to.node && r.Ticket.Session == w.p.id && r.LogSum <= w.spentLocked()
	if w.earlier[r.Ticket.Session] && r.Ticket.Node == w.t.to.node && r.Ticket.Payer == w.ch.Payer { // its ticks prove the rest
		ok = r.Unverified == 0
		delete(w.earlier, r.Ticket.Session)
	}
	w.mu.Unlock()
	if !ok {
		w.t.log.Warn("a receipt of more than was paid", "session", r.Ticket.Session)
		return
	}
	if err := w.c.receipts.Add(r); err != nil {
		w.t.log.Error("keep a receipt", "err", err)
	}
}

// ticks waits for ticks, or for a time that is longer than usual; false when ctx ended.
func (w *purse) ticks(ctx context.Context, d time.Duration) bool {
	if d > promiseEvery {
		return pause(ctx, d)
	}
	select {
	case <-w.paid:
		return true
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// renewAfter is how many ticks of an anchor make the next voucher due. At 1.7 Gbit/s and
// a round trip of 100 ms 324 units are under way: a voucher shown after 96 ticks reaches
// the exit, and the limit that it makes the client, before the anchor's 1,023 are used.
func renewAfter(rtt time.Duration) uint32 {
	return uint32(max(renewAt-6*rtt.Milliseconds(), renewLeast))
}
