package vpn

import (
	"context"
	"time"

	"top/lib/top"
)

// flowing is when a tunnel last carried.
type flowing struct {
	id        top.SessionID
	sent, got uint64
	since     time.Time // something was sent since, and nothing came
	stopped   time.Time // the exit says since that it serves no more
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
	sent, got := w.p.sent.Load(), w.p.got.Load()
	if f.id != w.p.id || got > f.got || sent == f.sent && f.since.IsZero() {
		f.id, f.sent, f.got, f.since = w.p.id, sent, got, time.Time{}
	} else if f.since.IsZero() {
		f.since = now
	}
	switch {
	case w.why == "":
		f.stopped = time.Time{}
	case f.stopped.IsZero():
		f.stopped = now
	case now.Sub(f.stopped) > standAfter:
		return top.Errorf(top.Offline, "exit %s stopped: %s", w.t.to.name, w.why)
	}
	if !f.since.IsZero() && now.Sub(f.since) > standAfter && sent-f.sent >= standLeast {
		return top.Errorf(top.Offline, "exit %s carries nothing: of %d bytes that went through it in %s nothing was answered", w.t.to.name, sent-f.sent, standAfter)
	}
	return nil
}

const (
	standAfter = 8 * time.Second
	standLeast = 240 // bytes: four times the first packet of a connection
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
