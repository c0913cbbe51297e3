// Package socks is a local proxy: SOCKS5 (RFC 1928, with the passwords of RFC 1929),
// HTTP CONNECT and plain HTTP requests in absolute form (RFC 9110, section 9.3.6, RFC
// 9112, section 3.2.2) on one port, told apart by the first byte. It reaches nothing
// by itself: a dialer does.
//
//	S1  a name reaches the dialer as the client wrote it: nobody here resolves it
//	S2  with Auth set, who has not said the password reaches no dialer
//	S3  a client is told why a dial failed, in the code of its protocol
//	S4  clients, their flows and the time they have to ask are bounded
//	S5  each way of a connection ends by itself
//	S6  datagrams are taken from the client that asked for them, and their answers go
//	    to nobody else; fragments are dropped
//	S7  when Run returns nothing is left
package socks

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"top/lib/top"
)

// Config says what a Server serves.
type Config struct {
	Listener net.Listener // Run closes it

	// Dial connects to host:port; network is tcp or udp, and the host a name or an
	// address. A udp connection sends and receives one datagram at a time.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	Auth     func(user, password string) bool // nil asks for none
	MaxConns int                              // clients at once, further ones are closed; 0 is 1,024
	MaxFlows int                              // of datagrams, for each client; 0 is 256
	AskTime  time.Duration                    // a client has to say what it wants; 0 is 10 s
	IdleUDP  time.Duration                    // 0 is 2 min (RFC 4787, REQ-5)
	Log      *slog.Logger                     // nil is silent
}

// A Server is one proxy.
type Server struct {
	cfg  Config
	conn chan net.Conn
	wg   sync.WaitGroup
}

// New makes a Server; Run serves.
func New(cfg Config) (*Server, error) {
	if cfg.Listener == nil || cfg.Dial == nil {
		return nil, fmt.Errorf("proxy without a listener or a dialer: %w", top.ErrInvalid)
	}
	cfg.MaxConns = cmp.Or(cfg.MaxConns, 1024)
	cfg.MaxFlows = cmp.Or(cfg.MaxFlows, 256)
	cfg.AskTime = cmp.Or(cfg.AskTime, 10*time.Second)
	cfg.IdleUDP = cmp.Or(cfg.IdleUDP, 2*time.Minute)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, conn: make(chan net.Conn)}, nil
}

// Run serves until ctx ends, then ends all connections and returns nil.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := atEnd(ctx, func() { s.cfg.Listener.Close() })
	defer stop()
	web, closeWeb := s.webServer(ctx)
	s.wg.Go(func() { web.Serve(&handedOver{s.cfg.Listener.Addr(), s.conn, ctx}) })
	room := make(chan struct{}, s.cfg.MaxConns)
	var failed error
	for {
		c, err := s.cfg.Listener.Accept()
		if err != nil {
			if ctx.Err() == nil {
				failed = fmt.Errorf("proxy on %s: %w: %w", s.cfg.Listener.Addr(), err, top.ErrFailed)
			}
			break
		}
		select {
		case room <- struct{}{}:
		default:
			c.Close()
			s.cfg.Log.Warn("proxy is full", "clients", s.cfg.MaxConns)
			continue
		}
		s.wg.Go(func() {
			defer func() { <-room }()
			s.serve(ctx, c)
		})
	}
	cancel()
	closeWeb()
	s.wg.Wait()
	return failed
}

// serve looks at the first byte of a client, and ends with its connection.
func (s *Server) serve(ctx context.Context, c net.Conn) {
	stop := atEnd(ctx, func() { c.Close() })
	defer stop()
	defer c.Close()
	c.SetDeadline(time.Now().Add(s.cfg.AskTime))
	r := bufio.NewReader(c)
	first, err := r.Peek(1)
	switch {
	case err != nil:
	case first[0] == version:
		s.socks5(ctx, &client{c, r})
	case first[0] >= 'A' && first[0] <= 'Z':
		c.SetDeadline(time.Time{})
		w := &client{c, r}
		done := make(chan struct{})
		select {
		case s.conn <- &watched{client: w, done: sync.OnceFunc(func() { close(done) })}:
			<-done
		case <-ctx.Done():
		}
	}
}

// A client is a connection of which some bytes have been read ahead.
type client struct {
	net.Conn
	r *bufio.Reader
}

func (c *client) Read(b []byte) (int, error) { return c.r.Read(b) }

// CloseWrite ends the way to the client.
func (c *client) CloseWrite() error { return closeWrite(c.Conn) }

func closeWrite(c net.Conn) error {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

// relay carries both ways until both have ended, or one fails.
func relay(ctx context.Context, a, b net.Conn) {
	closeBoth := func() { a.Close(); b.Close() }
	stop := atEnd(ctx, closeBoth)
	defer stop()
	defer closeBoth()
	carry := func(dst, src net.Conn) {
		_, err := io.Copy(dst, src)
		if err != nil || closeWrite(dst) != nil {
			closeBoth()
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { carry(a, b) })
	wg.Go(func() { carry(b, a) })
	wg.Wait()
}

// atEnd runs f when ctx ends, unless stop was called before; stop waits for an f that
// has begun.
func atEnd(ctx context.Context, f func()) (stop func()) {
	done := make(chan struct{})
	keep := context.AfterFunc(ctx, func() {
		defer close(done)
		f()
	})
	return func() {
		if !keep() {
			<-done
		}
	}
}
