package sock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"top/lib/top"
)

// place is a path for a socket, short enough wherever temporary files live.
func place(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "k")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "run", "x.sock")
}

// A running server, and what Run returned once stop was called.
type running struct {
	*Client
	path string
	stop func() error
}

func serve(t *testing.T, cfg Config) running {
	t.Helper()
	if cfg.Sock == "" {
		cfg.Sock = place(t)
	}
	cfg.Name = "top-x"
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	r := running{Client: Dial(cfg.Sock, "top-x serve"), path: cfg.Sock}
	r.stop = func() error {
		cancel()
		err := <-ended
		ended <- err
		return err
	}
	t.Cleanup(func() {
		r.Close()
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// plain is an HTTP client that shows status and headers as they are.
func plain(path string) *http.Client {
	return &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func ask(t *testing.T, h *http.Client, method, path string, header ...string) (*http.Response, string) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, "http://top"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	res, err := h.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

func yes(c *Call) error {
	return c.JSON(map[string]string{"method": c.Method, "name": c.Arg("name"), "q": c.Query("q")})
}

func TestWhatEveryDaemonAnswers(t *testing.T) {
	healthy := error(nil)
	s := serve(t, Config{
		Routes:  []Route{{Method: "GET", Path: "/v1/things/{name}", Handle: yes}, {Method: "POST", Path: "/v1/things", Access: Write, Handle: yes}},
		Metrics: func(w io.Writer) { fmt.Fprintln(w, "top_things 7") },
		Health:  func() error { return healthy },
	})
	var about About
	if err := s.Get(t.Context(), "/v1/", &about); err != nil {
		t.Fatal(err)
	}
	if about.Name != "top-x" || about.Version != top.Version || about.Contract != 1 || strings.Join(about.Routes, ", ") != "GET /v1/things/{name} read, POST /v1/things write" {
		t.Errorf("%+v", about)
	}
	var got map[string]string
	if err := s.Get(t.Context(), "/v1/things/a%2Fb?q=x%26y", &got); err != nil || got["name"] != "a/b" || got["q"] != "x&y" {
		t.Errorf("%v %v", got, err)
	}
	if err := s.Get(t.Context(), "/v1/health", nil); err != nil {
		t.Error(err)
	}
	healthy = errors.New("no blocks for a minute")
	if err := s.Get(t.Context(), "/v1/health", nil); !errors.Is(err, top.ErrOffline) || !strings.Contains(err.Error(), "no blocks for a minute") {
		t.Errorf("not healthy: %v", err)
	}
	h := plain(s.path)
	if res, _ := ask(t, h, "GET", "/v1/health"); res.StatusCode != 503 {
		t.Errorf("not healthy: status %d", res.StatusCode)
	}
	res, text := ask(t, h, "GET", "/v1/metrics")
	if res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain") || !strings.Contains(text, "\ntop_uptime_seconds ") || !strings.HasSuffix(text, "top_things 7\n") {
		t.Errorf("%v %q", res.Header, text)
	}
	for _, path := range []string{"/v1/", "/v1/health", "/v1/metrics", "/v1/things/x", "/nothing", "//v1/", "/v1"} {
		res, _ := ask(t, h, "GET", path)
		if res.Header.Get("Top-Version") != top.Version || res.Header.Get("Top-Contract") != "1" {
			t.Errorf("%s: %v", path, res.Header)
		}
	}
}

func TestUnknownRoutes(t *testing.T) {
	s := serve(t, Config{Routes: []Route{{Method: "POST", Path: "/v1/things", Handle: yes}}})
	for _, q := range [][2]string{{"GET", "/"}, {"GET", "/v2/"}, {"GET", "/v1/nothing"}, {"GET", "/v1/things"}, {"DELETE", "/v1/things"}, {"POST", "/v1/"}} {
		res, text := ask(t, plain(s.path), q[0], q[1])
		var f Failure
		if err := json.Unmarshal([]byte(text), &f); err != nil || f.Error == nil {
			t.Fatalf("%v: %q %v", q, text, err)
		}
		if res.StatusCode != 404 || res.Header.Get("Content-Type") != "application/json" || f.Error.Kind != top.NotFound || !strings.Contains(f.Error.Message, "GET /v1/ lists them") {
			t.Errorf("%v: %d %q", q, res.StatusCode, text)
		}
	}
	if err := s.Get(t.Context(), "/v1/nothing", nil); !errors.Is(err, top.ErrNotFound) {
		t.Errorf("client: %v", err)
	}
}

func TestPublicHandlerServesPublicRoutesOnly(t *testing.T) {
	s, err := New(Config{Name: "top-x", Sock: place(t), Routes: []Route{
		{Method: "GET", Path: "/v1/open", Public: true, Handle: yes},
		{Method: "POST", Path: "/v1/send", Access: Write, Public: true, Handle: yes},
		{Method: "GET", Path: "/v1/own", Handle: yes},
		{Method: "POST", Path: "/v1/own", Access: Write, Handle: yes},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.ServePublic(ctx, ln) }()
	c := DialFunc(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
	}, "no answer")
	defer c.Close()
	for _, q := range []struct {
		method, path string
		want         error
	}{
		{"GET", "/v1/", nil}, {"GET", "/v1/open", nil}, {"POST", "/v1/send", nil},
		{"GET", "/v1/own", top.ErrNotFound}, {"POST", "/v1/own", top.ErrNotFound}, {"GET", "/v1/health", top.ErrNotFound}, {"GET", "/v1/metrics", top.ErrNotFound},
	} {
		if err := c.do(ctx, q.method, q.path, nil, nil); !errors.Is(err, q.want) || q.want == nil && err != nil {
			t.Errorf("%s %s: %v, want %v", q.method, q.path, err, q.want)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ServePublic: %v", err)
	}
	if err := c.Get(t.Context(), "/v1/", nil); !errors.Is(err, top.ErrOffline) {
		t.Errorf("after the end: %v", err)
	}
	// A listener that fails is an error, and not a silent end.
	if ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := s.ServePublic(t.Context(), ln); err == nil || !strings.Contains(err.Error(), "serve strangers") {
		t.Errorf("a closed listener: %v", err)
	}
}

func TestBodiesHaveALimit(t *testing.T) {
	size := func(c *Call) error {
		var s string
		if err := c.Decode(&s); err != nil {
			return err
		}
		return c.JSON(len(s))
	}
	s := serve(t, Config{Routes: []Route{
		{Method: "POST", Path: "/v1/usual", Handle: size},
		{Method: "POST", Path: "/v1/large", MaxBody: 4 << 20, Handle: size},
		{Method: "POST", Path: "/v1/small", MaxBody: 2 << 10, Handle: size},
		{Method: "POST", Path: "/v1/object", Handle: func(c *Call) error {
			var v struct{ N int }
			if err := c.Decode(&v); err != nil {
				return err
			}
			return c.JSON(v.N)
		}},
	}})
	for _, tc := range []struct {
		path string
		most int
	}{{"/v1/usual", 1 << 20}, {"/v1/large", 4 << 20}, {"/v1/small", 2 << 10}} {
		var got int
		most := tc.most - 2 // the quotes of JSON
		if err := s.Post(t.Context(), tc.path, strings.Repeat("x", most), &got); err != nil || got != most {
			t.Errorf("%s, %d bytes: %d %v", tc.path, most, got, err)
		}
		for _, n := range []int{most + 1, most + 8<<20} {
			err := s.Post(t.Context(), tc.path, strings.Repeat("x", n), &got)
			if !errors.Is(err, top.ErrInvalid) || !strings.Contains(err.Error(), fmt.Sprintf("longer than %d KiB", tc.most>>10)) {
				t.Errorf("%s, %d bytes: %v", tc.path, n, err)
			}
		}
	}
	var n int
	if err := s.Post(t.Context(), "/v1/object", map[string]any{"n": 5, "later": "field"}, &n); err != nil || n != 5 {
		t.Errorf("an unknown field: %d %v", n, err)
	}
	for _, body := range []any{nil, "text", []int{1}, map[string]string{"n": "5"}, json.RawMessage(`{"n":5}{}`), json.RawMessage(`{"n":`)} {
		var in any = body
		if raw, ok := body.(json.RawMessage); ok {
			res, err := plain(s.path).Post("http://top/v1/object", "application/json", strings.NewReader(string(raw)))
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != 400 {
				t.Errorf("%s: status %d", raw, res.StatusCode)
			}
			continue
		}
		if err := s.Post(t.Context(), "/v1/object", in, nil); !errors.Is(err, top.ErrInvalid) || !strings.Contains(err.Error(), "POST /v1/object") {
			t.Errorf("%v: %v", body, err)
		}
	}
}

func TestK3_EveryKindSurvives(t *testing.T) {
	errs := map[string]error{}
	for _, k := range top.Kinds() {
		errs["plain-"+string(k)] = top.Errorf(k, "no %s <&> here", k)
		errs["wrapped-"+string(k)] = fmt.Errorf("room: %w", fmt.Errorf("no %s <&> here: %w", k, k.Err()))
		errs["bare-"+string(k)] = k.Err()
	}
	errs["none"] = errors.New("no failed <&> here")
	errs["wait"] = fmt.Errorf("room: %w", &top.Error{Kind: top.Busy, Message: "no busy <&> here", RetryAfter: 1500 * time.Millisecond})
	s := serve(t, Config{Routes: []Route{
		{Method: "GET", Path: "/v1/fail/{name}", Handle: func(c *Call) error { return errs[c.Arg("name")] }},
		{Method: "GET", Path: "/v1/stream/{name}", Handle: func(c *Call) error {
			if err := c.Record(map[string]string{"type": "first"}); err != nil {
				return err
			}
			return errs[c.Arg("name")]
		}},
	}})
	for name, sent := range errs {
		records := 0
		for path, err := range map[string]error{
			"/v1/fail/": s.Get(t.Context(), "/v1/fail/"+name, nil),
			"/v1/stream/": s.Stream(t.Context(), "GET", "/v1/stream/"+name, nil, func(b json.RawMessage) error {
				records++
				return nil
			}),
		} {
			kind := top.KindOf(sent)
			if top.KindOf(err) != kind || !errors.Is(err, kind.Err()) || top.RetryAfter(err) != top.RetryAfter(sent) {
				t.Errorf("%s%s: %v of kind %s, retry after %v", path, name, err, top.KindOf(err), top.RetryAfter(err))
			}
			if want := strings.TrimSuffix(sent.Error(), ": "+string(kind)); err.Error() != want {
				t.Errorf("%s%s: %q, want %q", path, name, err, want)
			}
		}
		if records != 1 {
			t.Errorf("%s: %d records before the error", name, records)
		}
		if res, _ := ask(t, plain(s.path), "GET", "/v1/fail/"+name); res.StatusCode != top.KindOf(sent).Status() {
			t.Errorf("%s: status %d", name, res.StatusCode)
		}
	}
}

func TestDeadlineInADaemonIsATimeout(t *testing.T) {
	s := serve(t, Config{Routes: []Route{{Method: "GET", Path: "/v1/late", Handle: func(c *Call) error {
		ctx, cancel := context.WithTimeout(c.Context(), time.Nanosecond)
		defer cancel()
		<-ctx.Done()
		return fmt.Errorf("ask a peer: %w", ctx.Err())
	}}}})
	if err := s.Get(t.Context(), "/v1/late", nil); !errors.Is(err, top.ErrTimeout) || !strings.Contains(err.Error(), "/v1/late") {
		t.Errorf("%v", err)
	}
}

func TestBytesAndBadAnswers(t *testing.T) {
	s := serve(t, Config{Routes: []Route{
		{Method: "GET", Path: "/v1/raw", Handle: func(c *Call) error { return c.Bytes("application/x-raw", []byte("\x00raw")) }},
		{Method: "GET", Path: "/v1/never", Handle: func(c *Call) error { return c.JSON(func() {}) }},
		{Method: "GET", Path: "/v1/neither", Handle: func(c *Call) error { return c.Record(func() {}) }},
	}})
	if res, text := ask(t, plain(s.path), "GET", "/v1/raw"); text != "\x00raw" || res.Header.Get("Content-Type") != "application/x-raw" {
		t.Errorf("%q %v", text, res.Header)
	}
	if err := s.Get(t.Context(), "/v1/raw", new(string)); !errors.Is(err, top.ErrInvalid) || !strings.Contains(err.Error(), "/v1/raw") {
		t.Errorf("no JSON: %v", err)
	}
	for _, path := range []string{"/v1/never", "/v1/neither"} {
		if err := s.Get(t.Context(), path, nil); !errors.Is(err, top.ErrFailed) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
