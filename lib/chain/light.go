package chain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cometbft/cometbft/types"
	"golang.org/x/sync/errgroup"

	"top/lib/api"
	"top/lib/home"
	"top/lib/ledger"
	"top/lib/mesh"
	"top/lib/sock"
	"top/lib/top"
)

// LightConfig says how a light client runs. Home must have been made by Setup.
type LightConfig struct {
	Home  home.Dir
	Sock  string       // path of chain.sock; "" is where Home has it
	Peers []string     // full nodes: libp2p addresses
	Trust string       // HEIGHT:HASH to start from; "" is the genesis
	Ready func() error // called once the socket answers; may be nil
	Log   *slog.Logger // nil is silent

	dial     func(ctx context.Context, addr string) (net.Conn, error) // nil: over the mesh
	patience time.Duration                                            // with a peer whose stream is silent; 0 is peerWait
}

// Light is a light client: it believes nothing but the validators' signatures
// and the Merkle proofs under them, whoever answers (C2).
type Light struct {
	cfg     LightConfig
	files   files
	genesis *Genesis
	raw     []byte
	headers *headers
	peers   []*peer
	host    *mesh.Host
	release func()
	server  *sock.Server
	start   time.Time

	mu       sync.Mutex
	fork     error         // set when two signed headers contradict each other
	evidence int           // files of such headers
	params   api.Params    // proven; zero before the first answer
	rules    ledger.Params // the same
	rulesAt  time.Time     // when they were proven
	alive    int           // peers that answered last time
}

const (
	followPause = time.Second      // between looks at the newest header
	savePause   = 10 * time.Second // between writes of it to disk
)

// NewLight claims the home and the socket.
func NewLight(cfg LightConfig) (l *Light, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.patience = cmp.Or(cfg.patience, peerWait)
	l = &Light{cfg: cfg, files: files{cfg.Home}, start: time.Now()}
	if l.raw, err = LoadGenesis(cfg.Home); err != nil {
		return nil, err
	}
	if l.genesis, err = ParseGenesis(l.raw); err != nil {
		return nil, err
	}
	if len(cfg.Peers) == 0 {
		return nil, top.Errorf(top.Usage, "a light client asks full nodes: name one with --peer (top-chain status on it shows its address)")
	}
	for _, p := range cfg.Peers {
		if err := mesh.CheckAddr(p); err != nil && cfg.dial == nil {
			return nil, err
		}
	}
	if cfg.Trust != "" {
		if _, _, err := parseTrust(cfg.Trust); err != nil {
			return nil, err
		}
	}
	l.headers = &headers{
		chain: l.genesis.Chain.String(), path: l.files.light(), genesis: l.genesis, now: time.Now, byH: map[int64]*types.LightBlock{},
	}
	if err := l.countEvidence(); err != nil {
		return nil, err
	}
	if l.cfg.Sock, err = cfg.Home.SockOr(cfg.Sock, "chain"); err != nil {
		return nil, err
	}
	if l.release, err = home.Lock(l.files.lock()); err != nil {
		return nil, fmt.Errorf("another node runs on %s: %w", cfg.Home, err)
	}
	if err = l.claim(); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// claim takes the socket and an identity on the mesh.
func (l *Light) claim() (err error) {
	l.server, err = sock.New(sock.Config{
		Name: "top-chain", Sock: l.cfg.Sock, Routes: l.routes(), Log: l.cfg.Log, Metrics: l.metrics, Health: l.health,
	})
	if err != nil {
		return err
	}
	dial := l.cfg.dial
	if dial == nil {
		seed, err := Seed(l.cfg.Home, nil)
		if err != nil {
			return err
		}
		if l.host, err = mesh.New(mesh.Config{Key: meshKey(seed), Log: l.cfg.Log}); err != nil {
			return err
		}
		dial = func(ctx context.Context, addr string) (net.Conn, error) { return l.host.Dial(ctx, Protocol, addr) }
	}
	for _, addr := range l.cfg.Peers {
		c := sock.DialFunc(func(ctx context.Context) (net.Conn, error) { return dial(ctx, addr) }, "no answer from "+addr)
		c.Limit(maxPeerAnswer, maxPeerRecord)
		l.peers = append(l.peers, &peer{addr: addr, api: api.NewChain(c), sock: c})
	}
	return nil
}

func (l *Light) close() {
	for _, p := range l.peers {
		p.sock.Close()
	}
	if l.host != nil {
		l.host.Close()
	}
	if l.server != nil {
		l.server.Close()
	}
	l.release()
}

// Run is the light client until ctx ends. It may be called once.
func (l *Light) Run(ctx context.Context) error {
	defer l.close()
	if err := l.headers.load(l.cfg.Trust); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.server.Run(ctx) })
	g.Go(func() error { return l.follow(ctx) })
	if l.cfg.Ready != nil {
		if err := l.cfg.Ready(); err != nil {
			g.Go(func() error { return fmt.Errorf("say ready: %w", err) })
		}
	}
	return g.Wait()
}

// follow keeps the newest header verified, compares what the peers say, and
// writes it down.
func (l *Light) follow(ctx context.Context) error {
	tick := time.NewTicker(followPause)
	defer tick.Stop()
	var saved time.Time
	for {
		if err := l.look(ctx); err != nil && ctx.Err() == nil {
			l.cfg.Log.Warn("the newest header was not verified", "err", err)
		}
		if _, ok := l.headers.head(); ok && time.Since(saved) > savePause {
			if err := l.headers.save(); err != nil {
				return remedy(err)
			}
			saved = time.Now()
			// What status shows of the supply is of this moment.
			if _, err := ask(ctx, l, peerWait, l.askParams); err != nil && ctx.Err() == nil {
				l.cfg.Log.Debug("the parameters were not proven", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return l.headers.save()
		case <-tick.C:
		}
	}
}

// look asks every peer for its newest header, verifies it, and compares it with
// what the others have at that height: no two can then follow different chains
// without being seen.
func (l *Light) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, peerWait)
	defer cancel()
	heads, errs := make([]*types.LightBlock, len(l.peers)), make([]error, len(l.peers))
	l.together(func(i int, p *peer) {
		if errs[i] = l.judge(l.begin(ctx, p)); errs[i] == nil {
			heads[i], errs[i] = p.lightBlock(ctx, 0, 0)
		}
	})
	accept := func(i int, lb *types.LightBlock) {
		_, err := l.headers.accept(ctx, l.peers[i], lb)
		errs[i] = l.judge(err)
	}
	for i, lb := range heads {
		if lb != nil {
			accept(i, lb)
		}
	}
	l.together(func(i int, p *peer) {
		for j, lb := range heads {
			if heads[i] == nil || lb == nil || i == j || lb.Height >= heads[i].Height {
				continue
			}
			if same, err := p.lightBlock(ctx, top.Height(lb.Height), 0); err != nil {
				errs[i] = err
			} else {
				accept(i, same)
			}
		}
	})
	for i, lb := range heads {
		if lb != nil && errs[i] != nil {
			accept(i, lb) // now that more headers are known it may be judged
		}
	}
	return l.looked(errs)
}

// together calls f with each peer, all at once, and waits.
func (l *Light) together(f func(i int, p *peer)) {
	var wg sync.WaitGroup
	for i, p := range l.peers {
		wg.Go(func() { f(i, p) })
	}
	wg.Wait()
}

// looked counts the peers that answered well. One that did is enough.
func (l *Light) looked(errs []error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.alive = 0
	for i, err := range errs {
		if err == nil {
			l.alive++
		} else {
			errs[i] = fmt.Errorf("%s: %w", l.peers[i].addr, err)
		}
	}
	if l.alive > 0 && l.fork == nil {
		return nil
	}
	return errors.Join(errs...)
}

// begin verifies the first header, unless there is one.
func (l *Light) begin(ctx context.Context, p *peer) error {
	if _, ok := l.headers.head(); ok {
		return nil
	}
	return l.headers.begin(ctx, p, l.cfg.Trust)
}

// judge keeps the evidence when an error is a conflict of signed headers, and
// says what to do about it.
func (l *Light) judge(err error) error {
	var c *conflict
	if !errors.As(err, &c) {
		return err
	}
	if err := c.record(l.files.evidence()); err != nil {
		return err
	}
	if err := l.countEvidence(); err != nil {
		return err
	}
	return l.sound()
}

// sound is nil unless there is evidence against the chain.
func (l *Light) sound() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fork
}

// countEvidence counts what is kept; with any, this client answers nothing about
// money until a person decides.
func (l *Light) countEvidence() error {
	names, err := filepath.Glob(filepath.Join(l.files.evidence(), "*.lightblock"))
	if err != nil {
		return fmt.Errorf("list evidence: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.evidence = len(names); l.evidence > 0 {
		l.fork = top.Errorf(top.Failed, "validators signed two chains: the headers are kept in %s (ask others which chain stands, then remove that folder and start from a header that you trust: top-chain init --light --trust HEIGHT:HASH)", l.files.evidence())
	}
	return nil
}

func (l *Light) health() error {
	h, ok := l.headers.head()
	switch {
	case !ok:
		return errors.New("no header is verified yet")
	case time.Since(h.Time.Time) > staleAfter:
		return fmt.Errorf("the last block is %s old", time.Since(h.Time.Time).Round(time.Second))
	}
	return nil
}

func (l *Light) metrics(w io.Writer) {
	h, _ := l.headers.head()
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(w, "# TYPE top_chain_height gauge\ntop_chain_height %d\n", h.Height)
	fmt.Fprintf(w, "# TYPE top_chain_peers gauge\ntop_chain_peers %d\n", l.alive)
	fmt.Fprintf(w, "# TYPE top_chain_evidence gauge\ntop_chain_evidence %d\n", l.evidence)
}

// rulesFor is how long proven parameters serve: a vote changes them at the end of an
// epoch.
const rulesFor = 20 * time.Second

// meta is the chain's parameters, proven a short while ago.
func (l *Light) meta(ctx context.Context, p *peer) (ledger.Params, error) {
	l.mu.Lock()
	have, since := l.rules, l.rulesAt
	l.mu.Unlock()
	if !since.IsZero() && time.Since(since) < rulesFor {
		return have, nil
	}
	if _, err := l.askParams(ctx, p); err != nil {
		return ledger.Params{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rules, nil
}

func (l *Light) askParams(ctx context.Context, p *peer) (r api.Params, err error) {
	got, err := p.api.Params(ctx)
	if err != nil {
		return r, unproven(err)
	}
	at, err := l.proven(ctx, p, got.At)
	if err != nil {
		return r, err
	}
	var proof ledger.MetaProof
	if err := proof.Decode(got.Proof); err != nil {
		return r, err
	}
	m, err := proof.Verify(at.Root)
	if err != nil {
		return r, err
	}
	r = paramsRecord(m, at, got.Proof)
	l.mu.Lock()
	defer l.mu.Unlock()
	if at.Height >= l.params.At.Height {
		l.params, l.rules, l.rulesAt = r, m.Params, time.Now()
	}
	return r, nil
}

func (f files) light() string    { return f.dir.Path("chain", "light.header") }
func (f files) evidence() string { return f.dir.Path("chain", "evidence") }

// Forget removes what a light client trusts, so that the next start begins anew
// from the genesis or --trust.
func Forget(dir home.Dir) error {
	if err := os.Remove(files{dir}.light()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget header: %w", err)
	}
	return nil
}
