package wg

import (
	"crypto/ecdh"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// Bounds on strangers (G2).
const (
	maxStrangers = 256              // admitted, and nobody vouched for them
	strangerLife = 30 * time.Second // until they are forgotten
	admitEach    = 5 * time.Millisecond
	admitBurst   = 128
)

// An Admission lets strangers shake hands with a device: the first message of a
// handshake proves the initiator's key (Noise IK), and he becomes a peer with the
// inner address of that key and nothing else. The zero value goes into Config, of one
// device; after New it may be used by several at once, but not by a Tap.
type Admission struct {
	own    *ecdh.PrivateKey
	public Key
	dev    *Device
	mac    device.CookieChecker

	tokens int // of the gate's goroutine
	filled time.Time

	mu      sync.Mutex
	strange map[Key]time.Time // peers that nobody vouched for, and since when
}

// begin is called by New.
func (a *Admission) begin(k Private, d *Device) {
	own, err := ecdh.X25519().NewPrivateKey(k.k[:])
	if err != nil {
		panic("wg: G2: 32 bytes are no key: " + err.Error())
	}
	a.own, a.public, a.dev = own, k.Public(), d
	a.mac.Init(device.NoisePublicKey(a.public))
	a.strange = map[Key]time.Time{}
	a.tokens, a.filled = admitBurst, time.Now()
}

// Vouch keeps a peer until Forget, with these inner addresses beside that of its key.
func (a *Admission) Vouch(k Key, more ...netip.Prefix) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.dev.SetPeer(Peer{Key: k, Allowed: append([]netip.Prefix{netip.PrefixFrom(k.Inner(), 128)}, more...)}); err != nil {
		return err
	}
	delete(a.strange, k)
	return nil
}

// Forget removes a peer. It may shake hands again, as a stranger.
func (a *Admission) Forget(k Key) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.strange, k)
	return a.dev.RemovePeer(k)
}

// Strangers is how many were admitted and not vouched for.
func (a *Admission) Strangers() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.strange)
}

// Expire forgets strangers whose time is over: 30 seconds after they were admitted.
// Whoever vouches calls it every few seconds.
func (a *Admission) Expire(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, at := range a.strange {
		if now.Sub(at) > strangerLife {
			delete(a.strange, k)
			a.dev.RemovePeer(k)
		}
	}
}

// meet looks at the first message of a handshake before the device does.
func (a *Admission) meet(msg []byte) {
	if !a.allowed(time.Now()) {
		return
	}
	k, ok := initiator(a.own, a.public, msg)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dev.dev.LookupPeer(device.NoisePublicKey(k)) != nil {
		return // a configured peer, one that was vouched for, or a stranger whose time goes on
	}
	delete(a.strange, k)                 // somebody removed him from the device
	for len(a.strange) >= maxStrangers { // the one that was here longest makes room
		var old Key
		var at time.Time
		for s, t := range a.strange {
			if at.IsZero() || t.Before(at) {
				old, at = s, t
			}
		}
		delete(a.strange, old)
		a.dev.RemovePeer(old)
	}
	if a.dev.SetPeer(Peer{Key: k, Allowed: []netip.Prefix{netip.PrefixFrom(k.Inner(), 128)}}) == nil {
		a.strange[k] = time.Now()
	}
}

// allowed bounds the Diffie-Hellman that strangers cost us: 200 a second, and 128 at
// once.
func (a *Admission) allowed(now time.Time) bool {
	if n := int(now.Sub(a.filled) / admitEach); n > 0 {
		a.tokens, a.filled = min(admitBurst, a.tokens+n), now
	}
	if a.tokens == 0 {
		return false
	}
	a.tokens--
	return true
}

// The first message (NDSS paper, 5.4.2): type and reserved 4, sender 4, ephemeral
// 32, static 48, timestamp 28, mac1 16, mac2 16.
const (
	initiationSize = 148
	ephemeralAt    = 8
	staticAt       = 40
	timestampAt    = 88
	mac1At         = 116
	mac2At         = 132
)

// initiator opens the static key of a first message, and the timestamp that proves it.
func initiator(own *ecdh.PrivateKey, public Key, msg []byte) (k Key, ok bool) {
	if len(msg) != initiationSize {
		return k, false
	}
	chain := blake2s.Sum256([]byte(device.NoiseConstruction))
	hash := mix(mix(chain, []byte(device.WGIdentifier)), public[:])
	eph := msg[ephemeralAt:staticAt]
	hash = mix(hash, eph)
	device.KDF1(&chain, chain[:], eph)
	theirs, err := ecdh.X25519().NewPublicKey(eph)
	if err != nil {
		return k, false
	}
	shared, err := own.ECDH(theirs) // an error for a point of small order
	if err != nil {
		return k, false
	}
	var key [32]byte
	device.KDF2(&chain, &key, chain[:], shared)
	aead, err := chacha20poly1305.New(key[:])
	if err != nil {
		return k, false
	}
	sealed := msg[staticAt:timestampAt]
	static, err := aead.Open(nil, make([]byte, chacha20poly1305.NonceSize), sealed, hash[:])
	if err != nil {
		return k, false
	}
	// So far anybody could have written it. Who sealed the timestamp has the key.
	them, err := ecdh.X25519().NewPublicKey(static)
	if err != nil {
		return k, false
	}
	if shared, err = own.ECDH(them); err != nil {
		return k, false
	}
	hash = mix(hash, sealed)
	device.KDF2(&chain, &key, chain[:], shared)
	if aead, err = chacha20poly1305.New(key[:]); err != nil {
		return k, false
	}
	_, err = aead.Open(nil, make([]byte, chacha20poly1305.NonceSize), msg[timestampAt:mac1At], hash[:])
	return Key(static), err == nil
}

func mix(h [32]byte, b []byte) [32]byte { return blake2s.Sum256(append(h[:], b...)) }

// gate is a way on which strangers knock. What the device gets first is looked at by
// a goroutine of its own, since to add a peer from a receiver of the device's would
// wait for its lock, and the device that closes, with that lock, for its receivers.
type gate struct {
	conn.Bind
	admit *Admission
	seen  *intake
	queue chan caller
}

// caller is a first message and where it came from.
type caller struct {
	msg [initiationSize]byte
	end conn.Endpoint
}

func newGate(way conn.Bind, a *Admission) *gate {
	return &gate{Bind: way, admit: a, seen: newIntake(), queue: make(chan caller, admitBurst)}
}

func (g *gate) Open(port uint16) (fns []conn.ReceiveFunc, actual uint16, err error) {
	fns, actual, err = g.Bind.Open(port)
	if err != nil {
		return nil, 0, err
	}
	for i, receive := range fns {
		fns[i] = func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
			n, err := receive(bufs, sizes, eps)
			for j := range n {
				if sizes[j] == initiationSize && g.stop(bufs[j][:initiationSize], eps[j]) {
					sizes[j] = 0 // later, from seen
				}
			}
			return n, err
		}
	}
	return append(fns, g.seen.open()), actual, nil
}

func (g *gate) Close() error {
	g.seen.shut()
	return g.Bind.Close()
}

// stop keeps a first message for run. Those that it leaves are the device's, which
// knows its peers and, under load, asks for a cookie.
func (g *gate) stop(msg []byte, end conn.Endpoint) bool {
	if binary.LittleEndian.Uint32(msg) != device.MessageInitiationType || !g.admit.mac.CheckMAC1(msg) {
		return false
	}
	if [16]byte(msg[mac2At:]) == [16]byte{} && g.admit.dev.dev.IsUnderLoad() {
		return false
	}
	select {
	case g.queue <- caller{[initiationSize]byte(msg), end}:
		return true
	default:
		return false
	}
}

func (g *gate) run(stop <-chan struct{}) {
	taken := make(chan struct{})
	for {
		select {
		case c := <-g.queue:
			g.admit.meet(c.msg[:])
			g.seen.put(parcel{[][]byte{c.msg[:]}, c.end, taken})
		case <-stop:
			return
		}
	}
}
