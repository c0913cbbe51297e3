package ledger

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"top/lib/keys"
	"top/lib/session"
	"top/lib/top"
	"top/lib/wire"
)

// A Signed is a transaction as it travels: its canonical bytes, what they say, and
// their name.
type Signed struct {
	ID  top.ID
	Raw []byte
	*Tx
}

// Read reads the canonical form of a transaction. It does not check the signature.
func Read(raw []byte) (Signed, error) {
	t, err := Decode(raw)
	return Signed{ID: ID(raw), Raw: raw, Tx: t}, err
}

// A Bundle is transactions that travel, are verified and are agreed upon together:
// what CometBFT sees as one. It has no order or meaning of its own; each of its
// transactions happens or fails alone. docs/wire.md, "Bundle".
type Bundle []Signed

// The limits of a Bundle.
const (
	MaxBundleTxs = 4096
	MaxBundle    = MaxTx + 16 // bytes
)

// Encode is the canonical form.
func (b Bundle) Encode() []byte {
	size := 3
	for _, s := range b {
		size += len(s.Raw) + 3
	}
	e := wire.To(make([]byte, 0, size))
	e.Uint(uint64(len(b)))
	for _, s := range b {
		e.Bytes(s.Raw)
	}
	return e.Out()
}

// BundleID names a bundle by the SHA-256 of its bytes, as CometBFT does.
func BundleID(raw []byte) top.ID { return sha256.Sum256(raw) }

// DecodeBundle reads the canonical form of a bundle for a chain and refuses every
// other. It does not check signatures. The bundle shares raw's memory.
func DecodeBundle(raw []byte, chain top.ChainID) (Bundle, error) {
	d := wire.Decode(raw, MaxBundle)
	n := d.Count(MaxBundleTxs, 2)
	if d.Err() == nil && n == 0 {
		d.Fail("a bundle of nothing")
	}
	b := make(Bundle, n)
	for i := range b {
		tx := d.Bytes(MaxTx)
		if d.Err() != nil {
			break
		}
		var err error
		if b[i], err = Read(tx); err != nil {
			return nil, fmt.Errorf("bundle: %d: %w", i, err)
		}
		if b[i].Chain != chain {
			return nil, fmt.Errorf("bundle: transaction %d is for chain %s, this is %s: %w", i, b[i].Chain, chain, top.ErrDenied)
		}
	}
	if err := d.End(); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	return b, nil
}

// Prove checks signatures and hashes of claims, with the verdicts that Apply has for
// each alone. It reads no state. ring may be nil.
func (u *Unproven) Prove(ring *keys.Ring) {
	claims := make([]*session.Claim, len(u.claims))
	for i, b := range u.claims {
		claims[i] = &b.Claim
	}
	u.good = session.Prove(claims, u.payers, ring, rand.Reader)
}

// VerifyBatch checks many signatures together, with the verdicts that Verify
// gives one by one; nil when all are good. ring may be nil.
func VerifyBatch(all []Signed, ring *keys.Ring) []error {
	b := keys.NewBatch(len(all), ring)
	msg := append([]byte(txDomain), 0) // wire.Preimage, from the bytes that are there
	for _, s := range all {
		b.Add(s.Key, append(msg, s.Raw[:len(s.Raw)-len(s.Sig)]...), s.Sig)
	}
	good, each := b.Verify(rand.Reader)
	if good {
		return nil
	}
	errs := make([]error, len(all))
	for i := range each {
		if !each[i] {
			errs[i] = ErrSignature
		}
	}
	return errs
}
