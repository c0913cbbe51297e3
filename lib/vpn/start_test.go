package vpn

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"top/lib/top"
)

// TestWhatKeepsATunnelFromBeginning ends it, with an error that names the remedy.
func TestWhatKeepsATunnelFromBeginning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.member("alice")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	end := func(more ...func(*ClientConfig)) error {
		cfg, _ := alice.config(more...)
		c, err := NewClient(cfg)
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		return c.Run(ctx)
	}
	dear := func(c *ClientConfig) { c.MaxPrice = price - 1 }
	if err := end(); !errors.Is(err, top.ErrNotFound) || !strings.Contains(err.Error(), "serve --provide") {
		t.Errorf("no exit anywhere: %v", err)
	}
	if err := end(dear); !errors.Is(err, top.ErrNotFound) {
		t.Errorf("no exit at any price: %v", err)
	}
	if err := end(func(c *ClientConfig) { c.Via = []string{"exit"} }); !errors.Is(err, top.ErrNotFound) || !strings.Contains(err.Error(), "on the chain yet") || !strings.Contains(err.Error(), "top-wallet register") {
		t.Errorf("one of no exits: %v", err)
	}
	w.sell("exit")
	if err := end(func(c *ClientConfig) { c.Via = []string{"other"} }); !errors.Is(err, top.ErrNotFound) || !strings.Contains(err.Error(), "there are: exit by plain; look") {
		t.Errorf("one that is not there: %v", err)
	}
	if err := end(dear); !errors.Is(err, top.ErrDenied) || !strings.Contains(err.Error(), "the cheapest: "+price.String()) {
		t.Errorf("too dear: %v", err)
	}
	if err := end(func(c *ClientConfig) { c.Carry = WSS }); !errors.Is(err, top.ErrNotFound) || !strings.Contains(err.Error(), "of 1 exits that are registered none is left: 1 offer no --carry wss (") {
		t.Errorf("no exit by wss: %v", err)
	}
	if err := end(func(c *ClientConfig) { c.Socks = taken.Addr().String() }); !errors.Is(err, top.ErrBusy) || !strings.Contains(err.Error(), "choose another") {
		t.Errorf("a port that is taken: %v", err)
	}
	cfg, _ := alice.config(func(c *ClientConfig) { c.Socks = "1080" })
	if _, err := NewClient(cfg); !errors.Is(err, top.ErrUsage) || !strings.Contains(err.Error(), "HOST:PORT") {
		t.Errorf("a proxy nowhere: %v", err)
	}
}

// said is a log that is looked at while it is written.
type said struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *said) count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.text.String(), what)
}

// TestATunnelThatWaitsSaysForWhat, once, and goes on when it comes.
func TestATunnelThatWaitsSaysForWhat(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, log := w.sell("exit"), w.member("alice"), &said{}
	w.set(func() { w.chainOff = true })
	cfg, up := alice.config(via(x), func(c *ClientConfig) { c.Log = slog.New(slog.NewTextHandler(log, nil)) })
	c, err := NewClient(cfg)
	must(t, err)
	alice.client = c
	now := make(chan struct{})
	close(now)
	alice.run(c.Run, now)
	w.until("it says what it waits for", func() bool { return log.count("no peer answers") > 0 })
	w.until("the status says it, too", func() bool { return strings.Contains(alice.status().Problem, "no peer answers") })
	time.AfterFunc(2*startPause, func() { w.set(func() { w.chainOff = false }) })
	<-up
	if n := log.count("no peer answers"); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// TestATunnelSaysWhatItsHopsWant, each and together, when the wallet has too little.
func TestATunnelSaysWhatItsHopsWant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, y, alice := w.sell("one"), w.sell("two"), w.member("alice")
	w.set(func() {
		w.walletOn = func() error { return top.Errorf(top.Denied, "the balance is 0.1 TOP") }
	})
	for hops, want := range map[int]string{
		1: "open a channel of 0.5 TOP to exit one: the balance is 0.1 TOP; with less: --cap",
		2: "open a channel of 0.5 TOP to hop one: the balance is 0.1 TOP; 2 hops want such a channel each, together 1 TOP and fees (budget: top-wallet budget set --service vpn --per-day 1); with less: --cap",
	} {
		cfg, _ := alice.config(via([]*member{x, y}[:hops]...), func(c *ClientConfig) { c.Hops = hops })
		c, err := NewClient(cfg)
		must(t, err)
		ctx, cancel := contextOf(t, wait)
		if err := c.Run(ctx); !errors.Is(err, top.ErrDenied) || err.Error() != want {
			t.Errorf("%d hops: %v", hops, err)
		}
		cancel()
	}
}

// TestNoExitIsLeft: each rule says how many it ruled out.
func TestNoExitIsLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two, three, alice := w.sell("one"), w.sell("two"), w.sell("three"), w.member("alice")
	w.set(func() {
		n := w.nodes[two.id()]
		n.Offers[0].Price = 5 * price
		w.nodes[two.id()] = n
		n = w.nodes[three.id()]
		n.Addrs = []string{strings.Replace(n.Addrs[0], "wg:", "wg+wss:", 1)}
		w.nodes[three.id()] = n
	})
	l := &Looker{Home: alice.home, Chain: alice.chainAPI(), Now: time.Now}
	if ok, err := l.within(t.Context(), Plain, 2*price, nil); err != nil || len(ok) != 1 || ok[0].node != one.id() {
		t.Fatalf("%v, %v", ok, err)
	}
	_, err := l.within(t.Context(), Plain, 2*price, map[top.NodeID]time.Time{one.id(): time.Now().Add(time.Minute)})
	want := "of 3 exits that are registered none is left: 1 offer no --carry plain, 1 ask more than --max-price 0.000002 TOP for 64 KiB (the cheapest: 0.000001), 1 failed within the last minute (look: top-vpn exits)"
	if !errors.Is(err, top.ErrOffline) || err.Error() != want {
		t.Errorf("%v", err)
	}
}
