package carry

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"top/lib/top"
)

// backlog is how many carriers wait for Accept; more are closed.
const backlog = 64

// ServerConfig says what a server shows and to whom it carries.
type ServerConfig struct {
	Addr  string   // host:port, of TCP and UDP alike: ":443"; a port 0 is any that both have free
	Kinds []Kind   // nil: both; without QUIC nothing listens on UDP
	Key   [32]byte // the exit's WireGuard public key; whoever knows it can ask to be carried

	// Certificate is the site's. The zero one is self-made for ServerName, anew at
	// each start: a browser warns of it, as a prober notes, and a client must pin it
	// or take any.
	Certificate tls.Certificate
	ServerName  string // of a self-made certificate; empty: "localhost"

	// Cover answers everybody else, over every version of HTTP. Nil: a small site
	// whose words the key chooses, which is better than nothing; see CoverOf.
	Cover http.Handler

	Pad bool // small datagrams show in three sizes (HC8)

	MaxStrangers int // connections that have proved nothing; 0: 1,024
	MaxPerSource int // of them, from one IPv4 address or IPv6 /64; 0: 64

	Log *slog.Logger // nil is silent
}

// A Server is a web server that carries.
type Server struct {
	cfg       ServerConfig
	altSvc    string
	strangers *strangers
	patience  patience
	tcp       net.Listener
	udp       net.PacketConn // nil without QUIC
	accepted  chan Conn
	done      chan struct{} // Run has ended

	answering sync.RWMutex // held for reading by who answers a request

	mu     sync.Mutex
	ended  bool
	taken  map[Conn]bool // and not closed
	served bool
}

// The keys of what a context holds.
type (
	guestKey struct{} // a QUIC connection's func(): it is no stranger any more
	quicKey  struct{} // *quic.Conn
)

// Listen binds the sockets; Run serves and closes them.
func Listen(cfg ServerConfig) (*Server, error) {
	if cfg.Key == ([32]byte{}) {
		return nil, fmt.Errorf("listen %s: no key: %w", cfg.Addr, top.ErrUsage)
	}
	if cfg.Kinds == nil {
		cfg.Kinds = []Kind{QUIC, WSS}
	}
	for _, k := range cfg.Kinds {
		if k != QUIC && k != WSS {
			return nil, fmt.Errorf("listen %s: carrier of kind %q (there are quic and wss): %w", cfg.Addr, k, top.ErrUsage)
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Cover == nil {
		cfg.Cover = site(cfg.Key)
	}
	if len(cfg.Certificate.Certificate) == 0 {
		var err error
		if cfg.Certificate, err = SelfMade(cfg.ServerName); err != nil {
			return nil, err
		}
	}
	s := &Server{
		cfg: cfg, strangers: newStrangers(cfg.MaxStrangers, cfg.MaxPerSource), patience: usualPatience(), accepted: make(chan Conn, backlog), done: make(chan struct{}), taken: map[Conn]bool{},
	}
	if err := s.bind(); err != nil {
		return nil, fmt.Errorf("listen %s: %v: %w", cfg.Addr, err, top.ErrUsage)
	}
	if s.udp != nil {
		s.altSvc = `h3=":` + strconv.Itoa(int(s.Addr().Port())) + `"; ma=2592000`
	}
	return s, nil
}

// bind takes a port of TCP, and the same of UDP.
func (s *Server) bind() error {
	host, port, err := net.SplitHostPort(s.cfg.Addr)
	if err != nil {
		return err
	}
	for range 16 {
		if s.tcp, err = net.Listen("tcp", s.cfg.Addr); err != nil || !slices.Contains(s.cfg.Kinds, QUIC) {
			return err
		}
		s.udp, err = net.ListenPacket("udp", net.JoinHostPort(host, strconv.Itoa(int(s.Addr().Port()))))
		if err == nil {
			return nil
		}
		s.tcp.Close()
		if port != "0" {
			break
		}
	}
	return err
}

// Addr is where it listens.
func (s *Server) Addr() netip.AddrPort { return addrPort(s.tcp.Addr()) }

// Pin is what a client's DialConfig.Pin must be.
func (s *Server) Pin() ([32]byte, error) { return PinOfCertificate(s.cfg.Certificate) }

// Accept waits for the next client that has proved the key. Whoever gets a Conn
// closes it; what nobody accepts within Run is closed by Run.
func (s *Server) Accept(ctx context.Context) (Conn, error) {
	select {
	case <-s.done: // what still waits there is closed
		return nil, fmt.Errorf("accept: %w", net.ErrClosed)
	default:
	}
	select {
	case c := <-s.accepted:
		return c, nil
	case <-s.done:
		return nil, fmt.Errorf("accept: %w", net.ErrClosed)
	case <-ctx.Done():
		return nil, fmt.Errorf("accept: %w", ctx.Err())
	}
}

// Run serves until ctx is done, then closes every carrier that it made. It is
// called once.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.served {
		s.mu.Unlock()
		return fmt.Errorf("serve %s again: %w", s.Addr(), top.ErrUsage)
	}
	s.served = true
	s.mu.Unlock()
	logger := slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug)
	web := &http.Server{
		Handler: http.HandlerFunc(s.overTCP), ErrorLog: logger, MaxHeaderBytes: maxHeaderSize,
		ReadHeaderTimeout: s.patience.header, ReadTimeout: s.patience.body, WriteTimeout: s.patience.answer, IdleTimeout: s.patience.quiet,
		TLSConfig:   &tls.Config{Certificates: []tls.Certificate{s.cfg.Certificate}, MinVersion: tls.VersionTLS12},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, guestKey{}, c) },
	}
	var run sync.WaitGroup
	failed := make(chan error, 2)
	run.Go(func() {
		if err := web.ServeTLS(&gate{s.tcp, s.strangers, s.patience.life}, "", ""); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	})
	stopQUIC := func() {}
	if s.udp != nil {
		stop, err := s.serveQUIC(&run, failed)
		if err != nil {
			failed <- err
		} else {
			stopQUIC = stop
		}
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("serve %s: %v: %w", s.Addr(), err, top.ErrFailed)
	}
	s.closeAll()
	web.Close()
	stopQUIC()
	run.Wait()
	if s.udp != nil {
		s.udp.Close()
	}
	s.answering.Lock() // whoever answers has answered
	close(s.done)
	s.answering.Unlock()
	return err
}

// serveQUIC starts HTTP/3; stop ends it.
func (s *Server) serveQUIC(run *sync.WaitGroup, failed chan<- error) (stop func(), err error) {
	t := &quic.Transport{
		Conn:                s.udp,
		VerifySourceAddress: func(net.Addr) bool { return s.strangers.crowded() },
		ConnContext: func(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
			leave, err := s.strangers.enter(info.RemoteAddr, time.Now())
			if err != nil {
				return nil, err
			}
			context.AfterFunc(ctx, leave)
			return context.WithValue(ctx, guestKey{}, leave), nil
		},
	}
	h3 := &http3.Server{
		Handler: http.HandlerFunc(s.overQUIC), EnableDatagrams: true, MaxHeaderBytes: maxHeaderSize, IdleTimeout: s.patience.quiet, Logger: s.cfg.Log,
		ConnContext: func(ctx context.Context, c *quic.Conn) context.Context {
			leave, _ := ctx.Value(guestKey{}).(func())
			life := time.AfterFunc(s.patience.life, func() { c.CloseWithError(noError, "") })
			context.AfterFunc(c.Context(), func() { life.Stop() })
			ctx = context.WithValue(ctx, guestKey{}, func() { life.Stop(); leave() })
			return context.WithValue(ctx, quicKey{}, c)
		},
	}
	conf := http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{s.cfg.Certificate}, MinVersion: tls.VersionTLS13})
	l, err := t.ListenEarly(conf, quicConfig())
	if err != nil {
		return nil, err
	}
	run.Go(func() {
		if err := h3.ServeListener(l); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	})
	return func() { h3.Close(); l.Close(); t.Close() }, nil
}

// overTCP answers HTTP/1.1 and 2.
func (s *Server) overTCP(w http.ResponseWriter, r *http.Request) {
	defer s.answer()()
	if s.altSvc != "" {
		w.Header()["Alt-Svc"] = []string{s.altSvc}
	}
	if !proved(s.cfg.Key, r) || !asksUpgrade(r) || !slices.Contains(s.cfg.Kinds, WSS) {
		s.cfg.Cover.ServeHTTP(w, r)
		return
	}
	c, in, err := takeWSS(w, r)
	if err != nil {
		s.cfg.Log.Debug("a websocket was not taken", "error", err)
		return
	}
	if t, ok := r.Context().Value(guestKey{}).(*tls.Conn); ok {
		if g, ok := t.NetConn().(*guest); ok {
			g.known()
		}
	}
	s.take(func(end func(Conn)) Conn { return newServerWSS(c, in, s.cfg.Pad, end) })
}

// newServerWSS and its like tell end which carrier ended.
func newServerWSS(c *tls.Conn, in *bufio.Reader, pad bool, end func(Conn)) Conn {
	var w *wssConn
	w = newWSS(c, in, pad, func() { end(w) })
	return w
}

func newServerQUIC(c *quic.Conn, pad bool, end func(Conn)) Conn {
	var q *quicConn
	q = newQUIC(c, pad, func() { end(q) })
	return q
}

// overQUIC answers HTTP/3.
func (s *Server) overQUIC(w http.ResponseWriter, r *http.Request) {
	defer s.answer()()
	c, ok := r.Context().Value(quicKey{}).(*quic.Conn)
	if !proved(s.cfg.Key, r) || r.Method != http.MethodConnect || !ok {
		s.cfg.Cover.ServeHTTP(w, r)
		return
	}
	if err := takeQUIC(w, c); err != nil {
		s.cfg.Log.Debug("a QUIC connection was not taken", "error", err)
		return
	}
	if known, ok := r.Context().Value(guestKey{}).(func()); ok {
		known()
	}
	s.take(func(end func(Conn)) Conn { return newServerQUIC(c, s.cfg.Pad, end) })
}

// answer has Run wait for a request until done; after Run there is none.
func (s *Server) answer() (done func()) {
	s.answering.RLock()
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	if ended {
		s.answering.RUnlock()
		panic(http.ErrAbortHandler)
	}
	return s.answering.RUnlock
}

// take makes a carrier and offers it to Accept.
func (s *Server) take(make func(end func(Conn)) Conn) {
	c := make(func(c Conn) {
		s.mu.Lock()
		delete(s.taken, c)
		s.mu.Unlock()
	})
	s.mu.Lock()
	ended := s.ended
	if !ended {
		s.taken[c] = true
	}
	s.mu.Unlock()
	if ended {
		c.Close()
		return
	}
	select {
	case s.accepted <- c:
	default:
		s.cfg.Log.Warn("a carrier was closed: too many wait to be accepted")
		c.Close()
	}
}

// closeAll ends every carrier; take makes no more.
func (s *Server) closeAll() {
	s.mu.Lock()
	s.ended = true
	var all []Conn
	for c := range s.taken {
		all = append(all, c)
	}
	s.mu.Unlock()
	var wait sync.WaitGroup
	for _, c := range all {
		wait.Go(func() { c.Close() })
	}
	wait.Wait()
}
