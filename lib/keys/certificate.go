package keys

import (
	"fmt"

	"top/lib/top"
	"top/lib/wire"
)

const certificateDomain = "top/certificate/1"

// MaxCertificate is the longest encoded Certificate, in bytes.
const MaxCertificate = 256

// A Certificate says that an account lets a key act for it in one role: its
// device that signs messages and acknowledgements, until it expires.
type Certificate struct {
	Chain   top.ChainID
	Account top.Address
	Role    string // "device"
	Key     [32]byte
	Expiry  uint64 // unix seconds
	Sig     [64]byte
}

func (c Certificate) body() []byte {
	var e wire.Encoder
	e.Raw(c.Account[:])
	e.String(c.Role)
	e.Raw(c.Key[:])
	e.Uint(c.Expiry)
	return e.Out()
}

// Put encodes the certificate (docs/wire.md, "Certificate").
func (c Certificate) Put(e *wire.Encoder) {
	e.Raw(c.Chain[:])
	e.Raw(c.body())
	e.Raw(c.Sig[:])
}

// Get decodes a certificate in place. It verifies nothing.
func (c *Certificate) Get(d *wire.Decoder) {
	d.Fill(c.Chain[:])
	d.Fill(c.Account[:])
	c.Role = d.String(16)
	d.Fill(c.Key[:])
	c.Expiry = d.Uint()
	d.Fill(c.Sig[:])
}

// Encode is the canonical form.
func (c Certificate) Encode() []byte {
	var e wire.Encoder
	c.Put(&e)
	return e.Out()
}

// Decode reads the canonical form and refuses every other.
func (c *Certificate) Decode(b []byte) error {
	d := wire.Decode(b, MaxCertificate)
	c.Get(d)
	return d.End()
}

// Sign signs as the account.
func (c *Certificate) Sign(s Signer) (err error) {
	if s.Public() != c.Account {
		return fmt.Errorf("certificate: %s cannot certify for %s: %w", top.Address(s.Public()), c.Account, top.ErrDenied)
	}
	c.Sig, err = s.Sign(certificateDomain, c.Chain, c.body())
	return err
}

// Verify says whether the account signed it for a chain and a role, and it holds
// at a time in unix seconds; 0 asks for no time.
func (c Certificate) Verify(chain top.ChainID, role string, now uint64) error {
	switch {
	case c.Chain != chain || c.Role != role:
		return fmt.Errorf("certificate of %s: for role %q on chain %s, not for %q on %s: %w", c.Account, c.Role, c.Chain, role, chain, top.ErrDenied)
	case now >= c.Expiry && now > 0:
		return fmt.Errorf("certificate of %s: expired: %w", c.Account, top.ErrDenied)
	case !Verify(c.Account, certificateDomain, c.Chain, c.body(), c.Sig):
		return fmt.Errorf("certificate of %s: not signed by the account: %w", c.Account, top.ErrDenied)
	}
	return nil
}
