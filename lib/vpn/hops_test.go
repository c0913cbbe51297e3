package vpn

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"top/lib/api"
	"top/lib/top"
)

// directs puts each exit on a machine of its own, 127.0.0.2 and on, and remembers what is
// sent there. Hops reach an exit of this machine by 127.0.0.1.
func (w *world) directs(all []*member) (fronts []*front) {
	for i, m := range all {
		inner := newFront(w.t, m.port)
		f := frontAt(w.t, &net.UDPAddr{IP: net.IPv4(127, 0, 0, byte(2+i)), Port: int(inner.port)}, m.port).keeping()
		fronts = append(fronts, f)
		m.register(inner.port)
		w.set(func() {
			n := w.nodes[m.id()]
			n.Addrs = []string{strings.Replace(n.Addrs[0], "127.0.0.1", fmt.Sprintf("127.0.0.%d", 2+i), 1)}
			w.nodes[m.id()] = n
		})
	}
	return fronts
}

// TestX4_LaterHopsNeverSeeTheClient chooses hops from six exits, without --via, again when
// the entry dies: nobody but who may be an entry is sent a datagram from the client's own
// address, and few are; the later hop only by the entry.
func TestX4_LaterHopsNeverSeeTheClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var exits []*member
	for i := range 6 {
		exits = append(exits, w.sell("exit"+strconv.Itoa(i)))
	}
	fronts := w.directs(exits)
	alice, s := w.member("alice"), newSite(t)
	alice.up(func(c *ClientConfig) { c.Hops = 2 })
	index := func(n top.NodeID) int { return slices.IndexFunc(exits, func(m *member) bool { return m.id() == n }) }
	look := func(when string) (hops []api.VPNHop) {
		t.Helper()
		alice.fetched(s, 100_000)
		hops = alice.status().Hops
		met := 0
		for i, f := range fronts {
			if len(f.passed()) > 0 {
				met++
			}
			if i == index(hops[1].Node) && len(f.passed()) > 0 {
				t.Errorf("%s: the later hop saw %d datagrams from the client", when, len(f.passed()))
			}
		}
		if len(fronts[index(hops[0].Node)].passed()) == 0 {
			t.Errorf("%s: the entry saw nothing: the test looks in the wrong place", when)
		}
		if met > maxEntries {
			t.Errorf("%s: %d exits saw the client", when, met)
		}
		return hops
	}
	first := look("at first")
	fronts[index(first[0].Node)].losing(func(bool, []byte) bool { return true })
	w.until("another path", func() bool { h := alice.status().Hops; return len(h) == 2 && h[0].Node != first[0].Node })
	look("after the entry died")
	// With two exits there is one way only; with one there is none, and it says what to do.
	w.set(func() {
		for _, m := range exits[1:] {
			delete(w.nodes, m.id())
		}
	})
	cfg, _ := w.member("bob").config(func(c *ClientConfig) { c.Hops = 2 })
	c, err := NewClient(cfg)
	must(t, err)
	ctx, cancel := contextOf(t, wait)
	defer cancel()
	if err := c.Run(ctx); err == nil || !strings.Contains(err.Error(), "--via") {
		t.Errorf("two hops of one exit: %v", err)
	}
}
