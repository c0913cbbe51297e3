package wallet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"top/lib/api"
	"top/lib/home"
	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/session"
	"top/lib/settle"
	"top/lib/top"
)

func contains(err error, s string) bool { return err != nil && strings.Contains(err.Error(), s) }

func stranger(n byte) top.Address { return keys.FromSeed([32]byte{n, 77}).Public() }

func TestW1_OneWishOneEffect(t *testing.T) {
	b := newBench(t)
	to := stranger(1)
	first := b.pay("rent", to, top.One)
	again, err := b.Spend(t.Context(), api.Spend{ID: "rent", Kind: "transfer", To: to, Amount: top.One})
	if err != nil || !again.Repeated || *again.Tx != *first.Tx {
		t.Fatalf("%+v %v", again, err)
	}
	b.crash()
	again, err = b.Spend(t.Context(), api.Spend{ID: "rent", Kind: "transfer", To: to, Amount: top.One})
	if err != nil || !again.Repeated || *again.Tx != *first.Tx {
		t.Fatalf("after a crash: %+v %v", again, err)
	}
	_, err = b.Spend(t.Context(), api.Spend{ID: "rent", Kind: "transfer", To: to, Amount: 2 * top.One})
	wantKind(t, err, top.ErrInvalid, "used for another payment")
	_, err = b.Spend(t.Context(), api.Spend{ID: "no spaces", Kind: "transfer", To: to, Amount: 1})
	wantKind(t, err, top.ErrInvalid, "id")
	if got := b.f.balance(to); got != top.One-accountFee {
		t.Errorf("paid %s", got)
	}
}

func TestW1_AtOnce(t *testing.T) {
	b := newBench(t)
	to := stranger(2)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, err := b.Spend(t.Context(), api.Spend{ID: "same", Kind: "transfer", To: to, Amount: top.One})
			if err != nil && !errors.Is(err, top.ErrBusy) {
				t.Error(err)
			}
		})
	}
	for i := range 40 {
		wg.Go(func() {
			if _, err := b.Spend(t.Context(), api.Spend{ID: fmt.Sprint("n", i), Kind: "transfer", To: stranger(3), Amount: top.One}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := b.f.balance(to); got != top.One-accountFee {
		t.Errorf("paid %s", got)
	}
	if got := b.f.balance(stranger(3)); got != 40*top.One-accountFee {
		t.Errorf("paid %s of 40", got)
	}
}

func TestW1_APaymentThatNobodyWaitsForIsSeenThrough(t *testing.T) {
	b := newBench(t)
	b.f.set(func() { b.f.refuse = top.Errorf(top.Offline, "no peer") })
	_, err := b.Spend(t.Context(), api.Spend{ID: "later", Kind: "transfer", To: stranger(4), Amount: top.One})
	wantKind(t, err, top.ErrOffline, "will go out when the chain answers")
	b.crash()
	b.f.set(func() { b.f.refuse = nil })
	if ids := b.unattended(); len(ids) != 1 || ids[0] != "later" {
		t.Fatalf("on their way: %v", ids)
	}
	if err := b.pursue(t.Context(), "later"); err != nil {
		t.Fatal(err)
	}
	if err := b.pursue(t.Context(), "later"); err != nil {
		t.Fatal(err)
	}
	if got := b.f.balance(stranger(4)); got != top.One-accountFee {
		t.Errorf("paid %s", got)
	}
}

// payroll is a list of n payments to a few people.
func payroll(n int) (list []api.BatchRecord) {
	for i := range n {
		list = append(list, api.BatchRecord{Address: stranger(byte(100 + i%7)), Amount: top.Amount(1_000_000 + i)})
	}
	return list
}

func TestW1_ABatchIsPaidOnceOverCrashes(t *testing.T) {
	b := newBench(t)
	list := payroll(4*partPayments + 17)
	before := b.f.balance(b.address)
	q := api.BatchRequest{ID: "june", Payments: list}
	stopAt := errors.New("the reader left")
	err := b.Batch(t.Context(), q, func(v any) error {
		if _, ok := v.(api.BatchPart); ok {
			return stopAt
		}
		return nil
	})
	if !errors.Is(err, stopAt) {
		t.Fatal(err)
	}
	b.crash()
	// The same list under another name is refused, with the command that helps.
	err = b.Batch(t.Context(), api.BatchRequest{ID: "july", Payments: list}, func(any) error { return nil })
	wantKind(t, err, top.ErrBusy, "pay-batch --resume june")
	var last api.Batch
	keep := func(v any) error {
		if r, ok := v.(api.Batch); ok {
			last = r
		}
		return nil
	}
	if err := b.ResumeBatch(t.Context(), "june", keep); err != nil {
		t.Fatal(err)
	}
	if err := b.ResumeBatch(t.Context(), "june", keep); err != nil {
		t.Fatal(err)
	}
	if last.State != "final" || last.Done != 5 || last.Paid != sum(list) {
		t.Errorf("%+v", last)
	}
	if got, want := before-b.f.balance(b.address), sum(list)+last.Fee; got != want {
		t.Errorf("the batch cost %s, want %s", got, want)
	}
	// Its end is known after a crash, and the list may be paid again, as another.
	b.crash()
	if err := b.Batch(t.Context(), api.BatchRequest{ID: "july", Payments: list}, keep); err != nil || last.ID != "july" || last.State != "final" {
		t.Errorf("%+v %v", last, err)
	}
	wantKind(t, b.Batch(t.Context(), api.BatchRequest{ID: "june", Payments: list[1:]}, keep), top.ErrInvalid, "another batch")
	// A plan that somebody changed is not paid.
	raw, err := os.ReadFile(b.planFile("june"))
	if err != nil {
		t.Fatal(err)
	}
	raw[5] ^= 1
	if err := os.WriteFile(b.planFile("june"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	wantKind(t, b.ResumeBatch(t.Context(), "june", keep), top.ErrInvalid, "was changed")
	wantKind(t, b.ResumeBatch(t.Context(), "may", keep), top.ErrNotFound, "no batch")
}

func TestW2_OnDiskBeforeItLeaves(t *testing.T) {
	b := newBench(t)
	checked := 0
	b.f.set(func() {
		b.f.seen = func(raw []byte) error {
			checked++
			for _, file := range []string{"journal.ndjson", "signed.ndjson"} {
				disk, err := os.ReadFile(b.dir.Path("wallet", file))
				if err != nil {
					return err
				}
				if id := ledger.ID(raw); !bytes.Contains(disk, []byte(id.String())) {
					return fmt.Errorf("transaction %s left and is not in %s", id, file)
				}
			}
			return nil
		}
	})
	b.pay("a", stranger(5), top.One)
	if err := b.Batch(t.Context(), api.BatchRequest{ID: "b", Payments: payroll(partPayments + 1)}, func(any) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if checked < 3 {
		t.Errorf("%d submits", checked)
	}
	// What cannot be written does not leave.
	b.journal.Close()
	before := checked
	if _, err := b.Spend(t.Context(), api.Spend{ID: "c", Kind: "transfer", To: stranger(5), Amount: top.One}); err == nil || checked != before {
		t.Errorf("%v, %d submits", err, checked-before)
	}
}

func TestW2_SignedAnewOnlyWhenDead(t *testing.T) {
	b := newBench(t)
	to := stranger(6)
	b.f.set(func() { b.f.drop = true })
	b.f.pass(0)
	wish := api.Spend{ID: "lost", Kind: "transfer", To: to, Amount: top.One, VoidMs: 1000}
	var lost []byte
	b.f.set(func() {
		b.f.seen = func(raw []byte) error {
			if lost == nil {
				lost = bytes.Clone(raw)
				b.f.s.Begin(b.f.s.Height()+1, b.f.s.Now()+5000)
			}
			return nil
		}
	})
	r, err := b.Spend(t.Context(), wish)
	if err != nil || r.State != "failed" || r.Error != string(top.Timeout) {
		t.Fatalf("a lost payment: %+v %v", r, err)
	}
	b.f.set(func() { b.f.drop, b.f.seen = false, nil })
	if r, err = b.Spend(t.Context(), wish); err != nil || r.State != "final" {
		t.Fatalf("wished again: %+v %v", r, err)
	}
	// The lost one turns up late, and is void.
	if _, err := b.f.client().Submit(t.Context(), lost); !errors.Is(err, top.ErrDenied) {
		t.Errorf("the lost one: %v", err)
	}
	if got := b.f.balance(to); got != top.One-accountFee {
		t.Errorf("paid %s", got)
	}
}

func TestW2_ARefusedPaymentKeepsItsNonce(t *testing.T) {
	b := newBench(t)
	to := stranger(7)
	var first []byte
	b.f.set(func() {
		b.f.refuse = top.Errorf(top.Denied, "not today")
		b.f.seen = func(raw []byte) error {
			if first == nil {
				first = bytes.Clone(raw)
			}
			return nil
		}
	})
	wish := api.Spend{ID: "twice", Kind: "transfer", To: to, Amount: top.One}
	if r, err := b.Spend(t.Context(), wish); err != nil || r.State != "failed" || r.Message != "not today" {
		t.Fatalf("%+v %v", r, err)
	}
	b.crash()
	b.f.pass(5 * time.Second) // so that the next try is another transaction
	b.f.set(func() { b.f.refuse = nil })
	if r, err := b.Spend(t.Context(), wish); err != nil || r.State != "final" || *r.Tx == ledger.ID(first) {
		t.Fatalf("%+v %v", r, err)
	}
	// Whoever kept the refused bytes cannot have them carried out as well.
	if _, err := b.f.client().Submit(t.Context(), first); !errors.Is(err, top.ErrDenied) && b.f.txs[ledger.ID(first)].OK {
		t.Errorf("both were carried out")
	}
	if got := b.f.balance(to); got != top.One-accountFee {
		t.Errorf("paid %s", got)
	}
}

func TestW2_ARefusedPaymentThatLandedIsNotRepeated(t *testing.T) {
	b := newBench(t)
	to := stranger(8)
	var first []byte
	b.f.set(func() {
		b.f.refuse = top.Errorf(top.Denied, "says the liar")
		b.f.seen = func(raw []byte) error { first = bytes.Clone(raw); return nil }
	})
	wish := api.Spend{ID: "liar", Kind: "transfer", To: to, Amount: top.One}
	if r, err := b.Spend(t.Context(), wish); err != nil || r.State != "failed" {
		t.Fatalf("%+v %v", r, err)
	}
	b.f.set(func() {
		b.f.refuse, b.f.seen = nil, nil
		if err := b.f.take(first); err != nil {
			t.Error(err)
		}
	})
	if r, err := b.Spend(t.Context(), wish); err != nil || r.State != "final" || *r.Tx != ledger.ID(first) {
		t.Errorf("%+v %v", r, err)
	}
	if got := b.f.balance(to); got != top.One-accountFee {
		t.Errorf("paid %s", got)
	}
}

// open opens a channel to the provider.
func (b *bench) open(limit top.Amount, service string) (top.ID, error) {
	r, err := b.Spend(b.t.Context(), api.Spend{Kind: "open", To: providerKey.Public(), Amount: limit, LastsMs: 3_600_000, Service: service})
	if err != nil || r.State != "final" {
		return top.ID{}, err
	}
	return *r.Channel, nil
}

// voucher asks for the signature of a voucher that exposes an amount.
func (b *bench) voucher(ch top.ID, seq uint64, exposes top.Amount, change ...func(*api.SignRequest, *session.Voucher)) error {
	v := session.Voucher{Chain: top.ChainID{5}, Channel: ch, Seq: seq, Amount: exposes - 10, Anchors: []session.Anchor{{Price: 1, N: 10}}}
	q := api.SignRequest{Service: "relay", Peer: nodeKey.Public()}
	for _, f := range change {
		f(&q, &v)
	}
	q.Body = v.Encode()
	a, err := b.signVoucher(b.t.Context(), q)
	if err != nil {
		return err
	}
	var signed session.Voucher
	if err := signed.Decode(a.Body); err != nil {
		return err
	}
	return signed.Verify(b.address)
}

func TestW3_Budgets(t *testing.T) {
	b := newBench(t)
	ch, err := b.open(100*top.One, "")
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, b.voucher(ch, 1, top.One), top.ErrDenied, "no budget for relay (allow it: top-wallet budget set --service relay --per-day AMOUNT)")
	set := func(perDay, perPeer top.Amount) {
		t.Helper()
		if err := b.budgets.set(api.Budget{Service: "relay", PerDay: perDay, PerPeer: perPeer}); err != nil {
			t.Fatal(err)
		}
	}
	set(10*top.One, 0)
	if err := b.voucher(ch, 1, 4*top.One); err != nil {
		t.Fatal(err)
	}
	// Charged by what is exposed more, not by each voucher anew.
	if err := b.voucher(ch, 2, 9*top.One); err != nil {
		t.Fatal(err)
	}
	wantKind(t, b.voucher(ch, 3, 10*top.One+1), top.ErrDenied, "--service relay --per-day 10.000000001)")
	// The same over a crash: the record knows.
	b.crash()
	wantKind(t, b.voucher(ch, 3, 10*top.One+1), top.ErrDenied, "allow it")
	if err := b.voucher(ch, 3, 10*top.One); err != nil {
		t.Fatal(err)
	}
	set(20*top.One, 11*top.One)
	wantKind(t, b.voucher(ch, 4, 12*top.One), top.ErrDenied, "--per-peer 12")
	// Any 24 hours: what was exposed before is free again.
	b.clock = b.clock.Add(day - time.Second)
	wantKind(t, b.voucher(ch, 4, 12*top.One), top.ErrDenied, "--per-peer 12")
	b.clock = b.clock.Add(time.Second)
	if err := b.voucher(ch, 4, 12*top.One); err != nil {
		t.Error(err)
	}
	set(1000*top.One, 0)
	wantKind(t, b.voucher(ch, 5, 100*top.One+1), top.ErrDenied, "the channel's cap is 100")
	for name, f := range map[string]func(*api.SignRequest, *session.Voucher){
		"another chain":   func(_ *api.SignRequest, v *session.Voucher) { v.Chain[0]++ },
		"no such channel": func(_ *api.SignRequest, v *session.Voucher) { v.Channel[0]++ },
		"another peer":    func(q *api.SignRequest, _ *session.Voucher) { q.Peer[0]++ },
		"another service": func(q *api.SignRequest, _ *session.Voucher) { q.Service = "vpn" },
	} {
		if err := b.voucher(ch, 9, 13*top.One, f); !errors.Is(err, top.ErrDenied) && !errors.Is(err, top.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := b.open(top.One, "vpn"); !errors.Is(err, top.ErrDenied) {
		t.Errorf("a channel for a service without a budget: %v", err)
	}
	set(50*top.One, 0)
	_, err = b.open(top.One, "relay")
	wantKind(t, err, top.ErrDenied, "--open-cap 101")
	// What another service locked is not counted.
	if err := b.budgets.set(api.Budget{Service: "vpn", PerDay: 2 * top.One}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.open(top.One, "vpn"); err != nil {
		t.Error(err)
	}
}

func TestW4_TheRecordComesFirst(t *testing.T) {
	b := newBench(t)
	ch, err := b.open(100*top.One, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.budgets.set(api.Budget{Service: "relay", PerDay: 10 * top.One}); err != nil {
		t.Fatal(err)
	}
	for n := range uint64(5) {
		if err := b.voucher(ch, n+1, top.Amount(n+1)*top.One); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(b.dir.Path("wallet", "signed.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(raw), []byte("\n"))
	if len(lines) != 6 {
		t.Fatalf("%d entries for a transaction and five vouchers", len(lines))
	}
	// A disk that takes no more: nothing is signed.
	b.record.log.Close()
	if err := b.voucher(ch, 6, 6*top.One); err == nil {
		t.Error("a voucher that is not on record was signed")
	}
	b.close()
	b.Agent = nil
	// Left out, changed, swapped, or of somebody else: the record is refused.
	for name, bad := range map[string][][]byte{
		"left out": {lines[0], lines[1], lines[3]},
		"swapped":  {lines[1], lines[0]},
		"changed":  {lines[0], bytes.Replace(lines[1], []byte(`"charged":"1000000000"`), []byte(`"charged":"1"`), 1)},
		"no JSON":  {lines[0], []byte("{")},
	} {
		if err := os.WriteFile(b.dir.Path("wallet", "signed.ndjson"), append(bytes.Join(bad, []byte("\n")), '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
		if a, err := New(Config{Home: b.dir, Key: aliceKey(t), Chain: b.f.client()}); err == nil {
			a.close()
			t.Errorf("a record with an entry %s is taken", name)
		}
	}
	var e api.SignedEntry
	if err := json.Unmarshal(lines[0], &e); err != nil {
		t.Fatal(err)
	}
	if err := CheckEntry(stranger(1), e, 0, top.ID{}); !errors.Is(err, top.ErrFailed) {
		t.Errorf("an entry of somebody else: %v", err)
	}
}

func TestW5_ABalanceIsProven(t *testing.T) {
	b := newBench(t)
	r, err := b.f.client().Account(t.Context(), b.address)
	if err != nil {
		t.Fatal(err)
	}
	r.Balance = 5 // what is said counts for nothing
	got, err := Prove(b.address, r)
	if err != nil || got.Balance != 1000*top.One || !got.Exists {
		t.Fatalf("%+v %v", got, err)
	}
	if _, err := Prove(stranger(1), r); !errors.Is(err, top.ErrFailed) {
		t.Errorf("the proof of another: %v", err)
	}
	forged := r
	forged.Proof = bytes.Clone(r.Proof)
	forged.Proof[len(forged.Proof)/2] ^= 1
	if _, err := Prove(b.address, forged); err == nil {
		t.Error("a forged proof")
	}
	other := r
	other.At.Root[0] ^= 1
	if _, err := Prove(b.address, other); !errors.Is(err, top.ErrFailed) {
		t.Errorf("another header: %v", err)
	}
}

func TestW6_NoNumberTwice(t *testing.T) {
	b := newBench(t)
	ch, err := b.open(100*top.One, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.budgets.set(api.Budget{Service: "relay", PerDay: 10 * top.One}); err != nil {
		t.Fatal(err)
	}
	if err := b.voucher(ch, 5, top.One); err != nil {
		t.Fatal(err)
	}
	if err := b.voucher(ch, 5, top.One); err != nil {
		t.Errorf("the same again: %v", err)
	}
	wantKind(t, b.voucher(ch, 5, 2*top.One), top.ErrDenied, "number 5 is signed already")
	wantKind(t, b.voucher(ch, 4, 2*top.One), top.ErrDenied, "number 5 is signed already")
	b.crash()
	wantKind(t, b.voucher(ch, 5, 2*top.One), top.ErrDenied, "number 5 is signed already")
	if seq := b.record.seq; seq != 2 {
		t.Errorf("%d entries: repeating one adds none", seq)
	}
}

// Many vouchers on one channel ask the chain once, and a channel that closed is refused
// a moment later.
func TestARowOfTheChainServesAMoment(t *testing.T) {
	b := newBench(t)
	ch, err := b.open(100*top.One, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.budgets.set(api.Budget{Service: "relay", PerDay: 10 * top.One}); err != nil {
		t.Fatal(err)
	}
	if err := b.voucher(ch, 1, top.One); err != nil {
		t.Fatal(err)
	}
	b.f.set(func() { b.f.stale = true }) // from now on the chain shows no such channel
	b.clock = b.clock.Add(rowFor - time.Nanosecond)
	if err := b.voucher(ch, 2, top.One); err != nil {
		t.Errorf("a moment later: %v", err)
	}
	wantKind(t, b.voucher(ch, 3, 101*top.One), top.ErrDenied, "the channel's cap is 100")
	b.clock = b.clock.Add(time.Nanosecond)
	wantKind(t, b.voucher(ch, 3, top.One), top.ErrNotFound, "there is no channel")
	b.f.set(func() { b.f.stale = false })
	if err := b.voucher(ch, 3, top.One); err != nil {
		t.Errorf("what is not there is not remembered: %v", err)
	}
	b.clock = b.clock.Add(-time.Hour)
	b.f.set(func() { b.f.stale = true })
	wantKind(t, b.voucher(ch, 4, top.One), top.ErrNotFound, "there is no channel")
}

func TestTicketsNeedABudgetAndAChannel(t *testing.T) {
	b := newBench(t)
	ch, err := b.open(top.One, "")
	if err != nil {
		t.Fatal(err)
	}
	ticket := session.Ticket{Chain: top.ChainID{5}, Channel: ch, Payer: b.address, Node: nodeKey.Public(), Service: "relay", Unit: "message", Price: 1, N: 5}
	ask := func(f func(*api.SignRequest, *session.Ticket)) error {
		k := ticket
		q := api.SignRequest{Service: "relay", Peer: nodeKey.Public()}
		f(&q, &k)
		q.Body = k.Encode()
		a, err := b.signTicket(t.Context(), q)
		if err != nil {
			return err
		}
		if err := k.Decode(a.Body); err != nil {
			return err
		}
		return k.VerifyPayer()
	}
	same := func(*api.SignRequest, *session.Ticket) {}
	wantKind(t, ask(same), top.ErrDenied, "no budget for relay")
	if err := b.budgets.set(api.Budget{Service: "relay", PerDay: top.One}); err != nil {
		t.Fatal(err)
	}
	if err := ask(same); err != nil {
		t.Error(err)
	}
	wantKind(t, ask(func(_ *api.SignRequest, k *session.Ticket) { k.Payer = stranger(1) }), top.ErrDenied, "of payer")
	wantKind(t, ask(func(_ *api.SignRequest, k *session.Ticket) { k.Node[0]++ }), top.ErrDenied, "another node")
	wantKind(t, ask(func(_ *api.SignRequest, k *session.Ticket) { k.Service = "vpn" }), top.ErrDenied, "the ticket is for vpn")
	wantKind(t, ask(func(_ *api.SignRequest, k *session.Ticket) { k.Chain[0]++ }), top.ErrDenied, "is for chain")
}

func TestPlanRefusals(t *testing.T) {
	b := newBench(t)
	before := b.f.balance(b.address)
	for name, tc := range map[string]struct {
		q    api.Spend
		kind error
		why  string
	}{
		"too much":            {api.Spend{Kind: "transfer", To: stranger(1), Amount: 1000 * top.One}, top.ErrDenied, "the balance is"},
		"nothing":             {api.Spend{Kind: "transfer", To: stranger(1)}, top.ErrDenied, "no account yet"},
		"dust":                {api.Spend{Kind: "transfer", To: stranger(1), Amount: 100_000}, top.ErrDenied, "making one costs"},
		"long memo":           {api.Spend{Kind: "transfer", To: b.address, Amount: 1, Memo: strings.Repeat("x", 65)}, top.ErrInvalid, "memo"},
		"unlock":              {api.Spend{Kind: "unlock", Amount: 1}, top.ErrDenied, "are locked"},
		"unknown":             {api.Spend{Kind: "mint", Amount: 1}, top.ErrInvalid, "no such kind"},
		"a sweep":             {api.Spend{Kind: "sweep", To: stranger(1)}, top.ErrInvalid, "payer keys alone"},
		"unregister":          {api.Spend{Kind: "unregister"}, top.ErrNotFound, "no node"},
		"register nothing":    {api.Spend{Kind: "register"}, top.ErrInvalid, "wants a node"},
		"open to nobody":      {api.Spend{Kind: "open", To: stranger(1), Amount: 1, LastsMs: 1e9}, top.ErrNotFound, "no account yet"},
		"open too short":      {api.Spend{Kind: "open", To: providerKey.Public(), Amount: 1, LastsMs: 9000}, top.ErrInvalid, "twice the deadline"},
		"close none":          {api.Spend{Kind: "close", Channel: top.ID{1}}, top.ErrNotFound, "no channel"},
		"good for ever":       {api.Spend{Kind: "lock", Amount: 1, VoidMs: 1 << 60}, top.ErrInvalid, "good for"},
		"nothing is locked":   {api.Spend{Kind: "lock"}, top.ErrInvalid, "nothing"},
		"a batch of millions": {api.Spend{Kind: "transfer", To: stranger(1), Amount: top.MaxSupply}, top.ErrDenied, "the balance is"},
	} {
		_, err := b.Spend(t.Context(), tc.q)
		if !errors.Is(err, tc.kind) || !contains(err, tc.why) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r, err := b.Spend(t.Context(), api.Spend{Kind: "transfer", To: stranger(1), Amount: top.One, DryRun: true})
	if err != nil || r.State != "dry-run" || !r.NewAccount || r.After != r.Balance-top.One-r.Fee {
		t.Errorf("%+v %v", r, err)
	}
	if b.f.balance(b.address) != before || len(b.f.tried) != 0 {
		t.Error("a refusal or a dry run cost something")
	}
}

func TestDryRunSaysWhatItCosts(t *testing.T) {
	b := newBench(t)
	dry, err := b.Spend(t.Context(), api.Spend{Kind: "transfer", To: stranger(9), Amount: top.One, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	done := b.pay("x", stranger(9), top.One)
	if done.Fee != dry.Fee || b.f.balance(b.address) != dry.After {
		t.Errorf("fee %s, said %s; left %s, said %s", done.Fee, dry.Fee, b.f.balance(b.address), dry.After)
	}
}

func TestWords(t *testing.T) {
	b := newBench(t)
	other := b.dir + "/again"
	pass := []byte("secret")
	id, err := Create(other, "  "+strings.ToUpper(aliceWords)+"\n", pass, bytes.NewReader(bytes.Repeat([]byte{7}, 100)))
	if err != nil || id.Address != b.address {
		t.Fatalf("%+v %v", id, err)
	}
	if k, err := Unlock(other, pass); err != nil || k.Public() != [32]byte(b.address) {
		t.Errorf("%v", err)
	}
	if _, err := Unlock(other, []byte("guess")); !errors.Is(err, top.ErrDenied) {
		t.Errorf("a wrong passphrase: %v", err)
	}
	if got, err := Load(other); err != nil || got != id {
		t.Errorf("%+v %v", got, err)
	}
	if n, err := home.NodeKey(other, ""); err != nil || n.Public() != [32]byte(id.Node) {
		t.Errorf("%v", err)
	}
	_, err = Create(other, aliceWords, pass, bytes.NewReader(make([]byte, 100)))
	wantKind(t, err, top.ErrBusy, "holds a wallet already")
	_, err = Create(b.dir+"/third", aliceWords+" about", pass, bytes.NewReader(nil))
	wantKind(t, err, top.ErrInvalid, "words")
	_, err = Create(b.dir+"/fourth", aliceWords, nil, bytes.NewReader(nil))
	wantKind(t, err, top.ErrUsage, "passphrase is empty")
	_, err = Load(b.dir + "/fifth")
	wantKind(t, err, top.ErrNotFound, "top-wallet new")
}

func TestMessages(t *testing.T) {
	k := aliceKey(t)
	s, err := SignMessage(k, top.ID{1})
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyMessage(s, top.ID{1}); err != nil {
		t.Error(err)
	}
	if err := VerifyMessage(s, top.ID{2}); !errors.Is(err, top.ErrFailed) {
		t.Errorf("other content: %v", err)
	}
	other := s
	other.Address = stranger(1)
	if err := VerifyMessage(other, top.ID{1}); !errors.Is(err, top.ErrFailed) {
		t.Errorf("another signer: %v", err)
	}
	// A signature of a text that is a transaction's bytes is no transaction's.
	if keys.Verify(k.Public(), "top/tx/1", top.ChainID{}, s.Digest[:], [64]byte(s.Sig)) {
		t.Error("a message signature is good for a transaction")
	}
}

func TestRehearsalOverTheWholeLife(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	defer func() {
		cancel()
		<-done
		b.Agent = nil
	}()
	agent := b.client()
	ch, err := b.open(2*top.One, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agent.SetBudget(t.Context(), api.Budget{Service: "relay", PerDay: 10 * top.One}); err != nil {
		t.Fatal(err)
	}
	r := Rehearsal{Chain: b.f.client(), Agent: agent, Node: nodeKey, Channel: ch, Service: "relay", Units: 700}
	first, err := r.Run(t.Context())
	if err != nil || first.LogSum != 700*top.One/1000 {
		t.Fatalf("%+v %v", first, err)
	}
	s := settle.Settler{Chain: b.f.client(), Node: nodeKey, Wait: time.Second}
	if got, err := s.Claim(t.Context(), first.Claim); err != nil || got.State != "paid" || got.Paid != first.LogSum {
		t.Fatalf("%+v %v", got, err)
	}
	if got, err := s.Claim(t.Context(), first.Claim); err != nil || got.State != "already" {
		t.Errorf("%+v %v", got, err)
	}
	r.Last, r.After, r.Units = &first.Claim, first.Claim.Voucher.Seq, 100
	second, err := r.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Close(t.Context(), ch, &second.Claim); err != nil || got.State != "closed" || got.Paid != second.LogSum {
		t.Errorf("%+v %v", got, err)
	}
	if got, err := s.Close(t.Context(), ch, nil); err != nil || got.State != "gone" {
		t.Errorf("%+v %v", got, err)
	}
	s.Node = providerKey
	if _, err := s.Claim(t.Context(), first.Claim); err != nil {
		t.Errorf("a claim on a closed channel: %v", err)
	}
}

// client speaks to the agent's own socket.
func (b *bench) client() *api.Wallet {
	path, err := b.dir.Sock("wallet")
	if err != nil {
		b.t.Fatal(err)
	}
	return api.NewWallet(dialSock(path))
}

func FuzzPlan(f *testing.F) {
	raw, _ := encodePlan(payroll(3))
	f.Add(raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := decodePlan(b)
		if err != nil {
			return
		}
		if again, _ := encodePlan(list); !bytes.Equal(again, b) {
			t.Fatalf("%x is read and written %x", b, again)
		}
	})
}

// A device is certified for 90 days at most, in the one role there is, and the
// agent's record says so before the signature leaves.
func TestW4_CertificatesAreBoundedAndRecorded(t *testing.T) {
	b := newBench(t)
	now := uint64(b.cfg.Now().Unix())
	key := nodeKey.Public()
	for name, tc := range map[string]struct {
		q    api.CertificateRequest
		kind error
		word string
	}{
		"another role":     {api.CertificateRequest{Role: "node", Key: key[:]}, top.ErrDenied, "devices only"},
		"no role":          {api.CertificateRequest{Key: key[:]}, top.ErrDenied, "devices only"},
		"a short key":      {api.CertificateRequest{Role: "device", Key: key[:31]}, top.ErrInvalid, "31 bytes"},
		"half a year":      {api.CertificateRequest{Role: "device", Key: key[:], Expiry: top.Count(now + 180*86400)}, top.ErrDenied, "90 days"},
		"one that is over": {api.CertificateRequest{Role: "device", Key: key[:], Expiry: top.Count(now)}, top.ErrInvalid, "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.certify(t.Context(), tc.q)
			wantKind(t, err, tc.kind, tc.word)
		})
	}
	before := b.record.seq
	r, err := b.certify(t.Context(), api.CertificateRequest{Role: "device", Key: key[:]})
	if err != nil {
		t.Fatal(err)
	}
	var c keys.Certificate
	if err := c.Decode(r.Body); err != nil {
		t.Fatal(err)
	}
	if err := c.Verify(c.Chain, "device", now); err != nil || c.Account != b.address || c.Key != key {
		t.Errorf("%+v: %v", c, err)
	}
	if b.record.seq != before+1 {
		t.Error("the record does not have it")
	}
}

// The agent signs a mailbox record of its own account only, and only as one.
func TestW4_MailboxRecordsAreOurs(t *testing.T) {
	b := newBench(t)
	other := stranger(1)
	_, err := b.signMailbox(t.Context(), append(other[:], 1, 2, 3))
	wantKind(t, err, top.ErrDenied, "not a mailbox record of")
	_, err = b.signMailbox(t.Context(), b.address[:31])
	wantKind(t, err, top.ErrDenied, "not a mailbox record of")
	_, err = b.signMailbox(t.Context(), append(b.address[:], make([]byte, maxMailbox)...))
	wantKind(t, err, top.ErrDenied, "not a mailbox record of")
	body := append(b.address[:], 1, 2, 3)
	r, err := b.signMailbox(t.Context(), body)
	if err != nil {
		t.Fatal(err)
	}
	p, err := b.chainParams(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Body) != 64 || !keys.Verify(b.address, mailboxDomain, p.Chain, body, [64]byte(r.Body)) {
		t.Error("it does not verify")
	}
	if keys.Verify(b.address, "top/tx/1", p.Chain, body, [64]byte(r.Body)) {
		t.Error("it verifies for another purpose")
	}
}
