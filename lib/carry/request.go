package carry

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"

	"top/lib/top"
)

// PinOf is what DialConfig.Pin expects of a certificate: the SHA-256 of its
// SubjectPublicKeyInfo (RFC 7469, section 2.4).
func PinOf(c *x509.Certificate) [32]byte { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// serverName is what the TLS handshake asks for.
func (cfg DialConfig) serverName() (string, error) {
	if cfg.ServerName != "" {
		return cfg.ServerName, nil
	}
	host, _, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return "", fmt.Errorf("address %q (want host:port): %w", cfg.Addr, top.ErrUsage)
	}
	return host, nil
}

// tls is the client's side of a handshake.
func (cfg DialConfig) tls() (*tls.Config, error) {
	name, err := cfg.serverName()
	if err != nil {
		return nil, err
	}
	pinned := cfg.Pin != [32]byte{}
	if n := count(cfg.RootCAs != nil, pinned, cfg.AnyCertificate); n > 1 {
		return nil, fmt.Errorf("certificate checked in %d ways (give roots, or a pin, or any): %w", n, top.ErrUsage)
	}
	conf := &tls.Config{ServerName: name, RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS13, InsecureSkipVerify: pinned || cfg.AnyCertificate}
	if pinned {
		conf.VerifyConnection = func(s tls.ConnectionState) error {
			pin := PinOf(s.PeerCertificates[0])
			if subtle.ConstantTimeCompare(pin[:], cfg.Pin[:]) != 1 {
				return fmt.Errorf("the certificate is another than the pinned one: %w", top.ErrDenied)
			}
			return nil
		}
	}
	return conf, nil
}

func count(all ...bool) (n int) {
	for _, b := range all {
		if b {
			n++
		}
	}
	return n
}

// request is what both kinds send: as a browser's, with the proof as a cookie
// beside one whose length varies, so that the whole has no length of its own.
func request(ctx context.Context, cfg DialConfig, state tls.ConnectionState) (*http.Request, error) {
	proof, err := prove(cfg.Key, state)
	if err != nil {
		return nil, err
	}
	name, err := cfg.serverName()
	if err != nil {
		return nil, err
	}
	if a, err := netip.ParseAddr(name); err == nil && a.Is6() {
		name = "[" + name + "]"
	}
	noise := make([]byte, 1+192)
	rand.Read(noise)
	r := (&http.Request{
		Method: http.MethodGet, URL: &url.URL{Scheme: "https", Host: name, Path: "/"}, Host: name, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{
			"User-Agent":      {"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"},
			"Accept":          {"*/*"},
			"Accept-Language": {"en-US,en;q=0.5"},
			"Origin":          {"https://" + name},
			"Cookie":          {"id=" + proof + "; s=" + base64.RawURLEncoding.EncodeToString(noise[1:1+noise[0]%192])},
		},
	}).WithContext(ctx)
	return r, nil
}

// tlsError gives a failed handshake its kind.
func tlsError(err error) error {
	var wrong *tls.CertificateVerificationError
	var name x509.HostnameError
	var unknown x509.UnknownAuthorityError
	if errors.Is(err, top.ErrDenied) {
		return err
	}
	if errors.As(err, &wrong) || errors.As(err, &name) || errors.As(err, &unknown) {
		return fmt.Errorf("%v: %w", err, top.ErrDenied)
	}
	return fmt.Errorf("%v: %w", err, top.ErrOffline)
}
