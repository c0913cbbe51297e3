package keys

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"top/lib/top"
	"top/lib/wire"
)

func key(n byte) Private { return FromSeed([32]byte{n}) }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func load(t testing.TB, name string, v any) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// ways are the two ways of a batch: in lanes and by curve25519-voi. Where the
// processor has no lanes the first runs the plain code of lib/edwards.
var ways = map[string]bool{"lanes": true, "voi": false}

// judged is the verdict on a signature, single and in a batch, alone and among
// good ones, both ways. They must not differ.
func judged(t testing.TB, pub [32]byte, msg []byte, sig [64]byte) bool {
	t.Helper()
	single := VerifyRaw(pub, msg, sig)
	for way, lanes := range ways {
		alone := newBatch(1, nil, lanes)
		alone.Add(pub, msg, sig)
		if all, each := alone.Verify(rand.Reader); all != single || !single && (len(each) != 1 || each[0]) {
			t.Errorf("%s: key %x sig %x: single %v, batch %v %v", way, pub, sig, single, all, each)
		}
		good, among := key(9), newBatch(3, new(Ring), lanes)
		among.Add(good.Public(), msg, good.Sign(msg))
		among.Add(pub, msg, sig)
		among.Add(good.Public(), nil, good.Sign(nil))
		if all, each := among.Verify(rand.Reader); all != single || !single && (len(each) != 3 || !each[0] || each[1] || !each[2]) {
			t.Errorf("%s: key %x sig %x: single %v, among good ones %v %v", way, pub, sig, single, all, each)
		}
	}
	return single
}

// The 14 encodings of the 8 points of small order, six of them not canonical.
// With each as key and each as R, and s = 0, they are the 196 vectors of ZIP-215.
var smallOrder = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0000000000000000000000000000000000000000000000000000000000000080",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000080",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
}

func TestK1_SmallOrderByZIP215(t *testing.T) {
	differ := 0
	for _, a := range smallOrder {
		for _, r := range smallOrder {
			pub := [32]byte(unhex(t, a))
			var sig [64]byte
			copy(sig[:], unhex(t, r))
			if !judged(t, pub, []byte("Zcash"), sig) {
				t.Errorf("key %s R %s: refused, ZIP-215 accepts it", a, r)
			}
			if !ed25519.Verify(pub[:], []byte("Zcash"), sig[:]) {
				differ++
			}
			sig[32] = 1 // s = 1 no longer fits
			if judged(t, pub, []byte("Zcash"), sig) {
				t.Errorf("key %s R %s s 1: accepted", a, r)
			}
		}
	}
	if differ == 0 {
		t.Error("the vectors do not tell ZIP-215 from RFC 8032")
	}
}

func TestK1_SpeccheckByZIP215(t *testing.T) {
	var cases []struct{ Message, Key, Signature string }
	load(t, "speccheck.json", &cases)
	// "Taming the many EdDSAs" (2020), table 5, the row of Zebra, which is ZIP-215.
	const want = "VVVVVVXXXVVV"
	if len(cases) != len(want) {
		t.Fatalf("%d cases", len(cases))
	}
	for i, c := range cases {
		got := judged(t, [32]byte(unhex(t, c.Key)), unhex(t, c.Message), [64]byte(unhex(t, c.Signature)))
		if got != (want[i] == 'V') {
			t.Errorf("case %d: %v, want %c", i, got, want[i])
		}
	}
}

func TestK1_EveryByteCounts(t *testing.T) {
	p, msg := key(1), []byte("pay bob 5")
	sig := p.Sign(msg)
	if !judged(t, p.Public(), msg, sig) || !ed25519.Verify(pub(p), msg, sig[:]) {
		t.Fatal("a good signature is refused")
	}
	for i := range sig {
		bad := sig
		bad[i] ^= 1
		if judged(t, p.Public(), msg, bad) {
			t.Errorf("byte %d of the signature does not count", i)
		}
	}
	if judged(t, p.Public(), []byte("pay bob 6"), sig) || judged(t, key(2).Public(), msg, sig) {
		t.Error("another message or key is accepted")
	}
	// s + L is the same number: a second signature for one message.
	l := unhex(t, "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
	carry := 0
	for i := range l {
		carry += int(sig[32+i]) + int(l[i])
		sig[32+i], carry = byte(carry), carry>>8
	}
	if judged(t, p.Public(), msg, sig) {
		t.Error("s above the group's order is accepted")
	}
}

func pub(p Private) []byte {
	b := p.Public()
	return b[:]
}

func TestBatchKeepsNothing(t *testing.T) {
	if all, each := NewBatch(0, nil).Verify(rand.Reader); !all || each != nil {
		t.Errorf("an empty batch: %v %v", all, each)
	}
	b, p, msg := NewBatch(1, nil), key(1), []byte("message")
	sig := p.Sign(msg)
	b.Add(p.Public(), msg, sig)
	msg[0] = 'x'
	if all, _ := b.Verify(rand.Reader); !all {
		t.Error("the batch shares the message's memory")
	}
}

func TestVerifyBindsDomainAndChain(t *testing.T) {
	s, chain, body := key(3).Signer(), top.ChainID{1}, []byte("body")
	sig, err := s.Sign("top/x/1", chain, body)
	if err != nil || !Verify(s.Public(), "top/x/1", chain, body, sig) {
		t.Fatal(err)
	}
	if s.Public() != key(3).Public() || !VerifyRaw(s.Public(), wire.Preimage("top/x/1", chain, body), sig) {
		t.Error("a Signer does not sign the preimage with its key")
	}
	for name, ok := range map[string]bool{
		"domain": Verify(s.Public(), "top/y/1", chain, body, sig),
		"chain":  Verify(s.Public(), "top/x/1", top.ChainID{2}, body, sig),
		"body":   Verify(s.Public(), "top/x/1", chain, []byte("bodz"), sig),
		"key":    Verify(key(4).Public(), "top/x/1", chain, body, sig),
	} {
		if ok {
			t.Errorf("verifies for another %s", name)
		}
	}
}

func TestK2_APrivateKeyNeverPrints(t *testing.T) {
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(200 + i)
	}
	p := FromSeed(seed)
	type holder struct {
		Open   Private
		hidden Private
		point  *Private
		list   []Private
		signer Signer
	}
	h := holder{p, p, &p, []Private{p}, p.Signer()}
	var out bytes.Buffer
	for _, v := range []any{p, &p, h, &h, []Private{p}, map[string]Private{"k": p}, p.Signer(), []any{h}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%t"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("key", "key", v, slog.Group("g", "key", v))
		slog.New(slog.NewJSONHandler(&out, nil)).Info("key", "key", v)
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
		fmt.Fprintln(&out, fmt.Errorf("with %v: %w", v, top.ErrDenied))
	}
	text := strings.ToLower(out.String())
	for name, leak := range map[string]string{
		"decimal": "200 201 202", "go": "0xc8, 0xc9", "hex": "c8c9ca", "list": "200,201", "base64": "ymnk", "raw": string(seed[:4]),
	} {
		if strings.Contains(text, leak) {
			t.Errorf("the key is printed as %s", name)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if got := fmt.Sprintf(verb, p); got != "[secret]" {
			t.Errorf("%s prints %q", verb, got)
		}
	}
	if p.String() != "[secret]" || p.GoString() != "[secret]" || p.LogValue().String() != "[secret]" {
		t.Error("a key prints as something else than [secret]")
	}
	if b, err := json.Marshal(p); err != nil || string(b) != `"[secret]"` {
		t.Errorf("JSON %s %v", b, err)
	}
}

func TestGenerate(t *testing.T) {
	// RFC 8032, 7.1, test 1.
	seed := unhex(t, "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
	p, err := Generate(bytes.NewReader(seed))
	want := "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
	if got := p.Public(); err != nil || hex.EncodeToString(got[:]) != want {
		t.Errorf("%x %v", got, err)
	}
	if p.Seed() != [32]byte(seed) || FromSeed(p.Seed()).Public() != p.Public() {
		t.Error("a seed does not give its key again")
	}
	if _, err := Generate(bytes.NewReader(seed[:31])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("31 random bytes: %v", err)
	}
	if _, err := Generate(iotest.ErrReader(os.ErrClosed)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("no random bytes: %v", err)
	}
}
