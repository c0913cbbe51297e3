// Package wire is the canonical form of every value that is hashed, signed or
// received from a stranger. One value has one encoding; a decoder refuses every
// other.
//
// It is not for local streams between our own tools: those are NDJSON (lib/pipe).
//
//	W1  decode(encode(v)) is v, and encode(decode(b)) is b for every b accepted
//	W2  a decoder reads no more than its limit and allocates no more than the
//	    input is long
//	W3  nothing is left over: bytes after the value are refused
//	W4  bytes signed for one purpose or chain never verify for another: every
//	    signature covers a domain string and the chain id
//
// The formats are in docs/wire.md, with the vectors that the tests read.
package wire

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"top/lib/top"
)

// Encoder appends values to a buffer. The zero value is ready.
type Encoder struct{ b []byte }

// To makes an Encoder that appends to b.
func To(b []byte) *Encoder { return &Encoder{b} }

// Out is what was encoded so far; the Encoder keeps ownership.
func (e *Encoder) Out() []byte { return e.b }

// Byte appends one byte.
func (e *Encoder) Byte(v byte) { e.b = append(e.b, v) }

// Bool appends 0 or 1.
func (e *Encoder) Bool(v bool) {
	if v {
		e.b = append(e.b, 1)
	} else {
		e.b = append(e.b, 0)
	}
}

// Uint appends v as the shortest base-128 varint, low group first (LEB128).
func (e *Encoder) Uint(v uint64) { e.b = binary.AppendUvarint(e.b, v) }

// Uint64 appends v as 8 bytes, big-endian.
func (e *Encoder) Uint64(v uint64) { e.b = binary.BigEndian.AppendUint64(e.b, v) }

// Amount appends an amount as a varint of nano.
func (e *Encoder) Amount(v top.Amount) { e.Uint(uint64(v)) }

// Raw appends bytes whose number the format fixes.
func (e *Encoder) Raw(v []byte) { e.b = append(e.b, v...) }

// Bytes appends a varint length and the bytes.
func (e *Encoder) Bytes(v []byte) {
	e.Uint(uint64(len(v)))
	e.b = append(e.b, v...)
}

// String appends a varint length and the bytes of s.
func (e *Encoder) String(s string) {
	e.Uint(uint64(len(s)))
	e.b = append(e.b, s...)
}

// Decoder reads values from a buffer. After the first error every further read
// gives a zero value, and End gives that error: a caller checks once.
type Decoder struct {
	b   []byte
	err error
}

// Decode begins to read b, which may be at most limit bytes long. Slices it
// returns share b's memory.
func Decode(b []byte, limit int) *Decoder {
	d := &Decoder{b: b}
	if len(b) > limit {
		d.Fail("%d bytes, limit %d", len(b), limit)
	}
	return d
}

// Fail records the reason why the input is not valid, unless one is recorded.
// The error is of kind Invalid.
func (d *Decoder) Fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("decode: %s: %w", fmt.Sprintf(format, args...), top.ErrInvalid)
	}
	d.b = nil
}

// Err is the first error so far.
func (d *Decoder) Err() error { return d.err }

// Len is the number of bytes not read yet.
func (d *Decoder) Len() int { return len(d.b) }

// Rest is the bytes not read yet.
func (d *Decoder) Rest() []byte { return d.b }

// End is the first error, or an error when bytes are left over.
func (d *Decoder) End() error {
	if d.err == nil && len(d.b) > 0 {
		d.Fail("%d bytes left over", len(d.b))
	}
	return d.err
}

// Raw reads n bytes.
func (d *Decoder) Raw(n int) []byte {
	if d.err != nil || n < 0 || n > len(d.b) {
		d.Fail("short: want %d bytes, have %d", n, len(d.b))
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

// Fill reads len(dst) bytes into dst, or zeros it after an error.
func (d *Decoder) Fill(dst []byte) {
	v := d.Raw(len(dst))
	copy(dst, v)
	clear(dst[len(v):])
}

// Byte reads one byte.
func (d *Decoder) Byte() byte {
	if v := d.Raw(1); v != nil {
		return v[0]
	}
	return 0
}

// Bool reads 0 or 1.
func (d *Decoder) Bool() bool {
	v := d.Byte()
	if v > 1 {
		d.Fail("bool %d", v)
	}
	return v == 1
}

// Uint reads a varint and refuses one that is not the shortest.
func (d *Decoder) Uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if d.err != nil || n <= 0 {
		d.Fail("varint: short or above 64 bits")
		return 0
	}
	if n > 1 && d.b[n-1] == 0 {
		d.Fail("varint: not the shortest")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// Uint32 reads a varint that fits 32 bits.
func (d *Decoder) Uint32() uint32 {
	v := d.Uint()
	if v > 1<<32-1 {
		d.Fail("varint %d: above 32 bits", v)
		return 0
	}
	return uint32(v)
}

// Uint64 reads 8 bytes, big-endian.
func (d *Decoder) Uint64() uint64 {
	if v := d.Raw(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// Amount reads a varint of nano and refuses more than there can ever be.
func (d *Decoder) Amount() top.Amount {
	v := top.Amount(d.Uint())
	if v > top.MaxSupply {
		d.Fail("amount %d: above the largest supply", uint64(v))
		return 0
	}
	return v
}

// ID reads 32 bytes.
func (d *Decoder) ID() (id top.ID) {
	d.Fill(id[:])
	return id
}

// Bytes reads a length and that many bytes, at most limit.
func (d *Decoder) Bytes(limit int) []byte {
	n := d.Uint()
	if n > uint64(limit) {
		d.Fail("%d bytes, limit %d", n, limit)
		return nil
	}
	return d.Raw(int(n))
}

// String reads a length and that many bytes, at most limit.
func (d *Decoder) String(limit int) string { return string(d.Bytes(limit)) }

// Count reads the number of elements of a list, at most limit, each at least
// size bytes long: a count that the rest of the input cannot hold is refused
// before anything is allocated (W2).
func (d *Decoder) Count(limit, size int) int {
	n := d.Uint()
	if n > uint64(limit) || size > 0 && n > uint64(len(d.b)/size) {
		d.Fail("count %d: limit %d, or short", n, limit)
		return 0
	}
	return int(n)
}

// Preimage is what a signature covers: domain, a zero byte, the chain id, the
// body (W4). A domain names the room and the version, as in "top/ticket/1".
func Preimage(domain string, chain top.ChainID, body []byte) []byte {
	p := make([]byte, 0, len(domain)+1+len(chain)+len(body))
	p = append(p, domain...)
	p = append(p, 0)
	p = append(p, chain[:]...)
	return append(p, body...)
}

// Digest is SHA-256 over domain, a zero byte and the parts in order. The parts
// must be of fixed length or self-delimiting, so that no two lists of parts
// join to the same bytes.
func Digest(domain string, parts ...[]byte) (id top.ID) {
	h := sha256.New()
	h.Write([]byte(domain))
	h.Write([]byte{0})
	for _, p := range parts {
		h.Write(p)
	}
	h.Sum(id[:0])
	return id
}
