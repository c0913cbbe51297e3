package session_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"top/lib/session"
	"top/lib/top"
	"top/lib/wire"
)

// coded is a value on the wire.
type coded interface {
	Encode() []byte
	Decode([]byte) error
}

// ofOffer gives an offer, which stands inside other values, the same face.
type ofOffer struct{ session.Offer }

func (o *ofOffer) Encode() []byte {
	var e wire.Encoder
	o.Put(&e)
	return e.Out()
}

func (o *ofOffer) Decode(b []byte) error {
	d := wire.Decode(b, 1<<10)
	o.Get(d)
	return d.End()
}

// samples is one value of each kind, the same in every run.
func samples(t testing.TB) map[string]coded {
	t.Helper()
	e := newEnds(t, top.One)
	tk := e.ticket(sid(1), vpn())
	e.ok(tk.SignNode(key(2).Signer()))
	e.ok(e.meter.Open(e.now, tk, vpn()))
	e.renew()
	e.run(sid(1), 300)
	e.open(sid(2), session.Offer{Service: "call", Unit: "1s", Price: 3, Window: 9})
	r := e.renew()
	e.run(sid(1), 3)
	e.repeat()
	c := e.meter.Claim()
	hold := session.Offer{Service: "relay", Unit: "message", Price: 5, Window: 8, Hold: []session.Hold{{3600, 1}, {86400, 2}, {2592000, 4}}}
	ack := newRecipient(t, 5).ack(t, 20_000, 80_000)
	mail := session.Claim{Acks: []session.Ack{ack}, Voucher: session.Voucher{
		Chain: ack.Cert.Chain, Channel: ack.Channel, Seq: 7, Amount: 3, Asides: []session.Aside{{Recipient: ack.Recipient(), Base: 20_000, Amount: 90_000}},
	}}
	e.ok(mail.Voucher.Sign(key(1).Signer()))
	return map[string]coded{
		"ticket": &tk, "voucher": &r.Voucher, "renewal": &r, "claim": &c, "tick": &c.Ticks[0], "offer": &ofOffer{hold}, "ack": &ack, "delivery-claim": &mail,
	}
}

// The bytes of docs/wire.md, in the order of this file; UPDATE=1 writes
// them anew.
func TestVectors(t *testing.T) {
	var got strings.Builder
	all := samples(t)
	for _, kind := range []string{"offer", "ticket", "voucher", "renewal", "tick", "claim", "ack", "delivery-claim"} {
		fmt.Fprintf(&got, "%s %s\n", kind, hex.EncodeToString(all[kind].Encode()))
	}
	const file = "testdata/vectors.txt"
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the bytes changed:\n%s\nthey were\n%s", got.String(), want)
	}
}

// same wants that what decodes is the one encoding of its value.
func same(t *testing.T, b []byte, v, again coded) {
	t.Helper()
	if v.Decode(b) != nil {
		return
	}
	enc := v.Encode()
	if !bytes.Equal(enc, b) {
		t.Fatalf("%x was accepted and encodes as %x", b, enc)
	}
	if err := again.Decode(enc); err != nil || !bytes.Equal(again.Encode(), enc) {
		t.Fatalf("%x: once more: %v", enc, err)
	}
}

// Every byte counts: a shorter, a longer and a changed encoding is another value
// or none.
func TestDecodersRefuse(t *testing.T) {
	fresh := map[string]func() coded{
		"ticket": func() coded { return new(session.Ticket) }, "voucher": func() coded { return new(session.Voucher) },
		"renewal": func() coded { return new(session.Renewal) }, "claim": func() coded { return new(session.Claim) },
		"tick": func() coded { return new(session.Tick) }, "offer": func() coded { return new(ofOffer) },
		"ack": func() coded { return new(session.Ack) }, "delivery-claim": func() coded { return new(session.Claim) },
	}
	for kind, v := range samples(t) {
		t.Run(kind, func(t *testing.T) {
			b := v.Encode()
			if err := fresh[kind]().Decode(b); err != nil {
				t.Fatal(err)
			}
			for n := range b {
				refused(t, fresh[kind]().Decode(b[:n]), top.ErrInvalid)
			}
			refused(t, fresh[kind]().Decode(append(bytes.Clone(b), 0)), top.ErrInvalid)
			refused(t, fresh[kind]().Decode(make([]byte, 1<<16)), top.ErrInvalid)
			for n := range b {
				c := bytes.Clone(b)
				c[n] ^= 1
				same(t, c, fresh[kind](), fresh[kind]())
			}
		})
	}
}

func TestVoucherDecodeRefusesMalformed(t *testing.T) {
	a := session.Anchor{Session: sid(1), Price: 1, N: 1}
	anchors := func(n int, ticks uint32) (all []session.Anchor) {
		for i := range n {
			all = append(all, session.Anchor{Session: sid(byte(i)), Price: 1, N: ticks})
		}
		return all
	}
	for name, tc := range map[string]struct {
		anchors []session.Anchor
		ok      bool
	}{
		"none":          {nil, true},
		"1023 ticks":    {anchors(1, 1023), true},
		"16 sessions":   {anchors(16, 63), true},
		"1024 ticks":    {anchors(1, 1024), false},
		"1024 in 16":    {anchors(16, 64), false},
		"17 sessions":   {anchors(17, 1), false},
		"no ticks":      {anchors(1, 0), false},
		"session twice": {[]session.Anchor{a, a}, false},
		"ticks wrap":    {anchors(2, 1<<31), false},
	} {
		t.Run(name, func(t *testing.T) {
			v := session.Voucher{Seq: 1, Anchors: tc.anchors}
			if err := new(session.Voucher).Decode(v.Encode()); (err == nil) != tc.ok {
				t.Errorf("decode: %v", err)
			}
			if _, err := (session.Claim{Voucher: v, Ticks: make([]session.Tick, len(tc.anchors))}).Owed(); err == nil && !tc.ok {
				t.Error("a claim on it is owed")
			}
		})
	}
}

func TestOwedRefuses(t *testing.T) {
	h := session.NewHashChain([32]byte{1}, 10)
	v := session.Voucher{Seq: 1, Amount: 100, Anchors: []session.Anchor{{Session: sid(1), Price: 7, Root: h.Root(), N: 10}}}
	owed := func(v session.Voucher, ticks ...session.Tick) (top.Amount, error) {
		return session.Claim{Voucher: v, Ticks: ticks}.Owed()
	}
	for i := range uint32(11) {
		tick := session.Tick{Session: sid(1), I: i}
		if i > 0 {
			tick.W = h.At(i)
		}
		if got, err := owed(v, tick); err != nil || got != 100+7*top.Amount(i) {
			t.Errorf("tick %d: %d, %v", i, got, err)
		}
	}
	for name, tick := range map[string]session.Tick{
		"a later index":  {Session: sid(1), I: 6, W: h.At(5)},
		"beyond N":       {Session: sid(1), I: 11, W: h.At(10)},
		"other session":  {Session: sid(2), I: 5, W: h.At(5)},
		"some bytes":     {Session: sid(1), I: 5},
		"the root as 10": {Session: sid(1), I: 10, W: h.Root()},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := owed(v, tick)
			refused(t, err, top.ErrDenied)
		})
	}
	_, err := owed(v)
	refused(t, err, top.ErrInvalid)
	rich := v
	rich.Amount = top.MaxSupply
	_, err = owed(rich, session.Tick{Session: sid(1), I: 1, W: h.At(1)})
	refused(t, err, top.ErrInvalid)
	_, err = rich.Exposure()
	refused(t, err, top.ErrInvalid)
}

// A signature for one chain, purpose or body is none for another.
func TestSignaturesAreBound(t *testing.T) {
	all := samples(t)
	v, tk := all["voucher"].(*session.Voucher), all["ticket"].(*session.Ticket)
	payer := tk.Payer
	if err := v.Verify(payer); err != nil {
		t.Fatal(err)
	}
	if err := tk.Verify(); err != nil {
		t.Fatal(err)
	}
	refused(t, v.Verify(top.Address(tk.Node)), top.ErrDenied)
	for name, change := range map[string]func(*session.Voucher){
		"chain":   func(v *session.Voucher) { v.Chain[7]++ },
		"channel": func(v *session.Voucher) { v.Channel[0]++ },
		"seq":     func(v *session.Voucher) { v.Seq++ },
		"amount":  func(v *session.Voucher) { v.Amount++ },
		"price":   func(v *session.Voucher) { v.Anchors[0].Price++ },
		"root":    func(v *session.Voucher) { v.Anchors[0].Root[31]++ },
		"n":       func(v *session.Voucher) { v.Anchors[0].N-- },
		"session": func(v *session.Voucher) { v.Anchors[0].Session[0] += 9 },
		"fewer":   func(v *session.Voucher) { v.Anchors = v.Anchors[1:] },
		"sig":     func(v *session.Voucher) { v.Sig[0]++ },
	} {
		t.Run(name, func(t *testing.T) {
			w := *v
			w.Anchors = append([]session.Anchor(nil), v.Anchors...)
			change(&w)
			refused(t, w.Verify(payer), top.ErrDenied)
		})
	}
	swapped := *tk
	swapped.PayerSig, swapped.NodeSig = tk.NodeSig, tk.PayerSig
	refused(t, swapped.Verify(), top.ErrDenied)
	refused(t, swapped.VerifyPayer(), top.ErrDenied)
	tk.N--
	refused(t, tk.Verify(), top.ErrDenied)
}

func FuzzTicket(f *testing.F) {
	f.Add(samples(f)["ticket"].Encode())
	f.Fuzz(func(t *testing.T, b []byte) { same(t, b, new(session.Ticket), new(session.Ticket)) })
}

func FuzzVoucher(f *testing.F) {
	f.Add(samples(f)["voucher"].Encode())
	f.Fuzz(func(t *testing.T, b []byte) { same(t, b, new(session.Voucher), new(session.Voucher)) })
}

func FuzzRenewal(f *testing.F) {
	f.Add(samples(f)["renewal"].Encode())
	f.Fuzz(func(t *testing.T, b []byte) { same(t, b, new(session.Renewal), new(session.Renewal)) })
}

func FuzzTick(f *testing.F) {
	f.Add(samples(f)["tick"].Encode())
	f.Fuzz(func(t *testing.T, b []byte) { same(t, b, new(session.Tick), new(session.Tick)) })
}

func FuzzClaim(f *testing.F) {
	f.Add(samples(f)["claim"].Encode())
	f.Add(samples(f)["delivery-claim"].Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		same(t, b, new(session.Claim), new(session.Claim))
		var c session.Claim
		if c.Decode(b) == nil {
			if owed, err := c.Owed(); err == nil { // what is owed was exposed (S2)
				if most, err := c.Voucher.Exposure(); err != nil || owed > most {
					t.Fatalf("owed %d, exposed %d, %v", owed, most, err)
				}
			}
		}
	})
}

func FuzzAck(f *testing.F) {
	f.Add(samples(f)["ack"].Encode())
	f.Fuzz(func(t *testing.T, b []byte) { same(t, b, new(session.Ack), new(session.Ack)) })
}

func FuzzOffer(f *testing.F) {
	f.Add(samples(f)["offer"].Encode())
	f.Fuzz(func(t *testing.T, b []byte) { same(t, b, new(ofOffer), new(ofOffer)) })
}
