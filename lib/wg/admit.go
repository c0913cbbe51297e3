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
	admitEach    = 10 * time.Millisecond
	admitBurst   = 128
)

// An Admission lets strangers shake hands with a device: the first message of a
// handshake proves the initiator's key (Noise IK), and he becomes a peer with the
// inner address of that key and nothing else.
type Admission struct {
	key    Private
	own    *ecdh.PrivateKey
	public Key
	dev    *Device
	mac    device.CookieChecker

	mu      sync.Mutex
	known   map[Key]bool // peers that were vouched for
	strange map[Key]time.Time
	tokens  int
	filled  time.Time
}

// begin is called by New.
func (a *Admission) begin(k Private, d *Device) {
	a.key, a.public, a.dev = k, k.Public(), d
	own, err := ecdh.X25519().NewPrivateKey(k.k[:])
	if err != nil {
		panic("wg: G2: 32 bytes are no key: " + err.Error())
	}
	a.own = own
	a.mac.Init(device.NoisePublicKey(a.public))
	a.known, a.strange = map[Key]bool{}, map[Key]time.Time{}
	a.tokens, a.filled = admitBurst, time.Now()
}

// Vouch keeps a peer until Forget, with these inner addresses beside that of its key.
func (a *Admission) Vouch(k Key, more ...netip.Prefix) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.dev.SetPeer(Peer{Key: k, Allowed: append([]netip.Prefix{netip.PrefixFrom(k.Inner(), 128)}, more...)}); err != nil {
		return err
	}
	a.known[k] = true
	delete(a.strange, k)
	return nil
}

// Forget removes a peer. It may shake hands again, as a stranger.
func (a *Admission) Forget(k Key) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.known, k)
	delete(a.strange, k)
	return a.dev.RemovePeer(k)
}

// Strangers is how many were admitted and not vouched for.
func (a *Admission) Strangers() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.strange)
}

// Expire forgets strangers whose time is over.
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

// first looks at the first message of a handshake before the device does.
func (a *Admission) first(msg []byte) {
	if !a.mac.CheckMAC1(msg) || !a.allowed() {
		return
	}
	k, ok := initiator(a.own, a.public, msg)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known[k] {
		return
	}
	if _, ok := a.strange[k]; ok {
		a.strange[k] = time.Now()
		return
	}
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

// allowed bounds the Diffie-Hellman that strangers cost us: 100 a second, and 128 at
// once.
func (a *Admission) allowed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
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
)

// initiator opens the static key of a first message.
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
	static, err := aead.Open(nil, make([]byte, chacha20poly1305.NonceSize), msg[staticAt:timestampAt], hash[:])
	if err != nil {
		return k, false
	}
	return Key(static), true
}

func mix(h [32]byte, b []byte) [32]byte { return blake2s.Sum256(append(h[:], b...)) }

// gate is a way on which strangers knock.
type gate struct {
	conn.Bind
	admit *Admission
}

func (g *gate) Open(port uint16) (fns []conn.ReceiveFunc, actual uint16, err error) {
	fns, actual, err = g.Bind.Open(port)
	for i, receive := range fns {
		fns[i] = func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
			n, err := receive(bufs, sizes, eps)
			for j := range n {
				if sizes[j] == initiationSize && binary.LittleEndian.Uint32(bufs[j]) == device.MessageInitiationType {
					g.admit.first(bufs[j][:sizes[j]])
				}
			}
			return n, err
		}
	}
	return fns, actual, err
}
