package wg

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// recorder is a way that keeps what is sent.
type recorder struct {
	sent chan []byte
	gone chan struct{}
}

func (r *recorder) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	gone := make(chan struct{})
	r.gone = gone
	return []conn.ReceiveFunc{func([][]byte, []int, []conn.Endpoint) (int, error) { <-gone; return 0, net.ErrClosed }}, 1, nil
}

func (r *recorder) Close() error {
	if r.gone != nil {
		close(r.gone)
		r.gone = nil
	}
	return nil
}

func (r *recorder) SetMark(uint32) error { return nil }

func (r *recorder) Send(bufs [][]byte, _ conn.Endpoint) error {
	for _, b := range bufs {
		select {
		case r.sent <- append([]byte{}, b...):
		default:
		}
	}
	return nil
}

func (r *recorder) ParseEndpoint(string) (conn.Endpoint, error) { return &conn.StdNetEndpoint{}, nil }
func (r *recorder) BatchSize() int                              { return 1 }

// initiations makes first messages as wireguard does, of one client after another.
type initiations struct {
	dev  *device.Device
	peer device.NoisePublicKey
}

func newInitiations(t *testing.T, to Key) *initiations {
	t.Helper()
	dev := device.NewDevice(newFace(newLane(), nil), &recorder{sent: make(chan []byte, 1)}, device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(dev.Close)
	if _, err := dev.NewPeer(device.NoisePublicKey(to)); err != nil {
		t.Fatal(err)
	}
	return &initiations{dev, device.NoisePublicKey(to)}
}

func (i *initiations) from(t *testing.T, k Private) []byte {
	t.Helper()
	if err := i.dev.SetPrivateKey(device.NoisePrivateKey(k.k)); err != nil {
		t.Fatal(err)
	}
	m, err := i.dev.CreateMessageInitiation(i.dev.LookupPeer(i.peer))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, m)
	return withMACs(b.Bytes(), Key(i.peer))
}

func withMACs(msg []byte, to Key) []byte {
	var g device.CookieGenerator
	g.Init(device.NoisePublicKey(to))
	g.AddMacs(msg)
	return msg
}

// forged is a first message of somebody who knows the key that he claims to have from
// hearsay: all in it is right but the proof.
func forged(to, claim Key) []byte {
	e, _ := ecdh.X25519().GenerateKey(rand.Reader)
	s, _ := ecdh.X25519().NewPublicKey(to[:])
	shared, _ := e.ECDH(s)
	chain := blake2s.Sum256([]byte(device.NoiseConstruction))
	hash := mix(mix(mix(chain, []byte(device.WGIdentifier)), to[:]), e.PublicKey().Bytes())
	device.KDF1(&chain, chain[:], e.PublicKey().Bytes())
	var key [32]byte
	device.KDF2(&chain, &key, chain[:], shared)
	aead, _ := chacha20poly1305.New(key[:])
	msg := binary.LittleEndian.AppendUint32(nil, device.MessageInitiationType)
	msg = append(append(msg, 1, 2, 3, 4), e.PublicKey().Bytes()...)
	msg = aead.Seal(msg, make([]byte, 12), claim[:], hash[:])
	hash = mix(hash, msg[staticAt:timestampAt])
	device.KDF2(&chain, &key, chain[:], make([]byte, 32)) // he does not know what the two share
	aead, _ = chacha20poly1305.New(key[:])
	msg = aead.Seal(msg, make([]byte, 12), make([]byte, 12), hash[:])
	return withMACs(append(msg, make([]byte, 32)...), to)
}

func ecdhOf(t testing.TB, p Private) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.X25519().NewPrivateKey(p.k[:])
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// What a device of wireguard really sends is understood, and no byte of it may differ.
func TestInitiator(t *testing.T) {
	nothingLeft(t)
	us, them := NewPrivate(), NewPrivate()
	way := &recorder{sent: make(chan []byte, 1)}
	d := open(t, Config{Key: them, Line: newLane(), Way: way})
	meet(t, d, us.Public(), "192.0.2.1:1")
	d.Inject(packet(them.Public().Inner(), us.Public().Inner(), "knock"))
	msg := take(t, way.sent, "first message")
	if len(msg) != initiationSize {
		t.Fatalf("%d bytes", len(msg))
	}
	k, ok := initiator(ecdhOf(t, us), us.Public(), msg)
	if !ok || k != them.Public() {
		t.Fatalf("%v, %v", k, ok)
	}
	for i := ephemeralAt; i < mac1At; i++ {
		bad := append([]byte{}, msg...)
		bad[i] ^= 1
		if _, ok := initiator(ecdhOf(t, us), us.Public(), bad); ok {
			t.Errorf("byte %d changed: accepted", i)
		}
	}
	for _, bad := range [][]byte{nil, msg[:147], append(msg, 0), make([]byte, initiationSize), forged(us.Public(), them.Public()), forged(us.Public(), Key{})} {
		if _, ok := initiator(ecdhOf(t, us), us.Public(), bad); ok {
			t.Errorf("%d bytes: accepted", len(bad))
		}
	}
	if _, ok := initiator(ecdhOf(t, them), them.Public(), msg); ok {
		t.Error("a message for another: accepted")
	}
}

func FuzzInitiator(f *testing.F) {
	us := FromSeed([32]byte{1})
	own := ecdhOf(f, us)
	f.Add(forged(us.Public(), Key{9}))
	f.Add(make([]byte, initiationSize))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if k, ok := initiator(own, us.Public(), msg); ok {
			t.Fatalf("%v proved by %x", k, msg)
		}
	})
}

func BenchmarkInitiator(b *testing.B) {
	us := NewPrivate()
	own, msg := ecdhOf(b, us), forged(us.Public(), NewPrivate().Public())
	for range b.N {
		initiator(own, us.Public(), msg)
	}
}

// exit is a device that admits strangers.
func exit(t *testing.T, tap Tap, way conn.Bind) (end, *Admission) {
	t.Helper()
	a := &Admission{}
	e := end{key: NewPrivate(), line: newLane()}
	e.dev = open(t, Config{Key: e.key, Line: e.line, Tap: tap, Admit: a, Way: way})
	return e, a
}

// stranger is a client of an exit that does not know him.
func stranger(t *testing.T, e end) end {
	t.Helper()
	c := end{key: NewPrivate(), line: newLane()}
	c.dev = open(t, Config{Key: c.key, Line: c.line})
	meet(t, c.dev, e.key.Public(), at(e.dev), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"))
	return c
}

func TestG2_AStrangerIsAdmittedByHisHandshake(t *testing.T) {
	nothingLeft(t)
	tap := &watch{}
	e, a := exit(t, tap, nil)
	c := stranger(t, e)
	c.line.in <- packet(c.inner(), e.inner(), "hello")
	wants(t, e.line, "hello")
	if a.Strangers() != 1 {
		t.Errorf("%d strangers", a.Strangers())
	}
	e.line.in <- packet(e.inner(), c.inner(), "welcome")
	wants(t, c.line, "welcome")

	// He has the address of his key and no other.
	four, web := c.key.Public().Inner4(), netip.MustParseAddr("192.0.2.1")
	c.line.in <- packet(four, web, "too early")
	c.line.in <- packet(e.inner(), e.inner(), "as the exit")
	c.line.in <- packet(c.inner(), e.inner(), "after")
	wants(t, e.line, "after")
	if tap.seen(four) != 0 || tap.seen(e.inner()) != 0 {
		t.Error("the tap saw a source that is not his")
	}
	if err := a.Vouch(c.key.Public(), netip.PrefixFrom(four, 32)); err != nil || a.Strangers() != 0 {
		t.Fatalf("%v, %d strangers", err, a.Strangers())
	}
	c.line.in <- packet(four, web, "with an address")
	wants(t, e.line, "with an address")

	a.Expire(time.Now().Add(time.Hour)) // who was vouched for stays
	c.line.in <- packet(c.inner(), e.inner(), "still here")
	wants(t, e.line, "still here")
	if err := a.Forget(c.key.Public()); err != nil {
		t.Fatal(err)
	}
	if all, err := e.dev.Contacts(); err != nil || len(all) != 0 {
		t.Errorf("after Forget: %v, %v", all, err)
	}

	// He may come again, as anybody, and is forgotten when nobody vouches.
	c.dev.Close()
	c.dev = open(t, Config{Key: c.key, Line: c.line})
	meet(t, c.dev, e.key.Public(), at(e.dev))
	c.line.in <- packet(c.inner(), e.inner(), "again")
	wants(t, e.line, "again")
	a.Expire(time.Now().Add(strangerLife / 2))
	if a.Strangers() != 1 {
		t.Error("forgotten before his time")
	}
	a.Expire(time.Now().Add(strangerLife + time.Second))
	if all, err := e.dev.Contacts(); err != nil || len(all) != 0 || a.Strangers() != 0 {
		t.Errorf("after his time: %v, %v", all, err)
	}
}

func TestWhoProvesNothingIsNotAdmitted(t *testing.T) {
	nothingLeft(t)
	e, a := exit(t, nil, nil)
	to := e.key.Public()
	good := newInitiations(t, to)
	flip := func(msg []byte, at int) []byte { msg[at] ^= 1; return msg }
	c, err := net.Dial("udp", at(e.dev))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	last := NewPrivate()
	for _, msg := range [][]byte{
		make([]byte, initiationSize), bytes.Repeat([]byte{1}, initiationSize), flip(good.from(t, NewPrivate()), mac1At), flip(good.from(t, NewPrivate()), 50),
		withMACs(flip(good.from(t, NewPrivate()), 50), to), withMACs(flip(good.from(t, NewPrivate()), timestampAt), to), forged(to, NewPrivate().Public()),
		newInitiations(t, NewPrivate().Public()).from(t, NewPrivate()), good.from(t, NewPrivate())[:147], good.from(t, last),
	} {
		if _, err := c.Write(msg); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "admitted, the last", func() bool { return a.Strangers() > 0 })
	if all, err := e.dev.Contacts(); err != nil || len(all) != 1 || all[0].Key != last.Public() {
		t.Errorf("%v, %v", all, err)
	}
}

func TestStrangersAreBounded(t *testing.T) {
	nothingLeft(t)
	e, a := exit(t, nil, nil)
	from := newInitiations(t, e.key.Public())
	here := func(k Key) bool { return e.dev.dev.LookupPeer(device.NoisePublicKey(k)) != nil }
	var all []Key
	friend := NewPrivate().Public()
	if err := a.Vouch(friend); err != nil {
		t.Fatal(err)
	}
	for range maxStrangers + 44 {
		k := NewPrivate()
		all = append(all, k.Public())
		a.tokens = admitBurst
		a.meet(from.from(t, k))
	}
	if a.Strangers() != maxStrangers {
		t.Errorf("%d strangers", a.Strangers())
	}
	for i, k := range all {
		if here(k) != (i >= 44) {
			t.Fatalf("stranger %d: %v; the oldest make room", i, here(k))
		}
	}
	if contacts, err := e.dev.Contacts(); err != nil || len(contacts) != maxStrangers+1 || !here(friend) {
		t.Errorf("%d peers, %v", len(contacts), err)
	}
	// One who was removed from the device may come again.
	k := NewPrivate()
	a.tokens = admitBurst
	a.meet(from.from(t, k))
	if err := e.dev.RemovePeer(k.Public()); err != nil {
		t.Fatal(err)
	}
	if a.meet(from.from(t, k)); !here(k.Public()) || a.Strangers() != maxStrangers {
		t.Errorf("%v, %d strangers", here(k.Public()), a.Strangers())
	}
}

func TestAdmissionHasARate(t *testing.T) {
	now := time.Unix(1000, 0)
	a := &Admission{tokens: admitBurst, filled: now}
	count := func() (n int) {
		for a.allowed(now) {
			n++
		}
		return n
	}
	if n := count(); n != admitBurst {
		t.Errorf("%d at once", n)
	}
	a.tokens, a.filled = 0, now
	total := 0
	for range 1000 {
		now = now.Add(time.Millisecond)
		total += count()
	}
	if total != 200 {
		t.Errorf("%d in a second", total)
	}
	now = now.Add(time.Hour)
	if n := count(); n != admitBurst {
		t.Errorf("%d after an hour", n)
	}
	e, real := exit(t, nil, nil)
	msg := newInitiations(t, e.key.Public()).from(t, NewPrivate())
	real.tokens, real.filled = 0, time.Now().Add(time.Hour)
	if real.meet(msg); real.Strangers() != 0 {
		t.Error("admitted beyond the rate")
	}
}

// A peer that was configured is none of the strangers, and keeps what he has.
func TestAConfiguredPeerIsNoStranger(t *testing.T) {
	nothingLeft(t)
	e, a := exit(t, nil, nil)
	c := stranger(t, e)
	mine := netip.MustParsePrefix("10.1.2.3/32")
	if err := e.dev.SetPeer(Peer{Key: c.key.Public(), Allowed: []netip.Prefix{mine}}); err != nil {
		t.Fatal(err)
	}
	c.line.in <- packet(mine.Addr(), netip.MustParseAddr("10.0.0.1"), "as configured")
	wants(t, e.line, "as configured")
	a.Expire(time.Now().Add(time.Hour))
	text, err := e.dev.dev.IpcGet()
	if err != nil || a.Strangers() != 0 || strings.Count(text, "allowed_ip=") != 1 || !strings.Contains(text, mine.String()) {
		t.Errorf("%v, %d strangers\n%s", err, a.Strangers(), text)
	}
}

// A device that closes, or opens its way anew, while strangers knock does not wait for
// them, nor they for it.
func TestCloseWhileStrangersKnock(t *testing.T) {
	nothingLeft(t)
	for range 20 {
		e, a := exit(t, nil, nil)
		from := newInitiations(t, e.key.Public())
		var msgs [][]byte
		for range 40 {
			msgs = append(msgs, from.from(t, NewPrivate()))
		}
		c, err := net.Dial("udp", at(e.dev))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range msgs {
			if _, err := c.Write(m); err != nil && !errors.Is(err, net.ErrClosed) {
				t.Fatal(err)
			}
		}
		until(t, "admitted", func() bool { return a.Strangers() > 0 })
		done := make(chan struct{})
		go func() {
			defer close(done)
			e.dev.set("listen_port=0\n")
			e.dev.Close()
			a.Vouch(NewPrivate().Public())
		}()
		take(t, done, "end of Close")
		c.Close()
	}
}
