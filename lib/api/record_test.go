package api

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"top/lib/top"
)

// golden is a line for each record type: what scripts may rely on. A field that
// changes its name, its type or its form shows here.
const golden = "testdata/records.ndjson"

// fill gives every field of a record a value of its kind that is not zero, so
// that each is on the line.
func fill(v reflect.Value, n *uint64) {
	*n++
	switch x := v.Addr().Interface().(type) {
	case *top.Time:
		*x = top.TimeOf(time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC))
		return
	case *Bytes:
		*x = Bytes{0xfb, 0xef, byte(*n)}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), n)
	case reflect.Array:
		v.Index(0).SetUint(*n % 256)
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int:
		v.SetInt(int64(*n))
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(*n)
	}
}

// records is one of every type that a socket or a pipe carries.
func records() map[string]any {
	return map[string]any{
		"chain-status": &ChainStatus{}, "params": &Params{}, "account": &Account{}, "channel": &Channel{}, "node": &Node{},
		"tx": &Tx{}, "entry": &Entry{}, "block": &Event{}, "light-block": &LightBlock{}, "submitted": &Submitted{}, "signed-tx": &SignedTx{},
		"wallet-status": &WalletStatus{}, "payment": &Payment{}, "batch": &Batch{}, "batch-part": &BatchPart{}, "pay": &BatchRecord{},
		"budget": &Budget{}, "signed": &SignedEntry{}, "signed-voucher": &SignAnswer{}, "signature": &MessageSignature{},
		"settled": &Settled{}, "bill-row": &BillRow{}, "bill-channel": &BillChannel{}, "bill": &Bill{},
	}
}

func TestGoldenRecords(t *testing.T) {
	want := map[string]string{}
	raw, err := os.ReadFile(golden)
	if err != nil && os.Getenv("UPDATE") == "" {
		t.Fatal(err)
	}
	var order []string
	for _, line := range bytes.Split(bytes.TrimSpace(raw), []byte("\n")) {
		var head struct{ Type string }
		if json.Unmarshal(line, &head) == nil {
			want[head.Type] = string(line)
			order = append(order, head.Type)
		}
	}
	var out bytes.Buffer
	all := records()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if _, ok := want[name]; !ok {
			order = append(order, name)
		}
	}
	for _, name := range order {
		v, ok := all[name]
		if !ok {
			t.Errorf("%s has a golden line and no record", name)
			continue
		}
		n := uint64(0)
		fill(reflect.ValueOf(v).Elem(), &n)
		reflect.ValueOf(v).Elem().FieldByName("Type").SetString(name)
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(append(b, '\n'))
		if os.Getenv("UPDATE") == "" && want[name] != string(b) {
			t.Errorf("%s is now\n%s\nand was\n%s", name, b, want[name])
		}
		back := reflect.New(reflect.TypeOf(v).Elem())
		if err := json.Unmarshal(b, back.Interface()); err != nil || !reflect.DeepEqual(back.Elem().Interface(), reflect.ValueOf(v).Elem().Interface()) {
			t.Errorf("%s does not read back: %v", name, err)
		}
		// A reader skips what it does not know.
		more := append(bytes.TrimSuffix(bytes.Clone(b), []byte("}")), `,"later":[1]}`...)
		if err := json.Unmarshal(more, back.Interface()); err != nil {
			t.Errorf("%s with a field more: %v", name, err)
		}
	}
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTexts(t *testing.T) {
	to := top.Address{1}
	for _, tc := range []struct{ got, want string }{
		{Payment{Kind: "transfer", State: "dry-run", Amount: top.One, To: &to, Fee: 5, NewAccount: true, AccountFee: 7}.Text(), "makes a new account, which costs 0.000000007 TOP"},
		{Payment{Kind: "lock", State: "failed", Error: "denied", Message: "no"}.Text(), "denied: no"},
		{Payment{ID: "x", Kind: "lock", State: "pending"}.Text(), "top-wallet payment x"},
		{Entry{Kind: "transfer", Way: "in", Amount: top.One, Peer: &to, OK: true}.Text(), "+1 TOP  from top1"},
		{Entry{Kind: "batch", Way: "out", Peers: 9, OK: true, Fee: 3}.Text(), "fee 0.000000003  with 9 others"},
		{Settled{State: "gone"}.Text(), "nothing more can be"},
	} {
		if !bytes.Contains([]byte(tc.got), []byte(tc.want)) {
			t.Errorf("%q does not say %q", tc.got, tc.want)
		}
	}
}
