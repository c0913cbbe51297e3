package carry

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// plain is a web server as anybody would write it, which knows nothing of
// carriage: what a prober sees of ours is held against it.
func plain(t *testing.T, cover http.Handler, cert tls.Certificate) (addr string) {
	t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	for udp == nil { // the same port of both
		var err error
		if tcp, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if udp, err = net.ListenPacket("udp", tcp.Addr().String()); err != nil {
			tcp.Close()
		}
	}
	addr = tcp.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	p := usualPatience()
	web := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Alt-Svc", `h3=":`+port+`"; ma=2592000`)
			cover.ServeHTTP(w, r)
		}),
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0), MaxHeaderBytes: maxHeaderSize,
		ReadHeaderTimeout: p.header, ReadTimeout: p.body, WriteTimeout: p.answer, IdleTimeout: p.quiet,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}},
	}
	h3 := &http3.Server{
		Handler: cover, EnableDatagrams: true, MaxHeaderBytes: maxHeaderSize, IdleTimeout: p.quiet,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}, QUICConfig: quicConfig(), Logger: slog.New(slog.DiscardHandler),
	}
	ended := make(chan error, 2)
	go func() { ended <- web.ServeTLS(tcp, "", "") }()
	go func() { ended <- h3.Serve(udp) }()
	t.Cleanup(func() {
		web.Close()
		h3.Close()
		udp.Close()
		for range 2 {
			if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		}
	})
	return addr
}

// mirror answers with all that a handler can know of a request and its writer, so
// that a server that changes either shows.
func mirror(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	var can []string
	for name, ok := range map[string]bool{
		"flush": is[http.Flusher](w), "hijack": is[http.Hijacker](w), "push": is[http.Pusher](w), "from": is[io.ReaderFrom](w), "string": is[io.StringWriter](w),
		"stream": is[http3.HTTPStreamer](w), "settings": is[http3.Settingser](w),
	} {
		if ok {
			can = append(can, name)
		}
	}
	slices.Sort(can)
	w.Header().Set("X-Mirror", r.Proto)
	if r.URL.Path == "/switch" {
		if c, rw, err := http.NewResponseController(w).Hijack(); err == nil {
			fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
			rw.Flush()
			c.Close()
			return
		}
	}
	if r.URL.Path == "/missing" {
		w.WriteHeader(http.StatusNotFound)
	}
	fmt.Fprintf(w, "%s %s %s %s %d %v %x %v\n", r.Method, r.RequestURI, r.Proto, r.Host, r.ContentLength, r.TransferEncoding, body, err)
	for _, k := range slices.Sorted(maps.Keys(r.Header)) {
		fmt.Fprintf(w, "%s: %q\n", k, r.Header[k])
	}
	fmt.Fprintln(w, can, r.Trailer, r.TLS != nil)
}

func is[T any](v any) bool { _, ok := v.(T); return ok }

var dates = regexp.MustCompile(`(?i)date: [^\r\n]*`)

// same makes what two servers say comparable: no dates, no ports.
func same(text []byte, addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	text = dates.ReplaceAll(text, []byte("Date: then"))
	return strings.ReplaceAll(string(text), port, "PORT")
}

// knock writes bytes to a server, over TLS when conf is given, and reads all that
// it has to say to them.
func knock(addr string, conf *tls.Config, say func(tls.ConnectionState) string) string {
	raw, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return err.Error()
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(20 * time.Second))
	var answer []byte
	if conf == nil {
		io.WriteString(raw, say(tls.ConnectionState{}))
		raw.(*net.TCPConn).CloseWrite()
		answer, err = io.ReadAll(raw)
	} else {
		c := tls.Client(raw, conf)
		if err := c.Handshake(); err != nil {
			return same([]byte(err.Error()), addr)
		}
		s := c.ConnectionState()
		fmt.Fprintf(c, "%s", say(s))
		c.CloseWrite()
		answer, err = io.ReadAll(c)
		answer = fmt.Appendf(answer, "\n%d %d %s %d", s.Version, s.CipherSuite, s.NegotiatedProtocol, len(s.PeerCertificates))
	}
	if err != nil {
		// A reset may be told by a read or a write: how far it got is the system's.
		answer = fmt.Appendf(answer, "\n%v", errors.Is(err, os.ErrDeadlineExceeded))
	}
	return same(answer, addr)
}

// probes are requests over HTTP/1.1, as bytes.
func probes() map[string]string {
	const end, host = "\r\n\r\n", " HTTP/1.1\r\nHost: a.example\r\n"
	upgrade := host + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
	all := map[string]string{
		"upgrade":                      "GET /" + upgrade + end,
		"upgrade, cover takes it":      "GET /switch" + upgrade + end,
		"upgrade, cookie":              "GET /" + upgrade + "\r\nCookie: id=" + strings.Repeat("A", 64) + end,
		"upgrade, two cookies":         "GET /" + upgrade + "\r\nCookie: a=b; id=" + strings.Repeat("_", 64) + "\r\nCookie: id=" + strings.Repeat("-", 64) + end,
		"upgrade, no version":          "GET /" + host + "Connection: Upgrade\r\nUpgrade: websocket" + end,
		"upgrade, h2c":                 "GET /" + host + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA" + end,
		"upgrade, POST":                "POST /" + upgrade + "\r\nContent-Length: 3" + end + "abc",
		"upgrade, connect-udp":         "GET /.well-known/masque/udp/a.example/443/" + host + "Connection: Upgrade\r\nUpgrade: connect-udp\r\nCapsule-Protocol: ?1" + end,
		"no host":                      "GET / HTTP/1.1" + end,
		"bad host":                     "GET / HTTP/1.1\r\nHost: a b" + end,
		"old":                          "GET / HTTP/1.0" + end,
		"future":                       "GET / HTTP/3.7" + end,
		"absolute":                     "GET https://elsewhere.example/x" + host + "Connection: close" + end,
		"CONNECT":                      "CONNECT elsewhere.example:443 HTTP/1.1\r\nHost: elsewhere.example:443" + end,
		"OPTIONS *":                    "OPTIONS *" + host + "Connection: close" + end,
		"no such method":               "FROB /" + host + "Connection: close" + end,
		"bad method":                   "G(T /" + host + end,
		"bad header":                   "GET /" + host + "no colon" + end,
		"bad value":                    "GET /" + host + "A: \x00" + end,
		"bad length":                   "POST /" + host + "Content-Length: x" + end,
		"two lengths":                  "POST /" + host + "Content-Length: 3\r\nContent-Length: 4" + end + "abcd",
		"smuggle":                      "POST /" + host + "Content-Length: 3\r\nTransfer-Encoding: chunked" + end + "0" + end,
		"bad chunk":                    "POST /" + host + "Transfer-Encoding: chunked" + end + "zz\r\n",
		"cut short":                    "POST /" + host + "Content-Length: 30" + end + "abc",
		"expect":                       "POST /" + host + "Expect: 100-continue\r\nContent-Length: 3" + end + "abc",
		"long header":                  "GET /" + host + "A: " + strings.Repeat("a", 80<<10) + end,
		"long path":                    "GET /" + strings.Repeat("a", 80<<10) + host + end,
		"half":                         "GET /" + host,
		"nothing":                      "",
		"garbage":                      "\x16\x03\x01\x00\x05hello",
		"HTTP/2 preface":               "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"two at once":                  "GET /" + host + "\r\nHEAD /missing" + host + "Connection: close" + end,
		"a WireGuard initiation first": "\x01\x00\x00\x00" + strings.Repeat("x", 144),
	}
	for _, path := range []string{"/", "/missing", "/index.html", "/../etc/passwd", "/%00", "/?a=1", "//"} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "OPTIONS", "PATCH"} {
			all[method+" "+path] = method + " " + path + host + "Connection: close\r\nContent-Length: 0" + end
		}
	}
	return all
}

func TestHC1_AProberSeesTheCover(t *testing.T) {
	cert, err := SelfMade("a.example")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte("<p>hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	directory, err := CoverOf(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	key := [32]byte{1, 2, 3}
	for name, cover := range map[string]http.Handler{"mirror": http.HandlerFunc(mirror), "small site": site(key), "directory": directory} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, ServerConfig{Key: key, Cover: cover, Certificate: cert, MaxPerSource: 1 << 14})
			ours, theirs := s.Addr().String(), plain(t, cover, cert)
			probeTCP(t, key, ours, theirs)
			probeH2(t, ours, theirs)
			probeTLS(t, ours, theirs)
			probeClients(t, key, ours, theirs)
			probeQUIC(t, ours, theirs)
			// It is not blind: with the proof, the same server carries.
			for _, kind := range kinds {
				c, err := Dial(t.Context(), s.dial(kind))
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
			}
		})
	}
}

// anyCert is how a prober shakes hands.
func anyCert(next ...string) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, ServerName: "a.example", NextProtos: next}
}

// probeTCP compares answers to bytes, over TLS and without.
func probeTCP(t *testing.T, key [32]byte, ours, theirs string) {
	t.Helper()
	for name, text := range probes() {
		for how, conf := range map[string]*tls.Config{"http/1.1": anyCert("http/1.1"), "no ALPN": anyCert(), "no TLS": nil} {
			say := func(tls.ConnectionState) string { return text }
			if a, b := knock(ours, conf, say), knock(theirs, conf, say); a != b {
				t.Errorf("%s over %s: a carrier says\n%q\na web server\n%q", name, how, a, b)
			}
		}
	}
	// Who replays a proof of another connection, and who proves another key.
	c, err := tls.Dial("tcp", ours, anyCert("http/1.1"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	old, err := prove(key, c.ConnectionState())
	if err != nil {
		t.Fatal(err)
	}
	other, err := prove([32]byte{9}, c.ConnectionState())
	if err != nil {
		t.Fatal(err)
	}
	for name, proof := range map[string]string{"replay": old, "another key": other} {
		say := func(s tls.ConnectionState) string {
			if name == "another key" {
				proof, _ = prove([32]byte{9}, s)
			}
			return strings.Replace(probes()["upgrade, cookie"], strings.Repeat("A", 64), proof, 1)
		}
		a, b := knock(ours, anyCert("http/1.1"), say), knock(theirs, anyCert("http/1.1"), say)
		cookie := regexp.MustCompile(`id=[A-Za-z0-9_-]{64}`)
		if cookie.ReplaceAllString(a, "") != cookie.ReplaceAllString(b, "") || strings.HasPrefix(a, "HTTP/1.1 101") {
			t.Errorf("%s: %q, a web server %q", name, a, b)
		}
	}
	// A proof that is right, in a request that is none for a carrier.
	for _, method := range []string{"GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\nContent-Length: 0\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AA==\r\n"} {
		answer := knock(ours, anyCert("http/1.1"), func(s tls.ConnectionState) string {
			proof, _ := prove(key, s)
			return method + "Host: a.example\r\nConnection: close\r\nCookie: id=" + proof + "\r\n\r\n"
		})
		if !strings.HasPrefix(answer, "HTTP/1.1 ") || strings.HasPrefix(answer, "HTTP/1.1 101") {
			t.Errorf("a proof in %q: %q", method, answer)
		}
	}
}

// probeH2 compares frames of HTTP/2 that end a connection.
func probeH2(t *testing.T, ours, theirs string) {
	t.Helper()
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for name, text := range map[string]string{
		"data on no stream":  "\x00\x00\x03\x00\x00\x00\x00\x00\x00abc",
		"idle stream":        "\x00\x00\x03\x00\x00\x00\x00\x00\x07abc",
		"bad field section":  "\x00\x00\x03\x01\x05\x00\x00\x00\x01\xff\xff\xff",
		"long frame":         "\xff\xff\xff\x00\x00\x00\x00\x00\x01",
		"push":               "\x00\x00\x04\x05\x04\x00\x00\x00\x01\x00\x00\x00\x02",
		"settings of 5":      "\x00\x00\x05\x04\x00\x00\x00\x00\x00abcde",
		"window of nothing":  "\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"even stream":        "\x00\x00\x01\x01\x05\x00\x00\x00\x02\x82",
		"headers on nothing": "\x00\x00\x01\x01\x05\x00\x00\x00\x00\x82",
	} {
		if a, b := knockH2(t, ours, preface+text), knockH2(t, theirs, preface+text); a != b {
			t.Errorf("%s over HTTP/2: a carrier says\n%q\na web server\n%q", name, a, b)
		}
	}
}

// knockH2 is the SETTINGS and the GOAWAY of a connection that such bytes end. What
// else is sent meanwhile, and when, is the scheduler's.
func knockH2(t *testing.T, addr, text string) string {
	t.Helper()
	c, err := tls.Dial("tcp", addr, anyCert("h2"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(c, text)
	said := ""
	for {
		head := make([]byte, 9) // RFC 9113, section 4.1
		if _, err := io.ReadFull(c, head); err != nil {
			return said + " ended"
		}
		payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(c, payload); err != nil {
			return said + " cut"
		}
		const settings, goAway = 4, 7
		if head[3] == settings && head[4] == 0 || head[3] == goAway {
			said += fmt.Sprintf("%x %x\n", head, payload)
		}
		if head[3] == goAway {
			return said
		}
	}
}

// probeTLS compares handshakes.
func probeTLS(t *testing.T, ours, theirs string) {
	t.Helper()
	for name, change := range map[string]func(*tls.Config){
		"TLS 1.0":       func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 },
		"TLS 1.2":       func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 },
		"another name":  func(c *tls.Config) { c.ServerName = "b.example" },
		"no name":       func(c *tls.Config) { c.ServerName = "" },
		"another ALPN":  func(c *tls.Config) { c.NextProtos = []string{"acme-tls/1"} },
		"h3 over TCP":   func(c *tls.Config) { c.NextProtos = []string{"h3"} },
		"wireguard":     func(c *tls.Config) { c.NextProtos = []string{"wireguard", "http/1.1"} },
		"another curve": func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP521} },
	} {
		conf := anyCert("http/1.1")
		change(conf)
		say := func(tls.ConnectionState) string { return "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" }
		if a, b := knock(ours, conf, say), knock(theirs, conf, say); a != b {
			t.Errorf("%s: a carrier says\n%q\na web server\n%q", name, a, b)
		}
	}
}

// probeClients compares answers to whole requests by Go's own clients, of each
// version of HTTP.
func probeClients(t *testing.T, key [32]byte, ours, theirs string) {
	t.Helper()
	clients := func() map[string]http.RoundTripper {
		h1 := &http.Transport{TLSClientConfig: anyCert("http/1.1"), DisableCompression: true}
		h2 := &http.Transport{TLSClientConfig: anyCert(), ForceAttemptHTTP2: true, DisableCompression: true}
		h3 := &http3.Transport{TLSClientConfig: anyCert(), EnableDatagrams: true, DisableCompression: true, QUICConfig: &quic.Config{EnableDatagrams: true}}
		t.Cleanup(func() { h1.CloseIdleConnections(); h2.CloseIdleConnections(); h3.Close() })
		return map[string]http.RoundTripper{"HTTP/1.1": h1, "HTTP/2.0": h2, "HTTP/3.0": h3}
	}
	all := clients()
	ask := func(version, addr, method, path string, header http.Header, body string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, method, "https://"+addr+path, strings.NewReader(body))
		if err != nil {
			return err.Error()
		}
		maps.Copy(r.Header, header)
		if p := header.Get("X-Protocol"); p != "" {
			r.Proto, r.Body = p, nil
		}
		a, err := all[version].RoundTrip(r)
		if err != nil {
			return same([]byte(err.Error()), addr)
		}
		defer a.Body.Close()
		text, err := io.ReadAll(a.Body)
		if a.Proto != version {
			t.Errorf("%s answers %s", addr, a.Proto)
		}
		out := fmt.Appendf(nil, "%s %s %d %v %v\n", a.Proto, a.Status, a.ContentLength, a.Trailer, err)
		for _, k := range slices.Sorted(maps.Keys(a.Header)) {
			out = fmt.Appendf(out, "%s: %s\n", k, strings.Join(a.Header[k], ", "))
		}
		return same(append(out, text...), addr)
	}
	nonce := make([]byte, proofSize)
	rand.Read(nonce)
	for version := range all {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "OPTIONS", "FROB"} {
			for _, path := range []string{"/", "/missing", "/a/b?c=d"} {
				for name, header := range map[string]http.Header{
					"bare":   nil,
					"cookie": {"Cookie": {"id=" + cookieText(nonce)}},
					"range":  {"Range": {"bytes=1-3"}},
				} {
					a, b := ask(version, ours, method, path, header, "body"), ask(version, theirs, method, path, header, "body")
					if a != b {
						t.Errorf("%s %s %s %s: a carrier says\n%s\na web server\n%s", version, method, path, name, a, b)
					}
				}
			}
		}
	}
	for _, protocol := range []string{"connect-udp", "websocket", "webtransport", "connect-ip"} {
		header := http.Header{"Cookie": {"id=" + cookieText(nonce)}, "X-Protocol": {protocol}}
		a, b := ask("HTTP/3.0", ours, "CONNECT", "/", header, ""), ask("HTTP/3.0", theirs, "CONNECT", "/", header, "")
		if a != b {
			t.Errorf("CONNECT of %s: a carrier says\n%s\na web server\n%s", protocol, a, b)
		}
	}
}

// probeQUIC compares what raw streams, datagrams and packets bring about.
func probeQUIC(t *testing.T, ours, theirs string) {
	t.Helper()
	for name, tc := range map[string]struct {
		conf   *tls.Config
		stream string // bytes of the first request
		first  string // of a unidirectional stream before it
		gram   string
	}{
		"another ALPN":              {anyCert("wireguard"), "", "", ""},
		"no ALPN":                   {anyCert(), "", "", ""},
		"garbage":                   {anyCert("h3"), "\x3f\x3f\x3fgarbage", "", ""},
		"data first":                {anyCert("h3"), "\x00\x03abc", "", ""},
		"bad field section":         {anyCert("h3"), "\x01\x03\xff\xff\xff", "", ""},
		"huge header":               {anyCert("h3"), "\x01\x80\x10\x00\x00", "", ""},
		"nothing":                   {anyCert("h3"), "", "", ""},
		"settings twice":            {anyCert("h3"), "\x00\x03abc", "\x00\x04\x00\x04\x00", ""},
		"settings of datagrams":     {anyCert("h3"), "\x00\x03abc", "\x00\x04\x02\x33\x01", "\x00\x00\x01x"},
		"datagram of no request":    {anyCert("h3"), "\x00\x03abc", "\x00\x04\x00", "\x00\x00\x94" + strings.Repeat("x", 148)},
		"datagram that is cut":      {anyCert("h3"), "\x00\x03abc", "\x00\x04\x02\x33\x01", "\xc0"},
		"a stream of unknown type":  {anyCert("h3"), "\x00\x03abc", "\x21abc", ""},
		"a push stream":             {anyCert("h3"), "\x00\x03abc", "\x01abc", ""},
		"a control stream that end": {anyCert("h3"), "\x00\x03abc", "\x00", ""},
	} {
		// Their answers hold a compressed date: when a second ends between them they are
		// asked again.
		a, b := "", "-"
		for try := 0; a != b && try < 5; try++ {
			a, b = knockQUIC(t, ours, tc.conf, tc.first, tc.gram, tc.stream), knockQUIC(t, theirs, tc.conf, tc.first, tc.gram, tc.stream)
		}
		if a != b {
			t.Errorf("%s: a carrier says\n%s\na web server\n%s", name, a, b)
		}
	}
	// Packets that are not QUIC are not answered, by either.
	for _, text := range []string{"\x01\x00\x00\x00" + strings.Repeat("x", 144), "\xc0\x00\x00\x00\x01", "hello", "\xc0\x0a\x0a\x0a\x0a\x08aaaaaaaa\x08bbbbbbbb" + strings.Repeat("\x00", 1200)} {
		if a, b := datagramAnswer(t, ours, text), datagramAnswer(t, theirs, text); a != b {
			t.Errorf("packet %.20q: %q, a web server %q", text, a, b)
		}
	}
}

// knockQUIC tells how a connection with such streams ends.
func knockQUIC(t *testing.T, addr string, conf *tls.Config, first, gram, stream string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := quic.DialAddr(ctx, addr, conf, &quic.Config{EnableDatagrams: true})
	if err != nil {
		return same([]byte(err.Error()), addr)
	}
	defer c.CloseWithError(noError, "")
	st := c.ConnectionState()
	said := fmt.Sprint(st.TLS.Version, st.TLS.CipherSuite, st.TLS.NegotiatedProtocol, st.SupportsDatagrams.Remote, st.Version)
	control, err := c.AcceptUniStream(ctx)
	if err != nil {
		return said + err.Error()
	}
	settings := make([]byte, 64)
	n, err := control.Read(settings)
	said += fmt.Sprintf(" settings %x %v", sortedSettings(settings[:n]), err)
	answer, err := exchange(c, first, gram, stream)
	// Of two reasons to end, which comes first is the scheduler's, and how far a prober
	// has come then.
	var app *quic.ApplicationError
	if errors.As(err, &app) && first != "" {
		return said + " ended"
	}
	return said + same(fmt.Appendf(nil, " %x %v", answer, err), addr)
}

// exchange sends what there is to send, and reads the answer to the request.
func exchange(c *quic.Conn, first, gram, stream string) ([]byte, error) {
	if first != "" {
		u, err := c.OpenUniStream()
		if err != nil {
			return nil, err
		}
		io.WriteString(u, first)
		u.Close()
	}
	if gram != "" {
		if err := c.SendDatagram([]byte(gram)); err != nil {
			return nil, err
		}
	}
	s, err := c.OpenStream()
	if err != nil {
		return nil, err
	}
	io.WriteString(s, stream)
	s.Close()
	s.SetReadDeadline(time.Now().Add(20 * time.Second))
	return io.ReadAll(s)
}

// sortedSettings puts the pairs of a SETTINGS frame of small numbers into an order,
// for they come in none.
func sortedSettings(frame []byte) string {
	var parts []string
	for _, b := range bytes.Split(frame, nil) {
		parts = append(parts, string(b))
	}
	slices.Sort(parts)
	return strings.Join(parts, "")
}

// datagramAnswer is how many bytes come back for a UDP packet, before the answer to
// a packet of version negotiation that is sent after it.
func datagramAnswer(t *testing.T, addr, text string) string {
	t.Helper()
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(c, text)
	// RFC 9000, section 6: a version that nobody speaks is answered with a list.
	io.WriteString(c, "\xc0\x1a\x2a\x3a\x4a\x08sentinel\x08sentinel"+strings.Repeat("\x00", 1200))
	said := ""
	for {
		b := make([]byte, 2000)
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b[:n], []byte("sentinel")) {
			return said
		}
		said += strconv.Itoa(n) + " "
	}
}
