package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"top/lib/home"
	"top/lib/top"
)

func FuzzCSV(f *testing.F) {
	a := top.Address{1}.String()
	f.Add([]byte("address,amount\n" + a + ",1.5\n\n# a remark\n\"" + a + "\", 2\n"))
	f.Add([]byte("bob,1"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		list, err := readCSV(bytes.NewReader(raw), contacts{dir: home.Dir(t.TempDir())})
		if err != nil {
			if !errors.Is(err, top.ErrInvalid) && !errors.Is(err, top.ErrNotFound) {
				t.Fatalf("%v is of kind %s", err, top.KindOf(err))
			}
			return
		}
		// What was read is read again from how it is written.
		var b strings.Builder
		for _, p := range list {
			fmt.Fprintf(&b, "%s,%s\n", p.Address, p.Amount)
		}
		again, err := readCSV(strings.NewReader(b.String()), contacts{})
		if err != nil || len(again) != len(list) {
			t.Fatalf("%d payments, then %d: %v", len(list), len(again), err)
		}
		for i := range list {
			if again[i] != list[i] {
				t.Fatalf("payment %d: %+v, then %+v", i, list[i], again[i])
			}
		}
	})
}

func FuzzOffer(f *testing.F) {
	f.Add("service=relay,unit=message,price=0.00001,window=16,hold=3600x1")
	f.Fuzz(func(t *testing.T, s string) {
		o, err := parseOffer(s)
		if err == nil && (o.Service == "" || o.Unit == "" || o.Window == 0) {
			t.Fatalf("%q is %+v", s, o)
		}
		if err != nil && !errors.Is(err, top.ErrUsage) {
			t.Fatalf("%q: %v", s, err)
		}
	})
}

func TestOfferRefusals(t *testing.T) {
	for _, bad := range []string{"", "service=vpn", "service=vpn,unit=x,price=-1,window=1", "service=vpn,unit=x,window=1,price", "service=vpn,unit=x,window=4294967296", "service=vpn,unit=x,window=1,hold=60", "colour=red"} {
		if _, err := parseOffer(bad); !errors.Is(err, top.ErrUsage) || !strings.Contains(err.Error(), "as in service=") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
