package envelope

import (
	"encoding/binary"
	"errors"
	"fmt"

	"top/lib/keys"
	"top/lib/top"
	"top/lib/wire"
)

const (
	bundleDomain = "top/bundle/1"
	bodyDomain   = "top/bundle/payloads/1"
)

// A Sealed is what was sealed: the bytes, their name, and the key under which
// headers are made for them.
type Sealed struct {
	ID    top.ID
	Bytes []byte
	Key   [32]byte
}

// Seal seals payloads to the devices of one account, signed once by ours. sent is
// in unix milliseconds. Every conversation takes a step: it must be on disk before
// the bytes leave.
func Seal(chain top.ChainID, device keys.Private, cert keys.Certificate, to []*Outgoing, sent uint64, payloads [][]byte) (s Sealed, err error) {
	if len(to) == 0 || len(to) > MaxDevices || len(payloads) == 0 || len(payloads) > MaxPayloads {
		return s, fmt.Errorf("seal %d payloads to %d devices: %w", len(payloads), len(to), top.ErrInvalid)
	}
	draw(s.ID[:])
	draw(s.Key[:])
	var e wire.Encoder
	e.Byte(kindBundle)
	e.Raw(s.ID[:])
	e.Uint(uint64(len(to)))
	for _, o := range to {
		if o.Account != to[0].Account {
			return s, fmt.Errorf("seal to %s and %s at once: %w", to[0].Account, o.Account, top.ErrInvalid)
		}
		index, key := o.step()
		e.Raw(o.ID[:])
		e.Uint(uint64(index))
		e.Bytes(o.opening)
		e.Raw(gcm(key).Seal(nil, zeroNonce(), s.Key[:], s.ID[:]))
	}
	head := e.Out()
	text, err := bundleText(chain, device, cert, s.ID, to[0].Account, sent, payloads)
	if err != nil {
		return s, err
	}
	size := class(len(head) + len(text) + tagSize)
	if size > MaxSealed {
		return s, fmt.Errorf("seal %d bytes: at most %d fit: %w", len(text), MaxPayload, top.ErrInvalid)
	}
	b := make([]byte, size)
	n := copy(b, head)
	copy(b[n:], text)
	s.Bytes = gcm(s.Key[:]).Seal(b[:n], zeroNonce(), b[n:size-tagSize], s.ID[:])
	return s, nil
}

// bundleText is what a bundle says: who, when, what, and the signature over it.
func bundleText(chain top.ChainID, device keys.Private, cert keys.Certificate, id top.ID, to top.Address, sent uint64, payloads [][]byte) ([]byte, error) {
	var e wire.Encoder
	e.Bytes(cert.Encode())
	start := len(e.Out())
	e.Uint(sent)
	e.Uint(uint64(len(payloads)))
	for _, p := range payloads {
		e.Bytes(p)
	}
	sig, err := device.Signer().Sign(bundleDomain, chain, signed(id, to, e.Out()[start:]))
	if err != nil {
		return nil, err
	}
	e.Raw(sig[:])
	return e.Out(), nil
}

func signed(id top.ID, to top.Address, said []byte) []byte {
	digest := wire.Digest(bodyDomain, said)
	return append(append(id[:], to[:]...), digest[:]...)
}

// A Receiver is a device that opens bundles, and what it keeps.
type Receiver struct {
	Chain        top.ChainID
	Account      top.Address
	Device       keys.Private
	Conversation func(id [16]byte) (*Incoming, bool)
	Prekey       func(id uint64) (Secret, bool)
}

// An Opened is what was in a bundle, and what must be on disk before it is
// believed.
type Opened struct {
	ID           top.ID
	From         keys.Certificate
	Sent         uint64 // unix milliseconds
	Payloads     [][]byte
	Key          [32]byte
	Conversation *Incoming // as it is now
	Opening      bool      // it was opened by this bundle, by a prekey
	Prekey       uint64    // which is used up, unless it is 0
}

// Open opens a bundle at a time in unix seconds. One that has no slot for this
// device is top.ErrNotFound, one that is forged or was opened before
// top.ErrDenied.
func Open(now uint64, sealed []byte, me Receiver) (o Opened, err error) {
	d := wire.Decode(sealed, MaxSealed)
	if k := d.Byte(); d.Err() == nil && k != kindBundle {
		return o, fmt.Errorf("a sealed part of kind %d: %w", k, top.ErrInvalid)
	}
	o.ID = d.ID()
	missing := fmt.Errorf("bundle %s: %w", o.ID.Short(), top.ErrNotFound)
	err = missing
	for range d.Count(MaxDevices, 66) {
		var id [16]byte
		d.Fill(id[:])
		index, opening := d.Uint32(), d.Bytes(maxOpening)
		wrapped := d.Raw(32 + tagSize)
		if d.Err() == nil && errors.Is(err, top.ErrNotFound) {
			err = o.unwrap(me, id, index, opening, wrapped)
		}
	}
	if e := d.Err(); e != nil {
		return o, e
	}
	if err != nil {
		return o, err
	}
	text, err := gcm(o.Key[:]).Open(nil, zeroNonce(), d.Rest(), o.ID[:])
	if err != nil {
		return o, fmt.Errorf("bundle %s: it was changed: %w", o.ID.Short(), top.ErrDenied)
	}
	return o, o.read(now, me, text)
}

// unwrap takes the bundle's key out of a slot, if it is ours.
func (o *Opened) unwrap(me Receiver, id [16]byte, index uint32, opening, wrapped []byte) error {
	c, known := me.Conversation(id)
	if !known {
		if len(opening) == 0 {
			return top.ErrNotFound
		}
		var err error
		if c, o.Prekey, err = accept(me, id, opening); err != nil {
			return fmt.Errorf("bundle %s: %w", o.ID.Short(), notOurs(err))
		}
		o.Opening = true
	}
	key, err := c.key(index)
	if err != nil {
		return err
	}
	k, err := gcm(key).Open(nil, zeroNonce(), wrapped, o.ID[:])
	if err != nil {
		return fmt.Errorf("bundle %s: its key was changed: %w", o.ID.Short(), top.ErrDenied)
	}
	o.Conversation = c
	copy(o.Key[:], k)
	return nil
}

// notOurs makes of an opening that this device cannot open one that is for
// another.
func notOurs(err error) error {
	if errors.Is(err, top.ErrDenied) {
		return fmt.Errorf("%v: %w", err, top.ErrNotFound)
	}
	return err
}

// read checks who speaks and what was said (E5).
func (o *Opened) read(now uint64, me Receiver, text []byte) error {
	d := wire.Decode(text, MaxSealed)
	cert := d.Bytes(keys.MaxCertificate)
	start := len(text) - d.Len()
	o.Sent = d.Uint()
	for range d.Count(MaxPayloads, 1) {
		o.Payloads = append(o.Payloads, d.Bytes(MaxSealed))
	}
	end := len(text) - d.Len()
	var sig [64]byte
	d.Fill(sig[:])
	for _, b := range d.Rest() {
		if b != 0 {
			d.Fail("padding that is not zero")
			break
		}
	}
	if err := d.Err(); err != nil {
		return err
	}
	if err := o.From.Decode(cert); err != nil {
		return err
	}
	if o.From != o.Conversation.From {
		return fmt.Errorf("bundle %s: another device than that which opened the conversation: %w", o.ID.Short(), top.ErrDenied)
	}
	if err := o.From.Verify(me.Chain, deviceRole, now); err != nil {
		return err
	}
	if !keys.Verify(o.From.Key, bundleDomain, me.Chain, signed(o.ID, me.Account, text[start:end]), sig) {
		return fmt.Errorf("bundle %s: not signed by the device that it names: %w", o.ID.Short(), top.ErrDenied)
	}
	return nil
}

// IsChunk says whether a sealed part is a chunk of a file, and of which.
func IsChunk(sealed []byte) (file [16]byte, index uint32, ok bool) {
	if len(sealed) < prelude+tagSize || sealed[0] != kindChunk {
		return file, 0, false
	}
	copy(file[:], sealed[1:])
	return file, binary.BigEndian.Uint32(sealed[17:]), true
}

// chunkKeys are the name of a chunk and the key that seals it.
func chunkKeys(key [32]byte, index uint32) (id top.ID, k [32]byte) {
	at := string(binary.BigEndian.AppendUint32(nil, index))
	copy(id[:], derive(key[:], "top/chunk/id/1"+at))
	copy(k[:], derive(key[:], "top/chunk/key/1"+at))
	return id, k
}

// SealChunk seals a part of a file, at most ChunkData bytes, under the file's key.
// The same part sealed again is the same chunk.
func SealChunk(key [32]byte, file [16]byte, index uint32, data []byte) (s Sealed) {
	s.ID, s.Key = chunkKeys(key, index)
	size := class(prelude + 4 + len(data) + tagSize)
	b := make([]byte, size)
	b[0] = kindChunk
	copy(b[1:], file[:])
	binary.BigEndian.PutUint32(b[17:], index)
	binary.BigEndian.PutUint32(b[prelude:], uint32(len(data)))
	copy(b[prelude+4:], data)
	s.Bytes = gcm(s.Key[:]).Seal(b[:prelude], zeroNonce(), b[prelude:size-tagSize], b[:prelude])
	return s
}

// OpenChunk opens a chunk in place: it overwrites sealed, and the data is a part
// of it.
func OpenChunk(key [32]byte, sealed []byte) (data []byte, id top.ID, k [32]byte, err error) {
	_, index, ok := IsChunk(sealed)
	if !ok || len(sealed) > MaxSealed || len(sealed) != class(len(sealed)) {
		return nil, id, k, fmt.Errorf("a chunk of %d bytes: %w", len(sealed), top.ErrInvalid)
	}
	id, k = chunkKeys(key, index)
	text, err := gcm(k[:]).Open(sealed[prelude:prelude], zeroNonce(), sealed[prelude:], sealed[:prelude])
	if err != nil {
		return nil, id, k, fmt.Errorf("chunk %d: it was changed, or is of another file: %w", index, top.ErrDenied)
	}
	n := binary.BigEndian.Uint32(text)
	if int64(n) > int64(len(text)-4) {
		return nil, id, k, fmt.Errorf("chunk %d: %d bytes in %d: %w", index, n, len(text), top.ErrInvalid)
	}
	return text[4 : 4+n], id, k, nil
}

// ChunkOf is the name, the key and the sealed length of a chunk of a file of so
// many bytes, without sealing it.
func ChunkOf(key [32]byte, index uint32, size uint64) (id top.ID, k [32]byte, sealed int) {
	id, k = chunkKeys(key, index)
	left := size - min(size, uint64(index)*ChunkData)
	return id, k, class(prelude + 4 + int(min(left, ChunkData)) + tagSize)
}
