// Package relay is messages: a user's agent, which seals, sends, receives and
// keeps them, and a provider, which holds them for people who are offline and is
// paid when it hands them over. Both are one daemon.
//
//	M1  a message is on the agent's disk before it is said to be accepted, and
//	    reaches the reader once, over any crash of any of the three
//	M2  a state is shown as somebody signed it: stored by the relay's node,
//	    delivered and read by a device of the recipient
//	M3  a relay says "stored" after its disk has it
//	M4  no key seals two texts: a conversation is on disk before its bytes leave
//	M5  a relay holds ciphertext, its size class, its recipient and its price
//	M6  a sender pays for a message once, to the relay that delivered it first
//	M7  strangers hold a bounded part of a relay: mailboxes cost an account,
//	    messages their price and a quota, questions a rate
//	M8  what a stranger wrote waits in requests, and nothing of who is blocked is
//	    kept
//
// lib/delivery says what is owed, lib/envelope what is sealed, docs/wire.md how
// agent and relay speak. It trusts the chain daemon and the wallet agent of its own
// home, and nobody else.
package relay

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"top/lib/api"
	"top/lib/home"
	"top/lib/keys"
	"top/lib/mesh"
	"top/lib/sock"
	"top/lib/top"
	"top/lib/wire"
)

// Service is the name of the service on offers, tickets and budgets.
const Service = "relay"

const (
	roleMesh     = "top/relay/mesh/1"
	deviceDays   = 90 * 24 * time.Hour
	renewBefore  = 30 * 24 * time.Hour
	startPause   = 500 * time.Millisecond
	defaultCap   = top.One / 2
	defaultQuota = 10 << 30
)

// Config says how a Daemon runs.
type Config struct {
	Home    home.Dir
	Chain   *api.Chain
	Wallet  *api.Wallet
	Sock    string       // "" is where Home has it
	Listen  []string     // multiaddresses
	Via     []string     // hops through which others reach this provider, which is behind NAT
	Provide bool         // sell relaying too
	Relays  []top.NodeID // of our own mailbox; none picks from the registry
	NodeKey keys.Private // signs as the provider; the name on the mesh is derived from it
	Quota   int64        // bytes held for others; 0 is 10 GiB
	Cap     top.Amount   // of the channels that are opened; 0 is half a TOP
	Ready   func() error // called once the daemon answers; may be nil
	Log     *slog.Logger // nil is silent
	Now     func() time.Time
}

// A Daemon is a messaging agent, and a provider if it is asked to be.
type Daemon struct {
	cfg      Config
	log      *slog.Logger
	now      func() time.Time
	start    time.Time
	srv      *sock.Server
	db       *store
	host     *mesh.Host
	chain    top.ChainID
	address  top.Address
	deadline time.Duration
	device   keys.Private
	cert     keys.Certificate

	mu       sync.Mutex
	problem  string
	agent    *agent    // nil until it runs
	provider *provider // nil unless it provides
}

// New claims the home's socket and opens what is kept.
func New(cfg Config) (*Daemon, error) {
	d := &Daemon{cfg: cfg, log: cmp.Or(cfg.Log, slog.New(slog.DiscardHandler)), now: cfg.Now, problem: "starting"}
	if d.now == nil {
		d.now = time.Now
	}
	d.start = d.now()
	d.cfg.Cap = cmp.Or(cfg.Cap, defaultCap)
	d.cfg.Quota = cmp.Or(cfg.Quota, defaultQuota)
	path, err := cfg.Home.SockOr(cfg.Sock, "relay")
	if err != nil {
		return nil, err
	}
	if err := cfg.Home.Make(); err != nil {
		return nil, err
	}
	if d.srv, err = sock.New(sock.Config{Name: "top-relay", Sock: path, Routes: d.routes(), Log: d.log, Health: d.health, Metrics: d.metrics}); err != nil {
		return nil, err
	}
	if d.db, err = openStore(cfg.Home.Path("relay")); err != nil {
		d.srv.Close()
		return nil, err
	}
	return d, nil
}

// Run is the daemon until ctx ends. It may be called once.
func (d *Daemon) Run(ctx context.Context) error {
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return d.srv.Run(ctx) })
	all.Go(func() error {
		if err := d.begin(ctx); err != nil {
			return err
		}
		return d.work(ctx)
	})
	ended := make(chan error, 1)
	go func() { ended <- all.Wait() }()
	var err error
	select {
	case err = <-d.db.dead:
		return err // whoever waits for the database waits for ever: the process must end
	case err = <-ended:
	}
	if d.host != nil {
		d.host.Close()
	}
	d.db.close()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// begin learns who we are from the wallet and the chain, as soon as they answer.
func (d *Daemon) begin(ctx context.Context) error {
	for {
		err := d.identify(ctx)
		if err == nil {
			break
		}
		if !errors.Is(err, top.ErrOffline) && !errors.Is(err, top.ErrTimeout) && !errors.Is(err, top.ErrBusy) {
			return err
		}
		d.trouble(err)
		d.log.Warn("waiting", "err", err)
		if !pause(ctx, startPause) {
			return nil
		}
	}
	var err error
	d.host, err = mesh.New(mesh.Config{
		Key: roleKey(d.cfg.NodeKey), Listen: d.cfg.Listen, Reach: true, Hop: d.cfg.Provide && len(d.cfg.Via) == 0, Via: d.cfg.Via, Log: d.log,
	})
	if err != nil {
		return err
	}
	d.trouble(nil)
	return nil
}

// roleKey is the key by which the daemon is known on the mesh.
func roleKey(node keys.Private) keys.Private {
	seed := node.Seed()
	return keys.FromSeed(wire.Digest(roleMesh, seed[:]))
}

// Addr is the name on the mesh of the daemon of a node key: what stands behind
// /p2p/ in the addresses that it registers.
func Addr(node keys.Private) (string, error) { return mesh.ID(roleKey(node)) }

func (d *Daemon) identify(ctx context.Context) error {
	p, err := d.cfg.Chain.Params(ctx)
	if err != nil {
		return err
	}
	w, err := d.cfg.Wallet.Status(ctx)
	if err != nil {
		return err
	}
	d.chain, d.address = p.Chain, w.Address
	d.deadline = time.Duration(p.DeadlineSec) * time.Second
	if d.device, err = loadDevice(d.cfg.Home); err != nil {
		return err
	}
	return d.certify(ctx)
}

// loadDevice reads the device's key, or draws it.
func loadDevice(dir home.Dir) (keys.Private, error) {
	path := dir.Path("keys", "device.key")
	raw, err := home.ReadSecret(path)
	if errors.Is(err, top.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		k, err := keys.Generate(rand.Reader)
		if err != nil {
			return k, err
		}
		seed := k.Seed()
		return k, home.WriteFile(path, []byte(hex.EncodeToString(seed[:])+"\n"), 0o600)
	}
	if err != nil {
		return keys.Private{}, err
	}
	return keys.ParseSeed(string(raw))
}

// certify has the wallet certify the device, unless it did.
func (d *Daemon) certify(ctx context.Context) error {
	path := d.cfg.Home.Path("keys", "device.cert")
	if raw, err := os.ReadFile(path); err == nil {
		soon := uint64(d.now().Add(renewBefore).Unix())
		if d.cert.Decode(raw) == nil && d.cert.Account == d.address && d.cert.Key == d.device.Public() && d.cert.Verify(d.chain, "device", soon) == nil {
			return nil
		}
	}
	c, err := d.cfg.Wallet.Certify(ctx, d.device.Public(), uint64(d.now().Add(deviceDays).Unix()))
	if err != nil {
		return err
	}
	d.cert = c
	return home.WriteFile(path, c.Encode(), 0o600)
}

// work runs the agent and the provider.
func (d *Daemon) work(ctx context.Context) error {
	all, ctx := errgroup.WithContext(ctx)
	if d.cfg.Provide {
		p, err := newProvider(ctx, d)
		if err != nil {
			return err
		}
		d.mu.Lock()
		d.provider = p
		d.mu.Unlock()
		ln := d.host.Listen(Protocol)
		all.Go(func() error { return p.run(ctx) })
		all.Go(func() error { return p.accept(ctx, ln) })
		all.Go(func() error { return p.claims(ctx) })
		all.Go(func() error {
			<-ctx.Done()
			return ln.Close()
		})
	}
	a, err := newAgent(d)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.agent = a
	d.mu.Unlock()
	all.Go(func() error { return a.run(ctx) })
	if d.cfg.Ready != nil {
		if err := d.cfg.Ready(); err != nil {
			return err
		}
	}
	return all.Wait()
}

// trouble notes what keeps the daemon from its work; nil is nothing.
func (d *Daemon) trouble(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.problem = ""
	if err != nil {
		d.problem = err.Error()
	}
}

// running is the agent, once it runs.
func (d *Daemon) running() (*agent, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.agent == nil {
		return nil, &top.Error{Kind: top.Offline, Message: "not ready: " + d.problem, RetryAfter: startPause}
	}
	return d.agent, nil
}

func (d *Daemon) health() error {
	_, err := d.running()
	return err
}

// pause waits; false when ctx ended meanwhile.
func pause(ctx context.Context, t time.Duration) bool {
	w := time.NewTimer(t)
	defer w.Stop()
	select {
	case <-w.C:
		return true
	case <-ctx.Done():
		return false
	}
}
