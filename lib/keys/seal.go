package keys

import (
	"fmt"
	"io"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/scrypt"

	"top/lib/top"
	"top/lib/wire"
)

// The sealed form of a secret (docs/wire.md, "Sealed key"): scrypt (RFC 7914)
// makes a key of the passphrase, ChaCha20-Poly1305 (RFC 8439) seals with it, and
// the header is authenticated with the rest. Version 1 fixes r = 8 and p = 1.
const (
	sealMagic   = "top/sealed/1"
	sealCost    = 17 // log2 of scrypt's N: about 0.3 s and 128 MiB
	sealCostMax = 20
	sealMax     = 4096
	scryptR     = 8
	scryptP     = 1
)

// Seal encrypts a secret under a passphrase. rand gives the salt and nonce.
func Seal(secret, passphrase []byte, rand io.Reader) ([]byte, error) {
	return SealCost(secret, passphrase, rand, sealCost)
}

// SealCost is Seal with scrypt's N = 2^cost, 1 to 20. Anything below the
// default is for tests.
func SealCost(secret, passphrase []byte, rand io.Reader, cost int) ([]byte, error) {
	if cost < 1 || cost > sealCostMax || len(secret) > sealMax/2 {
		return nil, fmt.Errorf("seal %d bytes at cost 2^%d: %w", len(secret), cost, top.ErrInvalid)
	}
	var random [16 + chacha20poly1305.NonceSize]byte
	if _, err := io.ReadFull(rand, random[:]); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	salt, nonce := random[:16], random[16:]
	var e wire.Encoder
	e.Raw([]byte(sealMagic))
	e.Byte(byte(cost))
	e.Raw(random[:])
	head := e.Out()
	key, err := scrypt.Key(passphrase, salt, 1<<cost, scryptR, scryptP, chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	aead, err := chacha20poly1305.New(key)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return aead.Seal(head[:len(head):len(head)], nonce, secret, head), nil
}

// Open gives back what Seal took. A wrong passphrase or a changed byte is
// top.ErrDenied, something that is no sealed secret top.ErrInvalid; absurd costs
// are refused before any work.
func Open(sealed, passphrase []byte) ([]byte, error) {
	d := wire.Decode(sealed, sealMax)
	magic := d.Raw(len(sealMagic))
	cost := d.Byte()
	salt := d.Raw(16)
	nonce := d.Raw(chacha20poly1305.NonceSize)
	if d.Err() != nil || string(magic) != sealMagic || d.Len() < chacha20poly1305.Overhead {
		return nil, fmt.Errorf("open sealed key: not a sealed key: %w", top.ErrInvalid)
	}
	if cost < 1 || cost > sealCostMax {
		return nil, fmt.Errorf("open sealed key: scrypt cost 2^%d: %w", cost, top.ErrInvalid)
	}
	key, err := scrypt.Key(passphrase, salt, 1<<cost, scryptR, scryptP, chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("open sealed key: %w", err)
	}
	aead, err := chacha20poly1305.New(key)
	if err != nil {
		return nil, fmt.Errorf("open sealed key: %w", err)
	}
	body := d.Rest()
	secret, err := aead.Open(nil, nonce, body, sealed[:len(sealed)-len(body)])
	if err != nil {
		return nil, fmt.Errorf("open sealed key: wrong passphrase, or the file was changed: %w", top.ErrDenied)
	}
	return secret, nil
}
