package carry

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"top/lib/top"
)

// shake is both ends of a TLS connection.
func shake(t *testing.T, most uint16) (client, server tls.ConnectionState) {
	t.Helper()
	cert, err := SelfMade("")
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	c := tls.Client(a, &tls.Config{InsecureSkipVerify: true, MaxVersion: most})
	s := tls.Server(b, &tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true})
	var wait sync.WaitGroup
	wait.Go(func() { err = s.Handshake() })
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if wait.Wait(); err != nil {
		t.Fatal(err)
	}
	return c.ConnectionState(), s.ConnectionState()
}

func TestHC2_AProofHoldsOnItsConnectionAlone(t *testing.T) {
	key := [32]byte{1}
	client, server := shake(t, 0)
	_, other := shake(t, 0)
	proof, err := prove(key, client)
	if err != nil {
		t.Fatal(err)
	}
	with := func(state *tls.ConnectionState, cookies ...string) *http.Request {
		return &http.Request{TLS: state, Header: http.Header{"Cookie": cookies}}
	}
	raw, _ := base64.RawURLEncoding.DecodeString(proof)
	changed := func(i int) string {
		b := bytes.Clone(raw)
		b[i] ^= 1
		return cookieText(b)
	}
	again, err := prove(key, client)
	if err != nil || again == proof {
		t.Errorf("a proof is made with the same nonce twice: %v", err)
	}
	old12, server12 := shake(t, tls.VersionTLS12)
	proof12, err := prove(key, old12)
	if err == nil && proved(key, with(&server12, "id="+proof12)) {
		t.Error("a proof over TLS 1.2")
	}
	for name, tc := range map[string]struct {
		r    *http.Request
		key  [32]byte
		want bool
	}{
		"it":                 {with(&server, "id="+proof), key, true},
		"any name":           {with(&server, "a=b; session="+proof+"; c=d"), key, true},
		"second header":      {with(&server, "a=b", "x="+proof), key, true},
		"another connection": {with(&other, "id="+proof), key, false},
		"another key":        {with(&server, "id="+proof), [32]byte{2}, false},
		"nonce changed":      {with(&server, "id="+changed(0)), key, false},
		"mac changed":        {with(&server, "id="+changed(proofSize-1)), key, false},
		"cut":                {with(&server, "id="+proof[:63]), key, false},
		"longer":             {with(&server, "id="+proof+"A"), key, false},
		"none":               {with(&server), key, false},
		"zeros":              {with(&server, "id="+strings.Repeat("A", 64)), key, false},
		"in another header":  {&http.Request{TLS: &server, Header: http.Header{"Authorization": {proof}}}, key, false},
		"no TLS":             {with(nil, "id="+proof), key, false},
	} {
		if got := proved(tc.key, tc.r); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Whoever ends TLS between the two with a certificate of his own passes on a proof
// that proves nothing.
func TestHC2_WhoSitsBetweenCannotPassAProofOn(t *testing.T) {
	s := serve(t, ServerConfig{})
	cert, err := SelfMade("")
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	defer wait.Wait()
	defer l.Close()
	wait.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() {
				defer in.Close()
				out, err := tls.Dial("tcp", s.Addr().String(), anyCert("http/1.1"))
				if err != nil {
					return
				}
				defer out.Close()
				wait.Go(func() { io.Copy(in, out); in.Close() })
				io.Copy(out, in)
			})
		}
	})
	cfg := s.dial(WSS)
	cfg.Addr, cfg.Pin, cfg.AnyCertificate = l.Addr().String(), [32]byte{}, true
	if c, err := Dial(t.Context(), cfg); !errors.Is(err, top.ErrDenied) {
		t.Errorf("through somebody between: %v, %v", c, err)
	}
	cfg.Pin, cfg.AnyCertificate = s.dial(WSS).Pin, false
	if c, err := Dial(t.Context(), cfg); !errors.Is(err, top.ErrDenied) {
		t.Errorf("with a pin: %v, %v", c, err)
	}
}

// FuzzProof: whatever cookies come, a proof is found in them or zeros, and what was
// written is read.
func FuzzProof(f *testing.F) {
	f.Add("id="+strings.Repeat("A", 64), []byte("x"))
	f.Add("a=b; =; ;;\"", make([]byte, proofSize))
	f.Add(strings.Repeat("a=b;", 100), bytes.Repeat([]byte{255}, 100))
	f.Fuzz(func(t *testing.T, header string, proof []byte) {
		got := decodeProof([]string{header})
		if got != ([proofSize]byte{}) && !strings.Contains(header, cookieText(got[:])) {
			t.Fatalf("%x is not in %q", got, header)
		}
		if len(proof) < proofSize {
			return
		}
		want := [proofSize]byte(proof)
		if got := decodeProof([]string{"a=b", "c=d; id=" + cookieText(want[:])}); got != want {
			t.Fatalf("%x was written, %x read", want, got)
		}
	})
}

// BenchmarkProved is what each request costs for being looked at.
func BenchmarkProved(b *testing.B) {
	s := serve(b, ServerConfig{})
	c, err := tls.Dial("tcp", s.Addr().String(), anyCert("http/1.1"))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	state := c.ConnectionState()
	for name, header := range map[string]http.Header{"none": {}, "proof": {"Cookie": {"id=" + strings.Repeat("A", 64)}}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				proved(s.cfg.Key, &http.Request{TLS: &state, Header: header})
			}
		})
	}
}
