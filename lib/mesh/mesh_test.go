package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"top/lib/keys"
	"top/lib/top"
)

const echo = "/top/echo/1"

func key(b byte) keys.Private { return keys.FromSeed([32]byte{b}) }

// open is a host on a free port of loopback; with no address it dials only.
func open(t *testing.T, b byte, listen ...string) *Host {
	t.Helper()
	h, err := New(Config{Key: key(b), Listen: listen})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

const loopback = "/ip4/127.0.0.1/tcp/0"

// eventually polls a condition until it holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

func TestStreamsAreConnections(t *testing.T) {
	server, client := open(t, 1, loopback), open(t, 2)
	ln := server.Listen(echo)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		io.Copy(w, q.Body)
	})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	web := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return client.Dial(ctx, echo, server.Addrs()[0])
	}}}
	for range 3 {
		res, err := web.Post("http://top/", "text/plain", strings.NewReader(strings.Repeat("word ", 100_000)))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || len(b) != 500_000 {
			t.Fatalf("%d bytes came back: %v", len(b), err)
		}
	}
	if client.Peers() != 1 || server.Peers() != 1 {
		t.Errorf("peers: %d and %d", client.Peers(), server.Peers())
	}
	web.CloseIdleConnections()
	srv.Close()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("serve ended: %v", err)
	}
	eventually(t, "every stream given back", func() bool {
		server.mu.Lock()
		defer server.mu.Unlock()
		return server.all == 0 && len(server.each) == 0
	})
}

func TestN1_TheOtherEndIsWhoTheAddressNames(t *testing.T) {
	server, client := open(t, 1, loopback), open(t, 2)
	ln := server.Listen(echo)
	id, err := ID(key(1))
	if err != nil || !strings.HasSuffix(server.Addrs()[0], "/p2p/"+id) {
		t.Fatalf("address %s, name %s, %v", server.Addrs()[0], id, err)
	}
	c, err := client.Dial(t.Context(), echo, server.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	in, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	me, err := ID(key(2))
	if err != nil || in.RemoteAddr().String() != me || c.RemoteAddr().String() != id {
		t.Errorf("ends are %s and %s, want %s and %s: %v", in.RemoteAddr(), c.RemoteAddr(), me, id, err)
	}

	other, err := ID(key(3))
	if err != nil {
		t.Fatal(err)
	}
	where, _, _ := strings.Cut(server.Addrs()[0], "/p2p/")
	for _, tc := range []struct {
		name, addr string
		want       error
		text       string
	}{
		{"another peer's name", where + "/p2p/" + other, top.ErrOffline, "no answer from"},
		{"no name", where, top.ErrInvalid, "/p2p/"},
		{"no address", "localhost", top.ErrInvalid, "want /ip4/"},
		{"empty", "", top.ErrInvalid, "want /ip4/"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := client.Dial(t.Context(), echo, tc.addr)
			if !errors.Is(err, tc.want) || !strings.Contains(fmt.Sprint(err), tc.text) {
				t.Errorf("%v, %v", c, err)
			}
			if bad := CheckAddr(tc.addr); (bad != nil) != errors.Is(tc.want, top.ErrInvalid) {
				t.Errorf("CheckAddr: %v", bad)
			}
		})
	}
	if _, err := client.Dial(t.Context(), "/top/other/1", server.Addrs()[0]); !errors.Is(err, top.ErrOffline) || !strings.Contains(err.Error(), "does not speak") {
		t.Errorf("a protocol that nobody serves: %v", err)
	}
	if _, err := New(Config{Key: key(4), Listen: []string{where}}); !errors.Is(err, top.ErrFailed) || !strings.Contains(err.Error(), "is the port taken?") {
		t.Errorf("a port that is taken: %v", err)
	}
	if _, err := New(Config{Key: key(4), Listen: []string{"localhost"}}); !errors.Is(err, top.ErrInvalid) {
		t.Errorf("an address that is none: %v", err)
	}
}

func TestN2_StrangersHoldABoundedNumberOfStreams(t *testing.T) {
	server, client := open(t, 1, loopback), open(t, 2)
	ln := server.Listen(echo)
	// use opens a stream and says whether the server keeps it.
	use := func() (net.Conn, net.Conn, bool) {
		c, err := client.Dial(t.Context(), echo, server.Addrs()[0])
		if err != nil {
			t.Fatal(err)
		}
		taken := make(chan net.Conn, 1)
		go func() {
			in, err := ln.Accept()
			if err == nil {
				in.Write([]byte("y"))
			}
			taken <- in
		}()
		c.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			return c, nil, false
		}
		return c, <-taken, true
	}
	var held []net.Conn
	for i := range maxPeerStreams {
		c, in, ok := use()
		if !ok {
			t.Fatalf("stream %d was refused", i)
		}
		defer c.Close()
		held = append(held, in)
	}
	c, _, ok := use()
	if ok {
		t.Fatalf("stream %d of one peer was taken", maxPeerStreams+1)
	}
	c.Close()
	held[0].Close()
	held[0].Close() // twice gives back once
	server.mu.Lock()
	if server.all != maxPeerStreams-1 {
		t.Errorf("%d streams are counted", server.all)
	}
	server.mu.Unlock()

	// In all: peers are free to make, so the sum is bounded too.
	h := &Host{each: map[peer.ID]int{}}
	taken := 0
	for i := range 2 * maxStreams {
		if h.admit(peer.ID(fmt.Sprint(i))) {
			taken++
		}
	}
	if taken != maxStreams {
		t.Errorf("%d streams taken, want %d", taken, maxStreams)
	}
	for i := range maxStreams {
		h.release(peer.ID(fmt.Sprint(i)))
	}
	if h.all != 0 || len(h.each) != 0 {
		t.Errorf("after all left, %d streams of %d peers are counted", h.all, len(h.each))
	}
}

func TestStreamsThatNobodyAcceptsAreReset(t *testing.T) {
	server, client := open(t, 1, loopback), open(t, 2)
	ln := server.Listen(echo)
	conns := make([]net.Conn, 0, backlog+1)
	refused := 0
	for range backlog + 1 {
		c, err := client.Dial(t.Context(), echo, server.Addrs()[0])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write([]byte("x"))
		conns = append(conns, c)
	}
	ended := make(chan error)
	for _, c := range conns {
		go func() {
			_, err := c.Read(make([]byte, 1))
			ended <- err
		}()
	}
	if err := <-ended; err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the stream beyond the backlog ended with %v, want a reset", err)
	}
	refused++
	ln.Close()
	ln.Close()
	for range conns[refused:] {
		if err := <-ended; err == nil || errors.Is(err, io.EOF) {
			t.Errorf("a stream that waited ended with %v, want a reset", err)
		}
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
	c, err := client.Dial(t.Context(), echo, server.Addrs()[0])
	if err == nil {
		defer c.Close()
		c.Write([]byte("x"))
		if _, err = c.Read(make([]byte, 1)); err == nil {
			t.Error("a stream after close was answered")
		}
	}
}

func TestN3_NothingIsLeftAfterClose(t *testing.T) {
	server, client := open(t, 1, loopback), open(t, 2)
	ln := server.Listen(echo)
	accepted := make(chan error, 1)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				accepted <- err
				return
			}
			go io.Copy(c, c)
		}
	}()
	c, err := client.Dial(t.Context(), echo, server.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	c.Write([]byte("x"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept ended with %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the stream outlived its host")
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "no goroutine of libp2p", func() bool {
		all := make([]byte, 1<<20)
		return !strings.Contains(string(all[:runtime.Stack(all, true)]), "github.com/libp2p/go-libp2p")
	})
}

// A key is bound to one name on the mesh, which must not change: addresses
// that people wrote down name it.
func TestNamesStay(t *testing.T) {
	id, err := ID(key(1))
	if want := "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"; err != nil || id != want {
		t.Errorf("name %s, want %s: %v", id, want, err)
	}
}
