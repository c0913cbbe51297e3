package vpn

import (
	"errors"
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

// TestX4_ThreeHops: each sees its neighbours and has a payer of its own, and whole pages
// and names come through.
func TestX4_ThreeHops(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two, three, s := w.sell("one"), w.sell("two"), w.sell("three"), newSite(t)
	alice := w.member("alice")
	alice.up(via(one, two, three), func(c *ClientConfig) { c.Hops = 3 })
	alice.fetched(s, 3_000_000)
	payers := map[top.Address]bool{alice.address(): true}
	for i, h := range alice.status().Hops {
		payers[h.Payer] = true
		if h.Node != []*member{one, two, three}[i].id() || h.MTU < 1280 {
			t.Errorf("hop %d: %s, MTU %d", i+1, h.Name, h.MTU)
		}
	}
	if len(payers) != 4 {
		t.Errorf("payers: %v", payers)
	}
	if key := alice.client.key.Public(); one.exit.peer(key.Inner()) != nil || two.exit.peer(key.Inner()) != nil || three.exit.peer(key.Inner()) == nil {
		t.Error("a hop before the last knows the key that the last knows")
	}
	must(t, alice.stop())
}

// TestX4_OneExitIsNotTwoHops, however often it is named; and the middle of three is not met
// by IPv6, for which there is no room.
func TestX4_OneExitIsNotTwoHops(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, y := w.sell("exit"), w.sell("other")
	refuses := func(who string, kind error, what string, more ...func(*ClientConfig)) {
		t.Helper()
		cfg, _ := w.member(who).config(more...)
		c, err := NewClient(cfg)
		must(t, err)
		ctx, cancel := contextOf(t, wait)
		defer cancel()
		if err := c.Run(ctx); !errors.Is(err, kind) || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, not %s", err, what)
		}
	}
	refuses("alice", top.ErrUsage, "twice: an exit that is two hops", via(x, x), func(c *ClientConfig) { c.Hops = 2 })
	refuses("bob", top.ErrUsage, "twice: an exit that is two hops", via(x, y, x), func(c *ClientConfig) { c.Hops = 3 })
	six := y.exit.key.Public()
	refuses("carol", top.ErrInvalid, "other is met by IPv6", func(c *ClientConfig) {
		c.Hops, c.Via = 3, []string{x.id().String(), Address{Carry: Plain, Host: "2001:db8::1", Port: "1", Key: six, Node: y.id()}.String(), w.sell("third").id().String()}
	})
}
