package carry

import (
	"encoding/binary"
	"fmt"

	"top/lib/top"
)

// A parcel is what travels at once: a QUIC datagram, or a TLS record. It is a row
// of frames, each two bytes of length and the bytes; a length with the highest bit
// is of filler (docs/wire.md, "Hidden carriage").
const (
	frameHead  = 2
	filler     = 1 << 15
	maxFrame   = filler - 1
	recordSize = 16 << 10 // of a TLS record (RFC 8446, section 5.1)
)

// classes are the sizes that a padded parcel shows (HC8): in the first is all of
// WireGuard's handshake, and a TCP acknowledgement.
var classes = [...]int{256, 512, 1024 + 8}

// appendFrame adds a datagram of at most maxFrame bytes.
func appendFrame(parcel, datagram []byte) []byte {
	parcel = binary.BigEndian.AppendUint16(parcel, uint16(len(datagram)))
	return append(parcel, datagram...)
}

// pad fills a parcel up to the next class, or to limit if that is nearer. What is
// over the last class stays as it is.
func pad(parcel []byte, limit int) []byte {
	for _, class := range classes {
		class = min(class, limit)
		if len(parcel) > class {
			continue
		}
		// One byte of room holds no filler: the class after it is taken.
		if n := class - len(parcel); n >= frameHead {
			parcel = binary.BigEndian.AppendUint16(parcel, uint16(filler|(n-frameHead)))
			return append(parcel, make([]byte, n-frameHead)...)
		} else if n == 0 {
			return parcel
		}
	}
	return parcel
}

// nextFrame cuts the first frame off a row: nil is filler. What is cut short is
// top.ErrInvalid.
func nextFrame(row []byte) (datagram, rest []byte, err error) {
	if len(row) < frameHead {
		return nil, nil, fmt.Errorf("frame of %d bytes: %w", len(row), top.ErrInvalid)
	}
	head := int(binary.BigEndian.Uint16(row))
	n := head & maxFrame
	if row = row[frameHead:]; len(row) < n {
		return nil, nil, fmt.Errorf("frame of %d bytes in %d: %w", n, len(row), top.ErrInvalid)
	}
	if head&filler != 0 {
		return nil, row[n:], nil
	}
	return row[:n:n], row[n:], nil
}
