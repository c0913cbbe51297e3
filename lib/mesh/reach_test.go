package mesh

import (
	"errors"
	"io"
	"strings"
	"testing"

	"top/lib/keys"
	"top/lib/top"
)

// answers serves one protocol on a host: what is said comes back.
func answers(t *testing.T, h *Host) {
	t.Helper()
	ln := h.Listen(echo)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
}

// says wants a word back from the host at an address.
func says(t *testing.T, h *Host, addr string) {
	t.Helper()
	c, err := h.Dial(t.Context(), echo, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("word")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "word" {
		t.Fatalf("%q, %v", b, err)
	}
}

func with(t *testing.T, cfg Config) *Host {
	t.Helper()
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func TestQUIC(t *testing.T) {
	server, client := open(t, 1, "/ip4/127.0.0.1/udp/0/quic-v1"), open(t, 2)
	answers(t, server)
	addr := server.Addrs()[0]
	if !strings.Contains(addr, "/quic-v1/p2p/") {
		t.Fatalf("it listens on %s", addr)
	}
	says(t, client, addr)
	// The name counts over QUIC as over TCP (N1).
	other, err := ID(keys.FromSeed([32]byte{9}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, 3).Dial(t.Context(), echo, addr[:strings.LastIndex(addr, "/")+1]+other); !errors.Is(err, top.ErrOffline) {
		t.Errorf("another's name: %v", err)
	}
}

// A host behind NAT is reached through a hop, and both ends see that it is.
func TestThroughAHop(t *testing.T) {
	hop := with(t, Config{Key: key(1), Listen: []string{loopback}, Reach: true, Hop: true})
	hidden := with(t, Config{Key: key(2), Reach: true, Via: []string{hop.Addrs()[0]}})
	answers(t, hidden)
	var at string
	eventually(t, "a reservation", func() bool {
		for _, a := range hidden.Addrs() {
			if strings.Contains(a, "/p2p-circuit/p2p/") {
				at = a
			}
		}
		return at != ""
	})
	eventually(t, "it knows that it is private", func() bool { return hidden.Reachability() == Private })
	client := with(t, Config{Key: key(3), Reach: true})
	says(t, client, at)
	relayed := 0
	for _, p := range client.List() {
		if p.Relayed && !p.Inbound {
			relayed++
		}
	}
	if relayed != 1 {
		t.Errorf("the client's connections: %+v", client.List())
	}
	if len(hop.List()) != 2 || !hop.List()[0].Inbound {
		t.Errorf("the hop's connections: %+v", hop.List())
	}
	// A hop carries 128 KiB and no more: it is for meeting, not for traffic.
	c, err := client.Dial(t.Context(), echo, at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go c.Write(make([]byte, 1<<20))
	if n, err := io.Copy(io.Discard, c); err == nil || n >= 1<<18 {
		t.Errorf("%d bytes came back through a hop: %v", n, err)
	}
	// Who takes no part dials no hop.
	if _, err := open(t, 4).Dial(t.Context(), echo, at); !errors.Is(err, top.ErrOffline) {
		t.Errorf("without circuits: %v", err)
	}
}

func TestReachRefuses(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no address":     {Key: key(1), Via: []string{"relay1"}},
		"no name":        {Key: key(1), Via: []string{"/ip4/127.0.0.1/tcp/0"}},
		"hop and hidden": {Key: key(1), Hop: true, Via: []string{"/ip4/127.0.0.1/tcp/0/p2p/12D3KooWRr17wDsYpHcu3PSDm1XPsYr2VH9snXzVuouS9QeBqcG4"}},
	} {
		if h, err := New(cfg); !errors.Is(err, top.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
			h.Close()
		}
	}
	if got := open(t, 5, loopback).Reachability(); got != Unknown {
		t.Errorf("a host that nobody tried is %s", got)
	}
}
