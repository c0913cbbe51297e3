package vpn

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"top/lib/session"
	"top/lib/top"
	"top/lib/wg"
)

// TestATicketIsItsClients: shown by another WireGuard key, by a key that is not that of
// the tunnel, altered, at another price, on another's channel, or when its session is
// over, it opens nothing.
func TestATicketIsItsClients(t *testing.T) {
	t.Parallel()
	w, x, alice := rides(t)
	r, thief := alice.ride(x), w.member("thief").ride(x)
	ch := r.channel(top.One)
	r.begun(ch)
	refused := func(who *rider, k session.Ticket, kind error, what string) {
		t.Helper()
		if _, err := who.show(k); !errors.Is(err, kind) {
			t.Errorf("%s: %v", what, err)
		}
	}
	r.payer = nil
	r.pays(ch, 1)
	first := r.ticket()
	if _, err := r.show(first); err != nil {
		t.Fatal(err)
	}
	refused(thief, first, top.ErrDenied, "another's ticket")
	// The same client, shown again: the same answer, the same session.
	if a, err := r.show(first); err != nil || a.Inner4 != r.at4() {
		t.Errorf("the same ticket once more: %v", err)
	}
	second := r.ticket()
	if _, err := r.show(second); err != nil {
		t.Fatal(err)
	}
	refused(r, first, top.ErrDenied, "a session that is over")
	for what, change := range map[string]func(*session.Ticket){
		"a price of 1":         func(k *session.Ticket) { k.Price = 1 },
		"another service":      func(k *session.Ticket) { k.Service = "relay" },
		"another node":         func(k *session.Ticket) { k.Node = thief.m.id() },
		"another payer":        func(k *session.Ticket) { k.Payer = thief.m.address() },
		"another chain":        func(k *session.Ticket) { k.Chain = top.ChainID{9} },
		"an altered signature": func(k *session.Ticket) { k.PayerSig[3] ^= 1 },
		"no ticks":             func(k *session.Ticket) { k.N = 0 },
		"expired":              func(k *session.Ticket) { k.Expiry = 1 },
	} {
		k := r.ticket()
		change(&k)
		if what != "an altered signature" {
			must(t, k.SignPayer(alice.account.Signer()))
		}
		_, err := r.show(k)
		if !errors.Is(err, top.ErrDenied) && !errors.Is(err, top.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
		r.payer.End(k.Session)
		r.payer = nil
		r.pays(ch, 1)
	}
	// A key in the opening that is not that of the tunnel.
	ref := r.t.nonces.Add(1)
	var f fault
	r.answers(opening{Ref: ref, Key: thief.t.key.Public(), Ticket: r.ticket().Encode()}.encode(), mFault, func(b []byte) bool { return f.decode(b) == nil && f.Ref == ref })
	if !errors.Is(f.err(), top.ErrDenied) {
		t.Errorf("another's key: %v", f.err())
	}
	// A channel that pays somebody else, one that closes, one that is not there.
	for what, change := range map[string]func(id top.ID){
		"pays another": func(id top.ID) { c := w.channels[id]; c.Provider = top.Address{9}; w.channels[id] = c },
		"closing":      func(id top.ID) { c := w.channels[id]; c.Closing = true; w.channels[id] = c },
		"gone":         func(id top.ID) { delete(w.channels, id) },
	} {
		r.payer = nil
		id := r.channel(top.One)
		r.pays(id, 0)
		w.set(func() { change(id) })
		if _, err := r.show(r.ticket()); !errors.Is(err, top.ErrDenied) && !errors.Is(err, top.ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestASessionIsItsPeers: ticks, vouchers, receipts and goodbyes for somebody else's
// session change nothing.
func TestASessionIsItsPeers(t *testing.T) {
	t.Parallel()
	w, x, alice := rides(t)
	r, thief := alice.ride(x), w.member("thief").ride(x)
	r.begun(r.channel(top.One))
	tick, _ := r.payer.Served(r.id, 2)
	for _, body := range [][]byte{
		ticking{Session: r.id, Ticks: []session.Tick{tick}}.encode(), ping{7, r.id}.encode(), told{mBye, r.id, tick.Encode()}.encode(),
		told{mReceipt, r.id, nil}.encode(), told{mVoucher, r.id, nil}.encode(),
	} {
		var f fault
		thief.answers(body, mFault, func(b []byte) bool { return f.decode(b) == nil && f.Session == r.id })
		if !errors.Is(f.err(), top.ErrNotFound) {
			t.Errorf("%c: %v", body[0], f.err())
		}
	}
	if m := r.stated(); m.Units != 0 || m.Limit != 4*unit {
		t.Errorf("a thief changed it: %+v", m)
	}
	if m := r.ticks(tick); m.Units != 2 {
		t.Errorf("its own tick: %+v", m)
	}
}

// TestGarbageOnTheControlPort: whatever is said, the exit serves on, and answers no more
// than it was told.
func TestGarbageOnTheControlPort(t *testing.T) {
	t.Parallel()
	_, x, alice := rides(t)
	r := alice.ride(x)
	r.begun(r.channel(top.One))
	rnd := rand.New(rand.NewPCG(1, 2))
	kinds := []byte{mOpen, mAccept, mVoucher, mTaken, mTick, mState, mPing, mBye, mReceipt, mPeer, mFault, 0, 255}
	for _, n := range []int{1, 2, 8, 17, 40, 200, 1200, maxMessage, 1400} {
		for _, kind := range kinds {
			b := make([]byte, n)
			for i := range b {
				b[i] = byte(rnd.Uint32())
			}
			b[0] = kind
			if kind == mBye && n == 17 {
				continue // it may be one
			}
			r.t.dev.Inject(wg.UDP{From: netip.AddrPortFrom(r.t.own, controlPort), To: netip.AddrPortFrom(r.t.peer, controlPort), Body: b}.Packet())
		}
		r.stated()
	}
	if m := r.stated(); m.Why != "" || m.Limit != 4*unit {
		t.Errorf("after the garbage: %+v", m)
	}
}

// TestStrangersDoNotCrowdOut has thousands of strangers fill the exit's ear, some with
// tickets of channels that are nowhere: who pays is answered, a new client is let in,
// and the chain is asked at most once for each ticket that is heard.
func TestStrangersDoNotCrowdOut(t *testing.T) {
	t.Parallel()
	w, x, alice := rides(t)
	r := alice.ride(x)
	r.begun(r.channel(top.One))
	thief := w.member("thief").ride(x)
	thief.pays(at(w, func() top.ID { return w.channel(thief.m.address(), x.address(), top.One, time.Hour) }), 0)
	lost := thief.ticket()
	rand8 := top.ID{1, 2, 3}
	lost.Channel = rand8
	must(t, lost.SignPayer(thief.m.account.Signer()))
	var said atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { // as if each had shaken hands
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			k := wg.Key{byte(i), byte(i >> 8), byte(i >> 16), 1}
			body := opening{Ref: 1, Key: k, Ticket: lost.Encode()}.encode()
			if i%2 == 0 {
				body = ping{Nonce: 1}.encode()
			}
			x.exit.In([][]byte{wg.UDP{From: netip.AddrPortFrom(k.Inner(), controlPort), To: netip.AddrPortFrom(x.exit.inner, controlPort), Body: body}.Packet()}, 0)
			said.Add(1)
			if i%64 == 0 {
				pause(ctx, time.Millisecond)
			}
		}
	}()
	w.until("thousands spoke", func() bool { return said.Load() > 5000 })
	tick, _ := r.payer.Served(r.id, 2)
	if m := r.ticks(tick); m.Units != 2 {
		t.Errorf("a tick among strangers: %+v", m)
	}
	bob := w.member("bob").ride(x)
	bob.begun(bob.channel(top.One))
	cancel()
	<-done
	if n := at(w, func() int { return w.lookups[rand8] }); int64(n) > said.Load()/2 {
		t.Errorf("%d lookups for %d messages", n, said.Load())
	}
	if n := x.exit.strange.Load(); n > heardStrange {
		t.Errorf("%d wait", n)
	}
}

// TestInnerAddressesNeverCollide gives two keys that want the same IPv4 address
// different ones, and takes none that is the exit's.
func TestInnerAddressesNeverCollide(t *testing.T) {
	e := &Exit{taken: map[netip.Addr]wg.Key{}}
	one, two := wg.Key{1}, wg.Key{2}
	want := two.Inner4()
	e.taken[want] = one
	got := e.addr4(two)
	if got == want || !inner4().Contains(got) || e.taken[got] != two || e.taken[want] != one {
		t.Errorf("%s for who wanted %s", got, want)
	}
	if again := e.addr4(one); again == got {
		t.Errorf("%s twice", again)
	}
	last := netip.AddrFrom4([4]byte{100, 127, 255, 255})
	e = &Exit{taken: map[netip.Addr]wg.Key{last: one}}
	seen := map[netip.Addr]bool{exit4(): true, host4(): true}
	for i := range 3000 {
		k := wg.Key{byte(i), byte(i >> 8), 7}
		e.taken[k.Inner4()] = wg.Key{9} // everybody's wish is taken
		a := e.addr4(k)
		if !a.IsValid() || seen[a] || !inner4().Contains(a) {
			t.Fatalf("address %s of key %d", a, i)
		}
		seen[a] = true
	}
}

// TestAMixedBatch: a tick in one batch behind a packet of the client's other family is
// heard.
func TestAMixedBatch(t *testing.T) {
	t.Parallel()
	w, x, alice := rides(t)
	r := alice.ride(x)
	r.begun(r.channel(top.One))
	tick, _ := r.payer.Served(r.id, 3)
	data := wg.UDP{From: netip.AddrPortFrom(r.at4(), 1), To: netip.AddrPortFrom(host4(), 9), Body: []byte("x")}.Packet()
	word := wg.UDP{From: netip.AddrPortFrom(r.t.own, controlPort), To: netip.AddrPortFrom(x.exit.inner, controlPort), Body: ticking{Session: r.id, Ticks: []session.Tick{tick}}.encode()}.Packet()
	if kept := x.exit.In([][]byte{data, word}, 0); len(kept) != 1 {
		t.Errorf("%d packets go on", len(kept))
	}
	w.until("the tick was heard", func() bool { return r.stated().Units == 3 })
}

// TestAnExitThatRefusesIsNotTheEnd: with another to choose the client goes on.
func TestAnExitThatRefusesIsNotTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sulks, good, alice, s := w.sell("sulks"), w.sell("good"), w.member("alice"), newSite(t)
	w.set(func() { sulks.owner = &top.Address{9} }) // as it knows: every channel pays somebody else
	sulks.exit.look()
	alice.up(via(sulks, good))
	if n := alice.status().Hops[0].Name; n != "good" {
		t.Errorf("up by %s", n)
	}
	alice.fetched(s, 1000)
	// Alone, it is the end, and the error is the exit's.
	bob := w.member("bob")
	cfg, _ := bob.config(via(sulks))
	c, err := NewClient(cfg)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	if err := c.Run(ctx); !errors.Is(err, top.ErrDenied) || !strings.Contains(err.Error(), "pays somebody else") {
		t.Errorf("an exit that refuses, alone: %v", err)
	}
}

// reread decodes a message, encodes what it read and decodes that: the same bytes and
// the same value.
func reread[M any, P interface {
	*M
	decode([]byte) error
}](t *testing.T, b []byte, encode func(M) []byte) {
	t.Helper()
	var one, two M
	if P(&one).decode(b) != nil {
		return
	}
	if len(b) > maxMessage {
		t.Fatalf("%d bytes were read", len(b))
	}
	out := encode(one)
	if !bytes.Equal(out[1:], b[1:]) {
		t.Fatalf("%T of %x is written as %x", one, b, out)
	}
	if err := P(&two).decode(out); err != nil || !reflect.DeepEqual(one, two) {
		t.Fatalf("%T %+v comes back as %+v: %v", one, one, two, err)
	}
}

// FuzzMessage reads whatever a peer says.
func FuzzMessage(f *testing.F) {
	tick := session.Tick{Session: top.SessionID{1}, I: 3, W: top.ID{4}}
	ticket := session.Ticket{Service: Service, Unit: Unit, Price: 1, N: 3}
	for _, b := range [][]byte{
		opening{7, wg.Key{1}, ticket.Encode(), wg.Key{2}}.encode(),
		accepted{Ref: 7, Ticket: ticket.Encode(), Inner4: exit4(), DNS: []netip.Addr{exit4(), wg.Key{1}.Inner()}, MTU: 1420, Class: "full", Own: true}.encode(),
		accepted{Ref: 7, Claims: []session.Claim{{Voucher: session.Voucher{Seq: 1}}}}.encode(),
		ticking{top.SessionID{1}, []session.Tick{tick, tick}, 9, 8, 7}.encode(),
		state{1, top.SessionID{1}, 2, 3, 4, 5, "why"}.encode(),
		ping{1, top.SessionID{1}}.encode(),
		told{mBye, top.SessionID{1}, tick.Encode()}.encode(),
		taken{top.SessionID{1}, 3, []session.Claim{{Voucher: session.Voucher{Seq: 1}}}}.encode(),
		fault{1, top.SessionID{1}, "denied", "no"}.encode(),
	} {
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		reread(t, b, opening.encode)
		reread(t, b, accepted.encode)
		reread(t, b, ticking.encode)
		reread(t, b, state.encode)
		reread(t, b, ping.encode)
		reread(t, b, told.encode)
		reread(t, b, taken.encode)
		reread(t, b, fault.encode)
	})
}

// FuzzAddress reads what a registry row says.
func FuzzAddress(f *testing.F) {
	key := "/" + strings.Repeat("A", 43)
	for _, s := range []string{
		"wg://192.0.2.1:51820" + key, "wg+quic://[2001:db8::1]:443" + key + "?class=full&region=de&server=example.org", "wg+wss://example.org:443" + key + "?loopback=1",
		"wg://h:1" + key + "?node=" + top.NodeID{1}.String(), "wg://h" + key, "http://h:1" + key, "wg://h:1/AA", "wg://h:1" + key + "?class=%01", "wg://a@h:1" + key + "#x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			if a != (Address{}) {
				t.Errorf("%q: %v and %+v", s, err, a)
			}
			return
		}
		b, err := ParseAddress(a.String())
		if err != nil && len(a.String()) <= maxAddress {
			t.Fatalf("%q is written as %q: %v", s, a, err)
		}
		if err == nil && b != a {
			t.Fatalf("%q is read as %+v, then %+v", s, a, b)
		}
		for _, word := range []string{a.Class, a.Region, a.Server, a.Host, a.Port} {
			if strings.ContainsFunc(word, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Errorf("%q: a control character in %q", s, word)
			}
		}
	})
}

// FuzzResolver reads what a client asks and what a resolver answers.
func FuzzResolver(f *testing.F) {
	name := dnsmessage.MustNewName("example.org.")
	q := dnsmessage.Question{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	ask := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true}, Questions: []dnsmessage.Question{q}}
	packed, err := ask.Pack()
	must(f, err)
	ask.Response = true
	ask.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: 5}, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}}}}
	answer, err := ask.Pack()
	must(f, err)
	f.Add(packed, answer)
	loop, _ := hex.DecodeString("0007818000010001000000000765786d61706c00000100010007") // cut short
	f.Add(loop, loop)
	f.Fuzz(func(t *testing.T, q, a []byte) {
		learned := 0
		r := &resolver{learn: func(name string, addrs []netip.Addr, ttl time.Duration) {
			learned++
			if len(addrs) == 0 || ttl < time.Minute || ttl > time.Hour {
				t.Errorf("%q: %v for %s", name, addrs, ttl)
			}
		}}
		r.note("example.org", a)
		if learned > 1 {
			t.Errorf("learned %d times", learned)
		}
		got := r.ask(t.Context(), "udp", q) // nobody is upstream
		if got == nil {
			return
		}
		var p dnsmessage.Parser
		h, err := p.Start(got)
		if err != nil || !h.Response || h.RCode != dnsmessage.RCodeServerFailure || h.ID != uint16(q[0])<<8|uint16(q[1]) {
			t.Errorf("%x is answered with %x", q, got)
		}
	})
}

// TestOneClientDoesNotHoldAllStreams: who opens streams of names and says nothing is
// turned away from the ninth on, another is answered, and who closes one has room.
func TestOneClientDoesNotHoldAllStreams(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		new(resolver).streams(t.Context(), l) // nobody is upstream
	}()
	defer func() { l.Close(); <-done }()
	name := dnsmessage.MustNewName("example.org.")
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	q, err := m.Pack()
	must(t, err)
	ask := func(from byte) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, from)}}
		c, err := d.DialContext(t.Context(), "tcp4", l.Addr().String())
		must(t, err)
		t.Cleanup(func() { c.Close() })
		if err := writeFramed(c, q); err != nil {
			return c, err
		}
		_, err = readFramed(c)
		return c, err
	}
	var last net.Conn
	for range dnsOfOne {
		last, err = ask(2)
		must(t, err)
	}
	for range dnsStreams {
		if _, err := ask(2); err == nil {
			t.Fatalf("one client has more than %d streams", dnsOfOne)
		}
	}
	_, err = ask(3)
	must(t, err)
	last.Close()
	for err = errNoResolver; err != nil && t.Context().Err() == nil; {
		_, err = ask(2) // the resolver has yet to see that it closed
	}
}

// TestAQuestionGoesToTheHostsResolver: the answer comes back, the policy learns it, and
// an answer to another question is not taken.
func TestAQuestionGoesToTheHostsResolver(t *testing.T) {
	t.Parallel()
	at := answering(t, func(m *dnsmessage.Message) [][]byte {
		m.Answers = []dnsmessage.Resource{addressOf(m.Questions[0].Name, [4]byte{127, 0, 0, 1})}
		out, _ := m.Pack()
		wrong := append([]byte{}, out...)
		wrong[1] ^= 1
		return [][]byte{wrong, out}
	})
	w := newWorld(t)
	x := w.sell("exit", func(c *ExitConfig) { c.Resolver = []netip.AddrPort{at} })
	alice, s := w.member("alice"), newSite(t)
	alice.up(via(x))
	n, err := alice.get(strings.Replace(s.bytes(1234), "127.0.0.1", "page.example.org", 1))
	if err != nil || n != 1234 {
		t.Errorf("a page by its name: %d bytes, %v", n, err)
	}
}

// TestAChannelHasSoManySessions begins and ends sessions on a channel until it is refused;
// another channel's client is let in meanwhile, and the same one when time has passed.
func TestAChannelHasSoManySessions(t *testing.T) {
	t.Parallel()
	w, x, alice := rides(t)
	r := alice.ride(x)
	ch := r.channel(top.One)
	begin := func() error {
		r.payer = nil
		r.pays(ch, 0)
		_, err := r.show(r.ticket())
		return err
	}
	for i := range maxSessions {
		if err := begin(); err != nil {
			t.Fatalf("session %d: %v", i, err)
		}
	}
	if err := begin(); !errors.Is(err, top.ErrBusy) {
		t.Errorf("one more than %d: %v", maxSessions, err)
	}
	bob := w.member("bob").ride(x)
	bob.begun(bob.channel(top.One))
	x.later.Add(int64(idleAfter + time.Minute))
	w.until("those that are over are forgotten", func() bool { return begin() == nil })
	x.exit.mu.Lock()
	x.exit.accounts[ch].begun = maxBegun
	x.exit.mu.Unlock()
	if err := begin(); !errors.Is(err, top.ErrDenied) || !strings.Contains(err.Error(), "open another") {
		t.Errorf("one more than %d: %v", maxBegun, err)
	}
}

// TestAFullExitServesWhoItHas: who comes is refused, who is there goes on on its next
// channel.
func TestAFullExitServesWhoItHas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x := w.sell("exit", func(c *ExitConfig) { c.Peers = 1 })
	alice, bob := w.member("alice"), w.member("bob")
	r := alice.ride(x)
	r.begun(r.channel(top.One))
	late := bob.ride(x)
	late.pays(late.channel(top.One), 0)
	if _, err := late.show(late.ticket()); !errors.Is(err, top.ErrBusy) {
		t.Errorf("a second client of one: %v", err)
	}
	r.payer = nil
	r.pays(r.channel(top.One), 0)
	if _, err := r.show(r.ticket()); err != nil {
		t.Errorf("the first, on its next channel: %v", err)
	}
}

// TestAChannelThatIsGoneLeavesNothing: when the chain has it no more, whoever it paid for
// is a stranger again, a stock client among them.
func TestAChannelThatIsGoneLeavesNothing(t *testing.T) {
	t.Parallel()
	w, x, alice := rides(t)
	lender, phone := alice.ride(x), alice.ride(x)
	ch := lender.channel(top.One)
	must(t, lender.lends(ch, phone))
	lender.prepays(ch, 1, 10*price)
	w.set(func() { delete(w.channels, ch) })
	w.until("it is known", func() bool {
		x.exit.mu.Lock()
		defer x.exit.mu.Unlock()
		return x.exit.accounts[ch].gone
	})
	x.later.Add(int64(2 * time.Hour))
	w.until("nobody is left", func() bool { return len(*x.exit.peers.Load()) == 0 })
	if n := len(x.meters()); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// TestAnExitServesWhatItCanClaim: a channel whose provider has another node by now pays
// nothing here, so nothing is served on it.
func TestAnExitServesWhatItCanClaim(t *testing.T) {
	t.Parallel()
	w, x, alice := rides(t)
	r := alice.ride(x)
	ch := r.channel(top.One)
	w.set(func() { c := w.channels[ch]; c.Node = &top.NodeID{9}; w.channels[ch] = c })
	r.pays(ch, 0)
	if _, err := r.show(r.ticket()); !errors.Is(err, top.ErrDenied) || !strings.Contains(err.Error(), "registry") {
		t.Errorf("a channel that this node cannot claim on: %v", err)
	}
}

// TestManyChannelsCloseAtOnce: their claims do not wait for each other's blocks.
func TestManyChannelsCloseAtOnce(t *testing.T) {
	t.Parallel()
	w, x, alice := rides(t)
	block := make(chan struct{})
	var at1, most atomic.Int64
	w.set(func() {
		w.mined = func() {
			n := at1.Add(1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			<-block
			at1.Add(-1)
		}
	})
	var all []top.ID
	for range 5 {
		r := alice.ride(x)
		ch := r.channel(top.One)
		r.begun(ch)
		tick, _ := r.payer.Served(r.id, 2)
		r.ticks(tick)
		all = append(all, ch)
	}
	w.set(func() {
		for _, ch := range all {
			row := w.channels[ch]
			row.Closing = true
			w.channels[ch] = row
		}
	})
	w.until("all claims wait for a block", func() bool { return most.Load() == int64(len(all)) })
	close(block)
	for _, ch := range all {
		w.until("claimed", func() bool { return at(w, func() bool { return w.channels[ch].Paid == 2*price }) })
	}
}
