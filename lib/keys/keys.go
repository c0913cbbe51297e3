// Package keys is key pairs, signatures, the words that restore a key and the
// sealed form in which a key rests. It touches no files (lib/home does).
//
//	K1  every signature, single or in a batch, is judged by ZIP-215
//	K2  a private key never prints
//	K3  a sealed key opens with its passphrase only, and any changed byte is refused
//	K4  the same words give the same keys for ever
package keys

import (
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/oasisprotocol/curve25519-voi/primitives/ed25519"

	"top/lib/top"
	"top/lib/wire"
)

// zip215 is the one rule by which signatures are judged (ZIP-215): the standard
// library and batch verification disagree on edge cases, and a disagreement
// forks a chain.
var zip215 = &ed25519.Options{Verify: ed25519.VerifyOptionsZIP_215}

// Private is an ed25519 private key (RFC 8032). It prints as "[secret]". Two of
// them are not compared: compare their public halves.
type Private struct {
	// A function, since fmt looks into the unexported fields of whatever holds a
	// Private without asking how it prints, and of a function sees the address.
	key func() ed25519.PrivateKey
}

// Generate draws a key from rand.
func Generate(rand io.Reader) (Private, error) {
	var seed [32]byte
	if _, err := io.ReadFull(rand, seed[:]); err != nil {
		return Private{}, fmt.Errorf("draw key: %w", err)
	}
	return FromSeed(seed), nil
}

// ParseSeed is the key whose seed is written as 64 hex digits.
func ParseSeed(text string) (Private, error) {
	b, err := hex.DecodeString(strings.TrimSpace(text))
	if err != nil || len(b) != 32 {
		return Private{}, fmt.Errorf("not a key: want 64 hex digits: %w", top.ErrInvalid)
	}
	return FromSeed([32]byte(b)), nil
}

// FromSeed is the key of a 32-byte seed.
func FromSeed(seed [32]byte) Private {
	key := ed25519.NewKeyFromSeed(seed[:])
	return Private{func() ed25519.PrivateKey { return key }}
}

// Public is the public half: the bytes of a top.Address or a top.NodeID.
func (p Private) Public() (pub [32]byte) {
	copy(pub[:], p.key()[32:])
	return pub
}

// Seed is the secret from which FromSeed makes the key again.
func (p Private) Seed() (seed [32]byte) {
	copy(seed[:], p.key()[:32])
	return seed
}

// Sign signs msg as it is. Nearly every caller wants Signer, whose signatures
// are bound to a purpose and a chain.
func (p Private) Sign(msg []byte) (sig [64]byte) {
	copy(sig[:], ed25519.Sign(p.key(), msg))
	return sig
}

// String hides the key.
func (Private) String() string { return "[secret]" }

// GoString hides the key from %#v.
func (Private) GoString() string { return "[secret]" }

// Format hides the key from every verb.
func (Private) Format(f fmt.State, _ rune) { io.WriteString(f, "[secret]") }

// LogValue hides the key from logs.
func (Private) LogValue() slog.Value { return slog.StringValue("[secret]") }

// MarshalText hides the key from JSON.
func (Private) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// A Signer signs for one public key. A key in memory is one; the wallet's
// agent, asked over its socket, is another.
type Signer interface {
	// Public is the key under which the signatures verify.
	Public() [32]byte
	// Sign covers wire.Preimage(domain, chain, body).
	Sign(domain string, chain top.ChainID, body []byte) ([64]byte, error)
}

type held struct{ key Private }

// Signer is a Signer that holds the key in memory.
func (p Private) Signer() Signer { return held{p} }

func (h held) Public() [32]byte { return h.key.Public() }

func (h held) Sign(domain string, chain top.ChainID, body []byte) ([64]byte, error) {
	return h.key.Sign(wire.Preimage(domain, chain, body)), nil
}

// Verify says whether sig is pub's signature of body for a domain and a chain.
func Verify(pub [32]byte, domain string, chain top.ChainID, body []byte, sig [64]byte) bool {
	return VerifyRaw(pub, wire.Preimage(domain, chain, body), sig)
}

// VerifyRaw says whether sig is pub's signature of msg, by ZIP-215 (K1).
func VerifyRaw(pub [32]byte, msg []byte, sig [64]byte) bool {
	return ed25519.VerifyWithOptions(pub[:], msg, sig[:], zip215)
}
