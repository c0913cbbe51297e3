package carry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"top/lib/top"
)

func TestHC5_StrangersAreCounted(t *testing.T) {
	at := func(text string) net.Addr { return net.TCPAddrFromAddrPort(mustAddr(text)) }
	now := time.Unix(1e9, 0)
	s := newStrangers(5, 3)
	var leave []func()
	enter := func(text string, want error) {
		t.Helper()
		l, err := s.enter(at(text), now)
		if !errors.Is(err, want) {
			t.Fatalf("%s: %v, want %v", text, err, want)
		}
		if err == nil {
			leave = append(leave, l)
		}
	}
	for range 3 {
		enter("192.0.2.1:1", nil)
	}
	enter("192.0.2.1:2", top.ErrBusy)          // its share
	enter("[::ffff:192.0.2.1]:2", top.ErrBusy) // by another name
	now = now.Add(time.Hour)
	enter("192.0.2.1:3", top.ErrBusy) // however slowly it takes them
	if !s.crowded() {
		t.Error("3 of 5 is not crowded")
	}
	enter("[2001:db8::1]:1", nil)
	enter("[2001:db8::2]:1", nil)
	enter("[2001:db8:0:1::1]:1", top.ErrBusy) // all places
	leave[0]()
	leave[0]() // once is enough
	enter("192.0.2.1:1", nil)
	for _, l := range leave {
		l()
	}
	// One after the other they are bounded too.
	entered := 0
	for range 100 {
		if l, err := s.enter(at("198.51.100.1:1"), now); err == nil {
			l()
			entered++
		}
	}
	if entered != 3 || s.all != 0 {
		t.Errorf("%d of 100 handshakes at once, %d open", entered, s.all)
	}
	now = now.Add(time.Second / maxRate) // a handshake more
	enter("198.51.100.1:1", nil)
	leave[len(leave)-1]()
	enter("198.51.100.1:1", top.ErrBusy)
	now = now.Add(time.Hour)
	s.forgetLocked(now)
	if len(s.each) != 0 {
		t.Errorf("%d sources are remembered for ever", len(s.each))
	}
}

func TestHC5_StrangersHoldABoundedNumberOfConnections(t *testing.T) {
	s := serve(t, ServerConfig{MaxPerSource: 2})
	addr := s.Addr().String()
	idle := func() net.Conn {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(20 * time.Second))
		return c
	}
	refused := func(c net.Conn) bool {
		err := tls.Client(c, anyCert("http/1.1")).Handshake()
		return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
	}
	first, second := idle(), idle()
	// The third finds no place while those two are there: whether it comes before
	// they were accepted does not matter, for they are accepted in order.
	if !refused(idle()) {
		t.Error("a third TCP connection")
	}
	if c, err := quic.DialAddr(t.Context(), addr, anyCert("h3"), nil); err == nil {
		c.CloseWithError(0, "")
		t.Error("a third connection, of QUIC")
	}
	first.Close()
	second.Close()
}

func TestHC5_ACarrierIsNoStranger(t *testing.T) {
	for _, kind := range kinds {
		s := serve(t, ServerConfig{MaxPerSource: 2})
		for range 2 {
			c, err := Dial(t.Context(), s.dial(kind))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := s.Accept(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		s.strangers.mu.Lock()
		if s.strangers.all != 0 {
			t.Errorf("%s: %d carriers are counted as strangers", kind, s.strangers.all)
		}
		s.strangers.mu.Unlock()
	}
}

func TestHC5_WhoIsSlowIsNotWaitedFor(t *testing.T) {
	s, err := Listen(ServerConfig{Addr: "127.0.0.1:0", Key: [32]byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	short := 50 * time.Millisecond
	s.patience = patience{short, 2 * short, 2 * short, short, 4 * short}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	for name, say := range map[string]string{
		"half a header":    "GET / HTTP/1.1\r\nHost: a",
		"half a body":      "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc",
		"nothing more":     "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"no TLS handshake": "",
	} {
		raw, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		raw.SetDeadline(time.Now().Add(20 * time.Second))
		var c net.Conn = raw
		if say != "" {
			c = tls.Client(raw, anyCert("http/1.1"))
		}
		io.WriteString(c, say)
		if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: waited for", name)
		}
		c.Close()
	}
	quicEnds(t, s)
}

// quicEnds waits for the end of a connection that asks nothing.
func quicEnds(t *testing.T, s *Server) {
	t.Helper()
	q, err := quic.DialAddr(t.Context(), s.Addr().String(), anyCert("h3"), &quic.Config{KeepAlivePeriod: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-q.Context().Done():
	case <-time.After(20 * time.Second):
		t.Error("a QUIC connection that asks nothing: waited for")
	}
}

func TestHC5_AStrangerHasALife(t *testing.T) {
	s, err := Listen(ServerConfig{Addr: "127.0.0.1:0", Key: [32]byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	long := time.Hour
	s.patience = patience{long, long, long, long, 100 * time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	quicEnds(t, s)
	c, err := tls.Dial("tcp", s.Addr().String(), anyCert("http/1.1"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a TCP connection that asks nothing: waited for")
	}
	// A carrier lives on.
	for _, kind := range kinds {
		client, err := Dial(t.Context(), s.dial(kind))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		server, err := s.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(200 * time.Millisecond)
		client.Send([][]byte{{1}})
		if _, err := server.Receive([][]byte{make([]byte, 9)}, make([]int, 1)); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// ours are the goroutines of this room, but those of tests.
func ours() (all []string) {
	buf := make([]byte, 4<<20)
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "top/lib/carry.") && !strings.Contains(g, "testing.tRunner") || strings.Contains(g, "quic-go") {
			all = append(all, g)
		}
	}
	return all
}

func TestHC6_NothingIsLeftRunning(t *testing.T) {
	for _, kind := range kinds {
		s, err := Listen(ServerConfig{Addr: "127.0.0.1:0", Key: [32]byte{1}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		client, err := Dial(t.Context(), s.dial(kind))
		if err != nil {
			t.Fatal(err)
		}
		server, err := s.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		unaccepted, err := Dial(t.Context(), s.dial(kind))
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		bufs, sizes := [][]byte{make([]byte, 2000)}, make([]int, 1)
		for name, c := range map[string]Conn{"client": client, "server": server, "unaccepted": unaccepted} {
			if n, err := c.Receive(bufs, sizes); err == nil {
				t.Errorf("%s %s: %d datagrams after the end", kind, name, n)
			}
			c.Close()
			if err := c.Send(bufs); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s %s: sent after the end: %v", kind, name, err)
			}
			c.Close() // again is nothing
		}
		if c, err := s.Accept(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: accepted after the end: %v, %v", kind, c, err)
		}
		if err := s.Run(t.Context()); !errors.Is(err, top.ErrUsage) {
			t.Errorf("run again: %v", err)
		}
		if len(s.taken) != 0 {
			t.Errorf("%s: %d carriers are kept", kind, len(s.taken))
		}
		// quic-go's goroutines end a moment after what they served.
		left := ours()
		for until := time.Now().Add(20 * time.Second); len(left) > 0 && time.Now().Before(until); left = ours() {
			runtime.Gosched()
		}
		if len(left) > 0 {
			t.Fatalf("%s: %d goroutines are left: %s", kind, len(left), left[0])
		}
	}
}

func TestHC6_AClientLearnsThatTheOtherEndIsGone(t *testing.T) {
	for _, kind := range kinds {
		client, server := pair(t, kind, false)
		for _, way := range [][2]Conn{{client, server}} {
			got := make(chan error, 1)
			go func() {
				_, err := way[1].Receive([][]byte{make([]byte, 10)}, make([]int, 1))
				got <- err
			}()
			way[0].Close()
			if err := <-got; err == nil {
				t.Errorf("%s: no error from a closed line", kind)
			}
		}
	}
}

// narrow is a path that loses packets longer than most.
type narrow struct {
	net.PacketConn
	most    int
	longest atomic.Int64
}

func (n *narrow) WriteTo(b []byte, to net.Addr) (int, error) {
	if int64(len(b)) > n.longest.Load() {
		n.longest.Store(int64(len(b)))
	}
	if len(b) > n.most {
		return len(b), nil
	}
	return n.PacketConn.WriteTo(b, to)
}

func TestHC7_APacketOf1280FitsFromTheFirst(t *testing.T) {
	const inner, overhead, ip = 1312, 48, 1500 // an IPv6 and a UDP header
	if firstPacket+overhead > ip {
		t.Errorf("packets of %d bytes do not fit a path of %d", firstPacket, ip)
	}
	s := serve(t, ServerConfig{})
	path := &narrow{most: firstPacket}
	cfg := s.dial(QUIC)
	cfg.ListenUDP = func(context.Context) (net.PacketConn, error) {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		path.PacketConn = c
		return path, err
	}
	client, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := s.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, way := range [][2]Conn{{client, server}, {server, client}} {
		if mtu := way[0].MTU(); mtu < inner {
			t.Errorf("MTU %d", mtu)
		}
		if err := way[0].Send([][]byte{make([]byte, 3000), make([]byte, inner)}); err != nil {
			t.Fatal(err)
		}
		sizes := make([]int, 1)
		if _, err := way[1].Receive([][]byte{make([]byte, 2000)}, sizes); err != nil || sizes[0] != inner {
			t.Errorf("%d bytes: %v", sizes[0], err)
		}
		if way[0].Stats().TooLong != 1 {
			t.Errorf("too long: %+v", way[0].Stats())
		}
	}
	if n := path.longest.Load(); n+overhead > ip {
		t.Errorf("a packet of %d bytes", n)
	}
	wss, _ := pair(t, WSS, false)
	if wss.MTU() < 1<<13 {
		t.Errorf("wss: MTU %d", wss.MTU())
	}
}

func TestADialerIsTakenWhereOneIsGiven(t *testing.T) {
	s := serve(t, ServerConfig{})
	for _, kind := range kinds {
		seen := ""
		cfg := s.dial(kind)
		cfg.Control = func(network, address string, c syscall.RawConn) error { seen = network; return nil }
		c, err := Dial(t.Context(), cfg)
		if err != nil || seen == "" {
			t.Fatalf("%s: control saw %q, %v", kind, seen, err)
		}
		if c.Kind() != kind || c.RemoteAddr() != s.Addr() || !c.LocalAddr().IsValid() {
			t.Errorf("%s: %s %v %v", kind, c.Kind(), c.LocalAddr(), c.RemoteAddr())
		}
		c.Close()
		mine := errors.New("mine")
		cfg.DialTCP = func(context.Context, string) (net.Conn, error) { return nil, mine }
		cfg.ListenUDP = func(context.Context) (net.PacketConn, error) { return nil, mine }
		if _, err := Dial(t.Context(), cfg); !errors.Is(err, top.ErrOffline) || !strings.Contains(err.Error(), "mine") {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestListenSaysWhatIsWrong(t *testing.T) {
	for name, cfg := range map[string]ServerConfig{
		"no key":       {Addr: "127.0.0.1:0"},
		"no port":      {Addr: "127.0.0.1", Key: [32]byte{1}},
		"no such kind": {Addr: "127.0.0.1:0", Key: [32]byte{1}, Kinds: []Kind{"ftp"}},
	} {
		if _, err := Listen(cfg); !errors.Is(err, top.ErrUsage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// One kind is served, the other answered by the cover.
	s := serve(t, ServerConfig{Kinds: []Kind{WSS}})
	c, err := Dial(t.Context(), s.dial(WSS))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	quicOnly := serve(t, ServerConfig{Kinds: []Kind{QUIC}})
	if _, err := Dial(t.Context(), quicOnly.dial(WSS)); !errors.Is(err, top.ErrDenied) {
		t.Errorf("wss of a server without it: %v", err)
	}
}

func TestCoverOf(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"index.html": "front", "a.txt": "file", "sub/b.txt": "below"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	behind := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer behind.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, bad := range []string{filepath.Join(dir, "none"), filepath.Join(dir, "a.txt"), "ftp://a.example", "http://", "://"} {
		if _, err := CoverOf(bad, nil); !errors.Is(err, top.ErrUsage) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if h, err := CoverOf("", nil); h != nil || err != nil {
		t.Errorf("none: %v, %v", h, err)
	}
	for _, tc := range []struct{ cover, path, want string }{
		{dir, "/", "200 front"}, {dir, "/a.txt", "200 file"}, {dir, "/sub/b.txt", "200 below"}, {dir, "/sub/", "404"}, {dir, "/none", "404"}, {dir, "/../x", "404"},
		{behind.URL, "/a.txt", "200 file"}, {behind.URL, "/none", "404"}, {gone.URL, "/", "502"},
	} {
		h, err := CoverOf(tc.cover, nil)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", tc.path, nil))
		if got := fmt.Sprint(w.Code, " ", w.Body); !strings.HasPrefix(got, tc.want) {
			t.Errorf("%s of %s: %q, want %q", tc.path, tc.cover, got, tc.want)
		}
	}
	// The small site differs from key to key, and not from start to start.
	page := func(k byte) string {
		w := httptest.NewRecorder()
		site([32]byte{k}).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		return w.Body.String()
	}
	if first, again := page(1), page(1); first == page(2) || first != again {
		t.Error("the small site is not the key's own")
	}
}

func mustAddr(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }
