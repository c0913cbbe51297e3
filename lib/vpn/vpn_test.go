package vpn

import (
	"crypto/rand"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"top/lib/session"
	"top/lib/top"
	"top/lib/wg"
)

// TestX1_NothingWithoutAVoucher lets a stranger, and somebody with a ticket alone, send
// what they like: not a byte passes.
func TestX1_NothingWithoutAVoucher(t *testing.T) {
	t.Parallel()
	w, x, alice := rides(t)
	s := newSite(t)
	to := netip.AddrPortFrom(host4(), s.addr.Port())
	r := alice.ride(x)
	r.answers(ping{Nonce: 1}.encode(), mState, nil) // the stranger shook hands
	r.floods(to, 100_000)
	r.answers(ping{Nonce: 2}.encode(), mState, nil)
	if up := total(x.meters()).Up; up != 0 {
		t.Errorf("a stranger sent %d bytes through", up)
	}
	r.pays(r.channel(top.One), 0)
	a, err := r.show(r.ticket())
	must(t, err)
	must(t, r.stack.AddAddr(a.Inner4))
	r.floods(to, 100_000)
	w.until("refused", func() bool { return r.dropped() >= 100_000 })
	if n := r.counted(); n != 0 {
		t.Errorf("%d bytes passed without a voucher", n)
	}
	if n := s.conns.Load(); n != 0 {
		t.Errorf("the site was reached %d times", n)
	}
}

// TestX1_AWindowAndThenNothing is a free rider: four units, and not a byte more for
// ticks that are forged, another session's, or shown before. A true tick goes on.
func TestX1_AWindowAndThenNothing(t *testing.T) {
	t.Parallel()
	w, x, alice := rides(t)
	to := netip.AddrPortFrom(host4(), 9)
	r := alice.ride(x)
	r.begun(r.channel(top.One))
	other := alice.ride(x)
	other.begun(other.channel(top.One))
	const window = 4 * unit
	stands := func(when string, most uint64) {
		t.Helper()
		before := r.dropped()
		r.floods(to, 200_000)
		w.until("the rider stands", func() bool { return r.dropped() > before && r.stated().Limit <= most })
		if n := r.counted(); n > most {
			t.Errorf("%s: %d bytes passed, %d may", when, n, most)
		}
	}
	r.floods(to, 2*window)
	w.until("the window is used", func() bool { return r.dropped() > 0 && r.counted() > window-2000 })
	stands("without a tick", window)
	var forged session.Tick
	forged.Session, forged.I = r.id, 1
	rand.Read(forged.W[:])
	r.ticks(forged)
	stands("forged", window)
	good, ok := other.payer.Served(other.id, 2)
	if !ok {
		t.Fatal("no tick is due")
	}
	r.ticks(good)
	good.Session = r.id
	r.ticks(good)
	stands("another session's", window)
	tick, ok := r.payer.Served(r.id, 2)
	if !ok {
		t.Fatal("no tick is due")
	}
	if m := r.ticks(tick); m.Units != 2 || m.Limit != window+2*unit {
		t.Errorf("two units paid: %+v", m)
	}
	r.floods(to, 3*unit)
	w.until("two more passed", func() bool { return r.counted() > window+2*unit-2000 })
	for range 3 {
		r.ticks(tick, tick)
	}
	stands("replayed", window+2*unit)
	// More than 16 wrong ones in a second close the session.
	for range 3 {
		var wrong []session.Tick
		for range session.MaxAnchors {
			rand.Read(forged.W[:])
			forged.I = 3
			wrong = append(wrong, forged)
		}
		r.t.say(ticking{Session: r.id, Ticks: wrong}.encode())
	}
	if m := r.stated(); m.Why == "" || m.Limit != 0 {
		t.Errorf("after many forged ticks: %+v", m)
	}
}

// TestX1_SessionsShareTheCredit lets sixteen sessions on one channel take all that they
// can: together it is one window, and a unit for each.
func TestX1_SessionsShareTheCredit(t *testing.T) {
	t.Parallel()
	w, x, alice := rides(t)
	to := netip.AddrPortFrom(host4(), 9)
	first := alice.ride(x)
	ch := first.channel(top.One)
	first.pays(ch, 0)
	var all []*rider
	for i := range session.MaxAnchors {
		r := first
		if i > 0 {
			r = alice.ride(x)
			r.payer = first.payer
		}
		r.begun(ch)
		all = append(all, r)
	}
	extra := alice.ride(x)
	extra.payer = first.payer
	if _, err := first.payer.Begin(alice.clock(), top.SessionID{1}, session.Offer{Service: Service, Unit: Unit, Price: price, Window: 1024}); err == nil {
		t.Error("a seventeenth session began")
	}
	for _, r := range all {
		r.floods(to, 6*unit)
	}
	for _, r := range all {
		w.until("each stands", func() bool { return r.dropped() > 0 })
	}
	sum := uint64(0)
	for _, r := range all {
		n := r.counted()
		if n == 0 {
			t.Error("a session got nothing at all")
		}
		sum += n
	}
	if most := uint64(4+session.MaxAnchors) * unit; sum > most {
		t.Errorf("16 sessions of one channel took %d units without a tick, %d may be", sum/unit, most/unit)
	}
}

// TestX1_WhatIsForgivenIsBounded begins one session after the other on a channel, takes
// the window, says that all was lost, and pays nothing.
func TestX1_WhatIsForgivenIsBounded(t *testing.T) {
	t.Parallel()
	w, x, alice := rides(t)
	to := netip.AddrPortFrom(host4(), 9)
	r := alice.ride(x)
	ch := r.channel(top.One)
	r.pays(ch, 0)
	free := uint64(0)
	for range 12 {
		r.begun(ch)
		before := r.dropped()
		for again := true; again; {
			n := r.counted()
			r.floods(to, 5*unit)
			w.until("it stands", func() bool { return r.dropped() > before })
			before = r.dropped()
			m := r.stated()
			r.t.say(ticking{Session: r.id, Sent: m.Down, Up: m.Up}.encode()) // nothing came
			// What is lost is what comes down: let the exit believe it of what it sent.
			x.exit.mu.Lock()
			if s := x.exit.session(r.t.own, r.id); s != nil {
				s.down.Store(s.up.Load())
			}
			x.exit.mu.Unlock()
			m = r.stated()
			r.t.say(ticking{Session: r.id, Sent: m.Down}.encode())
			r.stated()
			x.exit.mu.Lock()
			s := x.exit.session(r.t.own, r.id)
			used := s.gate.used.Load()
			x.exit.mu.Unlock()
			again = r.counted() > n
			if used/unit >= 200 {
				t.Fatal("no end of what is forgiven")
			}
		}
		x.exit.mu.Lock()
		free += x.exit.session(r.t.own, r.id).up.Load()
		x.exit.mu.Unlock()
		r.payer.End(r.id)
	}
	if most := uint64(4+lossFree+pardonFree+2) * unit; free > most {
		t.Errorf("%d units for nothing on one channel, %d may be", free/unit, most/unit)
	}
}

// TestX2_WhatIsPaidIsWhatCame fetches and sends, and compares what both ends, both
// receipts and the bytes of the pages say.
func TestX2_WhatIsPaidIsWhatCame(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	alice.up(via(x))
	const n = 6 << 20
	alice.fetched(s, n)
	w.until("all is ticked", func() bool { c := total(alice.meters()); return c.Units > 0 && c.Units == total(x.meters()).Units })
	c, e := total(alice.meters()), total(x.meters())
	if c.Acknowledged > e.Up+e.Down {
		t.Errorf("%d bytes acknowledged, the exit carried %d", c.Acknowledged, e.Up+e.Down)
	}
	if c.Acknowledged < n || float64(c.Acknowledged) > 1.06*n {
		t.Errorf("%d bytes acknowledged for a page of %d", c.Acknowledged, n)
	}
	paid := c.Owed
	must(t, alice.stop())
	w.until("the session is over", func() bool { return x.meters()[0].State == "over" })
	if got := x.earned(); got < paid || got > paid+2*price {
		t.Errorf("the exit earned %s, the client paid %s", got, paid)
	}
	must(t, x.stop())
	earned, spent := x.receipts("vpn.ndjson"), alice.receipts("vpn-spent.ndjson")
	if len(earned) != 1 || len(spent) != 1 {
		t.Fatalf("%d and %d receipts", len(earned), len(spent))
	}
	for id, r := range earned {
		if o := spent[id]; o.Amount != r.Amount || r.Amount != x.earned() {
			t.Errorf("the exit's receipt says %s, the client's %s, its meter %s", r.Amount, o.Amount, x.earned())
		}
	}
}

// TestX2_AFloodIsNotPaid has an exit send what nobody asked for: datagrams, duplicates
// of answers, bare acknowledgements.
func TestX2_AFloodIsNotPaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	alice.up(via(x))
	alice.fetched(s, 300_000)
	alice.client.mu.Lock()
	to := alice.client.inner4
	alice.client.mu.Unlock()
	before := total(alice.meters())
	spent := alice.client.spent()
	for i := range 2000 {
		x.exit.dev.Inject(wg.UDP{From: netip.AddrPortFrom(host4(), s.addr.Port()), To: netip.AddrPortFrom(to, uint16(1000+i)), Body: make([]byte, 1200)}.Packet())
	}
	w.until("the flood came", func() bool { return total(alice.meters()).Unsolicited > before.Unsolicited+2000*1000/2 })
	if now := alice.client.spent(); now > spent+2*price {
		t.Errorf("a flood cost %s", now-spent)
	}
}

// TestX2_CountersOfAnExitAreNotBelieved has an exit say that it carried a hundred times
// as much, in both directions.
func TestX2_CountersOfAnExitAreNotBelieved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	alice.up(via(x))
	alice.fetched(s, 500_000)
	c := total(alice.meters())
	id := alice.meters()[0].Session
	own := alice.client.key.Public().Inner()
	for range 5 {
		x.exit.say(own, state{Session: id, Up: 1 << 40, Down: 1 << 40, Limit: 1 << 50, Units: 1 << 30}.encode())
		alice.fetched(s, 1000)
	}
	got := total(alice.meters())
	if most := uint64(got.Up) + uint64(got.Down); uint64(got.Acknowledged) > most {
		t.Errorf("acknowledged %d of %d bytes that it saw", got.Acknowledged, most)
	}
	if got.Owed > c.Owed+2*price {
		t.Errorf("a lie cost %s", got.Owed-c.Owed)
	}
	w.until("what is ticked is what was seen", func() bool {
		return uint64(total(x.meters()).Units)*unit <= uint64(got.Up)+uint64(got.Down)+unit
	})
}

// TestX2_LossIsNotPaid loses a twenty-fifth of what comes down.
func TestX2_LossIsNotPaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	f := x.line()
	alice.up(via(x))
	f.losing(oneIn(25))
	alice.fetched(s, 800_000)
	f.losing(nil)
	alice.fetched(s, 800_000)
	w.until("both ends agree", func() bool { return total(alice.meters()).Units == total(x.meters()).Units })
	c, e := total(alice.meters()), total(x.meters())
	if c.Acknowledged+unit/4 > e.Up+e.Down {
		t.Errorf("the exit carried %d bytes and %d were paid: nothing was lost?", e.Up+e.Down, c.Acknowledged)
	}
	if float64(c.Acknowledged) > 1.08*1_600_000 {
		t.Errorf("%d bytes paid for 1.6 MB", c.Acknowledged)
	}
}

// TestALongLineRenewsEarly keeps what is under way within an anchor.
func TestALongLineRenewsEarly(t *testing.T) {
	t.Parallel()
	for rtt, want := range map[time.Duration]uint32{0: 640, 999 * time.Microsecond: 640, 20 * time.Millisecond: 520, 100 * time.Millisecond: 96, time.Hour: 96} {
		if got := renewAfter(rtt); got != want {
			t.Errorf("%v: %d ticks, want %d", rtt, got, want)
		}
	}
}

// TestALongLineTicksOften keeps what waits for a tick small beside the window.
func TestALongLineTicksOften(t *testing.T) {
	t.Parallel()
	for rtt, want := range map[time.Duration][3]uint64{0: {64, 64, 64}, longLine - 1: {64, 64, 64}, longLine: {1, 7, 16}, time.Second: {1, 7, 16}} {
		if got := [3]uint64{tickAfter(0, rtt), tickAfter(500, rtt), tickAfter(1<<20, rtt)}; got != want {
			t.Errorf("%v: %d units, want %d", rtt, got, want)
		}
	}
}

// TestX1_WhatIsLostOnTheWayUpTakesNoCredit loses more of what the client sends than the
// exit carries without a tick: what comes after is carried all the same.
func TestX1_WhatIsLostOnTheWayUpTakesNoCredit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x, alice, s := w.sell("exit"), w.member("alice"), newSite(t)
	f := x.line()
	alice.up(via(x))
	alice.fetched(s, 1000)
	var lost atomic.Int64
	f.losing(func(up bool, b []byte) bool {
		if !up || len(b) < 1000 {
			return false
		}
		lost.Add(int64(len(b)))
		return true
	})
	c, err := alice.client.stack.DialContext(t.Context(), "udp", netip.AddrPortFrom(host4(), 9).String())
	must(t, err)
	defer c.Close()
	w.until("more was lost than one may send without a tick", func() bool {
		for range 20 {
			_, err := c.Write(make([]byte, 1200))
			must(t, err)
		}
		return lost.Load() > 2*firstCredit
	})
	f.losing(nil)
	alice.fetched(s, 1000)
	if n := total(x.meters()).Dropped; n > unit { // a report may overtake packets
		t.Errorf("%d bytes beyond what was said", n)
	}
}

// TestX2_AnExitThatStopsServingIsLeft takes the money and carries nothing, while it
// answers every ping: the client pays nothing more and takes another exit.
func TestX2_AnExitThatStopsServingIsLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bad, good, alice, s := w.sell("bad"), w.sell("good"), w.member("alice"), newSite(t)
	alice.up(via(bad, good))
	alice.fetched(s, 500_000)
	if n := alice.status().Hops[0].Name; n != "bad" {
		t.Fatalf("up by %s", n)
	}
	bad.exit.mu.Lock()
	for _, a := range bad.exit.accounts {
		for _, v := range a.sessions {
			v.peer.sess.Store(nil) // its packets go nowhere; the session lives
		}
	}
	bad.exit.mu.Unlock()
	spent := alice.client.spent()
	done := make(chan error, 1)
	go func() {
		err := alice.ask(s)
		for range 20 {
			if err == nil {
				break
			}
			err = alice.ask(s)
		}
		done <- err
	}()
	w.until("another exit", func() bool { h := alice.status().Hops; return len(h) == 1 && h[0].Name == "good" })
	must(t, <-done)
	if most := spent + 8*price; alice.client.spent() > most {
		t.Errorf("it cost %s, before it was %s", alice.client.spent(), spent)
	}
}

// TestX3_WhereNobodyGoes asks an exit for its own networks, the metadata service of
// clouds, other clients, and mail.
func TestX3_WhereNobodyGoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x := w.sell("exit", func(c *ExitConfig) { c.AllowLoopback = false })
	alice, bob, s := w.member("alice"), w.member("bob"), newSite(t)
	alice.up(via(x))
	bob.up(via(x))
	bob.client.mu.Lock()
	bob4 := bob.client.inner4
	bob.client.mu.Unlock()
	bob6 := bob.client.key.Public().Inner()
	port := s.addr.Port()
	l, err := bob.client.stack.Listen(netip.AddrPortFrom(bob4, port))
	must(t, err)
	defer l.Close()
	reached := make(chan struct{}, 1)
	var accepts sync.WaitGroup
	accepts.Go(func() {
		if _, err := l.Accept(); err == nil {
			reached <- struct{}{}
		}
	})
	its := strconv.Itoa(int(port))
	for _, place := range [][2]string{
		{"127.0.0.1", its}, {"::1", its}, {"::ffff:127.0.0.1", its}, {"0.0.0.0", its}, {"64:ff9b::7f00:1", its}, {host4().String(), its},
		{bob4.String(), its}, {bob6.String(), its}, {"169.254.169.254", "80"}, {"fe80::1", "80"},
		{"10.0.0.1", "80"}, {"192.168.0.1", "443"}, {"172.16.0.1", "22"}, {"192.0.2.1", "25"},
	} {
		to := net.JoinHostPort(place[0], place[1])
		ctx, cancel := contextOf(t, 5*time.Second)
		c, err := alice.client.dial(ctx, "tcp", to)
		if err == nil {
			c.Close()
			t.Errorf("%s was reached", to)
		} else if ctx.Err() != nil {
			t.Errorf("%s: silence, no refusal", to)
		}
		cancel()
	}
	if n := s.conns.Load(); n != 0 {
		t.Errorf("the exit's own machine was reached %d times", n)
	}
	select {
	case <-reached:
		t.Error("another client was reached")
	default:
	}
	l.Close()
	accepts.Wait()
}

// TestX4_AHopSeesItsNeighbours sends a canary through two hops: what passes at either
// never shows it, nor where it goes to; the payers are two keys, and neither the
// account's.
func TestX4_AHopSeesItsNeighbours(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	entry, last, alice, s := w.sell("entry"), w.sell("last"), w.member("alice"), newSite(t)
	lines := []*front{entry.line().keeping(), last.line().keeping()}
	alice.up(via(entry, last), func(c *ClientConfig) { c.Hops = 2 })
	const canary = "/31337/canary-of-the-payload"
	if _, err := alice.get("http://" + s.addr.String() + canary); err != nil {
		t.Fatal(err)
	}
	alice.fetched(s, 300_000)
	if _, ok := s.seen.Load(canary); !ok {
		t.Fatal("the site did not see the canary")
	}
	key := alice.client.key.Public()
	lastKey := last.exit.key.Public()
	for i, f := range lines {
		for _, b := range [][]byte{[]byte(canary[1:]), []byte(s.addr.String()), key[:], key.Inner().AsSlice(), lastKey[:]} {
			if f.holds(b) {
				t.Errorf("line %d shows %q", i, b)
			}
		}
		if len(f.passed()) == 0 {
			t.Errorf("line %d carried nothing", i)
		}
	}
	// What the entry knows: that its client speaks with the last hop's port, by a key
	// that is not the one that the last hop knows.
	hops := alice.status().Hops
	if len(hops) != 2 {
		t.Fatalf("%d hops", len(hops))
	}
	if hops[0].Payer == hops[1].Payer || hops[0].Payer == alice.address() || hops[1].Payer == alice.address() {
		t.Errorf("payers %s and %s of %s", hops[0].Payer, hops[1].Payer, alice.address())
	}
	if entry.exit.peer(key.Inner()) != nil || last.exit.peer(key.Inner()) == nil {
		t.Error("the entry knows the key of the last hop's client")
	}
	if alice.status().Shows == "" {
		t.Error("the status does not say what the chain shows")
	}
	// An orderly end reaches both: neither waits for a client that is gone.
	must(t, alice.stop())
	for _, m := range []*member{entry, last} {
		w.until(m.name+" was told", func() bool {
			all := m.meters()
			return len(all) == 1 && all[0].State == "over" && all[0].Owed == m.earned()
		})
		if len(alice.receipts("vpn-spent.ndjson")) != 2 {
			t.Error("the client has not both receipts")
		}
	}
}
