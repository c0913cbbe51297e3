package ledger

import (
	"bytes"
	"encoding/json"
	"testing"

	"top/lib/keys"
	"top/lib/session"
	"top/lib/top"
)

// bodies is one of every kind.
func bodies() []Body {
	k := keys.FromSeed([32]byte{4})
	chain := session.NewHashChain([32]byte{1}, 10)
	claim := session.Claim{
		Voucher: session.Voucher{Seq: 3, Amount: 9, Anchors: []session.Anchor{{Price: 2, Root: chain.Root(), N: 10}}},
		Ticks:   []session.Tick{{I: 4, W: chain.At(4)}},
	}
	return []Body{
		&Transfer{To: To(300), Amount: 5, Memo: "rent"}, &Transfer{To: ToAddress(k.Public()), Amount: 1},
		&Batch{New: []top.Address{k.Public()}, Records: []Record{{0, 7}, {300, 1 << 40}}},
		&Lock{Amount: 1}, &Unlock{Amount: 2},
		&Register{Node: k.Public(), Name: "n", Addrs: []string{"/dns/example.org"}, Offers: []session.Offer{{Service: "vpn", Unit: "64KiB", Price: 3, Window: 8, Hold: []session.Hold{{Seconds: 60, Factor: 1}}}}, Capacity: 9, Stake: 1},
		&Unregister{}, &Open{Provider: 1, Cap: 5, Expiry: 1 << 33}, &Claim{Claim: claim},
		&Close{Channel: top.ID{1}}, &Close{Channel: top.ID{1}, Claim: &claim}, &Reclaim{Channel: top.ID{2}}, &Mailbox{Digest: top.ID{3}, Seq: 9},
		&Validator{ID: k.Public(), Name: "v", Commission: 500, Amount: 9}, &Delegate{To: k.Public(), Amount: 5}, &Undelegate{From: k.Public()},
		&Redelegate{From: k.Public(), To: top.ValidatorID{4}, Amount: 6}, &Unjail{ID: k.Public()}, &Propose{Name: "yield_ppm", Value: 7}, &Vote{Number: 300, Yes: true},
	}
}

func FuzzTx(f *testing.F) {
	for _, b := range bodies() {
		tx := Tx{Chain: top.ChainID{1}, From: 5, Nonce: 6, Expiry: 7, Body: b}
		f.Add(tx.Encode())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		tx, err := Decode(raw)
		if err != nil {
			return
		}
		if again := tx.Encode(); !bytes.Equal(again, raw) {
			t.Fatalf("%x was read and is written %x", raw, again)
		}
		// Whatever can be read can be applied, without a panic.
		s, err := New(Genesis{Params: DefaultParams(tx.Chain), Accounts: []GenesisAccount{{Address: tx.Key, Balance: top.One}}})
		if err != nil {
			t.Fatal(err)
		}
		s.Begin(1, 1000)
		s.Apply(tx, len(raw))
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestEveryKindReadsBack(t *testing.T) {
	seen := map[Kind]bool{}
	for _, b := range bodies() {
		raw := (&Tx{Chain: top.ChainID{1}, From: 5, Nonce: 6, Expiry: 7, Body: b}).Encode()
		tx, err := Decode(raw)
		if err != nil || !bytes.Equal(tx.Encode(), raw) {
			t.Errorf("%s: %v", b.Kind(), err)
		}
		seen[b.Kind()] = true
		for i := range raw {
			if _, err := Decode(raw[:i]); err == nil {
				t.Fatalf("%s: %d of %d bytes are read", b.Kind(), i, len(raw))
			}
		}
		if _, err := Decode(append(raw, 0)); err == nil {
			t.Errorf("%s: a byte too many is read", b.Kind())
		}
	}
	if len(seen) != len(KindNames()) {
		t.Errorf("%d of %d kinds", len(seen), len(KindNames()))
	}
}

// fuzzProof checks that a proof that can be read is written as it was.
func fuzzProof(f *testing.F, seeds [][]byte, read func([]byte) ([]byte, error)) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if again, err := read(raw); err == nil && !bytes.Equal(again, raw) {
			t.Fatalf("%x was read and is written %x", raw, again)
		}
	})
}

func small(f *testing.F) *State {
	s, err := New(Genesis{Params: DefaultParams(top.ChainID{1}), Accounts: []GenesisAccount{{Address: top.Address{1}, Balance: 5}, {Address: top.Address{2}}}})
	if err != nil {
		f.Fatal(err)
	}
	s.addChannel(&Channel{ID: top.ID{3}, Payer: 0, Provider: 1})
	s.putNode(&Node{ID: top.NodeID{4}, Owner: 1, Name: "n"})
	return s
}

func FuzzAccountProof(f *testing.F) {
	s := small(f)
	fuzzProof(f, [][]byte{s.ProveAccount(top.Address{1}).Encode(), s.ProveAccount(top.Address{9}).Encode()}, func(b []byte) ([]byte, error) {
		var p AccountProof
		if err := p.Decode(b); err != nil {
			return nil, err
		}
		p.Verify(s.Root())
		return p.Encode(), nil
	})
}

func FuzzChannelProof(f *testing.F) {
	s := small(f)
	fuzzProof(f, [][]byte{s.ProveChannel(top.ID{3}).Encode(), s.ProveChannel(top.ID{9}).Encode()}, func(b []byte) ([]byte, error) {
		var p ChannelProof
		if err := p.Decode(b); err != nil {
			return nil, err
		}
		p.Verify(s.Root())
		return p.Encode(), nil
	})
}

func FuzzNodeProof(f *testing.F) {
	s := small(f)
	fuzzProof(f, [][]byte{s.ProveNode(top.NodeID{4}).Encode(), s.ProveNode(top.NodeID{9}).Encode()}, func(b []byte) ([]byte, error) {
		var p NodeProof
		if err := p.Decode(b); err != nil {
			return nil, err
		}
		p.Verify(s.Root())
		return p.Encode(), nil
	})
}

func FuzzMetaProof(f *testing.F) {
	s := small(f)
	fuzzProof(f, [][]byte{s.ProveMeta().Encode()}, func(b []byte) ([]byte, error) {
		var p MetaProof
		if err := p.Decode(b); err != nil {
			return nil, err
		}
		p.Verify(s.Root())
		return p.Encode(), nil
	})
}

func FuzzSnapshot(f *testing.F) {
	s := small(f)
	fuzzProof(f, [][]byte{s.Encode()}, func(b []byte) ([]byte, error) {
		s, err := Load(b)
		if err != nil {
			return nil, err
		}
		return s.Encode(), nil
	})
}

func FuzzGenesis(f *testing.F) {
	f.Add([]byte(`{"params":{"chain":"top-0102030405060708","kinds":["lock"]},"accounts":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		g, err := ParseGenesis(raw)
		if err != nil {
			return
		}
		if _, err := New(g); err != nil {
			t.Fatalf("parsed and refused: %v", err)
		}
		again, err := json.Marshal(g)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseGenesis(again); err != nil {
			t.Fatalf("written and refused: %v", err)
		}
	})
}
