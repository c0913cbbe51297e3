package vpn

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"top/lib/api"
	"top/lib/home"
	"top/lib/netcfg"
	"top/lib/netstack"
	"top/lib/settle"
	"top/lib/sock"
	"top/lib/top"
	"top/lib/wg"
)

// ClientConfig says which way a tunnel goes and what may use it.
type ClientConfig struct {
	Home       home.Dir
	Chain      *api.Chain
	Wallet     *api.Wallet
	Sock       string         // "" is where Home has it
	Via        []string       // exits by name, node or address: with one hop the first that carries, else each hop, the entry first; none chooses
	Hops       int            // 0 is 1; at most 3
	Carry      string         // to the entry: Plain, QUIC or WSS; "" is Plain
	MaxPrice   top.Amount     // of 64 KiB; 0 is any
	MaxSpend   top.Amount     // of this tunnel, all hops; 0 is what the budget allows
	Cap        top.Amount     // of a channel that is opened; 0 is half a TOP
	Lasts      time.Duration  // of it; 0 is a day
	Socks      string         // address of the proxy; without root. Either this or TUN
	TUN        string         // kernel interface
	TUNFile    *os.File       // or one that was handed over: routes are set by who did
	Include    []netip.Prefix // what goes through the tunnel; none is everything
	Exclude    []netip.Prefix
	AllowLAN   bool
	KillSwitch bool
	SpareNone  bool         // not even the chain daemon's peers are reached beside the tunnel
	Ready      func() error // called when the tunnel carries
	Log        *slog.Logger // nil is silent
	Now        func() time.Time
}

// A Client keeps a tunnel up and pays for it.
type Client struct {
	cfg   ClientConfig
	log   *slog.Logger
	now   func() time.Time
	start time.Time
	srv   *sock.Server
	look  *Looker

	chain    top.ChainID
	address  top.Address
	deadline time.Duration
	receipts *settle.Receipts
	key      wg.Private // of the last hop: its inner addresses stay when the exit changes
	line     wg.Line
	stack    *netstack.Stack
	tun      *wg.TUN
	cancel   context.CancelFunc
	release  func() // of the lock on what this home pays
	wasReady bool

	netMu    sync.Mutex // held while the host's network is changed
	gaveBack bool

	mu       sync.Mutex
	ends     []netip.AddrPort // that our packets may go to
	spared   []netip.AddrPort // that everybody's may, beside the tunnel
	channels []channelState
	wishes   map[string]wish // channels whose end is not known yet
	waits    map[top.NodeID]patience
	state    string
	problem  string
	hops     []*purse // up, the entry first
	rates    []rate   // of each
	ready    chan struct{}
	inner4   netip.Addr
	past     top.Amount // spent on paths before
}

// rate is what a hop carried lately.
type rate struct {
	at       time.Time
	up, down uint64
	upKbps   uint64
	downKbps uint64
}

const (
	clientMark = 0x746f70 // of the packets outside: "top"
	badFor     = time.Minute
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// NewClient claims the home's socket and makes the near end of the tunnel.
func NewClient(cfg ClientConfig) (*Client, error) {
	c := &Client{cfg: cfg, log: cmp.Or(cfg.Log, quiet()), now: cfg.Now, state: "starting", ready: make(chan struct{}), key: wg.NewPrivate()}
	if c.now == nil {
		c.now = time.Now
	}
	c.start = c.now()
	c.cfg.Hops = max(1, cfg.Hops)
	c.cfg.Carry = cmp.Or(cfg.Carry, Plain)
	if err := c.cfg.check(); err != nil {
		return nil, err
	}
	c.look = &Looker{Home: cfg.Home, Chain: cfg.Chain, Now: c.now, Mark: c.mark(), Allow: c.endpoints}
	c.inner4 = c.key.Public().Inner4()
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
	if c.srv, err = sock.New(sock.Config{Name: "top-vpn", Sock: path, Routes: c.routes(), Log: c.log, Health: c.health}); err != nil {
		return nil, err
	}
	if c.release, err = alone(cfg.Home); err != nil {
		c.srv.Close()
		return nil, err
	}
	if err = c.loadChannels(); err == nil {
		c.receipts, err = settle.OpenReceipts(cfg.Home.Path("receipts", "vpn-spent.ndjson"))
	}
	if err == nil {
		if err = c.makeLine(); err != nil {
			c.receipts.Close()
		}
	}
	if err != nil {
		c.release()
		c.srv.Close()
		return nil, err
	}
	return c, nil
}

// alone keeps a second tunnel from a home: both would number vouchers of one channel.
func alone(dir home.Dir) (release func(), err error) {
	release, err = home.Lock(dir.Path("vpn", "lock"))
	if errors.Is(err, top.ErrBusy) {
		err = top.Errorf(top.Busy, "a tunnel of %s is up already, and pays from its channels (end it: top-vpn down --sock ITS; or give this one a home: --home DIR, with --chain-sock and --wallet-sock as now): %v", dir, err)
	}
	return release, err
}

// check refuses what cannot be.
func (cfg *ClientConfig) check() error {
	switch {
	case cfg.Hops > 3:
		return top.Errorf(top.Usage, "--hops %d: 1 to 3", cfg.Hops)
	case cfg.Hops > 1 && len(cfg.Via) > 0 && len(cfg.Via) != cfg.Hops:
		return top.Errorf(top.Usage, "--hops %d wants --via for each of them, the entry first, or none", cfg.Hops)
	case cfg.Carry != Plain && cfg.Carry != QUIC && cfg.Carry != WSS:
		return top.Errorf(top.Usage, "--carry %s: plain, quic or wss", cfg.Carry)
	case cfg.Carry == QUIC && cfg.Hops > 1:
		return top.Errorf(top.Usage, "--carry quic holds one hop: a datagram of it has no room for two (with more: --carry wss)")
	case cfg.Socks == "" && cfg.TUN == "" && cfg.TUNFile == nil:
		return top.Errorf(top.Usage, "neither --socks nor --tun")
	}
	if _, _, err := net.SplitHostPort(cfg.Socks); cfg.Socks != "" && err != nil {
		return top.Errorf(top.Usage, "--socks %q: want HOST:PORT, such as 127.0.0.1:1080", cfg.Socks)
	}
	return nil
}

// mtu is that of packets in the tunnel.
func (cfg *ClientConfig) mtu() int {
	if cfg.Carry == QUIC {
		return mtuHidden
	}
	return mtuOf(cfg.Hops-1, cfg.Hops)
}

// mtuOf is that of packets in the tunnel to a hop, of so many. WireGuard pads them to
// sixteens, at the far end up to that end's own MTU: what is no multiple would not fit
// when it is padded. Within three tunnels there is room for the least that IPv6 may have
// only when the middle one goes by IPv4 (see fits).
func mtuOf(hop, hops int) int {
	switch {
	case hop == 0:
		return mtuPlain
	case hops == 2:
		return (mtuPlain - hopOverhead) &^ 15
	case hop == 1:
		return (mtuPlain - hopOverhead4) &^ 15
	}
	return mtuLeast
}

func (c *Client) mark() uint32 {
	if c.cfg.TUN != "" {
		return clientMark
	}
	return 0
}

// makeLine makes the near end, which stays while exits change.
func (c *Client) makeLine() (err error) {
	switch {
	case c.cfg.TUNFile != nil:
		c.tun, err = wg.TUNFromFile(c.cfg.TUNFile, c.cfg.mtu())
	case c.cfg.TUN != "":
		c.tun, err = wg.NewTUN(c.cfg.TUN, c.cfg.mtu())
	default:
		c.stack, err = netstack.New(netstack.Config{Addrs: []netip.Addr{c.inner4, c.key.Public().Inner()}, MTU: c.cfg.mtu(), Log: c.log})
		c.line = c.stack
		return err
	}
	if err == nil {
		c.line = c.tun
	}
	return err
}

// Run keeps the tunnel up until ctx ends or somebody asks for its end. It may be
// called once.
func (c *Client) Run(ctx context.Context) error {
	defer c.release()
	defer c.receipts.Close()
	defer c.line.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	works, cancel := context.WithCancel(ctx) // ends with whatever fails, too
	defer cancel()
	c.cancel = cancel
	g.Go(func() error { return c.srv.Run(ctx) })
	g.Go(func() error {
		defer stop() // the socket answers until all is paid and given back
		return cmp.Or(c.work(works), c.giveBack())
	})
	if c.managed() {
		g.Go(func() error { return c.guard(works) })
	}
	if c.stack != nil {
		g.Go(func() error { return c.proxy(works) })
	}
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// giveBack is the orderly end: the network is as it was. After a crash it is not (X6).
func (c *Client) giveBack() error {
	if !c.managed() {
		return nil
	}
	c.netMu.Lock()
	defer c.netMu.Unlock()
	c.gaveBack = true
	if err := netcfg.Down(c.tun.Name()); !errors.Is(err, top.ErrNotFound) {
		return err
	}
	return nil
}

// managed says whether routes and firewall are ours to set.
func (c *Client) managed() bool { return c.tun != nil && c.cfg.TUNFile == nil }

// work builds one path after the other.
func (c *Client) work(ctx context.Context) error {
	if c.managed() { // closed before anything is chosen
		c.spares(ctx)
		if err := c.around(); err != nil {
			return err
		}
	}
	if err := c.identify(ctx); err != nil {
		return err
	}
	bad := map[top.NodeID]time.Time{}
	wait := firstPause
	for ctx.Err() == nil {
		began := c.now()
		path, err := c.choose(ctx, bad)
		if err == nil {
			err = c.carryOn(ctx, path)
		}
		if ctx.Err() != nil {
			break
		}
		var at *hopError
		if errors.As(err, &at) {
			if len(c.cfg.Via) != 1 {
				bad[at.node] = c.now().Add(badFor)
			}
			if err := c.look.saw(at.node, false); err != nil {
				c.log.Warn("note how an exit did", "err", err)
			}
		}
		if _, ok := c.spare(); !ok {
			err = top.Errorf(top.Denied, "--max-spend of %s TOP is reached: nothing goes through any more (top-vpn down, then up with more)", c.cfg.MaxSpend)
			wait = lastPause
		}
		c.say("broken", err)
		if !c.wasReady && c.hopeless(err) {
			return err
		}
		c.log.Warn("the path broke", "err", err)
		if c.now().Sub(began) > lastPause {
			wait = firstPause
		}
		if !pause(ctx, wait) {
			break
		}
		wait = min(2*wait, lastPause)
	}
	return nil
}

// choice says whether another path can be taken than the one that is up.
func (c *Client) choice() bool {
	return len(c.cfg.Via) == 0 || c.cfg.Hops == 1 && len(c.cfg.Via) > 1
}

// hopeless says whether a first try failed for what waiting does not mend: neither
// another exit, if it was this one that refused.
func (c *Client) hopeless(err error) bool {
	var said *exitSaid
	if errors.As(err, &said) && len(c.cfg.Via) != 1 {
		return false
	}
	k := top.KindOf(err)
	return k == top.Denied || k == top.NotFound || k == top.Invalid || k == top.Usage || k == top.Failed
}

// identify learns who we are, from daemons that may start after this one.
func (c *Client) identify(ctx context.Context) error {
	for said := ""; ; {
		err := c.identified(ctx)
		if err == nil {
			return nil
		}
		if !errors.Is(err, top.ErrOffline) && !errors.Is(err, top.ErrTimeout) && !errors.Is(err, top.ErrBusy) {
			return err
		}
		c.say("waiting", err)
		if err.Error() != said {
			said = err.Error()
			c.log.Warn("waiting", "err", err)
		}
		if !pause(ctx, startPause) {
			return ctx.Err()
		}
	}
}

// identified asks the daemons once.
func (c *Client) identified(ctx context.Context) error {
	p, err := c.cfg.Chain.Params(ctx)
	if err != nil {
		return err
	}
	w, err := c.cfg.Wallet.Status(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.chain, c.deadline, c.address = p.Chain, time.Duration(p.DeadlineSec)*time.Second, w.Address
	return nil
}

func (c *Client) say(state string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state, c.problem = state, ""
	if err != nil {
		c.problem = err.Error()
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
