// Package top holds the names that every room uses: amounts, heights,
// addresses, identifiers and the one vocabulary of error kinds.
//
// It is not for behaviour: nothing here does input or output, reads a clock or
// draws randomness, and it imports nothing of ours.
//
//	T1  an amount never wraps: every sum, difference and product is checked
//	T2  every value has one text form in a record, and parsing refuses every
//	    other; people may also write an amount with zeros to spare, and an
//	    instant in any form of RFC 3339
//	T3  every kind has one exit code and one HTTP status
package top

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Contract is the version of the composition contract (docs/contract.md) that
// this tree speaks.
const Contract = 1

// Version is the release, stamped by the linker (-X top/lib/top.Version=…).
var Version = "dev"

// Height is the number of a block; the first block is 1.
type Height uint64

// String is the decimal form.
func (h Height) String() string { return strconv.FormatUint(uint64(h), 10) }

// MarshalText makes a Height a decimal string in records.
func (h Height) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText parses the decimal form.
func (h *Height) UnmarshalText(b []byte) error {
	n, err := parseCount(string(b))
	*h = Height(n)
	return err
}

// Count is a 64-bit count in a record: a decimal string, since a JSON number
// loses digits past 2^53.
type Count uint64

// String is the decimal form.
func (c Count) String() string { return strconv.FormatUint(uint64(c), 10) }

// MarshalText makes a Count a decimal string in records.
func (c Count) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText parses the decimal form.
func (c *Count) UnmarshalText(b []byte) error {
	n, err := parseCount(string(b))
	*c = Count(n)
	return err
}

func parseCount(s string) (uint64, error) {
	if s == "" || (len(s) > 1 && s[0] == '0') || s[0] == '+' {
		return 0, fmt.Errorf("number %q: not a plain decimal: %w", s, ErrInvalid)
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("number %q: not a 64-bit count: %w", s, ErrInvalid)
	}
	return n, nil
}

// Time is an instant in a record: RFC 3339, UTC, milliseconds, in the years 0 to
// 9999, which are all that RFC 3339 can write. An instant outside them, as a
// stranger may put into a channel's expiry, becomes the nearest within.
type Time struct{ time.Time }

const timeForm = "2006-01-02T15:04:05.000Z"

// The first and the last instant of a record, in milliseconds since 1970.
const firstMs, lastMs = -62_167_219_200_000, 253_402_300_799_999

// TimeOf cuts t to the resolution of records.
func TimeOf(t time.Time) Time {
	switch y := t.UTC().Year(); {
	case y < 0:
		return UnixMilli(firstMs)
	case y > 9999:
		return UnixMilli(lastMs)
	}
	return Time{t.UTC().Truncate(time.Millisecond)}
}

// UnixMilli is the Time of a count of milliseconds since 1970.
func UnixMilli(ms int64) Time {
	return Time{time.UnixMilli(max(firstMs, min(ms, lastMs))).UTC()}
}

// String is the RFC 3339 form.
func (t Time) String() string { return TimeOf(t.Time).Format(timeForm) }

// MarshalText writes the RFC 3339 form.
func (t Time) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads any RFC 3339 instant.
func (t *Time) UnmarshalText(b []byte) error {
	v, err := time.Parse(time.RFC3339Nano, string(b))
	if err != nil {
		return fmt.Errorf("time %q: not RFC 3339: %w", b, ErrInvalid)
	}
	*t = TimeOf(v)
	return nil
}

// MarshalJSON writes the RFC 3339 form.
func (t Time) MarshalJSON() ([]byte, error) { return []byte(`"` + t.String() + `"`), nil }

// UnmarshalJSON reads any RFC 3339 instant.
func (t *Time) UnmarshalJSON(b []byte) error {
	s, ok := strings.CutPrefix(string(b), `"`)
	s, end := strings.CutSuffix(s, `"`)
	if !ok || !end {
		return fmt.Errorf("time %s: want a string: %w", b, ErrInvalid)
	}
	return t.UnmarshalText([]byte(s))
}

// ID names a channel, a transaction, a root or a digest by its 32 bytes of
// SHA-256. Its text form is 64 lower-case hex digits: unlike base64url it never
// begins with a dash, so it can stand as an operand.
type ID [32]byte

// ParseID reads the text form.
func ParseID(s string) (ID, error) {
	var id ID
	err := parseHex(id[:], s, "id")
	return id, err
}

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Short is the first eight digits, for people.
func (id ID) Short() string { return hex.EncodeToString(id[:4]) }

// IsZero says whether the ID was never set.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText writes the text form.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads the text form.
func (id *ID) UnmarshalText(b []byte) error { return parseHex(id[:], string(b), "id") }

// SessionID names a session within its channel: 16 random bytes, 32 hex digits.
type SessionID [16]byte

// ParseSessionID reads the text form.
func ParseSessionID(s string) (SessionID, error) {
	var id SessionID
	err := parseHex(id[:], s, "session")
	return id, err
}

func (id SessionID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText writes the text form.
func (id SessionID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads the text form.
func (id *SessionID) UnmarshalText(b []byte) error { return parseHex(id[:], string(b), "session") }

// ChainID names a chain by 8 random bytes drawn when it was made. Its text form
// is "top-" and 16 hex digits.
type ChainID [8]byte

const chainPrefix = "top-"

// ParseChainID reads the text form.
func ParseChainID(s string) (ChainID, error) {
	var id ChainID
	rest, ok := strings.CutPrefix(s, chainPrefix)
	if !ok {
		return id, fmt.Errorf("chain id %q: does not begin with %q: %w", s, chainPrefix, ErrInvalid)
	}
	err := parseHex(id[:], rest, "chain id")
	return id, err
}

func (id ChainID) String() string { return chainPrefix + hex.EncodeToString(id[:]) }

// MarshalText writes the text form.
func (id ChainID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads the text form.
func (id *ChainID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseChainID(string(b))
	return err
}

// parseHex leaves dst as it is when it refuses s.
func parseHex(dst []byte, s, what string) error {
	if len(s) != 2*len(dst) || strings.ToLower(s) != s {
		return fmt.Errorf("%s %q: want %d lower-case hex digits: %w", what, s, 2*len(dst), ErrInvalid)
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		return fmt.Errorf("%s %q: want lower-case hex digits: %w", what, s, ErrInvalid)
	}
	copy(dst, b)
	return nil
}
