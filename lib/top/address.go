package top

import (
	"fmt"
	"strings"
)

// Address is an account: an ed25519 public key, written as bech32m "top1…".
type Address [32]byte

// NodeID is a node: the ed25519 public key with which it signs claims and
// countersigns tickets, written as bech32m "topnode1…". It cannot spend.
type NodeID [32]byte

// ValidatorID is a validator: the ed25519 public key with which it votes on
// blocks, written as bech32m "topval1…".
type ValidatorID [32]byte

const (
	addressPrefix   = "top"
	nodePrefix      = "topnode"
	validatorPrefix = "topval"
)

// ParseAddress reads "top1…" and refuses a wrong checksum, prefix or length.
func ParseAddress(s string) (a Address, err error) {
	err = parseBech32m(a[:], addressPrefix, s)
	return a, err
}

func (a Address) String() string { return bech32m(addressPrefix, a[:]) }

// IsZero says whether the Address was never set.
func (a Address) IsZero() bool { return a == Address{} }

// MarshalText writes "top1…".
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads "top1…".
func (a *Address) UnmarshalText(b []byte) error {
	return parseBech32m(a[:], addressPrefix, string(b))
}

// ParseNodeID reads "topnode1…".
func ParseNodeID(s string) (n NodeID, err error) {
	err = parseBech32m(n[:], nodePrefix, s)
	return n, err
}

func (n NodeID) String() string { return bech32m(nodePrefix, n[:]) }

// IsZero says whether the NodeID was never set.
func (n NodeID) IsZero() bool { return n == NodeID{} }

// MarshalText writes "topnode1…".
func (n NodeID) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads "topnode1…".
func (n *NodeID) UnmarshalText(b []byte) error {
	return parseBech32m(n[:], nodePrefix, string(b))
}

// ParseValidatorID reads "topval1…".
func ParseValidatorID(s string) (v ValidatorID, err error) {
	err = parseBech32m(v[:], validatorPrefix, s)
	return v, err
}

func (v ValidatorID) String() string { return bech32m(validatorPrefix, v[:]) }

// IsZero says whether the ValidatorID was never set.
func (v ValidatorID) IsZero() bool { return v == ValidatorID{} }

// MarshalText writes "topval1…".
func (v ValidatorID) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads "topval1…".
func (v *ValidatorID) UnmarshalText(b []byte) error {
	return parseBech32m(v[:], validatorPrefix, string(b))
}

// Bech32m is BIP-350, for a payload of whole bytes.
const (
	bech32mConst   = 0x2bc830a3
	bech32Alphabet = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
)

func bech32m(prefix string, data []byte) string {
	groups := make([]byte, 0, len(data)*8/5+7)
	var acc, bits uint
	for _, b := range data {
		acc, bits = acc<<8|uint(b), bits+8
		for ; bits >= 5; bits -= 5 {
			groups = append(groups, byte(acc>>(bits-5))&31)
		}
	}
	if bits > 0 {
		groups = append(groups, byte(acc<<(5-bits))&31)
	}
	sum := bech32Polymod(prefix, append(groups, 0, 0, 0, 0, 0, 0)) ^ bech32mConst
	for i := range 6 {
		groups = append(groups, byte(sum>>(5*(5-i)))&31)
	}
	var s strings.Builder
	s.WriteString(prefix + "1")
	for _, g := range groups {
		s.WriteByte(bech32Alphabet[g])
	}
	return s.String()
}

// parseBech32m leaves dst as it is when it refuses s.
func parseBech32m(dst []byte, prefix, s string) error {
	bad := func(why string) error {
		return fmt.Errorf("address %q: %s: %w", s, why, ErrInvalid)
	}
	rest, ok := strings.CutPrefix(s, prefix+"1")
	if !ok {
		return bad("want " + prefix + "1…")
	}
	want := (len(dst)*8+4)/5 + 6
	if len(rest) != want {
		return bad(fmt.Sprintf("%d characters after %s1, want %d", len(rest), prefix, want))
	}
	groups := make([]byte, want)
	for i := range want {
		g := strings.IndexByte(bech32Alphabet, rest[i])
		if g < 0 {
			return bad(fmt.Sprintf("character %q", rest[i]))
		}
		groups[i] = byte(g)
	}
	if bech32Polymod(prefix, groups) != bech32mConst {
		return bad("a typing error: its checksum is wrong")
	}
	var acc, bits uint
	data := make([]byte, 0, len(dst))
	for _, g := range groups[:want-6] {
		acc, bits = acc<<5|uint(g), bits+5
		if bits >= 8 {
			bits -= 8
			data = append(data, byte(acc>>bits))
		}
	}
	if acc&(1<<bits-1) != 0 {
		return bad("bits left over")
	}
	copy(dst, data)
	return nil
}

// bech32Polymod is the checksum of BIP-173 over the expanded prefix and values.
func bech32Polymod(prefix string, values []byte) uint32 {
	chk := uint32(1)
	step := func(v byte) {
		top := chk >> 25
		chk = (chk&0x1ffffff)<<5 ^ uint32(v)
		for i, gen := range [5]uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
			if top>>i&1 == 1 {
				chk ^= gen
			}
		}
	}
	for i := range len(prefix) {
		step(prefix[i] >> 5)
	}
	step(0)
	for i := range len(prefix) {
		step(prefix[i] & 31)
	}
	for _, v := range values {
		step(v)
	}
	return chk
}
