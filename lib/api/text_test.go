package api

import (
	"strings"
	"testing"

	"top/lib/top"
)

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
		if !strings.Contains(tc.got, tc.want) {
			t.Errorf("%q does not say %q", tc.got, tc.want)
		}
	}
}
