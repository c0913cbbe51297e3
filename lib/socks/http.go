package socks

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"top/lib/top"
)

const (
	maxHeader = 64 << 10
	idleHTTP  = 2 * time.Minute
)

// webServer serves those clients that speak HTTP. The function closes what it holds.
func (s *Server) webServer(ctx context.Context) (*http.Server, func()) {
	quiet := slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug)
	out := &http.Transport{
		DialContext:           s.cfg.Dial,
		DisableCompression:    true,
		MaxIdleConns:          64,
		IdleConnTimeout:       idleHTTP,
		ExpectContinueTimeout: time.Second,
	}
	plain := &httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.Out.Host = r.In.Host },
		Transport:    out,
		ErrorLog:     quiet,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { refuse(w, err) },
	}
	srv := &http.Server{
		ReadHeaderTimeout: s.cfg.AskTime,
		IdleTimeout:       idleHTTP,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          quiet,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				s.wg.Add(1)
			case http.StateClosed, http.StateHijacked:
				s.wg.Done()
			}
		},
		Handler: &counted{&s.wg, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case !s.admitted(r):
				w.Header().Set("Proxy-Authenticate", `Basic realm="proxy"`)
				http.Error(w, "this proxy wants a user and a password", http.StatusProxyAuthRequired)
			case r.Method == http.MethodConnect:
				s.tunnel(ctx, w, r)
			case r.URL.Scheme != "http" || r.URL.Host == "":
				http.Error(w, "this is a proxy: it wants CONNECT, or http:// in the request", http.StatusBadRequest)
			default:
				plain.ServeHTTP(w, r)
			}
		}},
	}
	return srv, func() { srv.Close(); out.CloseIdleConnections() }
}

// counted is a handler that wg waits for, also after it has taken the connection over
// from the server (S7): while it begins, the connection is counted.
type counted struct {
	wg *sync.WaitGroup
	do http.HandlerFunc
}

func (c *counted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.wg.Add(1)
	defer c.wg.Done()
	c.do(w, r)
}

// admitted looks for the password of a request (RFC 7617), and takes it out.
func (s *Server) admitted(r *http.Request) bool {
	said := r.Header.Get("Proxy-Authorization")
	r.Header.Del("Proxy-Authorization")
	if s.cfg.Auth == nil {
		return true
	}
	scheme, text, _ := strings.Cut(said, " ")
	b, err := base64.StdEncoding.DecodeString(text)
	user, pass, ok := strings.Cut(string(b), ":")
	return strings.EqualFold(scheme, "Basic") && err == nil && ok && s.cfg.Auth(user, pass)
}

// tunnel is CONNECT.
func (s *Server) tunnel(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil || host == "" || port == "" {
		http.Error(w, "CONNECT wants host:port", http.StatusBadRequest)
		return
	}
	// Of a client that waits no more than this for its own answer nothing can be read
	// meanwhile; the dial ends with the proxy, or by itself.
	out, err := s.cfg.Dial(ctx, "tcp", r.Host)
	if err != nil {
		refuse(w, err)
		return
	}
	c, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		out.Close()
		refuse(w, err)
		return
	}
	defer c.Close()
	c.SetDeadline(time.Time{})
	if _, err := c.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n")); err != nil {
		out.Close()
		return
	}
	relay(ctx, &client{c, rw.Reader}, out)
}

// refuse says why there is no answer (S3).
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusBadGateway
	switch {
	case errors.Is(err, top.ErrDenied):
		status = http.StatusForbidden
	case timedOut(err):
		status = http.StatusGatewayTimeout
	}
	http.Error(w, err.Error(), status)
}

// handedOver is a listener of connections that another has accepted.
type handedOver struct {
	addr net.Addr
	conn <-chan net.Conn
	ctx  context.Context
}

func (h *handedOver) Accept() (net.Conn, error) {
	select {
	case c := <-h.conn:
		return c, nil
	case <-h.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (h *handedOver) Close() error   { return nil }
func (h *handedOver) Addr() net.Addr { return h.addr }

// watched tells when a connection was closed.
type watched struct {
	*client
	done func()
}

func (w *watched) Close() error {
	defer w.done()
	return w.client.Close()
}
