package chain

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	dbm "github.com/cometbft/cometbft-db"

	"top/lib/api"
	"top/lib/top"
)

func verifyHome(t *testing.T, n *network, signatures bool) (api.Verified, error) {
	t.Helper()
	seen := 0
	r, err := Verify(t.Context(), n.homes[0], signatures, func(at, last top.Height) {
		if seen++; at > last {
			t.Errorf("block %s of %s", at, last)
		}
	})
	if err == nil && seen != int(r.Height-r.From)+1 {
		t.Errorf("%d blocks were told, %+v", seen, r)
	}
	return r, err
}

// What a node keeps is carried out again to the same roots, and whatever is changed
// in it is found, with the block that holds it.
func TestVerifyFindsWhatWasChanged(t *testing.T) {
	n := newNetwork(t, 1)
	if _, err := verifyHome(t, n, false); !errors.Is(err, top.ErrNotFound) {
		t.Errorf("no block yet: %v", err)
	}
	r := n.start(0)
	r.reach(t, 1)
	if _, err := verifyHome(t, n, false); !errors.Is(err, top.ErrBusy) {
		t.Errorf("while the node runs: %v", err)
	}
	for i := range uint64(3) {
		n.pay(0, i+1, someone(1), top.One)
	}
	n.pay(0, 4, someone(1), 3_000_000*top.One) // fails
	r.reach(t, r.app.lastHead().Height+2)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	for _, signatures := range []bool{false, true} {
		v, err := verifyHome(t, n, signatures)
		if err != nil || v.From != 1 || v.Txs != 4 || v.Failed != 1 || v.Accounts != 2 || v.Root != r.app.root || v.Height != r.app.final {
			t.Errorf("%+v %v", v, err)
		}
	}
	change := func(db, prefix string, f func([]byte)) {
		t.Helper()
		d, err := dbm.NewDB(db, dbm.GoLevelDBBackend, files{n.homes[0]}.data())
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		it, err := d.Iterator([]byte(prefix), []byte(prefix+"~"))
		if err != nil {
			t.Fatal(err)
		}
		k, v := []byte(nil), []byte(nil)
		for ; it.Valid(); it.Next() {
			if len(it.Value()) > len(v) { // the block with the most in it
				k, v = bytes.Clone(it.Key()), bytes.Clone(it.Value())
			}
		}
		it.Close()
		if k == nil {
			t.Fatalf("nothing under %s in %s", prefix, db)
		}
		f(v)
		if err := d.SetSync(k, v); err != nil {
			t.Fatal(err)
		}
	}
	flip := func(b []byte) { b[len(b)/2] ^= 1 }
	for _, prefix := range []string{"P:", "H:", "C:"} {
		change("blockstore", prefix, flip)
		if _, err := verifyHome(t, n, false); !errors.Is(err, top.ErrFailed) || !strings.Contains(err.Error(), "block ") {
			t.Errorf("%s changed: %v", prefix, err)
		}
		change("blockstore", prefix, flip) // back again
		if _, err := verifyHome(t, n, false); err != nil {
			t.Fatalf("%s restored: %v", prefix, err)
		}
	}
}
