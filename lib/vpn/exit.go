package vpn

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"top/lib/api"
	"top/lib/carry"
	"top/lib/home"
	"top/lib/keys"
	"top/lib/policy"
	"top/lib/session"
	"top/lib/settle"
	"top/lib/sock"
	"top/lib/top"
	"top/lib/wg"
)

// ExitConfig says what an exit sells and where.
type ExitConfig struct {
	Home          home.Dir
	Chain         *api.Chain
	Sock          string         // "" is where Home has it
	NodeKey       keys.Private   // signs tickets and claims; the WireGuard key is derived from it
	Host          string         // name or address by which others reach it; "" is that of the interface that leads out
	Listen        uint16         // UDP port; 0 is any
	TUN           string         // kernel interface, made; "" is TCP/IP in user space, without root
	TUNFile       *os.File       // or one that was handed over, with its address and firewall set by who did
	Policy        *policy.Policy // what it serves
	Region        string         // as the operator says
	AllowLoopback bool           // serve this machine's own addresses too: for tests
	Resolver      []netip.AddrPort
	Hidden        Hidden // carriages beside UDP
	MTU           int    // 0 is 1,420
	Peers         int    // that pay, at most; 0 is 1,024
	Ready         func() error
	Log           *slog.Logger // nil is silent
	Now           func() time.Time
}

// An Exit sells tunnels.
type Exit struct {
	cfg   ExitConfig
	log   *slog.Logger
	now   func() time.Time
	start time.Time
	srv   *sock.Server
	dir   string // of the sessions' logs
	ctx   context.Context
	group *errgroup.Group

	chain    top.ChainID
	owner    top.Address
	deadline time.Duration
	key      wg.Private
	inner    netip.Addr
	dev      *wg.Device
	ways     *wg.Ways
	admit    *wg.Admission
	net      *exitNet
	heard    chan heard
	bytes    atomic.Uint64 // of control
	site     *carry.Server // nil without hidden carriage
	hidden   []door
	strange  atomic.Int64 // what strangers said and was not answered
	held     atomic.Int64 // bytes that wait for ticks, of all sessions

	peers atomic.Pointer[map[netip.Addr]*peer] // by inner address; replaced whole

	mu       sync.Mutex
	problem  string
	offer    session.Offer
	accounts map[top.ID]*account
	book     *book
	receipts *settle.Receipts
	taken    map[netip.Addr]wg.Key // inner IPv4 addresses
	up       bool                  // what listen made may be read
	answered time.Time             // when the chain daemon last did
}

// A peer is somebody with a tunnel to this exit, for whom a session stands.
type peer struct {
	key   wg.Key
	addr6 netip.Addr
	addr4 netip.Addr
	sess  atomic.Pointer[served] // whose credit its packets use; nil for who lends

	waiting atomic.Int64 // what it said and was not answered
}

// heard is what somebody said, by the inner address that WireGuard vouches for.
type heard struct {
	from    netip.Addr
	body    []byte
	waiting *atomic.Int64 // of those that it is counted with, until it is answered
}

const (
	startPause   = 500 * time.Millisecond
	beat         = 100 * time.Millisecond // how often credit is looked at
	idleAfter    = 3 * time.Minute        // a session without a word is over
	maxPeers     = 1024
	heardQueue   = 4096 // what waits to be answered; more is lost, and said again
	heardEach    = 64   // of it, what one peer said
	heardStrange = 512  // and all strangers
	refreshEvery = 5 * time.Second
)

// NewExit claims the home's socket and opens what was earned.
func NewExit(cfg ExitConfig) (*Exit, error) {
	e := &Exit{cfg: cfg, log: cmp.Or(cfg.Log, slog.New(slog.DiscardHandler)), now: cfg.Now, problem: "starting", taken: map[netip.Addr]wg.Key{}, heard: make(chan heard, heardQueue)}
	if e.now == nil {
		e.now = time.Now
	}
	e.start = e.now()
	e.cfg.MTU = cmp.Or(cfg.MTU, mtuPlain)
	e.cfg.Peers = cmp.Or(cfg.Peers, maxPeers)
	e.key = KeyOf(cfg.NodeKey)
	e.inner = e.key.Public().Inner()
	e.peers.Store(&map[netip.Addr]*peer{})
	path, err := cfg.Home.SockOr(cfg.Sock, "vpn")
	if err != nil {
		return nil, err
	}
	if err := cfg.Home.Make(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Home.Path("vpn"), 0o700); err != nil {
		return nil, top.Errorf(top.Failed, "make %s: %v", cfg.Home.Path("vpn"), err)
	}
	if e.srv, err = sock.New(sock.Config{Name: "top-vpn", Sock: path, Routes: e.routes(), Log: e.log, Health: e.health, Metrics: e.metrics}); err != nil {
		return nil, err
	}
	e.dir = cfg.Home.Path("receipts")
	if e.book, e.accounts, err = openBook(cfg.Home.Path("vpn", "accounts.ndjson"), e.now()); err != nil {
		e.srv.Close()
		return nil, err
	}
	if e.receipts, err = settle.OpenReceipts(cfg.Home.Path("receipts", "vpn.ndjson")); err != nil {
		e.book.log.Close()
		e.srv.Close()
		return nil, err
	}
	return e, nil
}

// Run is the exit until ctx ends. It may be called once.
func (e *Exit) Run(ctx context.Context) error {
	defer e.receipts.Close()
	defer func() { e.book.log.Close() }() // it may be another by then
	e.group, e.ctx = errgroup.WithContext(ctx)
	e.group.Go(func() error { return e.srv.Run(e.ctx) })
	e.group.Go(e.work)
	err := e.group.Wait()
	e.mu.Lock()
	flush, kept := e.keep(e.now(), true)
	e.mu.Unlock()
	if kept == nil {
		kept = flush()
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return cmp.Or(err, kept)
}

// work is the exit once it knows the chain.
func (e *Exit) work() error {
	for said := ""; ; {
		err := e.identify()
		if err == nil {
			break
		}
		if !errors.Is(err, top.ErrOffline) && !errors.Is(err, top.ErrTimeout) && !errors.Is(err, top.ErrBusy) {
			return err
		}
		e.trouble(err)
		if err.Error() != said {
			said = err.Error()
			e.log.Warn("waiting", "err", err)
		}
		if !pause(e.ctx, startPause) {
			return nil
		}
	}
	if err := e.listen(); err != nil {
		return err
	}
	defer e.close()
	if err := e.revive(); err != nil {
		return err
	}
	e.mu.Lock()
	e.up = true
	e.mu.Unlock()
	e.trouble(nil)
	e.group.Go(e.accept)
	e.group.Go(e.net.keep)
	for _, loop := range []func(){e.claims, e.refresh, e.answer} {
		e.group.Go(func() error {
			loop()
			return nil
		})
	}
	if e.cfg.Ready != nil {
		if err := e.cfg.Ready(); err != nil {
			return err
		}
	}
	for n := 0; pause(e.ctx, beat); n++ {
		if err := e.tend(n%10 == 0); err != nil { // what is not kept may not be earned
			return top.Errorf(top.Failed, "keep what was earned in %s: %v (make room on the disk, then start again: what was kept is claimed)", e.cfg.Home.Path("vpn"), err)
		}
	}
	return nil
}

// identify learns from the chain who we are.
func (e *Exit) identify() error {
	p, err := e.cfg.Chain.Params(e.ctx)
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.chain, e.deadline = p.Chain, time.Duration(p.DeadlineSec)*time.Second
	e.mu.Unlock()
	e.look()
	return nil
}

// look reads from the chain what this node offers, and notes that the daemon answers.
func (e *Exit) look() {
	ctx, cancel := context.WithTimeout(e.ctx, refreshEvery)
	defer cancel()
	n, err := e.cfg.Chain.Node(ctx, e.cfg.NodeKey.Public())
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		return
	}
	e.answered = e.now()
	if o, ok := offerOf(n); ok && n.Exists {
		e.offer, e.owner = o, n.Owner
	}
}

// refresh asks the chain again and again, and forgets strangers.
func (e *Exit) refresh() {
	for pause(e.ctx, max(min(e.deadline/8, refreshEvery), 200*time.Millisecond)) {
		e.look()
		e.net.own()
		e.admit.Expire(time.Now())
	}
}

// listen makes the line and the device.
func (e *Exit) listen() (err error) {
	if e.net, err = newExitNet(e); err != nil {
		return err
	}
	e.ways, e.admit = wg.NewWays(), &wg.Admission{}
	e.dev, err = wg.New(wg.Config{Key: e.key, Line: e.net.line, Tap: e, Way: e.ways, Listen: e.cfg.Listen, Admit: e.admit, Log: e.log})
	if err != nil {
		e.net.close()
		return err
	}
	if err := e.hide(); err != nil {
		e.close()
		return err
	}
	if e.net.name != "" {
		if err := e.dev.ServeUAPI(e.net.name); err != nil {
			e.log.Warn("wg cannot look at this exit", "err", err)
		}
	}
	return nil
}

func (e *Exit) close() {
	e.dev.Close()
	e.net.close()
}

func (e *Exit) trouble(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.problem = ""
	if err != nil {
		e.problem = err.Error()
	}
}

// peer is who has an inner address; nil for a stranger.
func (e *Exit) peer(a netip.Addr) *peer { return (*e.peers.Load())[a] }

// join makes a peer known by its addresses. The caller holds the lock.
func (e *Exit) join(p *peer) {
	next := make(map[netip.Addr]*peer, len(*e.peers.Load())+2)
	for a, o := range *e.peers.Load() {
		next[a] = o
	}
	next[p.addr6] = p
	if p.addr4.IsValid() {
		next[p.addr4] = p
	}
	e.peers.Store(&next)
}

// leave forgets a peer. The caller holds the lock.
func (e *Exit) leave(p *peer) {
	next := make(map[netip.Addr]*peer, len(*e.peers.Load()))
	for a, o := range *e.peers.Load() {
		if o != p {
			next[a] = o
		}
	}
	e.peers.Store(&next)
	delete(e.taken, p.addr4)
	if err := e.admit.Forget(p.key); err != nil {
		e.log.Warn("forget a peer", "err", err)
	}
}

// addr4 gives a key an IPv4 address that nobody else has here. The caller holds the
// lock.
func (e *Exit) addr4(k wg.Key) netip.Addr {
	a := k.Inner4()
	for range 1 << 16 {
		if owner, ok := e.taken[a]; !ok || owner == k {
			e.taken[a] = k
			return a
		}
		if a = a.Next(); !inner4().Contains(a) {
			a = exit4().Next().Next()
		}
	}
	return netip.Addr{}
}

// inner4 is the range of clients (RFC 6598).
func inner4() netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10) }

// inner6 is that of everybody, by wg.Key's Inner.
func inner6() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x74, 0x6f, 0x70, 0x76, 0x70}), 48)
}

// exit4 is the exit's own address, where its resolver answers.
func exit4() netip.Addr { return netip.AddrFrom4([4]byte{100, 64, 0, 1}) }

// host4 is the loopback of an exit's machine, if that may be reached.
func host4() netip.Addr { return netip.AddrFrom4([4]byte{100, 64, 0, 2}) }

// In takes what a peer sent: words for the exit, and packets that use up credit (X1).
func (e *Exit) In(bufs [][]byte, offset int) [][]byte {
	src, _, ok := addrsOf(bufs[0][offset:])
	if !ok {
		return nil
	}
	p := e.peer(src)
	kept := bufs[:0]
	var s *served
	if p != nil {
		s = p.sess.Load()
	}
	for _, b := range bufs {
		pkt := b[offset:]
		if e.isControl(pkt) {
			e.take(p, pkt)
			continue
		}
		n := uint64(len(pkt))
		if s == nil {
			continue
		}
		if !s.gate.pass(n) {
			s.gate.dropped.Add(n)
			continue
		}
		s.up.Add(n)
		kept = append(kept, b)
	}
	return kept
}

// Out counts what goes to clients, and holds what nobody paid for yet (X1).
func (e *Exit) Out(bufs [][]byte, sizes []int, offset int) {
	var last netip.Addr
	var s *served
	for i, b := range bufs {
		pkt := b[offset : offset+sizes[i]]
		_, dst, ok := addrsOf(pkt)
		if !ok {
			sizes[i] = 0
			continue
		}
		if dst != last {
			last, s = dst, nil
			if p := e.peer(dst); p != nil {
				s = p.sess.Load()
			}
		}
		switch n := uint64(len(pkt)); {
		case s == nil:
			sizes[i] = 0
		case s.gate.pass(n):
			s.down.Add(n)
		default:
			s.gate.hold(pkt)
			sizes[i] = 0
		}
	}
}

// Full is never said: a client without credit holds up nobody else.
func (e *Exit) Full() bool { return false }

// isControl says whether a packet is for the exit itself.
func (e *Exit) isControl(p []byte) bool {
	return len(p) >= 48 && p[0]>>4 == 6 && p[6] == 17 && p[42] == 0 && p[43] == controlPort && [16]byte(p[24:40]) == e.inner.As16()
}

// take puts what was said where it is answered. WireGuard vouches for the address of
// each packet; a batch of one peer has packets of both its addresses. Nobody fills the
// queue for the others: each peer has a share of it, and all strangers one together.
func (e *Exit) take(p *peer, pkt []byte) {
	e.bytes.Add(uint64(len(pkt)))
	u, err := wg.ParseUDP(pkt)
	if err != nil || len(u.Body) == 0 {
		return
	}
	waiting, most := &e.strange, int64(heardStrange)
	if p != nil {
		waiting, most = &p.waiting, heardEach
	}
	if waiting.Add(1) > most {
		waiting.Add(-1)
		return
	}
	select {
	case e.heard <- heard{u.From.Addr(), append([]byte{}, u.Body...), waiting}:
	default:
		waiting.Add(-1)
	}
}

// say sends a message to an inner address.
func (e *Exit) say(to netip.Addr, body []byte) {
	e.bytes.Add(uint64(len(body)))
	e.dev.Inject(wg.UDP{From: netip.AddrPortFrom(e.inner, controlPort), To: netip.AddrPortFrom(to, controlPort), Body: body}.Packet())
}

// addrsOf reads the addresses of a packet.
func addrsOf(p []byte) (src, dst netip.Addr, ok bool) {
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20])), true
	case len(p) >= 40 && p[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40])), true
	}
	return src, dst, false
}
