package scripts

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"top/lib/api"
	"top/lib/sock"
	"top/lib/top"
)

// vpn is a client of a home's VPN daemon.
func (n *localnet) vpn(who string) *api.VPN {
	path, err := n.home(who).Sock("vpn")
	if err != nil {
		n.t.Fatal(err)
	}
	return api.NewVPN(sock.Dial(path, "top-vpn up"))
}

func (n *localnet) vpnLock(who string) string { return n.home(who).Path("run", "vpn.sock.lock") }

// exitPorts is where localnet runs an exit, and its hidden carriage.
func (n *localnet) exitPorts(who string) (plain, hidden string) {
	n.t.Helper()
	b, err := os.ReadFile(n.home(who).Path("listen"))
	plain, hidden, ok := strings.Cut(strings.TrimSpace(string(b)), " ")
	if err != nil || !ok {
		n.t.Fatalf("ports of %s: %q, %v", who, b, err)
	}
	return plain, hidden
}

// exitArgs is how localnet runs an exit.
func (n *localnet) exitArgs(who string) []string {
	plain, hidden := n.exitPorts(who)
	return []string{"serve", "--provide", "--listen", plain, "--hidden", hidden, "--cover", filepath.Join(n.dir, "page"), "--allow-loopback", "--region", "here"}
}

// page is a page of so many bytes on exit2's web server.
func (n *localnet) page(name string, size int) (url string, body []byte) {
	n.t.Helper()
	body = make([]byte, size)
	rand.Read(body)
	if err := os.WriteFile(filepath.Join(n.dir, "page", name), body, 0o644); err != nil {
		n.t.Fatal(err)
	}
	_, hidden := n.exitPorts("exit2")
	return "https://" + hidden + "/" + name, body
}

// fetched waits until a page came whole through the tunnel, as a program does that
// tries again.
func (n *localnet) fetched(url string, body []byte) {
	n.t.Helper()
	n.eventually("the page came", func() bool {
		out, err := n.try("alice", "top-vpn", "get", "--insecure", "--timeout", "20s", url)
		return err == nil && out == string(body)
	})
}

// hop is the node that Alice's tunnel leads to; "" while it leads nowhere.
func (n *localnet) hop() string {
	s, err := n.vpn("alice").Status(n.t.Context())
	if err != nil || s.State != "up" || len(s.Hops) == 0 {
		return ""
	}
	return s.Hops[0].Name
}

// Exit and client are killed with -9 in the middle of a page: it goes on with the exit
// when that is back, or with another, and what was earned is claimed once.
func TestFaultKillUnderATunnel(t *testing.T) {
	n := start(t)
	for range rounds(t) {
		url, body := n.page("fault", 40_000_000)
		n.serve("alice", "top-vpn", "up", "--socks", "127.0.0.1:0", "--via", "exit1,exit2")
		if n.hop() != "exit1" {
			t.Fatalf("the tunnel leads to %q", n.hop())
		}
		get := n.command("alice", "top-vpn", "get", "--insecure", "--timeout", "30s", url)
		if err := get.Start(); err != nil {
			t.Fatal(err)
		}
		n.eventually("some of it is there", func() (some bool) {
			err := n.vpn("alice").Meters(t.Context(), 0, func(m api.VPNMeter) error {
				some = some || m.Down > 1_000_000
				return nil
			})
			return err == nil && some
		})
		n.kill(n.vpnLock("exit1"))
		get.Process.Kill()
		get.Wait()
		n.fetched(url, body)
		if n.hop() != "exit2" {
			t.Errorf("with exit1 killed the tunnel leads to %q", n.hop())
		}
		n.kill(n.vpnLock("alice"))
		n.serve("exit1", "top-vpn", n.exitArgs("exit1")...)

		n.serve("alice", "top-vpn", "up", "--socks", "127.0.0.1:0", "--via", "exit1")
		n.fetched(url, body)
		n.proxied()
		n.kill(n.vpnLock("exit1"))
		n.serve("exit1", "top-vpn", n.exitArgs("exit1")...)
		n.fetched(url, body)
		n.chainsAway(url, body)
		n.run("alice", "top-vpn", "down")
	}
	for _, who := range []string{"exit1", "exit2"} {
		last := top.Amount(0)
		n.eventually("what was earned is written", func() bool {
			before := last
			last = n.receipts(who)
			return last > 0 && last == before
		})
		if out := n.settle(who); !strings.Contains(out, `"state":"paid"`) {
			t.Errorf("%s earned %s and was paid: %s", who, last, out)
		}
		if out := n.settle(who); strings.Contains(out, `"state":"paid"`) {
			t.Errorf("%s settled twice: %s", who, out)
		}
	}
}

// proxied asks by HTTP CONNECT, and by datagrams of SOCKS (RFC 1928), as programs do
// that are not ours.
func (n *localnet) proxied() {
	n.t.Helper()
	s, err := n.vpn("alice").Status(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, "a page") }))
	defer web.Close()
	for _, scheme := range []string{"http", "socks5"} {
		line := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: scheme, Host: s.Socks}), TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		r, err := (&http.Client{Transport: line}).Get(web.URL)
		if err != nil {
			n.t.Fatal(scheme, err)
		}
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		line.CloseIdleConnections()
		if err != nil || string(b) != "a page" {
			n.t.Errorf("by %s: %q, %v", scheme, b, err)
		}
	}
	echo, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1500)
		for {
			k, from, err := echo.ReadFrom(b)
			if err != nil {
				return
			}
			echo.WriteTo(b[:k], from)
		}
	}()
	defer func() { echo.Close(); <-done }()
	c, err := net.Dial("tcp", s.Socks)
	if err != nil {
		n.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	answer := make([]byte, 12)
	c.Write([]byte{5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0})
	if _, err := io.ReadFull(c, answer); err != nil || !bytes.Equal(answer[:6], []byte{5, 0, 5, 0, 0, 1}) {
		n.t.Fatalf("ASSOCIATE: %x, %v", answer, err)
	}
	u, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte(answer[6:10])), binary.BigEndian.Uint16(answer[10:]))))
	if err != nil {
		n.t.Fatal(err)
	}
	defer u.Close()
	to := echo.LocalAddr().(*net.UDPAddr)
	ask := append(binary.BigEndian.AppendUint16([]byte{0, 0, 0, 1, 127, 0, 0, 1}, uint16(to.Port)), "a datagram"...)
	n.eventually("the datagram comes back", func() bool {
		b := make([]byte, 1500)
		u.Write(ask)
		u.SetReadDeadline(time.Now().Add(time.Second))
		k, err := u.Read(b)
		return err == nil && bytes.Equal(b[:k], ask)
	})
}

// chainsAway kills the chain daemons of both ends: the session goes on.
func (n *localnet) chainsAway(url string, body []byte) {
	n.t.Helper()
	for _, who := range []string{"alice", "exit1"} {
		n.kill(n.home(who).Path("chain", "lock"))
	}
	n.fetched(url, body)
	for _, who := range []string{"alice", "exit1"} {
		n.serve(who, "top-chain", "serve")
	}
	n.fetched(url, body)
}

// Who scans the port of hidden carriage without the exit's key sees a web server, and
// the same one whatever he asks.
func TestDenyAProberTheExit(t *testing.T) {
	n := start(t)
	url, body := n.page("index.html", 1000)
	site := strings.TrimSuffix(url, "index.html")
	line := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer line.CloseIdleConnections()
	ask := func(method, path string, header ...string) (int, []byte) {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), method, site+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+1 < len(header); i += 2 {
			q.Header.Set(header[i], header[i+1])
		}
		r, err := line.RoundTrip(q)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		for name, values := range r.Header {
			if all := strings.ToLower(name + strings.Join(values, " ")); strings.Contains(all, "top-") || strings.Contains(all, "wireguard") {
				t.Errorf("%s %s says %s", method, path, all)
			}
		}
		return r.StatusCode, b
	}
	if code, b := ask("GET", ""); code != 200 || !bytes.Equal(b, body) {
		t.Fatalf("the page: %d, %d bytes", code, len(b))
	}
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}
	for _, path := range []string{"", "ws", "tunnel", "connect", ".well-known/masque/" + "udp/192.0.2.1/443/", "v1/status"} {
		plain, a := ask("GET", path)
		if code, b := ask("GET", path, upgrade...); code != plain || !bytes.Equal(a, b) {
			t.Errorf("/%s asked for a websocket: %d %q, else %d %q", path, code, b, plain, a)
		}
	}
	silent := n.knock("exit2")
	n.serve("alice", "top-vpn", "up", "--socks", "127.0.0.1:0", "--via", "exit2", "--carry", "wss")
	n.fetched(url, body)
	silent()
}

// knock says to both UDP ports of an exit what a scanner says, and what looks like
// WireGuard and QUIC; silent checks that nothing came back.
func (n *localnet) knock(who string) (silent func()) {
	n.t.Helper()
	plain, hidden := n.exitPorts(who)
	said := map[string]string{
		"nothing": "", "text": "hello\n", "zeros": strings.Repeat("\x00", 1200),
		"an initiation":        "\x01\x00\x00\x00" + strings.Repeat("x", 144),
		"an answer":            "\x02\x00\x00\x00" + strings.Repeat("x", 88),
		"a cookie":             "\x03\x00\x00\x00" + strings.Repeat("x", 60),
		"data":                 "\x04\x00\x00\x00" + strings.Repeat("x", 60),
		"a short QUIC packet":  "\x43" + strings.Repeat("x", 40),
		"a small QUIC Initial": "\xc0\x00\x00\x00\x01\x08aaaaaaaa\x00\x00\x40\x20" + strings.Repeat("x", 32),
		"a question of DNS":    "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x01\x00\x01",
	}
	open := map[string]net.Conn{}
	for _, to := range []string{plain, hidden} {
		for name, text := range said {
			c, err := net.Dial("udp", to)
			if err != nil {
				n.t.Fatal(err)
			}
			n.t.Cleanup(func() { c.Close() })
			io.WriteString(c, text)
			open[name+" at "+to] = c
		}
	}
	return func() {
		n.t.Helper()
		for name, c := range open {
			b := make([]byte, 1500)
			c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if k, err := c.Read(b); err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
				n.t.Errorf("%s is answered: %x, %v", name, b[:k], err)
			}
		}
	}
}
