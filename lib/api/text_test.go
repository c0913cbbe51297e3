package api

import (
	"strings"
	"testing"

	"top/lib/top"
)

func TestAnOfferIsOfAServiceAndAUnit(t *testing.T) {
	n := Node{Offers: []Offer{{Service: "vpn", Unit: "GiB", Price: 1}, {Service: "relay", Unit: "message", Price: 2}, {Service: "vpn", Unit: "64KiB", Price: 3}}}
	if o, ok := n.Offer("vpn", "64KiB"); !ok || o.Price != 3 {
		t.Errorf("%+v %t", o, ok)
	}
	for _, no := range [][2]string{{"vpn", "message"}, {"store", "GiB"}, {"", ""}} {
		if o, ok := n.Offer(no[0], no[1]); ok || o.Price != 0 {
			t.Errorf("%q: %+v", no, o)
		}
	}
}

func TestTexts(t *testing.T) {
	to := top.Address{1}
	for _, tc := range []struct{ got, want string }{
		{Payment{Kind: "transfer", State: "dry-run", Amount: top.One, To: &to, Fee: 5, NewAccount: true, AccountFee: 7}.Text(), "makes a new account, which costs 0.000000007 TOP"},
		{Payment{Kind: "lock", State: "failed", Error: "denied", Message: "no"}.Text(), "denied: no"},
		{Payment{ID: "x", Kind: "lock", State: "pending"}.Text(), "top-wallet payment x"},
		{Payment{Kind: "vote", State: "dry-run", Fee: 5}.Text(), "would vote, fee 0.000000005 TOP;"},
		{Payment{Kind: "lock", State: "dry-run", Amount: 3}.Text(), "would lock 0.000000003 TOP, fee"},
		{Entry{Kind: "transfer", Way: "in", Amount: top.One, Peer: &to, OK: true}.Text(), "+1 TOP  from top1"},
		{Entry{Kind: "batch", Way: "out", Peers: 9, OK: true, Fee: 3}.Text(), "fee 0.000000003  with 9 others"},
		{Settled{State: "gone"}.Text(), "nothing more can be"},
	} {
		if !strings.Contains(tc.got, tc.want) {
			t.Errorf("%q does not say %q", tc.got, tc.want)
		}
	}
}
