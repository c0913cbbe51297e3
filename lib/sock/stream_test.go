package sock

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"top/lib/pipe"
	"top/lib/top"
)

// A feed is an event stream as a daemon makes one: a queue for each reader.
type feed struct {
	mu     sync.Mutex
	queues []*pipe.Queue
	opened chan struct{}
}

func (f *feed) route(limit int) Route {
	return Route{Method: "GET", Path: "/v1/events", Handle: func(c *Call) error {
		q := pipe.NewQueue(limit)
		f.mu.Lock()
		f.queues = append(f.queues, q)
		f.mu.Unlock()
		c.Begin()
		f.opened <- struct{}{}
		for {
			rec, err := q.Next(c.Context())
			if err != nil {
				return err
			}
			if err := c.Record(rec); err != nil {
				return err
			}
		}
	}}
}

func (f *feed) put(rec any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, q := range f.queues {
		q.Put(rec)
	}
}

type event struct {
	Type string    `json:"type"`
	N    int       `json:"n"`
	Lost top.Count `json:"lost"`
	Fill string    `json:"fill,omitempty"`
}

func TestARecordIsFlushedAtOnce(t *testing.T) {
	f := feed{opened: make(chan struct{})}
	s := serve(t, Config{Routes: []Route{f.route(8)}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan string)
	ended := make(chan error, 1)
	go func() {
		ended <- s.Stream(ctx, "GET", "/v1/events", nil, func(b json.RawMessage) error { got <- string(b); return nil })
	}()
	<-f.opened
	for n := range 5 { // the next is put only once the last has come
		f.put(event{Type: "tick", N: n})
		if want, line := fmt.Sprintf(`"n":%d,`, n), <-got; !strings.Contains(line, want) {
			t.Errorf("%s, want %s", line, want)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a reader who leaves: %v", err)
	}
}

func TestASlowReaderIsToldAndDelaysNobody(t *testing.T) {
	const limit, sent = 16, 3000
	f := feed{opened: make(chan struct{})}
	s := serve(t, Config{Routes: []Route{f.route(limit)}})
	begin, first := make(chan struct{}), make(chan struct{})
	var records, gaps, lost int
	last := -1
	ended := make(chan error, 1)
	go func() {
		stop := errors.New("enough")
		err := s.Stream(t.Context(), "GET", "/v1/events", nil, func(b json.RawMessage) error {
			var e event
			if err := json.Unmarshal(b, &e); err != nil {
				return err
			}
			switch {
			case e.Type == "end":
				return stop
			case e.Type == "gap":
				gaps, lost = gaps+1, lost+int(e.Lost)
			case e.N <= last:
				return fmt.Errorf("%d after %d", e.N, last)
			default:
				records, last = records+1, e.N
			}
			if records == 1 && gaps == 0 {
				close(first)
				<-begin
			}
			return nil
		})
		if errors.Is(err, stop) {
			err = nil
		}
		ended <- err
	}()
	<-f.opened
	fill := strings.Repeat("x", 4000)
	f.put(event{Type: "tick", Fill: fill})
	<-first
	for n := 1; n < sent; n++ { // 12 MB that nobody reads
		f.put(event{Type: "tick", N: n, Fill: fill})
	}
	// The daemon answers others meanwhile.
	if err := s.Get(t.Context(), "/v1/health", nil); err != nil {
		t.Errorf("while one reads slowly: %v", err)
	}
	close(begin)
	for {
		select {
		case err := <-ended:
			if err != nil || gaps == 0 || records < limit || records+lost < sent {
				t.Errorf("%d records, %d gaps of %d, %d sent: %v", records, gaps, lost, sent, err)
			}
			return
		case <-time.After(time.Millisecond):
			f.put(event{Type: "end"}) // lost as well until the gap was told
		}
	}
}

func TestTornRecordsAreNone(t *testing.T) {
	for _, tc := range []struct {
		name, body string
		want       error
		records    int
	}{
		{"ended without a newline", "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{\"type\":\"a\"}\n{\"type\"", nil, 1},
		{"cut within", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n{\"type\":\"a\"}\n{\"type\"\r\n", top.ErrOffline, 1},
		{"cut before", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n{\"type\":\"a\"}\n\r\n", top.ErrOffline, 1},
		{"error of ours", "HTTP/1.1 404 X\r\nContent-Length: 43\r\n\r\n{\"error\":{\"kind\":\"denied\",\"message\":\"no\"}}\n", top.ErrDenied, 0},
		{"error of another's", "HTTP/1.1 502 X\r\nContent-Length: 4\r\n\r\noops", top.ErrFailed, 0},
		{"no HTTP", "SSH-2.0-OpenSSH\r\n", top.ErrOffline, 0},
		{"nothing", "", top.ErrOffline, 0},
	} {
		c := DialFunc(func(context.Context) (net.Conn, error) {
			here, there := net.Pipe()
			go func() {
				defer there.Close()
				buf := make([]byte, 4096)
				if _, err := there.Read(buf); err == nil {
					io.WriteString(there, tc.body)
				}
			}()
			return here, nil
		}, "no answer from the other side")
		n := 0
		err := c.Stream(t.Context(), "GET", "/v1/events", nil, func(b json.RawMessage) error {
			if n++; !json.Valid(b) {
				t.Errorf("%s: torn record %q", tc.name, b)
			}
			return nil
		})
		if top.KindOf(err) != top.KindOf(tc.want) || n != tc.records {
			t.Errorf("%s: %d records, %v, want %d, %v", tc.name, n, err, tc.records, tc.want)
		}
		c.Close()
	}
}

func TestClientKinds(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	s := serve(t, Config{Routes: []Route{
		{Method: "GET", Path: "/v1/hang", Handle: func(c *Call) error {
			select {
			case <-c.Context().Done():
			case <-release:
			}
			return nil
		}},
		{Method: "GET", Path: "/v1/long", Handle: func(c *Call) error { return c.JSON(strings.Repeat("x", 5000)) }},
		{Method: "GET", Path: "/v1/records", Handle: func(c *Call) error { return c.Record(strings.Repeat("x", 5000)) }},
	}})
	late, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Get(late, "/v1/hang", nil); !errors.Is(err, top.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a deadline: %v", err)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if err := s.Get(gone, "/v1/hang", nil); !errors.Is(err, context.Canceled) || errors.Is(err, top.ErrOffline) {
		t.Errorf("a caller who left: %v", err)
	}
	each := func(json.RawMessage) error { return nil }
	few := Dial(s.path, "top-x serve").Limit(4<<10, 4<<10)
	for path, err := range map[string]error{"/v1/long": few.Get(t.Context(), "/v1/long", nil), "/v1/records": few.Stream(t.Context(), "GET", "/v1/records", nil, each)} {
		if !errors.Is(err, top.ErrInvalid) || !strings.Contains(err.Error(), path+" is longer than 4 KiB") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := s.Get(t.Context(), "/v1/long", new(string)); err != nil {
		t.Errorf("within the usual limit: %v", err)
	}
	mine := errors.New("mine")
	if err := s.Stream(t.Context(), "GET", "/v1/records", nil, func(json.RawMessage) error { return mine }); err != mine {
		t.Errorf("each fails: %v", err)
	}
	if err := s.Post(t.Context(), "/v1/x", func() {}, nil); err == nil || !strings.Contains(err.Error(), "call /v1/x") {
		t.Errorf("what is no JSON: %v", err)
	}
	if err := s.Get(t.Context(), "/v1/\x00", nil); err == nil {
		t.Error("a path that is none")
	}
	nobody := Dial(place(t), "top-x serve")
	if err := nobody.Get(t.Context(), "/v1/", nil); !errors.Is(err, top.ErrOffline) || !strings.Contains(err.Error(), "(start it: top-x serve)") {
		t.Errorf("nobody: %v", err)
	}
	own := DialFunc(func(context.Context) (net.Conn, error) { return nil, top.Errorf(top.Denied, "not with you") }, "no answer")
	if err := own.Get(t.Context(), "/v1/", nil); !errors.Is(err, top.ErrDenied) || err.Error() != "not with you" {
		t.Errorf("a dialler that says why: %v", err)
	}
}

func TestK4_NothingIsLeft(t *testing.T) {
	t.Parallel()
	const streams = 8
	f := feed{opened: make(chan struct{})}
	var running atomic.Int32
	within := func(r Route) Route {
		handle := r.Handle
		r.Handle = func(c *Call) error {
			running.Add(1)
			defer running.Add(-1)
			return handle(c)
		}
		return r
	}
	entered, stuck := make(chan struct{}), make(chan struct{}, 1)
	s := serve(t, Config{Routes: []Route{
		within(f.route(1)),
		within(Route{Method: "GET", Path: "/v1/wait", Handle: func(c *Call) error { close(entered); <-c.Context().Done(); return c.Context().Err() }}),
		// A reader who reads nothing, and a handler that looks at no context.
		within(Route{Method: "GET", Path: "/v1/flood", Handle: func(c *Call) error {
			for {
				if err := c.Record(strings.Repeat("x", 1<<20)); err != nil {
					return err
				}
				select {
				case stuck <- struct{}{}:
				default:
				}
			}
		}}),
	}})
	ended := make(chan error, streams)
	for range streams {
		go func() {
			ended <- s.Stream(t.Context(), "GET", "/v1/events", nil, func(json.RawMessage) error { return nil })
		}()
		<-f.opened
	}
	waited := make(chan error, 1)
	go func() { waited <- s.Get(t.Context(), "/v1/wait", nil) }()
	<-entered
	flood, err := net.Dial("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer flood.Close()
	io.WriteString(flood, "GET /v1/flood HTTP/1.1\r\nHost: top\r\n\r\n")
	go io.CopyN(io.Discard, flood, 2<<20) // enough to see that it floods
	<-stuck
	begin := time.Now()
	if err := s.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("stopping took %v", took)
	}
	if n := running.Load(); n != 0 {
		t.Errorf("%d handlers still run", n)
	}
	if _, err := os.Stat(s.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	// Who waited or listened may try again: nothing failed.
	for range streams {
		if err := <-ended; !errors.Is(err, top.ErrOffline) {
			t.Errorf("a stream ends with %v", err)
		}
	}
	if err := <-waited; !errors.Is(err, top.ErrOffline) || !strings.Contains(err.Error(), "top-x serve") {
		t.Errorf("a call ends with %v", err)
	}
}

func TestK4_CallsUnderWayFinish(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	s := serve(t, Config{Routes: []Route{{Method: "POST", Path: "/v1/pay", Handle: func(c *Call) error {
		close(entered)
		<-leave
		return c.JSON("paid")
	}}}})
	var got string
	answered := make(chan error, 1)
	go func() { answered <- s.Post(t.Context(), "/v1/pay", nil, &got) }()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	for _, err := os.Stat(s.path); err == nil; _, err = os.Stat(s.path) {
		<-time.After(time.Millisecond) // until it takes no more calls
	}
	close(leave)
	if err := <-answered; err != nil || got != "paid" {
		t.Errorf("%q %v", got, err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestRunSaysWhenItsSocketFails(t *testing.T) {
	s, err := New(Config{Name: "top-x", Sock: place(t)})
	if err != nil {
		t.Fatal(err)
	}
	s.ln.Close()
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "serve "+s.cfg.Sock) {
		t.Errorf("%v", err)
	}
}

func FuzzFailure(f *testing.F) {
	f.Add([]byte(`{"error":{"kind":"busy","message":"later","retry_ms":15}}`))
	f.Add([]byte(`{"error":{"kind":"new","message":""}}`))
	f.Add([]byte(`{"error":{}}`))
	f.Add([]byte(`{"error":{"kind":7}}`))
	f.Add([]byte(`{"error":{"kind":"busy","retry_ms":9223372036854775807}}`))
	f.Add([]byte(`{"error":{"kind":"busy","retry_ms":-1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		err := recordError(b)
		if err == nil {
			return
		}
		if !bytes.HasPrefix(b, []byte(`{"error":{`)) {
			t.Fatalf("%q is an error", b)
		}
		if wait := top.RetryAfter(err); wait < 0 || wait > maxRetry {
			t.Fatalf("%q asks to wait %v", b, wait)
		}
		again, e := json.Marshal(errorBody(err))
		if e != nil {
			t.Fatal(e)
		}
		back := recordError(again)
		// A message that ends with its kind's name loses that once and no more.
		if back == nil || top.KindOf(back) != top.KindOf(err) || strings.TrimSuffix(err.Error(), ": "+string(top.KindOf(err))) != back.Error() {
			t.Fatalf("%q is %v, sent on as %q", b, err, again)
		}
	})
}
