package relay

import (
	"context"
	"time"

	"top/lib/top"
)

// enqueue has parcels sent that were placed just now. The caller holds the lock
// since they were, so that they go out in the order of their places.
func (n *lane) enqueue(all []*outParcel) {
	if n.s == nil {
		return // open does it
	}
	if len(n.queue) == 0 {
		n.sent = n.l.a.now()
	}
	n.queue = append(n.queue, all...)
	select {
	case n.kick <- struct{}{}:
	default:
	}
}

// pump sends what is placed, once a voucher promises it, until the connection
// breaks.
func (n *lane) pump(ctx context.Context, s *stream) {
	wait := firstRetry
	for {
		n.mu.Lock()
		if n.s != s {
			n.mu.Unlock()
			return
		}
		var p *outParcel
		if len(n.queue) > 0 {
			p = n.queue[0]
		}
		n.mu.Unlock()
		if p == nil {
			select {
			case <-n.kick:
				continue
			case <-s.done:
				return
			case <-ctx.Done():
				return
			}
		}
		err := n.push(ctx, s, p)
		switch {
		case err == nil:
			wait = firstRetry
			n.mu.Lock()
			if n.s == s && len(n.queue) > 0 {
				n.queue = n.queue[1:]
			}
			n.mu.Unlock()
		case s.isClosed() || ctx.Err() != nil:
			return
		case isSaid(err) || !retries(err):
			n.giveBack(s, err)
		default:
			n.l.a.courier(p.To).note(err)
			if !pause(ctx, max(wait, top.RetryAfter(err))) {
				return
			}
			wait = min(2*wait, lastRetry)
		}
	}
}

// push sends one parcel, unless it has moved on meanwhile.
func (n *lane) push(ctx context.Context, s *stream, p *outParcel) error {
	a := n.l.a
	a.mu.Lock()
	here, at := p.State == placed && p.Channel == n.channel, p.place()
	a.mu.Unlock()
	if !here {
		return nil
	}
	if err := n.promise(ctx, at); err != nil {
		return err
	}
	return a.send(ctx, s, p)
}

// giveBack hands what cannot be sent here to its couriers: to another relay if it
// is this one's fault, to its end if not.
func (n *lane) giveBack(s *stream, why error) {
	n.mu.Lock()
	all := n.queue
	if n.s != s {
		all = nil
	}
	n.queue = nil
	n.mu.Unlock()
	a := n.l.a
	n.l.blame(why, a.now())
	if !isSaid(why) {
		a.fail(nil, all, why)
		return
	}
	to := map[top.Address][]*outParcel{}
	for _, p := range all {
		to[p.To] = append(to[p.To], p)
	}
	for _, of := range to {
		a.requeue(of)
	}
}

// stuck says whether the relay takes what is sent and shows for long that it
// stores none of it.
func (n *lane) stuck(now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.s != nil && n.s.written.Load() != n.took {
		n.took, n.sent = n.s.written.Load(), now
	}
	return n.broken != nil || n.s != nil && now.Sub(n.sent) > storeWait
}

// stores notes that the relay did something with what it was sent.
func (n *lane) stores() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.noes, n.sent = 0, n.l.a.now()
	n.l.mu.Lock()
	defer n.l.mu.Unlock()
	n.l.strikes = 0
}
