package keys

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"testing/iotest"

	"top/lib/top"
)

const testCost = 1

func seal(t testing.TB, secret, pass string) []byte {
	t.Helper()
	b, err := SealCost([]byte(secret), []byte(pass), rand.Reader, testCost)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestK3_OpensWithItsPassphraseOnly(t *testing.T) {
	for _, secret := range []string{"", "s", strings.Repeat("x", sealMax/2)} {
		for _, pass := range []string{"", "correct horse", "schön \x00"} {
			b := seal(t, secret, pass)
			if got, err := Open(b, []byte(pass)); err != nil || string(got) != secret {
				t.Errorf("%d bytes under %q: %q, %v", len(secret), pass, got, err)
			}
			if got, err := Open(b, []byte(pass+"x")); !errors.Is(err, top.ErrDenied) || got != nil || !strings.Contains(err.Error(), "passphrase") {
				t.Errorf("under another passphrase: %q, %v", got, err)
			}
			if len(secret) > 3 && bytes.Contains(b, []byte(secret[:4])) {
				t.Error("the secret is in the sealed form")
			}
		}
	}
	if bytes.Equal(seal(t, "a", "b"), seal(t, "a", "b")) {
		t.Error("the same seal twice: salt and nonce are not drawn")
	}
}

func TestK3_EveryByteCounts(t *testing.T) {
	b := seal(t, "the key", "pass")
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 2
		if got, err := Open(bad, []byte("pass")); err == nil || got != nil {
			t.Errorf("byte %d changed: %q", i, got)
		}
	}
	for i := range b {
		if got, err := Open(b[:i], []byte("pass")); err == nil || got != nil {
			t.Errorf("cut to %d bytes: %q", i, got)
		}
	}
	if _, err := Open(append(bytes.Clone(b), 0), []byte("pass")); !errors.Is(err, top.ErrDenied) {
		t.Errorf("a byte more: %v", err)
	}
}

func TestSealRefusals(t *testing.T) {
	b := seal(t, "the key", "pass")
	cost := func(n byte) []byte {
		c := bytes.Clone(b)
		c[len(sealMagic)] = n
		return c
	}
	for name, in := range map[string][]byte{
		"nothing": nil, "text": []byte("-----BEGIN PRIVATE KEY-----"), "another version": append([]byte("top/sealed/2"), b[len(sealMagic):]...),
		"a head alone": b[:len(sealMagic)+1+16+12], "too long": append(bytes.Clone(b), make([]byte, sealMax)...),
		"cost 0": cost(0), "cost 21": cost(21), "cost 255": cost(255), // refused before work: 2^255 would never end
	} {
		if got, err := Open(in, []byte("pass")); !errors.Is(err, top.ErrInvalid) || got != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, tc := range map[string]struct{ size, cost int }{
		"cost 0": {1, 0}, "cost 21": {1, 21}, "negative cost": {1, -1}, "a large secret": {sealMax/2 + 1, 1},
	} {
		if _, err := SealCost(make([]byte, tc.size), nil, rand.Reader, tc.cost); !errors.Is(err, top.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Seal([]byte("x"), nil, iotest.ErrReader(errors.New("no randomness"))); err == nil || !strings.Contains(err.Error(), "no randomness") {
		t.Errorf("without randomness: %v", err)
	}
}

func TestSealCostsWhatItShould(t *testing.T) {
	b, err := Seal([]byte("the key"), []byte("pass"), rand.Reader)
	if err != nil || b[len(sealMagic)] != 17 {
		t.Fatalf("cost 2^%d, want 2^17: %v", b[len(sealMagic)], err)
	}
	if got, err := Open(b, []byte("pass")); err != nil || string(got) != "the key" {
		t.Errorf("%q %v", got, err)
	}
}

// FuzzOpen opens any bytes, at a cost that a fuzzer can pay.
func FuzzOpen(f *testing.F) {
	f.Add(seal(f, "the key", "pass"), []byte("pass"))
	f.Add(seal(f, "", ""), []byte(""))
	f.Add([]byte(sealMagic), []byte("x"))
	f.Fuzz(func(t *testing.T, b, pass []byte) {
		if len(b) > len(sealMagic) {
			b = bytes.Clone(b)
			b[len(sealMagic)] %= 5
		}
		secret, err := Open(b, pass)
		if err != nil {
			if secret != nil || !errors.Is(err, top.ErrInvalid) && !errors.Is(err, top.ErrDenied) {
				t.Fatalf("%q %v", secret, err)
			}
			return
		}
		// The same randomness gives the same bytes: one secret, one sealed form.
		random := bytes.NewReader(b[len(sealMagic)+1:])
		again, err := SealCost(secret, pass, random, int(b[len(sealMagic)]))
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x opens and seals as %x, %v", b, again, err)
		}
	})
}
