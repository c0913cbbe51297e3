package vpn

import (
	"context"
	"time"

	"top/lib/top"
)

// A session can stand still for good. What was lost on the way and is more than an exit
// believes (forgive) it counts as served and unpaid, and when that is a window it carries
// nothing more, though it has every tick. Another session begins then: its exit pardons a
// little of the one before. When that stands still too the channel is given up: for
// another exit, if one may be taken, or else for another channel.

// standstill is what shows that an exit carries no more.
type standstill struct {
	said  bool   // something, since the session began
	down  uint64 // bytes to us, and the limit of both directions, as the exit said last
	limit uint64
	since time.Time // it stands still
	moved uint64    // bytes that the exit had carried then
}

const (
	stillAfter = 4 * time.Second // many reports and ticks have come by then
	maxStood   = 2               // sessions that stand still on a channel; then it is given up
	againFirst = 8 * time.Second
)

// standsStill says that for some time the exit has had less than a unit of room, carried
// less than one, and not all that we have for it, though nothing that is acknowledged is
// unpaid, as it says itself. One that goes well has three units of room then.
func (w *purse) standsStill(now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &w.still
	_, signs := w.payer.Waiting()
	paid := !signs && w.refusal == "" && w.why == "" && w.ticked >= w.units
	sent, moved := w.p.sent.Load(), w.exitUp+s.down
	waits := w.p.gate.some.Load() || sent > w.exitUp
	switch {
	case !paid || !waits || !s.said || s.down+sent+unit <= s.limit || moved >= s.moved+unit:
		*s = standstill{said: s.said, down: s.down, limit: s.limit, moved: moved}
	case s.since.IsZero():
		s.since = now
	}
	return !s.since.IsZero() && now.Sub(s.since) > stillAfter
}

// again begins the session that follows one that stands still.
func (w *purse) again(ctx context.Context) error {
	w.mu.Lock()
	ch, exit, lost := w.ch.Channel, w.t.to, w.sent-w.got
	w.mu.Unlock()
	given := w.c.stood(ch) >= maxStood-1
	if given && w.c.choice() {
		w.c.stand(ch)
		return top.Errorf(top.Failed, "exit %s carries no more on channel %s, though all is paid: more was lost on the way than it believes", exit.name, ch.Short())
	}
	if err := w.c.patient(exit.node, !given); err != nil { // to open a channel asks again
		return err
	}
	w.c.stand(ch)
	w.t.log.Warn("all is paid and the exit carries no more: another session", "exit", exit.name, "another_channel", given, "lost_bytes", lost)
	return w.begin(ctx)
}

// patience bounds what an exit can have a client begin: sessions, and channels, each of
// which costs a fee and locks its cap.
type patience struct {
	next time.Time
	wait time.Duration
}

// patient says no before another session or channel may follow one that stood still. The
// time doubles with each that is begun, until a channel of that exit is used up as it
// should be.
func (c *Client) patient(n top.NodeID, begins bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, now := c.waits[n], c.now()
	if now.Before(p.next) {
		return top.Errorf(top.Busy, "all is paid and the exit carries no more: more was lost on the way than it believes. Another session begins in %s (or take another exit: --via)", p.next.Sub(now).Round(time.Second))
	}
	if !begins {
		return nil
	}
	p.wait = max(againFirst, 2*p.wait)
	p.next = now.Add(p.wait)
	if c.waits == nil {
		c.waits = map[top.NodeID]patience{}
	}
	c.waits[n] = p
	return nil
}

// goesWell forgets how often sessions with an exit stood still.
func (c *Client) goesWell(n top.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waits, n)
}

// stood is how often a session stood still on a channel.
func (c *Client) stood(id top.ID) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.channels {
		if ch.Channel == id {
			return ch.Stood
		}
	}
	return 0
}

// stand notes that one did.
func (c *Client) stand(id top.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.channels {
		if c.channels[i].Channel == id {
			c.channels[i].Stood = min(c.channels[i].Stood+1, maxStood)
		}
	}
}
