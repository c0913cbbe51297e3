// Package api is the types on every socket and pipe, one file for each daemon,
// and the typed clients that speak them.
//
// It is the contract between processes, so it holds no behaviour: a type here
// changes only by gaining fields (docs/contract.md). Proofs travel as bytes;
// lib/ledger decodes and checks them.
package api

import "encoding/base64"

// Bytes are base64url without padding in records.
type Bytes []byte

// MarshalText writes base64url without padding.
func (b Bytes) MarshalText() ([]byte, error) {
	return base64.RawURLEncoding.AppendEncode(nil, b), nil
}

// UnmarshalText reads base64url without padding.
func (b *Bytes) UnmarshalText(text []byte) error {
	v, err := base64.RawURLEncoding.Strict().AppendDecode(nil, text)
	*b = v
	return err
}
