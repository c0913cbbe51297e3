package wallet

import (
	"top/lib/api"
	"top/lib/keys"
	"top/lib/top"
)

// messageDomain is of signatures of texts and files. It is no domain of money,
// so that no text can be a payment.
const messageDomain = "top/message/1"

// SignMessage signs content by its SHA-256.
func SignMessage(key keys.Private, digest top.ID) (api.MessageSignature, error) {
	sig, err := key.Signer().Sign(messageDomain, top.ChainID{}, digest[:])
	return api.MessageSignature{Type: "signature", Address: key.Public(), Digest: digest, Sig: sig[:]}, err
}

// VerifyMessage checks a signature of content.
func VerifyMessage(s api.MessageSignature, digest top.ID) error {
	if s.Digest != digest {
		return top.Errorf(top.Failed, "the signature is of other content")
	}
	if len(s.Sig) != 64 || !keys.Verify(s.Address, messageDomain, top.ChainID{}, digest[:], [64]byte(s.Sig)) {
		return top.Errorf(top.Failed, "the signature is not by %s", s.Address)
	}
	return nil
}
