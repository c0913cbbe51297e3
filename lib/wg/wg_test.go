package wg

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

// A lane is a line of channels.
type lane struct {
	in, out      chan []byte // to the tunnel, from it
	wake, closed chan struct{}
	once         sync.Once
}

func newLane() *lane {
	return &lane{in: make(chan []byte, 64), out: make(chan []byte, 64), wake: make(chan struct{}, 1), closed: make(chan struct{})}
}

func (l *lane) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case p := <-l.in:
		sizes[0] = copy(bufs[0][offset:], p)
		return 1, nil
	case <-l.wake:
		return 0, nil
	case <-l.closed:
		return 0, os.ErrClosed
	}
}

func (l *lane) Write(bufs [][]byte, offset int) (int, error) {
	for _, b := range bufs {
		select {
		case l.out <- append([]byte{}, b[offset:]...):
		case <-l.closed:
			return 0, os.ErrClosed
		}
	}
	return len(bufs), nil
}

func (l *lane) Wake() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *lane) MTU() int       { return 1420 }
func (l *lane) BatchSize() int { return 1 }
func (l *lane) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }

// watch is a tap that remembers the sources of what comes from peers and how many
// packets went out, and drops both when told to.
type watch struct {
	mu       sync.Mutex
	from     map[netip.Addr]int
	out      int
	dropping bool
	full     atomic.Bool
}

func (w *watch) Full() bool { return w.full.Load() }

func (w *watch) Out(bufs [][]byte, sizes []int, offset int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out += len(bufs)
	for i := range sizes {
		if w.dropping {
			sizes[i] = 0
		}
	}
}

func (w *watch) In(bufs [][]byte, offset int) [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range bufs {
		if u, err := ParseUDP(b[offset:]); err == nil {
			if w.from == nil {
				w.from = map[netip.Addr]int{}
			}
			w.from[u.From.Addr()]++
		}
	}
	if w.dropping {
		return nil
	}
	return bufs
}

func (w *watch) seen(a netip.Addr) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.from[a]
}

func (w *watch) sent() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out
}

const patience = 20 * time.Second

func take[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("no %s", what)
	}
	return v
}

// until waits for a state that tells nobody when it comes.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			var stacks bytes.Buffer
			pprof.Lookup("goroutine").WriteTo(&stacks, 1)
			t.Fatalf("not %s\n%s", what, stacks.String())
		}
	}
}

// nothingLeft wants, when the test ends, the goroutines that it began with.
func nothingLeft(t *testing.T) {
	n := runtime.NumGoroutine()
	t.Cleanup(func() {
		until(t, fmt.Sprintf("down to %d goroutines", n), func() bool { return runtime.NumGoroutine() <= n })
	})
}

// open makes a device that closes with the test.
func open(t *testing.T, cfg Config) *Device {
	t.Helper()
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func at(d *Device) string {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), d.Port()).String()
}

func own(k Key) []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(k.Inner(), 128)} }

func meet(t *testing.T, d *Device, k Key, endpoint string, more ...netip.Prefix) {
	t.Helper()
	if err := d.SetPeer(Peer{Key: k, Endpoint: endpoint, Allowed: append(own(k), more...)}); err != nil {
		t.Fatal(err)
	}
}

func packet(from, to netip.Addr, body string) []byte {
	return UDP{netip.AddrPortFrom(from, 7), netip.AddrPortFrom(to, 9), []byte(body)}.Packet()
}

func body(t *testing.T, p []byte) string {
	t.Helper()
	u, err := ParseUDP(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(u.Body)
}

func wants(t *testing.T, l *lane, want string) {
	t.Helper()
	if got := body(t, take(t, l.out, want)); got != want {
		t.Fatalf("%q came, want %q", got, want)
	}
}

func TestG1_APeerHasTheAddressOfItsKey(t *testing.T) {
	nothingLeft(t)
	var keys [3]Private
	var lines [3]*lane
	var devs [3]*Device
	tap := &watch{}
	for i := range devs {
		keys[i], lines[i] = NewPrivate(), newLane()
		cfg := Config{Key: keys[i], Line: lines[i]}
		if i == 0 {
			cfg.Tap = tap
		}
		devs[i] = open(t, cfg)
	}
	a, b, c := keys[0].Public(), keys[1].Public(), keys[2].Public()
	meet(t, devs[0], b, at(devs[1]))
	meet(t, devs[0], c, at(devs[2]))
	// B and C may send what they like, as far as their own ends are concerned.
	meet(t, devs[1], a, at(devs[0]))
	meet(t, devs[2], a, at(devs[0]))

	lines[0].in <- packet(a.Inner(), b.Inner(), "for b")
	lines[0].in <- packet(a.Inner(), c.Inner(), "for c")
	wants(t, lines[1], "for b")
	wants(t, lines[2], "for c")
	lines[1].in <- packet(c.Inner(), a.Inner(), "b as c")
	lines[1].in <- packet(a.Inner(), a.Inner(), "b as a")
	lines[1].in <- packet(b.Inner(), a.Inner(), "b as b")
	lines[2].in <- packet(c.Inner(), a.Inner(), "c as c")
	got := []string{body(t, take(t, lines[0].out, "packet")), body(t, take(t, lines[0].out, "packet"))}
	if !(got[0] == "b as b" && got[1] == "c as c") && !(got[1] == "b as b" && got[0] == "c as c") {
		t.Errorf("%q came", got)
	}
	if tap.seen(a.Inner()) != 0 || tap.seen(b.Inner()) != 1 || tap.seen(c.Inner()) != 1 {
		t.Errorf("the tap saw %v", tap.from)
	}
	if len(lines[1].out)+len(lines[2].out) != 0 {
		t.Error("a packet for one came to the other")
	}

	all, err := devs[0].Contacts()
	if err != nil || len(all) != 2 {
		t.Fatalf("%v, %v", all, err)
	}
	for _, k := range all {
		if k.Key != b && k.Key != c || time.Since(k.Handshake) > time.Minute || k.Received == 0 || k.Sent == 0 || !strings.HasPrefix(k.Endpoint, "127.0.0.1:") {
			t.Errorf("%+v", k)
		}
	}
	if err := devs[0].RemovePeer(b); err != nil {
		t.Fatal(err)
	}
	if all, _ = devs[0].Contacts(); len(all) != 1 || all[0].Key != c {
		t.Errorf("after it was removed: %v", all)
	}
}

func TestATapDropsAndCounts(t *testing.T) {
	nothingLeft(t)
	a, b, tap := pair(t)
	a.line.in <- packet(a.inner(), b.inner(), "one")
	wants(t, b.line, "one")
	tap.mu.Lock()
	tap.dropping = true
	tap.mu.Unlock()
	a.line.in <- packet(a.inner(), b.inner(), "two")
	b.line.in <- packet(b.inner(), a.inner(), "three")
	until(t, "seen", func() bool { return tap.seen(b.inner()) == 1 && tap.sent() == 2 })
	a.dev.Inject(packet(a.inner(), b.inner(), "four")) // is ours, so no tap sees it
	wants(t, b.line, "four")
	if tap.sent() != 2 || len(a.line.out) != 0 {
		t.Errorf("%d packets of the line seen, %d came through", tap.sent(), len(a.line.out))
	}
}

type end struct {
	key  Private
	line *lane
	dev  *Device
}

func (e end) inner() netip.Addr { return e.key.Public().Inner() }

// pair is two ends that know each other, with a tap on the first.
func pair(t *testing.T) (a, b end, tap *watch) {
	t.Helper()
	tap = &watch{}
	a, b = end{key: NewPrivate(), line: newLane()}, end{key: NewPrivate(), line: newLane()}
	a.dev = open(t, Config{Key: a.key, Line: a.line, Tap: tap})
	b.dev = open(t, Config{Key: b.key, Line: b.line})
	meet(t, a.dev, b.key.Public(), at(b.dev))
	meet(t, b.dev, a.key.Public(), "")
	return a, b, tap
}

func TestG3_ALineOutlivesItsDevices(t *testing.T) {
	nothingLeft(t)
	a, b, _ := pair(t)
	for i := range 5 {
		word := fmt.Sprint("round ", i)
		a.line.in <- packet(a.inner(), b.inner(), word)
		wants(t, b.line, word)
		a.dev.Close()
		a.dev.Close() // once more is nothing
		take(t, a.dev.Done(), "end")
		a.key = NewPrivate()
		a.dev = open(t, Config{Key: a.key, Line: a.line})
		meet(t, a.dev, b.key.Public(), at(b.dev))
		meet(t, b.dev, a.key.Public(), "")
	}
	// The other way round: a line that closes ends the device on it, and says so.
	b.line.Close()
	take(t, b.dev.Done(), "end of a device whose line closed")
}

func TestG4_WhatIsInjectedLeavesWithoutTheLine(t *testing.T) {
	nothingLeft(t)
	a, b, _ := pair(t)
	for i := range 20 {
		word := fmt.Sprint("tick ", i)
		if n := a.dev.Inject(packet(a.inner(), b.inner(), word), packet(a.inner(), b.inner(), word+" again")); n != 2 {
			t.Fatalf("room for %d", n)
		}
		wants(t, b.line, word)
		wants(t, b.line, word+" again")
	}
}

func TestG5_AFullTapLetsTheLineWait(t *testing.T) {
	nothingLeft(t)
	a, b, tap := pair(t)
	a.line.in <- packet(a.inner(), b.inner(), "one")
	wants(t, b.line, "one")
	tap.full.Store(true)
	a.dev.Inject(packet(a.inner(), b.inner(), "last")) // the read that waits looks again
	wants(t, b.line, "last")
	for i := range cap(a.line.in) {
		a.line.in <- packet(a.inner(), b.inner(), fmt.Sprint("waits ", i))
	}
	for i := range 20 {
		word := fmt.Sprint("tick ", i)
		a.dev.Inject(packet(a.inner(), b.inner(), word))
		wants(t, b.line, word)
	}
	if n := len(a.line.in); n < cap(a.line.in) || tap.sent() != 1 {
		t.Errorf("%d packets wait in the line", n)
	}
	tap.full.Store(false)
	a.dev.Inject(packet(a.inner(), b.inner(), "more"))
	for i := 0; i < cap(a.line.in); {
		if w := body(t, take(t, b.line.out, "what waited")); w == fmt.Sprint("waits ", i) {
			i++
		} else if w != "more" {
			t.Fatalf("%q came, want what waited, %d", w, i)
		}
	}
	tap.full.Store(true)
	a.dev.Close() // and the goroutine that waits with it
	take(t, a.dev.Done(), "end")
}

func TestWhatIsInjectedIsBounded(t *testing.T) {
	f := newFace(newLane(), nil)
	p := make([]byte, 1000)
	n := 0
	for f.inject([][]byte{p}) == 1 {
		n++
	}
	if n != maxWaiting/(len(p)+perWaiting) {
		t.Errorf("room for %d", n)
	}
	bufs, sizes := make([][]byte, 128), make([]int, 128)
	for i := range bufs {
		bufs[i] = make([]byte, 2000)
	}
	left := n
	for left > 0 {
		got, err := f.Read(bufs, sizes, 16)
		if err != nil || got < 1 || got > left || sizes[got-1] != len(p) {
			t.Fatal(got, err)
		}
		left -= got
	}
	if f.held != 0 || f.some.Load() || f.inject([][]byte{p}) != 1 {
		t.Errorf("%d bytes held of nothing", f.held)
	}
}

// A Close meets a Read wherever it is.
func TestCloseEndsARead(t *testing.T) {
	nothingLeft(t)
	l := newLane()
	for range 200 {
		f := newFace(l, nil)
		done := make(chan error)
		go func() {
			_, err := f.Read([][]byte{make([]byte, 100)}, make([]int, 1), 0)
			done <- err
		}()
		f.Close()
		if err := take(t, done, "end of Read"); err != os.ErrClosed {
			t.Fatal(err)
		}
	}
	f := newFace(l, &watch{})
	f.Close()
	if n, err := f.Write([][]byte{packet(netip.IPv6Loopback(), netip.IPv6Loopback(), "")}, 0); n != 0 || err != nil || len(l.out) != 0 {
		t.Error("a closed device writes to its line")
	}
}

func TestAPeerIsMadeAsItIsSaid(t *testing.T) {
	nothingLeft(t)
	d := open(t, Config{Key: NewPrivate(), Line: newLane()})
	k := NewPrivate().Public()
	p := Peer{Key: k, Endpoint: "192.0.2.1:51820", Allowed: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32"), netip.MustParsePrefix("fd00::/64")},
		Keepalive: 1500 * time.Millisecond, Preshared: [32]byte{1}}
	look := func(want ...string) {
		t.Helper()
		text, err := d.dev.IpcGet()
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(text, w+"\n") {
				t.Errorf("want %s in\n%s", w, text)
			}
		}
		if n := strings.Count(text, "allowed_ip="); n != len(want)-3 {
			t.Errorf("%d addresses", n)
		}
	}
	if err := d.SetPeer(p); err != nil {
		t.Fatal(err)
	}
	look("endpoint=192.0.2.1:51820", "persistent_keepalive_interval=2", "preshared_key=01"+strings.Repeat("0", 62), "allowed_ip=10.0.0.2/32", "allowed_ip=fd00::/64")
	if err := d.SetPeer(Peer{Key: k, Allowed: []netip.Prefix{netip.MustParsePrefix("10.0.0.3/32")}}); err != nil {
		t.Fatal(err)
	}
	look("endpoint=192.0.2.1:51820", "persistent_keepalive_interval=0", "preshared_key="+strings.Repeat("0", 64), "allowed_ip=10.0.0.3/32")
	for _, bad := range []string{"host:1", "192.0.2.1", "192.0.2.1:1\nreplace_peers=true", "[fe80::1%a\nallowed_ip=::/0\nb]:1", "[fe80::1%a\rb]:1"} {
		if err := d.SetPeer(Peer{Key: NewPrivate().Public(), Endpoint: bad}); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
	if all, err := d.Contacts(); err != nil || len(all) != 1 || !all[0].Handshake.IsZero() {
		t.Errorf("%v, %v", all, err)
	}
}

func TestNewRefuses(t *testing.T) {
	nothingLeft(t)
	if _, err := New(Config{Line: newLane()}); err == nil {
		t.Error("without a key: accepted")
	}
	d := open(t, Config{Key: NewPrivate(), Line: newLane()})
	if _, err := New(Config{Key: NewPrivate(), Line: newLane(), Listen: d.Port()}); err == nil || !strings.Contains(err.Error(), fmt.Sprint(d.Port())) {
		t.Errorf("a port that is taken: %v", err)
	}
}

func TestKeys(t *testing.T) {
	p := NewPrivate()
	k := p.Public()
	for _, s := range []string{k.String(), strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(k.String())} {
		if got, err := ParseKey(s); err != nil || got != k {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	zero := Key{}.String()
	for _, bad := range []string{"", "AAAA", zero[:42], zero + "A", zero[:42] + "B=", zero[:20] + "\n" + zero[20:], zero[:20] + "\n" + zero[20:43], strings.Repeat("*", 44), p.Public().hex()} {
		if _, err := ParseKey(bad); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
	if seed := p.k; FromSeed(seed) != p || NewPrivate() == p {
		t.Error("keys do not come from their seeds")
	}
	// RFC 7748, 6.1: Alice's keys.
	seed, err := hex.DecodeString("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
	if got := FromSeed([32]byte(seed)).Public().hex(); err != nil || got != "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a" {
		t.Error(got)
	}
	for _, verb := range []string{"%v", "%s", "%x", "%+v", "%#v", "%d"} {
		if got := fmt.Sprintf(verb, p); got != "[secret]" {
			t.Errorf("%s: %s", verb, got)
		}
	}
	if b, _ := json.Marshal(struct{ P Private }{p}); strings.Contains(string(b), p.Secret()) {
		t.Errorf("%s", b)
	}
	if b, err := ParseKey(p.Secret()); err != nil || [32]byte(b) != p.k {
		t.Error("the secret is not the key")
	}
}

func TestInnerAddresses(t *testing.T) {
	six, four := netip.MustParsePrefix("fd74:6f70:7670::/48"), netip.MustParsePrefix("100.64.0.0/10")
	corner := netip.MustParsePrefix("100.64.0.0/24")
	seen := map[netip.Addr]bool{}
	for i := range 20000 {
		k := Key{byte(i), byte(i >> 8)}
		a, b := k.Inner(), k.Inner4()
		if !six.Contains(a) || !four.Contains(b) || corner.Contains(b) || seen[a] {
			t.Fatalf("%v: %v, %v", k, a, b)
		}
		seen[a] = true
	}
	const want = "fd74:6f70:7670"
	if got := (Key{}).Inner(); !strings.HasPrefix(got.String(), want) || got != (Key{}).Inner() {
		t.Error(got)
	}
}

// A way that is closed and opened again, as wireguard does, goes on.
func reopen(t *testing.T, d *Device) {
	t.Helper()
	if err := d.dev.BindUpdate(); err != nil {
		t.Fatal(err)
	}
}

var _ conn.Bind = (*gate)(nil)
