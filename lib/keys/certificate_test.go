package keys

import (
	"testing"

	"top/lib/top"
)

func TestCertificate(t *testing.T) {
	account, device := FromSeed([32]byte{1}), FromSeed([32]byte{2})
	chain := top.ChainID{7}
	c := Certificate{Chain: chain, Account: account.Public(), Role: "device", Key: device.Public(), Expiry: 1000}
	if err := c.Sign(device.Signer()); err == nil {
		t.Error("another key signed for the account")
	}
	if err := c.Sign(account.Signer()); err != nil {
		t.Fatal(err)
	}
	var back Certificate
	if err := back.Decode(c.Encode()); err != nil || back != c {
		t.Fatalf("decoded %+v, %v", back, err)
	}
	if err := c.Verify(chain, "device", 999); err != nil {
		t.Error(err)
	}
	if err := c.Verify(chain, "device", 0); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"at its expiry": c.Verify(chain, "device", 1000),
		"another role":  c.Verify(chain, "relay", 999),
		"another chain": c.Verify(top.ChainID{8}, "device", 999),
	} {
		if err == nil {
			t.Errorf("%s: held", name)
		}
	}
	for name, change := range map[string]func(*Certificate){
		"account": func(c *Certificate) { c.Account[0] ^= 1 },
		"key":     func(c *Certificate) { c.Key[0] ^= 1 },
		"expiry":  func(c *Certificate) { c.Expiry++ },
	} {
		d := c
		change(&d)
		if d.Verify(chain, "device", 1) == nil {
			t.Errorf("with another %s it held", name)
		}
	}
}
