package vpn

import (
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"top/lib/top"
)

// newFlood answers a datagram with so many of 1,200 bytes.
func newFlood(t *testing.T, n int) uint16 {
	t.Helper()
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1500)
		for {
			_, from, err := pc.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			for range n {
				pc.WriteToUDPAddrPort(b[:1200], from)
			}
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	return pc.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// losesAll loses what comes down until the exit carries no more.
func (m *member) losesAll(f *front, port uint16) {
	t := m.w.t
	t.Helper()
	f.losing(func(up bool, b []byte) bool { return !up && len(b) > 1000 })
	defer f.losing(nil)
	c, err := m.client.stack.DialContext(t.Context(), "udp", netip.AddrPortFrom(host4(), port).String())
	must(t, err)
	defer c.Close()
	w := m.hop(0)
	m.w.until("it stands still", func() bool {
		_, err := c.Write(make([]byte, 20))
		must(t, err)
		w.mu.Lock()
		defer w.mu.Unlock()
		return !w.still.since.IsZero() && w.t.now().Sub(w.still.since) > time.Second
	})
}

// hop is the purse of a hop of a tunnel that is up.
func (m *member) hop(i int) *purse {
	m.client.mu.Lock()
	defer m.client.mu.Unlock()
	return m.client.hops[i]
}

// TestX2_WhatStandsStillGoesOn loses more of what comes down than an exit believes, twice:
// the client goes on by another session, then by another channel, and pays for nothing
// that was lost.
func TestX2_WhatStandsStillGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	port, f := newFlood(t, 20), x.line()
	alice.up(via(x))
	alice.fetched(s, 100_000)
	channels := func() int { return at(w, func() int { return len(w.channels) }) }
	said := false
	for round, want := range []int{1, 2} {
		before := alice.hop(0).id()
		spent := alice.client.spent()
		alice.losesAll(f, port)
		w.until("another session", func() bool {
			said = said || strings.Contains(alice.status().Problem, "Another session begins in")
			return alice.hop(0).id() != before
		})
		alice.fetched(s, 100_000)
		if n := channels(); n != want {
			t.Errorf("round %d: %d channels, want %d", round, n, want)
		}
		if now := alice.client.spent(); now > spent+20*price {
			t.Errorf("round %d: %s for a page of two units", round, now-spent)
		}
		w.until("the status is clear", func() bool { return alice.status().Problem == "" })
	}
	if !said {
		t.Error("the status did not say why it stood")
	}
	if e, c := x.earned(), alice.client.spent(); e > c {
		t.Errorf("the exit earned %s of %s", e, c)
	}
}

// TestX2_WhatStandsStillGoesElsewhere: with another to choose the exit is left when the
// second session stands still, too.
func TestX2_WhatStandsStillGoesElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, y, alice, s := w.sell("exit"), w.sell("other"), w.member("alice"), newSite(t)
	port, f := newFlood(t, 20), x.line()
	alice.up(via(x, y))
	for range 2 {
		alice.fetched(s, 100_000)
		before := alice.hop(0).id()
		alice.losesAll(f, port)
		w.until("another session", func() bool { h := alice.status().Hops; return len(h) == 1 && h[0].Session != before })
	}
	if n := alice.status().Hops[0].Name; n != "other" {
		t.Errorf("by exit %s", n)
	}
	alice.fetched(s, 100_000)
}

// TestAnExitHasAClientBeginRarely: the time between doubles, whatever the path, until a
// channel was used up.
func TestAnExitHasAClientBeginRarely(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	c := &Client{now: func() time.Time { return time.Unix(1_000_000+clock.Load(), 0) }}
	n, begun := top.NodeID{1}, 0
	for ; clock.Load() < 24*3600; clock.Add(1) {
		if c.patient(n, false) == nil && c.patient(n, true) == nil {
			begun++
		}
	}
	if begun < 10 || begun > 15 {
		t.Errorf("%d sessions or channels were begun in a day", begun)
	}
	if err := c.patient(top.NodeID{2}, true); err != nil {
		t.Errorf("another exit: %v", err)
	}
	c.goesWell(n)
	if err := c.patient(n, true); err != nil {
		t.Errorf("after a channel that was used up: %v", err)
	}
}
