package vpn

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"top/lib/api"
	"top/lib/home"
	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/policy"
	"top/lib/receipt"
	"top/lib/session"
	"top/lib/sock"
	"top/lib/top"
)

// A world is a chain and wallets that are one table in memory, and exits and clients in
// this process that know nothing of it but its sockets.
type world struct {
	t     testing.TB
	dir   string
	chain top.ChainID

	mu       sync.Mutex
	nodes    map[top.NodeID]api.Node
	channels map[top.ID]api.Channel
	txs      map[top.ID]api.Tx
	wishes   map[string]top.ID // channels by who wished them
	signed   map[top.ID]map[uint64][]byte
	pending  int  // opens of channels that are answered as on their way, though they happen
	twice    int  // voucher numbers that were signed for two vouchers
	chainOff bool // sockets answer that nobody is there
	walletOn func() error
	mined    func()         // waits for the block of a transaction; nil does not
	lookups  map[top.ID]int // of channels
}

// A member is somebody with a home, a wallet and a daemon.
type member struct {
	w       *world
	name    string
	home    home.Dir
	account keys.Private
	node    keys.Private
	hops    []keys.Private // payer keys, of which the world knows
	later   atomic.Int64   // added to its clock
	exit    *Exit
	client  *Client
	api     *api.VPN
	port    uint16
	owner   *top.Address // what its own chain daemon says of its owner; nil is the truth
	front   *front
	stop    func() error
}

const (
	wait  = 25 * time.Second
	price = top.Amount(1000) // nano, of a unit
)

func newWorld(t testing.TB) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "top") // short: a socket's path has a limit
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{
		t: t, dir: dir, chain: top.ChainID{7}, nodes: map[top.NodeID]api.Node{}, channels: map[top.ID]api.Channel{}, txs: map[top.ID]api.Tx{},
		wishes: map[string]top.ID{}, signed: map[top.ID]map[uint64][]byte{}, lookups: map[top.ID]int{},
	}
	t.Cleanup(func() {
		if w.twice > 0 {
			t.Errorf("X5: %d voucher numbers were used twice", w.twice)
		}
	})
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// member makes a home with a wallet and a light client.
func (w *world) member(name string) *member {
	w.t.Helper()
	m := &member{w: w, name: name, home: home.Dir(filepath.Join(w.dir, name))}
	must(w.t, m.home.Make())
	var err error
	m.account, err = keys.Generate(rand.Reader)
	must(w.t, err)
	m.node, err = keys.Generate(rand.Reader)
	must(w.t, err)
	m.serve("chain", m.chainRoutes())
	m.serve("wallet", m.walletRoutes())
	m.api = api.NewVPN(m.dial("vpn"))
	return m
}

func (m *member) address() top.Address { return m.account.Public() }
func (m *member) id() top.NodeID       { return m.node.Public() }
func (m *member) clock() time.Time     { return time.Now().Add(time.Duration(m.later.Load())) }

// serve runs a socket until the test ends.
func (m *member) serve(name string, routes []sock.Route) {
	path, err := m.home.Sock(name)
	must(m.w.t, err)
	s, err := sock.New(sock.Config{Name: name, Sock: path, Routes: routes})
	must(m.w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	m.w.t.Cleanup(func() { cancel(); <-done })
}

func (m *member) dial(name string) *sock.Client {
	path, err := m.home.Sock(name)
	must(m.w.t, err)
	return sock.Dial(path, name)
}

func (m *member) chainAPI() *api.Chain { return api.NewChain(m.dial("chain")) }

// set changes the world, and at gives what is in it.
func (w *world) set(fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn()
}

func at[V any](w *world, fn func() V) V {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fn()
}

func (m *member) chainRoutes() []sock.Route {
	w := m.w
	route := func(method, path string, fn func(c *sock.Call) (any, error)) sock.Route {
		return sock.Route{Method: method, Path: path, Handle: func(c *sock.Call) error {
			w.mu.Lock()
			v, err := any(nil), error(top.Errorf(top.Offline, "no peer answers"))
			if !w.chainOff {
				v, err = fn(c)
			}
			w.mu.Unlock()
			if err != nil {
				return err
			}
			return c.JSON(v)
		}}
	}
	return []sock.Route{
		route("GET", "/v1/status", func(*sock.Call) (any, error) { return api.ChainStatus{Chain: w.chain}, nil }),
		route("GET", "/v1/params", func(*sock.Call) (any, error) { return api.Params{Chain: w.chain, DeadlineSec: 16}, nil }),
		route("GET", "/v1/channels/{id}", func(c *sock.Call) (any, error) {
			var id top.ID
			err := id.UnmarshalText([]byte(c.Arg("id")))
			w.lookups[id]++
			return w.channels[id], err
		}),
		route("GET", "/v1/nodes/{id}", func(c *sock.Call) (any, error) {
			id, err := top.ParseNodeID(c.Arg("id"))
			n := w.nodes[id]
			if m.owner != nil {
				n.Owner = *m.owner
			}
			return n, err
		}),
		route("POST", "/v1/txs", w.submit),
		{Method: "GET", Path: "/v1/txs/{id}", Handle: func(c *sock.Call) error {
			if mined := at(w, func() func() { return w.mined }); mined != nil {
				mined()
			}
			var id top.ID
			if err := id.UnmarshalText([]byte(c.Arg("id"))); err != nil {
				return err
			}
			return c.JSON(at(w, func() api.Tx { return w.txs[id] }))
		}},
		{Method: "GET", Path: "/v1/nodes", Handle: func(c *sock.Call) error {
			if at(w, func() bool { return w.chainOff }) {
				return top.Errorf(top.Offline, "no peer answers")
			}
			return sock.Records(c, at(w, func() (all []api.Node) {
				for _, n := range w.nodes {
					all = append(all, n)
				}
				return all
			}))
		}},
	}
}

// submit pays what a claim proves. Who calls holds the lock.
func (w *world) submit(c *sock.Call) (any, error) {
	var q struct{ Tx api.Bytes }
	if err := c.Decode(&q); err != nil {
		return nil, err
	}
	tx, err := ledger.Decode(q.Tx)
	if err != nil {
		return nil, err
	}
	claim := tx.Body.(*ledger.Claim).Claim
	ch := w.channels[claim.Voucher.Channel]
	owed, err := claim.Owed()
	if err := errors.Join(err, claim.Verify(ch.Payer, 0)); err != nil {
		return nil, err
	}
	id := ledger.ID(q.Tx)
	owed = min(owed, ch.Cap)
	w.txs[id] = api.Tx{ID: id, OK: true, Paid: owed - min(owed, ch.Paid)}
	ch.Paid, ch.Seq = max(ch.Paid, owed), top.Count(claim.Voucher.Seq)
	w.channels[ch.Channel] = ch
	return api.Submitted{ID: id}, nil
}

// channel opens one. Who calls holds the lock.
func (w *world) channel(payer, provider top.Address, most top.Amount, lasts time.Duration) top.ID {
	ch := api.Channel{Exists: true, Payer: payer, Provider: provider, Cap: most, Expiry: top.TimeOf(time.Now().Add(lasts))}
	for id, n := range w.nodes {
		if n.Owner == provider {
			ch.Node = &id
		}
	}
	rand.Read(ch.Channel[:])
	w.channels[ch.Channel] = ch
	return ch.Channel
}

func (m *member) walletRoutes() []sock.Route {
	w := m.w
	post := func(path string, fn func(c *sock.Call) (any, error)) sock.Route {
		return sock.Route{Method: "POST", Path: path, Access: sock.Write, Handle: func(c *sock.Call) error {
			w.mu.Lock()
			v, err := any(nil), error(nil)
			if w.walletOn != nil {
				err = w.walletOn()
			}
			if err == nil {
				v, err = fn(c)
			}
			w.mu.Unlock()
			if err != nil {
				return err
			}
			return c.JSON(v)
		}}
	}
	return []sock.Route{
		{Method: "GET", Path: "/v1/status", Access: sock.Write, Handle: func(c *sock.Call) error {
			return c.JSON(api.WalletStatus{Address: m.address(), Chain: w.chain})
		}},
		post("/v1/payments", func(c *sock.Call) (any, error) {
			var q api.Spend
			if err := c.Decode(&q); err != nil {
				return nil, err
			}
			id, ok := w.wishes[m.name+q.ID]
			if !ok {
				id = w.channel(m.address(), q.To, q.Amount, time.Duration(q.LastsMs)*time.Millisecond)
				w.wishes[m.name+q.ID] = id
			}
			if w.pending > 0 {
				w.pending--
				return api.Payment{Type: "payment", ID: q.ID, Kind: q.Kind, State: "pending", Amount: q.Amount}, nil
			}
			return api.Payment{Type: "payment", ID: q.ID, Kind: q.Kind, State: "final", Amount: q.Amount, Channel: &id}, nil
		}),
		post("/v1/payers", func(c *sock.Call) (any, error) {
			var q api.PayerWish
			if err := c.Decode(&q); err != nil {
				return nil, err
			}
			k, err := keys.Generate(rand.Reader)
			if err != nil {
				return nil, err
			}
			m.hops = append(m.hops, k)
			id := w.channel(k.Public(), w.nodes[q.Node].Owner, q.Cap, time.Duration(q.LastsMs)*time.Millisecond)
			return api.Payer{Type: "payer", ID: q.ID, Address: k.Public(), State: "open", Channel: &id, Cap: q.Cap}, nil
		}),
		post("/v1/tickets", func(c *sock.Call) (any, error) {
			var q api.SignRequest
			var t session.Ticket
			if err := errors.Join(c.Decode(&q), t.Decode(q.Body)); err != nil {
				return nil, err
			}
			err := t.SignPayer(m.key(t.Payer).Signer())
			return api.SignAnswer{Body: t.Encode()}, err
		}),
		post("/v1/vouchers", func(c *sock.Call) (any, error) {
			var q api.SignRequest
			var v session.Voucher
			if err := errors.Join(c.Decode(&q), v.Decode(q.Body)); err != nil {
				return nil, err
			}
			if w.signed[v.Channel] == nil {
				w.signed[v.Channel] = map[uint64][]byte{}
			}
			if old := w.signed[v.Channel][v.Seq]; old != nil && !bytes.Equal(old, q.Body) {
				w.twice++
			}
			w.signed[v.Channel][v.Seq] = q.Body
			err := v.Sign(m.key(w.channels[v.Channel].Payer).Signer())
			return api.SignAnswer{Body: v.Encode()}, err
		}),
	}
}

// key is that of an address of the member's.
func (m *member) key(a top.Address) keys.Private {
	for _, k := range m.hops {
		if k.Public() == a {
			return k
		}
	}
	return m.account
}

// run starts a daemon and waits until it is ready.
func (m *member) run(run func(context.Context) error, ready <-chan struct{}) {
	t := m.w.t
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	m.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	stop := m.stop
	t.Cleanup(func() { stop() })
	select {
	case <-ready:
	case err := <-done:
		done <- err
		t.Fatalf("%s ended: %v", m.name, err)
	case <-time.After(wait):
		t.Fatalf("%s is not ready", m.name)
	}
}

// sell makes an exit that is in the registry.
func (w *world) sell(name string, more ...func(*ExitConfig)) *member {
	w.t.Helper()
	m := w.member(name)
	m.start(more...)
	m.register(m.port)
	return m
}

// start runs an exit, at the port that it had.
func (m *member) start(more ...func(*ExitConfig)) *member {
	t := m.w.t
	t.Helper()
	p, err := policy.Parse("class full")
	must(t, err)
	ready := make(chan struct{})
	cfg := ExitConfig{Home: m.home, Chain: m.chainAPI(), NodeKey: m.node, Host: "127.0.0.1", Listen: m.port, Policy: p, AllowLoopback: true, Now: m.clock, Ready: func() error { close(ready); return nil }}
	for _, fn := range more {
		fn(&cfg)
	}
	m.exit, err = NewExit(cfg)
	must(t, err)
	m.run(m.exit.Run, ready)
	m.port = m.exit.dev.Port()
	return m
}

// register enters an exit at a port, and waits until it knows.
func (m *member) register(port uint16) {
	m.w.t.Helper()
	a := Address{Carry: Plain, Host: "127.0.0.1", Port: strconv.Itoa(int(port)), Key: m.exit.key.Public(), Class: "full", Own: m.exit.cfg.AllowLoopback}
	m.w.set(func() {
		m.w.nodes[m.id()] = api.Node{
			Type: "node", Node: m.id(), Exists: true, Owner: m.address(), Name: m.name, Addrs: []string{a.String()},
			Offers: []api.Offer{{Service: Service, Unit: Unit, Price: price, Window: 1024}},
		}
	})
	m.exit.look()
}

// line puts a front between an exit and who reaches it by the registry.
func (m *member) line() *front {
	m.front = newFront(m.w.t, m.port)
	m.register(m.front.port)
	return m.front
}

// up runs a client and waits until its tunnel carries.
func (m *member) up(more ...func(*ClientConfig)) *member {
	m.w.t.Helper()
	cfg, ready := m.config(more...)
	var err error
	m.client, err = NewClient(cfg)
	must(m.w.t, err)
	m.run(m.client.Run, ready)
	return m
}

func (m *member) config(more ...func(*ClientConfig)) (ClientConfig, <-chan struct{}) {
	ready := make(chan struct{})
	cfg := ClientConfig{Home: m.home, Chain: m.chainAPI(), Wallet: api.NewWallet(m.dial("wallet")), Socks: "127.0.0.1:0", Now: m.clock, Ready: func() error { close(ready); return nil }}
	for _, fn := range more {
		fn(&cfg)
	}
	return cfg, ready
}

// via names the exits of a client.
func via(all ...*member) func(*ClientConfig) {
	return func(c *ClientConfig) {
		for _, m := range all {
			c.Via = append(c.Via, m.name)
		}
	}
}

// until waits for something to become so.
func (w *world) until(what string, so func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), wait)
	defer cancel()
	for !so() {
		if !pause(ctx, 5*time.Millisecond) {
			w.t.Fatalf("not in time: %s", what)
		}
	}
}

func (m *member) status() api.VPNStatus {
	m.w.t.Helper()
	s, err := m.api.Status(m.w.t.Context())
	must(m.w.t, err)
	return s
}

// meters are what a daemon counted, of all sessions.
func (m *member) meters() (all []api.VPNMeter) {
	m.w.t.Helper()
	must(m.w.t, m.api.Meters(m.w.t.Context(), 0, func(v api.VPNMeter) error { all = append(all, v); return nil }))
	return all
}

// total is the sum of what every session was.
func total(all []api.VPNMeter) (t api.VPNMeter) {
	for _, m := range all {
		t.Up, t.Down, t.Units, t.Owed, t.Acknowledged = t.Up+m.Up, t.Down+m.Down, t.Units+m.Units, t.Owed+m.Owed, t.Acknowledged+m.Acknowledged
		t.Held, t.Dropped, t.Lost, t.Unsolicited, t.Duplicate = t.Held+m.Held, t.Dropped+m.Dropped, t.Lost+m.Lost, t.Unsolicited+m.Unsolicited, t.Duplicate+m.Duplicate
	}
	return t
}

// earned is what an exit was paid on channels that it knows.
func (m *member) earned() (sum top.Amount) {
	m.exit.mu.Lock()
	defer m.exit.mu.Unlock()
	for _, a := range m.exit.accounts {
		sum += a.meter.Owed()
	}
	return sum
}

// receipts are the newest of each session in a file.
func (m *member) receipts(name string) map[top.SessionID]receipt.Record {
	m.w.t.Helper()
	all := map[top.SessionID]receipt.Record{}
	must(m.w.t, home.EachLine(m.home.Path("receipts", name), func(b []byte) error {
		var r receipt.Record
		err := json.Unmarshal(b, &r)
		all[r.Session] = r
		return err
	}))
	return all
}

// web is HTTP through the tunnel, each request on a connection of its own.
func (m *member) web() *http.Client {
	m.w.t.Helper()
	at := m.status().Socks
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "socks5", Host: at}), DisableKeepAlives: true}
	m.w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: wait}
}

// get fetches a page and gives its length.
func (m *member) get(url string) (int, error) {
	r, err := m.web().Get(url)
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	n, err := io.Copy(io.Discard, r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = errors.New(r.Status)
	}
	return int(n), err
}

// fetched is get of so many bytes that must succeed.
func (m *member) fetched(s *site, n int) {
	m.w.t.Helper()
	if got, err := m.get(s.bytes(n)); err != nil || got != n {
		m.w.t.Fatalf("%s fetched %d of %d bytes: %v; %+v", m.name, got, n, err, m.status())
	}
}

// A site is a web server on this machine: /N is N bytes, a POST gives its length.
type site struct {
	addr  netip.AddrPort
	conns atomic.Int64
	seen  sync.Map // paths
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s.addr = l.Addr().(*net.TCPAddr).AddrPort()
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.seen.Store(r.URL.Path, true)
			if r.Method == http.MethodPost {
				n, _ := io.Copy(io.Discard, r.Body)
				fmt.Fprint(w, n)
				return
			}
			n, _ := strconv.Atoi(r.URL.Path[1:])
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(make([]byte, n)))
		}),
		ConnState: func(_ net.Conn, st http.ConnState) {
			if st == http.StateNew {
				s.conns.Add(1)
			}
		},
	}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return s
}

func (s *site) bytes(n int) string { return "http://" + s.addr.String() + "/" + strconv.Itoa(n) }

// A front is a line of datagrams before an exit, that may lose and remember them.
type front struct {
	port uint16
	pc   *net.UDPConn
	done sync.WaitGroup

	mu    sync.Mutex
	lose  func(up bool, b []byte) bool
	keep  bool
	kept  [][]byte
	ways  map[netip.AddrPort]*net.UDPConn
	ended bool
}

func newFront(t testing.TB, port uint16) *front {
	t.Helper()
	return frontAt(t, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, port)
}

func frontAt(t testing.TB, at *net.UDPAddr, port uint16) *front {
	t.Helper()
	pc, err := net.ListenUDP("udp4", at)
	must(t, err)
	f := &front{pc: pc, port: pc.LocalAddr().(*net.UDPAddr).AddrPort().Port(), ways: map[netip.AddrPort]*net.UDPConn{}}
	exit := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)}
	f.done.Go(func() { f.listen(exit) })
	t.Cleanup(func() {
		f.mu.Lock()
		f.ended = true
		pc.Close()
		for _, c := range f.ways {
			c.Close()
		}
		f.mu.Unlock()
		f.done.Wait()
	})
	return f
}

// keeping makes it remember what passes.
func (f *front) keeping() *front {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keep = true
	return f
}

// roams makes whoever comes from here come from other ports from now on, as behind a NAT
// that forgot.
func (f *front) roams() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for from, c := range f.ways {
		c.Close()
		delete(f.ways, from)
	}
}

// passed is what it remembers.
func (f *front) passed() [][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.kept)
}

// losing sets which datagrams are lost; nil is none.
func (f *front) losing(fn func(up bool, b []byte) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lose = fn
}

func (f *front) passes(up bool, b []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keep {
		f.kept = append(f.kept, append([]byte{}, b...))
	}
	return f.lose == nil || !f.lose(up, b)
}

func (f *front) listen(exit *net.UDPAddr) {
	b := make([]byte, 1<<16)
	for {
		n, from, err := f.pc.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		f.mu.Lock()
		c := f.ways[from]
		if c == nil && !f.ended {
			if c, err = net.DialUDP("udp4", nil, exit); err == nil {
				f.ways[from] = c
				f.done.Go(func() { f.back(c, from) })
			}
		}
		f.mu.Unlock()
		if c != nil && f.passes(true, b[:n]) {
			c.Write(b[:n])
		}
	}
}

func (f *front) back(c *net.UDPConn, to netip.AddrPort) {
	b := make([]byte, 1<<16)
	for {
		n, err := c.Read(b)
		if err != nil {
			if f.pc == nil || errors.Is(err, net.ErrClosed) {
				return
			}
			continue // the exit is away: ECONNREFUSED
		}
		if f.passes(false, b[:n]) {
			f.pc.WriteToUDPAddrPort(b[:n], to)
		}
	}
}

// holds says whether any datagram that passed has these bytes.
func (f *front) holds(b []byte) bool {
	for _, k := range f.passed() {
		if bytes.Contains(k, b) {
			return true
		}
	}
	return false
}

// disk is a copy of what a home has on disk, as a kill -9 would leave it, in a new home.
func (m *member) disk(name string) home.Dir {
	t := m.w.t
	t.Helper()
	to := home.Dir(filepath.Join(m.w.dir, name))
	must(t, to.Make())
	for _, dir := range []string{"vpn", "receipts"} {
		all, err := os.ReadDir(m.home.Path(dir))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		must(t, err)
		must(t, os.MkdirAll(to.Path(dir), 0o700))
		for _, e := range all {
			if strings.HasPrefix(e.Name(), ".") {
				continue
			}
			b, err := os.ReadFile(m.home.Path(dir, e.Name()))
			if errors.Is(err, os.ErrNotExist) {
				continue // a file that was being replaced
			}
			must(t, err)
			must(t, os.WriteFile(to.Path(dir, e.Name()), b, 0o600))
		}
	}
	return to
}
