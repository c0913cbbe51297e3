// Package envelope is messages as strangers carry them: sealed to the devices of
// their recipient, signed by the device of their sender, padded to a size class;
// and the records by which people are reached (docs/decisions/0009-messages.md).
//
//	E1  a bundle is opened by the devices that it was sealed to, and nobody else
//	E2  who carries it sees a size class, the recipient and its place, no more
//	E3  what opened once never opens again
//	E4  any changed byte is refused
//	E5  who is named as the sender signed it, for this recipient
//	E6  keys of messages that went by cannot be made from what is kept
//	E7  a value has one encoding
//
// A conversation goes one way, from a device to a device. HPKE (RFC 9180, with the
// hybrid KEM MLKEM768-X25519 of draft-ietf-hpke-pq) opens it; then a chain of
// HMAC-SHA256 keys gives each message a key of its own. Files travel in chunks
// under a key that is in a bundle.
//
// It reads no clock and no disk; what it draws comes from crypto/rand. docs/wire.md
// has the bytes.
package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"top/lib/keys"
	"top/lib/top"
	"top/lib/wire"
)

// Sizes.
const (
	Unit        = 64 << 10  // bytes of the sealed part that one unit pays for
	MaxSealed   = 15 * Unit // of one envelope
	MaxPayloads = 256       // in a bundle
	MaxDevices  = 16        // of a recipient
	MaxRelays   = 8         // in a mailbox record
	prelude     = 1 + 16 + 4
	ChunkData   = MaxSealed - prelude - tagSize - 4 // bytes of a file in one chunk
	tagSize     = 16
	maxSlot     = 16 + 5 + 2 + maxOpening + 32 + tagSize
	maxOpening  = 2048
	// MaxPayload is what a bundle of one payload always has room for.
	MaxPayload = MaxSealed - MaxDevices*maxSlot - 1024
)

// What a sealed part is.
const (
	kindBundle = 1
	kindChunk  = 2
)

// classes are the lengths of sealed parts, up to one unit; above it they are whole
// units.
var classes = [...]int{256, 1 << 10, 4 << 10, 16 << 10, Unit}

// class is the smallest length that holds n bytes.
func class(n int) int {
	for _, c := range classes {
		if n <= c {
			return c
		}
	}
	return (n + Unit - 1) / Unit * Unit
}

// Units is how many units an envelope costs: one for each message in it, and one
// for each 64 KiB of its sealed part.
func Units(sealed int, count uint32) uint64 {
	return max(uint64(count), uint64(sealed+Unit-1)/Unit)
}

// A Header is what a relay reads. It is made anew for every relay that the sealed
// part is given to.
type Header struct {
	Chain     top.ChainID
	Channel   top.ID
	Recipient top.Address
	ID        top.ID     // of the sealed part
	From, To  top.Amount // its place on the recipient's line of the channel
	Count     uint32     // messages in it
	Expiry    uint64     // unix seconds
	Hold      uint32     // factor of the tier in which it is held
}

func (h Header) put(e *wire.Encoder) {
	e.Raw(h.Chain[:])
	e.Raw(h.Channel[:])
	e.Raw(h.Recipient[:])
	e.Raw(h.ID[:])
	e.Amount(h.From)
	e.Amount(h.To)
	e.Uint(uint64(h.Count))
	e.Uint(h.Expiry)
	e.Uint(uint64(h.Hold))
}

// MAC binds the header to the sealed part, under the key of that: who carries it
// cannot say another price to the recipient than the sender said.
func (h Header) MAC(key [32]byte) (m [16]byte) {
	var e wire.Encoder
	h.put(&e)
	k := derive(key[:], "top/envelope/header")
	copy(m[:], derive(k, string(e.Out())))
	return m
}

// Check refuses a header that is not the sender's.
func (h Header) Check(key [32]byte, m [16]byte) error {
	if want := h.MAC(key); !hmac.Equal(want[:], m[:]) {
		return fmt.Errorf("envelope %s: its header is not what the sender made: %w", h.ID.Short(), top.ErrDenied)
	}
	return nil
}

// An Envelope is what travels: a header, its MAC and the sealed part.
type Envelope struct {
	Header Header
	MAC    [16]byte
	Sealed []byte
}

// Encode is the canonical form (docs/wire.md, "Envelope").
func (v Envelope) Encode() []byte { return append(v.Head(), v.Sealed...) }

// Head is the canonical form up to Sealed, which ends it.
func (v Envelope) Head() []byte {
	e := wire.To(make([]byte, 0, 192))
	v.Header.put(e)
	e.Raw(v.MAC[:])
	return e.Out()
}

// Decode reads the canonical form. Sealed shares b's memory.
func (v *Envelope) Decode(b []byte) error {
	d := wire.Decode(b, MaxSealed+192)
	h := &v.Header
	d.Fill(h.Chain[:])
	h.Channel = d.ID()
	d.Fill(h.Recipient[:])
	h.ID, h.From, h.To = d.ID(), d.Amount(), d.Amount()
	h.Count, h.Expiry, h.Hold = d.Uint32(), d.Uint(), d.Uint32()
	d.Fill(v.MAC[:])
	v.Sealed = d.Rest()
	if d.Err() == nil && (h.From >= h.To || h.Count == 0 || h.Count > MaxPayloads || len(v.Sealed) > MaxSealed) {
		d.Fail("an envelope from %s to %s TOP of %d messages in %d bytes", h.From, h.To, h.Count, len(v.Sealed))
	}
	return d.Err()
}

// derive is a key made of another for one purpose.
func derive(key []byte, what string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(what))
	return m.Sum(nil)
}

// gcm is AES-256-GCM under a key that seals one text: its nonce is zero.
func gcm(key []byte) cipher.AEAD {
	b, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the key is 32 bytes
	}
	a, err := cipher.NewGCM(b)
	if err != nil {
		panic(err) // AES has blocks of 16 bytes
	}
	return a
}

// zeroNonce is the nonce of a key that seals one text.
func zeroNonce() []byte { return make([]byte, 12) }

func draw(b []byte) { rand.Read(b) }

// A Mailbox says how somebody is reached: on which relays, and which devices read.
// The account signs it, and its digest is on the chain.
type Mailbox struct {
	Chain   top.ChainID
	Account top.Address
	Seq     uint64
	Expiry  uint64 // unix seconds
	Relays  []top.NodeID
	Devices []Device
	Sig     [64]byte
}

// A Device is one of the account's, with the key that opens a conversation when no
// one-time prekey is left.
type Device struct {
	Cert       keys.Certificate
	LastResort Prekey // of ID 0
}

const (
	mailboxDomain = "top/mailbox/1"
	digestDomain  = "top/mailbox/digest/1"
	prekeyDomain  = "top/prekey/1"
	deviceRole    = "device"
	maxMailbox    = 64 << 10
)

// Body is what the account signs, besides domain and chain: it begins with the
// account.
func (m Mailbox) Body() []byte {
	var e wire.Encoder
	e.Raw(m.Account[:])
	e.Uint(m.Seq)
	e.Uint(m.Expiry)
	e.Uint(uint64(len(m.Relays)))
	for _, r := range m.Relays {
		e.Raw(r[:])
	}
	e.Uint(uint64(len(m.Devices)))
	for _, d := range m.Devices {
		e.Bytes(d.Cert.Encode())
		e.Bytes(d.LastResort.Encode())
	}
	return e.Out()
}

// Encode is the canonical form (docs/wire.md, "Mailbox").
func (m Mailbox) Encode() []byte {
	e := wire.To(append([]byte(nil), m.Chain[:]...))
	e.Raw(m.Body())
	e.Raw(m.Sig[:])
	return e.Out()
}

// Decode reads the canonical form and refuses every other.
func (m *Mailbox) Decode(b []byte) error {
	d := wire.Decode(b, maxMailbox)
	d.Fill(m.Chain[:])
	d.Fill(m.Account[:])
	m.Seq, m.Expiry, m.Relays, m.Devices = d.Uint(), d.Uint(), nil, nil
	for range d.Count(MaxRelays, 32) {
		var r top.NodeID
		d.Fill(r[:])
		m.Relays = append(m.Relays, r)
	}
	for range d.Count(MaxDevices, 100) {
		var v Device
		cert, last := d.Bytes(keys.MaxCertificate), d.Bytes(maxPrekey)
		if d.Err() != nil {
			break
		}
		if err := v.Cert.Decode(cert); err != nil {
			return err
		}
		if err := v.LastResort.Decode(last); err != nil {
			return err
		}
		m.Devices = append(m.Devices, v)
	}
	d.Fill(m.Sig[:])
	return d.End()
}

// Sign signs as the account.
func (m *Mailbox) Sign(s keys.Signer) (err error) {
	m.Sig, err = s.Sign(mailboxDomain, m.Chain, m.Body())
	return err
}

// Verify checks every signature of the record, and that it holds at a time in unix
// seconds; devices whose certificate expired do not count.
func (m Mailbox) Verify(chain top.ChainID, now uint64) error {
	switch {
	case m.Chain != chain:
		return fmt.Errorf("mailbox record of %s: for chain %s: %w", m.Account, m.Chain, top.ErrDenied)
	case len(m.Relays) == 0 || len(m.Devices) == 0:
		return fmt.Errorf("mailbox record of %s: names %d relays and %d devices: %w", m.Account, len(m.Relays), len(m.Devices), top.ErrInvalid)
	case now >= m.Expiry:
		return fmt.Errorf("mailbox record of %s: expired: %w", m.Account, top.ErrDenied)
	case !keys.Verify(m.Account, mailboxDomain, chain, m.Body(), m.Sig):
		return fmt.Errorf("mailbox record of %s: not signed by the account: %w", m.Account, top.ErrDenied)
	}
	for i, d := range m.Devices {
		if err := d.Cert.Verify(chain, deviceRole, 0); err != nil {
			return err
		}
		k := &d.LastResort
		if d.Cert.Account != m.Account || k.Account != m.Account || k.Device != d.Cert.Key || k.ID != 0 {
			return fmt.Errorf("mailbox record of %s: device %d is another's: %w", m.Account, i, top.ErrDenied)
		}
		if err := k.Verify(chain); err != nil {
			return err
		}
	}
	return nil
}

// Digest is what the chain says of the record.
func (m Mailbox) Digest() top.ID { return wire.Digest(digestDomain, m.Encode()) }

// A Prekey is a public key of a device to which a conversation is opened: once,
// but for the one of ID 0, the last resort.
type Prekey struct {
	Account top.Address
	Device  [32]byte
	ID      uint64
	Public  []byte
	Sig     [64]byte // of the device
}

const (
	publicSize = 1216 // of MLKEM768-X25519
	maxPrekey  = publicSize + 256
)

func (k Prekey) body() []byte {
	var e wire.Encoder
	e.Raw(k.Account[:])
	e.Raw(k.Device[:])
	e.Uint(k.ID)
	e.Bytes(k.Public)
	return e.Out()
}

// Encode is the canonical form (docs/wire.md, "Prekey").
func (k Prekey) Encode() []byte { return append(k.body(), k.Sig[:]...) }

// Decode reads the canonical form and refuses every other.
func (k *Prekey) Decode(b []byte) error {
	d := wire.Decode(b, maxPrekey)
	d.Fill(k.Account[:])
	d.Fill(k.Device[:])
	k.ID = d.Uint()
	k.Public = append([]byte(nil), d.Bytes(publicSize)...)
	d.Fill(k.Sig[:])
	return d.End()
}

// Sign signs as the device.
func (k *Prekey) Sign(chain top.ChainID, s keys.Signer) (err error) {
	k.Sig, err = s.Sign(prekeyDomain, chain, k.body())
	return err
}

// Verify checks the device's signature; that the device is the account's, its
// certificate says.
func (k Prekey) Verify(chain top.ChainID) error {
	if !keys.Verify(k.Device, prekeyDomain, chain, k.body(), k.Sig) {
		return fmt.Errorf("prekey %d of %s: not signed by its device: %w", k.ID, k.Account, top.ErrDenied)
	}
	return nil
}
