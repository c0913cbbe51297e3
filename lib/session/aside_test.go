package session_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"top/lib/keys"
	"top/lib/session"
	"top/lib/top"
)

const ackNow = 1_800_000_000

// A recipient is an account with a device that acknowledges.
type recipient struct {
	account, device keys.Private
	cert            keys.Certificate
}

func newRecipient(t testing.TB, n byte) recipient {
	t.Helper()
	r := recipient{account: key(n), device: key(100 + n)}
	r.cert = keys.Certificate{Chain: top.ChainID{1}, Account: r.account.Public(), Role: "device", Key: r.device.Public(), Expiry: ackNow + 100}
	if err := r.cert.Sign(r.account.Signer()); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r recipient) ack(t testing.TB, from, to top.Amount) session.Ack {
	t.Helper()
	a := session.Ack{Channel: top.ID{2}, From: from, To: to, Count: 3, Root: session.Extend(top.ID{}, top.ID{4}), Cert: r.cert}
	if err := a.Sign(r.device.Signer()); err != nil {
		t.Fatal(err)
	}
	return a
}

// inOrder is recipients as a voucher names them.
func inOrder(t testing.TB, n int) (all []recipient) {
	t.Helper()
	for i := range n {
		all = append(all, newRecipient(t, byte(10+i)))
	}
	slices.SortFunc(all, func(a, b recipient) int {
		x, y := a.account.Public(), b.account.Public()
		return bytes.Compare(x[:], y[:])
	})
	return all
}

// Nobody but a device that the recipient certified signs an acknowledgement, and
// not one byte of it can be changed.
func TestAnAckIsTheRecipients(t *testing.T) {
	r, other := newRecipient(t, 1), newRecipient(t, 2)
	a := r.ack(t, 10, 40)
	chain := top.ChainID{1}
	if err := a.Verify(chain, ackNow); err != nil {
		t.Fatal(err)
	}
	if a.Recipient() != top.Address(r.account.Public()) {
		t.Errorf("it is %s's", a.Recipient())
	}
	refused(t, a.Verify(top.ChainID{2}, ackNow), top.ErrDenied)
	if a.Verify(chain, ackNow+200) == nil {
		t.Error("a certificate that expired counts")
	}
	if err := a.Verify(chain, 0); err != nil {
		t.Errorf("without a time: %v", err)
	}
	for name, change := range map[string]func(*session.Ack){
		"channel":       func(a *session.Ack) { a.Channel[0]++ },
		"from":          func(a *session.Ack) { a.From-- },
		"to":            func(a *session.Ack) { a.To++ },
		"count":         func(a *session.Ack) { a.Count++ },
		"root":          func(a *session.Ack) { a.Root[0]++ },
		"signature":     func(a *session.Ack) { a.Sig[0]++ },
		"account":       func(a *session.Ack) { a.Cert.Account = other.account.Public() },
		"certificate":   func(a *session.Ack) { a.Cert = other.cert },
		"device":        func(a *session.Ack) { a.Cert.Key = other.device.Public() },
		"longer expiry": func(a *session.Ack) { a.Cert.Expiry++ },
		"role":          func(a *session.Ack) { a.Cert.Role = "node" },
	} {
		t.Run(name, func(t *testing.T) {
			b := a
			change(&b)
			refused(t, b.Verify(chain, ackNow), top.ErrDenied)
		})
	}
	b := a
	refused(t, b.Sign(other.device.Signer()), top.ErrDenied)
	wrongRole := r.cert
	wrongRole.Role = "node"
	if err := wrongRole.Sign(r.account.Signer()); err != nil {
		t.Fatal(err)
	}
	b.Cert = wrongRole
	if err := b.Sign(r.device.Signer()); err != nil {
		t.Fatal(err)
	}
	refused(t, b.Verify(chain, ackNow), top.ErrDenied)
}

// What a claim's acknowledgements prove is the union of their ranges, between the
// base and the amount of what is set aside for their recipient.
func TestDelivered(t *testing.T) {
	r := inOrder(t, 2)
	v := session.Voucher{Chain: top.ChainID{1}, Channel: top.ID{2}, Seq: 4, Amount: 500, Asides: []session.Aside{
		{Recipient: r[0].account.Public(), Base: 100, Amount: 200}, {Recipient: r[1].account.Public(), Base: 0, Amount: 50},
	}}
	type ranges [][2]top.Amount
	for _, tc := range []struct {
		name string
		of   [2]ranges
		want top.Amount
	}{
		{"nothing", [2]ranges{}, 0},
		{"one", [2]ranges{{{100, 130}}}, 30},
		{"below the base", [2]ranges{{{0, 100}}}, 0},
		{"across the base", [2]ranges{{{0, 110}}}, 10},
		{"beyond the amount", [2]ranges{{{150, 900}}}, 50},
		{"all beyond", [2]ranges{{{200, 900}}}, 0},
		{"two apart", [2]ranges{{{100, 110}, {120, 130}}}, 20},
		{"two that overlap", [2]ranges{{{100, 150}, {120, 160}}}, 60},
		{"one within the other", [2]ranges{{{100, 200}, {120, 130}}}, 100},
		{"the same twice", [2]ranges{{{100, 150}, {100, 150}}}, 50},
		{"empty ones", [2]ranges{{{100, 100}, {100, 100}}}, 0},
		{"two recipients", [2]ranges{{{100, 150}}, {{0, 50}}}, 100},
		{"the second alone", [2]ranges{nil, {{10, 20}}}, 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := session.Claim{Voucher: v}
			for i, of := range tc.of {
				for _, x := range of {
					c.Acks = append(c.Acks, r[i].ack(t, x[0], x[1]))
				}
			}
			if got, err := c.Delivered(); err != nil || got != tc.want {
				t.Errorf("%d, %v; want %d", got, err, tc.want)
			}
			if got, err := c.Owed(); err != nil || got != 500+tc.want {
				t.Errorf("owed %d, %v", got, err)
			}
		})
	}
	stranger := newRecipient(t, 90)
	foreign := r[0].ack(t, 100, 120)
	foreign.Channel[0]++
	for _, tc := range []struct {
		name string
		acks []session.Ack
		kind error
	}{
		{"of a stranger", []session.Ack{stranger.ack(t, 0, 10)}, top.ErrInvalid},
		{"of another channel", []session.Ack{foreign}, top.ErrDenied},
		{"recipients out of order", []session.Ack{r[1].ack(t, 0, 10), r[0].ack(t, 100, 110)}, top.ErrInvalid},
		{"ranges out of order", []session.Ack{r[0].ack(t, 120, 130), r[0].ack(t, 100, 110)}, top.ErrInvalid},
		{"too many", slices.Repeat([]session.Ack{r[0].ack(t, 100, 110)}, session.MaxAsides+1), top.ErrInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := session.Claim{Voucher: v, Acks: tc.acks}.Delivered()
			refused(t, err, tc.kind)
		})
	}
	rich := v
	rich.Amount = top.MaxSupply
	_, err := session.Claim{Voucher: rich, Acks: []session.Ack{r[0].ack(t, 100, 110)}}.Owed()
	refused(t, err, top.ErrInvalid)
}

// A voucher's asides are in order and bounded, its signature covers them, and they
// count in what the channel may cost.
func TestAsides(t *testing.T) {
	r := inOrder(t, 3)
	payer := key(1)
	make := func(asides ...session.Aside) session.Voucher {
		v := session.Voucher{Chain: top.ChainID{1}, Channel: top.ID{2}, Seq: 4, Amount: 500, Asides: asides}
		if err := v.Sign(payer.Signer()); err != nil {
			t.Fatal(err)
		}
		return v
	}
	a := session.Aside{Recipient: r[0].account.Public(), Base: 10, Amount: 30}
	b := session.Aside{Recipient: r[1].account.Public(), Base: 0, Amount: 5}
	v := make(a, b)
	if err := v.Verify(payer.Public()); err != nil {
		t.Fatal(err)
	}
	if got, err := v.Exposure(); err != nil || got != 525 {
		t.Errorf("exposure %d, %v", got, err)
	}
	if v.Aside(r[0].account.Public()) != a || v.Aside(r[2].account.Public()).Amount != 0 {
		t.Error("Aside")
	}
	for name, change := range map[string]func(*session.Voucher){
		"base":      func(v *session.Voucher) { v.Asides[0].Base++ },
		"amount":    func(v *session.Voucher) { v.Asides[0].Amount++ },
		"recipient": func(v *session.Voucher) { v.Asides[1].Recipient = r[2].account.Public() },
		"one less":  func(v *session.Voucher) { v.Asides = v.Asides[:1] },
	} {
		t.Run(name, func(t *testing.T) {
			c := v
			c.Asides = slices.Clone(v.Asides)
			change(&c)
			if c.Verify(payer.Public()) == nil {
				t.Error("the signature does not cover it")
			}
		})
	}
	var many []session.Aside
	for i := range session.MaxAsides + 1 {
		many = append(many, session.Aside{Recipient: top.Address{byte(i + 1)}, Amount: 1})
	}
	for name, asides := range map[string][]session.Aside{
		"out of order": {b, a}, "twice": {a, a}, "backwards": {{Recipient: a.Recipient, Base: 2, Amount: 1}}, "too many": many,
	} {
		t.Run(name, func(t *testing.T) {
			v := session.Voucher{Seq: 1, Asides: asides}
			refused(t, new(session.Voucher).Decode(v.Encode()), top.ErrInvalid)
			if _, err := (session.Claim{Voucher: v}).Owed(); err == nil {
				t.Error("a claim on it is owed")
			}
		})
	}
	if err := new(session.Voucher).Decode(session.Voucher{Seq: 1, Asides: many[:session.MaxAsides]}.Encode()); err != nil {
		t.Errorf("as many as there may be: %v", err)
	}
	top64 := session.Voucher{Seq: 1, Amount: top.MaxSupply, Asides: []session.Aside{{Recipient: a.Recipient, Amount: 1}}}
	_, err := top64.Exposure()
	refused(t, err, top.ErrInvalid)
}

// A claim's own check covers the payer's voucher and every recipient's signature.
func TestClaimVerifyCoversAcks(t *testing.T) {
	r := newRecipient(t, 3)
	payer := key(1)
	v := session.Voucher{Chain: top.ChainID{1}, Channel: top.ID{2}, Seq: 4, Asides: []session.Aside{{Recipient: r.account.Public(), Amount: 100}}}
	if err := v.Sign(payer.Signer()); err != nil {
		t.Fatal(err)
	}
	c := session.Claim{Voucher: v, Acks: []session.Ack{r.ack(t, 0, 60)}}
	if err := c.Verify(payer.Public(), ackNow); err != nil {
		t.Fatal(err)
	}
	forged := c
	forged.Acks = []session.Ack{r.ack(t, 0, 60)}
	forged.Acks[0].To = 100
	refused(t, forged.Verify(payer.Public(), ackNow), top.ErrDenied)
	byNode := c
	node := newRecipient(t, 7)
	byNode.Acks = []session.Ack{node.ack(t, 0, 60)}
	byNode.Acks[0].Cert.Account = r.account.Public()
	refused(t, byNode.Verify(payer.Public(), ackNow), top.ErrDenied)
}

func TestExtendDependsOnOrder(t *testing.T) {
	seen := map[top.ID]string{}
	for _, ids := range [][]byte{{}, {1}, {2}, {1, 2}, {2, 1}, {1, 1}} {
		var root top.ID
		for _, id := range ids {
			root = session.Extend(root, top.ID{id})
		}
		if was, ok := seen[root]; ok {
			t.Errorf("%v has the root of %s", ids, was)
		}
		seen[root] = fmt.Sprint(ids)
	}
}
