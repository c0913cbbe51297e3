package ledger

import (
	"bytes"
	"fmt"
	"testing"

	"top/lib/keys"
	"top/lib/session"
	"top/lib/top"
)

// Claims that are proved together, beside the state, have the verdicts that each has
// alone, and none is hashed twice.
func TestClaimsAreProvedTogetherAsAlone(t *testing.T) {
	w := newWorld(t)
	w.register()
	var all []Signed
	add := func(tx *Tx) *Tx {
		all = append(all, Signed{ID: ID(tx.Encode()), Raw: tx.Encode(), Tx: tx})
		return tx
	}
	claim := func(who string, change func(*session.Claim)) {
		c := w.claim(w.open(50*top.One), 1, top.One, 7)
		if change != nil {
			change(c)
		}
		add(w.claimTx(who, &Claim{Claim: *c}))
	}
	claim("bob", nil)
	claim("node", nil)
	claim("carol", nil) // is no provider
	claim("bob", func(c *session.Claim) { c.Ticks[0].W[0] ^= 1 })
	claim("bob", func(c *session.Claim) { c.Voucher.Sig[9] ^= 1 })
	claim("bob", func(c *session.Claim) { w.promise(c, "carol") })
	claim("bob", func(c *session.Claim) { c.Voucher.Channel[0] ^= 1; w.promise(c, "alice") })
	claim("bob", func(c *session.Claim) { c.Voucher.Chain[0] ^= 1; w.promise(c, "alice") })
	claim("bob", func(c *session.Claim) { c.Ticks[0].I = 101 })
	claim("bob", func(c *session.Claim) { c.Ticks = nil })
	claim("bob", func(c *session.Claim) { c.Voucher.Amount, c.Ticks[0].I = 5, 0; w.promise(c, "alice") }) // less than its fee
	claim("bob", nil)
	add(w.tx("alice", &Transfer{To: To(1), Amount: 1}))
	alone := make([]string, len(all))
	for i, s := range all {
		fresh, err := Decode(s.Raw)
		if err != nil { // not even a transaction
			fresh = s.Tx
		}
		alone[i] = fmt.Sprint(w.s.Admit(fresh, len(s.Raw)))
	}
	u := w.s.Unproven(all)
	if u.None() || len(u.claims) != 6 {
		t.Fatalf("%d claims are worth a look, want 6", len(u.claims))
	}
	u.Prove(new(keys.Ring))
	u.Note()
	good := 0
	for i, s := range all {
		if got := fmt.Sprint(w.s.Admit(s.Tx, len(s.Raw))); got != alone[i] {
			t.Errorf("claim %d: %s together, %s alone", i, got, alone[i])
		} else if b, ok := s.Body.(*Claim); ok && got == "<nil>" {
			good++
			if !b.proven.ok {
				t.Errorf("claim %d is good and was not kept as proven", i)
			}
			b.Claim.Ticks[0].W = top.ID{} // nobody looks at it again
			if err := w.s.Admit(s.Tx, len(s.Raw)); err != nil {
				t.Errorf("claim %d was proved again: %v", i, err)
			}
		}
	}
	if good != 3 {
		t.Errorf("%d claims are good, want 3", good)
	}
	if u = w.s.Unproven(all[:1]); !u.None() {
		t.Error("what is proven is proved again")
	}
	if again, err := Decode(all[0].Raw); err != nil || again.Body.(*Claim).proven.ok || !bytes.Equal(again.Encode(), all[0].Raw) {
		t.Errorf("what is proven travels: %v", err)
	}
}
