package relay

import (
	"cmp"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"top/lib/top"
)

// review expires what nobody took in time, and moves what lies at a relay that is
// gone, or that does not deliver, to another.
func (a *agent) review() {
	now := a.now()
	a.mu.Lock()
	var over []*outParcel
	move := map[top.NodeID][]*outParcel{}
	unstored := map[top.ID][]*outParcel{} // by channel
	var late []*outMessage
	for _, m := range a.msgs {
		if m.Parcels == 0 && m.Expiry <= uint64(now.Unix()) {
			late = append(late, m)
		}
	}
	for _, p := range a.parcels {
		switch since := now.Sub(time.UnixMilli(p.Since)); {
		case p.Expiry <= uint64(now.Unix()):
			over = append(over, p)
		case p.State != placed && p.State != stored || p.Tries >= maxTries:
		case a.gone(p.Node, now) || p.State == stored && since > doubt && p.Tries == 1:
			move[p.Node] = append(move[p.Node], p)
		case p.State == placed && since > storeWait:
			unstored[p.Channel] = append(unstored[p.Channel], p)
		}
	}
	a.mu.Unlock()
	for channel, all := range unstored {
		if n := a.laneOf(channel); n != nil && n.stuck(now) {
			a.log.Warn("relay stores nothing", "relay", n.l.node)
			n.l.bad(now)
			move[n.l.node] = append(move[n.l.node], all...)
		}
	}
	if len(over)+len(late) > 0 {
		err := a.apply(func(b *pebble.Batch) error {
			for _, p := range over {
				if err := a.advance(b, p, expired, now.UnixMilli(), ""); err != nil {
					return err
				}
			}
			for _, m := range late {
				if err := a.move(b, m, expired, now.UnixMilli(), ""); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			a.log.Error("expire", "err", err)
		}
	}
	for node, all := range move {
		a.relocate(node, all)
	}
}

// gone says whether a relay does not answer for so long that others are tried. The
// caller holds the lock.
func (a *agent) gone(node top.NodeID, now time.Time) bool {
	l := a.links[node]
	if l == nil {
		return false
	}
	up, since := l.isUp()
	return !up && now.Sub(since) > moveAfter
}

// relocate gives what lies at one relay to another of each recipient's, if there is
// one that answers.
func (a *agent) relocate(node top.NodeID, all []*outParcel) {
	to := map[top.Address][]*outParcel{}
	for _, p := range all {
		to[p.To] = append(to[p.To], p)
	}
	for who, ps := range to {
		a.mu.Lock()
		f, ok := a.known[who]
		other := false
		for _, r := range f.record.Relays {
			if l := a.links[r]; ok && r != node && l != nil {
				up, _ := l.isUp()
				other = other || up
			} else if ok && r != node {
				other = true
			}
		}
		a.mu.Unlock()
		if other {
			a.requeue(ps)
		}
	}
}

// requeue has parcels placed anew, at another relay than the one they were at if there
// is one.
func (a *agent) requeue(all []*outParcel) {
	if len(all) == 0 {
		return
	}
	var fresh []*outParcel
	err := a.apply(func(b *pebble.Batch) error {
		for _, p := range all {
			if q := a.parcels[p.Seq]; q != nil {
				q.State, q.Since = queued, a.now().UnixMilli()
				fresh = append(fresh, q)
				if err := save(b, key('p', u64(q.Seq)), q); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		a.log.Error("requeue", "err", err)
	}
	a.courier(all[0].To).again(fresh)
}

// unsent is what lies on a lane and the relay did not take, in the order of its
// places.
func (a *agent) unsent(n *lane, taken map[top.Address]top.Amount) []*outParcel {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []*outParcel
	for _, p := range a.parcels {
		if p.Channel == n.channel && p.State == placed && p.From >= taken[p.To] {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(x, y *outParcel) int { return cmp.Compare(x.From, y.From) })
	return all
}

// fail ends messages that cannot be sent, and all their parcels.
func (a *agent) fail(msgs []*outMessage, parcels []*outParcel, why error) {
	a.log.Warn("not sent", "err", why)
	now := a.now().UnixMilli()
	err := a.apply(func(b *pebble.Batch) error {
		for _, p := range parcels {
			if m := a.msgs[p.First]; m != nil && m.File != nil {
				for seq := m.First; seq < m.First+m.Parcels; seq++ {
					if q := a.parcels[seq]; q != nil && q != p {
						parcels = append(parcels, q)
					}
				}
			}
		}
		for _, p := range parcels {
			for seq := p.First; seq <= p.Last; seq++ {
				if m := a.msgs[seq]; m != nil {
					m.Failure = top.KindOf(why)
				}
			}
			if err := a.advance(b, p, failed, now, why.Error()); err != nil {
				return err
			}
		}
		for _, m := range msgs {
			m.Failure = top.KindOf(why)
			if err := a.move(b, m, failed, now, why.Error()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		a.log.Error("fail", "err", err)
	}
}
