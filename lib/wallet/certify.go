package wallet

import (
	"bytes"
	"context"
	"time"

	"top/lib/api"
	"top/lib/keys"
	"top/lib/sock"
	"top/lib/top"
	"top/lib/wire"
)

// What is signed for a device is good for so long, and a mailbox record so large.
const (
	maxCertified  = 90 * 24 * time.Hour
	maxMailbox    = 64 << 10
	mailboxDomain = "top/mailbox/1"
)

// certify lets a key act for the account as one of its devices.
func (a *Agent) certify(ctx context.Context, q api.CertificateRequest) (r api.SignAnswer, err error) {
	p, err := a.chainParams(ctx)
	if err != nil {
		return r, err
	}
	last := uint64(a.cfg.Now().Add(maxCertified).Unix())
	if q.Expiry == 0 {
		q.Expiry = top.Count(last)
	}
	switch {
	case q.Role != "device":
		return r, top.Errorf(top.Denied, "role %q: the agent certifies devices only", q.Role)
	case len(q.Key) != 32:
		return r, top.Errorf(top.Invalid, "a key of %d bytes, not 32", len(q.Key))
	case uint64(q.Expiry) > last+uint64(time.Minute/time.Second):
		return r, top.Errorf(top.Denied, "a certificate for more than 90 days")
	case uint64(q.Expiry) <= uint64(a.cfg.Now().Unix()):
		return r, top.Errorf(top.Invalid, "a certificate that has expired")
	}
	c := keys.Certificate{Chain: p.Chain, Account: a.address, Role: q.Role, Key: [32]byte(q.Key), Expiry: uint64(q.Expiry)}
	err = a.record.add(api.SignedEntry{
		Time: top.TimeOf(a.cfg.Now()), What: "certificate", Digest: wire.Digest("top/certificate-digest/1", c.Encode()),
	})
	if err != nil {
		return r, err
	}
	if err := c.Sign(a.cfg.Key.Signer()); err != nil {
		return r, err
	}
	return api.SignAnswer{Type: "signed-certificate", Body: c.Encode()}, nil
}

// signMailbox signs the body of a mailbox record of this account.
func (a *Agent) signMailbox(ctx context.Context, body []byte) (r api.SignAnswer, err error) {
	p, err := a.chainParams(ctx)
	if err != nil {
		return r, err
	}
	if len(body) > maxMailbox || !bytes.HasPrefix(body, a.address[:]) {
		return r, top.Errorf(top.Denied, "it is not a mailbox record of %s", a.address)
	}
	err = a.record.add(api.SignedEntry{
		Time: top.TimeOf(a.cfg.Now()), What: "mailbox", Digest: wire.Digest("top/mailbox-body/1", body),
	})
	if err != nil {
		return r, err
	}
	sig, err := a.cfg.Key.Signer().Sign(mailboxDomain, p.Chain, body)
	return api.SignAnswer{Type: "signed-mailbox", Body: sig[:]}, err
}

func (a *Agent) postCertificate(c *sock.Call) error {
	var q api.CertificateRequest
	if err := c.Decode(&q); err != nil {
		return err
	}
	r, err := a.certify(c.Context(), q)
	if err != nil {
		return err
	}
	return c.JSON(r)
}

func (a *Agent) postMailbox(c *sock.Call) error {
	var q api.SignRequest
	if err := c.Decode(&q); err != nil {
		return err
	}
	r, err := a.signMailbox(c.Context(), q.Body)
	if err != nil {
		return err
	}
	return c.JSON(r)
}
