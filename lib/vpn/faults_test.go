package vpn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"top/lib/api"
	"top/lib/home"
	"top/lib/session"
	"top/lib/top"
)

func contextOf(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

// TestX5_WhatWasPaidIsClaimedAfterAKill copies the exit's disk while it earns, tears the
// last line, and lets another process with the same key go on from there.
func TestX5_WhatWasPaidIsClaimedAfterAKill(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	alice.up(via(x))
	alice.fetched(s, 3<<20)
	w.until("all is ticked", func() bool { return total(alice.meters()).Units == total(x.meters()).Units })
	paid := x.earned()
	if paid < 48*price {
		t.Fatalf("%s earned", paid)
	}
	// A second, and not more: here it is waited for, the limit is checked below.
	since := time.Now()
	w.until("on disk", func() bool { return onDisk(t, x) >= paid })
	if d := time.Since(since); d > 5*time.Second {
		t.Errorf("on disk after %s", d)
	}
	w.until("receipts", func() bool { return len(x.receipts("vpn.ndjson")) == 1 })
	copied := x.disk("copy")
	must(t, os.Remove(copied.Path("receipts", "vpn.ndjson"))) // it was killed before it wrote that
	book := copied.Path("vpn", "accounts.ndjson")
	f, err := os.OpenFile(book, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString(`{"type":"vpn-account","config":{"Chann`)
	must(t, errors.Join(err, f.Close()))
	must(t, x.stop())
	ch := alice.meters()[0].Channel
	must(t, alice.stop())

	x.home = copied
	x.serve("chain", x.chainRoutes())
	x.api = api.NewVPN(x.dial("vpn"))
	x.start()
	if got := x.earned(); got < paid {
		t.Errorf("after the kill %s of %s are known", got, paid)
	}
	w.set(func() {
		row := w.channels[ch]
		row.Closing = true
		w.channels[ch] = row
	})
	w.until("claimed", func() bool { return at(w, func() bool { return w.channels[ch].Paid >= paid }) })
	w.until("a receipt", func() bool {
		for _, r := range x.receipts("vpn.ndjson") {
			if r.Seq > 0 && r.Amount > 0 {
				return true
			}
		}
		return false
	})
}

// onDisk is what an exit's book says that it earned.
func onDisk(t *testing.T, x *member) (sum top.Amount) {
	t.Helper()
	b, err := os.ReadFile(x.home.Path("vpn", "accounts.ndjson"))
	must(t, err)
	lines := strings.Split(string(b), "\n")
	newest := map[top.ID]accountLine{}
	for _, line := range lines[:len(lines)-1] {
		var l accountLine
		must(t, json.Unmarshal([]byte(line), &l))
		newest[l.Config.Channel] = l
	}
	for _, l := range newest {
		a, err := l.account(time.Now())
		must(t, err)
		sum += a.meter.Owed()
	}
	return sum
}

// TestX5_ADiskThatIsFullEndsIt: what is not kept is not earned, and the error says what
// to do.
func TestX5_ADiskThatIsFullEndsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	alice.up(via(x))
	alice.fetched(s, 500_000)
	x.exit.mu.Lock()
	x.exit.book.log.Close() // every write fails from here
	x.exit.mu.Unlock()
	alice.begins(s.bytes(1 << 20))
	ended := make(chan error, 1)
	w.until("it ends", func() bool {
		_, err := x.api.Status(t.Context())
		return err != nil
	})
	go func() { ended <- x.stop() }()
	err := <-ended
	if err == nil || !strings.Contains(err.Error(), "make room") || !strings.Contains(err.Error(), x.home.Path("vpn")) {
		t.Errorf("a full disk: %v", err)
	}
}

// TestX5_TheBookIsCut writes more than the book may hold: it is cut to what counts, and
// what is read from it is the same.
func TestX5_TheBookIsCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	alice.up(via(x))
	alice.fetched(s, 500_000)
	x.exit.mu.Lock()
	x.exit.book.size = maxBook + 1
	x.exit.mu.Unlock()
	alice.fetched(s, 500_000)
	w.until("cut", func() bool {
		x.exit.mu.Lock()
		defer x.exit.mu.Unlock()
		return x.exit.book.size < maxBook
	})
	w.until("nothing is lost", func() bool { return onDisk(t, x) == x.earned() })
	alice.fetched(s, 500_000)
	w.until("and it goes on", func() bool { return onDisk(t, x) == x.earned() })
}

// TestX5_WhatWasForgivenIsKept: an exit that is killed does not forgive anew, and goes on
// in the unit that a session began.
func TestX5_WhatWasForgivenIsKept(t *testing.T) {
	t.Parallel()
	w, x, alice := rides(t)
	r := alice.ride(x)
	ch := r.channel(top.One)
	r.begun(ch)
	r.floods(netip.AddrPortFrom(host4(), 9), 4*unit)
	w.until("the window is used", func() bool { return r.counted() > 3*unit })
	of := func() (a *account, s *served) {
		x.exit.mu.Lock()
		defer x.exit.mu.Unlock()
		a = x.exit.accounts[ch]
		return a, a.sessions[r.id]
	}
	_, s := of()
	s.down.Store(s.up.Load()) // as if it had come down
	m := r.stated()
	r.t.say(ticking{Session: r.id, Sent: m.Down}.encode()) // and nothing of it arrived
	r.stated()
	r.answers(told{mBye, r.id, nil}.encode(), mBye, nil)
	w.until("it is over", func() bool { return x.meters()[0].State == "over" })
	before, _ := of()
	if before.forgiven == 0 || before.rest == 0 {
		t.Fatalf("%d units forgiven, %d bytes of a unit", before.forgiven, before.rest)
	}
	kept := func() bool {
		newest := accountLine{}
		must(t, home.EachLine(x.home.Path("vpn", "accounts.ndjson"), func(b []byte) error { return json.Unmarshal(b, &newest) }))
		return uint64(newest.Rest) == before.rest && uint64(newest.Forgiven) == before.forgiven
	}
	w.until("on disk", kept)
	copied := x.disk("copy")
	must(t, x.stop())
	x.home = copied
	x.serve("chain", x.chainRoutes())
	x.api = api.NewVPN(x.dial("vpn"))
	x.start()
	if now, _ := of(); now.forgiven != before.forgiven || now.pardoned != before.pardoned || now.rest != before.rest {
		t.Errorf("%d, %d and %d before the kill, %d, %d and %d after it", before.forgiven, before.pardoned, before.rest, now.forgiven, now.pardoned, now.rest)
	}
}

// TestX5_AClientGoesOnOnItsChannel restarts a client from its disk, three times: one
// channel, no number twice (the world looks), and the sums add up.
func TestX5_AClientGoesOnOnItsChannel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	sum := top.Amount(0)
	for i := range 3 {
		alice.up(via(x))
		alice.fetched(s, 400_000)
		w.until("all is ticked", func() bool { c := total(alice.meters()); return c.Units > 0 && sum+c.Owed <= x.earned() })
		sum += alice.client.spent()
		if i == 1 { // killed
			alice.dies()
			continue
		}
		must(t, alice.stop())
	}
	// Of the killed session, too, both ends have the receipt.
	var lost []top.SessionID
	w.until("the client has a receipt of all that was earned", func() bool {
		lost = nil
		ours := alice.receipts("vpn-spent.ndjson")
		for id, r := range x.receipts("vpn.ndjson") {
			if ours[id].Amount < r.Amount {
				lost = append(lost, id)
			}
		}
		return len(lost) == 0
	})
	if n := at(w, func() int { return len(w.channels) }); n != 1 {
		t.Errorf("%d channels", n)
	}
	if got := x.earned(); got+2*price < sum || got > sum+6*price {
		t.Errorf("the exit earned %s, the client says %s", got, sum)
	}
}

// dies ends a client without a word to its exits.
func (m *member) dies() {
	m.client.mu.Lock()
	for _, h := range m.client.hops {
		h.t.dev.Close()
	}
	m.client.mu.Unlock()
	must(m.w.t, m.stop())
}

// TestX5_WhatAKilledClientHeldIsFree: the session of a client that was killed stays for
// minutes, with the credit of a young channel. The next one has it by its first voucher,
// and not a unit at a time, which packets do not fill.
func TestX5_WhatAKilledClientHeldIsFree(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	alice.up(via(x))
	alice.fetched(s, 1000)
	alice.dies()
	alice.forgets(func(ch *channelState) { ch.Rest = 0 }) // it had no time to note it
	alice.up(via(x))
	before := alice.hop(0).id()
	alice.fetched(s, 1_000_000)
	if alice.hop(0).id() != before {
		t.Error("another session was begun for it")
	}
	if n := at(w, func() int { return len(w.channels) }); n != 1 {
		t.Errorf("%d channels", n)
	}
}

// forgets changes what a client that does not run knows of its channel.
func (m *member) forgets(change func(*channelState)) {
	t := m.w.t
	t.Helper()
	path := m.home.Path("vpn", "channels.json")
	b, err := os.ReadFile(path)
	must(t, err)
	var all []channelState
	must(t, json.Unmarshal(b, &all))
	change(&all[0])
	b, err = json.Marshal(all)
	must(t, err)
	must(t, os.WriteFile(path, b, 0o600))
}

// TestX5_AClientWithoutItsMemoryIsTold removes what the client remembers of its
// vouchers: the exit shows them, and the payer goes on after them.
func TestX5_AClientWithoutItsMemoryIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	alice.up(via(x))
	alice.fetched(s, 700_000)
	must(t, alice.stop())
	earned := x.earned()
	alice.forgets(func(ch *channelState) { ch.Seq, ch.Spent = 0, 0 })
	alice.up(via(x))
	alice.fetched(s, 700_000)
	w.until("more is earned", func() bool { return x.earned() >= earned+10*price })
	if n := at(w, func() int { return len(w.channels) }); n != 1 {
		t.Errorf("%d channels", n)
	}
}

// TestX6_NothingBesideADeadPath kills the exit and asks for pages: nothing reaches the
// site but through an exit, and when it is back all goes on.
func TestX6_NothingBesideADeadPath(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	alice.up(via(x))
	alice.fetched(s, 10_000)
	must(t, x.stop())
	before := s.conns.Load()
	for range 3 {
		if alice.ask(s) == nil {
			t.Error("a page came without an exit")
		}
	}
	w.until("the path is down", func() bool { return len(alice.status().Hops) == 0 && alice.status().Problem != "" })
	if alice.ask(s) == nil {
		t.Error("a page came without a path")
	}
	if n := s.conns.Load(); n != before {
		t.Errorf("the site was reached %d times beside the tunnel", n-before)
	}
	x.start()
	w.until("up again", func() bool { return len(alice.status().Hops) == 1 })
	alice.fetched(s, 10_000)
}

// TestAnExitDiesWithinADownload: another is taken, and the application's retry has the
// rest.
func TestAnExitDiesWithinADownload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two, alice, s := w.sell("one"), w.sell("two"), w.member("alice"), newSite(t)
	f := one.line()
	alice.up(via(one, two))
	const n = 4 << 20
	have := 0
	for try := 0; have < n; try++ {
		q, err := http.NewRequestWithContext(t.Context(), "GET", s.bytes(n), nil)
		must(t, err)
		q.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
		r, err := alice.web().Do(q)
		if err != nil {
			if try > 10 {
				t.Fatal(err)
			}
			continue
		}
		b := make([]byte, 32<<10)
		for {
			k, err := r.Body.Read(b)
			have += k
			if have > 1<<20 && try == 0 {
				f.losing(func(bool, []byte) bool { return true }) // and not a word of it
				w.until("another exit", func() bool { h := alice.status().Hops; return len(h) == 1 && h[0].Name == "two" })
				break
			}
			if err != nil {
				if !errors.Is(err, io.EOF) && try > 10 {
					t.Fatal(err)
				}
				break
			}
		}
		r.Body.Close()
	}
	if have != n {
		t.Errorf("%d of %d bytes", have, n)
	}
}

// TestAWalletThatIsAway: what is promised is served, then the status says why not more,
// and it goes on by itself.
func TestAWalletThatIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	alice.up(via(x))
	alice.fetched(s, 300_000)
	w.set(func() {
		w.walletOn = func() error { return top.Errorf(top.Offline, "no agent answers (start it: top-wallet agent)") }
	})
	alice.fetched(s, 1<<20) // it was promised
	w.until("the status says why", func() bool {
		h := alice.status()
		return strings.Contains(h.Problem, "top-wallet agent") || len(h.Hops) == 1 && strings.Contains(h.Hops[0].Problem, "top-wallet agent") || alice.asks(s)
	})
	alice.begins(s.bytes(96 << 20)) // more than an anchor and a window pay
	w.until("it stands, and says so", func() bool {
		h, m := alice.status().Hops, alice.meters()
		return len(h) == 1 && h[0].State == "stopped" && strings.Contains(m[0].State, "top-wallet agent")
	})
	w.set(func() { w.walletOn = nil })
	w.until("the status is clear", func() bool {
		h := alice.status()
		return h.Problem == "" && len(h.Hops) == 1 && h.Hops[0].State == "carrying"
	})
	alice.fetched(s, 1<<20)
}

// begins fetches a page, whatever comes of it, until the test ends.
func (m *member) begins(url string) {
	web, done := m.web(), make(chan struct{})
	q, err := http.NewRequestWithContext(m.w.t.Context(), "GET", url, nil)
	must(m.w.t, err)
	go func() {
		defer close(done)
		if r, err := web.Do(q); err == nil {
			io.Copy(io.Discard, r.Body)
			r.Body.Close()
		}
	}()
	m.w.t.Cleanup(func() { <-done })
}

// oneIn loses one of so many datagrams that come down, always the same.
func oneIn(n int) func(up bool, _ []byte) bool {
	r := rand.New(rand.NewPCG(1, 2))
	return func(up bool, _ []byte) bool { return !up && r.IntN(n) == 0 }
}

// ask fetches a small page within a second.
func (m *member) ask(s *site) error {
	ctx, cancel := contextOf(m.w.t, time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, "GET", s.bytes(10), nil)
	if err != nil {
		return err
	}
	r, err := m.web().Do(q)
	if err == nil {
		r.Body.Close()
	}
	return err
}

// asks fetches a little more, so that a voucher falls due; false.
func (m *member) asks(s *site) bool {
	ctx, cancel := context.WithTimeout(m.w.t.Context(), time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, "GET", s.bytes(4<<20), nil)
	must(m.w.t, err)
	if r, err := m.web().Do(q); err == nil {
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
	return false
}

// TestAChainThatIsAway: the exit serves half a deadline on what it knew, says why it
// stops, and goes on when the chain is back.
func TestAChainThatIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	alice.up(via(x))
	alice.fetched(s, 300_000)
	w.set(func() { w.chainOff = true })
	alice.fetched(s, 300_000) // the chain was there a moment ago
	x.later.Store(int64(20 * time.Second))
	w.until("it says why", func() bool {
		h := alice.status().Hops
		return len(h) == 1 && h[0].State == "stopped" && strings.Contains(h[0].Problem, "newest block")
	})
	w.set(func() { w.chainOff = false })
	w.until("it carries again", func() bool { h := alice.status().Hops; return len(h) == 1 && h[0].State == "carrying" })
	alice.fetched(s, 300_000)
}

// TestMaxSpendIsTheMost: over exits, restarts on one channel, and hops.
func TestMaxSpendIsTheMost(t *testing.T) {
	t.Parallel()
	for _, hops := range []int{1, 2} {
		t.Run(fmt.Sprint(hops), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			all := []*member{w.sell("one"), w.sell("two")}[:hops]
			alice, s := w.member("alice"), newSite(t)
			for round := range 2 {
				const most = 40 * price
				alice.up(via(all...), func(c *ClientConfig) { c.Hops, c.MaxSpend = hops, most })
				before := top.Amount(0)
				for _, x := range all {
					before += x.earned()
				}
				if round == 0 || hops == 1 {
					alice.fetched(s, 300_000)
				}
				alice.begins(s.bytes(16 << 20))
				w.until("it says so", func() bool { return strings.Contains(alice.status().Problem, "max-spend") })
				spent := alice.client.spent()
				if spent > most {
					t.Errorf("%s spent", spent)
				}
				must(t, alice.stop())
				now := top.Amount(0)
				for _, x := range all {
					now += x.earned()
				}
				if now-before > most {
					t.Errorf("round %d: the exits earned %s, the most was %s", round, now-before, most)
				}
			}
		})
	}
}

// TestAChannelIsUsedUp: the next is open before, and one download goes over both.
func TestAChannelIsUsedUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	alice.up(via(x), func(c *ClientConfig) { c.Cap = 50 * price })
	alice.fetched(s, 8<<20) // 128 units
	if n := at(w, func() int { return len(w.channels) }); n < 3 || n > 5 {
		t.Errorf("%d channels for 128 units at 50 each", n)
	}
	w.until("both ends agree", func() bool { e, c := x.earned(), alice.client.spent(); return e <= c+price && e+16*price >= c })
	// A restart goes on on the newest, and not on one that is used up.
	must(t, alice.stop())
	n := at(w, func() int { return len(w.channels) })
	alice.up(via(x), func(c *ClientConfig) { c.Cap = 50 * price })
	alice.fetched(s, 300_000)
	if now := at(w, func() int { return len(w.channels) }); now > n+1 {
		t.Errorf("%d channels, then %d", n, now)
	}
}

// TestAChannelIsUsedUpAfterARestart: what was owed before the restart counts.
func TestAChannelIsUsedUpAfterARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	small := func(c *ClientConfig) { c.Cap = 60 * price }
	alice.up(via(x), small)
	alice.fetched(s, 2<<20) // 32 of 60
	must(t, alice.stop())
	alice.up(via(x), small)
	alice.fetched(s, 4<<20) // over its end
	if n := at(w, func() int { return len(w.channels) }); n < 2 {
		t.Errorf("%d channels", n)
	}
}

// TestWhatIsLostIsSaidAgain loses a quarter of the datagrams of the size of what the ends say to
// each other, from the ticket on: vouchers, ticks and what answers them with claims.
func TestWhatIsLostIsSaidAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	f := x.line()
	r := rand.New(rand.NewPCG(1, 2))
	// What an exit answers with claims is so long, and the end of the page is not: gVisor's
	// TCP, once it has lost much, does not send an end again whose probe is lost too.
	f.losing(func(up bool, b []byte) bool {
		return len(b) > 150 && len(b) < 720 && (up || len(b) > 600) && r.IntN(4) == 0
	})
	alice.up(via(x))
	alice.fetched(s, 1<<20)
	w.until("both ends agree", func() bool { return total(alice.meters()).Units == total(x.meters()).Units })
}

// TestAReplayedHandshakeIsNobody shows an exit again what its client said.
func TestAReplayedHandshakeIsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	f := x.line().keeping()
	alice.up(via(x))
	alice.fetched(s, 300_000)
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), x.port)))
	must(t, err)
	defer c.Close()
	kept := f.passed()
	before := total(x.meters())
	for _, b := range kept {
		if len(b) == 148 || b[0] == 4 { // first messages, and data
			c.Write(b)
		}
	}
	alice.fetched(s, 300_000) // it answers still where the client is
	if now := total(x.meters()); now.Up > before.Up+200_000 {
		t.Errorf("replayed packets counted: %d, then %d", before.Up, now.Up)
	}
	if n := x.status().Peers; n != 1 {
		t.Errorf("%d peers", n)
	}
}

// TestX5_OneTunnelPaysFromAHome: a second one of the same home, at a socket of its own,
// is refused with what to do; it comes up from a home of its own, by the same wallet, and
// here once the first has ended.
func TestX5_OneTunnelPaysFromAHome(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	alice.up(via(x))
	other := func(c *ClientConfig) { c.Sock = alice.home.Path("run", "other.sock") }
	cfg, _ := alice.config(via(x), other)
	if _, err := NewClient(cfg); !errors.Is(err, top.ErrBusy) || !strings.Contains(err.Error(), "top-vpn down") || !strings.Contains(err.Error(), "--home") {
		t.Errorf("a second tunnel of one home: %v", err)
	}
	second := &member{w: w, name: "second", home: home.Dir(filepath.Join(w.dir, "second")), account: alice.account, node: alice.node}
	second.api = api.NewVPN(second.dial("vpn"))
	second.up(via(x), func(c *ClientConfig) { c.Chain, c.Wallet = cfg.Chain, cfg.Wallet })
	for range 2 {
		alice.fetched(s, 300_000)
		second.fetched(s, 300_000)
	}
	if n := at(w, func() int { return len(w.channels) }); n != 2 {
		t.Errorf("%d channels for two tunnels", n)
	}
	must(t, alice.stop())
	cfg, _ = alice.config(via(x), other)
	c, err := NewClient(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, c.Run(ctx))
}

// TestX5_AChannelOnItsWayIsOpenedOnce: while the chain stands still a channel that was asked
// for is not open yet. Asked again, by this process and by the next, it is the same one.
func TestX5_AChannelOnItsWayIsOpenedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	w.set(func() { w.pending = 1 })
	cfg, _ := alice.config(via(x))
	c, err := NewClient(cfg)
	must(t, err)
	ctx, cancel := contextOf(t, wait)
	defer cancel()
	if err := c.Run(ctx); !errors.Is(err, top.ErrFailed) || !strings.Contains(err.Error(), "on its way") {
		t.Errorf("a first channel that is on its way: %v", err)
	}
	alice.up(via(x), func(c *ClientConfig) { c.Cap = 40 * price })
	if n := at(w, func() int { return len(w.channels) }); n != 1 {
		t.Errorf("%d channels were opened for one", n)
	}
	w.set(func() { w.pending = 3 })
	must(t, alice.stop())
	must(t, os.Remove(alice.home.Path("vpn", "channels.json")))
	cfg, _ = alice.config(via(x))
	for range 3 {
		c, err := NewClient(cfg)
		must(t, err)
		if err := c.Run(ctx); err == nil {
			t.Error("up without a channel")
		}
	}
	alice.up(via(x))
	alice.fetched(s, 300_000)
	if n := at(w, func() int { return len(w.channels) }); n != 2 {
		t.Errorf("%d channels were opened for two", n)
	}
}

// TestAnExitEndsTheOldSessionFirst: while the next session is opened the exit may have taken
// it already, and knows the old one no more: that is not the end of the path.
func TestAnExitEndsTheOldSessionFirst(t *testing.T) {
	t.Parallel()
	w := &purse{p: newPaying(), payer: session.NewPayer(session.PayerConfig{})}
	gone := faultOf(0, w.p.id, top.Errorf(top.NotFound, "no such session"))
	w.moving(true)
	w.refused(gone)
	if over, _ := w.ended(); over {
		t.Error("the path ended while it moved to the next session")
	}
	w.moving(false)
	w.refused(gone)
	if over, _ := w.ended(); !over {
		t.Error("a session that the exit does not know goes on")
	}
}
