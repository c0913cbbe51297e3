package socks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"top/lib/top"
)

// A proxy runs for a test; asked is what its dialer was asked for.
type proxy struct {
	addr string
	mu   sync.Mutex
	said []string
}

func (p *proxy) asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.said...)
}

type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// to dials one address of the host, whatever was asked for.
func to(a net.Addr) dialer {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, a.String())
	}
}

func failing(err error) dialer {
	return func(context.Context, string, string) (net.Conn, error) { return nil, err }
}

func start(t testing.TB, cfg Config, dial dialer) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: ln.Addr().String()}
	cfg.Listener = ln
	cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		p.mu.Lock()
		p.said = append(p.said, network+" "+addr)
		p.mu.Unlock()
		return dial(ctx, network, addr)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

// open connects to a proxy, says something and gives what follows in hex.
func open(t testing.TB, p *proxy) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

func say(t testing.TB, c net.Conn, text string, want string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("said %q: heard %q, %v; want %q", text, got, err, want)
	}
}

func serve(t testing.TB, f func(*net.TCPConn)) net.Addr {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(20 * time.Second))
				f(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr()
}

func page(t testing.TB) *httptest.Server {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		for name := range r.Header {
			if strings.HasPrefix(name, "Proxy-") || strings.HasPrefix(name, "X-Forwarded") {
				t.Errorf("the page was told %s", name)
			}
		}
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.Host, r.URL, body)
	}))
	t.Cleanup(web.Close)
	return web
}

// through is an HTTP client behind a proxy.
func through(t testing.TB, proxy string) *http.Client {
	u, err := url.Parse(proxy)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{Proxy: http.ProxyURL(u), TLSClientConfig: nil}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func get(c *http.Client, addr string) (int, string, error) {
	resp, err := c.Post(addr, "text/plain", strings.NewReader("body"))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func TestS1_NamesReachTheDialerAsTheyWere(t *testing.T) {
	web := page(t)
	for _, scheme := range []string{"socks5", "socks5h", "http"} {
		p := start(t, Config{}, to(web.Listener.Addr()))
		status, body, err := get(through(t, scheme+"://"+p.addr), "http://name.invalid:81/path?q=1")
		if err != nil || status != 200 || !strings.HasPrefix(body, "POST name.invalid:81 /path?q=1 body") {
			t.Errorf("%s: %d %q %v", scheme, status, body, err)
		}
		if got := fmt.Sprint(p.asked()); got != "[tcp name.invalid:81]" {
			t.Errorf("%s: dialled %s", scheme, got)
		}
	}
	p := start(t, Config{}, failing(top.ErrDenied))
	for asked, want := range map[string]string{
		"\x01\xc0\x00\x02\x01\x00\x50": "tcp 192.0.2.1:80", "\x03\x04host\x01\xbb": "tcp host:443", "\x03\x09192.0.2.1\x00\x50": "tcp 192.0.2.1:80",
		"\x04\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x01\x00\x50":          "tcp [2001:db8::1]:80",
		"\x04" + strings.Repeat("\x00", 10) + "\xff\xff\xc0\x00\x02\x01" + "\x00\x50": "tcp 192.0.2.1:80",
	} {
		c := open(t, p)
		say(t, c, "\x05\x01\x00", "\x05\x00")
		say(t, c, "\x05\x01\x00"+asked, "\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00")
		if got := p.asked(); got[len(got)-1] != want {
			t.Errorf("%x: dialled %s, want %s", asked, got[len(got)-1], want)
		}
	}
}

func TestS2_WithoutThePasswordNothingIsDialled(t *testing.T) {
	web := page(t)
	cfg := Config{Auth: func(user, pass string) bool { return user == "me" && pass == "secret" }}
	p := start(t, cfg, to(web.Listener.Addr()))
	for said, want := range map[string]string{
		"\x05\x01\x00":                                "\x05\xff",
		"\x05\x00":                                    "\x05\xff",
		"\x05\x02\x00\x01":                            "\x05\xff",
		"\x05\x02\x00\x02\x01\x02me\x05wrong":         "\x05\x02\x01\x01",
		"\x05\x01\x02\x01\x00\x00":                    "\x05\x02\x01\x01",
		"\x05\x01\x02\x02\x02me\x06secret":            "\x05\x02",
		"\x05\x01\x02\x05\x01\x00\x03\x01a\x00\x50":   "\x05\x02",
		"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n": "HTTP/1.1 407 ",
		"GET http://a/ HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic bWU6d3Jvbmc=\r\n\r\n": "HTTP/1.1 407 ",
		"GET http://a/ HTTP/1.1\r\nHost: a\r\nProxy-Authorization: bWU6c2VjcmV0\r\n\r\n":       "HTTP/1.1 407 ",
	} {
		c := open(t, p)
		say(t, c, said, want)
		c.CloseWrite()
		if rest, err := io.ReadAll(c); said[0] == 5 && (len(rest) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET)) {
			t.Errorf("%q: then heard %q, %v", said, rest, err)
		}
	}
	for _, scheme := range []string{"socks5", "http"} {
		if _, _, err := get(through(t, scheme+"://me:wrong@"+p.addr), "https://name.invalid/"); err == nil {
			t.Errorf("%s: a wrong password", scheme)
		}
	}
	if got := p.asked(); len(got) > 0 {
		t.Fatalf("dialled %s", got)
	}
	for _, scheme := range []string{"socks5", "http"} {
		if status, _, err := get(through(t, scheme+"://me:secret@"+p.addr), "http://name.invalid/"); err != nil || status != 200 {
			t.Errorf("%s: %d %v", scheme, status, err)
		}
	}
}

func TestS3_TheReasonReachesTheClient(t *testing.T) {
	for _, tc := range []struct {
		err    error
		code   byte
		status int
	}{
		{top.Errorf(top.Denied, "the exit denies this port"), denied, 403},
		{fmt.Errorf("dial: %w: %w", syscall.ECONNREFUSED, top.ErrOffline), refused, 502},
		{&net.OpError{Op: "dial", Err: syscall.ENETUNREACH}, networkUnreachable, 502},
		{&net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}, hostUnreachable, 502},
		{top.Errorf(top.NotFound, "no such name"), hostUnreachable, 502},
		{top.ErrTimeout, expired, 504},
		{context.DeadlineExceeded, expired, 504},
		{&net.DNSError{IsTimeout: true}, expired, 504},
		{top.Errorf(top.Offline, "no tunnel"), networkUnreachable, 502},
		{errors.New("anything"), failed, 502},
	} {
		p := start(t, Config{}, failing(tc.err))
		c := open(t, p)
		say(t, c, "\x05\x01\x00", "\x05\x00")
		say(t, c, "\x05\x01\x00\x03\x01a\x00\x50", string([]byte{5, tc.code, 0, 1, 0, 0, 0, 0, 0, 0}))
		status, body, err := get(through(t, "http://"+p.addr), "http://a/")
		if err != nil || status != tc.status || !strings.Contains(body, tc.err.Error()) {
			t.Errorf("%v: %d %q %v, want %d", tc.err, status, body, err, tc.status)
		}
		c = open(t, p)
		say(t, c, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", fmt.Sprintf("HTTP/1.1 %d ", tc.status))
	}
}

func TestS3_WhatIsNoRequestIsRefused(t *testing.T) {
	p := start(t, Config{}, failing(top.ErrDenied))
	const hello = "\x05\x01\x00"
	for said, want := range map[string]string{
		hello + "\x05\x02\x00\x01\x01\x02\x03\x04\x00\x50":                                    "\x05\x00\x05\x07", // BIND
		hello + "\x05\x09\x00\x01\x01\x02\x03\x04\x00\x50":                                    "\x05\x00\x05\x07",
		hello + "\x05\x01\x00\x02\x01\x02\x03\x04\x00\x50":                                    "\x05\x00\x05\x08",
		hello + "\x05\x01\x00\x03\x00\x00\x50":                                                "\x05\x00\x05\x01",
		hello + "\x05\x01\x00\x03\x03a\nb\x00\x50":                                            "\x05\x00\x05\x01",
		hello + "\x05\x01\x00\x03\x04a:80\x00\x50":                                            "\x05\x00\x05\x01",
		hello + "\x04\x01\x00\x01\x01\x02\x03\x04\x00\x50":                                    "\x05\x00",
		hello + "\x05\x01\x00\x03\x05ab":                                                      "\x05\x00",
		"\x04\x01\x00\x50\x01\x02\x03\x04\x00":                                                "", // SOCKS4
		"\x16\x03\x01":                                                                        "", // TLS
		"\x05\x02\x00":                                                                        "",
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n":                                                   "HTTP/1.1 400 ",
		"GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n":                                          "HTTP/1.1 400 ",
		"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n":                                               "HTTP/1.1 400 ",
		"CONNECT :80 HTTP/1.1\r\nHost: :80\r\n\r\n":                                           "HTTP/1.1 400 ",
		"GET http://a/\r\n\r\n":                                                               "HTTP/1.1 400 ",
		"GET http://a/ HTTP/1.1\r\nHost: a\r\nA: " + strings.Repeat("x", 80<<10) + "\r\n\r\n": "HTTP/1.1 431 ",
	} {
		c := open(t, p)
		io.WriteString(c, said)
		c.CloseWrite()
		got, _ := io.ReadAll(c)
		if !strings.HasPrefix(string(got), want) || want == "" && len(got) > 0 || want == "\x05\x00" && len(got) > 2 {
			t.Errorf("%.50q: heard %.50q, want %q", said, got, want)
		}
	}
	if got := p.asked(); len(got) > 0 {
		t.Errorf("dialled %s", got)
	}
}

func TestS4_ClientsAreBounded(t *testing.T) {
	addr := serve(t, func(c *net.TCPConn) { io.Copy(c, c) })
	p := start(t, Config{MaxConns: 2}, to(addr))
	var held []*net.TCPConn
	for range 2 {
		c := open(t, p)
		say(t, c, "\x05\x01\x00", "\x05\x00")
		held = append(held, c)
	}
	if n, err := open(t, p).Read(make([]byte, 1)); err == nil {
		t.Errorf("a third client was taken: %d bytes", n)
	}
	held[0].Close()
	for end := time.Now().Add(20 * time.Second); ; {
		c := open(t, p)
		io.WriteString(c, "\x05\x01\x00")
		if _, err := io.ReadFull(c, make([]byte, 2)); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no room after one has gone")
		}
	}
}

func TestS4_WhoSaysNothingIsSentAway(t *testing.T) {
	p := start(t, Config{AskTime: 30 * time.Millisecond}, failing(top.ErrDenied))
	for _, said := range []string{"", "\x05", "\x05\x01\x00\x05\x01", "GET http://a/ HTTP/1.1\r\n"} {
		c := open(t, p)
		io.WriteString(c, said)
		if _, err := io.ReadAll(c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%q: %v", said, err)
		}
	}
}

func TestS5_EachWayEndsByItself(t *testing.T) {
	all := serve(t, func(c *net.TCPConn) {
		got, _ := io.ReadAll(c)
		c.Write(append([]byte("got "), got...))
	})
	heard := make(chan string)
	bye := serve(t, func(c *net.TCPConn) {
		c.Write([]byte("bye"))
		c.CloseWrite()
		got, _ := io.ReadAll(c)
		heard <- string(got)
	})
	for _, kind := range []string{"socks", "http"} {
		enter := func(p *proxy) *net.TCPConn {
			c := open(t, p)
			if kind == "http" {
				say(t, c, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "HTTP/1.1 200 Connection established\r\n\r\n")
				return c
			}
			say(t, c, "\x05\x01\x00", "\x05\x00")
			say(t, c, "\x05\x01\x00\x03\x01a\x00\x01", "\x05\x00\x00\x01\x7f\x00\x00\x01")
			io.ReadFull(c, make([]byte, 2))
			return c
		}
		c := enter(start(t, Config{}, to(all)))
		io.WriteString(c, "this")
		c.CloseWrite()
		if got, err := io.ReadAll(c); string(got) != "got this" || err != nil {
			t.Errorf("%s: %q, %v", kind, got, err)
		}
		c = enter(start(t, Config{}, to(bye)))
		if got, err := io.ReadAll(c); string(got) != "bye" || err != nil {
			t.Errorf("%s: %q, %v", kind, got, err)
		}
		io.WriteString(c, "late")
		c.CloseWrite()
		if got := <-heard; got != "late" {
			t.Errorf("%s: after the far side's end: %q", kind, got)
		}
	}
}

// associated opens an association, and gives where its datagrams go.
func associated(t testing.TB, p *proxy) (*net.TCPConn, *net.UDPAddr) {
	t.Helper()
	c := open(t, p)
	say(t, c, "\x05\x01\x00", "\x05\x00")
	say(t, c, "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", "\x05\x00\x00\x01\x7f\x00\x00\x01")
	port := make([]byte, 2)
	if _, err := io.ReadFull(c, port); err != nil {
		t.Fatal(err)
	}
	return c, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port[0])<<8 | int(port[1])}
}

func listenUDP(t testing.TB) *net.UDPConn {
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	pc.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { pc.Close() })
	return pc
}

func TestS6_DatagramsGoToTheirClientAlone(t *testing.T) {
	far := listenUDP(t)
	go func() {
		b := make([]byte, 2000)
		for {
			n, from, err := far.ReadFromUDP(b)
			if err != nil {
				return
			}
			far.WriteToUDP(append([]byte("re "), b[:n]...), from)
		}
	}()
	p := start(t, Config{}, to(far.LocalAddr()))
	c, relay := associated(t, p)
	mine, other := listenUDP(t), listenUDP(t)
	turn := func(head string) {
		t.Helper()
		mine.WriteToUDP([]byte(head+"hello"), relay)
		b := make([]byte, 2000)
		n, err := mine.Read(b)
		if want := head + "re hello"; err != nil || string(b[:n]) != want {
			t.Fatalf("%q, %v; want %q", b[:n], err, want)
		}
	}
	const named, numbered = "\x00\x00\x00\x03\x04name\x00\x35", "\x00\x00\x00\x01\xc0\x00\x02\x01\x00\x35"
	turn(named)
	turn(numbered)
	// Another port, a fragment and what is malformed reach nobody; what follows shows that
	// they have been seen.
	other.WriteToUDP([]byte("\x00\x00\x00\x03\x05other\x00\x35hello"), relay)
	for _, bad := range []string{"", "\x00\x00\x00", "\x00\x00\x01\x03\x04frag\x00\x35x", "\x01\x00\x00\x03\x03rsv\x00\x35x", "\x00\x00\x00\x02\x01\x02\x03\x04\x00\x35", "\x00\x00\x00\x03\xffx"} {
		mine.WriteToUDP([]byte(bad), relay)
	}
	turn(named)
	if got := fmt.Sprint(p.asked()); got != "[udp name:53 udp 192.0.2.1:53]" {
		t.Errorf("dialled %s", got)
	}
	// The association ends with its connection.
	c.Close()
	for end := time.Now().Add(20 * time.Second); ; {
		if pc, err := net.ListenUDP("udp", relay); err == nil {
			pc.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal("the port of an association that has ended is still held")
		}
	}
}

func TestS4_FlowsOfDatagramsAreBounded(t *testing.T) {
	var open, most atomic.Int64
	began := make(chan struct{}, 100)
	p := start(t, Config{MaxFlows: 3, IdleUDP: 50 * time.Millisecond}, func(ctx context.Context, _, _ string) (net.Conn, error) {
		most.Store(max(most.Load(), open.Add(1)))
		began <- struct{}{}
		<-ctx.Done()
		open.Add(-1)
		return nil, ctx.Err()
	})
	_, relay := associated(t, p)
	mine := listenUDP(t)
	for i := range 20 {
		mine.WriteToUDP(address{ip: netip.MustParseAddr("192.0.2.1"), port: uint16(i)}.append([]byte{0, 0, 0}), relay)
		<-began
	}
	// Each that is dropped ends soon, not at once; idle ones end all.
	if most.Load() > 8 {
		t.Errorf("%d flows at once, want about 3", most.Load())
	}
	for end := time.Now().Add(20 * time.Second); open.Load() > 0; {
		if time.Now().After(end) {
			t.Fatalf("%d flows idle on", open.Load())
		}
		runtime.Gosched()
	}
}

func TestS7_NothingIsLeft(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	far := serve(t, func(c *net.TCPConn) { io.Copy(c, c) })
	dialling := make(chan struct{})
	s, err := New(Config{Listener: ln, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if strings.HasPrefix(addr, "slow") {
			close(dialling)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return to(far)(ctx, network, addr)
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	p := &proxy{addr: ln.Addr().String()}
	open(t, p)
	io.WriteString(open(t, p), "GET http://")
	tunnel := open(t, p)
	say(t, tunnel, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "HTTP/1.1 200 Connection established\r\n\r\n")
	say(t, tunnel, "echo", "echo")
	socks := open(t, p)
	say(t, socks, "\x05\x01\x00", "\x05\x00")
	say(t, socks, "\x05\x01\x00\x03\x01a\x00\x01", "\x05\x00\x00\x01\x7f\x00\x00\x01")
	_, relay := associated(t, p)
	listenUDP(t).WriteToUDP([]byte("\x00\x00\x00\x03\x01u\x00\x01x"), relay)
	slow := open(t, p)
	say(t, slow, "\x05\x01\x00", "\x05\x00")
	io.WriteString(slow, "\x05\x01\x00\x03\x04slow\x00\x01")
	<-dialling
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, f := range []string{"socks.(*Server)", "socks.(*association)", "socks.relay"} {
		if g := running(f); g != "" {
			t.Errorf("left:\n%s", g)
		}
	}
	// net/http says that a connection is closed a few steps before its goroutine ends.
	for end := time.Now().Add(10 * time.Second); running("http.(*conn).serve") != ""; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("left:\n%s", running("http.(*conn).serve"))
		}
	}
	if c, err := net.Dial("tcp", p.addr); err == nil {
		c.Close()
		t.Error("it still listens")
	}
	if _, err := New(Config{}); !errors.Is(err, top.ErrInvalid) {
		t.Errorf("no listener: %v", err)
	}
}

// running is the stack of a goroutine that a function is in.
func running(function string) string {
	b := make([]byte, 1<<20)
	for _, g := range strings.Split(string(b[:runtime.Stack(b, true)]), "\n\n") {
		if strings.Contains(g, function) {
			return g
		}
	}
	return ""
}

// A decoded address is one that is written and read again as itself; a datagram is its
// header and all that follows.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{"\x01\xc0\x00\x02\x01\x00\x50", "\x03\x04name\x00\x35rest", "\x03\x09192.0.2.1\x00\x50", "\x04" + strings.Repeat("\x01", 18), "\x03\x00\x00\x00", "\x02"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := readAddress(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := readAddress(bytes.NewReader(a.append(nil)))
		if err != nil || again != a {
			t.Fatalf("%v became %v, %v", a, again, err)
		}
		if _, _, err := net.SplitHostPort(a.String()); err != nil {
			t.Fatalf("%q: %v", a, err)
		}
		to, data, ok := parseDatagram(append([]byte{0, 0, 0}, b...))
		if !ok || to != a || !bytes.HasSuffix(b, data) {
			t.Fatalf("%v, %q, %v", to, data, ok)
		}
	})
}

// Whatever a client says, it is answered or sent away.
func FuzzClient(f *testing.F) {
	for _, s := range []string{"\x05\x01\x00\x05\x01\x00\x03\x01a\x00\x50", "\x05\x01\x02\x01\x01a\x01b", "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\n\r\n", "\x04"} {
		f.Add([]byte(s))
	}
	p := start(f, Config{}, failing(top.ErrDenied))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := open(t, p)
		c.Write(b)
		c.CloseWrite()
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
		c.Close()
	})
}
