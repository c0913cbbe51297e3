package relay

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"top/lib/api"
	"top/lib/home"
	"top/lib/keys"
	"top/lib/session"
	"top/lib/sock"
	"top/lib/top"
)

// A world is a chain and wallets that are all one table in memory, and daemons in
// this process that know nothing of it.
type world struct {
	t     testing.TB
	dir   string
	chain top.ChainID

	mu       sync.Mutex
	accounts map[top.Address]api.Account
	nodes    map[top.NodeID]api.Node
	channels map[top.ID]api.Channel
	wishes   map[string]api.Payment
	vouchers int
	broke    bool // wallets sign no voucher
}

// A member is somebody with a home, a wallet and a daemon.
type member struct {
	w        *world
	name     string
	home     home.Dir
	account  keys.Private
	node     keys.Private
	cfg      func(*Config)
	d        *Daemon
	api      *api.Relay
	stop     func()
	warnings atomic.Int64
	later    atomic.Int64 // added to its clock
	still    atomic.Int64 // its clock stands here, unix nanoseconds
}

const wait = 20 * time.Second

func newWorld(t testing.TB) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "top")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &world{
		t: t, dir: dir, chain: top.ChainID{7}, accounts: map[top.Address]api.Account{}, nodes: map[top.NodeID]api.Node{},
		channels: map[top.ID]api.Channel{}, wishes: map[string]api.Payment{},
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// member makes a home with a wallet.
func (w *world) member(name string, cfg func(*Config)) *member {
	w.t.Helper()
	m := &member{w: w, name: name, home: home.Dir(filepath.Join(w.dir, name)), cfg: cfg}
	must(w.t, m.home.Make())
	var err error
	m.account, err = keys.Generate(rand.Reader)
	must(w.t, err)
	m.node, err = keys.Generate(rand.Reader)
	must(w.t, err)
	w.mu.Lock()
	w.accounts[m.address()] = api.Account{Type: "account", Address: m.address(), Exists: true, Balance: 1000 * top.One}
	w.mu.Unlock()
	m.serve("chain", m.chainRoutes())
	m.serve("wallet", m.walletRoutes())
	return m
}

func (m *member) address() top.Address { return m.account.Public() }
func (m *member) id() top.NodeID       { return m.node.Public() }

// serve runs a socket until the test ends.
func (m *member) serve(name string, routes []sock.Route) {
	m.w.t.Helper()
	path, err := m.home.Sock(name)
	must(m.w.t, err)
	s, err := sock.New(sock.Config{Name: name, Sock: path, Routes: routes})
	must(m.w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	m.w.t.Cleanup(func() { cancel(); <-done })
}

func (m *member) client(name string) *sock.Client {
	path, err := m.home.Sock(name)
	must(m.w.t, err)
	return sock.Dial(path, name)
}

func (m *member) chainRoutes() []sock.Route {
	w := m.w
	get := func(path string, fn func(c *sock.Call) (any, error)) sock.Route {
		return sock.Route{Method: "GET", Path: path, Handle: func(c *sock.Call) error {
			w.mu.Lock()
			v, err := fn(c)
			w.mu.Unlock()
			if err != nil {
				return err
			}
			return c.JSON(v)
		}}
	}
	return []sock.Route{
		get("/v1/params", func(*sock.Call) (any, error) { return api.Params{Chain: w.chain, DeadlineSec: 5}, nil }),
		get("/v1/accounts/{a}", func(c *sock.Call) (any, error) {
			a, err := top.ParseAddress(c.Arg("a"))
			r := w.accounts[a]
			r.Address = a
			return r, err
		}),
		get("/v1/channels/{id}", func(c *sock.Call) (any, error) {
			var id top.ID
			err := id.UnmarshalText([]byte(c.Arg("id")))
			return w.channels[id], err
		}),
		get("/v1/nodes/{id}", func(c *sock.Call) (any, error) {
			id, err := top.ParseNodeID(c.Arg("id"))
			return w.nodes[id], err
		}),
		{Method: "GET", Path: "/v1/nodes", Handle: func(c *sock.Call) error {
			w.mu.Lock()
			var all []api.Node
			for _, n := range w.nodes {
				all = append(all, n)
			}
			w.mu.Unlock()
			return sock.Records(c, all)
		}},
	}
}

func (m *member) walletRoutes() []sock.Route {
	post := func(path string, fn func(c *sock.Call) (any, error)) sock.Route {
		return sock.Route{Method: "POST", Path: path, Access: sock.Write, Handle: func(c *sock.Call) error {
			v, err := fn(c)
			if err != nil {
				return err
			}
			return c.JSON(v)
		}}
	}
	return []sock.Route{
		{Method: "GET", Path: "/v1/status", Access: sock.Write, Handle: func(c *sock.Call) error {
			return c.JSON(api.WalletStatus{Address: m.address(), Chain: m.w.chain})
		}},
		post("/v1/payments", m.spend),
		post("/v1/tickets", func(c *sock.Call) (any, error) {
			var q api.SignRequest
			var t session.Ticket
			if err := errors.Join(c.Decode(&q), t.Decode(q.Body), t.SignPayer(m.account.Signer())); err != nil {
				return nil, err
			}
			return api.SignAnswer{Body: t.Encode()}, nil
		}),
		post("/v1/vouchers", func(c *sock.Call) (any, error) {
			var q api.SignRequest
			var v session.Voucher
			if err := errors.Join(c.Decode(&q), v.Decode(q.Body), v.Sign(m.account.Signer())); err != nil {
				return nil, err
			}
			m.w.mu.Lock()
			defer m.w.mu.Unlock()
			if m.w.broke {
				return nil, top.Errorf(top.Denied, "no budget for relay")
			}
			m.w.vouchers++
			return api.SignAnswer{Body: v.Encode()}, nil
		}),
		post("/v1/certificates", func(c *sock.Call) (any, error) {
			var q api.CertificateRequest
			if err := c.Decode(&q); err != nil {
				return nil, err
			}
			k := keys.Certificate{Chain: m.w.chain, Account: m.address(), Role: q.Role, Key: [32]byte(q.Key), Expiry: uint64(q.Expiry)}
			err := k.Sign(m.account.Signer())
			return api.SignAnswer{Body: k.Encode()}, err
		}),
		post("/v1/mailboxes", func(c *sock.Call) (any, error) {
			var q api.SignRequest
			if err := c.Decode(&q); err != nil {
				return nil, err
			}
			sig, err := m.account.Signer().Sign("top/mailbox/1", m.w.chain, q.Body)
			return api.SignAnswer{Body: sig[:]}, err
		}),
	}
}

// spend opens channels and records mailboxes.
func (m *member) spend(c *sock.Call) (any, error) {
	var q api.Spend
	if err := c.Decode(&q); err != nil {
		return nil, err
	}
	w := m.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if p, ok := w.wishes[m.name+q.ID]; ok {
		return p, nil
	}
	p := api.Payment{Type: "payment", ID: q.ID, Kind: q.Kind, State: "final", Amount: q.Amount}
	switch q.Kind {
	case "open":
		ch := api.Channel{Exists: true, Payer: m.address(), Provider: q.To, Cap: q.Amount, Expiry: top.TimeOf(time.Now().Add(time.Duration(q.LastsMs) * time.Millisecond))}
		rand.Read(ch.Channel[:])
		w.channels[ch.Channel] = ch
		p.Channel = &ch.Channel
	case "mailbox":
		a := w.accounts[m.address()]
		if q.MailboxSeq <= a.MailboxSeq {
			return nil, top.Errorf(top.Denied, "an older mailbox")
		}
		a.Mailbox, a.MailboxSeq = q.Mailbox, q.MailboxSeq
		w.accounts[m.address()] = a
	}
	w.wishes[m.name+q.ID] = p
	return p, nil
}

// warned counts what a daemon warns of.
type warned struct{ n *atomic.Int64 }

func (w warned) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (w warned) Handle(context.Context, slog.Record) error    { w.n.Add(1); return nil }
func (w warned) WithAttrs([]slog.Attr) slog.Handler           { return w }
func (w warned) WithGroup(string) slog.Handler                { return w }

// start runs the member's daemon and waits until it answers.
func (m *member) start() *member {
	t := m.w.t
	t.Helper()
	ready := make(chan struct{})
	cfg := Config{Now: m.clock, Home: m.home, Chain: api.NewChain(m.client("chain")), Wallet: api.NewWallet(m.client("wallet")), NodeKey: m.node, Cap: top.One, Ready: func() error { close(ready); return nil }}
	cfg.Log = slog.New(warned{&m.warnings})
	if m.cfg != nil {
		m.cfg(&cfg)
	}
	d, err := New(cfg)
	must(t, err)
	m.d, m.api = d, api.NewRelay(m.client("relay"))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	var once sync.Once
	m.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("%s: %v", m.name, err)
			}
		})
	}
	t.Cleanup(m.stop)
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		t.Fatalf("%s ended: %v", m.name, err)
	}
	return m
}

// clock is the member's time: the true one, and what later added.
func (m *member) clock() time.Time {
	if at := m.still.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Now().Add(time.Duration(m.later.Load()))
}

// relay makes a provider that is in the registry.
func (w *world) relay(name string) *member {
	w.t.Helper()
	m := w.member(name, func(c *Config) { c.Provide, c.Listen = true, []string{"/ip4/127.0.0.1/tcp/0"} })
	m.start()
	m.register()
	return m
}

// register enters a provider at the address where it is now.
func (m *member) register() {
	w := m.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[m.id()] = api.Node{
		Type: "node", Node: m.id(), Exists: true, Owner: m.address(), Name: m.name, Addrs: m.d.host.Addrs(),
		Offers: []api.Offer{{Service: Service, Unit: "message", Price: 1000, Window: 1024, Hold: []api.Hold{{Seconds: 86_400, Factor: 1}}}},
	}
}

// user makes somebody with an agent whose mailbox is published.
func (w *world) user(name string, relays ...*member) *member {
	w.t.Helper()
	m := w.member(name, func(c *Config) {
		for _, r := range relays {
			c.Relays = append(c.Relays, r.id())
		}
	}).start()
	m.published()
	return m
}

// published waits until others can write to the member.
func (m *member) published() {
	m.w.t.Helper()
	m.until("published", func() bool {
		s, err := m.api.Status(m.w.t.Context())
		return err == nil && s.Published
	})
}

// until waits for something to become so.
func (m *member) until(what string, so func() bool) {
	m.w.t.Helper()
	ctx, cancel := context.WithTimeout(m.w.t.Context(), wait)
	defer cancel()
	for !so() {
		if !pause(ctx, 5*time.Millisecond) {
			m.w.t.Fatalf("%s: not %s in time", m.name, what)
		}
	}
}

// send sends a body until a state, and gives the last record.
func (m *member) send(to *member, id, body, state string) (last api.Message, err error) {
	m.w.t.Helper()
	ctx, cancel := context.WithTimeout(m.w.t.Context(), wait)
	defer cancel()
	err = m.api.Send(ctx, api.SendRequest{ID: id, To: to.address(), Wait: state}, bytes.NewBufferString(body), func(r api.Message) error {
		last = r
		return nil
	})
	return last, err
}

// sent is send that must reach its state.
func (m *member) sent(to *member, id, body, state string) api.Message {
	m.w.t.Helper()
	r, err := m.send(to, id, body, state)
	if err != nil || r.State != state {
		m.w.t.Fatalf("%s: %s is %s, not %s: %v %s", m.name, id, r.State, state, err, r.Error)
	}
	return r
}

// box is what is in a box now.
func (m *member) box(name string) (all []api.Message) {
	m.w.t.Helper()
	must(m.w.t, m.api.Messages(m.w.t.Context(), name, 0, false, func(r api.Message) error {
		all = append(all, r)
		return nil
	}))
	return all
}

// inbox waits for so many messages, and gives their bodies by their ids.
func (m *member) inbox(n int) map[string]string {
	m.w.t.Helper()
	m.until(fmt.Sprint(n, " messages there"), func() bool { return len(m.box("inbox")) >= n })
	got := map[string]string{}
	for _, r := range m.box("inbox") {
		body, err := m.api.Body(m.w.t.Context(), r.ID)
		must(m.w.t, err)
		b, err := io.ReadAll(body)
		must(m.w.t, err)
		body.Close()
		if _, twice := got[r.ID]; twice {
			m.w.t.Errorf("%s has %s twice", m.name, r.ID)
		}
		got[r.ID] = string(b)
	}
	if len(got) != n {
		m.w.t.Errorf("%s has %d messages, not %d", m.name, len(got), n)
	}
	return got
}

// knows lets somebody write to the member without asking.
func (m *member) knows(o *member) *member {
	m.w.t.Helper()
	must(m.w.t, m.home.AddContact(o.name, o.address()))
	return m
}
