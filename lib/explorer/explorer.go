// Package explorer is a page on this machine that shows the chain to a person: blocks,
// transactions, accounts with their histories, channels, nodes and validators, as its
// own node tells and, where it is a light client, has checked.
//
//	E1  it reads: nothing that it is asked changes anything
//	E2  it answers this machine alone, to pages of its own: neither another address nor
//	    another name in a browser's request reaches it
//	E3  what strangers wrote cannot become part of the page
//
// It is for people: programs ask the socket (docs/contract.md).
package explorer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"top/lib/api"
	"top/lib/top"
)

// Config says where the page is and whom it asks.
type Config struct {
	Listen string // HOST:PORT, of loopback; a port 0 takes a free one
	Chain  *api.Chain
	Log    *slog.Logger // nil is silent
}

// A Server is the page.
type Server struct {
	cfg  Config
	l    net.Listener
	page *template.Template
	mux  *http.ServeMux
}

const (
	askWait = 5 * time.Second
	blocks  = 20  // on the first page
	entries = 200 // of a history, the newest
	listed  = 500 // of nodes and validators
)

// New listens. An address that is not loopback is refused (E2).
func New(cfg Config) (*Server, error) {
	host, _, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, top.Errorf(top.Usage, "--http %q: want HOST:PORT, such as 127.0.0.1:8080", cfg.Listen)
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return nil, top.Errorf(top.Denied, "--http %s: only this machine may look (127.0.0.1:PORT; from elsewhere: ssh -L)", cfg.Listen)
	}
	tmpl, err := template.New("page").Funcs(template.FuncMap{"link": link}).Parse(page)
	if err != nil {
		return nil, fmt.Errorf("explorer: %w", err)
	}
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, top.Errorf(top.Failed, "--http %s: %v (is the port taken?)", cfg.Listen, err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, l: l, page: tmpl, mux: http.NewServeMux()}
	for path, show := range map[string]func(context.Context, *http.Request) (view, error){
		"/{$}": s.home, "/block/{height}": s.block, "/tx/{id}": s.tx, "/account/{address}": s.account, "/channel/{id}": s.channel,
		"/nodes": s.nodes, "/node/{id}": s.node, "/validators": s.validators,
	} {
		s.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, q *http.Request) { s.answer(w, q, show) })
	}
	s.mux.HandleFunc("GET /find", find)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, q *http.Request) {
		s.answer(w, q, func(context.Context, *http.Request) (view, error) {
			return view{}, top.Errorf(top.NotFound, "no page %s", q.URL.Path)
		})
	})
	return s, nil
}

// Addr is where it listens.
func (s *Server) Addr() string { return s.l.Addr().String() }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	srv := &http.Server{Handler: s, ReadHeaderTimeout: askWait, ReadTimeout: askWait, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10, ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug)}
	done := make(chan struct{})
	defer close(done)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-ctx.Done():
		case <-done:
		}
		srv.Close()
	}()
	err := srv.Serve(s.l)
	if ctx.Err() != nil {
		<-stopped
		return nil
	}
	return err
}

// ServeHTTP refuses what another page may have sent (E2): a name that only resolves to
// this machine, and whatever changes something.
func (s *Server) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	host, _, err := net.SplitHostPort(q.Host)
	if err != nil {
		host = q.Host
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	switch {
	case host != "localhost" && (err != nil || !ip.IsLoopback()):
		http.Error(w, "this page is for this machine: ask for 127.0.0.1", http.StatusForbidden)
		return
	case q.Method != http.MethodGet && q.Method != http.MethodHead:
		http.Error(w, "this page only reads", http.StatusMethodNotAllowed)
		return
	}
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	s.mux.ServeHTTP(w, q)
}

// view is what a page shows.
type view struct {
	Title   string
	Refresh int // seconds; 0 never
	Error   string
	Tables  []table
}

// table is rows of cells under names; of one record each row is a name and a value.
type table struct {
	Name string
	Head []string
	Rows [][]any
}

func (s *Server) answer(w http.ResponseWriter, q *http.Request, show func(context.Context, *http.Request) (view, error)) {
	ctx, cancel := context.WithTimeout(q.Context(), askWait)
	defer cancel()
	v, err := show(ctx, q)
	status := http.StatusOK
	if err != nil {
		v.Title, v.Error, status = "no answer", err.Error(), top.KindOf(err).Status()
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if err := s.page.Execute(w, v); err != nil {
		s.cfg.Log.Debug("page", "err", err)
	}
}

// find leads to what a text names.
func find(w http.ResponseWriter, q *http.Request) {
	text := strings.TrimSpace(q.URL.Query().Get("q"))
	to := link(text)
	if to == "" {
		to = "/tx/" + url.PathEscape(text)
	}
	http.Redirect(w, q, to, http.StatusSeeOther)
}

// link is the page of a value; "" is none.
func link(value any) string {
	text, kind := fmt.Sprint(value), ""
	if c, ok := value.(cell); ok {
		text, kind = c.Text, c.Kind
	}
	switch {
	case strings.Trim(text, "0") == "":
		return "" // the genesis has neither block nor transaction
	case kind == "channel":
		return "/channel/" + text
	case strings.HasPrefix(text, "topnode1"):
		return "/node/" + text
	case strings.HasPrefix(text, "top1"):
		return "/account/" + text
	case kind == "height" || kind == "" && text != "" && len(text) < 19 && strings.Trim(text, "0123456789") == "":
		return "/block/" + text
	case len(text) == 64 && strings.Trim(text, "0123456789abcdef") == "" && (kind == "" || kind == "id" || kind == "tx"):
		return "/tx/" + text
	}
	return ""
}

// cell is a value of a record, and the name of its field.
type cell struct{ Kind, Text string }

func (c cell) String() string { return c.Text }

// amounts are the fields that hold nano.
var amounts = map[string]bool{
	"balance": true, "locked": true, "unlocking": true, "amount": true, "fee": true, "paid": true, "cap": true, "price": true, "stake": true, "staked": true,
	"slashed": true, "supply": true, "minted": true, "burned": true, "fee_per_byte": true, "account_fee": true,
}

// hiddenFields are for programs alone.
var hiddenFields = map[string]bool{"type": true, "proof": true, "raw": true, "at": true, "tx_kinds": true, "addresses": true, "version": true}

// fields are those of a record, in its own order.
func fields(record any) (names []string, cells []any, err error) {
	raw, err := json.Marshal(record)
	if err != nil {
		return nil, nil, fmt.Errorf("show a record: %w", err)
	}
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	if _, err := d.Token(); err != nil {
		return nil, nil, fmt.Errorf("show a record: %w", err)
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, nil, fmt.Errorf("show a record: %w", err)
		}
		var value any
		if err := d.Decode(&value); err != nil {
			return nil, nil, fmt.Errorf("show a record: %w", err)
		}
		if key := fmt.Sprint(name); !hiddenFields[key] {
			names, cells = append(names, key), append(cells, shown(key, value))
		}
	}
	return names, cells, nil
}

func shown(name string, value any) cell {
	text := fmt.Sprint(value)
	switch v := value.(type) {
	case nil:
		text = ""
	case map[string]any, []any:
		if b, err := json.Marshal(v); err == nil {
			text = string(b)
		}
	}
	if amounts[name] {
		var a top.Amount
		if a.UnmarshalText([]byte(text)) == nil {
			text = a.String() + " TOP"
		}
	}
	return cell{name, text}
}

// one shows a record, a field a row.
func one(name string, record any) (table, error) {
	names, cells, err := fields(record)
	t := table{Name: name}
	for i, n := range names {
		t.Rows = append(t.Rows, []any{n, cells[i]})
	}
	return t, err
}

// many shows records of a kind, a record a row, with some of their fields.
func many[T any](name string, records []T, want ...string) (table, error) {
	t := table{Name: name, Head: want}
	for _, r := range records {
		names, cells, err := fields(r)
		if err != nil {
			return t, err
		}
		row := make([]any, len(want))
		for i, w := range want {
			row[i] = cell{}
			for j, n := range names {
				if n == w {
					row[i] = cells[j]
				}
			}
		}
		t.Rows = append(t.Rows, row)
	}
	return t, nil
}

var errEnough = errors.New("enough")
