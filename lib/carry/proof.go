package carry

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/http"

	"top/lib/top"
)

// A proof is a nonce and HMAC-SHA256 (RFC 2104), under the exit's key, of keying
// material that only the two ends of one TLS connection have (RFC 8446, section
// 7.5) and the nonce. It travels as the value of a cookie, of any name.
const (
	nonceSize  = 16
	proofSize  = nonceSize + sha256.Size
	proofLabel = "EXPORTER-carry" // of the keying material; never on the wire
)

// cookieText is how a proof is written: 64 characters, like a session's name.
func cookieText(proof []byte) string { return base64.RawURLEncoding.EncodeToString(proof) }

// prove makes the proof for a connection.
func prove(key [32]byte, state tls.ConnectionState) (string, error) {
	nonce := make([]byte, nonceSize)
	rand.Read(nonce)
	mac, err := macOf(key, state, nonce)
	if err != nil {
		return "", err
	}
	return cookieText(append(nonce, mac...)), nil
}

// proved says whether a request came with the proof for its connection. It does
// the same work whether or not there is anything like a proof in it.
func proved(key [32]byte, r *http.Request) bool {
	if r.TLS == nil || !r.TLS.HandshakeComplete || r.TLS.Version < tls.VersionTLS13 {
		return false
	}
	proof := decodeProof(r.Header["Cookie"])
	mac, err := macOf(key, *r.TLS, proof[:nonceSize])
	return err == nil && hmac.Equal(mac, proof[nonceSize:])
}

func macOf(key [32]byte, state tls.ConnectionState, nonce []byte) ([]byte, error) {
	material, err := state.ExportKeyingMaterial(proofLabel, nil, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("keying material: %v: %w", err, top.ErrFailed)
	}
	mac := hmac.New(sha256.New, key[:])
	mac.Write(material)
	mac.Write(nonce)
	return mac.Sum(nil), nil
}

// decodeProof finds the first cookie that has the form of a proof; zeros, which no
// key proves, when there is none.
func decodeProof(headers []string) (proof [proofSize]byte) {
	for _, h := range headers {
		cookies, err := http.ParseCookie(h)
		if err != nil {
			continue
		}
		for _, c := range cookies {
			if len(c.Value) != base64.RawURLEncoding.EncodedLen(proofSize) {
				continue
			}
			if b, err := base64.RawURLEncoding.Strict().DecodeString(c.Value); err == nil {
				return [proofSize]byte(b)
			}
		}
	}
	return proof
}
