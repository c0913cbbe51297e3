package envelope

import (
	"crypto/hpke"
	"fmt"
	"io"
	"slices"

	"top/lib/keys"
	"top/lib/top"
	"top/lib/wire"
)

// Bounds of a conversation.
const (
	maxSkip       = 512 // indexes that a message may be ahead, and keys that are kept for those between
	openingDomain = "top/opening/1"
	chainLabel    = "top/conversation/1"
)

// A Secret is the private half of a prekey. It prints as "[secret]".
type Secret []byte

// Format hides the key from every verb.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, "[secret]") }

// NewSecret draws the private half of a prekey, and gives the public one.
func NewSecret() (Secret, []byte, error) {
	k, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return nil, nil, fmt.Errorf("draw a prekey: %w", err)
	}
	b, err := k.Bytes()
	if err != nil {
		return nil, nil, fmt.Errorf("draw a prekey: %w", err)
	}
	return b, k.PublicKey().Bytes(), nil
}

// An Outgoing is the sender's end of a conversation. It goes to disk after every
// Seal, before the sealed bytes leave: a key never seals twice.
type Outgoing struct {
	ID      [16]byte
	Account top.Address // the recipient
	Device  [32]byte    // of the recipient
	Next    uint32      // index of the next message
	chain   [32]byte
	opening []byte // rides with every message until the recipient is known to have one
}

// Begin opens a conversation to the device of a prekey, which was verified.
func Begin(chain top.ChainID, device keys.Private, cert keys.Certificate, to Prekey) (*Outgoing, error) {
	pub, err := hpke.MLKEM768X25519().NewPublicKey(to.Public)
	if err != nil {
		return nil, fmt.Errorf("prekey %d of %s: %v: %w", to.ID, to.Account, err, top.ErrInvalid)
	}
	o := &Outgoing{Account: to.Account, Device: to.Device}
	draw(o.ID[:])
	enc, s, err := hpke.NewSender(pub, hpke.HKDFSHA256(), hpke.AES256GCM(), openingInfo(o.ID, to.Account, to.Device, to.ID))
	if err != nil {
		return nil, fmt.Errorf("open a conversation with %s: %w", to.Account, err)
	}
	sig, err := device.Signer().Sign(openingDomain, chain, slices.Concat(openingInfo(o.ID, to.Account, to.Device, to.ID), enc))
	if err != nil {
		return nil, err
	}
	sealed, err := s.Seal(nil, append(cert.Encode(), sig[:]...))
	if err != nil {
		return nil, fmt.Errorf("open a conversation with %s: %w", to.Account, err)
	}
	root, err := s.Export(chainLabel, 32)
	if err != nil {
		return nil, fmt.Errorf("open a conversation with %s: %w", to.Account, err)
	}
	copy(o.chain[:], root)
	var e wire.Encoder
	e.Uint(to.ID)
	e.Bytes(enc)
	e.Bytes(sealed)
	o.opening = e.Out()
	return o, nil
}

func openingInfo(id [16]byte, account top.Address, device [32]byte, prekey uint64) []byte {
	var e wire.Encoder
	e.Raw(id[:])
	e.Raw(account[:])
	e.Raw(device[:])
	e.Uint(prekey)
	return e.Out()
}

// Established says that the recipient has a message of the conversation: the
// opening need not ride any more.
func (o *Outgoing) Established() { o.opening = nil }

// IsEstablished says whether Established was called.
func (o *Outgoing) IsEstablished() bool { return o.opening == nil }

// step gives the key of the next message and forgets it.
func (o *Outgoing) step() (index uint32, key []byte) {
	key, next := ratchet(o.chain[:])
	copy(o.chain[:], next)
	o.Next++
	return o.Next - 1, key
}

// ratchet is a message's key and the chain after it; neither gives the chain back.
func ratchet(chain []byte) (key, next []byte) { return derive(chain, "\x01"), derive(chain, "\x02") }

// Encode is the conversation as it is kept.
func (o *Outgoing) Encode() []byte {
	var e wire.Encoder
	e.Raw(o.ID[:])
	e.Raw(o.Account[:])
	e.Raw(o.Device[:])
	e.Uint(uint64(o.Next))
	e.Raw(o.chain[:])
	e.Bytes(o.opening)
	return e.Out()
}

// Decode reads what Encode wrote.
func (o *Outgoing) Decode(b []byte) error {
	d := wire.Decode(b, 4096)
	d.Fill(o.ID[:])
	d.Fill(o.Account[:])
	d.Fill(o.Device[:])
	o.Next = d.Uint32()
	d.Fill(o.chain[:])
	if o.opening = append([]byte(nil), d.Bytes(maxOpening)...); len(o.opening) == 0 {
		o.opening = nil
	}
	return d.End()
}

// An Incoming is the recipient's end of a conversation.
type Incoming struct {
	ID      [16]byte
	From    keys.Certificate
	next    uint32
	chain   [32]byte
	skipped []skipped // keys of messages that did not come yet, oldest first
}

type skipped struct {
	index uint32
	key   [32]byte
}

// accept opens a conversation by what rides with its first messages.
func accept(me Receiver, id [16]byte, opening []byte) (*Incoming, uint64, error) {
	d := wire.Decode(opening, maxOpening)
	prekey, enc, sealed := d.Uint(), d.Bytes(2048), d.Bytes(1024)
	if err := d.End(); err != nil {
		return nil, 0, err
	}
	secret, ok := me.Prekey(prekey)
	if !ok {
		return nil, 0, fmt.Errorf("conversation opened to prekey %d, which is used or was never ours: %w", prekey, top.ErrDenied)
	}
	k, err := hpke.MLKEM768X25519().NewPrivateKey(secret)
	if err != nil {
		return nil, 0, fmt.Errorf("prekey %d: %v: %w", prekey, err, top.ErrInvalid)
	}
	info := openingInfo(id, me.Account, me.Device.Public(), prekey)
	r, err := hpke.NewRecipient(enc, k, hpke.HKDFSHA256(), hpke.AES256GCM(), info)
	if err != nil {
		return nil, 0, fmt.Errorf("conversation: %v: %w", err, top.ErrDenied)
	}
	text, err := r.Open(nil, sealed)
	if err != nil || len(text) < 64 {
		return nil, 0, fmt.Errorf("conversation: not sealed to this device: %w", top.ErrDenied)
	}
	c := &Incoming{ID: id}
	if err := c.From.Decode(text[:len(text)-64]); err != nil {
		return nil, 0, err
	}
	if !keys.Verify(c.From.Key, openingDomain, me.Chain, slices.Concat(info, enc), [64]byte(text[len(text)-64:])) {
		return nil, 0, fmt.Errorf("conversation: not signed by the device that it names: %w", top.ErrDenied)
	}
	root, err := r.Export(chainLabel, 32)
	if err != nil {
		return nil, 0, fmt.Errorf("conversation: %w", err)
	}
	copy(c.chain[:], root)
	return c, prekey, nil
}

// key takes the key of a message: it is gone afterwards (E3, E6).
func (c *Incoming) key(index uint32) ([]byte, error) {
	if index < c.next {
		for i, s := range c.skipped {
			if s.index == index {
				c.skipped = slices.Delete(slices.Clone(c.skipped), i, i+1)
				return s.key[:], nil
			}
		}
		return nil, fmt.Errorf("message %d of a conversation: it was opened before: %w", index, top.ErrDenied)
	}
	if index-c.next > maxSkip {
		return nil, fmt.Errorf("message %d of a conversation: %d are missing before it: %w", index, index-c.next, top.ErrDenied)
	}
	for {
		key, next := ratchet(c.chain[:])
		copy(c.chain[:], next)
		c.next++
		if c.next-1 == index {
			return key, nil
		}
		c.skipped = append(c.skipped, skipped{c.next - 1, [32]byte(key)})
		if len(c.skipped) > maxSkip {
			c.skipped = c.skipped[1:]
		}
	}
}

// Encode is the conversation as it is kept.
func (c *Incoming) Encode() []byte {
	var e wire.Encoder
	e.Raw(c.ID[:])
	e.Bytes(c.From.Encode())
	e.Uint(uint64(c.next))
	e.Raw(c.chain[:])
	e.Uint(uint64(len(c.skipped)))
	for _, s := range c.skipped {
		e.Uint(uint64(s.index))
		e.Raw(s.key[:])
	}
	return e.Out()
}

// Decode reads what Encode wrote.
func (c *Incoming) Decode(b []byte) error {
	d := wire.Decode(b, 1024+maxSkip*40)
	d.Fill(c.ID[:])
	cert := d.Bytes(keys.MaxCertificate)
	c.next = d.Uint32()
	d.Fill(c.chain[:])
	c.skipped = nil
	for range d.Count(maxSkip, 33) {
		s := skipped{index: d.Uint32()}
		d.Fill(s.key[:])
		c.skipped = append(c.skipped, s)
	}
	if err := d.End(); err != nil {
		return err
	}
	return c.From.Decode(cert)
}
