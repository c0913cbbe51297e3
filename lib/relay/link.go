package relay

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"top/lib/api"
	"top/lib/session"
	"top/lib/top"
	"top/lib/wire"
)

const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
	askWait    = 10 * time.Second
)

// A link is an agent's connection to one relay. It connects again when it breaks.
type link struct {
	a    *agent
	node top.NodeID
	stop context.CancelFunc

	mu       sync.Mutex
	row      api.Node
	receives bool // the relay is in our mailbox record
	s        *stream
	up       bool // the relay answered, and devices showed themselves
	down     time.Time
	err      error
	ref      uint32
	waits    map[uint32]chan answer
	lanes    []*lane
	rtt      time.Duration
	badUntil time.Time
	strikes  int // how often it was bad since it last stored something
}

// link is the connection to a relay, made when it is first asked for.
func (a *agent) link(node top.NodeID, row api.Node) *link {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.links[node]
	if l == nil {
		ctx, stop := context.WithCancel(a.ctx)
		l = &link{a: a, node: node, stop: stop, row: row, waits: map[uint32]chan answer{}, down: a.now()}
		a.links[node] = l
		a.group.Go(func() error {
			l.run(ctx)
			return nil
		})
	}
	return l
}

// run keeps the connection up until ctx ends.
func (l *link) run(ctx context.Context) {
	wait := firstRetry
	for ctx.Err() == nil {
		at := time.Now()
		err := l.once(ctx)
		l.lost(err)
		if time.Since(at) > lastRetry {
			wait = firstRetry
		}
		if !pause(ctx, wait) {
			return
		}
		wait = min(2*wait, lastRetry)
		if row, err := l.a.cfg.Chain.Node(ctx, l.node); err == nil && row.Exists {
			l.mu.Lock()
			l.row = row // its address may be another now
			l.mu.Unlock()
		}
	}
}

// once connects, and reads until the connection breaks.
func (l *link) once(ctx context.Context) error {
	l.mu.Lock()
	addrs := slices.Clone(l.row.Addrs)
	l.mu.Unlock()
	conn, err := l.a.d.dial(ctx, addrs)
	if err != nil {
		return err
	}
	s := newStream(conn)
	defer s.close(nil)
	stop := context.AfterFunc(ctx, func() { s.close(ctx.Err()) })
	defer stop()
	kind, challenge, err := s.next()
	if err != nil || kind != fChallenge || len(challenge) != 32 {
		return top.Errorf(top.Offline, "%s does not speak as a relay", l.node)
	}
	l.mu.Lock()
	l.s = s
	l.mu.Unlock()
	l.a.group.Go(func() error {
		if err := l.greet(ctx, challenge); err != nil {
			s.close(err)
		}
		return nil
	})
	return l.read(ctx, s)
}

// greet shows our device to a relay of ours, and resumes the channels.
func (l *link) greet(ctx context.Context, challenge []byte) error {
	at := time.Now()
	l.mu.Lock()
	receives := l.receives
	lanes := slices.Clone(l.lanes)
	l.mu.Unlock()
	if receives {
		if err := l.show(ctx, challenge); err != nil {
			return err
		}
	}
	for _, n := range lanes {
		if err := n.open(ctx); err != nil {
			l.a.log.Warn("resume a channel", "err", err)
		}
	}
	l.mu.Lock()
	l.up, l.err, l.rtt = true, nil, time.Since(at)
	l.mu.Unlock()
	l.a.changed()
	return nil
}

// show publishes our mailbox record to a relay of ours, proves that we are one of
// its devices, and leaves prekeys.
func (l *link) show(ctx context.Context, challenge []byte) error {
	record := l.a.mailbox()
	if record == nil {
		return nil
	}
	if _, err := l.ask(ctx, fMailbox, record.Encode()); err != nil && !errors.Is(err, top.ErrBusy) {
		return err
	}
	sig, err := l.a.d.device.Signer().Sign(authDomain, l.a.d.chain, append(challenge, l.node[:]...))
	if err != nil {
		return err
	}
	body, err := l.ask(ctx, fAuth, l.a.d.cert.Encode(), sig[:])
	if err != nil {
		return err
	}
	d := wire.Decode(body, 16)
	left := d.Uint()
	if err := d.End(); err != nil {
		return err
	}
	l.a.sayMarks(l)
	return l.a.leavePrekeys(ctx, l, int(left))
}

// read takes what the relay says.
func (l *link) read(ctx context.Context, s *stream) error {
	in := l.a.newIntake(l, s)
	defer func() {
		s.close(nil) // nothing that is under way waits for it any more
		in.abandon()
	}()
	for {
		kind, body, err := s.next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = top.Errorf(top.Offline, "the relay closed the connection")
			}
			return err
		}
		switch kind {
		case fOK:
			err = l.answered(body)
		case fHand:
			err = in.take(ctx, body)
		case fStored, fMarked:
			err = l.a.marked(l, kind, body)
		case fAcked:
			var ack session.Ack
			if err = ack.Decode(body); err == nil {
				l.a.acked(ack)
			}
		case fReceipt:
			err = l.a.receipted(body)
		case fFault:
			err = l.a.faulted(l, body)
		default:
			err = top.Errorf(top.Invalid, "frame of kind %q", kind)
		}
		if err == nil && !s.more() {
			err = in.flush(ctx)
		}
		if err != nil {
			return err
		}
	}
}

func (l *link) answered(body []byte) error {
	var a answer
	if err := a.decode(body); err != nil {
		return err
	}
	l.mu.Lock()
	c := l.waits[a.ref]
	delete(l.waits, a.ref)
	l.mu.Unlock()
	if c != nil {
		c <- a
	}
	return nil
}

// ask sends a request and waits for its answer.
func (l *link) ask(ctx context.Context, kind byte, parts ...[]byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	l.mu.Lock()
	s := l.s
	if s == nil {
		err := l.err
		l.mu.Unlock()
		if err == nil {
			err = top.Errorf(top.Offline, "not connected to relay %s yet", l.node)
		}
		return nil, err
	}
	l.ref++
	ref, c := l.ref, make(chan answer, 1)
	l.waits[ref] = c
	l.mu.Unlock()
	var e wire.Encoder
	e.Uint(uint64(ref))
	if err := s.send(ctx, kind, append([][]byte{e.Out()}, parts...)...); err != nil {
		return nil, err
	}
	select {
	case a := <-c:
		return a.body, a.err
	case <-s.done:
		return nil, top.Errorf(top.Offline, "the connection to relay %s broke", l.node)
	case <-ctx.Done():
		return nil, top.Errorf(top.Timeout, "no answer from relay %s", l.node)
	}
}

// send sends a frame that has no answer.
func (l *link) send(ctx context.Context, kind byte, parts ...[]byte) error {
	s := l.stream()
	if s == nil {
		return top.Errorf(top.Offline, "not connected to relay %s", l.node)
	}
	return s.send(ctx, kind, parts...)
}

// stream is the connection now; nil while there is none.
func (l *link) stream() *stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.s
}

// lost notes that the connection broke.
func (l *link) lost(err error) {
	l.mu.Lock()
	if l.up || l.down.IsZero() {
		l.down = l.a.now()
	}
	l.up, l.s, l.err = false, nil, err
	l.waits = map[uint32]chan answer{}
	lanes := slices.Clone(l.lanes)
	l.mu.Unlock()
	for _, n := range lanes {
		n.closed()
	}
	l.a.changed()
}

// bounce makes the relay hand over again what was not acknowledged.
func (l *link) bounce() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.s != nil {
		l.s.close(top.Errorf(top.Busy, "connecting again"))
	}
}

// isUp says whether the relay answers, and if not since when.
func (l *link) isUp() (bool, time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.up, l.down
}

// await waits until the relay answers, for a while.
func (l *link) await(ctx context.Context, most time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		change := l.a.change()
		if up, _ := l.isUp(); up {
			return nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.err != nil {
				return l.err
			}
			return top.Errorf(top.Offline, "no answer from relay %s", l.node)
		}
	}
}
