// Package sock is a daemon's socket: claim it, serve a table of routes on it,
// know who calls; and the client that dials it. HTTP/1.1 with JSON bodies over
// a Unix socket (docs/contract.md, "Sockets").
//
//	K1  two daemons never serve one path: the claim is a lock, not a dial
//	K2  a route that changes something is refused to every uid but the owner's
//	K3  an error has the same kind on both sides of the socket
//	K4  when Run returns nothing of the server is left: no socket, no goroutine;
//	    the lock file stays, since to remove it would race with the next claim
package sock

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"top/lib/top"
)

// Access says who may call a route on the socket.
type Access int

const (
	// Read is for whoever can open the socket.
	Read Access = iota
	// Write needs the owner's uid.
	Write
)

func (a Access) String() string {
	if a == Write {
		return "write"
	}
	return "read"
}

// maxBody bounds what a caller may send, unless the route says otherwise.
const maxBody = 1 << 20

// Unlimited is the MaxBody of a route that reads its body as a stream.
const Unlimited = -1

// A Route is one line of a daemon's table.
type Route struct {
	Method string // "GET" to read, "POST" to change
	Path   string // "/v1/accounts/{address}"
	Access Access
	Public bool // also served to strangers, by Handler(true)
	Handle func(*Call) error

	MaxBody int64 // bytes that a caller may send; 0 is 1 MiB, Unlimited reads Call.Body to its end
}

// Config says what a Server serves.
type Config struct {
	Name    string          // of the daemon: "top-chain"
	Sock    string          // path of the socket
	Routes  []Route         // besides /v1/, /v1/health and /v1/metrics
	Log     *slog.Logger    // nil is silent
	Metrics func(io.Writer) // writes Prometheus text; nil writes none
	Health  func() error    // nil is always healthy
}

// A Server serves one socket.
type Server struct {
	cfg     Config
	ln      net.Listener
	release func()
	start   time.Time
}

// stopWait bounds how long Run waits for answers under way, and closeWait how
// long for their connections once they were closed. Together they stay below the
// five seconds in which a daemon stops.
const (
	stopWait  = 3 * time.Second
	closeWait = time.Second
)

// Run serves until ctx ends, then ends the streams, lets answers under way
// finish, removes the socket and returns nil.
func (s *Server) Run(ctx context.Context) error {
	base, cancel := context.WithCancel(context.Background())
	defer cancel()
	srv := s.httpServer(s.Handler(false))
	srv.BaseContext = func(net.Listener) context.Context { return base }
	srv.ConnContext = withPeer
	var conns sync.WaitGroup
	srv.ConnState = count(&conns)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(s.ln) }()
	var err error
	select {
	case err = <-done: // the listener failed: callers who are here must leave too
		cancel()
		srv.Close()
	case <-ctx.Done():
		cancel() // ends the streams
		stop, end := context.WithTimeout(context.Background(), stopWait)
		if srv.Shutdown(stop) != nil {
			srv.Close()
		}
		end()
		err = <-done
	}
	wait(&conns, closeWait)
	s.Close()
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", s.cfg.Sock, err)
	}
	return nil
}

// count keeps the number of connections whose goroutines have not ended.
func count(conns *sync.WaitGroup) func(net.Conn, http.ConnState) {
	return func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			conns.Add(1)
		case http.StateClosed, http.StateHijacked:
			conns.Done()
		}
	}
}

// wait waits for all connections to end, at most so long.
func wait(conns *sync.WaitGroup, most time.Duration) {
	ended := make(chan struct{})
	go func() { conns.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(most):
	}
}

// Close gives the socket up without serving it. It may be called twice.
func (s *Server) Close() {
	s.ln.Close()
	s.release()
}

// ServePublic serves the Public routes to strangers on ln until ctx ends.
func (s *Server) ServePublic(ctx context.Context, ln net.Listener) error {
	base, cancel := context.WithCancel(ctx)
	defer cancel()
	srv := s.httpServer(s.Handler(true))
	srv.BaseContext = func(net.Listener) context.Context { return base }
	var conns sync.WaitGroup
	srv.ConnState = count(&conns)
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	err := srv.Serve(ln)
	cancel()
	srv.Close() // in case that ln failed: the strangers who are here must leave too
	wait(&conns, closeWait)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve strangers: %w", err)
	}
	return nil
}

func (s *Server) httpServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
}

// Handler is the table as an http.Handler: all of it, or the Public routes.
func (s *Server) Handler(public bool) http.Handler {
	mux := http.NewServeMux()
	routes := append(s.own(), s.cfg.Routes...)
	for _, r := range routes {
		if public && !r.Public {
			continue
		}
		mux.HandleFunc(r.Method+" "+r.Path, func(w http.ResponseWriter, q *http.Request) {
			s.answer(r, public, w, q)
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, q *http.Request) {
		writeError(w, top.Errorf(top.NotFound, "%s has no route %s %s (GET /v1/ lists them)", s.cfg.Name, q.Method, q.URL.Path))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Top-Version", top.Version)
		w.Header().Set("Top-Contract", fmt.Sprint(top.Contract))
		mux.ServeHTTP(w, q)
	})
}

// answer runs one route and turns its error into a status.
func (s *Server) answer(r Route, public bool, w http.ResponseWriter, q *http.Request) {
	c := &Call{Request: q, w: w}
	err := allow(r, public, q)
	if err == nil {
		if q.Body != nil && r.MaxBody != Unlimited {
			q.Body = http.MaxBytesReader(w, q.Body, cmp.Or(r.MaxBody, maxBody))
		}
		err = r.Handle(c)
	}
	if err == nil {
		return
	}
	err = s.kind(q, err)
	s.cfg.Log.Debug("refused", "route", r.Path, "err", err)
	if c.began {
		// The status is gone: say the error as the last record instead.
		c.last(err)
		return
	}
	writeError(w, err)
}

// kind gives the kinds that the contract has for them to what a context ended: a
// caller may try again, and did not fail.
func (s *Server) kind(q *http.Request, err error) error {
	switch {
	case top.KindOf(err) != top.Failed:
	case errors.Is(err, context.DeadlineExceeded):
		return top.Errorf(top.Timeout, "%s %s took too long: %v", q.Method, q.URL.Path, err)
	case errors.Is(err, context.Canceled) && q.Context().Err() != nil:
		return top.Errorf(top.Offline, "%s stops (start it again: %[1]s serve)", s.cfg.Name)
	}
	return err
}

// allow refuses browsers, and writers that are not the owner (K2).
func allow(r Route, public bool, q *http.Request) error {
	if q.Header.Get("Origin") != "" || q.Header.Get("Referer") != "" {
		return top.Errorf(top.Denied, "calls from a web page are refused")
	}
	if r.Access == Write && !public {
		uid, ok := peerUID(q.Context())
		if !ok || uid != uint32(os.Getuid()) {
			return top.Errorf(top.Denied, "only the owner of this daemon may %s %s", q.Method, q.URL.Path)
		}
	}
	return nil
}

// About is the answer of GET /v1/.
type About struct {
	Name     string    `json:"name"`
	Version  string    `json:"version"`
	Contract int       `json:"contract"`
	UptimeMs top.Count `json:"uptime_ms"`
	Routes   []string  `json:"routes"`
}

// own is the routes that every daemon has.
func (s *Server) own() []Route {
	return []Route{
		{Method: "GET", Path: "/v1/{$}", Public: true, Handle: func(c *Call) error {
			a := About{s.cfg.Name, top.Version, top.Contract, top.Count(time.Since(s.start).Milliseconds()), nil}
			for _, r := range s.cfg.Routes {
				a.Routes = append(a.Routes, fmt.Sprintf("%s %s %s", r.Method, r.Path, r.Access))
			}
			return c.JSON(a)
		}},
		{Method: "GET", Path: "/v1/health", Handle: func(c *Call) error {
			if s.cfg.Health != nil {
				if err := s.cfg.Health(); err != nil {
					return top.Errorf(top.Offline, "not healthy: %v", err)
				}
			}
			return c.JSON(map[string]bool{"healthy": true})
		}},
		{Method: "GET", Path: "/v1/metrics", Handle: func(c *Call) error {
			c.w.Header().Set("Content-Type", "text/plain; version=0.0.4")
			fmt.Fprintf(c.w, "# TYPE top_uptime_seconds gauge\ntop_uptime_seconds %d\n", int(time.Since(s.start).Seconds()))
			if s.cfg.Metrics != nil {
				s.cfg.Metrics(c.w)
			}
			return nil
		}},
	}
}

// A Call is one request and its answer.
type Call struct {
	*http.Request
	w     http.ResponseWriter
	began bool // a stream has begun
}

// Arg is the value of {name} in the route's path.
func (c *Call) Arg(name string) string { return c.PathValue(name) }

// Query is a parameter after the question mark; "" when absent.
func (c *Call) Query(name string) string { return c.URL.Query().Get(name) }

// Count is a query parameter that is a count; 0 when absent.
func (c *Call) Count(name string) (uint64, error) {
	v := c.Query(name)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, top.Errorf(top.Invalid, "%s=%q: want a number", name, v)
	}
	return n, nil
}

// Decode reads the JSON body into v. Fields that v does not know are skipped.
func (c *Call) Decode(v any) error {
	b, err := io.ReadAll(c.Body)
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		return top.Errorf(top.Invalid, "the body is longer than %d KiB", tooLong.Limit>>10)
	}
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return top.Errorf(top.Invalid, "the body is not the JSON that %s %s takes: %v", c.Method, c.URL.Path, err)
	}
	return nil
}

// JSON answers with v.
func (c *Call) JSON(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	c.w.Header().Set("Content-Type", "application/json")
	_, err = c.w.Write(append(b, '\n'))
	return err
}

// Bytes answers with b as it is, of a content type.
func (c *Call) Bytes(kind string, b []byte) error {
	c.w.Header().Set("Content-Type", kind)
	_, err := c.w.Write(b)
	return err
}

// Copy answers with all that r gives, of a content type.
func (c *Call) Copy(kind string, r io.Reader) error {
	c.w.Header().Set("Content-Type", kind)
	_, err := io.Copy(c.w, r)
	return err
}

// A Flow is an answer that goes on while the body is still read.
type Flow struct {
	*bufio.Writer
	flush func() error
}

// Flush sends what was written.
func (f Flow) Flush() error {
	if f.Buffered() == 0 {
		return nil
	}
	if err := f.Writer.Flush(); err != nil {
		return err
	}
	return f.flush()
}

// Duplex begins an answer of a content type that is written while Body is read.
func (c *Call) Duplex(kind string) (Flow, error) {
	rc := http.NewResponseController(c.w)
	if err := rc.EnableFullDuplex(); err != nil {
		return Flow{}, fmt.Errorf("answer: %w", err)
	}
	c.w.Header().Set("Content-Type", kind)
	c.w.WriteHeader(http.StatusOK)
	if err := rc.Flush(); err != nil {
		return Flow{}, fmt.Errorf("answer: %w", err)
	}
	return Flow{bufio.NewWriterSize(c.w, 64<<10), rc.Flush}, nil
}

// Record answers with one more NDJSON record, flushed.
func (c *Call) Record(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	c.Begin()
	if _, err = c.w.Write(append(b, '\n')); err != nil {
		return err
	}
	return http.NewResponseController(c.w).Flush()
}

// Begin starts an NDJSON answer, so that a caller knows the stream is open
// before its first record.
func (c *Call) Begin() {
	if !c.began {
		c.began = true
		c.w.Header().Set("Content-Type", "application/x-ndjson")
		c.w.WriteHeader(http.StatusOK)
		http.NewResponseController(c.w).Flush()
	}
}

// Records answers with a stream that ends.
func Records[T any](c *Call, rs []T) error {
	c.Begin()
	for _, r := range rs {
		if err := c.Record(r); err != nil {
			return err
		}
	}
	return nil
}

// last ends a stream that has begun with the error as its last record.
func (c *Call) last(err error) {
	if b, e := json.Marshal(errorBody(err)); e == nil {
		c.w.Write(append(b, '\n'))
	}
}

// Failure is how an error crosses a socket and a pipe.
type Failure struct {
	Error *FailureBody `json:"error"`
}

// FailureBody is the inside of a Failure.
type FailureBody struct {
	Kind    top.Kind `json:"kind"`
	Message string   `json:"message"`
	RetryMs int64    `json:"retry_ms,omitempty"`
}

func errorBody(err error) Failure {
	f := &FailureBody{Kind: top.KindOf(err), Message: err.Error(), RetryMs: top.RetryAfter(err).Milliseconds()}
	f.Message = strings.TrimSuffix(f.Message, ": "+string(f.Kind))
	return Failure{f}
}

func writeError(w http.ResponseWriter, err error) {
	f := errorBody(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(f.Error.Kind.Status())
	json.NewEncoder(w).Encode(f)
}
