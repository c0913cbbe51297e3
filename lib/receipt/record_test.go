package receipt

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"top/lib/top"
)

func TestR5_RecordRoundTrip(t *testing.T) {
	w := newWorld()
	for _, r := range []Receipt{w.paid(t, 0, 0), w.paid(t, 99_999, 40), w.settled(t, 100*price, 3*price)} {
		line, err := json.Marshal(r.Record())
		must(t, err)
		var rec Record
		must(t, json.Unmarshal(line, &rec))
		back, err := FromRecord(rec)
		must(t, err)
		if back.ID() != r.ID() {
			t.Fatal("a record changes its receipt")
		}
		must(t, back.Verify())
	}
}

// The record as other tools see it (docs/records.md, "receipt").
func TestR5_GoldenRecord(t *testing.T) {
	const file = "testdata/receipt.ndjson"
	line, err := json.Marshal(newWorld().paid(t, 99_999, 40).Record())
	must(t, err)
	line = append(line, '\n')
	if os.Getenv("UPDATE") == "1" {
		must(t, os.WriteFile(file, line, 0o644))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if !bytes.Equal(line, want) {
		t.Fatalf("got  %swant %s", line, want)
	}
	var rec Record
	must(t, json.Unmarshal(want, &rec))
	r, err := FromRecord(rec)
	must(t, err)
	must(t, r.Verify())
}

func TestR5_AFieldThatDiffersIsNamed(t *testing.T) {
	good := newWorld().paid(t, 9_999, 40).Record() // a length that leaves bits over
	for _, tc := range []struct {
		name   string
		change func(*Record)
	}{
		{"chain", func(r *Record) { r.Chain[0]++ }},
		{"channel", func(r *Record) { r.Channel[0]++ }},
		{"session", func(r *Record) { r.Session[0]++ }},
		{"service", func(r *Record) { r.Service = "relay" }},
		{"payer", func(r *Record) { r.Payer[0]++ }},
		{"node", func(r *Record) { r.Node[0]++ }},
		{"units", func(r *Record) { r.Units-- }},
		{"amount", func(r *Record) { r.Amount-- }},
		{"price", func(r *Record) { r.Price++ }},
		{"unit", func(r *Record) { r.Unit = "1s" }},
		{"seq", func(r *Record) { r.Seq++ }},
		{"unverified", func(r *Record) { r.Unverified = 3 }},
		{"amount", func(r *Record) { r.Amount = 0 }},
		{"receipt", func(r *Record) { r.Receipt += "=" }},
		{"receipt", func(r *Record) { r.Receipt = r.Receipt[:40] + "\n" + r.Receipt[40:] }},
		{"receipt", func(r *Record) { r.Receipt += "AAAA" }},
		{"receipt", func(r *Record) { // bits beyond the last byte
			last := len(r.Receipt) - 1
			r.Receipt = r.Receipt[:last] + string(r.Receipt[last]+1)
		}},
		{"receipt", func(r *Record) { r.Receipt = "" }},
		{"receipt", func(r *Record) { r.Receipt = strings.Replace(r.Receipt, "A", "*", 1) }},
		{"type", func(r *Record) { r.Type = "message" }},
		{"type", func(r *Record) { r.Type = "" }},
	} {
		rec := good
		tc.change(&rec)
		_, err := FromRecord(rec)
		if !errors.Is(err, top.ErrInvalid) || !strings.Contains(err.Error(), tc.name) {
			t.Errorf("%s changed: %v", tc.name, err)
		}
	}
	if _, err := FromRecord(good); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

func TestR5_AFieldInOtherCapitalsIsRefused(t *testing.T) {
	line, err := json.Marshal(newWorld().paid(t, 0, 40).Record())
	must(t, err)
	for _, tc := range []struct {
		name, from, to string
		ok             bool
	}{
		{"as it is", `{"type"`, `{"type"`, true},
		{"an unknown field", `{"type"`, `{"note":[1],"type"`, true},
		{"shown beside it", `{"type"`, `{"AMOUNT":"1","type"`, false},
		{"hidden behind it", `"amount":"10000"`, `"amount":"999","Amount":"10000"`, false},
		{"a letter that folds to s", `{"type"`, `{"ſervice":"vpn","type"`, false},
		{"a number for a count", `"amount":"10000"`, `"amount":10000`, false},
		{"a count of other form", `"amount":"10000"`, `"amount":"010000"`, false},
		{"not an object", string(line), `[]`, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			changed := strings.Replace(string(line), tc.from, tc.to, 1)
			if !strings.Contains(changed, tc.to) {
				t.Fatal("the test changes nothing")
			}
			var rec Record
			err := json.Unmarshal([]byte(changed), &rec)
			if tc.ok && err != nil || !tc.ok && !errors.Is(err, top.ErrInvalid) {
				t.Fatal(err)
			}
		})
	}
}

func TestR5_FieldsAreTheRecords(t *testing.T) {
	typ := reflect.TypeFor[Record]()
	var tags []string
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		tags = append(tags, name)
	}
	if !reflect.DeepEqual(tags, fields) {
		t.Fatalf("%q, want %q", fields, tags)
	}
}
