package wire

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"top/lib/top"
)

// everything is one value of every primitive.
type everything struct {
	b    byte
	yes  bool
	n    uint64
	m    uint32
	fix  uint64
	a    top.Amount
	id   top.ID
	raw  [3]byte
	s    string
	list []byte
}

func (v everything) encode() []byte {
	var e Encoder
	e.Byte(v.b)
	e.Bool(v.yes)
	e.Uint(v.n)
	e.Uint(uint64(v.m))
	e.Uint64(v.fix)
	e.Amount(v.a)
	e.Raw(v.id[:])
	e.Raw(v.raw[:])
	e.String(v.s)
	e.Bytes(v.list)
	return e.Out()
}

func (v *everything) decode(b []byte) error {
	d := Decode(b, 200)
	v.b, v.yes, v.n, v.m, v.fix = d.Byte(), d.Bool(), d.Uint(), d.Uint32(), d.Uint64()
	v.a, v.id = d.Amount(), d.ID()
	d.Fill(v.raw[:])
	v.s, v.list = d.String(10), d.Bytes(10)
	return d.End()
}

var full = everything{7, true, math.MaxUint64, math.MaxUint32, 1 << 63, top.MaxSupply, top.ID{1}, [3]byte{1, 2, 3}, "text", []byte{9}}

func TestW1_RoundTrip(t *testing.T) {
	for _, v := range []everything{full, {list: []byte{}}} {
		var back everything
		if err := back.decode(v.encode()); err != nil || !bytes.Equal(back.encode(), v.encode()) {
			t.Errorf("%+v: %+v, %v", v, back, err)
		}
	}
	for name, b := range map[string][]byte{
		"a varint with a group too many":     {0x80, 0x00},
		"a varint of 2^64":                   {0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02},
		"a varint that does not end":         {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"a varint whose last group is empty": {0xff, 0x80, 0x00},
	} {
		d := Decode(b, 100)
		if d.Uint(); !errors.Is(d.Err(), top.ErrInvalid) {
			t.Errorf("%s is read: %v", name, d.Err())
		}
	}
	if d := Decode([]byte{2}, 9); d.Bool() || d.Err() == nil {
		t.Error("2 is a truth")
	}
	var e Encoder
	e.Uint(1 << 32)
	if d := Decode(e.Out(), 9); d.Uint32() != 0 || d.Err() == nil {
		t.Error("2^32 is 32 bits")
	}
	e = Encoder{}
	e.Uint(uint64(top.MaxSupply) + 1)
	if d := Decode(e.Out(), 20); d.Amount() != 0 || d.Err() == nil {
		t.Error("more money than there can ever be is read")
	}
}

func TestW2_LimitsComeFirst(t *testing.T) {
	if d := Decode(make([]byte, 11), 10); !errors.Is(d.Err(), top.ErrInvalid) {
		t.Error("more than the limit is read")
	}
	var e Encoder
	e.Uint(1 << 62) // a length that nobody has
	for name, read := range map[string]func(*Decoder){
		"bytes":  func(d *Decoder) { d.Bytes(math.MaxInt) },
		"string": func(d *Decoder) { d.String(math.MaxInt) },
		"count":  func(d *Decoder) { d.Count(math.MaxInt, 1) },
	} {
		allocs := testing.AllocsPerRun(10, func() {
			d := Decode(e.Out(), 100)
			if read(d); d.Err() == nil {
				t.Fatalf("%s of 2^62 is read", name)
			}
		})
		if allocs > 10 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
	e = Encoder{}
	e.Bytes(make([]byte, 11))
	if d := Decode(e.Out(), 100); d.Bytes(10) != nil || d.Err() == nil {
		t.Error("11 bytes where 10 may be")
	}
	e = Encoder{}
	e.Uint(3)
	e.Raw(make([]byte, 5))
	if d := Decode(e.Out(), 100); d.Count(10, 2) != 0 || d.Err() == nil {
		t.Error("three things of two bytes in five bytes")
	}
}

func TestW3_NothingLeftOver(t *testing.T) {
	b := full.encode()
	var v everything
	if err := v.decode(append(bytes.Clone(b), 0)); !errors.Is(err, top.ErrInvalid) {
		t.Errorf("a byte too many: %v", err)
	}
	for i := range b {
		if err := v.decode(b[:i]); !errors.Is(err, top.ErrInvalid) {
			t.Fatalf("%d of %d bytes: %v", i, len(b), err)
		}
	}
	// After a failure everything reads as zero, and the first reason stays.
	d := Decode([]byte{5}, 9)
	d.Fail("first")
	if d.Byte() != 0 || d.Uint() != 0 || !d.ID().IsZero() || d.Raw(1) != nil {
		t.Error("a failed decoder gives values")
	}
	first := d.Err()
	d.Fail("second")
	if d.Err() != first || d.End() != first {
		t.Error(d.Err())
	}
}

func TestW2_ACountThatWraps(t *testing.T) {
	var e Encoder
	e.Uint(1 << 61) // times 8 it is 0 in 64 bits
	if d := Decode(e.Out(), 100); d.Count(math.MaxInt, 8) != 0 || !errors.Is(d.Err(), top.ErrInvalid) {
		t.Errorf("2^61 things of 8 bytes in no bytes: %v", d.Err())
	}
	e = Encoder{}
	e.Uint(3)
	e.Raw(make([]byte, 6))
	if d := Decode(e.Out(), 100); d.Count(3, 2) != 3 || d.Err() != nil {
		t.Errorf("three things of two bytes in six: %v", d.Err())
	}
	if d := Decode(e.Out(), 100); d.Count(2, 2) != 0 || d.Err() == nil {
		t.Error("three things where two may be")
	}
}

func TestW3_AFailedFillIsZero(t *testing.T) {
	dst := [4]byte{1, 2, 3, 4}
	d := Decode([]byte{9, 9}, 100)
	if d.Fill(dst[:]); dst != [4]byte{} || !errors.Is(d.Err(), top.ErrInvalid) {
		t.Errorf("%v %v", dst, d.Err())
	}
}

func TestRestOfTheDecoder(t *testing.T) {
	var e Encoder
	e.Byte(1)
	e.Raw([]byte("rest"))
	d := Decode(append([]byte("kept"), e.Out()...), 100)
	if d.Raw(4); d.Byte() != 1 || d.Len() != 4 || string(d.Rest()) != "rest" || d.Err() != nil || !errors.Is(d.End(), top.ErrInvalid) {
		t.Errorf("%d left: %v", d.Len(), d.Err())
	}
	if d := Decode([]byte("abc"), 3); d.Raw(-1) != nil || d.Err() == nil {
		t.Error("less than nothing is read")
	}
	// What was read can be appended to without a change of what follows.
	b := []byte("abcdef")
	d = Decode(b, 6)
	if _ = append(d.Raw(2), 'X'); string(b) != "abcdef" {
		t.Errorf("%s", b)
	}
	to := To([]byte("a"))
	to.String("b")
	to.Bool(false)
	if string(to.Out()) != "a\x01b\x00" {
		t.Errorf("%q", to.Out())
	}
	if got := Digest("d", []byte("ab"), []byte("c")).String(); got != goldenDigest {
		t.Errorf("digest %s, want %s", got, goldenDigest)
	}
}

// goldenDigest is printf 'd\0abc' | sha256sum.
const goldenDigest = "b7a52f8eb9626b397fb93af0a11d30988dc7aab431b2e9025a153f041a1ce480"

func TestW4_DomainAndChainSeparate(t *testing.T) {
	seen := map[string]string{}
	for _, p := range []struct {
		domain string
		chain  top.ChainID
		body   string
	}{
		{"a", top.ChainID{1}, "x"}, {"b", top.ChainID{1}, "x"}, {"a", top.ChainID{2}, "x"}, {"a", top.ChainID{1}, "y"},
		{"a", top.ChainID{1}, ""}, {"", top.ChainID{1}, "ax"}, {"ab", top.ChainID{1}, ""},
	} {
		b := string(Preimage(p.domain, p.chain, []byte(p.body)))
		if was, ok := seen[b]; ok {
			t.Errorf("%+v signs what %s signs", p, was)
		}
		seen[b] = p.domain
	}
	// Parts are fixed by their lengths: no two lists of them hash alike.
	if Digest("d", []byte("ab"), []byte("c")) == Digest("e", []byte("ab"), []byte("c")) {
		t.Error("the domain is not in the digest")
	}
}

func FuzzEverything(f *testing.F) {
	f.Add(full.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		var v everything
		if err := v.decode(b); err == nil && !bytes.Equal(v.encode(), b) {
			t.Fatalf("%x is read and written %x", b, v.encode())
		}
	})
}
