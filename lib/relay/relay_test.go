package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"top/lib/api"
	"top/lib/envelope"
	"top/lib/home"
	"top/lib/keys"
	"top/lib/receipt"
	"top/lib/session"
	"top/lib/top"
	"top/lib/wire"
)

const big = 2*envelope.ChunkData + 12_345 // bytes of a file of three chunks

func TestM1_AMessageReachesTheReaderOnce(t *testing.T) {
	w := newWorld(t)
	r1, r2 := w.relay("r1"), w.relay("r2")
	bob := w.user("bob", r1, r2)
	alice := w.user("alice", r1, r2)
	bob.knows(alice)
	body := strings.Repeat("x", big)
	alice.sent(bob, "online", "hello", "delivered")
	bob.stop() // offline from here on
	alice.sent(bob, "offline", "for later", "stored")
	alice.sent(bob, "file", body, "stored")
	if r, err := alice.send(bob, "offline", "something else", "stored"); err != nil || r.Seq != 2 {
		t.Errorf("the same id again: %+v, %v", r, err)
	}
	alice.stop()
	r1.stop()
	r1.start().register()
	bob.start()
	got := bob.inbox(3)
	if got["online"] != "hello" || got["offline"] != "for later" || got["file"] != body {
		t.Errorf("bob has %d of %d", len(got["file"]), len(body))
	}
	alice.start()
	for _, id := range []string{"online", "offline", "file"} {
		alice.sent(bob, id, "", "delivered")
	}
	bob.inbox(3)
}

func TestM1_EmptyLinesAndManyLines(t *testing.T) {
	w := newWorld(t)
	r := w.relay("r")
	bob, alice := w.user("bob", r), w.user("alice", r)
	bob.knows(alice)
	alice.sent(bob, "nothing", "", "delivered")
	lines := strings.Repeat("a line\n", 700)
	var last api.Message
	must(t, alice.api.Send(t.Context(), api.SendRequest{ID: "log", To: bob.address(), Lines: true, Wait: "delivered"}, strings.NewReader(lines), func(m api.Message) error {
		last = m
		return nil
	}))
	got := bob.inbox(701)
	if got["nothing"] != "" || got["log"] != "a line" || got["log.1"] != "a line" || last.State != "delivered" {
		t.Errorf("%q, %q, %s", got["log"], got["log.1"], last.State)
	}
}

func TestM2_StatesAreSigned(t *testing.T) {
	w := newWorld(t)
	r := w.relay("r")
	bob, alice := w.user("bob", r), w.user("alice", r)
	bob.knows(alice)
	alice.sent(bob, "one", "text", "delivered")
	m := bob.box("inbox")[0]
	must(t, bob.api.Read(t.Context(), []string{m.ID}))
	alice.sent(bob, "one", "", "read")
	// Marks of others, changed ones, and those that a relay may not make, are refused.
	l := alice.d.agent.links[r.id()]
	p := alice.d.agent.parcel(1)
	p.State = placed
	cert := bob.d.cert
	good := mark{State: stored, Channel: p.Channel, IDs: []top.ID{p.ID}, Node: r.id()}
	must(t, good.sign(w.chain, r.node.Signer()))
	byBob := mark{State: read, Channel: p.Channel, IDs: []top.ID{p.ID}, Cert: &cert}
	must(t, byBob.sign(w.chain, bob.d.device.Signer()))
	for name, tc := range map[string]struct {
		kind byte
		m    mark
		sign keys.Private
	}{
		"changed":              {fStored, func() mark { x := good; x.State = expired; return x }(), keys.Private{}},
		"of another node":      {fStored, func() mark { x := good; x.Node = alice.id(); return x }(), alice.node},
		"a relay says read":    {fStored, func() mark { x := good; x.State = read; return x }(), r.node},
		"a device says stored": {fMarked, func() mark { x := byBob; x.State = stored; return x }(), bob.d.device},
		"of a node, as bob's":  {fMarked, good, r.node},
		"of another device":    {fMarked, byBob, alice.d.device},
	} {
		if name != "changed" {
			must(t, tc.m.sign(w.chain, tc.sign.Signer()))
		}
		if err := alice.d.agent.marked(l, tc.kind, tc.m.encode()); err == nil {
			t.Errorf("a mark %s was taken", name)
		}
	}
	must(t, alice.d.agent.marked(l, fStored, good.encode()))
}

func TestM3_StoredIsOnDisk(t *testing.T) {
	w := newWorld(t)
	r := w.relay("r")
	bob, alice := w.user("bob", r), w.user("alice", r)
	bob.stop()
	alice.sent(bob, "one", "text", "stored")
	alice.sent(bob, "two", strings.Repeat("y", 100_000), "stored")
	r.stop()
	db, err := openStore(r.home.Path("relay"))
	must(t, err)
	defer db.close()
	n := 0
	must(t, each(db.db, key('Q'), key('Q'), func(k, v []byte) (bool, error) {
		m, err := decodeParcel(k, v)
		must(t, err)
		if m.isBlob() {
			b, err := db.blob(m.blobName())
			must(t, err)
			if len(b) != m.size {
				t.Errorf("%d bytes of %d", len(b), m.size)
			}
		}
		n++
		return true, nil
	}))
	if n != 3 { // a text, a file's bundle and its chunk
		t.Errorf("%d envelopes on the disk", n)
	}
}

func TestM4_ConversationsStepOnDiskFirst(t *testing.T) {
	w := newWorld(t)
	r := w.relay("r")
	bob, alice := w.user("bob", r), w.user("alice", r)
	seen := map[string]bool{}
	for i := range 5 {
		alice.sent(bob, string(rune('a'+i)), "text", "delivered")
		raw, err := get(alice.d.db.db, key('o', append(bytes.Clone(ptr(bob.address())), ptr(bob.d.cert.Key)...)))
		must(t, err)
		var o envelope.Outgoing
		must(t, o.Decode(raw))
		if int(o.Next) != i+1 || seen[string(raw)] {
			t.Fatalf("after message %d the conversation on disk is at %d", i+1, o.Next)
		}
		seen[string(raw)] = true
	}
}

func ptr[T ~[32]byte](v T) []byte { return v[:] }

func TestM5_ARelayHoldsCiphertext(t *testing.T) {
	w := newWorld(t)
	r := w.relay("r")
	bob, alice := w.user("bob", r), w.user("alice", r)
	bob.stop()
	canary := "canary-" + strings.Repeat("7c1f0e", 5)
	must(t, alice.api.Send(t.Context(), api.SendRequest{To: bob.address(), Name: canary, Wait: "stored"}, strings.NewReader(strings.Repeat(canary, 5000)), func(api.Message) error { return nil }))
	alice.sent(bob, "short", canary, "stored")
	r.stop()
	files := 0
	must(t, filepath.WalkDir(string(r.home), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(canary)) {
			t.Errorf("%s has the text", path)
		}
		files++
		return err
	}))
	if files < 5 {
		t.Fatalf("%d files were looked at", files)
	}
}

func TestM6_ADuplicateIsNotPaid(t *testing.T) {
	w := newWorld(t)
	r1, r2 := w.relay("r1"), w.relay("r2")
	bob, alice := w.user("bob", r1, r2), w.user("alice", r1, r2)
	bob.knows(alice)
	bob.stop()
	alice.sent(bob, "one", "text", "stored")
	// The relay does not answer: the message goes to the other as well.
	r1.stop()
	alice.until("at the other relay", func() bool {
		m := alice.box("sent")[0]
		return m.Relay != nil && *m.Relay == r2.id() && m.State == "stored"
	})
	bob.start()
	bob.inbox(1)
	alice.sent(bob, "one", "", "delivered")
	// The first comes back and hands it over too.
	r1.start().register()
	bob.until("connected to both", func() bool {
		s, err := bob.api.Status(t.Context())
		up := 0
		for _, l := range s.Relays {
			if l.Connected && l.Receives {
				up++
			}
		}
		return err == nil && up == 2
	})
	alice.until("told that the first is done", func() bool {
		r1.d.provider.mu.Lock()
		defer r1.d.provider.mu.Unlock()
		return r1.d.provider.stats.Messages == 0
	})
	bob.inbox(1)
	if h := r1.d.provider.held(); h.Earned != 0 {
		t.Errorf("the relay that came late earned %s", h.Earned)
	}
	if h := r2.d.provider.held(); h.Earned == 0 {
		t.Error("the relay that delivered earned nothing")
	}
}

func TestM7_StrangersAreBounded(t *testing.T) {
	w := newWorld(t)
	r := w.relay("r")
	bob, alice := w.user("bob", r), w.user("alice", r)
	p := r.d.provider
	// A mailbox costs an account.
	nobody, err := keys.Generate(bytes.NewReader(bytes.Repeat([]byte{5}, 64)))
	must(t, err)
	m := *bob.d.agent.mailbox()
	m.Account = nobody.Public()
	for i := range m.Devices {
		c := &m.Devices[i].Cert
		c.Account = nobody.Public()
		must(t, c.Sign(nobody.Signer()))
		m.Devices[i].LastResort.Account = nobody.Public()
		must(t, m.Devices[i].LastResort.Sign(w.chain, bob.d.device.Signer()))
	}
	must(t, m.Sign(nobody.Signer()))
	if err := p.publish(t.Context(), m.Encode()); !errors.Is(err, top.ErrDenied) {
		t.Errorf("a mailbox for nothing: %v", err)
	}
	// What the relay holds is bounded.
	p.mu.Lock()
	p.quota = 1
	p.stats.Bytes = 2
	p.mu.Unlock()
	bob.stop()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var last api.Message
	err = alice.api.Send(ctx, api.SendRequest{To: bob.address(), Wait: "stored"}, strings.NewReader("x"), func(m api.Message) error { last = m; return nil })
	if err == nil && last.State == "stored" {
		t.Error("a full relay took a message")
	}
	p.mu.Lock()
	p.quota, p.stats.Bytes = 1<<30, 0
	p.mu.Unlock()
	// Questions have a rate.
	g := &guest{p: p}
	var e wire.Encoder
	e.Raw(ptr(bob.address()))
	busy := 0
	for range 3 * maxLookups {
		if _, _, err := g.request(t.Context(), fLookup, e.Out()); errors.Is(err, top.ErrBusy) {
			busy++
		}
	}
	if busy == 0 {
		t.Error("questions have no rate")
	}
	// What is not paid is not taken.
	c := envelope.Envelope{Header: envelope.Header{Chain: w.chain, Channel: top.ID{9}, Recipient: bob.address(), To: 5, Count: 1}}
	if err := p.take(nil, c); !errors.Is(err, top.ErrNotFound) {
		t.Errorf("a message on no channel: %v", err)
	}
}

func TestM7_MalformedFramesEndTheConnection(t *testing.T) {
	w := newWorld(t)
	r := w.relay("r")
	alice, bob := w.user("alice", r), w.user("bob", r)
	for name, b := range map[string][]byte{
		"too long":        {0xff, 0xff, 0xff, 0xff, 'l'},
		"empty":           {0, 0, 0, 0},
		"no such kind":    frame('z', []byte("x")),
		"half a number":   frame(fLookup, []byte{0xff}),
		"no envelope":     frame(fSend, []byte("nonsense")),
		"no voucher":      frame(fVoucher, []byte{1, 2, 3}),
		"ack of nobody":   frame(fAck, session.Ack{}.Encode()),
		"skip of nobody":  frame(fSkip, []byte{0}),
		"a relay's frame": frame(fHand, []byte("x")),
	} {
		conn, err := alice.d.dial(t.Context(), r.d.host.Addrs())
		must(t, err)
		s := newStream(conn)
		if k, _, err := s.next(); err != nil || k != fChallenge {
			t.Fatalf("%s: %c, %v", name, k, err)
		}
		must(t, s.put(t.Context(), b))
		if _, _, err := s.next(); err == nil {
			t.Errorf("%s: the relay answered", name)
		}
		s.close(nil)
	}
	alice.sent(bob, "still", "there", "delivered")
}

func TestM8_StrangersWaitAndTheBlockedAreRefused(t *testing.T) {
	w := newWorld(t)
	r := w.relay("r")
	bob, eve := w.user("bob", r), w.user("eve", r)
	eve.sent(bob, "spam", "buy this", "delivered")
	if got := bob.box("inbox"); len(got) != 0 {
		t.Errorf("a stranger is in the inbox: %+v", got)
	}
	if got := bob.box("requests"); len(got) != 1 || got[0].State != "request" {
		t.Fatalf("requests: %+v", got)
	}
	// A file of a stranger waits where it is.
	eve.sent(bob, "file", strings.Repeat("z", 200_000), "stored")
	_, err := bob.api.Judge(t.Context(), eve.address(), "allowed")
	must(t, err)
	if got := bob.inbox(2); got["spam"] != "buy this" || len(got["file"]) != 200_000 {
		t.Errorf("after allow: %d bytes", len(got["file"]))
	}
	_, err = bob.api.Judge(t.Context(), eve.address(), "blocked")
	must(t, err)
	if m, err := eve.send(bob, "again", "buy more", "delivered"); err != nil || m.State != "refused" {
		t.Errorf("%+v, %v", m, err)
	}
	bob.inbox(2)
}

func TestSenderThatDoesNotPay(t *testing.T) {
	w := newWorld(t)
	r := w.relay("r")
	bob, alice := w.user("bob", r), w.user("alice", r)
	w.mu.Lock()
	w.broke = true
	w.mu.Unlock()
	m, err := alice.send(bob, "one", "text", "stored")
	if err != nil || m.State != "failed" || !strings.Contains(m.Error, "budget") {
		t.Errorf("%+v, %v", m, err)
	}
	if h := r.d.provider.held(); h.Messages != 0 {
		t.Error("the relay took what nobody pays")
	}
	var q api.SendRequest
	q.To, q.MaxSpend, q.Wait = bob.address(), 1, "stored"
	w.mu.Lock()
	w.broke = false
	w.mu.Unlock()
	must(t, alice.api.Send(t.Context(), q, strings.NewReader("x"), func(r api.Message) error { m = r; return nil }))
	if m.State != "failed" || !strings.Contains(m.Error, "max-spend") {
		t.Errorf("%+v", m)
	}
}

func TestSwappedAndOldRecords(t *testing.T) {
	w := newWorld(t)
	r := w.relay("r")
	bob, alice, eve := w.user("bob", r), w.user("alice", r), w.user("eve", r)
	old := *bob.d.agent.mailbox()
	swap := func(m envelope.Mailbox) {
		raw := m.Encode()
		must(t, r.d.db.db.Set(key('M', ptr(bob.address())), raw, nil))
		alice.d.agent.forgetRecord(bob.address())
	}
	// The relay shows Eve's record for Bob, and one with Eve's key in it.
	swap(*eve.d.agent.mailbox())
	if _, err := alice.d.agent.lookup(t.Context(), bob.address()); !errors.Is(err, top.ErrDenied) {
		t.Errorf("another's record: %v", err)
	}
	forged := old
	forged.Devices = []envelope.Device{eve.d.agent.mailbox().Devices[0]}
	swap(forged)
	if _, err := alice.d.agent.lookup(t.Context(), bob.address()); !errors.Is(err, top.ErrDenied) {
		t.Errorf("a forged record: %v", err)
	}
	// It shows one that Bob signed once.
	w.mu.Lock()
	a := w.accounts[bob.address()]
	a.Mailbox, a.MailboxSeq = top.ID{1}, a.MailboxSeq+1
	w.accounts[bob.address()] = a
	w.mu.Unlock()
	swap(old)
	if _, err := alice.d.agent.lookup(t.Context(), bob.address()); !errors.Is(err, top.ErrDenied) {
		t.Errorf("an old record: %v", err)
	}
	nobody := top.Address{42}
	if _, err := alice.d.agent.lookup(t.Context(), nobody); !errors.Is(err, top.ErrNotFound) || !strings.Contains(err.Error(), "top-relay serve") {
		t.Errorf("nobody: %v", err)
	}
}

func TestSeveralDevices(t *testing.T) {
	w := newWorld(t)
	r := w.relay("r")
	phone, alice := w.user("phone", r), w.user("alice", r)
	laptop := w.member("laptop", phone.cfg)
	laptop.account = phone.account
	laptop.start().published()
	phone.knows(alice)
	laptop.knows(alice)
	alice.until("both devices known", func() bool {
		alice.d.agent.forgetRecord(phone.address())
		m, err := alice.d.agent.lookup(t.Context(), phone.address())
		return err == nil && len(m.Devices) == 2
	})
	alice.sent(phone, "both", "hello", "delivered")
	if phone.inbox(1)["both"] != "hello" || laptop.inbox(1)["both"] != "hello" {
		t.Error("a device lacks the message")
	}
	h := r.d.provider.held()
	if h.Earned != 2000 { // one unit at 1,000 nano, held for a day
		t.Errorf("earned %s for one message to two devices", h.Earned)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(mark{State: read}.encode())
	f.Add(answer{ref: 3, err: top.ErrBusy, body: []byte("x")}.encode())
	f.Add((&outMessage{ID: "a", Body: []byte("x"), Size: 1}).payload())
	f.Fuzz(func(t *testing.T, b []byte) {
		var m mark
		if m.decode(b) == nil && !bytes.Equal(m.encode(), b) {
			t.Error("a mark is written another way")
		}
		new(answer).decode(b)
		new(payload).decode(b)
		new(resumed).decode(b)
		new(envelope.Envelope).Decode(b)
	})
}

// What waits in memory for a recipient who is here is not called stored, and a
// crash would have its sender send it again.
func TestM3_WhatLingersIsNotStored(t *testing.T) {
	w := newWorld(t)
	r := w.relay("r")
	bob, alice := w.user("bob", r), w.user("alice", r)
	bob.knows(alice)
	alice.sent(bob, "first", "text", "delivered")
	p := r.d.provider
	r.still.Store(time.Now().UnixNano()) // what lingers goes on to
	bob.d.agent.intake.Lock()            // bob takes nothing
	alice.sent(bob, "file", strings.Repeat("z", 200_000), "queued")
	var m *parcel
	r.until("lingering", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.work.parcels) > 0 {
			m = p.work.parcels[0]
		}
		return m != nil
	})
	must(t, p.commit())
	p.mu.Lock()
	c := p.carries[m.head.Channel]
	if m.stored || c.c.Taken(bob.address()) <= m.head.From {
		t.Errorf("stored %t, taken up to %s", m.stored, c.c.Taken(bob.address()))
	}
	p.mu.Unlock()
	var st carryState
	_, err := load(p.db.db, key('C', m.head.Channel[:]), &st)
	must(t, err)
	for _, l := range st.State.Lines {
		if l.Recipient == bob.address() && l.Taken > m.head.From {
			t.Errorf("on disk it is taken up to %s", l.Taken)
		}
	}
	if got := alice.box("sent"); got[len(got)-1].State != "queued" {
		t.Errorf("its sender is told that it is %s", got[len(got)-1].State)
	}
	bob.d.agent.intake.Unlock()
	alice.sent(bob, "file", "", "delivered")
	bob.inbox(2)
}

// An envelope goes out behind the voucher that promises it, also while vouchers are
// renewed: a relay that is paid in time refuses nothing.
func TestV1_NoEnvelopeBeforeItsVoucher(t *testing.T) {
	w := newWorld(t)
	r := w.relay("r")
	bob, alice := w.user("bob", r), w.user("alice", r)
	bob.knows(alice)
	body := strings.Repeat("a message of forty bytes, more or less..\n", 5000)
	for i := range 5 {
		alice.deliver(bob, fmt.Sprintf("lines-%d", i), true, strings.NewReader(body))
	}
	if n := alice.warnings.Load(); n > 0 {
		t.Errorf("%d warnings: the relay refused something", n)
	}
}

// A file of receipts stays short while it is written, and keeps the newest of each
// session.
func TestReceiptsStayShort(t *testing.T) {
	w := newWorld(t)
	r := w.relay("r")
	bob, alice, carol := w.user("bob", r), w.user("alice", r), w.user("carol", r)
	alice.sent(bob, "one", "text", "delivered")
	carol.sent(bob, "one", "text", "delivered")
	p := r.d.provider
	newest := func() map[top.SessionID]top.Count {
		all := map[top.SessionID]top.Count{}
		must(t, home.EachLine(p.receipts.Path(), func(line []byte) error {
			var rec receipt.Record
			must(t, json.Unmarshal(line, &rec))
			all[rec.Session] = rec.Units
			return nil
		}))
		return all
	}
	r.until("two receipts", func() bool { return len(newest()) == 2 })
	want := newest()
	for range 3 {
		p.mu.Lock()
		for _, c := range p.carries {
			c.unsaid = true
		}
		p.mu.Unlock()
		must(t, p.sayReceipts())
		must(t, p.receipts.Cut())
	}
	got := newest()
	for session, units := range want { // an answer of alice's may have been paid meanwhile
		if got[session] < units {
			t.Errorf("%d units, before %d", got[session], units)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%v, before %v", got, want)
	}
	n := 0
	must(t, home.EachLine(p.receipts.Path(), func([]byte) error { n++; return nil }))
	if n != 2 {
		t.Errorf("%d lines", n)
	}
	alice.sent(bob, "two", "text", "delivered")
	r.until("a newer receipt", func() bool { return !maps.Equal(newest(), want) })
}
