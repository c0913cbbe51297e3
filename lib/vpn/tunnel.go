package vpn

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"top/lib/flow"
	"top/lib/session"
	"top/lib/top"
	"top/lib/wg"
)

// A target is an exit that could be used.
type target struct {
	node     top.NodeID
	owner    top.Address
	name     string
	addr     Address
	end      netip.AddrPort
	offer    session.Offer
	capacity top.Count
}

// A tunnel is the client's end of one hop: a device, what was counted on it, and the
// session that pays.
type tunnel struct {
	to    target
	key   wg.Private
	own   netip.Addr // our inner address
	peer  netip.Addr // the exit's
	dev   *wg.Device
	line  wg.Line
	log   *slog.Logger
	now   func() time.Time
	words chan []byte   // what the exit said; more is lost
	moved chan struct{} // enough came that a tick may be due
	table flow.Table

	cur      atomic.Pointer[paying] // what is counted now
	control  atomic.Uint64          // bytes
	answered atomic.Int64           // when the exit last spoke, unix nano
	rtt      atomic.Int64           // of a ping, smoothed, nano
	least    atomic.Int64           // of all pings: what the line takes without a queue
	nonces   atomic.Uint64

	mu    sync.Mutex
	pings map[uint64]time.Time
	terms accepted // of the newest session
	asks  map[uint64]chan answerTo
}

// answerTo is what came for an opening.
type answerTo struct {
	accepted accepted
	err      error
}

// paying is what a session counted.
type paying struct {
	id          top.SessionID
	gate        shaper        // what the exit carries
	sent        atomic.Uint64 // bytes that we sent
	got         atomic.Uint64 // bytes that we asked for
	due         atomic.Uint64 // got, from which a tick may be due
	ask         atomic.Uint64 // sent, from which the exit is asked what it has of it
	unsolicited atomic.Uint64
	duplicate   atomic.Uint64
}

// wordQueue is how much of what an exit says waits.
const wordQueue = 256

// tunnelConfig says where a tunnel begins and leads.
type tunnelConfig struct {
	To   target
	Key  wg.Private
	Line wg.Line
	Way  wg.Way // nil is UDP
	Mark uint32
	Log  *slog.Logger
	Now  func() time.Time
}

// newTunnel shakes hands as soon as something is said.
func newTunnel(cfg tunnelConfig) (*tunnel, error) {
	t := &tunnel{
		to: cfg.To, key: cfg.Key, own: cfg.Key.Public().Inner(), peer: cfg.To.addr.Key.Inner(), line: cfg.Line, log: cfg.Log, now: cfg.Now,
		words: make(chan []byte, wordQueue), moved: make(chan struct{}, 1), pings: map[uint64]time.Time{}, asks: map[uint64]chan answerTo{},
	}
	var err error
	if t.dev, err = wg.New(wg.Config{Key: cfg.Key, Line: cfg.Line, Tap: t, Way: cfg.Way, Mark: cfg.Mark, Log: cfg.Log}); err != nil {
		return nil, err
	}
	all := []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	if err := t.dev.SetPeer(wg.Peer{Key: cfg.To.addr.Key, Endpoint: cfg.To.end.String(), Allowed: all, Keepalive: keepalive}); err != nil {
		t.dev.Close()
		return nil, err
	}
	return t, nil
}

func (t *tunnel) close() { t.dev.Close() }

// Out counts what we send (X2), and holds what the exit would not carry yet.
func (t *tunnel) Out(bufs [][]byte, sizes []int, offset int) {
	p := t.cur.Load()
	if p == nil {
		clear(sizes)
		return
	}
	for i, b := range bufs {
		if stays(b[offset : offset+sizes[i]]) {
			sizes[i] = 0
		}
	}
	t.table.Out(bufs, sizes, offset, t.now().Unix())
	var sent uint64
	for i, b := range bufs {
		n := uint64(sizes[i])
		if n == 0 {
			continue
		}
		if p.gate.pass(n) {
			sent += n
			continue
		}
		p.gate.hold(b[offset : offset+sizes[i]])
		sizes[i] = 0
	}
	if p.sent.Add(sent) >= p.ask.Load() && sent > 0 {
		t.stir()
	}
}

// Full says that packets wait for the exit to carry more: the others stay in the line,
// where they slow down who sends, instead of being lost beyond what a shaper holds.
func (t *tunnel) Full() bool {
	p := t.cur.Load()
	return p != nil && p.gate.some.Load()
}

// stays says that a packet is for many: a kernel and its programs say such on every
// interface, and an exit has nobody to give it to.
func stays(p []byte) bool {
	switch {
	case len(p) >= 20 && p[0]>>4 == 4: // 224.0.0.0/3, with broadcast
		return p[16] >= 224
	case len(p) >= 40 && p[0]>>4 == 6: // ff00::/8
		return p[24] == 0xff
	}
	return false
}

// stir has the purse look at what moved.
func (t *tunnel) stir() {
	select {
	case t.moved <- struct{}{}:
	default:
	}
}

// release sends what waited for the exit to carry more.
func (t *tunnel) release(p *paying, free [][]byte) {
	for _, b := range free {
		p.sent.Add(uint64(len(b)))
	}
	if len(free) > 0 {
		t.dev.Inject(free...)
	}
}

// In counts what came and was asked for (X2), and lets nothing else through but what
// the exit says.
func (t *tunnel) In(bufs [][]byte, offset int) [][]byte {
	p := t.cur.Load()
	t.answered.Store(t.now().UnixNano())
	rest := bufs[:0]
	for _, b := range bufs {
		if pkt := b[offset:]; t.isControl(pkt) {
			t.hear(pkt)
		} else if p != nil {
			rest = append(rest, b)
		}
	}
	if len(rest) == 0 {
		return nil
	}
	kept := rest[:0]
	var got, unsolicited, duplicate uint64
	t.table.In(rest, offset, t.now().Unix(), func(i int, v flow.Verdict) {
		n := uint64(len(rest[i]) - offset)
		switch v {
		case flow.Fresh:
			got += n
		case flow.Duplicate:
			duplicate += n
		default:
			unsolicited += n
			return
		}
		kept = append(kept, rest[i])
	})
	p.unsolicited.Add(unsolicited)
	p.duplicate.Add(duplicate)
	if p.got.Add(got) >= p.due.Load() {
		t.stir()
	}
	return kept
}

func (t *tunnel) isControl(p []byte) bool {
	return len(p) >= 48 && p[0]>>4 == 6 && p[6] == 17 && p[40] == 0 && p[41] == controlPort && [16]byte(p[8:24]) == t.peer.As16()
}

func (t *tunnel) hear(pkt []byte) {
	t.control.Add(uint64(len(pkt)))
	u, err := wg.ParseUDP(pkt)
	if err != nil || len(u.Body) == 0 || u.To.Addr() != t.own {
		return
	}
	select {
	case t.words <- append([]byte{}, u.Body...):
	default:
	}
}

// say sends a message to the exit.
func (t *tunnel) say(body []byte) {
	t.control.Add(uint64(len(body)))
	t.dev.Inject(wg.UDP{From: netip.AddrPortFrom(t.own, controlPort), To: netip.AddrPortFrom(t.peer, controlPort), Body: body}.Packet())
}

// ping asks whether the exit is there.
func (t *tunnel) ping(id top.SessionID) {
	n := t.nonces.Add(1)
	now := t.now()
	t.mu.Lock()
	for k, at := range t.pings {
		if now.Sub(at) > time.Minute {
			delete(t.pings, k)
		}
	}
	t.pings[n] = now
	t.mu.Unlock()
	t.say(ping{n, id}.encode())
}

// pong notes how long an answer took.
func (t *tunnel) pong(nonce uint64) {
	t.mu.Lock()
	at, ok := t.pings[nonce]
	delete(t.pings, nonce)
	t.mu.Unlock()
	if !ok {
		return
	}
	d := int64(t.now().Sub(at))
	if least := t.least.Load(); least == 0 || d < least {
		t.least.Store(max(d, 1))
	}
	if old := t.rtt.Load(); old > 0 {
		d = old + (d-old)/4
	}
	t.rtt.Store(max(d, 1))
}

// silent is how long the exit has said nothing.
func (t *tunnel) silent() time.Duration {
	at := t.answered.Load()
	if at == 0 {
		return 1 << 62
	}
	return t.now().Sub(time.Unix(0, at))
}

// reach waits until the exit answers a ping, and gives the time that one took.
func (t *tunnel) reach(ctx context.Context) (time.Duration, error) {
	for again := 50 * time.Millisecond; ; again = min(2*again, time.Second) {
		t.ping(top.SessionID{})
		timer := time.NewTimer(again)
		for waits := true; waits; {
			select {
			case b := <-t.words:
				var s state
				if b[0] == mState && s.decode(b) == nil {
					t.pong(s.Nonce)
					if rtt := time.Duration(t.rtt.Load()); rtt > 0 {
						timer.Stop()
						return rtt, nil
					}
				}
			case <-timer.C:
				waits = false
			case <-ctx.Done():
				return 0, top.Errorf(top.Offline, "no answer from exit %s at %s", t.to.name, t.to.addr.Host)
			}
		}
	}
}

// open shows a ticket until the exit answers it.
func (t *tunnel) open(ctx context.Context, m opening, want func(session.Ticket) error) (a accepted, err error) {
	m.Ref, m.Key = t.nonces.Add(1), t.key.Public()
	c := make(chan answerTo, 1)
	t.mu.Lock()
	t.asks[m.Ref] = c
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		delete(t.asks, m.Ref)
		t.mu.Unlock()
	}()
	body := m.encode()
	late := time.After(chainLag) // the channel's block may come later to the exit
	for again := 200 * time.Millisecond; ; again = min(2*again, 2*time.Second) {
		t.say(body)
		select {
		case r := <-c:
			if errors.Is(r.err, top.ErrNotFound) {
				select {
				case <-time.After(again):
					continue
				case <-late:
				case <-ctx.Done():
				}
			}
			if r.err != nil {
				return a, r.err
			}
			var got session.Ticket
			if err := got.Decode(r.accepted.Ticket); err != nil {
				return a, err
			}
			return r.accepted, want(got)
		case <-time.After(again):
		case <-ctx.Done():
			return a, top.Errorf(top.Offline, "exit %s does not answer the ticket", t.to.name)
		}
	}
}

// answer passes on what came for an opening.
func (t *tunnel) answer(b []byte) {
	var a accepted
	var f fault
	r, ref := answerTo{}, uint64(0)
	switch {
	case b[0] == mAccept && a.decode(b) == nil:
		r.accepted, ref = a, a.Ref
	case b[0] == mFault && f.decode(b) == nil:
		r.err, ref = f.err(), f.Ref
	}
	t.mu.Lock()
	c := t.asks[ref]
	t.mu.Unlock()
	if c != nil {
		select {
		case c <- r:
		default:
		}
	}
}

// idle is a line from which nothing comes: of a tunnel that is only asked.
type idle struct {
	wake chan struct{}
	done chan struct{}
	once sync.Once
}

func newIdle() *idle { return &idle{wake: make(chan struct{}, 1), done: make(chan struct{})} }

func (l *idle) Read([][]byte, []int, int) (int, error) {
	select {
	case <-l.wake:
		return 0, nil
	case <-l.done:
		return 0, context.Canceled
	}
}
func (l *idle) Write(bufs [][]byte, _ int) (int, error) { return len(bufs), nil }
func (l *idle) Wake() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}
func (l *idle) MTU() int       { return mtuPlain }
func (l *idle) BatchSize() int { return 1 }
func (l *idle) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}
