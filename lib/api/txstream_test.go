package api_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"regexp"
	"testing"
	"time"

	"top/lib/api"
	"top/lib/top"
)

// The vectors of docs/wire.md, "Stream of transactions", are what the code makes.
func TestVerdictVectors(t *testing.T) {
	b, err := os.ReadFile("../../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	full := &top.Error{Kind: top.Busy, Message: "full", RetryAfter: 100 * time.Millisecond}
	for name, v := range map[string]api.Verdict{"verdict-taken": {Seq: 300}, "verdict-refused": {Err: full}, "verdict-final": {Seq: 300, Height: 42, Code: 4}} {
		if want := hex.EncodeToString(v.Append(nil)); !regexp.MustCompile(`(?m)^` + name + ` +` + want + `$`).Match(b) {
			t.Errorf("%s is %s", name, want)
		}
	}
}

// What reads as a verdict is written as it was read, and nothing else reads.
func FuzzVerdict(f *testing.F) {
	for _, v := range []api.Verdict{
		{Seq: 300}, {Seq: 1 << 60, Height: 42, Code: 4},
		{Err: &top.Error{Kind: top.Busy, Message: "full", RetryAfter: 100 * time.Millisecond}},
	} {
		f.Add(v.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, rest, err := api.DecodeVerdict(b)
		if err != nil {
			if !errors.Is(err, top.ErrInvalid) {
				t.Fatalf("%v", err)
			}
			return
		}
		if again := v.Append(nil); v.Err == nil && !bytes.Equal(again, b[:len(b)-len(rest)]) {
			t.Fatalf("%x was read, %x is written", b[:len(b)-len(rest)], again)
		}
	})
}
