package explorer

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"top/lib/api"
	"top/lib/sock"
	"top/lib/top"
)

const evil = `<script>alert(1)</script>`

// world is a page over a node that answers with what strangers wrote.
func world(t *testing.T) *Server {
	t.Helper()
	answer := func(path string, v any) sock.Route {
		return sock.Route{Method: "GET", Path: path, Handle: func(c *sock.Call) error {
			if list, ok := v.([]any); ok {
				for _, r := range list {
					if err := c.Record(r); err != nil {
						return err
					}
				}
				return nil
			}
			return c.JSON(v)
		}}
	}
	me := top.Address{1}
	routes := []sock.Route{
		answer("/v1/status", api.ChainStatus{Type: "chain-status", Height: 42, Supply: top.One}),
		answer("/v1/events", []any{
			api.Event{Type: "block", Height: 41, Txs: 1},
			map[string]any{"type": "tx", "height": "41", "id": top.ID{9}, "kind": "transfer", "from": me, "ok": true, "fee": "1180", "message": evil},
			api.Event{Type: "block", Height: 42},
			api.Event{Type: "block", Height: 43},
		}),
		answer("/v1/accounts/{address}", api.Account{Type: "account", Address: me, Exists: true, Balance: 3 * top.One / 2}),
		answer("/v1/accounts/{address}/history", []any{api.Entry{Type: "entry", Account: me, Seq: 1, Kind: "transfer", Way: "in", Amount: top.One, Height: 41}}),
		answer("/v1/nodes", []any{api.Node{Type: "node", Node: top.NodeID{2}, Name: evil, Exists: true}}),
		answer("/v1/nodes/{id}", api.Node{Type: "node", Node: top.NodeID{2}, Name: evil, Exists: true}),
		answer("/v1/validators", []any{api.Validator{Type: "validator", Name: evil}}),
		answer("/v1/channels/{id}", api.Channel{Type: "channel", Channel: top.ID{7}, Exists: true, Cap: top.One}),
		{Method: "GET", Path: "/v1/txs/{id}", Handle: func(c *sock.Call) error {
			if c.Arg("id") != (top.ID{9}).String() {
				return top.Errorf(top.NotFound, "no such transaction")
			}
			return c.JSON(api.Tx{Type: "tx", ID: top.ID{9}, OK: true, Message: evil})
		}},
	}
	path := filepath.Join(t.TempDir(), "c.sock")
	srv, err := sock.New(sock.Config{Name: "chain", Sock: path, Routes: routes})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	s, err := New(Config{Listen: "127.0.0.1:0", Chain: api.NewChain(sock.Dial(path, "top-chain serve"))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.l.Close() })
	return s
}

func ask(t *testing.T, s *Server, method, path, host string) (int, string, http.Header) {
	t.Helper()
	q := httptest.NewRequest(method, path, nil)
	q.Host = host
	w := httptest.NewRecorder()
	s.ServeHTTP(w, q)
	return w.Code, w.Body.String(), w.Header()
}

const self = "127.0.0.1"

func TestPagesShowTheChain(t *testing.T) {
	s := world(t)
	for path, want := range map[string][]string{
		"/":                                     {`href="/block/42"`, "newest blocks", "1 TOP"},
		"/block/41":                             {`href="/tx/` + (top.ID{9}).String(), "0.00000118 TOP", `href="/account/` + (top.Address{1}).String()},
		"/account/" + (top.Address{1}).String(): {"1.5 TOP", "history", `href="/block/41"`},
		"/tx/" + (top.ID{9}).String():           {"transaction"},
		"/tx/" + (top.ID{7}).String():           {"channel"},
		"/channel/" + (top.ID{7}).String():      {"1 TOP"},
		"/nodes":                                {`href="/node/topnode1`},
		"/node/" + (top.NodeID{2}).String():     {"node"},
		"/validators":                           {"validators"},
	} {
		code, body, _ := ask(t, s, "GET", path, self)
		if code != 200 {
			t.Errorf("%s: %d", path, code)
		}
		for _, w := range want {
			if !strings.Contains(body, w) {
				t.Errorf("%s: no %q in\n%s", path, w, body)
			}
		}
	}
	for q, to := range map[string]string{"42": "/block/42", (top.Address{1}).String(): "/account/" + (top.Address{1}).String(), (top.ID{9}).String(): "/tx/" + (top.ID{9}).String(), "//evil.example": "/tx/"} {
		code, _, h := ask(t, s, "GET", "/find?q="+q, self)
		if code != http.StatusSeeOther || !strings.HasPrefix(h.Get("Location"), to) {
			t.Errorf("find %s: %d %s", q, code, h.Get("Location"))
		}
	}
	for path, want := range map[string]int{"/block/44": 404, "/block/x": 400, "/tx/" + (top.ID{8}).String(): 200, "/tx/zz": 400, "/account/top1x": 400, "/nothing": 404} {
		if code, body, _ := ask(t, s, "GET", path, self); code != want {
			t.Errorf("%s: %d, want %d: %s", path, code, want, body)
		}
	}
}

// Nothing but reading is answered.
func TestE1_ItOnlyReads(t *testing.T) {
	s := world(t)
	for _, m := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT"} {
		if code, _, _ := ask(t, s, m, "/", self); code != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", m, code)
		}
	}
}

// Other machines and names that others control reach nothing.
func TestE2_ThisMachineAlone(t *testing.T) {
	s := world(t)
	for host, want := range map[string]int{
		"127.0.0.1:0": 200, "localhost": 200, "localhost:0": 200, "[::1]:0": 200, "127.0.0.1": 200,
		"evil.example": 403, "evil.example:0": 403, "192.0.2.1": 403, "localhost.evil.example": 403, "": 403, "0.0.0.0": 403,
	} {
		if code, _, _ := ask(t, s, "GET", "/", host); code != want {
			t.Errorf("host %q: %d, want %d", host, code, want)
		}
	}
	for _, listen := range []string{"0.0.0.0:0", ":0", "192.0.2.1:0", "example.org:0", "nowhere"} {
		if l, err := New(Config{Listen: listen}); err == nil {
			l.l.Close()
			t.Errorf("listens on %s", listen)
		}
	}
}

// What strangers wrote stays text, and no script runs.
func TestE3_StrangersWriteNoPage(t *testing.T) {
	s := world(t)
	for _, path := range []string{"/block/41", "/nodes", "/validators", "/tx/" + (top.ID{9}).String(), "/node/" + (top.NodeID{2}).String(), "/" + evil, "/block/" + evil} {
		_, body, h := ask(t, s, "GET", path, self)
		if strings.Contains(body, "<script") {
			t.Errorf("%s: a script in the page", path)
		}
		if csp := h.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") {
			t.Errorf("%s: policy %q", path, csp)
		}
	}
}

// The page ends with the node, also while somebody looks.
func TestRunEnds(t *testing.T) {
	s := world(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	r, err := http.Get("http://" + s.Addr() + "/")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, r.Body)
	r.Body.Close()
	if r.StatusCode != 200 {
		t.Errorf("%s", r.Status)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func FuzzLink(f *testing.F) {
	f.Add("42")
	f.Fuzz(func(t *testing.T, text string) {
		if l := link(text); l != "" && (!strings.HasPrefix(l, "/") || strings.HasPrefix(l, "//")) {
			t.Fatalf("%q leads to %q", text, l)
		}
		if b, err := json.Marshal(map[string]string{"name": text}); err == nil {
			if _, _, err := fields(json.RawMessage(b)); err != nil {
				t.Fatal(err)
			}
		}
	})
}
