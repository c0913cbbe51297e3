package envelope

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"top/lib/keys"
	"top/lib/top"
)

var testChain = top.ChainID{7}

const testNow = 1_800_000_000

// A device is one of an account, with what it keeps on disk.
type device struct {
	account keys.Private
	key     keys.Private
	cert    keys.Certificate
	secrets map[uint64]Secret
	talks   map[[16]byte][]byte
	last    Prekey
}

func newDevice(t testing.TB, account byte, name byte) *device {
	t.Helper()
	d := &device{account: keys.FromSeed([32]byte{account}), key: keys.FromSeed([32]byte{100, name}), secrets: map[uint64]Secret{}, talks: map[[16]byte][]byte{}}
	d.cert = keys.Certificate{Chain: testChain, Account: d.account.Public(), Role: "device", Key: d.key.Public(), Expiry: testNow + 1000}
	ok(t, d.cert.Sign(d.account.Signer()))
	d.last = d.prekey(t, 0)
	return d
}

func (d *device) prekey(t testing.TB, id uint64) Prekey {
	t.Helper()
	s, pub, err := NewSecret()
	ok(t, err)
	d.secrets[id] = s
	k := Prekey{Account: d.account.Public(), Device: d.key.Public(), ID: id, Public: pub}
	ok(t, k.Sign(testChain, d.key.Signer()))
	return k
}

// open opens as the device would, and keeps what it learned when save is set.
func (d *device) open(sealed []byte, save bool) (Opened, error) {
	o, err := Open(testNow, sealed, Receiver{
		Chain: testChain, Account: d.account.Public(), Device: d.key,
		Conversation: func(id [16]byte) (*Incoming, bool) {
			raw, ok := d.talks[id]
			c := new(Incoming)
			return c, ok && c.Decode(raw) == nil
		},
		Prekey: func(id uint64) (Secret, bool) { s, ok := d.secrets[id]; return s, ok },
	})
	if err == nil && save {
		d.talks[o.Conversation.ID] = o.Conversation.Encode()
		if o.Opening && o.Prekey != 0 {
			delete(d.secrets, o.Prekey)
		}
	}
	return o, err
}

func (d *device) begin(t testing.TB, to Prekey) *Outgoing {
	t.Helper()
	o, err := Begin(testChain, d.key, d.cert, to)
	ok(t, err)
	return o
}

func (d *device) seal(t testing.TB, to []*Outgoing, texts ...string) Sealed {
	t.Helper()
	var all [][]byte
	for _, s := range texts {
		all = append(all, []byte(s))
	}
	s, err := Seal(testChain, d.key, d.cert, to, testNow*1000, all)
	ok(t, err)
	return s
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func is(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%v, want %v", err, want)
	}
}

func TestE1_OnlyItsDevicesOpenABundle(t *testing.T) {
	alice, phone, laptop, eve := newDevice(t, 1, 1), newDevice(t, 2, 2), newDevice(t, 2, 3), newDevice(t, 3, 4)
	to := []*Outgoing{alice.begin(t, phone.prekey(t, 5)), alice.begin(t, laptop.last)}
	s := alice.seal(t, to, "one", "two")
	for _, d := range []*device{phone, laptop} {
		o, err := d.open(s.Bytes, true)
		ok(t, err)
		if len(o.Payloads) != 2 || string(o.Payloads[1]) != "two" || o.From != alice.cert || o.Key != s.Key || o.ID != s.ID {
			t.Fatalf("opened %+v", o)
		}
	}
	if _, err := eve.open(s.Bytes, true); !errors.Is(err, top.ErrNotFound) {
		t.Errorf("another's device: %v", err)
	}
	if _, ok := phone.secrets[5]; ok {
		t.Error("the one-time prekey is still there")
	}
	if _, ok := laptop.secrets[0]; !ok {
		t.Error("the last resort is gone")
	}
	// A device that the bundle was not sealed to has the account's key, and no slot.
	third := newDevice(t, 2, 9)
	if _, err := third.open(s.Bytes, true); !errors.Is(err, top.ErrNotFound) {
		t.Errorf("a third device: %v", err)
	}
}

func TestE2_OnlyTheSizeClassShows(t *testing.T) {
	alice, bob := newDevice(t, 1, 1), newDevice(t, 2, 2)
	o := alice.begin(t, bob.last)
	o.Established()
	seen := map[int]bool{}
	for _, n := range []int{0, 1, 100, 500, 900, 3000, 10_000, 15_000, 60_000, 70_000, 500_000, MaxPayload} {
		s := alice.seal(t, []*Outgoing{o}, string(make([]byte, n)))
		if len(s.Bytes) != class(len(s.Bytes)) || len(s.Bytes) > MaxSealed {
			t.Errorf("%d bytes are sealed in %d", n, len(s.Bytes))
		}
		seen[len(s.Bytes)] = true
	}
	if len(seen) < 6 {
		t.Errorf("classes %v", seen)
	}
	secret := []byte("a canary in the coal mine")
	s := alice.seal(t, []*Outgoing{o}, string(secret))
	if bytes.Contains(s.Bytes, secret) || bytes.Contains(s.Bytes, alice.cert.Account[:]) || bytes.Contains(s.Bytes, alice.cert.Key[:]) {
		t.Error("the text or its sender shows")
	}
	if _, err := Seal(testChain, alice.key, alice.cert, []*Outgoing{o}, 0, [][]byte{make([]byte, MaxSealed)}); !errors.Is(err, top.ErrInvalid) {
		t.Errorf("more than fits: %v", err)
	}
}

func TestE3_NothingOpensTwice(t *testing.T) {
	alice, bob := newDevice(t, 1, 1), newDevice(t, 2, 2)
	o := alice.begin(t, bob.prekey(t, 8))
	var all []Sealed
	for i := range 5 {
		all = append(all, alice.seal(t, []*Outgoing{o}, fmt.Sprint(i)))
	}
	for _, i := range []int{2, 0, 4, 1, 3} {
		_, err := bob.open(all[i].Bytes, true)
		ok(t, err)
		_, err = bob.open(all[i].Bytes, true)
		is(t, err, top.ErrDenied)
	}
	// Also not by a conversation that was forgotten: its prekey is used up.
	bob.talks = map[[16]byte][]byte{}
	_, err := bob.open(all[0].Bytes, true)
	is(t, err, top.ErrNotFound)
}

func TestE3_TooFarAheadIsRefused(t *testing.T) {
	alice, bob := newDevice(t, 1, 1), newDevice(t, 2, 2)
	o := alice.begin(t, bob.last)
	for range maxSkip + 1 {
		o.step()
	}
	_, err := bob.open(alice.seal(t, []*Outgoing{o}, "x").Bytes, true)
	is(t, err, top.ErrDenied)
}

func TestE4_EveryByteCounts(t *testing.T) {
	alice, bob := newDevice(t, 1, 1), newDevice(t, 2, 2)
	o := alice.begin(t, bob.last)
	_, err := bob.open(alice.seal(t, []*Outgoing{o}, "first").Bytes, true)
	ok(t, err)
	o.Established()
	s := alice.seal(t, []*Outgoing{o}, "text")
	for i := range s.Bytes {
		b := bytes.Clone(s.Bytes)
		b[i] ^= 1
		if got, err := bob.open(b, false); err == nil {
			t.Fatalf("byte %d changed: opened %q", i, got.Payloads)
		}
	}
	key, file := [32]byte{1}, [16]byte{2}
	c := SealChunk(key, file, 3, []byte("data"))
	for i := range c.Bytes {
		b := bytes.Clone(c.Bytes)
		b[i] ^= 1
		if _, _, _, err := OpenChunk(key, b); err == nil {
			t.Fatalf("byte %d of a chunk changed: opened", i)
		}
	}
	h := Header{Chain: testChain, Channel: top.ID{1}, ID: s.ID, From: 5, To: 9, Count: 1, Expiry: testNow}
	m := h.MAC(s.Key)
	ok(t, h.Check(s.Key, m))
	for name, change := range map[string]func(*Header){
		"to": func(h *Header) { h.To++ }, "from": func(h *Header) { h.From-- }, "channel": func(h *Header) { h.Channel[0]++ },
		"expiry": func(h *Header) { h.Expiry++ }, "recipient": func(h *Header) { h.Recipient[0]++ }, "id": func(h *Header) { h.ID[0]++ },
	} {
		x := h
		change(&x)
		if x.Check(s.Key, m) == nil {
			t.Errorf("another %s passed", name)
		}
	}
}

func TestE5_TheSenderSigned(t *testing.T) {
	alice, bob, eve := newDevice(t, 1, 1), newDevice(t, 2, 2), newDevice(t, 3, 3)
	// Eve speaks in her own conversation with Alice's certificate.
	o := eve.begin(t, bob.last)
	s, err := Seal(testChain, eve.key, alice.cert, []*Outgoing{o}, 0, [][]byte{[]byte("it is me, alice")})
	ok(t, err)
	_, err = bob.open(s.Bytes, false)
	is(t, err, top.ErrDenied)
	// She opens one with Alice's certificate, which her key did not sign for.
	o, err = Begin(testChain, eve.key, alice.cert, bob.last)
	ok(t, err)
	_, err = bob.open(eve.seal(t, []*Outgoing{o}, "hi").Bytes, false)
	is(t, err, top.ErrNotFound)
	// A certificate that expired, and one of another role.
	old := newDevice(t, 1, 5)
	old.cert.Expiry = testNow
	ok(t, old.cert.Sign(old.account.Signer()))
	_, err = bob.open(old.seal(t, []*Outgoing{old.begin(t, bob.last)}, "late").Bytes, false)
	is(t, err, top.ErrDenied)
	// Bob cannot pass on to Carol what Alice signed for him: the recipient is signed.
	carol := newDevice(t, 4, 6)
	id := top.ID{1}
	text, err := bundleText(testChain, alice.key, alice.cert, id, bob.account.Public(), 0, [][]byte{[]byte("for bob")})
	ok(t, err)
	got := Opened{ID: id, Conversation: &Incoming{From: alice.cert}}
	me := Receiver{Chain: testChain, Account: carol.account.Public(), Device: carol.key}
	is(t, got.read(testNow, me, text), top.ErrDenied)
	got = Opened{ID: id, Conversation: &Incoming{From: alice.cert}}
	me.Account = bob.account.Public()
	ok(t, got.read(testNow, me, text))
}

func TestE6_KeysOfThePastAreGone(t *testing.T) {
	alice, bob := newDevice(t, 1, 1), newDevice(t, 2, 2)
	o := alice.begin(t, bob.prekey(t, 3))
	first := alice.seal(t, []*Outgoing{o}, "first")
	before := o.chain
	second := alice.seal(t, []*Outgoing{o}, "second")
	if before == o.chain {
		t.Fatal("the chain did not step")
	}
	_, err := bob.open(first.Bytes, true)
	ok(t, err)
	_, err = bob.open(second.Bytes, true)
	ok(t, err)
	// A thief has all that both keep now.
	for name, kept := range map[string][]byte{"sender": o.Encode(), "recipient": bob.talks[o.ID]} {
		if bytes.Contains(kept, first.Key[:]) || bytes.Contains(kept, before[:]) {
			t.Errorf("the %s still keeps a key of the past", name)
		}
	}
	_, err = bob.open(first.Bytes, false)
	is(t, err, top.ErrDenied)
}

func TestE7_OneEncoding(t *testing.T) {
	alice, bob := newDevice(t, 1, 1), newDevice(t, 2, 2)
	m := mailboxOf(t, bob)
	e := Envelope{Header: Header{Chain: testChain, To: 3, Count: 1}, Sealed: alice.seal(t, []*Outgoing{alice.begin(t, bob.last)}, "x").Bytes}
	for name, tc := range map[string]struct {
		b     []byte
		again func([]byte) ([]byte, error)
	}{
		"mailbox":  {m.Encode(), func(b []byte) ([]byte, error) { var v Mailbox; err := v.Decode(b); return v.Encode(), err }},
		"prekey":   {bob.last.Encode(), func(b []byte) ([]byte, error) { var v Prekey; err := v.Decode(b); return v.Encode(), err }},
		"envelope": {e.Encode(), func(b []byte) ([]byte, error) { var v Envelope; err := v.Decode(b); return v.Encode(), err }},
	} {
		again, err := tc.again(tc.b)
		ok(t, err)
		if !bytes.Equal(again, tc.b) {
			t.Errorf("%s is written another way", name)
		}
		if name != "envelope" { // whose sealed part may be of any length
			for n := range len(tc.b) {
				if _, err := tc.again(tc.b[:n]); err == nil {
					t.Fatalf("%s: %d bytes of %d were taken", name, n, len(tc.b))
				}
			}
		}
		if _, err := tc.again(make([]byte, MaxSealed+1024)); err == nil {
			t.Errorf("%s: too long, and taken", name)
		}
	}
}

func mailboxOf(t testing.TB, d *device) Mailbox {
	t.Helper()
	m := Mailbox{Chain: testChain, Account: d.account.Public(), Seq: 4, Expiry: testNow + 10, Relays: []top.NodeID{{1}, {2}}, Devices: []Device{{d.cert, d.last}}}
	ok(t, m.Sign(d.account.Signer()))
	return m
}

func TestMailboxRefusals(t *testing.T) {
	bob, eve := newDevice(t, 2, 2), newDevice(t, 3, 3)
	good := mailboxOf(t, bob)
	ok(t, good.Verify(testChain, testNow))
	is(t, good.Verify(testChain, testNow+10), top.ErrDenied)
	is(t, good.Verify(top.ChainID{8}, testNow), top.ErrDenied)
	for name, change := range map[string]func(*Mailbox){
		"another's device":      func(m *Mailbox) { m.Devices[0] = Device{eve.cert, eve.last} },
		"another's last resort": func(m *Mailbox) { m.Devices[0].LastResort = eve.last },
		"a one-time prekey":     func(m *Mailbox) { m.Devices[0].LastResort = bob.prekey(t, 9) },
		"a swapped key":         func(m *Mailbox) { m.Devices[0].LastResort.Public = eve.last.Public },
		"no relay":              func(m *Mailbox) { m.Relays = nil },
		"no device":             func(m *Mailbox) { m.Devices = nil },
	} {
		m := mailboxOf(t, bob)
		change(&m)
		if m.Verify(testChain, testNow) == nil {
			t.Errorf("%s, not signed: holds", name)
		}
		ok(t, m.Sign(bob.account.Signer()))
		if m.Verify(testChain, testNow) == nil {
			t.Errorf("%s: holds", name)
		}
	}
	if good.Digest() == mailboxOf(t, eve).Digest() {
		t.Error("two records have one digest")
	}
}

func TestChunks(t *testing.T) {
	key, file := [32]byte{1}, [16]byte{2}
	for _, n := range []int{0, 1, 1000, Unit, ChunkData - 1, ChunkData} {
		data := bytes.Repeat([]byte{0xab}, n)
		s := SealChunk(key, file, 7, data)
		id, k, size := ChunkOf(key, 7, 7*ChunkData+uint64(n))
		if id != s.ID || k != s.Key || size != len(s.Bytes) || len(s.Bytes) > MaxSealed {
			t.Errorf("%d bytes: named %s of %d, sealed %s of %d", n, id.Short(), size, s.ID.Short(), len(s.Bytes))
		}
		f, i, is := IsChunk(s.Bytes)
		got, id2, k2, err := OpenChunk(key, s.Bytes)
		ok(t, err)
		if !bytes.Equal(got, data) || f != file || i != 7 || !is || id2 != id || k2 != k {
			t.Errorf("%d bytes come back as %d", n, len(got))
		}
	}
	if len(SealChunk(key, file, 0, make([]byte, ChunkData)).Bytes) != MaxSealed {
		t.Error("a whole chunk is not the longest sealed part")
	}
	_, _, _, err := OpenChunk([32]byte{9}, SealChunk(key, file, 0, []byte("x")).Bytes)
	is(t, err, top.ErrDenied)
}

// Messages are sent to two devices, lost, delayed, repeated, and conversations
// reopened: each device opens each that reaches it once.
func TestWalk(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	alice := newDevice(t, 1, 1)
	to := []*device{newDevice(t, 2, 2), newDevice(t, 2, 3)}
	talks := []*Outgoing{alice.begin(t, to[0].last), alice.begin(t, to[1].last)}
	type sent struct {
		bytes []byte
		text  string
	}
	var flying []sent
	opened := []map[string]bool{{}, {}}
	for n := range 1500 {
		if rnd.IntN(60) == 0 {
			i := rnd.IntN(2)
			talks[i] = alice.begin(t, to[i].prekey(t, uint64(n+1)))
		}
		for i, o := range talks { // over the disk
			var again Outgoing
			ok(t, again.Decode(o.Encode()))
			talks[i] = &again
		}
		text := fmt.Sprint("message ", n)
		flying = append(flying, sent{alice.seal(t, talks, text).Bytes, text})
		for len(flying) > rnd.IntN(40) {
			i := rnd.IntN(len(flying))
			m := flying[i]
			if rnd.IntN(4) > 0 {
				flying = append(flying[:i], flying[i+1:]...) // else it comes again
			}
			for j, d := range to {
				if rnd.IntN(20) == 0 {
					continue // lost
				}
				o, err := d.open(m.bytes, true)
				if opened[j][m.text] != (err != nil) {
					t.Fatalf("step %d: %q, opened before: %v, now: %v", n, m.text, opened[j][m.text], err)
				}
				if err == nil && string(o.Payloads[0]) != m.text {
					t.Fatalf("%q became %q", m.text, o.Payloads[0])
				}
				opened[j][m.text] = true
			}
		}
	}
	if len(opened[0]) < 1200 || len(opened[1]) < 1200 {
		t.Errorf("%d and %d opened", len(opened[0]), len(opened[1]))
	}
}

func FuzzOpen(f *testing.F) {
	alice, bob := newDevice(f, 1, 1), newDevice(f, 2, 2)
	f.Add(alice.seal(f, []*Outgoing{alice.begin(f, bob.last)}, "seed").Bytes)
	f.Add(SealChunk([32]byte{1}, [16]byte{2}, 3, []byte("data")).Bytes)
	f.Fuzz(func(t *testing.T, b []byte) {
		bob.open(b, false)
		OpenChunk([32]byte{1}, b)
	})
}

func FuzzMailbox(f *testing.F) {
	f.Add(mailboxOf(f, newDevice(f, 2, 2)).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		var m, again Mailbox
		if m.Decode(b) != nil {
			return
		}
		if !bytes.Equal(m.Encode(), b) {
			t.Fatal("accepted, and written another way")
		}
		if err := again.Decode(m.Encode()); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzEnvelope(f *testing.F) {
	f.Add(Envelope{Header: Header{To: 3, Count: 1}, Sealed: []byte{1}}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		var v Envelope
		if v.Decode(b) == nil && !bytes.Equal(v.Encode(), b) {
			t.Fatal("accepted, and written another way")
		}
	})
}

func BenchmarkSealOpen(b *testing.B) {
	alice, bob := newDevice(b, 1, 1), newDevice(b, 2, 2)
	o := alice.begin(b, bob.last)
	bob.open(alice.seal(b, []*Outgoing{o}, "x").Bytes, true)
	o.Established()
	for b.Loop() {
		if _, err := bob.open(alice.seal(b, []*Outgoing{o}, "a message of some length, as people write").Bytes, true); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkChunk(b *testing.B) {
	data := make([]byte, ChunkData)
	b.SetBytes(ChunkData)
	for b.Loop() {
		s := SealChunk([32]byte{1}, [16]byte{2}, 0, data)
		if _, _, _, err := OpenChunk([32]byte{1}, s.Bytes); err != nil {
			b.Fatal(err)
		}
	}
}
