package top

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

func TestT1_AmountsNeverWrap(t *testing.T) {
	const most = Amount(math.MaxUint64)
	if _, ok := most.Add(1); ok {
		t.Error("2^64-1 + 1 is a sum")
	}
	if s, ok := (most - 5).Add(5); !ok || s != most {
		t.Error("2^64-1 is no sum")
	}
	if _, ok := Amount(3).Sub(4); ok {
		t.Error("3 - 4 is a difference")
	}
	if _, ok := Amount(1 << 40).Mul(1 << 24); ok {
		t.Error("2^64 is a product")
	}
	if p, ok := Amount(1 << 40).Mul(1<<24 - 1); !ok || p != 1<<64-1<<40 {
		t.Error("a product below 2^64 is none")
	}
	for _, tc := range []struct{ a, num, den, want uint64 }{
		{100, 1, 3, 33}, {most.u(), 1, 1, most.u()}, {most.u(), math.MaxUint64 - 1, math.MaxUint64, most.u() - 1}, {7, 0, 9, 0}, {1, 999_999, 1_000_000, 0},
	} {
		if got := Amount(tc.a).Share(tc.num, tc.den); uint64(got) != tc.want {
			t.Errorf("%d x %d / %d is %d, want %d", tc.a, tc.num, tc.den, got, tc.want)
		}
	}
	for _, tc := range [][2]uint64{{2, 1}, {0, 0}} {
		func() {
			defer func() {
				if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), "T1") {
					t.Errorf("a share of %d / %d: %v", tc[0], tc[1], p)
				}
			}()
			Amount(5).Share(tc[0], tc[1])
		}()
	}
}

func (a Amount) u() uint64 { return uint64(a) }

func TestT2_OneTextForm(t *testing.T) {
	for text, want := range map[string]Amount{
		"0": 0, "1": One, "1.25": 1_250_000_000, "0.000000001": 1, "3.000000001": 3*One + 1, "9999999999.999999999": MaxSupply,
	} {
		a, err := ParseAmount(text)
		if err != nil || a != want || a.String() != text {
			t.Errorf("%s: %d, %s, %v", text, a, a, err)
		}
	}
	for _, text := range []string{"", ".", "1.", ".5", "-1", "+1", "1e3", "1,5", " 1", "1 ", "0x1", "1.0000000001", "10000000000", "99999999999999999999", "१"} {
		if _, err := ParseAmount(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("amount %q: %v", text, err)
		}
	}
	var n Count
	for _, text := range []string{"", "01", "+1", "-1", "1.0", "18446744073709551616", "1e3"} {
		if err := n.UnmarshalText([]byte(text)); !errors.Is(err, ErrInvalid) {
			t.Errorf("count %q: %v", text, err)
		}
	}
	if err := n.UnmarshalText([]byte("18446744073709551615")); err != nil || n != math.MaxUint64 {
		t.Errorf("2^64-1: %v", err)
	}
}

func TestT2_Addresses(t *testing.T) {
	var a Address
	for i := range a {
		a[i] = byte(i * 7)
	}
	s := a.String()
	if b, err := ParseAddress(s); err != nil || b != a || !strings.HasPrefix(s, "top1") {
		t.Fatalf("%s: %v", s, err)
	}
	// The checksum finds every single wrong character (BIP-350 finds up to four).
	for i := len("top1"); i < len(s); i++ {
		for _, c := range bech32Alphabet {
			if wrong := s[:i] + string(c) + s[i+1:]; wrong != s {
				if _, err := ParseAddress(wrong); !errors.Is(err, ErrInvalid) {
					t.Fatalf("%s is read", wrong)
				}
			}
		}
	}
	for _, bad := range []string{"", "top1", strings.ToUpper(s), s + "q", s[:len(s)-1], "btc1" + s[4:], NodeID(a).String()} {
		if _, err := ParseAddress(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("address %q is read", bad)
		}
	}
	if n, err := ParseNodeID(NodeID(a).String()); err != nil || n != NodeID(a) {
		t.Error(err)
	}
	// BIP-350 gives this as valid: the checksum is theirs, not one of ours.
	const vector = "?1v759aa"
	if bech32m("?", nil) != vector {
		t.Errorf("bech32m of nothing is %s, BIP-350 says %s", bech32m("?", nil), vector)
	}
}

func TestT2_IDs(t *testing.T) {
	id := ID{0xde, 0xad}
	if got, err := ParseID(id.String()); err != nil || got != id || id.Short() != "dead0000" {
		t.Error(got, err)
	}
	s := SessionID{1, 2}
	if got, err := ParseSessionID(s.String()); err != nil || got != s {
		t.Error(got, err)
	}
	c := ChainID{9}
	if got, err := ParseChainID(c.String()); err != nil || got != c {
		t.Error(got, err)
	}
	for _, bad := range []string{"", "00", strings.Repeat("0", 63), strings.Repeat("0", 65), strings.Repeat("G", 64), strings.Repeat("A", 64)} {
		if _, err := ParseID(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("id %q is read", bad)
		}
	}
	for _, bad := range []string{"0900000000000000", "top-09", "TOP-0900000000000000", "top-09000000000000000"} {
		if _, err := ParseChainID(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("chain id %q is read", bad)
		}
	}
	if !(ID{}).IsZero() || id.IsZero() || !(Address{}).IsZero() || !(NodeID{}).IsZero() {
		t.Error("IsZero")
	}
}

// A value that is refused changes nothing: neither what is returned nor what it
// would have been read into.
func TestT2_ARefusedValueIsNone(t *testing.T) {
	digits := strings.Repeat("ab", 31)
	if id, err := ParseID(digits + "xx"); err == nil || !id.IsZero() {
		t.Error(id, err)
	}
	if id, err := ParseSessionID(digits[:30] + "xx"); err == nil || id != (SessionID{}) {
		t.Error(id, err)
	}
	if id, err := ParseChainID("top-" + digits[:14] + "xx"); err == nil || id != (ChainID{}) {
		t.Error(id, err)
	}
	// 52 groups hold 260 bits, four more than an address: they are zero. This one
	// has the right checksum and another last group.
	var a Address
	s := a.String()
	groups := make([]byte, 52+6)
	groups[51] = 1
	sum := bech32Polymod("top", groups) ^ bech32mConst
	text := "top1"
	for _, g := range groups[:52] {
		text += string(bech32Alphabet[g])
	}
	for i := range 6 {
		text += string(bech32Alphabet[sum>>(5*(5-i))&31])
	}
	if got, err := ParseAddress(text); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "bits left over") || !got.IsZero() || len(text) != len(s) {
		t.Errorf("%s: %s %v", text, got, err)
	}
	for _, v := range []interface{ UnmarshalText([]byte) error }{&ID{1}, &SessionID{1}, &Address{1}, &NodeID{1}} {
		was := fmt.Sprint(v)
		if err := v.UnmarshalText([]byte(digits + "xx")); !errors.Is(err, ErrInvalid) || fmt.Sprint(v) != was {
			t.Errorf("%T: %s, was %s: %v", v, v, was, err)
		}
	}
}

// A channel that expires in the year 36812 once made every list that held it
// unreadable.
func TestT2_TimesThatRFC3339CannotWrite(t *testing.T) {
	for want, got := range map[string]Time{
		"9999-12-31T23:59:59.999Z": UnixMilli(math.MaxInt64),
		"0000-01-01T00:00:00.000Z": UnixMilli(math.MinInt64),
		"1970-01-01T00:00:00.001Z": UnixMilli(1),
		"0001-01-01T00:00:00.000Z": {},
	} {
		if got.String() != want {
			t.Errorf("%s, want %s", got, want)
		}
		for _, at := range []Time{got, {got.AddDate(0, 0, 0)}, TimeOf(got.Time)} {
			b, err := json.Marshal(at)
			var back Time
			if err != nil || string(b) != `"`+want+`"` || json.Unmarshal(b, &back) != nil || back != got {
				t.Errorf("%s, want %s: %v", b, want, err)
			}
			if b, err := at.MarshalText(); err != nil || string(b) != want {
				t.Errorf("%s, want %s: %v", b, want, err)
			}
		}
	}
	for _, year := range []int{10_000, 36_812, -1, 1 << 30} {
		b, err := json.Marshal(TimeOf(time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC)))
		if err != nil || json.Unmarshal(b, new(Time)) != nil {
			t.Errorf("the year %d: %s %v", year, b, err)
		}
		raw := Time{time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC)}
		if b, err := json.Marshal(raw); err != nil || json.Unmarshal(b, new(Time)) != nil {
			t.Errorf("the year %d, uncut: %s %v", year, b, err)
		}
	}
	for _, bad := range []string{`null`, `5`, `""`, `"`, `"2026-01-02"`, `"2026-01-02T03:04:05"`, `2026-01-02T03:04:05Z`, `"2026-13-02T03:04:05Z"`} {
		was := UnixMilli(5)
		if err := was.UnmarshalJSON([]byte(bad)); !errors.Is(err, ErrInvalid) || was != UnixMilli(5) {
			t.Errorf("%s: %s %v", bad, was, err)
		}
	}
}

func FuzzTime(f *testing.F) {
	f.Add("2026-01-02T03:04:05.678Z")
	f.Add("0000-01-01T00:00:00+23:59")
	f.Add("9999-12-31T23:59:59.9999-23:59")
	f.Fuzz(func(t *testing.T, s string) {
		var a, b Time
		if a.UnmarshalText([]byte(s)) != nil {
			return
		}
		if err := b.UnmarshalText([]byte(a.String())); err != nil || a != b {
			t.Fatalf("%q is %s, which is %s: %v", s, a, b, err)
		}
	})
}

func TestRecordsOfEveryType(t *testing.T) {
	type all struct {
		A Amount
		H Height
		N Count
		T Time
		I ID
		S SessionID
		C ChainID
		W Address
		O NodeID
	}
	v := all{A: 5, H: 6, N: 1 << 60, T: TimeOf(time.Date(2026, 1, 2, 3, 4, 5, 678_900_000, time.FixedZone("", 3600))), I: ID{1}, S: SessionID{2}, C: ChainID{3}, W: Address{4}, O: NodeID{5}}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"A":"5"`, `"H":"6"`, `"N":"1152921504606846976"`, `"T":"2026-01-02T02:04:05.678Z"`, `"C":"top-0300000000000000"`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s is not in %s", want, b)
		}
	}
	var back all
	if err := json.Unmarshal(b, &back); err != nil || back != v {
		t.Errorf("%+v, %v", back, err)
	}
	for _, bad := range []string{`{"A":5}`, `{"A":"1.5"}`, `{"T":"yesterday"}`, `{"I":"00"}`, `{"W":"top1x"}`, `{"H":"-1"}`} {
		if err := json.Unmarshal([]byte(bad), &back); err == nil {
			t.Errorf("%s is read", bad)
		}
	}
}

func TestT3_KindsExitsAndStatuses(t *testing.T) {
	want := map[Kind][2]int{
		Failed: {1, 500}, Usage: {2, 400}, Invalid: {2, 400}, NotFound: {3, 404}, Denied: {4, 403}, Offline: {5, 503}, Busy: {6, 409}, Timeout: {124, 504},
	}
	if len(Kinds()) != len(want) {
		t.Errorf("kinds %v", Kinds())
	}
	for _, k := range Kinds() {
		if k.Exit() != want[k][0] || k.Status() != want[k][1] {
			t.Errorf("%s: %d %d", k, k.Exit(), k.Status())
		}
		err := fmt.Errorf("room: %w", Errorf(k, "no %d", 7))
		if KindOf(err) != k || !errors.Is(err, k.Err()) || err.Error() != "room: no 7" {
			t.Errorf("%s: %v is of kind %s", k, err, KindOf(err))
		}
		for _, o := range Kinds() {
			if o != k && errors.Is(err, o.Err()) {
				t.Errorf("%s is %s as well", k, o)
			}
		}
	}
	if KindOf(nil) != "" || KindOf(errors.New("x")) != Failed || Kind("").Exit() != 0 || Kind("new").Exit() != 1 || Kind("new").Err() != ErrFailed || Kind("new").Status() != 500 || Kind("").Status() != 200 {
		t.Error("the kind of nothing, and of what is not known")
	}
	wait := fmt.Errorf("x: %w", &Error{Kind: Busy, Message: "full", RetryAfter: time.Second})
	if RetryAfter(wait) != time.Second || RetryAfter(ErrBusy) != 0 {
		t.Error("RetryAfter")
	}
}

func FuzzAmount(f *testing.F) {
	for _, s := range []string{"1", "0.1", "9999999999.999999999", "01", "1.10"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAmount(s)
		if err != nil {
			return
		}
		if b, err := ParseAmount(a.String()); err != nil || a != b || a > MaxSupply {
			t.Fatalf("%q is %s, which is %s, %v", s, a, b, err)
		}
	})
}

func FuzzAddress(f *testing.F) {
	f.Add(Address{1}.String())
	f.Add(NodeID{1}.String())
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := ParseAddress(s); err == nil && a.String() != s {
			t.Fatalf("%q is read and written %s", s, a)
		}
		if a, err := ParseNodeID(s); err == nil && a.String() != s {
			t.Fatalf("%q is read and written %s", s, a)
		}
	})
}

func FuzzIDs(f *testing.F) {
	f.Add(ID{1}.String())
	f.Add(ChainID{1}.String())
	f.Add(SessionID{1}.String())
	f.Fuzz(func(t *testing.T, s string) {
		if v, err := ParseID(s); err == nil && v.String() != s {
			t.Fatal(s)
		}
		if v, err := ParseChainID(s); err == nil && v.String() != s {
			t.Fatal(s)
		}
		if v, err := ParseSessionID(s); err == nil && v.String() != s {
			t.Fatal(s)
		}
		var c Count
		if err := c.UnmarshalText([]byte(s)); err == nil && c.String() != s {
			t.Fatal(s)
		}
	})
}
