// Package wg is a WireGuard device whose packets pass through our hands: a line on
// the near side (a kernel TUN, TCP/IP in user space, the next hop), a way on the far
// side (UDP, a hidden carriage, the hop before), and a tap between line and cipher
// that counts, holds back and answers.
//
//	G1  what a peer sends has the inner address of its key, and what is sent to that
//	    address goes to it alone
//	G2  a stranger is admitted by a handshake that proves his key, at a bounded rate
//	    and in a bounded number, and is forgotten when nobody vouches for him
//	G3  a line outlives the devices on it, and Close of either leaves nothing
//	G4  what is injected leaves also while nothing comes from the line
//	G5  while the tap is full the line is not read
//	G6  datagrams come out of UDP as they were put in, and in order, whatever trains
//	    they travel in
//
// It is not for what a packet costs (lib/vpn) nor for what the host's network does
// with it (lib/netcfg). WireGuard: Donenfeld, "WireGuard: Next Generation Kernel
// Network Tunnel", NDSS 2017.
package wg

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"top/lib/top"
	"top/lib/wire"
)

// A Key is a public key of WireGuard (Curve25519).
type Key [32]byte

// String is the key as wg and wg-quick write it: base64.
func (k Key) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// ParseKey reads what String wrote, or the same in base64url without padding.
func ParseKey(s string) (k Key, err error) {
	form := base64.StdEncoding
	if len(s) == form.EncodedLen(len(k))-1 {
		form = base64.RawURLEncoding
	}
	b, err := form.Strict().DecodeString(s)
	if err != nil || len(b) != len(k) || strings.ContainsAny(s, "\r\n") { // which Decode skips
		return k, top.Errorf(top.Invalid, "%q is no WireGuard key (want 32 bytes in base64)", s)
	}
	return Key(b), nil
}

// A Private is a private key. It prints as "[secret]".
type Private struct{ k [32]byte }

// NewPrivate draws a key.
func NewPrivate() Private {
	var seed [32]byte
	rand.Read(seed[:])
	return FromSeed(seed)
}

// FromSeed is the key that 32 secret bytes make.
func FromSeed(seed [32]byte) Private {
	seed[0] &= 248
	seed[31] = seed[31]&127 | 64
	return Private{seed}
}

// Public is the key that others know.
func (p Private) Public() Key {
	k, err := ecdh.X25519().NewPrivateKey(p.k[:])
	if err != nil {
		panic("wg: G1: 32 bytes are no key: " + err.Error())
	}
	return Key(k.PublicKey().Bytes())
}

// Format hides the key from every verb.
func (Private) Format(f fmt.State, _ rune) { io.WriteString(f, "[secret]") }

// Secret is the key in base64, for a file that only its owner reads.
func (p Private) Secret() string { return base64.StdEncoding.EncodeToString(p.k[:]) }

func (p Private) hex() string { return hex.EncodeToString(p.k[:]) }

func (k Key) hex() string { return hex.EncodeToString(k[:]) }

const innerDomain = "top/vpn/inner/1"

// Inner is the address of a key's owner within a tunnel: fd74:6f70:7670::/48 (a
// unique local prefix, RFC 4193) and 80 bits of a digest. Both ends work it out, so
// that nothing need be agreed before the first packet.
func (k Key) Inner() netip.Addr {
	d := wire.Digest(innerDomain, k[:])
	a := [16]byte{0xfd, 0x74, 0x6f, 0x70, 0x76, 0x70}
	copy(a[6:], d[:10])
	return netip.AddrFrom16(a)
}

// Inner4 is the IPv4 address that a key's owner would like within a tunnel, of
// 100.64.0.0/10 (RFC 6598): another may have it, so the exit has the last word.
func (k Key) Inner4() netip.Addr {
	d := wire.Digest(innerDomain, k[:])
	a := [4]byte{100, 64 | d[10]&63, d[11], d[12]}
	if a[1] == 64 && a[2] == 0 { // the exit's own corner
		a[2] = 1
	}
	return netip.AddrFrom4(a)
}
