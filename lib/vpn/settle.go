package vpn

import "time"

// How a session of a client ends.

// settle notes what the session came to that ends, and ticks its last units.
func (w *purse) settle() {
	w.mu.Lock()
	if w.p == nil {
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	w.tick(true)
	w.t.say(told{mReceipt, w.id(), nil}.encode())
	w.note()
}

// note keeps what the session came to, and the unit that it began: the exit counts on
// from there in the next.
func (w *purse) note() {
	w.mu.Lock()
	id, spent, rest := w.ch.Channel, max(w.ch.Paid, w.ch.Spent)+w.spentLocked(), w.ackedLocked()%unit
	w.mu.Unlock()
	if err := w.c.used(id, spent, rest); err != nil {
		w.t.log.Warn("note what was spent", "err", err)
	}
}

// end pays the last tick and says goodbye.
func (w *purse) end() {
	w.mu.Lock()
	if w.p == nil {
		w.mu.Unlock()
		return
	}
	w.units = max(w.units, w.ackedLocked()/unit)
	w.payer.Served(w.p.id, w.units)
	ticks := w.payer.Repeat()
	id := w.p.id
	report := ticking{Session: id, Ticks: ticks, Up: w.p.sent.Load(), Sent: w.sent, Got: min(w.got, w.sent)}
	w.mu.Unlock()
	w.note()
	if len(ticks) > 0 {
		w.t.say(report.encode())
	}
	w.t.say(told{mReceipt, id, nil}.encode())
	w.t.say(told{mBye, id, nil}.encode())
	deadline := time.After(max(200*time.Millisecond, 3*time.Duration(w.t.rtt.Load())))
	for {
		select {
		case b := <-w.t.words:
			if b[0] == mBye {
				return
			}
			w.heard(b)
		case <-deadline:
			return
		}
	}
}
