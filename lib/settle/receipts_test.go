package settle

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"top/lib/home"
	"top/lib/receipt"
	"top/lib/top"
)

func lines(t *testing.T, path string) (all []string) {
	t.Helper()
	if err := home.EachLine(path, func(b []byte) error { all = append(all, string(b)); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

// Of each session the newest receipt stays, whenever the file is cut; and a log is
// opened with the entries that count, whatever was written after them.
func TestT3_TheNewestReceiptAndItsLogStay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.ndjson")
	r, err := OpenReceipts(path)
	if err != nil {
		t.Fatal(err)
	}
	of := func(session byte, sum top.Amount) receipt.Receipt {
		var r receipt.Receipt
		r.Ticket.Session[0], r.LogSum = session, sum
		return r
	}
	if err := r.Add(of(1, 1), of(2, 1), of(1, 2)); err != nil {
		t.Fatal(err)
	}
	if n := len(lines(t, path)); n != 3 {
		t.Fatalf("%d lines", n)
	}
	for range 2 {
		if err := r.Cut(); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Add(of(2, 5)); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Add(of(3, 1)); err == nil {
		t.Error("a closed file takes receipts")
	}
	newest := map[top.SessionID]top.Amount{}
	for _, line := range lines(t, path) {
		var rec receipt.Record
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			t.Fatal(err)
		}
		newest[rec.Session] = rec.Amount
	}
	if len(lines(t, path)) != 3 || newest[top.SessionID{1}] != 2 || newest[top.SessionID{2}] != 5 {
		t.Errorf("%d lines, %v", len(lines(t, path)), newest)
	}

	path = filepath.Join(t.TempDir(), "s.log")
	if err := os.WriteFile(path, []byte("one\ntwo\nthree\nto"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := OpenLog(path, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append([]byte("3")); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if got := lines(t, path); len(got) != 3 || got[1] != "two" || got[2] != "3" {
		t.Errorf("%q", got)
	}
}
