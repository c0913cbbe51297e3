package vpn

import (
	"context"
	"time"

	"top/lib/top"
)

// flowing is when a tunnel last carried.
type flowing struct {
	id        top.SessionID
	sent, got uint64    // when something last came
	newest    uint64    // sent, as it was seen last
	asked     time.Time // when it last grew
	since     time.Time // something was sent since, and nothing came
	enough    time.Time // when that was standLeast
	stopped   time.Time // the exit says since that it serves no more
}

// look notes what moved: when something came, or nothing was asked for long, it all
// begins again.
func (f *flowing) look(id top.SessionID, sent, got uint64, now time.Time) {
	if sent != f.newest {
		f.newest, f.asked = sent, now
	}
	if f.id != id || got > f.got || sent == f.sent || now.Sub(f.asked) > standAfter {
		f.id, f.sent, f.got, f.since, f.enough = id, sent, got, time.Time{}, time.Time{}
		return
	}
	if f.since.IsZero() {
		f.since = now
	}
	if f.enough.IsZero() && sent-f.sent >= standLeast {
		f.enough = now
	}
}

// barren says that so much was asked, for so long, that some answer was due.
func (f *flowing) barren(now time.Time) bool {
	return !f.enough.IsZero() && now.Sub(f.since) > standAfter && now.Sub(f.enough) > standBurst
}

// stands says that an exit answers and carries nothing: it takes the money, or cannot.
// What is our own trouble is none of its.
func (w *purse) stands(f *flowing, now time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.p == nil || w.t.cur.Load() != w.p || w.problem != "" || w.refusal != "" {
		*f = flowing{}
		return nil
	}
	f.look(w.p.id, w.p.sent.Load(), w.p.got.Load(), now)
	switch {
	case w.why == "":
		f.stopped = time.Time{}
	case f.stopped.IsZero():
		f.stopped = now
	case now.Sub(f.stopped) > standAfter:
		return top.Errorf(top.Offline, "exit %s stopped: %s", w.t.to.name, w.why)
	}
	if f.barren(now) {
		return top.Errorf(top.Offline, "exit %s carries nothing: of %d bytes that went through it in %s nothing was answered", w.t.to.name, f.newest-f.sent, now.Sub(f.since).Round(time.Second))
	}
	return nil
}

const (
	standAfter = 8 * time.Second
	standBurst = 4 * time.Second // after a packet that nobody had to answer, the first question has this long
	standLeast = 512             // bytes: more than all tries, six of 80, to connect to one host that is not there
)

// ahead opens the next channel while the last eighth of one is used, so that nobody
// waits for a block then.
func (w *purse) ahead(ctx context.Context) error {
	opened := top.ID{} // after which channel the next was opened
	for wait := aheadEvery; pause(ctx, wait); wait = aheadEvery {
		w.mu.Lock()
		left, _ := w.leftLocked()
		ch := w.ch
		w.mu.Unlock()
		if spare, ok := w.c.spare(); !ok || spare <= left || left > ch.Cap/aheadShare || opened == ch.Channel {
			continue
		}
		if _, err := w.c.channel(ctx, w.t.to, ch.Channel); err != nil {
			w.t.log.Warn("open the next channel", "err", err)
			wait = lastPause
			continue
		}
		opened = ch.Channel
	}
	return ctx.Err()
}

const (
	aheadEvery = 100 * time.Millisecond
	aheadShare = 8
)
